//! Bytes that are not what they should be: changed, stale, cut, or made on purpose. None of them
//! may reach the log.

use super::{SLABS, Setup, seeds};
use crate::author::Author;
use crate::compare::Logs;
use crate::pair::{primary, replica_of};
use fastrand::Rng;
use remora::base::term::Term;
use remora::store::line::BIRTH;
use remora::store::record::{Draft, Kind, Meta, Source, TERM_VALUE_BYTES};
use remora::store::seed::Seed;
use remora::store::{BadRecord, Follower, Geometry, History, Stop, Store};
use remora::sys::checksum::BodyChecksum;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const ONE: Setup = Setup { shards: 1, ..SLABS };
const TERM: Term = Term::of(1, 0xABC);

/// A follower that stands at `position` of [`TERM`].
fn at(replica: &Store, position: u64) -> Follower<'_> {
    let mut follower = replica.follower(0).expect("it is alone");
    assert!(follower.begin_at(position, &History::born(TERM, BIRTH)));
    follower
}

/// Every word of the replica's logs.
fn memory(replica: &Store) -> Vec<u64> {
    replica.pool().memory().words().iter().map(|word| word.load(Relaxed)).collect()
}

/// The words are refused, and the memory is as it was.
fn assert_refused(replica: &Store, position: u64, words: &[AtomicU64], expected: BadRecord) {
    let mut follower = at(replica, position);
    let before = memory(replica);
    let applied = follower.apply(words, position);
    assert_eq!((applied.stop, applied.bytes, applied.records), (Stop::Bad(expected), 0, 0));
    assert_eq!((follower.cursor(), follower.term()), (position, TERM));
    assert!(memory(replica) == before, "a byte of a refused record reached the log");
}

/// Random changes to a good log: all before the changed record is applied, nothing of it and behind
/// it. Only a set's metadata and what a pad skips are outside the checksum.
#[test]
fn a_changed_bit_never_reaches_the_log() {
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let mut random = Rng::with_seed(seed);
        let store = primary(ONE);
        let mut author = Author::new(&store);
        (0..1500).for_each(|_| author.step(&mut random, 100, 3000));
        let (shard, logs) = (&store.shards()[0], Logs::of(&store));
        let (tail, committed) = (shard.control().tail(), shard.control().committed());
        for _ in 0..60 {
            let replica = replica_of(&store);
            let words = logs.copy(0, tail, committed);
            let changed = random.usize(0..words.len());
            words[changed].fetch_xor(random.u64(1..) >> random.u32(0..64) | 1 << random.u32(0..64), Relaxed);
            let (mut follower, copy) = (at(&replica, tail), Logs::of(&replica));
            let (before, applied) = (memory(&replica), follower.apply(&words, tail));
            let changed_at = tail + changed as u64 * 8;
            let (begin, end, covered) = record_around(&store, changed_at);
            if !covered {
                assert_eq!(applied.stop, Stop::End, "nobody could notice, and nobody needs to");
                continue;
            }
            assert!(matches!(applied.stop, Stop::Bad(_) | Stop::Cut { .. }), "{:?} at {changed_at}", applied.stop);
            assert!((begin..end).contains(&changed_at) && follower.cursor() <= begin);
            let after = memory(&replica);
            let places = (begin..committed).step_by(8).filter_map(|position| copy.place(0, position));
            let untouched = places.into_iter().all(|place| after[place] == before[place]);
            assert!(untouched, "bytes at or behind {begin} were written");
        }
    }
}

/// Where the record begins and ends that has the word at `position`, and whether its checksum
/// covers that word. What lies between records (the end of a slab) is nobody's.
fn record_around(store: &Store, position: u64) -> (u64, u64, bool) {
    let shard = &store.shards()[0];
    let walked = shard.walk(shard.control().tail()).take_while(|(begin, _)| *begin <= position).last();
    let (begin, record) = walked.expect("the tail is a record's");
    let end = begin + record.shape.record_bytes() as u64;
    let word = (position - begin) / 8;
    let covered = match record.shape.kind() {
        // Its metadata lies outside the checksum.
        Kind::Set => word != 0,
        Kind::Pad => (word as usize) < record.shape.value_at().div_ceil(8) && record.shape.value_at() % 8 == 0,
        _ => true,
    };
    (begin, end, covered && position < end)
}

/// Records of another lap, or of another term, at the very same places.
#[test]
fn what_is_stale_is_refused() {
    let store = primary(ONE);
    let replica = replica_of(&store);
    let draft = Draft::new(Kind::Set, b"key", Meta::default(), 0, None, Source::Bytes(b"value"));
    let words: Vec<AtomicU64> = (0..draft.record_bytes() / 8).map(|_| AtomicU64::new(0)).collect();
    let lap = ONE.shard_bytes as u64;
    draft.write(&words, Seed::of(0, BIRTH + lap, TERM));
    assert_refused(&replica, BIRTH, &words, BadRecord::Checksum);
    assert_refused(&replica, BIRTH + 2 * lap, &words, BadRecord::Checksum);
    for other in [Term::of(2, 0xABC), Term::of(1, 0xABD), Term::NONE] {
        draft.write(&words, Seed::of(0, BIRTH, other));
        assert_refused(&replica, BIRTH, &words, BadRecord::Checksum);
    }
    draft.write(&words, Seed::of(0, BIRTH, TERM));
    let mut follower = at(&replica, BIRTH);
    assert_eq!(follower.apply(&words, BIRTH).stop, Stop::End);
    drop(follower);
    let zeroes: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
    assert_refused(&replica, BIRTH, &zeroes, BadRecord::NoRecord);
}

/// Whatever the cut, a record is applied whole or not at all, and what is wanted is never more than
/// there is.
#[test]
fn a_cut_record_waits_for_the_rest() {
    let store = primary(ONE);
    let replica = replica_of(&store);
    let mut author = Author::new(&store);
    author.set_value(&[b'k'; 250], &[7; 3000]);
    let committed = store.shards()[0].control().committed();
    let words = Logs::of(&store).copy(0, BIRTH, committed);
    for count in 0..=words.len() {
        let mut follower = at(&replica, BIRTH);
        let applied = follower.apply(&words[..count], BIRTH);
        let whole = [0, words.len()].into_iter().filter(|end| *end <= count).max().unwrap();
        assert_eq!((applied.bytes, follower.cursor()), (whole as u64 * 8, BIRTH + whole as u64 * 8));
        match applied.stop {
            Stop::End => assert_eq!(whole, count),
            Stop::Cut { wanted_bytes } => {
                assert!(wanted_bytes > (count - whole) * 8 && whole * 8 + wanted_bytes <= words.len() * 8);
            }
            other => panic!("{other:?} after {count} words"),
        }
    }
}

/// A record made by hand: any shape word, with a proper checksum. The body's bytes are all 1.
fn forged(shape: u32, body_bytes: usize, checked_bytes: usize, position: u64) -> Vec<AtomicU64> {
    let mut bytes = vec![0; 16];
    bytes.resize(16 + body_bytes, 1);
    bytes[12..16].copy_from_slice(&shape.to_le_bytes());
    seed(&mut bytes, checked_bytes, position, TERM);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    to_words(&bytes)
}

fn seed(bytes: &mut [u8], checked_bytes: usize, position: u64, term: Term) {
    let mut sum = BodyChecksum::default().update(&bytes[12..16]);
    if bytes[12] & 15 != Kind::Set as u8 {
        sum = sum.update(&bytes[..8]);
    }
    let crc = sum.update(&bytes[16..checked_bytes]).at(position << 7, term.0);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
}

fn to_words(bytes: &[u8]) -> Vec<AtomicU64> {
    bytes.as_chunks::<8>().0.iter().map(|chunk| AtomicU64::new(u64::from_le_bytes(*chunk))).collect()
}

fn shape(kind: u32, options: u32, key_bytes: u32, value_bytes: u32) -> u32 {
    kind | options << 4 | key_bytes << 7 | value_bytes << 15
}

/// Every rule for lengths and parts, broken one by one by a record whose checksum holds.
#[test]
fn a_record_made_as_none_is_made_is_refused() {
    let store = primary(ONE);
    let replica = replica_of(&store);
    let (set, delete, touch, flush, term, pad) = (1, 2, 3, 4, 5, 6);
    let (flags, cas, long) = (1, 2, 4);
    for (what, shape, body_bytes, expected) in [
        ("no key", shape(set, 0, 0, 8), 8, BadRecord::Malformed),
        ("a key of 251", shape(set, 0, 251, 0), 251, BadRecord::Malformed),
        ("a key of 255", shape(set, flags, 255, 0), 259, BadRecord::Malformed),
        ("a long value that is short", shape(set, long, 4, 0), 4 + 4, BadRecord::TooLong),
        ("two lengths", shape(set, long, 8, 1), 8 + 4, BadRecord::TooLong),
        ("longer than any record", shape(set, 0, 8, 4 << 10), 8 + (4 << 10), BadRecord::TooLong),
        ("longer than the slab", shape(set, 0, 8, 9 << 10), 64, BadRecord::TooLong),
        ("delete without a key", shape(delete, 0, 0, 0), 0, BadRecord::Malformed),
        ("delete with a value", shape(delete, 0, 3, 5), 8, BadRecord::Malformed),
        ("delete with flags", shape(delete, flags, 4, 0), 8, BadRecord::Malformed),
        ("touch with a CAS", shape(touch, cas, 8, 0), 16, BadRecord::Malformed),
        ("touch of no key", shape(touch, 0, 0, 0), 0, BadRecord::Malformed),
        ("flush with a key", shape(flush, 0, 8, 0), 8, BadRecord::Malformed),
        ("flush with a value", shape(flush, 0, 0, 8), 8, BadRecord::Malformed),
        ("a term of 8 bytes", shape(term, 0, 0, 8), 16, BadRecord::Malformed),
        ("a term of 24 bytes", shape(term, 0, 0, 24), 24, BadRecord::Malformed),
        ("a term with a key", shape(term, 0, 8, 16), 24, BadRecord::Malformed),
        ("a pad that ends before its slab", shape(pad, 0, 0, 16), 16, BadRecord::Malformed),
        ("kind 7", shape(7, 0, 0, 0), 0, BadRecord::NoRecord),
        ("kind 9, a set but for its highest bit", shape(9, 0, 4, 4), 8, BadRecord::NoRecord),
        ("kind 15", shape(15, 0, 0, 0), 0, BadRecord::NoRecord),
        ("kind 0", shape(0, 0, 3, 0), 8, BadRecord::NoRecord),
    ] {
        println!("{what}");
        assert_refused(&replica, BIRTH, &forged(shape, body_bytes, 16 + body_bytes, BIRTH), expected);
    }
    let good = forged(shape(set, 0, 4, 4), 8, 24, BIRTH);
    assert_eq!(at(&replica, BIRTH).apply(&good, BIRTH).stop, Stop::End, "the forger knows the trade");
    let long_value = long_set(8, 100);
    assert_refused(&replica, BIRTH, &long_value, BadRecord::Malformed);
    let padded = forged(shape(set, 0, 3, 0), 3, 19, BIRTH);
    padded[2].fetch_or(1 << 63, Relaxed);
    assert_refused(&replica, BIRTH, &padded, BadRecord::Malformed);
    let touch = forged(shape(touch, 0, 8, 0), 8, 24, BIRTH);
    touch[0].fetch_or(1 << 63, Relaxed);
    assert_refused(&replica, BIRTH, &touch, BadRecord::Checksum);
}

/// What ended the item at the primary may stand further on in the log. Until a replica comes by
/// that, the item is there.
#[test]
fn a_record_that_is_dead_at_the_primary_lives_here_until_its_end_is_replayed() {
    let store = primary(ONE);
    let replica = replica_of(&store);
    let dead = forged(shape(1, 0, 4, 4), 8, 24, BIRTH);
    dead[0].fetch_or(1 << 63, Relaxed);
    assert_eq!(at(&replica, BIRTH).apply(&dead, BIRTH).stop, Stop::End);
    let (_, here) = replica.shards()[0].walk(BIRTH).next().expect("it was applied");
    assert!(!here.meta().dead());
}

/// A set whose short value is said to be long.
fn long_set(key_bytes: usize, value_bytes: u32) -> Vec<AtomicU64> {
    let mut bytes = vec![1; (16 + key_bytes + 4 + value_bytes as usize).next_multiple_of(8)];
    let used = 16 + key_bytes + 4 + value_bytes as usize;
    bytes[used..].fill(0);
    bytes[..12].fill(0);
    bytes[12..16].copy_from_slice(&shape(1, 4, key_bytes as u32, 0).to_le_bytes());
    bytes[16 + key_bytes..][..4].copy_from_slice(&value_bytes.to_le_bytes());
    seed(&mut bytes, used, BIRTH, TERM);
    to_words(&bytes)
}

fn term_record(term: Term, begins: u64, position: u64) -> Vec<AtomicU64> {
    let mut value = [0; TERM_VALUE_BYTES];
    value[..8].copy_from_slice(&term.0.to_le_bytes());
    value[8..].copy_from_slice(&begins.to_le_bytes());
    let draft = Draft::new(Kind::Term, b"", Meta::default(), 0, None, Source::Bytes(&value));
    let words: Vec<AtomicU64> = (0..draft.record_bytes() / 8).map(|_| AtomicU64::new(0)).collect();
    draft.write(&words, Seed::of(0, position, term));
    words
}

#[test]
fn a_term_begins_where_it_says_and_only_after_the_one_before() {
    let store = primary(ONE);
    let replica = replica_of(&store);
    let next = Term::of(2, 0xABD);
    for (term, begins) in [
        (next, 72),
        (next, BIRTH),
        (TERM, 640),
        (Term::of(0, 0xABC), 640),
        (Term::of(1, 0xABD), 640),
        (Term::NONE, 640),
    ] {
        assert_refused(&replica, 640, &term_record(term, begins, 640), BadRecord::Malformed);
    }
    let mut follower = at(&replica, 640);
    let (first, second) = (term_record(next, 640, 640), Term::of(9, 0xABC));
    // Two terms and a set of the second in one piece.
    let draft = Draft::new(Kind::Set, b"key", Meta::default(), 0, None, Source::Bytes(b"value"));
    let set: Vec<AtomicU64> = (0..draft.record_bytes() / 8).map(|_| AtomicU64::new(0)).collect();
    draft.write(&set, Seed::of(0, 704, second));
    let words: Vec<AtomicU64> = first.into_iter().chain(term_record(second, 672, 672)).chain(set).collect();
    let applied = follower.apply(&words, 640);
    assert_eq!((applied.stop, applied.records, follower.term()), (Stop::End, 3, second));
    let history = replica.shards()[0].history();
    let begins: Vec<(Term, u64)> = history.starts().iter().map(|start| (start.term, start.begins)).collect();
    assert_eq!(begins, [(TERM, BIRTH), (next, 640), (second, 672)]);
    assert_eq!(replica.shards()[0].control().term_begin(), 672);
    let old = Draft::of_key(Kind::Flush, b"", Meta::default());
    let words: Vec<AtomicU64> = (0..old.record_bytes() / 8).map(|_| AtomicU64::new(0)).collect();
    old.write(&words, Seed::of(0, follower.cursor(), TERM));
    assert_eq!(follower.apply(&words, follower.cursor()).stop, Stop::Bad(BadRecord::Checksum));
}

/// Noise: nothing panics, nothing is applied, and no length that it happens to say is asked for
/// beyond what a log can have.
#[test]
fn noise_is_refused() {
    let store = primary(ONE);
    let replica = replica_of(&store);
    let geometry: Geometry = store.geometry();
    let mut random = Rng::with_seed(11);
    let mut stops = std::collections::HashSet::new();
    for _ in 0..20_000 {
        let words: Vec<AtomicU64> = (0..random.usize(0..40)).map(|_| AtomicU64::new(random.u64(..))).collect();
        // Often a kind that exists, and lengths that are possible.
        if let (Some(header), true) = (words.get(1), random.bool()) {
            let shape = shape(random.u32(1..7), random.u32(0..8), random.u32(0..256), random.u32(0..100));
            header.store(u64::from(shape) << 32, Relaxed);
        }
        let position = BIRTH + random.u64(0..20_000) / 8 * 8;
        let mut follower = at(&replica, position);
        let applied = follower.apply(&words, position);
        assert_eq!((applied.bytes, follower.cursor()), (0, position));
        match applied.stop {
            Stop::End => assert!(words.is_empty()),
            Stop::Cut { wanted_bytes } => assert!(wanted_bytes as u64 <= geometry.wanted_bytes_max()),
            Stop::NoRoom { .. } => panic!("the log is empty"),
            Stop::Bad(bad) => drop(stops.insert(bad.to_string())),
        }
    }
    assert_eq!(stops.len(), 4, "every kind of refusal: {stops:?}");
}
