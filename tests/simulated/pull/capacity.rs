//! The primary's memory grows and shrinks while it is written to and followed: the replica has as
//! much, and holds the same.

use super::run::{Run, Seen};
use super::{NO_EVICTION, SHARDS, SLABS, Setup, is_whole, seeds};
use crate::pair::{primary_with_room, replica_of};
use remora::fabric::sim::Faults;
use remora::store::Store;
use std::sync::Arc;

/// How often the memory was changed, and how often more was taken than before.
#[derive(Debug, Default)]
struct Changed {
    times: u64,
    refused: u64,
}

fn capacities(store: &Store) -> Vec<u64> {
    store.shards().iter().map(|shard| shard.control().capacity_bytes()).collect()
}

fn runs(push: bool, setup: Setup, faults: &Faults) -> (Seen, Changed) {
    let (mut seen, mut changed) = (Seen::default(), Changed::default());
    for seed in seeds() {
        println!("REMORA_SEED={seed} {setup:?}");
        let store = Arc::new(primary_with_room(setup));
        let replica = replica_of(&store);
        let mut run = Run::new(seed, setup, 100, &store, &replica);
        run.faults = faults.clone();
        run.network.push = push;
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
