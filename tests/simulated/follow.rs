//! A replica's store: what it makes of its primary's bytes, whatever pieces they come in, however
//! late, and whatever is wrong with them.
//!
//! Failures name their seed; `REMORA_SEED=<seed> cargo test --test simulated follow::` replays it
//! alone.

mod concurrent;
mod flushes;
mod foreign;
mod going_back;
mod turns;

use crate::author::Author;
use crate::compare::assert_same;
use crate::link::Link;
use crate::pair::{Setup, primary, replica_of};
use fastrand::Rng;

const SEEDS: u64 = 4;

fn seeds() -> Vec<u64> {
    crate::support::seeds(SEEDS)
}

/// Small records, slabs that records must not cross, several shards.
const SLABS: Setup =
    Setup { shard_bytes: 64 << 10, slab_bytes: 8 << 10, shards: 2, item_bytes_max: 4 << 10, evict: true };
/// One slab, values of many pages.
const LARGE: Setup =
    Setup { shard_bytes: 512 << 10, slab_bytes: 64 << 10, shards: 1, item_bytes_max: 100 << 10, evict: true };
/// Nothing is evicted: every item is moved, again and again.
const NO_EVICTION: Setup =
    Setup { shard_bytes: 64 << 10, slab_bytes: 16 << 10, shards: 1, item_bytes_max: 2 << 10, evict: false };

/// A random history, pulled now and then; compared whenever the replica has come up.
fn follow(setup: Setup, keys: usize, steps: usize) {
    let (mut jumps, mut cuts, mut laps, mut again) = (0, 0, 0, 0);
    for seed in seeds() {
        println!("REMORA_SEED={seed} {setup:?}");
        let (store, mut random) = (primary(setup), Rng::with_seed(seed));
        let replica = replica_of(&store);
        let (mut author, mut link) = (Author::new(&store), Link::new(&store, &replica));
        let value_bytes_max = setup.item_bytes_max - 300;
        // Now it keeps up, now it hardly looks.
        let mut idle = 10;
        for step in 0..steps {
            author.step(&mut random, keys, value_bytes_max);
            if step % 1000 == 0 {
                idle = [1, 10, 100, 3000][random.usize(0..4)];
            }
            if random.usize(0..idle) == 0 {
                let piece_bytes = if random.bool() { random.usize(1..40) } else { random.usize(1..4000) } * 8;
                link.pull(random.usize(0..setup.shards), piece_bytes);
            }
            if random.u32(0..500) == 0 {
                link.settle();
                assert_same(&store, &replica, author.now);
            }
        }
        link.settle();
        assert_same(&store, &replica, author.now);
        let stats = store.stats();
        jumps += link.jumps;
        cuts += link.cuts;
        laps += stats.counts.appended_bytes / stats.capacity_bytes;
        again += replica.stats().counts.reinserted_items;
    }
    println!("{jumps} jumps, {cuts} cuts, {laps} laps, {again} records appended again");
    assert!(jumps > 0 && cuts > 0 && again > 0 && laps as usize > 3 * seeds().len(), "too little to test anything");
}

#[test]
fn a_replica_holds_what_its_primary_holds() {
    follow(SLABS, 400, 20_000);
}

#[test]
fn a_replica_holds_values_of_many_pages() {
    follow(LARGE, 100, 6_000);
}

#[test]
fn a_replica_follows_a_log_that_is_only_compacted() {
    follow(NO_EVICTION, 200, 20_000);
}

/// A replica's log can be followed itself, and written to: what appends need is where applying left
/// it.
#[test]
fn a_replica_is_followed_and_can_be_written_to() {
    let store = primary(SLABS);
    let (replica, mut random) = (replica_of(&store), Rng::with_seed(1));
    let (mut author, mut link) = (Author::new(&store), Link::new(&store, &replica));
    for _ in 0..3000 {
        author.step(&mut random, 400, 3000);
    }
    link.settle();
    let second = replica_of(&replica);
    let mut chain = Link::new(&replica, &second);
    chain.settle();
    assert_same(&store, &second, author.now);
    replica.open_gates(0..replica.shards().len());
    let mut heir = Author::new(&replica);
    for _ in 0..20_000 {
        heir.step(&mut random, 400, 3000);
    }
    assert!(replica.stats().counts.reinserted_items > 0);
    chain.settle();
    assert_same(&replica, &second, heir.now);
    assert_eq!(second.histories(), store.histories());
}
