//! What an engine answers to demands, as a primary, and as a replica: its gate is closed, and what
//! is here stays.

use super::*;
use crate::base::limits::KEY_BYTES_MAX;
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::base::time::UnixSeconds;
use crate::engine::host::Nobody;
use crate::engine::{Attempt, Client, Context, Origin, Output, Settings, Switches, WorkerStats};
use crate::protocol::{Parsed, Protocol};
use crate::store::{Reign, Store, StoreConfig};

const NOW: UnixSeconds = UnixSeconds(1_700_000_000);
const MISS: &str = "EN y\r\n";

/// A client whose connection lets replicas answer.
struct Reader;

impl Client for Reader {
    fn origin(&self) -> Origin {
        Origin::Elsewhere
    }

    fn read_from(&self) -> ReadFrom {
        ReadFrom { replica: true, lag_milliseconds: Some(1000) }
    }
}

struct Server(Engine);

impl Server {
    fn new(forwards: bool) -> Server {
        let config =
            StoreConfig { memory_bytes: 1 << 20, item_bytes_max: 1024, shards: Some(2), ..StoreConfig::default() };
        let settings = Settings { item_bytes_max: 1024, workers: 1, rows: Vec::new() };
        let engine = Engine::new(Store::new(config).expect("a small store"), settings);
        Server(engine.with_switches(Switches { forwards, ..Switches::default() }))
    }

    fn try_as(&self, client: &dyn Client, line: &str, attempt: Attempt) -> (Outcome, String) {
        let engine = &self.0;
        let (stats, mut scratch, mut seat) = (WorkerStats::default(), Vec::new(), engine.store().join());
        let (turn, mut keys) = (seat.turn(), [0; KEY_BYTES_MAX]);
        let parsed = Protocol::Text.parse(line.as_bytes(), engine.parse_limits(), &mut keys);
        let Parsed::Request(request, _) = parsed else { panic!("{line:?} is no request") };
        let (host, scratch) = (&Nobody, &mut scratch);
        let mut context = Context { turn: &turn, now: NOW, stats: &stats, scratch, keys_left: 9, host, client };
        let (mut output, target) = (Output::default(), engine.target(&request));
        let outcome = engine.execute(&mut context, &request, target, attempt, &mut output);
        let mut bytes = Vec::new();
        output.take_bytes(engine.store(), &turn, &mut bytes);
        (outcome, String::from_utf8(bytes).expect("text"))
    }

    fn outcome(&self, line: &str) -> Outcome {
        self.try_as(&Nobody, line, Attempt::default()).0
    }

    /// The answer to a request that is done.
    fn ask(&self, line: &str) -> String {
        let (outcome, answer) = self.try_as(&Nobody, line, Attempt::default());
        assert_eq!(outcome, Outcome::Done, "{line}");
        answer
    }

    /// The token in the answer, which has nothing behind it.
    fn token(&self, line: &str) -> Token {
        let answer = self.ask(line);
        let line = answer.lines().next().expect("a line");
        Token::parse(line.rsplit_once(" p").expect("a token").1.as_bytes()).expect("a token")
    }

    /// What is asked with a token for key `a`.
    fn with(&self, token: Token, flags: &str) -> String {
        self.ask(&get(token, flags))
    }

    fn shard_of(&self, key: &str) -> u32 {
        self.0.store().locate(key.as_bytes()).place.shard()
    }

    fn close(&self) {
        self.0.store().close_gates(0..2, Some("127.0.0.1:7"));
    }

    fn open(&self) {
        self.0.store().open_gates(0..2);
    }
}

fn get(token: Token, flags: &str) -> String {
    let mut words = Vec::new();
    token.write(&mut words);
    format!("mg a v y{} {flags}\r\n", String::from_utf8_lossy(&words[2..]))
}

fn beyond(token: Token) -> Token {
    Token { position: token.position + 8, ..token }
}

#[test]
fn a_write_is_told_where_its_record_ends_and_a_read_where_the_log_does() {
    let server = Server::new(false);
    let shard = server.shard_of("a");
    let head = || server.0.store().heads(Reign::BIRTH)[shard as usize];
    let written = server.token("ms a 1 p\r\nx\r\n");
    let term = server.0.store().shards()[shard as usize].history().newest();
    assert_eq!(written, Token { shard, term, position: head() });
    assert_eq!(server.token("mg a p\r\n"), written);
    assert_eq!(server.ask("ma a p\r\n"), "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
    let deleted = server.token("md a p\r\n");
    assert_eq!((deleted.term, deleted.position), (term, head()));
    assert!(deleted.position > written.position);
    assert_eq!(server.token("mg a p\r\n"), deleted, "a miss is a state as well");
}

#[test]
fn what_is_told_stands_at_the_end_of_the_line_and_before_the_value() {
    let server = Server::new(false);
    let large = "v".repeat(900);
    server.ask(&format!("set a 0 0 900\r\n{large}\r\n"));
    let answer = server.ask("mg a v k Oab p d\r\n");
    let (line, value) = answer.split_once("\r\n").expect("a line");
    assert!(line.starts_with("VA 900 ka Oab d0 p"), "{line}");
    assert_eq!(value, format!("{large}\r\n"));
    assert!(server.ask("mg nothing p k\r\n").starts_with("EN knothing p"));
    assert_eq!(server.ask("mg nothing p q\r\n"), "");
    assert!(server.ask("ms a 1 ME p\r\nx\r\n").starts_with("NS p"));
    assert!(server.ask("md a p q\r\n").is_empty());
    assert!(server.ask("md a p\r\n").starts_with("NF p"));
}

#[test]
fn a_primary_has_what_it_told_of_and_knows_what_is_lost() {
    let server = Server::new(false);
    let token = server.token("ms a 1 p\r\nx\r\n");
    assert_eq!(server.with(token, ""), "VA 1\r\nx\r\n");
    let later = Token { term: Term::numbered(9), ..token };
    assert!(server.with(later, "Ym").starts_with("SERVER_ERROR another server is the primary"));
    let other = Token { term: Term::numbered(1), ..token };
    assert!(server.with(other, "Yw9").starts_with("SERVER_ERROR lost: "), "another of the same number");
    let elsewhere = Token { shard: 1 - token.shard, ..token };
    assert!(server.with(elsewhere, "").starts_with("CLIENT_ERROR the token is not of shard"));

    server.close();
    server.0.store().begin_term(ShardSet::all(2), Term::numbered(2), &|_| ());
    server.open();
    assert_eq!(server.with(token, ""), "VA 1\r\nx\r\n", "a write that the heir has");
    for how in ["", "Ym", "Yw9", "Yp"] {
        assert!(server.with(beyond(token), how).starts_with("SERVER_ERROR lost: "), "what its predecessor had besides");
    }
    assert_eq!(server.with(server.token("ms a 1 p\r\ny\r\n"), ""), "VA 1\r\ny\r\n");
}

#[test]
fn a_replica_says_what_is_not_here_yet() {
    let server = Server::new(false);
    let token = server.token("ms a 1 p\r\nx\r\n");
    server.close();
    let next = beyond(token);
    assert_eq!(server.with(token, ""), "VA 1\r\nx\r\n");
    assert_eq!(server.with(next, "Ym q k"), "EN ka y\r\n", "it is no miss, which q would hide");
    assert!(server.with(next, "").starts_with("SERVER_ERROR not here yet: ask the primary at 127.0.0.1:7"));
    for term in [Term::numbered(9), Term::numbered(1)] {
        assert_eq!(server.with(Token { term, ..token }, "Ym"), MISS, "a term that it may come by");
    }
    assert_eq!(server.with(next, "Yw0"), MISS);
    let Outcome::Park(deadline) = server.outcome(&get(next, "Yw60000")) else { panic!("it does not wait") };
    let again =
        |resume, last_try| server.try_as(&Nobody, &get(next, "Yw60000"), Attempt { resume, retried: true, last_try });
    assert_eq!(again(deadline, false).0, Outcome::Park(deadline), "until then");
    assert_eq!(again(deadline, true), (Outcome::Done, MISS.into()), "no longer than the server allows");
    let earlier = deadline.wrapping_sub(2 * PARK_MILLISECONDS_MAX as u32);
    assert_eq!(again(earlier, false), (Outcome::Done, MISS.into()), "the time is over");
    server.open();
    server.ask("set a 0 0 1\r\ny\r\n");
    server.close();
    assert_eq!(again(deadline, false), (Outcome::Done, "VA 1\r\ny\r\n".into()), "it has come");
}

/// A log that begins anew has the position, but not all that stands below.
#[test]
fn a_replica_that_is_not_whole_has_nothing_for_a_token() {
    let server = Server::new(true);
    let token = server.token("ms a 1 p\r\nx\r\n");
    server.close();
    let mut follower = server.0.store().follower(token.shard as usize).expect("nobody else follows");
    follower.note_fresh(Some(boot_milliseconds()));
    assert_eq!(server.ask("mg a v r\r\n"), "VA 1\r\nx\r\n");
    follower.forget();
    assert_eq!(server.outcome("mg a v r\r\n"), Outcome::Forward(0));
    assert_eq!(server.outcome(&get(token, "r")), Outcome::Forward(0));
    // One that forwards nothing.
    let server = Server::new(false);
    let token = server.token("ms a 1 p\r\nx\r\n");
    server.close();
    server.0.store().follower(token.shard as usize).expect("nobody else follows").forget();
    assert_eq!(server.with(token, "Ym"), MISS);
    assert!(server.ask("mg a r d\r\n").starts_with("SERVER_ERROR not here yet"), "nor has it anything else");
}

#[test]
fn where_reads_are_forwarded_a_replica_answers_those_it_may_and_is_young_enough_for() {
    let server = Server::new(true);
    let token = server.token("ms a 1 p\r\nx\r\n");
    assert!(server.ask("mg a r d\r\n").starts_with("HD d0"), "a primary is not behind");
    server.close();
    assert_eq!(server.outcome("mg a v r\r\n"), Outcome::Forward(0), "how far behind it is is not known");
    let mut follower = server.0.store().follower(token.shard as usize).expect("nobody else follows");
    let mut be_behind = |milliseconds| follower.note_fresh(Some(boot_milliseconds() - milliseconds));
    be_behind(50);
    let answer = server.ask("mg a v r d\r\n");
    let behind: u32 = answer.lines().next().and_then(|line| line.strip_prefix("VA 1 d")?.parse().ok()).expect("d");
    assert!((51..10_000).contains(&behind), "{answer}");
    assert_eq!(server.ask("mg a v D9000\r\n"), "VA 1\r\nx\r\n");
    for line in ["mg a v\r\n", "mg a v D50\r\n", "mg a v r T9\r\n", "mg none N9 r\r\n", "get a\r\n", "gat 9 a\r\n"] {
        assert_eq!(server.outcome(line), Outcome::Forward(0), "{line}");
    }
    assert_eq!(server.outcome(&get(beyond(token), "r")), Outcome::Forward(0));
    assert_eq!(server.with(beyond(token), "r Ym"), MISS);
    assert_eq!(server.with(token, "r Ym"), "VA 1\r\nx\r\n");
    be_behind(u64::from(READ_LAG_MILLISECONDS_MAX));
    for line in ["mg a v r\r\n", "mg a v D3600000\r\n"] {
        assert_eq!(server.outcome(line), Outcome::Forward(0), "{line}: who was away for so long answers nothing");
    }
}

#[test]
fn a_connection_may_say_for_all_its_reads_that_a_replica_may_answer() {
    let server = Server::new(true);
    let token = server.token("ms a 1 p\r\nx\r\n");
    server.close();
    let ask = |line: &str| server.try_as(&Reader, line, Attempt::default());
    let mut follower = server.0.store().follower(token.shard as usize).expect("nobody else follows");
    let (found, forwarded) = ("VALUE a 0 1\r\nx\r\n", (Outcome::Forward(0), String::new()));
    assert_eq!(ask("get a\r\n"), forwarded);
    follower.note_fresh(Some(boot_milliseconds()));
    assert_eq!(ask("get a\r\n"), (Outcome::Done, format!("{found}END\r\n")));
    assert_eq!(ask("get a a a\r\n"), (Outcome::Done, format!("{found}{found}{found}END\r\n")));
    assert_eq!(ask("mg a v\r\n"), (Outcome::Done, "VA 1\r\nx\r\n".into()));
    for line in ["gat 9 a\r\n", "mg a v D0\r\n", "set a 0 0 1\r\nx\r\n"] {
        assert_eq!(ask(line), forwarded, "{line}");
    }
    let other = (0..).map(|number| format!("b{number}")).find(|key| server.shard_of(key) != token.shard).unwrap();
    assert_eq!(
        ask(&format!("get a {other}\r\n")),
        (Outcome::Forward(2), found.into()),
        "of that shard it is not known"
    );
    follower.note_fresh(Some(boot_milliseconds() - 1000));
    assert_eq!(ask("get a\r\n"), forwarded);
}

#[test]
fn a_replica_that_forwards_nothing_answers_what_it_is_young_enough_for() {
    let server = Server::new(false);
    server.ask("set a 0 0 1\r\nx\r\n");
    server.close();
    assert_eq!(server.ask("mg a v r d\r\n"), "VA 1 d-1\r\nx\r\n", "as any read; how far behind it is is not known");
    assert!(server.ask("mg a v D9\r\n").starts_with("SERVER_ERROR what is here may be too old: ask the primary at "));
    server.0.store().close_gates(0..2, None);
    assert!(server.ask("mg a v D9\r\n").ends_with("and this replica follows nobody: ask the primary\r\n"));
}
