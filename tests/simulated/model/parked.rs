//! A request that finds no room in its middle goes on where it was, once there is room.

use super::BEGIN;
use crate::support::harness::{self, Client};
use crate::support::wait::LONG;
use remora::base::time::UnixSeconds;
use remora::store::{NewItem, NoRoom, Store, TailGuard};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Instant;

const KEYS: usize = 100;

/// Each touch of a gat is a record. Somebody who does not end his turn keeps all room from being
/// used again, until a request waits for it.
#[test]
fn what_was_answered_before_the_wait_is_not_answered_again() {
    let engine = harness::engine(64 << 10, 1, 8 << 10, true, 2);
    engine.store().log_touches();
    let mut client = Client::new(&engine, 0, BEGIN);
    let keys: Vec<String> = (0..KEYS).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        assert_eq!(client.ask(&format!("set {key} 0 0 5\r\nvalue\r\n")), "STORED\r\n");
    }
    let expected: String =
        keys.iter().map(|key| format!("VALUE {key} 0 5\r\nvalue\r\n")).collect::<String>() + "END\r\n";
    let request = format!("gat 3600 {}\r\n", keys.join(" "));
    let store = engine.store();
    let waits = || store.stats().counts.parked;
    for _ in 0..5 {
        let before = waits();
        let (inside, ready) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut seat, until) = (store.join(), Instant::now() + LONG);
                let turn = seat.turn();
                inside.send(()).expect("somebody waits for it");
                while waits() == before && Instant::now() < until {
                    std::thread::yield_now();
                }
                drop(turn);
            });
            ready.recv().expect("it begins a turn");
            (0..1000).take_while(|_| waits() == before).for_each(|_| assert_eq!(client.ask(&request), expected));
            assert!(waits() > before, "no request had to wait");
        });
    }
    assert!(client.parked > 0);
}

/// Holds the whole log of shard 1 until it was asked so often.
struct HoldsOne {
    asks_left: AtomicU64,
}

impl TailGuard for HoldsOne {
    fn floor(&self, shard: usize, wanted: u64) -> u64 {
        let holds = shard == 1 && self.asks_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        if holds { 0 } else { wanted }
    }

    fn begins_anew(&self, _shard: usize) {}
}

/// Write to shard 1 until it has no room.
fn fill_shard_one(store: &Store) {
    let (mut seat, now) = (store.join(), UnixSeconds(BEGIN));
    let is_full = (0..10_000).map(|number| format!("key-{number}")).any(|key| {
        let (turn, at) = (seat.turn(), store.locate(key.as_bytes()));
        let draft = store.draft(&at, NewItem { value: &[7; 100], ..NewItem::default() }, now);
        at.place.shard() == 1 && store.lock(&at).unwrap().entry(&turn, now).set(&draft) == Err(NoRoom::Now)
    });
    assert!(is_full);
}

/// It waits for one shard for some seconds. The other one, which had room at once, is told of it
/// once, and all shards of the same second.
#[test]
fn a_delayed_flush_that_waits_for_room_keeps_its_second() {
    let engine = harness::engine(64 << 10, 2, 8 << 10, true, 1);
    let store = engine.store();
    let guard: Arc<dyn TailGuard> = Arc::new(HoldsOne { asks_left: AtomicU64::new(200) });
    assert!(store.set_tail_guard(&guard));
    fill_shard_one(store);
    let mut client = Client::new(&engine, 0, BEGIN);
    client.parked_seconds = 1;
    assert_eq!(client.ask("flush_all 5000\r\n"), "OK\r\n");
    assert!(client.parked > 2 && client.parked < 1000, "{}", client.parked);
    for shard in store.shards() {
        let due = shard.walk(shard.control().tail()).filter_map(|(_, record)| record.flush_due());
        assert_eq!(due.collect::<Vec<_>>(), [UnixSeconds(BEGIN + 5000)]);
    }
}
