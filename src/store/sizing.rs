//! How `-m`, `-I` and `-t` become shards and rings. Pure arithmetic, but for asking how much memory
//! the host has.

use super::index::RING_BYTES_MAX;
use super::ring::SLAB_BYTES_MAX;
use super::shard::Policy;
use crate::base::epoch::Epoch;
use crate::sys::memory::{HUGEPAGE_BYTES, memory_bytes_available};
use std::io;

/// What a store is made from.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Bytes for all rings together (`-m`).
    pub memory_bytes: usize,
    /// Largest item: key, value and header (`-I`).
    pub item_bytes_max: usize,
    /// False for `-M`: refuse instead of evicting.
    pub evict: bool,
    /// How many threads will read and write (workers); decides the number of shards, too.
    pub workers: usize,
    /// Number of shards, a power of two; None to choose.
    pub shards: Option<usize>,
    /// Try huge pages first.
    pub hugepages: bool,
    /// Key of the index's hash; None for a random one.
    pub hash_seed: Option<(u64, u64)>,
    /// The epoch to be born in; None for a lineage of its own, at random. For tests that must
    /// repeat.
    pub epoch: Option<Epoch>,
}

/// Why a store could not be made; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A configuration that makes no sense.
    #[error("{0}")]
    Config(String),
    /// The system did not give the memory.
    #[error("{0}")]
    Memory(String),
}

impl StoreError {
    pub(super) fn no_memory(memory_bytes: usize, error: io::Error) -> Self {
        StoreError::Memory(format!(
            "the system refused memory for a cache of {} MiB ({error}); lower -m, or raise the limit that refused it \
             (ulimit -v, vm.overcommit_memory, the container's memory limit)",
            memory_bytes >> 20
        ))
    }
}

/// Shards for each worker, at least: enough that two workers seldom want the same lock.
const SHARDS_PER_WORKER: usize = 4;
/// More shards than this gain nothing.
pub const SHARDS_MAX: usize = 256;
/// A ring holds at least this many of the largest items; with `-M` more, since it keeps room to
/// move one.
const LARGEST_ITEMS_PER_RING: usize = 8;
const LARGEST_ITEMS_PER_RING_NO_EVICT: usize = 32;
/// A record is at most this share of its ring, whatever is configured.
const RECORD_SHARE_OF_RING_MAX: usize = 4;
/// Smallest ring that makes sense.
pub(super) const RING_BYTES_MIN: usize = 16 << 10;
/// While what is alive fits into this part of a ring, in quarters, none of it is evicted.
const KEPT_QUARTERS: usize = 3;
/// Reclaim keeps this share of a ring free ahead of the head, at least.
const AHEAD_SHARE: usize = 128;
/// And at least this much, or an eighth of a small ring: what one turn of a worker may append.
const AHEAD_BYTES_MIN: usize = 64 << 10;

/// The outcome.
#[derive(Debug)]
pub(super) struct Plan {
    pub shards: usize,
    pub ring_bytes: usize,
    pub slab_bytes: usize,
    pub policy: Policy,
}

/// Decide, or say what is wrong with the configuration.
pub(super) fn plan(config: &StoreConfig) -> Result<Plan, StoreError> {
    check_host(config)?;
    let shards = match config.shards {
        Some(shards) if shards.is_power_of_two() && shards <= SHARDS_MAX => shards,
        Some(shards) => {
            return Err(StoreError::Config(format!(
                "{shards} shards: give a power of two, at most {SHARDS_MAX}, or leave --shards out"
            )));
        }
        None => shards_for(config),
    };
    let ring_bytes = config.memory_bytes / shards / 8 * 8;
    if ring_bytes < RING_BYTES_MIN || ring_bytes < config.item_bytes_max.saturating_mul(RECORD_SHARE_OF_RING_MAX) {
        return Err(StoreError::Config(format!(
            "a cache of {} KiB in {shards} shard(s) cannot hold items of {} KiB: an item is at most a quarter of a shard. \
             Raise -m, lower -I, or use fewer --shards",
            config.memory_bytes >> 10,
            config.item_bytes_max >> 10
        )));
    }
    if ring_bytes as u64 > RING_BYTES_MAX {
        return Err(StoreError::Config(format!(
            "shards of {} GiB are too large: use more --shards (a shard is at most {} GiB)",
            ring_bytes >> 30,
            RING_BYTES_MAX >> 30
        )));
    }
    Ok(Plan {
        shards,
        ring_bytes,
        slab_bytes: slab_bytes(ring_bytes, config.hugepages),
        policy: policy(config.item_bytes_max.next_multiple_of(8), config.evict, ring_bytes),
    })
}

fn check_host(config: &StoreConfig) -> Result<(), StoreError> {
    match memory_bytes_available() {
        Some(host_bytes) if config.memory_bytes as u64 > host_bytes => Err(StoreError::Memory(format!(
            "-m asks for {} MiB, but this host (or container) has {} MiB of memory in all: lower -m",
            config.memory_bytes >> 20,
            host_bytes >> 20
        ))),
        _ => Ok(()),
    }
}

/// Enough that locks are idle, few enough that a ring holds several of the largest items.
fn shards_for(config: &StoreConfig) -> usize {
    let wanted = (config.workers * SHARDS_PER_WORKER).next_power_of_two().min(SHARDS_MAX);
    let items = if config.evict { LARGEST_ITEMS_PER_RING } else { LARGEST_ITEMS_PER_RING_NO_EVICT };
    let fitting = (config.memory_bytes / (config.item_bytes_max * items).max(RING_BYTES_MIN)).max(1);
    // The largest power of two that fits.
    wanted.min(1 << fitting.ilog2())
}

/// One slab where that will do. Huge pages come whole: what is left over becomes a last slab of
/// plain pages.
fn slab_bytes(ring_bytes: usize, hugepages: bool) -> usize {
    let whole = if hugepages && ring_bytes > 2 * HUGEPAGE_BYTES {
        ring_bytes / HUGEPAGE_BYTES * HUGEPAGE_BYTES
    } else {
        ring_bytes
    };
    whole.min(SLAB_BYTES_MAX)
}

/// How a shard with a ring of `ring_bytes` treats it.
pub(super) fn policy(record_bytes_max: usize, evict: bool, ring_bytes: usize) -> Policy {
    let ahead_bytes = (ring_bytes / AHEAD_SHARE).max(AHEAD_BYTES_MIN.min(ring_bytes / 8));
    // A record that does not fit before the slab's end pads up to its own size: room for the
    // largest twice. Where evicting is an option, enough that an item in use rarely has to go for
    // want of room.
    let reserve_bytes = if evict { ahead_bytes / 4 } else { 2 * record_bytes_max };
    let unusable = 2 * reserve_bytes + ahead_bytes + ring_bytes / 16;
    Policy {
        evict,
        record_bytes_max,
        kept_bytes_max: (ring_bytes / 4 * KEPT_QUARTERS) as u64,
        ahead_bytes: ahead_bytes as u64,
        reserve_bytes: reserve_bytes as u64,
        live_bytes_max: ring_bytes.saturating_sub(unusable) as u64,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn config(memory_bytes: usize, workers: usize) -> StoreConfig {
        StoreConfig {
            memory_bytes,
            item_bytes_max: 1 << 20,
            evict: true,
            workers,
            shards: None,
            hugepages: false,
            hash_seed: None,
            epoch: None,
        }
    }

    #[test]
    fn small_memory_means_few_shards() {
        assert_eq!(plan(&config(64 << 20, 2)).unwrap().shards, 8);
        assert_eq!(plan(&config(64 << 20, 16)).unwrap().shards, 8);
        assert_eq!(plan(&config(8 << 20, 2)).unwrap().shards, 1);
        assert_eq!(plan(&config(1 << 30, 2)).unwrap().shards, 8);
        assert_eq!(plan(&config(1 << 30, 16)).unwrap().shards, 64);
    }

    #[test]
    fn what_cannot_work_is_said() {
        for (broken, word) in [
            (StoreConfig { shards: Some(3), ..config(64 << 20, 1) }, "power of two"),
            (StoreConfig { item_bytes_max: 64 << 20, ..config(64 << 20, 1) }, "lower -I"),
            (config(1 << 50, 1), "lower -m"),
        ] {
            let error = plan(&broken).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn without_eviction_some_room_is_kept_to_move_items() {
        let plan = plan(&StoreConfig { evict: false, ..config(64 << 20, 2) }).unwrap();
        assert_eq!(plan.shards, 2);
        assert!(plan.policy.live_bytes_max > plan.ring_bytes as u64 * 3 / 4);
    }

    #[test]
    fn the_rest_beside_whole_huge_pages_is_a_slab_of_its_own() {
        assert_eq!(slab_bytes(33 << 20, true), 32 << 20);
        assert_eq!(slab_bytes(33 << 20, false), 33 << 20);
        assert_eq!(slab_bytes(5 << 30, true), SLAB_BYTES_MAX);
    }
}
