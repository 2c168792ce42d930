//! What strong mode holds, for what, and when it tells an error instead of a value. And writes
//! without a lease.

use crate::base::lease::Sureness;
use crate::base::limits::{KEY_BYTES_MAX, KEYS_AHEAD_MAX};
use crate::base::time::{UnixSeconds, boot_milliseconds};
use crate::engine::acks::tests::{AllBut, SHARDS, engine, output, waits_for};
use crate::engine::acks::{Holders, Judge};
use crate::engine::host::Nobody;
use crate::engine::{Attempt, Context, Engine, Outcome, Output, WorkerStats};
use crate::protocol::request::GetForm;
use crate::protocol::{Parsed, Refusal, parse, parse_more_of_get};
use std::time::{Duration, Instant};

/// One replica, which has everything.
const ALL: AllBut = AllBut(SHARDS);

/// In strong mode, by one replica at least.
fn strong() -> Engine {
    let engine = engine(0);
    engine.set_sureness(Sureness { strong_replicas: 1, refuses: false });
    engine
}

fn judge<'a>(engine: &'a Engine, holders: &'a dyn Holders) -> Judge<'a> {
    Judge { holders, now: Instant::now(), ending: false, reigns: engine.store(), lease: engine.lease() }
}

fn shard_of(engine: &Engine, key: &str) -> usize {
    engine.store().locate(key.as_bytes()).place.shard() as usize
}

/// What is told instead of the answer to the last of `lines`, or that answer.
fn told(engine: &Engine, mut output: Output, holders: &dyn Holders) -> String {
    output.resolve(&judge(engine, holders));
    assert!(!output.is_holding(), "it waits");
    String::from_utf8(output.bytes().clone()).unwrap()
}

#[test]
fn whatever_shows_an_item_or_its_absence_is_held_for_its_shard() {
    let engine = strong();
    let of_a = [shard_of(&engine, "a")];
    for (lines, answer) in [
        ("get a\r\n", "END\r\n"),
        ("delete a\r\n", "NOT_FOUND\r\n"),
        ("touch a 0\r\n", "NOT_FOUND\r\n"),
        ("incr a 1\r\n", "NOT_FOUND\r\n"),
        ("replace a 0 0 1\r\n1\r\n", "NOT_STORED\r\n"),
        ("mg a v\r\n", "EN\r\n"),
        ("mg a v q\r\n", ""),
        ("set a 0 0 1\r\n1\r\n", "STORED\r\n"),
        ("ms a 1 A0\r\n1\r\n", "HD\r\n"),
        ("get a\r\n", "VALUE a 0 1\r\n1\r\nEND\r\n"),
        ("gat 0 a\r\n", "VALUE a 0 1\r\n1\r\nEND\r\n"),
        ("add a 0 0 1\r\n2\r\n", "NOT_STORED\r\n"),
        ("cas a 0 0 1 1\r\n2\r\n", "EXISTS\r\n"),
        ("mg a v\r\n", "VA 1\r\n1\r\n"),
        ("md a C1\r\n", "EX\r\n"),
        ("incr a 1\r\n", "2\r\n"),
    ] {
        let (told, shards) = waits_for(&engine, lines);
        assert_eq!((&*told, &shards[..]), (answer, &of_a[..]), "{lines:?}");
    }
    for lines in ["version\r\n", "mn\r\n", "set a 0 0 1 noreply\r\n1\r\n"] {
        assert!(waits_for(&engine, lines).1.is_empty(), "{lines:?} shows nothing");
    }
    let other = (0..).map(|number| format!("k{number}")).find(|key| shard_of(&engine, key) != of_a[0]).unwrap();
    let mut both = [of_a[0], shard_of(&engine, &other)];
    both.sort_unstable();
    assert_eq!(waits_for(&engine, &format!("get a {other} a\r\n")).1, both);
    engine.set_sureness(Sureness::default());
    assert!(waits_for(&engine, "get a\r\n").1.is_empty());
}

/// One replica that has everything below a position.
struct Below(u64);

impl Holders for Below {
    fn holders(&self, _shard: usize, position: u64) -> usize {
        usize::from(position <= self.0)
    }
}

/// A miss tells of whatever has taken the item away, and any answer of all that came before it.
#[test]
fn a_read_waits_for_all_that_is_in_its_shard() {
    let engine = strong();
    for (first, then) in [
        ("set a 0 0 1\r\n1\r\n", "get a\r\n"),
        ("delete a\r\n", "get a\r\n"),
        ("set a 0 0 1\r\n1\r\n", "add a 0 0 1\r\n2\r\n"),
    ] {
        drop(output(&engine, first));
        let head = engine.store().shards()[shard_of(&engine, "a")].head();
        let shown = output(&engine, then);
        assert!(!shown.is_resolvable(&judge(&engine, &Below(head - 8))), "{then:?} after {first:?}");
        assert!(shown.is_resolvable(&judge(&engine, &Below(head))), "{then:?} after {first:?}");
    }
}

#[test]
fn without_a_lease_nothing_is_shown_and_acknowledged_writes_go_on() {
    let engine = strong();
    drop(output(&engine, "set a 0 0 1\r\n1\r\n"));
    let shown = output(&engine, "get a\r\n");
    engine.lease().set_until(boot_milliseconds());
    let line = |refusal: Refusal| String::from_utf8(refusal.line().to_vec()).unwrap();
    let refused = line(Refusal::NoLeaseToRead);
    assert_eq!(told(&engine, shown, &ALL), refused, "it ended while the answer was held");
    for lines in ["get a\r\n", "get b\r\n", "gat 0 a\r\n", "mg a v\r\n", "add a 0 0 1\r\n2\r\n"] {
        assert_eq!(told(&engine, output(&engine, lines), &ALL), refused, "{lines:?}");
        assert_eq!(told(&engine, output(&engine, lines), &Below(0)), refused, "{lines:?} waits for nothing");
    }
    for (lines, answer) in [("set a 0 0 1\r\n2\r\n", "STORED\r\n"), ("incr a 1\r\n", "3\r\n")] {
        assert_eq!(told(&engine, output(&engine, lines), &ALL), answer);
    }
    engine.lease().set_until(u64::MAX);
    assert_eq!(told(&engine, output(&engine, "get a\r\n"), &ALL), "VALUE a 0 1\r\n3\r\nEND\r\n");
}

#[test]
fn what_was_read_is_not_shown_once_its_gate_has_changed() {
    let engine = strong();
    let shard = shard_of(&engine, "a");
    drop(output(&engine, "set a 0 0 1\r\n1\r\n"));
    let elsewhere = String::from_utf8(Refusal::ReadElsewhere.line().to_vec()).unwrap();
    let shown = output(&engine, "get a\r\n");
    engine.store().close_gates([shard], Some("127.0.0.1:7"));
    assert_eq!(told(&engine, shown, &ALL), elsewhere);
    let closed = told(&engine, output(&engine, "get a\r\n"), &ALL);
    assert!(closed.starts_with("SERVER_ERROR in strong mode") && closed.contains("127.0.0.1:7"), "{closed}");
    engine.store().open_gates([shard]);
    let shown = output(&engine, "get a\r\n");
    engine.store().close_gates([shard], None);
    engine.store().open_gates([shard]);
    assert_eq!(told(&engine, shown, &ALL), elsewhere, "somebody else may have written meanwhile");
    let other = (0..).map(|number| format!("k{number}")).find(|key| shard_of(&engine, key) != shard).unwrap();
    engine.store().close_gates([shard_of(&engine, &other)], None);
    assert_eq!(told(&engine, output(&engine, &format!("get a {other}\r\n")), &ALL), elsewhere, "of one of two keys");
}

/// A get that takes several turns: the values of each are a part, and none is shown where one
/// fails.
#[test]
fn a_get_in_parts_shows_nothing_of_a_part_that_fails() {
    let engine = strong();
    let keys: Vec<String> = (0..3 * KEYS_AHEAD_MAX).map(|number| format!("key-{number}")).collect();
    drop(output(&engine, &keys.iter().map(|key| format!("set {key} 0 0 1\r\n1\r\n")).collect::<String>()));
    let whole = keys.iter().map(|key| format!("VALUE {key} 0 1\r\n1\r\n")).collect::<String>() + "END\r\n";
    let line = format!("get {}\r\n", keys.join(" "));
    let mut seat = engine.store().join();
    for has_lease in [true, false] {
        let (turn, mut out, mut resume) = (seat.turn(), Output::default(), 0);
        let (stats, mut scratch, mut key) = (WorkerStats::default(), Vec::new(), [0; KEY_BYTES_MAX]);
        let Parsed::Request(request, _) = parse(line.as_bytes(), engine.parse_limits(), &mut key) else {
            panic!("it is a request")
        };
        let mut turns = 0;
        loop {
            let now = UnixSeconds::now();
            let (scratch, host, client) = (&mut scratch, &Nobody, &Nobody);
            let mut context = Context { turn: &turn, now, stats: &stats, scratch, keys_left: 0, host, client };
            let attempt = Attempt { resume, ..Attempt::default() };
            turns += 1;
            assert!(turns < 9, "it comes to its end");
            match engine.execute(&mut context, &request, engine.target(&request), attempt, &mut out) {
                Outcome::Resume(at) => resume = at,
                outcome => break assert_eq!(outcome, Outcome::Done),
            }
        }
        assert!(turns > 1 && out.is_in_parts());
        out.end_parts(out.last_line());
        assert_eq!(out.sendable_bytes(), 0, "nothing goes out before it is judged");
        engine.lease().set_until(if has_lease { u64::MAX } else { 0 });
        let refused = String::from_utf8(Refusal::NoLeaseToRead.line().to_vec()).unwrap();
        assert_eq!(told(&engine, out, &ALL), if has_lease { &*whole } else { &refused });
    }
}

/// A line that is longer than what is parsed at once ends in an error: of the part in which that
/// stands nothing else is shown, for nobody has waited for it.
#[test]
fn an_error_in_a_later_part_of_a_get_stands_alone() {
    let engine = strong();
    drop(output(&engine, "set a 0 0 1\r\n1\r\n"));
    let (bad, filler) = ("x".repeat(KEY_BYTES_MAX + 1), "key ".repeat(8 << 10));
    let line = format!(" a {bad} {filler}");
    let form = GetForm { with_cas: false, touch: None };
    let Parsed::Request(request, _) = parse_more_of_get(line.as_bytes(), form) else { panic!("it is a part") };
    let mut seat = engine.store().join();
    let (turn, mut out) = (seat.turn(), Output::default());
    let (stats, mut scratch) = (WorkerStats::default(), Vec::new());
    let (now, keys_left) = (UnixSeconds::now(), 100);
    let (scratch, host, client) = (&mut scratch, &Nobody, &Nobody);
    let mut context = Context { turn: &turn, now, stats: &stats, scratch, keys_left, host, client };
    let outcome = engine.execute(&mut context, &request, engine.target(&request), Attempt::default(), &mut out);
    assert_eq!(outcome, Outcome::DropLine);
    assert_eq!(String::from_utf8_lossy(out.bytes()), "CLIENT_ERROR bad command line format\r\n");
}

#[test]
fn where_the_policy_says_so_no_write_is_done_without_a_lease_that_nobody_acknowledges() {
    let engine = engine(0);
    assert_eq!(told(&engine, output(&engine, "set a 0 0 1\r\n1\r\n"), &ALL), "STORED\r\n");
    engine.set_sureness(Sureness { strong_replicas: 0, refuses: true });
    let before = engine.store().heads(engine.store().reign());
    let refused = String::from_utf8(Refusal::NoLeaseToWrite.line().to_vec()).unwrap();
    for lines in [
        "set a 0 0 1\r\n2\r\n",
        "delete a\r\n",
        "incr a 1\r\n",
        "touch a 9\r\n",
        "gat 9 a\r\n",
        "ms a 1\r\n2\r\n",
        "mg a t T9\r\n",
        "mg b N9\r\n",
        "flush_all\r\n",
    ] {
        assert_eq!(told(&engine, output(&engine, lines), &ALL), refused, "{lines:?}");
    }
    assert_eq!(told(&engine, output(&engine, "set a 0 0 1 noreply\r\n2\r\n"), &ALL), "");
    let large = format!("set a 0 0 70000\r\n{}\r\n", "x".repeat(70_000));
    assert!(told(&engine, output(&engine, &large), &ALL).contains("too large"));
    assert_eq!(engine.store().heads(engine.store().reign()), before, "nothing was done");
    assert_eq!(told(&engine, output(&engine, "get a\r\n"), &ALL), "VALUE a 0 1\r\n1\r\nEND\r\n");
    assert_eq!(told(&engine, output(&engine, "ms a 1 A1\r\n3\r\n"), &ALL), "HD\r\n", "it is acknowledged");
    engine.set_sureness(Sureness::default());
    assert_eq!(told(&engine, output(&engine, "set a 0 0 1\r\n4\r\n"), &ALL), "STORED\r\n");
}

#[test]
fn a_read_that_waits_too_long_is_an_error() {
    let engine = strong();
    let mut output = output(&engine, "get a\r\n");
    output.hold_within(Duration::ZERO);
    let told = told(&engine, output, &Below(0));
    assert!(told.starts_with("SERVER_ERROR not confirmed: 0 of 1 replicas"), "{told}");
}
