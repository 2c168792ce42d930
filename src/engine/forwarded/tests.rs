//! What is about the shards of two servers, one of them this one, step by step as the executor
//! takes it.

use super::*;
use crate::base::limits::KEY_BYTES_MAX;
use crate::base::time::UnixSeconds;
use crate::engine::acks::{Holders, Resolved};
use crate::engine::host::Nobody;
use crate::engine::{AckPolicy, Attempt, Context, Engine, Outcome, Settings, Switches, Target, WorkerStats};
use crate::protocol::request::NextKey;
use crate::protocol::{Parsed, Request, parse};
use crate::store::{Store, StoreConfig};
use std::time::{Duration, Instant};

/// So many replicas have everything.
struct Have(usize);

impl Holders for Have {
    fn holders(&self, _shard: usize, _position: u64) -> usize {
        self.0
    }
}

const WITHIN: Duration = Duration::from_millis(50);
const OWN: u32 = 0;
const OTHERS: u32 = 1;

/// Of two shards the second one is another server's. One replica acknowledges.
struct Scene {
    engine: Engine,
    output: Output,
}

impl Scene {
    fn new() -> Scene {
        let store = Store::new(StoreConfig {
            memory_bytes: 16 << 20,
            item_bytes_max: 1 << 16,
            shards: Some(2),
            hash_seed: Some((1, 2)),
            ..StoreConfig::default()
        });
        let settings = Settings { item_bytes_max: 1 << 16, workers: 1, rows: Vec::new() };
        let engine = Engine::new(store.unwrap(), settings)
            .with_acks(AckPolicy { replicas: 1, timeout: WITHIN })
            .with_switches(Switches { forwards: true, ..Switches::default() });
        let mut scene = Scene { engine, output: Output::default() };
        for key in [scene.keys(OWN), scene.keys(OTHERS)].concat() {
            scene.step(&format!("set {key} 0 0 1\r\n1\r\n"), 0);
        }
        scene.output = Output::default();
        scene.engine.store().close_gates([OTHERS as usize], Some("127.0.0.1:7"));
        scene
    }

    /// Two keys of a shard.
    fn keys(&self, shard: u32) -> [String; 2] {
        let mut keys = (0..).map(|number| format!("key-{number}"));
        [(); 2].map(|()| {
            keys.find(|key| self.engine.store().locate(key.as_bytes()).place.shard() == shard).expect("some key")
        })
    }

    fn step(&mut self, line: &str, resume: u32) -> Outcome {
        self.step_with(line, resume, |_, target| target)
    }

    /// Execute it from an offset on, with the target that `change` makes of that which was found.
    fn step_with(
        &mut self,
        line: &str,
        resume: u32,
        change: impl for<'r> FnOnce(&Engine, Target<'r>) -> Target<'r>,
    ) -> Outcome {
        let Scene { engine, output } = self;
        let mut seat = engine.store().join();
        let turn = seat.turn();
        let (stats, mut scratch, mut key) = (WorkerStats::default(), Vec::new(), [0; KEY_BYTES_MAX]);
        let (host, client) = (&Nobody, &Nobody);
        let (now, scratch) = (UnixSeconds::now(), &mut scratch);
        let mut context = Context { turn: &turn, now, stats: &stats, scratch, keys_left: 100, host, client };
        let Parsed::Request(request, _) = parse(line.as_bytes(), engine.parse_limits(), &mut key) else {
            panic!("{line:?}")
        };
        let target = change(engine, engine.target(&request));
        let attempt = Attempt { resume, ..Attempt::default() };
        let outcome = engine.execute(&mut context, &request, target, attempt, output);
        assert!(outcome != Outcome::Done || matches!(request, Request::Get(_)) || !output.is_in_parts());
        outcome
    }

    /// Execute a gat of these keys, whose closed ones are forwarded. Returns the numbers of these.
    fn gat(&mut self, keys: &[String]) -> Vec<u64> {
        let line = format!("gat 0 {}\r\n", keys.join(" "));
        let (mut resume, mut numbers) = (0, Vec::new());
        loop {
            match self.step(&line, resume) {
                Outcome::Forward(at) => {
                    let mut key = [0; KEY_BYTES_MAX];
                    let Parsed::Request(Request::Get(get), _) =
                        parse(line.as_bytes(), self.engine.parse_limits(), &mut key)
                    else {
                        panic!("{line:?}")
                    };
                    let NextKey::Key(_, next) = get.keys.next(at) else { panic!("there is a key") };
                    numbers.push(self.forward());
                    if !self.output.is_in_parts() {
                        self.output.begin_parts(at > 0);
                    }
                    resume = next;
                }
                outcome => {
                    assert_eq!(outcome, Outcome::Done);
                    self.output.end_parts(self.output.last_line());
                    return numbers;
                }
            }
        }
    }

    fn forward(&mut self) -> u64 {
        let elsewhere = Elsewhere { shard: Some(OTHERS), owner: 7, is_part: true, answer: None };
        self.output.await_answer(self.output.end(), elsewhere)
    }

    /// Where so many replicas have everything, and so much time has gone by.
    fn resolve(&mut self, replicas: usize, later: Duration) -> Resolved {
        let (holders, now) = (&Have(replicas), Instant::now() + later);
        self.output.resolve(&Judge {
            holders,
            now,
            ending: false,
            reigns: self.engine.store(),
            lease: self.engine.lease(),
        })
    }

    /// What the client gets.
    fn sent(&mut self) -> String {
        let mut taken = Vec::new();
        let store = self.engine.store();
        let mut seat = store.join();
        let turn = seat.turn();
        let send = |parts: &[crate::sys::send::Part<'_>]| {
            let [crate::sys::send::Part::Bytes(bytes)] = parts else { panic!("nothing is lent") };
            taken.extend_from_slice(bytes);
            Ok(bytes.len())
        };
        self.output.write_out(send, store, &turn).unwrap();
        String::from_utf8(taken).unwrap()
    }
}

fn value(key: &str) -> String {
    format!("VALUE {key} 0 1\r\n1\r\n")
}

fn failed(words: &str) -> Answer {
    Answer::Failed(words.as_bytes().into())
}

const NOT_ACKNOWLEDGED: &str = "SERVER_ERROR not acknowledged: 0 of 1 replicas have it after";

/// Whatever fails of a gat, and in whichever order that is known, it is one answer with one end.
#[test]
fn a_gat_of_two_servers_ends_once_whatever_fails() {
    for acknowledged in [true, false] {
        for answered in [true, false] {
            let mut scene = Scene::new();
            let ([own, _], [theirs, _]) = (scene.keys(OWN), scene.keys(OTHERS));
            let numbers = scene.gat(&[theirs.clone(), own.clone()]);
            scene.output.bytes().extend_from_slice(b"MN\r\n");
            assert_eq!(scene.resolve(0, WITHIN * 2), Resolved::default(), "the first part is under way");
            let answer =
                if answered { Answer::Given(value(&theirs).as_bytes().into()) } else { failed("SERVER_ERROR x\r\n") };
            scene.output.fulfil(numbers[0], answer);
            let resolved = scene.resolve(usize::from(acknowledged), WITHIN * 2);
            assert_eq!(resolved, Resolved { answers: 1, failed: usize::from(!acknowledged) });
            let first = if answered { value(&theirs) } else { String::new() };
            let sent = scene.sent();
            let end = sent.strip_prefix(&(first + &value(&own))).unwrap_or_else(|| panic!("{sent:?}"));
            match (answered, acknowledged) {
                (true, true) => assert_eq!(end, "END\r\nMN\r\n"),
                (false, _) => assert_eq!(end, "SERVER_ERROR x\r\nMN\r\n"),
                (true, false) => {
                    assert!(end.starts_with(NOT_ACKNOWLEDGED) && end.ends_with("here\r\nMN\r\n"), "{end:?}");
                    assert_eq!(end.lines().count(), 2);
                }
            }
            assert!(scene.output.is_empty());
        }
    }
}

/// As the executor has it: the shards of this server first.
#[test]
fn a_flush_all_of_two_servers_is_answered_once_whatever_fails() {
    for acknowledged in [true, false] {
        for answered in [true, false] {
            let mut scene = Scene::new();
            let begin = scene.output.end();
            assert_eq!(scene.step_with("flush_all\r\n", 0, |_, target| target.own_shards()), Outcome::Done);
            let elsewhere = Elsewhere { shard: None, owner: 7, is_part: true, answer: None };
            let number = scene.output.await_answer(begin, elsewhere);
            scene.output.end_parts(begin);
            scene.output.bytes().extend_from_slice(b"MN\r\n");
            let expected = Resolved { answers: 1, failed: usize::from(!acknowledged) };
            assert_eq!(scene.resolve(usize::from(acknowledged), WITHIN * 2), expected);
            assert_eq!(scene.sent(), "", "another part is under way");
            let answer = if answered { Answer::Given(Reused::default()) } else { failed("SERVER_ERROR x\r\n") };
            scene.output.fulfil(number, answer);
            scene.resolve(0, WITHIN * 2);
            let sent = scene.sent();
            match (acknowledged, answered) {
                (true, true) => assert_eq!(sent, "OK\r\nMN\r\n"),
                (true, false) => assert_eq!(sent, "SERVER_ERROR x\r\nMN\r\n"),
                (false, _) => {
                    assert!(sent.starts_with(NOT_ACKNOWLEDGED) && sent.ends_with("here\r\nMN\r\n"), "{sent:?}");
                    assert_eq!(sent.lines().count(), 2);
                }
            }
            assert!(scene.output.is_empty());
        }
    }
}

/// What others touch, their replicas acknowledge.
#[test]
fn a_gat_waits_for_replicas_of_what_it_has_touched_here() {
    for (own, theirs, waits) in [(0, 2, false), (1, 2, true)] {
        let mut scene = Scene::new();
        let keys = [&scene.keys(OWN)[..own], &scene.keys(OTHERS)[..theirs]].concat();
        for number in scene.gat(&keys) {
            scene.output.fulfil(number, Answer::Given(Reused::default()));
        }
        assert_eq!(scene.output.awaits_replicas(), waits, "{keys:?}");
        scene.resolve(0, Duration::ZERO);
        assert_eq!(scene.output.is_holding(), waits);
    }
    // The one that it has touched is gone on from.
    let mut scene = Scene::new();
    let keys = [scene.keys(OWN)[0].clone(), scene.keys(OTHERS)[0].clone(), "nothing".to_string()];
    scene.gat(&keys);
    assert!(scene.output.awaits_replicas());
}

/// All of its parts have been sent, and its client has not sent the rest of its line. The output
/// stays with the connection as long as it knows of a part that has failed.
#[test]
fn a_failed_part_is_told_though_all_parts_were_sent_before() {
    let mut scene = Scene::new();
    let number = scene.forward();
    scene.output.begin_parts(false);
    scene.output.bytes().extend_from_slice(value("k").as_bytes());
    scene.output.fulfil(number, failed("SERVER_ERROR x\r\n"));
    scene.resolve(0, Duration::ZERO);
    assert_eq!(scene.sent(), value("k"));
    assert!(!scene.output.is_empty() && !scene.output.is_holding() && scene.output.needs_care());
    let mut seat = scene.engine.store().join();
    scene.output.detach(scene.engine.store(), &seat.turn());
    drop(seat);
    scene.output.bytes().extend_from_slice(b"END\r\n");
    scene.output.end_parts(scene.output.last_line());
    assert_eq!(scene.sent(), "SERVER_ERROR x\r\n");
    assert!(scene.output.is_empty() && !scene.output.needs_care(), "another connection may have it");
}

/// The gate opens while an earlier request about the shard is under way: what comes behind it is
/// not done here before that one is answered.
#[test]
fn a_request_does_not_overtake_what_is_under_way_when_its_gate_opens() {
    let (own, theirs) = (Scene::new().keys(OWN), Scene::new().keys(OTHERS));
    let behind_one = 1 + theirs[0].len() as u32;
    for (line, resume, at) in [
        (format!("set {} 0 0 1\r\n2\r\n", theirs[0]), 0, 0),
        (format!("get {}\r\n", theirs[0]), 0, 0),
        (format!("mg {} v\r\n", theirs[0]), 0, 0),
        (format!("get {} {} {}\r\n", theirs[0], own[0], theirs[1]), behind_one, behind_one + 1 + own[0].len() as u32),
    ] {
        let mut scene = Scene::new();
        let number = scene.forward();
        let head = scene.engine.store().heads(crate::store::Reign::BIRTH);
        let outcome = scene.step_with(&line, resume, |engine, target| {
            assert!(!target.takes_writes());
            engine.store().open_gates([OTHERS as usize]);
            target
        });
        assert_eq!(outcome, Outcome::Forward(at), "{line:?}");
        scene.output.fulfil(number, Answer::Given(Reused::default()));
        assert_eq!(scene.engine.store().heads(crate::store::Reign::BIRTH)[0], head[0], "nothing is written");
        assert_eq!(scene.step(&line, at), Outcome::Done, "{line:?}");
    }
}
