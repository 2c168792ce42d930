//! What two stores must share to hold the same logs, and how a replica's store is made from it.

use super::index::LOG_BYTES_MAX;
use super::live::MOVED_BYTES;
use super::log::table_cells;
use super::pool::{SLAB_BYTES_MAX, SLAB_BYTES_MIN, SLABS_MAX};
use super::record::{HEADER_BYTES, OPTIONAL_BYTES_MAX};
use super::shard::Policy;
use super::sizing::{Plan, RECORD_SHARE_MAX, SHARDS_MAX, capacity_max};
use super::{Making, Store, StoreError};
use crate::base::limits::{KEY_BYTES_MAX, WORKERS_MAX};
use crate::base::term::Term;
use crate::sys::memory::memory_bytes_available;

/// What all stores of a lineage have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Number of shards, a power of two.
    pub shards: u32,
    /// Bytes of a slab, a power of two.
    pub slab_bytes: u64,
    /// Largest record in bytes.
    pub record_bytes_max: u64,
    /// False for `-M`.
    pub evict: bool,
}

/// How much memory one store has: its own affair. Others must know it to READ its logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Slabs of the pool.
    pub slabs: u32,
    /// Cells of each shard's table, a power of two.
    pub table_cells: u32,
}

impl Memory {
    /// That of a store of so many slabs and shards; of no fewer slabs than shards.
    pub(super) fn of(slabs: u32, shards: u32) -> Memory {
        Memory { slabs, table_cells: table_cells(capacity_max(slabs, shards)) }
    }

    /// Whether a store of this geometry can have it. Another process may have said it, so nothing
    /// in it is believed.
    pub fn is_possible(&self, geometry: &Geometry) -> bool {
        (geometry.shards..=SLABS_MAX).contains(&self.slabs) && *self == Memory::of(self.slabs, geometry.shards)
    }
}

/// Smallest `record_bytes_max` that makes sense: one item of a few bytes.
const RECORD_BYTES_MIN: u64 = 64;
/// The largest record without a value, and more than any that has one for other reasons than a
/// client's.
const KEY_RECORD_BYTES_MAX: u64 = (HEADER_BYTES + OPTIONAL_BYTES_MAX + KEY_BYTES_MAX).next_multiple_of(8) as u64;

impl Geometry {
    /// Longest record in bytes that a log of this geometry can have, pads included.
    pub fn log_record_bytes_max(&self) -> u64 {
        self.record_bytes_max.saturating_add(MOVED_BYTES).max(KEY_RECORD_BYTES_MAX)
    }

    /// Bytes that must be seen at once for [`super::Follower::apply`] to come forward, at most: a
    /// record, and what is skipped before it.
    pub fn wanted_bytes_max(&self) -> u64 {
        self.log_record_bytes_max() + HEADER_BYTES as u64
    }

    /// What is wrong with it for a store of `slabs` slabs, if anything. Another process may have
    /// said it, so nothing in it is believed.
    pub(super) fn complaint(&self, slabs: u32) -> Option<String> {
        let Geometry { shards, slab_bytes, record_bytes_max, .. } = *self;
        if !shards.is_power_of_two() || shards as usize > SHARDS_MAX {
            return Some(format!("{shards} shards (a power of two, at most {SHARDS_MAX}, is possible)"));
        }
        if !slab_bytes.is_power_of_two() || !(SLAB_BYTES_MIN as u64..=SLAB_BYTES_MAX as u64).contains(&slab_bytes) {
            return Some(format!(
                "slabs of {slab_bytes} bytes (a power of two, {SLAB_BYTES_MIN} to {SLAB_BYTES_MAX}, is possible)"
            ));
        }
        let shard_bytes = u64::from(slabs / shards) * slab_bytes;
        let longest_bytes = u64::from(slabs.div_ceil(shards)) * slab_bytes;
        if slabs > SLABS_MAX || slabs < shards || longest_bytes > LOG_BYTES_MAX {
            return Some(format!("{slabs} slabs for {shards} shards"));
        }
        let possible = RECORD_BYTES_MIN..=shard_bytes / RECORD_SHARE_MAX as u64 + 7;
        if !record_bytes_max.is_multiple_of(8) || !possible.contains(&record_bytes_max) {
            return Some(format!("records of up to {record_bytes_max} bytes in shards of {shard_bytes}"));
        }
        None
    }
}

impl Store {
    /// What a replica of this store must have in common with it.
    pub fn geometry(&self) -> Geometry {
        let shard = &self.shards[0];
        Geometry {
            shards: self.shards.len() as u32,
            slab_bytes: self.pool.slab_bytes(),
            record_bytes_max: shard.policy.record_bytes_max as u64,
            evict: shard.policy.evict,
        }
    }

    /// What whoever READs this store's logs must know.
    pub fn memory(&self) -> Memory {
        Memory::of(self.pool.slabs(), self.shards.len() as u32)
    }

    /// A store for a replica: the geometry is the primary's, and it has as many slabs; the rest is
    /// this process's own. It is empty, and of no term, until its [`super::Follower`]s begin.
    pub fn with_geometry(
        geometry: Geometry,
        slabs: u32,
        workers: usize,
        hugepages: bool,
        hash_seed: Option<(u64, u64)>,
    ) -> Result<Store, StoreError> {
        if let Some(complaint) = geometry.complaint(slabs) {
            return Err(StoreError::Config(format!(
                "the primary says that its cache is made of {complaint}: is it a Remora of this version?"
            )));
        }
        if workers > WORKERS_MAX {
            return Err(StoreError::Config(format!("{workers} workers: at most {WORKERS_MAX} are possible")));
        }
        let memory_bytes = u64::from(slabs) * geometry.slab_bytes;
        if let Some(host_bytes) = memory_bytes_available().filter(|host_bytes| memory_bytes > *host_bytes) {
            return Err(StoreError::Config(format!(
                "the primary's cache is {} MiB, but this host (or container) has {} MiB of memory in all: a replica needs as \
                 much as its primary; lower -m there, or run the replica elsewhere",
                memory_bytes >> 20,
                host_bytes >> 20
            )));
        }
        let plan = Plan {
            shards: geometry.shards as usize,
            slabs,
            slabs_used: slabs,
            slab_bytes: geometry.slab_bytes as usize,
            policy: Policy { evict: geometry.evict, record_bytes_max: geometry.record_bytes_max as usize },
        };
        Store::make(&plan, Making { workers, hugepages, hash_seed, term: Term::NONE })
            .map_err(|error| StoreError::no_memory(memory_bytes as usize, error))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const GOOD: Geometry = Geometry { shards: 2, slab_bytes: 8 << 10, record_bytes_max: 8 << 10, evict: true };
    const SLABS: u32 = 16;

    #[test]
    fn a_replica_is_made_like_its_primary() {
        for (geometry, slabs) in [(GOOD, SLABS), (Geometry { slab_bytes: 4 << 10, evict: false, ..GOOD }, 33)] {
            let store = Store::with_geometry(geometry, slabs, 1, false, None).unwrap();
            assert_eq!((store.geometry(), store.memory().slabs), (geometry, slabs));
            assert!(store.terms_known().is_empty());
            assert!(store.tables().words().len() >= 2 * store.memory().table_cells as usize);
        }
    }

    #[test]
    fn memory_that_no_store_has_is_told_from_what_one_has() {
        for (geometry, slabs) in [(GOOD, SLABS), (Geometry { shards: 1024, ..GOOD }, 1024), (GOOD, SLABS_MAX)] {
            let memory = Memory::of(slabs, geometry.shards);
            assert!(memory.is_possible(&geometry));
            for table_cells in [0, 1, memory.table_cells / 2, memory.table_cells - 1, memory.table_cells * 2] {
                assert!(!Memory { table_cells, ..memory }.is_possible(&geometry), "{table_cells}");
            }
            for slabs in [0, geometry.shards - 1, SLABS_MAX + 1, u32::MAX] {
                assert!(!Memory { slabs, ..memory }.is_possible(&geometry), "{slabs}");
            }
        }
    }

    #[test]
    fn nothing_that_another_process_says_is_believed() {
        let values =
            [0, 1, 7, 8, 63, 64, 272, 1 << 10, 16 << 10, (64 << 10) + 4, 1 << 30, 1 << 40, u64::MAX - 7, u64::MAX];
        for value in values {
            for (what, geometry, slabs) in [
                ("shards", Geometry { shards: value as u32 | 3, ..GOOD }, SLABS),
                ("slab", Geometry { slab_bytes: value, ..GOOD }, SLABS),
                ("record", Geometry { record_bytes_max: value, ..GOOD }, SLABS),
                ("slabs", GOOD, value as u32),
            ] {
                let Err(error) = Store::with_geometry(geometry, slabs, 1, false, None) else {
                    let shard_bytes = u64::from(slabs / 2) * geometry.slab_bytes;
                    assert!(geometry.record_bytes_max <= shard_bytes / 4 && what != "shards", "{geometry:?} was taken");
                    continue;
                };
                assert!(matches!(&error, StoreError::Config(words) if words.contains("primary")), "{error:?}");
            }
        }
        let huge = Geometry { shards: 256, slab_bytes: SLAB_BYTES_MAX as u64, ..GOOD };
        let slabs = SLABS_MAX;
        assert!(
            Store::with_geometry(huge, slabs, 1, false, None).is_err_and(|error| error.to_string().contains("memory"))
        );
    }
}
