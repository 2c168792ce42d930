//! Answers on their way out: partial writes, loans, and answers that are held for replicas.

mod forwarded;

use super::*;
use crate::base::lease::Lease;
use crate::base::limits::HELD_ANSWERS_MAX;
use crate::base::time::UnixSeconds;
use crate::engine::acks::{Goal, Holders, Kind, Reigns};
use crate::protocol::Reply;
use crate::store::{Fate, NewItem, Reign, StoreConfig};
use crate::sys::send::send_parts;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const SLAB_BYTES: usize = 4096;

/// Run `test` with loans of values of 21, 8, 0 and 5 bytes from a store. The first begins in one
/// slab and ends in the next.
fn with_loans(test: impl FnOnce(&Store, &Turn<'_>, [ValueLoan; 4])) {
    let config = StoreConfig {
        memory_bytes: 4 << 20,
        item_bytes_max: 1 << 16,
        shards: Some(1),
        hash_seed: Some((1, 2)),
        ..StoreConfig::default()
    };
    let store = Store::with_slabs(config, SLAB_BYTES).unwrap();
    let mut participant = store.join();
    let turn = participant.turn();
    // Header and key of the first take 17 bytes, so seven of its value are left before the slab
    // ends.
    let committed = store.heads(store.reign())[0] as usize;
    let filler = vec![b'f'; SLAB_BYTES - 24 - committed - 24];
    let at = store.locate(b"filler");
    let draft = store.draft(&at, NewItem { value: &filler, ..NewItem::default() }, NOW);
    store.lock(&at).unwrap().entry(&turn, NOW).set(&draft).expect("room for a page");
    let loans = [(b"a", 21), (b"b", 8), (b"c", 0), (b"d", 5)].map(|(key, bytes)| {
        let value: Vec<u8> = (0..bytes).map(|at| b'A' + at).collect();
        let at = store.locate(key);
        let draft = store.draft(&at, NewItem { value: &value, ..NewItem::default() }, NOW);
        store.lock(&at).unwrap().entry(&turn, NOW).set(&draft).expect("room for a few bytes");
        store.get(&turn, &at, NOW).expect("just set").loan()
    });
    assert_eq!(store.loaned(&turn, &loans[0]).runs().count(), 2);
    test(&store, &turn, loans);
}

/// Bytes before, between and behind loans, two loans side by side, and an empty one.
fn answers(loans: [ValueLoan; 4]) -> Output {
    let mut output = Output::default();
    output.bytes().extend_from_slice(b"VALUE a\r\n");
    output.lend(loans[0]);
    output.bytes().extend_from_slice(b"\r\n");
    output.lend(loans[1]);
    output.lend(loans[2]);
    output.lend(loans[3]);
    output.bytes().extend_from_slice(b"END\r\n");
    output
}

const STREAM: &[u8] = b"VALUE a\r\nABCDEFGHIJKLMNOPQRSTU\r\nABCDEFGHABCDEEND\r\n";

/// A socket that takes `room` bytes and notes them.
fn take(parts: &[Part<'_>], room: usize, taken: &mut Vec<u8>) -> io::Result<usize> {
    let mut offered = Vec::new();
    for part in parts {
        match part {
            Part::Bytes(bytes) => offered.extend_from_slice(bytes),
            Part::Words(span) => span.copy_to(&mut offered),
        }
    }
    let bytes = room.min(offered.len());
    taken.extend_from_slice(&offered[..bytes]);
    if bytes == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(bytes) }
}

#[test]
fn every_partial_write_goes_on_where_it_stopped_detached_or_not() {
    with_loans(|store, turn, loans| {
        for first in 0..=STREAM.len() {
            for second in 0..=STREAM.len() - first {
                for detach in [false, true] {
                    let mut output = answers(loans);
                    assert_eq!(output.pending_bytes(), STREAM.len());
                    let mut taken = Vec::new();
                    for room in [first, second, usize::MAX] {
                        let resolve = |loan: &ValueLoan| store.loaned(turn, loan);
                        output.write_with(resolve, |parts| take(parts, room, &mut taken)).unwrap();
                        assert_eq!(output.pending_bytes(), STREAM.len() - taken.len());
                        if detach {
                            output.detach(store, turn);
                            assert!(output.loans.is_empty());
                        }
                    }
                    assert!(output.is_empty() && output.loans.is_empty());
                    assert_eq!(taken, STREAM, "cut at {first} and {second}, detached: {detach}");
                }
            }
        }
    });
}

#[test]
fn more_parts_than_one_write_takes_are_written_by_several() {
    with_loans(|store, turn, loans| {
        let mut output = Output::default();
        let mut expected = Vec::new();
        for byte in 0..100u8 {
            output.bytes().push(byte);
            output.lend(loans[3]);
            expected.push(byte);
            expected.extend_from_slice(b"ABCDE");
        }
        let mut taken = Vec::new();
        while !output.is_empty() {
            let resolve = |loan: &ValueLoan| store.loaned(turn, loan);
            output.write_with(resolve, |parts| take(parts, usize::MAX, &mut taken)).unwrap();
        }
        assert_eq!(taken, expected);
    });
}

#[test]
fn loans_reach_a_real_socket() {
    use std::io::Read;
    with_loans(|store, turn, loans| {
        let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut output = answers(loans);
        let published = || store.shards()[0].control().committed();
        assert!(published() < store.heads(store.reign())[0], "the turn goes on");
        assert_eq!(output.write_out(|parts| send_parts(&near, parts), store, turn).unwrap(), Some(STREAM.len()));
        assert_eq!(
            published(),
            store.heads(store.reign())[0],
            "no byte leaves before what the turn has written is published"
        );
        let mut read = vec![0; STREAM.len()];
        far.read_exact(&mut read).unwrap();
        assert_eq!(read, STREAM);
    });
}

#[test]
fn what_stays_behind_keeps_little_memory_and_errors_are_told() {
    with_loans(|store, turn, _| {
        let mut output = Output::default();
        output.bytes().reserve(1 << 20);
        output.bytes().extend_from_slice(b"left");
        output.detach(store, turn);
        assert!(output.capacity_bytes() < 1024 && output.pending_bytes() == 4);
        let resolve = |loan: &ValueLoan| store.loaned(turn, loan);
        let broken = output.write_with(resolve, |_| Err(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    });
}

/// So many replicas that have applied everything below a position.
struct Applied {
    replicas: usize,
    below: u64,
}

impl Holders for Applied {
    fn holders(&self, _shard: usize, position: u64) -> usize {
        if position <= self.below { self.replicas } else { 0 }
    }
}

/// Shards that take writes as they always did.
struct Unchanged;

impl Reigns for Unchanged {
    fn fate(&self, _shard: usize, _reign: Reign) -> Fate {
        Fate::Here
    }

    fn is_open(&self, _shard: usize) -> bool {
        true
    }
}

/// One replica has applied everything below `below`; the answers that [`held`] made have waited for
/// so long.
fn resolve(output: &mut Output, below: u64, waited: Duration) -> (usize, usize) {
    let holders = Applied { replicas: 1, below };
    let judge =
        Judge { holders: &holders, now: since() + waited, ending: false, reigns: &Unchanged, lease: &Lease::default() };
    assert_eq!(output.is_resolvable(&judge), output.resolve(&judge).answers > 0 || !output.loans.is_empty());
    // Asked again, for what was let go of above is let go of.
    assert_eq!(output.resolve(&judge), Resolved::default());
    (output.held.as_ref().map_or(0, |held| held.queue.len()), output.sendable_bytes())
}

fn goal_bytes(output: &Output) -> usize {
    output.held.as_ref().map_or(0, |held| held.goal_bytes)
}

fn since() -> Instant {
    static SINCE: OnceLock<Instant> = OnceLock::new();
    *SINCE.get_or_init(Instant::now)
}

const WITHIN: Duration = Duration::from_millis(50);
const NO_TIME: Duration = Duration::ZERO;

fn held(kind: Kind, position: u64, replicas: u8) -> Held {
    Held {
        kind,
        goal: Goal::Shard { shard: 0, position },
        reign: Reign::BIRTH,
        replicas,
        since: since(),
        within: WITHIN,
    }
}

/// An answer to a write that ended at `position`.
fn write(output: &mut Output, answer: &[u8], position: u64, replicas: u8) {
    let begin = output.end();
    output.bytes().extend_from_slice(answer);
    output.hold(begin, held(Kind::Write(Reply::Text), position, replicas));
}

/// What the socket gets when it takes up to `room` bytes.
fn sent(output: &mut Output, room: usize) -> String {
    let mut taken = Vec::new();
    let resolve = |_: &ValueLoan| panic!("nothing is lent");
    output.write_with(resolve, |parts| take(parts, room, &mut taken)).unwrap();
    String::from_utf8(taken).unwrap()
}

#[test]
fn answers_behind_a_held_one_keep_their_order() {
    let mut output = Output::default();
    output.bytes().extend_from_slice(b"first ");
    write(&mut output, b"STORED1 ", 100, 1);
    output.bytes().extend_from_slice(b"VALUE ");
    write(&mut output, b"STORED2 ", 200, 1);
    output.bytes().extend_from_slice(b"END");
    assert_eq!((output.sendable_bytes(), output.pending_bytes(), output.is_empty()), (6, 31, false));
    assert_eq!(sent(&mut output, 2), "fi");
    assert_eq!(sent(&mut output, usize::MAX), "rst ");
    assert_eq!(sent(&mut output, usize::MAX), "", "no call is made for what is held");
    assert_eq!(resolve(&mut output, 99, NO_TIME), (2, 0));
    assert_eq!(resolve(&mut output, 199, NO_TIME), (1, 14));
    assert_eq!(sent(&mut output, usize::MAX), "STORED1 VALUE ");
    assert_eq!(resolve(&mut output, 200, NO_TIME), (0, 11));
    assert_eq!(sent(&mut output, usize::MAX), "STORED2 END");
    assert!(output.is_empty());
}

#[test]
fn what_is_not_acknowledged_in_time_becomes_an_error_in_its_place() {
    let mut output = Output::default();
    output.bytes().extend_from_slice(b"0");
    write(&mut output, b"STORED\r\n", 100, 2);
    output.bytes().extend_from_slice(b"END\r\n");
    write(&mut output, b"STORED\r\n", 101, 1);
    write(&mut output, b"", 100, 2);
    output.bytes().extend_from_slice(b"MN\r\n");
    write(&mut output, b"", 100, 1);
    write(&mut output, b"DELETED\r\n", 300, 1);
    assert_eq!(resolve(&mut output, 200, NO_TIME), (5, 1));
    assert_eq!(sent(&mut output, 1), "0");
    let holders = Applied { replicas: 1, below: 200 };
    let judge =
        Judge { holders: &holders, now: since() + WITHIN, ending: false, reigns: &Unchanged, lease: &Lease::default() };
    assert_eq!(output.resolve(&judge), Resolved { answers: 5, failed: 3 });
    let error = |count, wanted| {
        format!(
            "SERVER_ERROR not acknowledged: {count} of {wanted} replicas have it after 50 ms; it is stored here\r\n"
        )
    };
    let expected = format!("{}END\r\nSTORED\r\n{}MN\r\n{}", error(1, 2), error(1, 2), error(0, 1));
    assert_eq!(sent(&mut output, usize::MAX), expected);
    assert!(output.is_empty());
}

#[test]
fn held_answers_behind_a_replaced_one_keep_their_places() {
    let mut output = Output::default();
    for (position, replicas) in [(1, 1), (1, 2), (300, 1), (1, 1)] {
        write(&mut output, b"STORED ", position, replicas);
        output.bytes().extend_from_slice(b"MN ");
    }
    // The third is younger than the others.
    let queue = &mut output.held.as_mut().expect("four are held").queue;
    let Wait::Acks { held: third, .. } = &mut queue[2].1 else { panic!("it waits for replicas") };
    third.since += WITHIN;
    assert_eq!(resolve(&mut output, 200, WITHIN).0, 2);
    let first = sent(&mut output, usize::MAX);
    assert!(first.starts_with("STORED MN SERVER_ERROR not acknowledged: 1 of 2") && first.ends_with("\r\nMN "));
    assert_eq!(resolve(&mut output, 300, WITHIN), (0, 20));
    assert_eq!(sent(&mut output, usize::MAX), "STORED MN STORED MN ");
}

#[test]
fn wait_is_answered_with_the_count_when_it_is_due() {
    for (replicas, waited, answer) in [(1, NO_TIME, "REPLICAS 1\r\n"), (2, NO_TIME, ""), (2, WITHIN, "REPLICAS 1\r\n")]
    {
        let mut output = Output::default();
        let begin = output.end();
        let goal = Goal::All([100, 150].into());
        output.hold(begin, Held { goal, ..held(Kind::Count, 0, replicas) });
        assert_eq!(goal_bytes(&output), 16);
        output.bytes().extend_from_slice(b"MN");
        resolve(&mut output, 200, waited);
        let expected = if answer.is_empty() { String::new() } else { format!("{answer}MN") };
        assert_eq!(sent(&mut output, usize::MAX), expected);
        assert_eq!(goal_bytes(&output) == 0, !answer.is_empty());
    }
}

#[test]
fn loans_before_and_behind_a_held_answer() {
    with_loans(|store, turn, loans| {
        let mut output = Output::default();
        output.bytes().extend_from_slice(b"a ");
        output.lend(loans[1]);
        write(&mut output, b"STORED", 100, 2);
        output.bytes().extend_from_slice(b"b ");
        output.lend(loans[3]);
        write(&mut output, b"DELETED", 100, 1);
        let mut taken = Vec::new();
        let resolve_loan = |loan: &ValueLoan| store.loaned(turn, loan);
        output.write_with(resolve_loan, |parts| take(parts, 5, &mut taken)).unwrap();
        assert_eq!(resolve(&mut output, 200, WITHIN), (2, 5), "not while something is lent");
        output.detach(store, turn);
        assert_eq!((output.sendable_bytes(), output.pending_bytes()), (5, 5 + 6 + 2 + 5 + 7));
        resolve(&mut output, 200, WITHIN);
        taken.extend_from_slice(sent(&mut output, usize::MAX).as_bytes());
        let error = "SERVER_ERROR not acknowledged: 1 of 2 replicas have it after 50 ms; it is stored here\r\n";
        assert_eq!(String::from_utf8(taken).unwrap(), format!("a ABCDEFGH{error}b ABCDEDELETED"));
    });
}

#[test]
fn held_answers_are_bounded_and_so_is_what_they_keep() {
    let mut output = Output::default();
    for position in 0..HELD_ANSWERS_MAX as u64 {
        assert!(output.takes_more());
        write(&mut output, b"STORED\r\n", position, 1);
    }
    assert!(output.is_full() && output.sendable_bytes() == 0 && !output.takes_more());
    assert_eq!(resolve(&mut output, 0, NO_TIME), (HELD_ANSWERS_MAX - 1, 8));
    assert!(!output.takes_more(), "first the client takes what there is");
    sent(&mut output, usize::MAX);
    assert!(output.takes_more());
    assert_eq!(output.abandon_held(), HELD_ANSWERS_MAX - 1);

    // wait remembers a position of every shard: that is memory as well.
    let mut output = Output::default();
    for _ in 0..OUTPUT_BYTES_HIGH / 4096 {
        assert!(output.takes_more());
        let begin = output.end();
        output.hold(begin, Held { goal: Goal::All([1; 512].into()), ..held(Kind::Count, 0, 1) });
    }
    assert!(output.is_full());
}

/// While some answer is always held, an output that is written all the time does not grow.
#[test]
fn a_stream_that_never_ends_keeps_little() {
    with_loans(|store, turn, _| {
        let mut output = Output::default();
        let mut taken = 0;
        for position in 1..10_000 {
            write(&mut output, b"STORED\r\n", position, 1);
            resolve(&mut output, position - 1, NO_TIME);
            taken += sent(&mut output, usize::MAX).len();
            output.detach(store, turn);
            assert!(output.capacity_bytes() < 1024, "{} at {position}", output.capacity_bytes());
        }
        assert_eq!(taken, 9998 * 8);
    });
}
