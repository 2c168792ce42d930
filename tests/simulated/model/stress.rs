//! Several threads on shards of tiny logs, so that reclaim and second chances never rest while
//! readers read.
//!
//! Every value proves itself: key, version, filler, checksum. Each key has one writer, so a reader
//! must never see its version go back. (A miss is always allowed: the logs are tiny.)

use super::BEGIN;
use crate::pair::{Setup, primary_with_room};
use crate::support::harness::{self, Client};
use crate::support::wait::LONG;
use remora::engine::Engine;
use remora::sys::checksum::BodyChecksum;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const WRITERS: usize = 2;
const READERS: usize = 2;
const KEYS_PER_WRITER: u64 = 40;
const ROUNDS: u64 = 6_000;
/// A store whose memory changes: between this and twice as much.
const SETUP: Setup =
    Setup { shard_bytes: 16 << 10, slab_bytes: 4 << 10, shards: 4, item_bytes_max: 2 << 10, evict: true };
const MEMORY_BYTES: usize = SETUP.shard_bytes * SETUP.shards;
/// Values that readers must have checked: waited for, however the machine shares its cores.
const SEEN_MIN: u64 = 1_000;

/// `key version filler checksum`, with no digit left to chance.
fn value(key: &str, version: u64, filler_bytes: usize) -> String {
    let body = format!("{key} {version} {}", "f".repeat(filler_bytes));
    let sum = BodyChecksum::default().update(body.as_bytes()).at(version, 0);
    format!("{body} {sum:08x}")
}

/// The version in a value, if it is one that a writer wrote, perhaps with appended dots.
fn version(key: &str, value: &str) -> Option<u64> {
    let value = value.trim_end_matches('.');
    let mut words = value.split(' ');
    let (found, version) = (words.next()?, words.next()?.parse::<u64>().ok()?);
    let filler = words.next()?;
    (found == key && value == self::value(key, version, filler.len())).then_some(version)
}

#[test]
fn a_damaged_value_is_noticed() {
    let good = value("k", 7, 20);
    assert_eq!(version("k", &good), Some(7));
    assert_eq!(version("k", &(good.clone() + "..")), Some(7));
    assert_eq!(version("other", &good), None);
    assert_eq!(version("k", &good.replacen("ff", "fg", 1)), None);
    assert_eq!(version("k", &good.replacen('7', "8", 1)), None);
}

/// So many rounds, and more until readers have seen enough.
fn write(client: &mut Client<'_>, writer: usize, rng: &mut fastrand::Rng, seen: &AtomicU64) {
    let end = Instant::now() + LONG;
    let goes_on = |round: &u64| *round <= ROUNDS || seen.load(Relaxed) < SEEN_MIN && Instant::now() < end;
    for round in (1..).take_while(goes_on) {
        let key = format!("w{writer}:{}", rng.u64(0..KEYS_PER_WRITER));
        let answer = match rng.u32(0..10) {
            0 => client.ask(&format!("delete {key}\r\n")),
            1..3 => client.ask(&format!("append {key} 0 0 2\r\n..\r\n")),
            3 => client.ask(&format!("touch {key} 0\r\n")),
            4 => client.ask(&format!("md {key} I\r\nmg {key}\r\n")),
            _ => {
                let value = value(&key, round, rng.usize(0..600));
                client.ask(&format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()))
            }
        };
        assert!(!answer.contains("ERROR"), "{answer:?} to writer {writer} in round {round}");
    }
}

/// Read until the writers are done; `seen` counts what was seen and checked.
fn read(client: &mut Client<'_>, done: &AtomicBool, rng: &mut fastrand::Rng, seen: &AtomicU64) {
    let mut newest = std::collections::HashMap::<String, u64>::new();
    while !done.load(Relaxed) {
        let key = format!("w{}:{}", rng.usize(0..WRITERS), rng.u64(0..KEYS_PER_WRITER));
        let answer = client.ask(&format!("get {key}\r\n"));
        let Some(value) = answer.lines().nth(1) else {
            assert_eq!(answer, "END\r\n");
            continue;
        };
        let version = version(&key, value).unwrap_or_else(|| panic!("{key} is damaged: {answer:?}"));
        let newest = newest.entry(key.clone()).or_default();
        assert!(version >= *newest, "{key} went back from version {newest} to {version}");
        *newest = version;
        seen.fetch_add(1, Relaxed);
    }
}

/// Writers and readers of one store at once; `meanwhile` goes on in a thread of its own until the
/// writers are done.
fn write_and_read(engine: &Engine, meanwhile: impl Fn(&AtomicBool) + Sync) {
    let (done, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (meanwhile, ended) = (&meanwhile, &done);
        scope.spawn(move || meanwhile(ended));
        for reader in 0..READERS {
            let (done, seen) = (&done, &seen);
            scope.spawn(move || {
                let mut client = Client::new(engine, WRITERS + reader, BEGIN);
                read(&mut client, done, &mut fastrand::Rng::with_seed(reader as u64), seen);
            });
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let seen = &seen;
                scope.spawn(move || {
                    let mut client = Client::new(engine, writer, BEGIN);
                    write(&mut client, writer, &mut fastrand::Rng::with_seed(100 + writer as u64), seen);
                })
            })
            .collect();
        let failed = writers.into_iter().filter_map(|writer| writer.join().err()).count();
        // Even when a writer has failed: otherwise the readers would read for ever.
        done.store(true, Relaxed);
        assert_eq!(failed, 0, "writers failed");
    });
    let stats = engine.store().stats();
    assert!(stats.counts.appended_bytes > 10 * stats.capacity_bytes, "the log has hardly moved: {stats:?}");
    assert!(stats.counts.reinserted_items > 0, "nothing was moved: {stats:?}");
    assert!(seen.load(Relaxed) >= SEEN_MIN, "only {} values were read", seen.load(Relaxed));
}

#[test]
fn readers_see_whole_values_that_never_go_back() {
    let engine = harness::engine(64 << 10, 1, 8 << 10, true, WRITERS + READERS);
    write_and_read(&engine, |_done| {});
}

/// The same while the memory grows and shrinks, so that slabs go from one shard to another.
#[test]
fn and_while_slabs_change_hands() {
    let store = primary_with_room(SETUP);
    let engine = harness::over(store, SETUP.item_bytes_max, WRITERS + READERS);
    let resized = AtomicU64::new(0);
    write_and_read(&engine, |done| {
        let mut random = fastrand::Rng::with_seed(7);
        while !done.load(Relaxed) {
            let memory_bytes = random.usize(MEMORY_BYTES..=2 * MEMORY_BYTES) as u64;
            engine.store().set_memory(memory_bytes).expect("the pool has so much");
            resized.fetch_add(1, Relaxed);
            // So that the logs come to have what they are to have.
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert!(resized.load(Relaxed) > 10, "{resized:?}");
}

#[test]
fn of_many_clients_one_wins() {
    let engine = harness::engine(1 << 20, 1, 8 << 10, true, 4);
    let mut setup = Client::new(&engine, 0, BEGIN);
    for round in 0..200 {
        let expected = if round % 2 == 0 { "stale" } else { "vivified" };
        setup.ask(&format!("delete {expected}\r\n"));
        if round % 2 == 0 {
            setup.ask("set stale 0 0 1\r\na\r\nmd stale I\r\n");
        }
        let (won, barrier) = (AtomicU64::new(0), std::sync::Barrier::new(3));
        std::thread::scope(|scope| {
            for worker in 1..4 {
                let (engine, won, barrier) = (&engine, &won, &barrier);
                scope.spawn(move || {
                    let mut client = Client::new(engine, worker, BEGIN);
                    barrier.wait();
                    let answer = client.ask(&format!("mg {expected} v N30\r\n"));
                    won.fetch_add(u64::from(answer.contains(" W")), Relaxed);
                });
            }
        });
        assert_eq!(won.load(Relaxed), 1, "round {round}: {expected}");
    }
}
