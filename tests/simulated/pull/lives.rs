//! Replicas that are restarted, primaries that are replaced, and readers that stay inside for long.

use super::run::{Run, Seen};
use super::{LARGE, SHARDS, SLABS, Setup, is_whole, seeds};
use crate::author::Author;
use crate::clock;
use crate::pair::{NOW, primary, primary_of, replica_of};
use crate::session::{Network, Offered};
use remora::base::term::Term;
use remora::fabric::sim::Faults;
use std::sync::Arc;
use std::time::Duration;

const ONE: Setup = Setup { shards: 1, ..SLABS };

#[test]
fn a_restarted_replica_joins_anew() {
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let store = Arc::new(primary(SHARDS));
        let (first, second) = (replica_of(&store), replica_of(&store));
        let mut run = Run::new(seed, SHARDS, 100, &store, &first);
        run.faults = Faults::unkind();
        run.drive(60);
        run.end_session();
        run.replica = &second;
        run.ledger.forget_seen();
        run.drive(60);
        run.settle();
        run.end_session();
        assert!(run.seen.counts.joined >= SHARDS.shards as u64);
    }
}

/// Another primary, with the same layout and another past: the old items go, whatever the network
/// does meanwhile.
#[test]
fn a_primary_is_replaced_by_another() {
    let mut seen = Seen::default();
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let first = Arc::new(primary(SLABS));
        let second = Arc::new(primary_of(SLABS, Term::of(1, 0xDEF)));
        let replica = replica_of(&first);
        let mut run = Run::new(seed, SLABS, 100, &first, &replica);
        run.drive(50 + seed as usize % 7 * 30);
        if seed % 2 == 0 {
            run.settle();
        }
        run.end_session();
        let mut run = Run::of_lineage(seed, SLABS, 100, &second, &replica, run.ledger);
        run.write((seed % 4) as usize * 60);
        run.faults = if seed % 3 == 0 { Faults { cut: 0.1, ..Faults::unkind() } } else { Faults::unkind() };
        run.drive(100);
        run.settle();
        assert_eq!(replica.histories(), second.histories());
        run.end_session();
        seen.add(&run.seen);
    }
    assert!(!is_whole() || seen.counts.diverged > 0 && seen.closed > 0);
}

/// What a reader holds stays as it is for laps of the primary's; the applier waits, and goes on
/// when the reader has left.
#[test]
fn an_applier_waits_for_a_reader() {
    let store = Arc::new(primary(ONE));
    let replica = replica_of(&store);
    let mut run = Run::new(1, ONE, 60, &store, &replica);
    run.write(400);
    run.settle();
    let mut reader = replica.join();
    let turn = reader.turn();
    let held: Vec<_> = (0..10).flat_map(|_| run.ledger.look(&replica, &turn, &mut run.random, 60, NOW)).collect();
    assert!(!held.is_empty());
    let line = replica.shards()[0].control();
    let (tail, before) = (line.tail(), store.stats().counts.appended_bytes);
    let mut highest = 0;
    while store.stats().counts.appended_bytes - before < 5 * ONE.shard_bytes as u64 {
        run.write(3);
        run.pull();
        held.iter().for_each(super::ledger::Held::assert_unchanged);
        highest = highest.max(line.committed());
    }
    assert!(highest <= tail + ONE.shard_bytes as u64 && highest < store.shards()[0].control().committed());
    drop(held);
    drop(turn);
    run.settle();
    run.end_session();
    assert!(run.seen.counts.overrun > 0);
}

/// Records of `bytes` bytes, each applied before the next is written, while a reader stays inside;
/// until one finds no room. The primary rests from then on, and the reader leaves.
#[test]
fn a_last_record_in_pieces_that_found_no_room_is_applied_when_there_is() {
    let store = Arc::new(primary(LARGE));
    let replica = replica_of(&store);
    let mut run = Run::new(1, LARGE, 60, &store, &replica);
    run.write(600);
    run.settle();
    let mut reader = replica.join();
    let turn = reader.turn();
    let (mine, theirs) = (replica.shards()[0].control(), store.shards()[0].control());
    let mut key = 0;
    loop {
        key += 1;
        // A new puller begins with short pieces.
        run.end_session();
        run.writer.set(&mut run.ledger, key % 60, 20_000);
        (0..50).for_each(|_| run.pull());
        if mine.committed() < theirs.committed() {
            break;
        }
        assert!(key < 100, "there is room for ever");
    }
    drop(turn);
    run.settle();
}

/// A record at the tail that is longer than what is given up at once does not stop it.
#[test]
fn room_is_made_behind_a_long_record() {
    let store = Arc::new(primary(LARGE));
    let replica = replica_of(&store);
    let mut run = Run::new(1, LARGE, 60, &store, &replica);
    run.writer.set(&mut run.ledger, 0, 110_000);
    (1..30).for_each(|key| run.writer.set(&mut run.ledger, key, 10_000));
    run.settle();
    let before = replica.shards()[0].control().tail();
    assert!(before < 110_000, "the long record is the next to go");
    (1..22).for_each(|key| run.writer.set(&mut run.ledger, key, 10_000));
    run.settle();
    run.end_session();
    assert_eq!((run.seen.counts.overrun, run.seen.remade), (0, 1));
}

/// What lacks room only because a reader is inside gets no more room by giving up more. What is
/// given up early may have been moved, to where this replica has not come yet.
#[test]
fn no_more_is_given_up_while_a_reader_keeps_the_room() {
    const VALUE: [u8; 1000] = [7; 1000];
    const SLACK_BYTES_MAX: u64 = (64 << 10) + 2 * 1100;
    let setup = Setup { shard_bytes: 1 << 20, slab_bytes: 16 << 10, shards: 1, item_bytes_max: 2 << 10, evict: true };
    let store = Arc::new(primary(setup));
    let replica = replica_of(&store);
    let mut author = Author::new(&store);
    let mut numbers = 0..;
    let mut write = |count| {
        for number in numbers.by_ref().take(count) {
            author.set_value(format!("key-{number}").as_bytes(), &VALUE).expect("there is room");
        }
    };
    write(2000);
    let mut session = Network::new(1).connect(&Offered::of(&store), &replica, &Faults::default());
    let mut step = || {
        clock::pass(Duration::from_micros(20));
        session.step().expect("nothing goes wrong");
        session.puller.is_caught_up()
    };
    assert!((0..100_000).any(|_| step()), "it joins");
    let mut reader = replica.join();
    let turn = reader.turn();
    write(700);
    (0..2000).for_each(|_| _ = step());
    let (theirs, ours) = (store.shards()[0].control(), replica.shards()[0].control());
    let needed = (ours.committed() + 1100).saturating_sub(ours.capacity_bytes());
    assert!(theirs.tail() > needed + 4 * SLACK_BYTES_MAX, "{} is given up there, {needed} needed", theirs.tail());
    assert!(ours.tail() <= needed + SLACK_BYTES_MAX, "{} is given up, {needed} needed", ours.tail());
    drop(turn);
    assert!((0..100_000).any(|_| step()), "it goes on");
    assert_eq!(ours.tail(), theirs.tail());
}
