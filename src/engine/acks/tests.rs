//! What is held, for which shards, and what becomes of it.

use super::*;
use crate::base::limits::KEY_BYTES_MAX;
use crate::base::time::UnixSeconds;
use crate::engine::host::Nobody;
use crate::engine::{Attempt, Context, Output, Settings, WorkerStats};
use crate::protocol::{Parsed, parse};
use crate::store::{Store, StoreConfig};

/// One replica that has applied all of every shard but one.
pub(in crate::engine) struct AllBut(pub usize);

impl Holders for AllBut {
    fn holders(&self, shard: usize, _position: u64) -> usize {
        usize::from(shard != self.0)
    }
}

pub(in crate::engine) const SHARDS: usize = 4;

pub(in crate::engine) fn engine(replicas: u8) -> Engine {
    let store = Store::new(StoreConfig {
        memory_bytes: 16 << 20,
        item_bytes_max: 1 << 16,
        shards: Some(SHARDS),
        hash_seed: Some((1, 2)),
        ..StoreConfig::default()
    });
    let settings = Settings { item_bytes_max: 1 << 16, workers: 1, rows: Vec::new() };
    Engine::new(store.unwrap(), settings).with_acks(AckPolicy { replicas, timeout: Duration::MAX })
}

/// Execute the requests on `lines` in one turn; what the last one has put out.
pub(in crate::engine) fn output(engine: &Engine, lines: &str) -> Output {
    let mut seat = engine.store().join();
    let turn = seat.turn();
    let (stats, mut scratch) = (WorkerStats::default(), Vec::new());
    let now = UnixSeconds::now();
    let mut context = Context {
        turn: &turn,
        now,
        stats: &stats,
        scratch: &mut scratch,
        keys_left: 100,
        host: &Nobody,
        client: &Nobody,
    };
    let mut rest = lines.as_bytes();
    let mut output = Output::default();
    while !rest.is_empty() {
        let mut key = [0; KEY_BYTES_MAX];
        output = Output::default();
        rest = match parse(rest, engine.parse_limits(), &mut key) {
            Parsed::Request(request, bytes) => {
                let target = engine.target(&request);
                engine.execute(&mut context, &request, target, Attempt::default(), &mut output);
                &rest[bytes..]
            }
            Parsed::Rejected(rejection) => {
                engine.reject(&mut context, &rejection, true, &mut output);
                &rest[rejection.skip_bytes as usize..]
            }
            Parsed::Incomplete { .. } => panic!("{lines:?}"),
        };
    }
    output
}

/// Of the last of the requests on `lines`: its answer, and the shards each of which it waits
/// for.
pub(in crate::engine) fn waits_for(engine: &Engine, lines: &str) -> (String, Vec<usize>) {
    let mut output = output(engine, lines);
    let waits = |shard: &usize| {
        let judge = Judge {
            holders: &AllBut(*shard),
            now: Instant::now(),
            ending: false,
            reigns: engine.store(),
            lease: engine.lease(),
        };
        output.is_holding() && !output.is_resolvable(&judge)
    };
    let shards = (0..SHARDS).filter(waits).collect();
    (String::from_utf8(output.bytes().clone()).unwrap(), shards)
}

#[test]
fn what_wrote_is_held_and_nothing_else() {
    let engine = engine(1);
    for (lines, answer, held) in [
        ("get a\r\n", "END\r\n", false),
        ("set a 0 0 1\r\n1\r\n", "STORED\r\n", true),
        ("set a 0 0 1\r\n1\r\nget a\r\n", "VALUE a 0 1\r\n1\r\nEND\r\n", false),
        ("set a 0 0 1 noreply\r\n1\r\n", "", false),
        ("add a 0 0 1\r\n1\r\n", "NOT_STORED\r\n", false),
        ("cas a 0 0 1 1\r\n1\r\n", "EXISTS\r\n", false),
        ("append a 0 0 1\r\n1\r\n", "STORED\r\n", true),
        ("incr a 1\r\n", "12\r\n", true),
        ("set b 0 0 1\r\nx\r\nincr b 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n", false),
        ("touch a 0\r\n", "TOUCHED\r\n", true),
        ("touch nothing 0\r\n", "NOT_FOUND\r\n", false),
        ("gat 0 a\r\n", "VALUE a 0 2\r\n12\r\nEND\r\n", true),
        ("gat 0 nothing\r\n", "END\r\n", false),
        ("ms a 1 q\r\n1\r\n", "", true),
        ("ms a 1 A0\r\n1\r\n", "HD\r\n", false),
        ("mg a t\r\n", "HD t-1\r\n", false),
        ("mg a T0\r\n", "HD\r\n", true),
        ("mg new N0\r\n", "HD W\r\n", true),
        ("mg new N0\r\n", "HD Z\r\n", false),
        ("md a I\r\n", "HD\r\n", true),
        ("mg a\r\n", "HD X W\r\n", true),
        ("mg a\r\n", "HD Z X\r\n", false),
        ("md a C1\r\n", "EX\r\n", false),
        ("ma n N0\r\n", "HD\r\n", true),
        ("delete a\r\n", "DELETED\r\n", true),
        ("delete a\r\n", "NOT_FOUND\r\n", false),
        ("set n 0 0 70000\r\n", "SERVER_ERROR object too large for cache\r\n", false),
        ("flush_all\r\n", "OK\r\n", true),
        ("flush_all 100\r\n", "OK\r\n", true),
        ("flush_all noreply\r\n", "", false),
        ("mn\r\n", "MN\r\n", false),
        ("wait 0 0\r\n", "", true),
    ] {
        let padded =
            if lines.ends_with("70000\r\n") { format!("{lines}{}\r\n", "x".repeat(70_000)) } else { lines.into() };
        let (told, shards) = waits_for(&engine, &padded);
        assert_eq!(told, answer, "{lines:?}");
        // `wait 0` needs no replica, so it is held but waits for none.
        assert_eq!(!shards.is_empty(), held && !lines.starts_with("wait"), "{lines:?} waits for {shards:?}");
    }
}

/// Nobody looked at the held answer while this server was a replica. What its replicas hold now
/// at the same position may be another server's.
#[test]
fn what_an_earlier_reign_has_written_is_never_acknowledged() {
    let engine = engine(1);
    let holders = AllBut(SHARDS);
    let judge = || Judge {
        holders: &holders,
        now: Instant::now(),
        ending: false,
        reigns: engine.store(),
        lease: engine.lease(),
    };
    let shards_of_a = [engine.store().locate(b"a").place.shard() as usize];
    for lines in ["set a 0 0 1\r\n1\r\n", "flush_all\r\n", "wait 1 60000\r\n"] {
        let mut held = output(&engine, lines);
        engine.store().close_gates(shards_of_a, Some("127.0.0.1:1"));
        engine.store().open_gates(shards_of_a);
        assert_eq!(held.resolve(&judge()).failed, 1, "{lines:?}");
        assert_eq!(*held.bytes(), Refusal::Demoted.line());
        let mut held = output(&engine, lines);
        assert_eq!(held.resolve(&judge()).failed, 0, "{lines:?}");
    }
}

/// `wait` counts what is written here; the logs of other shards are another server's.
#[test]
fn wait_asks_for_the_shards_that_take_writes_here() {
    let engine = engine(1);
    engine.store().close_gates([1, 3], None);
    assert_eq!(waits_for(&engine, "wait 1 60000\r\n").1, [0, 2]);
    let mut held = output(&engine, "wait 1 60000\r\n");
    engine.store().open_gates([1]);
    let judge = Judge {
        holders: &AllBut(1),
        now: Instant::now(),
        ending: false,
        reigns: engine.store(),
        lease: engine.lease(),
    };
    assert_eq!(held.resolve(&judge).failed, 0, "what is opened later is not asked for");
    assert_eq!(*held.bytes(), b"REPLICAS 1\r\n");
}

#[test]
fn without_acks_only_a_flag_asks_for_them() {
    let engine = engine(0);
    for (lines, held) in [
        ("set a 0 0 1\r\n1\r\n", false),
        ("ms a 1\r\n1\r\n", false),
        ("ms a 1 A1\r\n1\r\n", true),
        ("md a A1\r\n", true),
    ] {
        assert_eq!(!waits_for(&engine, lines).1.is_empty(), held, "{lines:?}");
    }
}

#[test]
fn a_write_waits_for_its_shard_and_a_wide_one_for_all() {
    let engine = engine(1);
    let key = |shard: u32| {
        let found = (0..)
            .map(|number| format!("k{number}"))
            .find(|key| engine.store().locate(key.as_bytes()).place.shard() == shard);
        found.expect("every shard has keys")
    };
    let set = |key: &str| format!("set {key} 0 0 1\r\n1\r\n");
    for shard in 0..SHARDS as u32 {
        let lines = format!("{}{}", set(&key(0)), set(&key(shard)));
        assert_eq!(waits_for(&engine, &lines).1, [shard as usize], "not for what others wrote in the same turn");
    }
    let all: Vec<usize> = (0..SHARDS).collect();
    assert_eq!(waits_for(&engine, &format!("gat 0 {} {}\r\n", key(1), key(3))).1, all);
    assert_eq!(waits_for(&engine, &format!("gat 0 {} {}\r\n", key(1), key(1))).1, [1]);
    let too_long = "k".repeat(251);
    assert!(waits_for(&engine, &format!("gat 0 {} {too_long}\r\n", key(2))).1.is_empty(), "an error is not held");
    assert_eq!(waits_for(&engine, "flush_all\r\n").1, all);
    assert_eq!(waits_for(&engine, "wait 1 60000\r\n").1, all);
}

/// So many replicas, each of which has applied every shard up to a position.
struct Applied(Vec<u64>);

impl Holders for Applied {
    fn holders(&self, _shard: usize, position: u64) -> usize {
        self.0.iter().filter(|applied| **applied >= position).count()
    }
}

/// The reign of each shard, before which all is lost.
struct Reached(Vec<Reign>);

impl Reigns for Reached {
    fn fate(&self, shard: usize, reign: Reign) -> Fate {
        if self.0[shard] > reign { Fate::Lost } else { Fate::Here }
    }

    fn is_open(&self, _shard: usize) -> bool {
        true
    }
}

/// The same fate in each shard.
struct Fated(Fate);

impl Reigns for Fated {
    fn fate(&self, _shard: usize, _reign: Reign) -> Fate {
        self.0
    }

    fn is_open(&self, _shard: usize) -> bool {
        true
    }
}

const WRITE: Kind = Kind::Write(Reply::Text);

/// As a store begins.
const FIRST: Reign = Reign::BIRTH;

#[test]
fn a_write_waits_for_enough_replicas_or_until_its_time_is_over() {
    let since = Instant::now();
    let held = |kind, replicas| Held {
        kind,
        goal: Goal::Shard { shard: 1, position: 100 },
        reign: FIRST,
        replicas,
        since,
        within: Duration::from_millis(50),
    };
    let (applied, reigns) = (Applied(vec![99, 100, 101]), Reached(vec![FIRST.next(), FIRST]));
    let lease = Lease::default();
    let judge = |milliseconds| Judge {
        holders: &applied,
        now: since + Duration::from_millis(milliseconds),
        ending: false,
        reigns: &reigns,
        lease: &lease,
    };
    assert_eq!(held(WRITE, 2).verdict(&judge(0)), Verdict::Stands);
    assert_eq!(held(WRITE, 3).verdict(&judge(49)), Verdict::Waits);
    assert_eq!(held(WRITE, 3).verdict(&judge(50)), Verdict::TimedOut(2));
    assert_eq!(held(Kind::Count, 2).verdict(&judge(0)), Verdict::Counted(2));
    assert_eq!(held(Kind::Count, 3).verdict(&judge(49)), Verdict::Waits);
    assert_eq!(held(Kind::Count, 3).verdict(&judge(50)), Verdict::Counted(2));
    let ending = Judge { ending: true, ..judge(0) };
    assert_eq!(held(WRITE, 3).verdict(&ending), Verdict::TimedOut(2));
}

#[test]
fn what_is_judged_after_its_gate_has_changed_is_in_doubt_whoever_has_it() {
    let held =
        |kind, goal, reign| Held { kind, goal, reign, replicas: 1, since: Instant::now(), within: Duration::MAX };
    let shard = |shard| Goal::Shard { shard, position: 100 };
    let all = |positions: [u64; 3]| Goal::All(positions.into());
    let (second, third) = (FIRST.next(), FIRST.next().next());
    // Shard 1 was closed, then opened again.
    let (applied, reigns) = (Applied(vec![100]), Reached(vec![FIRST, third, FIRST]));
    let judge =
        Judge { holders: &applied, now: Instant::now(), ending: false, reigns: &reigns, lease: &Lease::default() };
    for kind in [WRITE, Kind::Count] {
        let has_it = if kind == WRITE { Verdict::Stands } else { Verdict::Counted(1) };
        for (goal, reign, verdict) in [
            (shard(1), FIRST, Verdict::Demoted),
            (shard(1), second, Verdict::Demoted),
            (shard(1), third, has_it),
            (shard(0), FIRST, has_it),
            (all([100, 100, 100]), second, Verdict::Demoted),
            (all([100, 100, 100]), third, has_it),
            (all([100, 0, 100]), FIRST, has_it),
        ] {
            let held = held(kind, goal, reign);
            assert_eq!(held.verdict(&judge), verdict, "{held:?}");
        }
    }
}

/// An heir's log goes on from what was written here: the heir has it, and this server is one
/// replica that has it. Until that is known nothing is lost, and nothing is gained.
#[test]
fn what_an_heir_goes_on_from_is_held_by_this_server_too() {
    let since = Instant::now();
    for (fate, replicas, having, verdict) in [
        (Fate::Undecided, 1, 0, Verdict::Waits),
        (Fate::Undecided, 1, 1, Verdict::Stands),
        (Fate::GoesOn, 1, 0, Verdict::Stands),
        (Fate::GoesOn, 2, 0, Verdict::Demoted),
        (Fate::GoesOn, 2, 1, Verdict::Demoted),
        (Fate::GoesOn, 2, 2, Verdict::Stands),
        (Fate::Lost, 1, 3, Verdict::Demoted),
    ] {
        for goal in [Goal::Shard { shard: 1, position: 100 }, Goal::All([0, 100, 0].into())] {
            let holders = Having([0, having, 0]);
            let judge =
                Judge { holders: &holders, now: since, ending: false, reigns: &Fated(fate), lease: &Lease::default() };
            let held = Held { kind: WRITE, goal, reign: FIRST, replicas, since, within: Duration::MAX };
            assert_eq!(held.verdict(&judge), verdict, "{fate:?}: {replicas} of {having}");
        }
    }
}

/// Gates that change while they are looked at: whoever counts the holders after that counts
/// those of another log.
struct Closing<'a>(&'a Store);

impl Holders for Closing<'_> {
    fn holders(&self, shard: usize, _position: u64) -> usize {
        self.0.close_gates([shard], None);
        1
    }
}

#[test]
fn a_gate_that_is_closed_while_an_answer_is_judged_leaves_it_in_doubt() {
    for goal in [Goal::Shard { shard: 1, position: 100 }, Goal::All([100, 100].into())] {
        let config = StoreConfig { memory_bytes: 1 << 20, shards: Some(2), ..StoreConfig::default() };
        let store = Store::new(StoreConfig { item_bytes_max: 1 << 10, ..config }).unwrap();
        let reign = store.reign();
        let judge = Judge {
            holders: &Closing(&store),
            now: Instant::now(),
            ending: false,
            reigns: &store,
            lease: &Lease::default(),
        };
        let (since, within) = (judge.now, Duration::MAX);
        let held = Held { kind: WRITE, goal, reign, replicas: 1, since, within };
        assert_eq!(held.verdict(&judge), Verdict::Demoted);
    }
}

/// So many replicas have everything of each shard.
struct Having([usize; 3]);

impl Holders for Having {
    fn holders(&self, shard: usize, _position: u64) -> usize {
        self.0[shard]
    }
}

/// Which replicas these are does not matter: those of one shard need not have another.
#[test]
fn each_shard_is_held_by_enough_replicas_of_its_own() {
    let held = Held {
        kind: WRITE,
        goal: Goal::All([100, 101, 0].into()),
        reign: FIRST,
        replicas: 2,
        since: Instant::now(),
        within: Duration::MAX,
    };
    for (having, kind, verdict) in [
        ([2, 2, 0], WRITE, Verdict::Stands),
        ([2, 3, 0], Kind::Count, Verdict::Counted(2)),
        ([2, 1, 0], WRITE, Verdict::Waits),
        ([0, 3, 3], Kind::Count, Verdict::Waits),
    ] {
        let (having, reigns) = (Having(having), Reached(vec![FIRST; 3]));
        let judge =
            Judge { holders: &having, now: held.since, ending: false, reigns: &reigns, lease: &Lease::default() };
        let held = Held { kind, goal: Goal::All([100, 101, 0].into()), ..held };
        assert_eq!(held.verdict(&judge), verdict);
    }
}
