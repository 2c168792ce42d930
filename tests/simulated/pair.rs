//! A primary and a replica of it.

use remora::base::term::Term;
use remora::base::time::UnixSeconds;
use remora::store::{Store, StoreConfig};

pub const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// What a pair is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    pub shard_bytes: usize,
    pub slab_bytes: usize,
    pub shards: usize,
    pub item_bytes_max: usize,
    pub evict: bool,
}

pub fn primary(setup: Setup) -> Store {
    primary_of(setup, Term::of(1, 0xABC))
}

pub fn primary_of(setup: Setup, term: Term) -> Store {
    store(setup, term, None)
}

/// One whose memory may be doubled.
pub fn primary_with_room(setup: Setup) -> Store {
    store(setup, Term::of(1, 0xABC), Some(2 * setup.shard_bytes * setup.shards))
}

fn store(setup: Setup, term: Term, memory_bytes_max: Option<usize>) -> Store {
    let config = StoreConfig {
        memory_bytes: setup.shard_bytes * setup.shards,
        memory_bytes_max,
        item_bytes_max: setup.item_bytes_max,
        evict: setup.evict,
        workers: 2,
        shards: Some(setup.shards),
        hash_seed: Some((1, 2)),
        term: Some(term),
        ..StoreConfig::default()
    };
    Store::with_slabs(config, setup.slab_bytes).expect("a small store")
}

/// With another index hash than the primary's: it is each process's own.
pub fn replica_of(primary: &Store) -> Store {
    Store::with_geometry(primary.geometry(), primary.memory().slabs, 4, false, Some((3, 4))).expect("a small store")
}
