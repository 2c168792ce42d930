//! The primary's memory grows and shrinks while it is written to and followed: the replica has as
//! much, and holds the same. Of few shards, and of as many as there can be.

use super::run::{Run, Seen};
use super::{NO_EVICTION, SHARDS, SLABS, Setup, is_whole, seeds};
use crate::pair::{primary_with_room, replica_of};
use remora::fabric::sim::Faults;
use remora::store::Store;
use remora::store::line::BIRTH;
use remora::store::sizing::SHARDS_MAX;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// How often the memory was changed, and how often more was taken than before.
#[derive(Debug, Default)]
struct Changed {
    times: u64,
    refused: u64,
    /// Shards that were empty in the end.
    empty: usize,
}

/// Writes in a burst: many shards would take long to go round.
const BURST_MAX: usize = 5000;

const MANY_SHARDS: Setup =
    Setup { shard_bytes: 32 << 10, slab_bytes: 4 << 10, shards: 512, item_bytes_max: 2 << 10, evict: true };
const MOST_SHARDS: Setup = Setup { shards: SHARDS_MAX, ..MANY_SHARDS };

fn capacities(store: &Store) -> Vec<u64> {
    store.shards().iter().map(|shard| shard.control().capacity_bytes()).collect()
}

/// The virtual slabs that each shard ever had memory for, by its table. An empty one has none.
fn assert_empty_shards_own_nothing(store: &Store) -> usize {
    let tables = store.tables().words().chunks_exact(store.memory().table_cells as usize);
    let mut empty = 0;
    for (number, (shard, table)) in store.shards().iter().zip(tables).enumerate() {
        let is_empty = shard.control().committed() == BIRTH;
        let mapped = table.iter().filter(|cell| cell.load(Relaxed) != 0).count();
        assert_eq!(is_empty, mapped == 0, "shard {number} had {mapped} slabs");
        empty += usize::from(is_empty);
    }
    empty
}

fn runs(push: bool, setup: Setup, faults: &Faults) -> (Seen, Changed) {
    runs_of(&seeds(), push, setup, 100, faults)
}

fn runs_of(seeds: &[u64], push: bool, setup: Setup, keys: usize, faults: &Faults) -> (Seen, Changed) {
    let (mut seen, mut changed) = (Seen::default(), Changed::default());
    for &seed in seeds {
        println!("REMORA_SEED={seed} {setup:?}");
        let store = Arc::new(primary_with_room(setup));
        let replica = replica_of(&store);
        let mut run = Run::new(seed, setup, keys, &store, &replica);
        run.faults = faults.clone();
        run.network.push = push;
        run.burst = run.burst.min(BURST_MAX);
        let most = 2 * setup.shard_bytes * setup.shards;
        for _ in 0..12 {
            run.drive(50);
            let memory_bytes = run.random.usize(most / 4..=most + setup.slab_bytes);
            changed.times += 1;
            changed.refused += u64::from(store.set_memory(memory_bytes as u64).is_err());
        }
        run.drive(50);
        run.settle();
        let (theirs, ours) = (capacities(&store), capacities(&replica));
        assert!(theirs.iter().zip(&ours).all(|(theirs, ours)| ours >= theirs), "{theirs:?} {ours:?}");
        assert!(ours.iter().sum::<u64>() <= most as u64, "{ours:?}");
        let empty = [&*store, &replica].map(assert_empty_shards_own_nothing);
        assert_eq!(empty[0], empty[1]);
        changed.empty += empty[0];
        run.end_session();
        seen.add(&run.seen);
    }
    println!("{seen:?} {changed:?}");
    (seen, changed)
}

#[test]
fn memory_that_changes_is_followed() {
    for setup in [SLABS, SHARDS, NO_EVICTION] {
        let (seen, changed) = runs(false, setup, &Faults::default());
        assert_eq!((seen.stuck, seen.closed, seen.broken, seen.counts.bad_records), (0, 0, 0, 0));
        assert!(changed.refused < changed.times / 2, "{changed:?}");
    }
}

#[test]
fn whatever_goes_wrong() {
    let (seen, _) = runs(
        false,
        SLABS,
        &Faults { corrupt: 0.02, drop: 0.003, cut: 0.02, corrupt_from_region: 1, ..Faults::unkind() },
    );
    assert!(!is_whole() || seen.counts.bad_records > 0 && seen.closed > 0, "{seen:?}");
}

#[test]
fn and_where_data_is_pushed() {
    let (seen, _) = runs(true, SLABS, &Faults::default());
    assert_eq!((seen.stuck, seen.closed, seen.broken), (0, 0, 0));
}

/// Keys for about half of the shards, so that many stay empty all the time. One run each, because a
/// step looks at every shard.
#[test]
fn as_many_shards_as_there_can_be() {
    let seeds = &seeds()[..1];
    for (push, setup, keys, faults) in [
        (false, MANY_SHARDS, 300, Faults::unkind()),
        (true, MANY_SHARDS, 300, Faults::default()),
        (false, MOST_SHARDS, 700, Faults::default()),
    ] {
        let (seen, changed) = runs_of(seeds, push, setup, keys, &faults);
        assert_eq!((seen.stuck, seen.closed, seen.broken, seen.counts.bad_records), (0, 0, 0, 0));
        assert!((setup.shards / 8..setup.shards).contains(&changed.empty), "{changed:?}");
        assert!(!is_whole() || seen.counts.overrun > 0, "some went round: {seen:?}");
    }
}
