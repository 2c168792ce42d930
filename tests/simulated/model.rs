//! The model test: random commands, through the real parser and engine over tiny logs, against a
//! naive map. A replica follows each run and must come to hold the same.
//!
//! Every failure names its seed; `REMORA_SEED=<seed> cargo test --test simulated model::` replays
//! that run alone. `REMORA_SEEDS=<count>` runs so many seeds instead of a few.

mod command;
mod meanings;
mod oracle;
mod parked;
mod replica;
mod run;
mod stress;

use crate::compare::assert_same;
use crate::link::Link;
use crate::support::harness::{self, Client};
use command::Generator;
use remora::store::Store;
use run::{Run, Setup};

const BEGIN: u32 = 1_700_000_000;
const SEEDS: u64 = 5;
/// Commands between two comparisons with the replica.
const COMPARED_EVERY: usize = 200;

fn seeds() -> Vec<u64> {
    crate::support::seeds(SEEDS)
}

/// Run all seeds; each must have wrapped its logs several times, and all together must have come by
/// everything that reclaim does, or they have tested nothing.
fn run(setup: Setup) {
    let (mut second_chances, mut evicted, mut hits, mut refused) = (0, 0, 0, 0);
    for seed in seeds() {
        println!("REMORA_SEED={seed} {setup:?}");
        let Setup { shard_bytes, shards, item_bytes_max, evict, .. } = setup;
        let engine = harness::engine(shard_bytes, shards, item_bytes_max, evict, 1);
        let mut generator = Generator {
            rng: fastrand::Rng::with_seed(seed),
            keys: setup.keys,
            value_bytes_max: setup.value_bytes_max,
            item_bytes_max,
            known_cas: Vec::new(),
        };
        let mut run = Run::new(setup, Client::new(&engine, 0, BEGIN));
        let follower =
            Store::with_geometry(engine.store().geometry(), engine.store().memory().slabs, 1, false, Some((3, 4)))
                .expect("a store like it");
        let mut link = Link::new(engine.store(), &follower);
        run.all(&mut generator, |number, now| {
            for shard in 0..shards {
                link.pull(shard, 4096);
            }
            if number % COMPARED_EVERY == 0 || number == setup.commands {
                link.settle();
                assert_same(engine.store(), &follower, now);
            }
        });
        println!("the replica: {} cuts, {} jumps", link.cuts, link.jumps);
        evicted += run.evicted;
        hits += run.hits;
        refused += run.refused;
        let stats = engine.store().stats();
        let laps = stats.counts.appended_bytes / (shard_bytes * shards) as u64;
        assert!(laps >= 3, "seed {seed}: {laps} laps are too few to test anything: {stats:?}");
        if !evict {
            assert_eq!((stats.counts.evictions, run.evicted), (0, 0), "seed {seed}: -M evicts nothing");
        }
        second_chances += stats.counts.reinserted_items;
    }
    println!("{hits} hits, {evicted} keys seen evicted, {refused} refused, {second_chances} second chances");
    if seeds().len() == 1 {
        return;
    }
    assert!(second_chances > 0, "nothing was ever given a second chance");
    assert!(hits > 100 * seeds().len() as u64, "only {hits} hits");
    assert_eq!((evicted > 0, refused > 0), (setup.evict, setup.overfull), "{evicted} evicted, {refused} refused");
}

#[test]
fn evicting_with_small_items() {
    run(Setup {
        shard_bytes: 64 << 10,
        shards: 2,
        item_bytes_max: 8 << 10,
        value_bytes_max: 2000,
        keys: 400,
        evict: true,
        overfull: false,
        commands: 6000,
    });
}

#[test]
fn evicting_with_values_large_enough_to_be_lent() {
    run(Setup {
        shard_bytes: 256 << 10,
        shards: 2,
        item_bytes_max: 64 << 10,
        value_bytes_max: 36 << 10,
        keys: 60,
        evict: true,
        overfull: false,
        commands: 2000,
    });
}

#[test]
fn never_evicting() {
    run(Setup {
        shard_bytes: 24 << 10,
        shards: 2,
        item_bytes_max: 1 << 10,
        value_bytes_max: 250,
        keys: 60,
        evict: false,
        overfull: false,
        commands: 12_000,
    });
}

#[test]
fn never_evicting_and_overfull() {
    run(Setup {
        shard_bytes: 24 << 10,
        shards: 2,
        item_bytes_max: 1 << 10,
        value_bytes_max: 600,
        keys: 300,
        evict: false,
        overfull: true,
        commands: 12_000,
    });
}
