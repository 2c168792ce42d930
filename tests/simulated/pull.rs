//! The pull loop on the simulated fabric: whatever is late, torn, stale, out of turn, lost, changed
//! or cut, readers of a replica see only what was written, and once the primary rests and the
//! network heals, the replica is the same.
//!
//! Failures name their seed; `REMORA_SEED=<seed> cargo test --test simulated pull::` replays it
//! alone. `REMORA_SEEDS=<count>` runs so many instead of a few.

mod bound;
mod capacity;
mod chain;
mod faults;
mod forgeries;
mod freshness;
mod lanes;
mod ledger;
mod lies;
mod lives;
mod operations;
mod order;
mod push;
mod push_lies;
mod push_runs;
mod run;
mod scene;
mod several;
mod slabs;
mod writer;

use crate::pair::{Setup, primary, replica_of};
use crate::session::Network;
use crate::support::number;
use fastrand::Rng;
use remora::fabric::sim::Faults;
use run::{Run, Seen};
use std::sync::Arc;

/// Seeds of each test by default.
const SEEDS: u64 = 16;

fn seeds() -> Vec<u64> {
    crate::support::seeds(SEEDS)
}

/// A single seed need not come by everything.
fn is_whole() -> bool {
    number("REMORA_SEED").is_none()
}

/// Many small slabs, whose ends leave now and then less than a header.
const SLABS: Setup =
    Setup { shard_bytes: 32 << 10, slab_bytes: 4 << 10, shards: 2, item_bytes_max: 2 << 10, evict: true };
/// More shards, and items as long as a slab.
const SHARDS: Setup =
    Setup { shard_bytes: 64 << 10, slab_bytes: 8 << 10, shards: 4, item_bytes_max: 8 << 10, evict: true };
/// Records of many pieces, and longer than what is given up at once.
const LARGE: Setup =
    Setup { shard_bytes: 512 << 10, slab_bytes: 64 << 10, shards: 1, item_bytes_max: 120 << 10, evict: true };
/// So long that most pieces are far from being overwritten, as they are in servers.
const FAR: Setup =
    Setup { shard_bytes: 4 << 20, slab_bytes: 256 << 10, shards: 1, item_bytes_max: 2 << 10, evict: true };
/// Nothing is evicted: every item is moved, again and again.
const NO_EVICTION: Setup =
    Setup { shard_bytes: 64 << 10, slab_bytes: 16 << 10, shards: 1, item_bytes_max: 2 << 10, evict: false };

/// Runs of `steps` steps with `faults`, each by its seed; the sum of what happened.
fn runs(setup: Setup, keys: usize, steps: usize, faults: impl Fn(&mut Rng) -> Faults) -> Seen {
    runs_of(|_| (), setup, keys, steps, faults)
}

/// The same over a network that is prepared first.
fn runs_of(
    prepare: impl Fn(&mut Network),
    setup: Setup,
    keys: usize,
    steps: usize,
    faults: impl Fn(&mut Rng) -> Faults,
) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds() {
        println!("REMORA_SEED={seed} {setup:?}");
        let store = Arc::new(primary(setup));
        let replica = replica_of(&store);
        let mut run = Run::new(seed, setup, keys, &store, &replica);
        run.faults = faults(&mut run.random);
        prepare(&mut run.network);
        run.drive(steps);
        run.settle();
        run.end_session();
        seen.add(&run.seen);
    }
    println!("{seen:?}");
    seen
}

/// What a seed did once, it does again: every count is the same.
#[test]
fn one_seed_is_one_run() {
    let once = |seed| {
        let store = Arc::new(primary(SHARDS));
        let replica = replica_of(&store);
        let mut run = Run::new(seed, SHARDS, 200, &store, &replica);
        run.faults = Faults { corrupt: 0.05, drop: 0.003, cut: 0.02, corrupt_from_region: 1, ..Faults::unkind() };
        run.drive(200);
        run.settle();
        run.end_session();
        format!("{:?}", run.seen)
    };
    assert_eq!(once(1), once(1));
    assert_ne!(once(1), once(2));
}

#[test]
fn nothing_goes_wrong() {
    let seen = runs(SLABS, 100, 400, |_| Faults::default());
    assert!(!is_whole() || seen.counts.overrun > 0 && seen.laps > 0 && seen.second_chances > 0 && seen.hits > 0);
    assert_eq!((seen.counts.bad_records, seen.counts.diverged, seen.stuck, seen.closed, seen.broken), (0, 0, 0, 0, 0));
}
