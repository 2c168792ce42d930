//! What two stores must share to hold the same bytes at the same positions, and how a replica's
//! store is made from it.

use super::index::RING_BYTES_MAX;
use super::live::MOVED_BYTES;
use super::record::{HEADER_BYTES, OPTIONAL_BYTES_MAX};
use super::ring::SLAB_BYTES_MAX;
use super::sizing::{Plan, RING_BYTES_MIN, SHARDS_MAX, policy};
use super::{Making, Store, StoreError};
use crate::base::epoch::Epoch;
use crate::base::limits::{KEY_BYTES_MAX, WORKERS_MAX};
use crate::sys::memory::memory_bytes_available;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Number of shards, a power of two.
    pub shards: u32,
    /// Bytes of each ring.
    pub ring_bytes: u64,
    /// Bytes of each slab of a ring but, perhaps, the last.
    pub slab_bytes: u64,
    /// Largest record in bytes.
    pub record_bytes_max: u64,
    /// False for `-M`.
    pub evict: bool,
}

/// Slabs of one ring: the largest ring in the largest slabs.
const SLABS_MAX: u64 = RING_BYTES_MAX / SLAB_BYTES_MAX as u64;
/// Smallest `record_bytes_max` that makes sense: one item of a few bytes.
const RECORD_BYTES_MIN: u64 = 64;
/// The largest record without a value, and more than any that has one for other reasons than a
/// client's.
const KEY_RECORD_BYTES_MAX: u64 = (HEADER_BYTES + OPTIONAL_BYTES_MAX + KEY_BYTES_MAX).next_multiple_of(8) as u64;

impl Geometry {
    /// Longest record in bytes that a log of this geometry can have, pads included: a pad is
    /// shorter than the record that did not fit.
    pub fn log_record_bytes_max(&self) -> u64 {
        self.record_bytes_max.saturating_add(MOVED_BYTES).max(KEY_RECORD_BYTES_MAX)
    }

    /// Bytes that must be seen at once for [`super::Follower::apply`] to come forward, at most: a
    /// record, and what is skipped before it.
    pub fn wanted_bytes_max(&self) -> u64 {
        self.log_record_bytes_max() + HEADER_BYTES as u64
    }

    /// What is wrong with it, if anything. Another process may have said it, so nothing in it is
    /// believed.
    fn complaint(&self) -> Option<String> {
        let Geometry { shards, ring_bytes, slab_bytes, record_bytes_max, .. } = *self;
        let words = [ring_bytes, slab_bytes, record_bytes_max].iter().all(|bytes| bytes.is_multiple_of(8));
        if !shards.is_power_of_two() || shards as usize > SHARDS_MAX {
            Some(format!("{shards} shards (a power of two, at most {SHARDS_MAX}, is possible)"))
        } else if !words {
            Some(format!("lengths that are no multiples of 8: {ring_bytes}, {slab_bytes}, {record_bytes_max}"))
        } else if ring_bytes < RING_BYTES_MIN as u64 || ring_bytes > RING_BYTES_MAX {
            Some(format!("rings of {ring_bytes} bytes ({RING_BYTES_MIN} to {RING_BYTES_MAX} are possible)"))
        } else if slab_bytes > ring_bytes
            || slab_bytes > SLAB_BYTES_MAX as u64
            || slab_bytes < self.log_record_bytes_max()
            || ring_bytes.div_ceil(slab_bytes) > SLABS_MAX
        {
            Some(format!("slabs of {slab_bytes} bytes for rings of {ring_bytes} and records of {record_bytes_max}"))
        } else if record_bytes_max < RECORD_BYTES_MIN || record_bytes_max - 7 > ring_bytes / 4 {
            Some(format!("records of up to {record_bytes_max} bytes in rings of {ring_bytes} (a quarter is possible)"))
        } else {
            None
        }
    }
}

impl Store {
    /// What a replica of this store must be made like.
    pub fn geometry(&self) -> Geometry {
        let shard = &self.shards[0];
        Geometry {
            shards: self.shards.len() as u32,
            ring_bytes: shard.ring.bytes(),
            slab_bytes: shard.ring.slab_bytes(),
            record_bytes_max: shard.policy.record_bytes_max as u64,
            evict: shard.policy.evict,
        }
    }

    /// A store for a replica: the geometry is the primary's, the rest this process's own. It is
    /// empty, and of no epoch, until its [`super::Follower`]s begin.
    pub fn with_geometry(
        geometry: Geometry,
        workers: usize,
        hugepages: bool,
        hash_seed: Option<(u64, u64)>,
    ) -> Result<Store, StoreError> {
        if let Some(complaint) = geometry.complaint() {
            return Err(StoreError::Config(format!(
                "the primary says that its cache is made of {complaint}: is it a Remora of this version?"
            )));
        }
        if workers > WORKERS_MAX {
            return Err(StoreError::Config(format!("{workers} workers: at most {WORKERS_MAX} are possible")));
        }
        // Neither product nor sum can overflow: at most 2^8 rings of at most 2^38 bytes.
        let memory_bytes = u64::from(geometry.shards) * geometry.ring_bytes;
        if let Some(host_bytes) = memory_bytes_available().filter(|host_bytes| memory_bytes > *host_bytes) {
            return Err(StoreError::Config(format!(
                "the primary's cache is {} MiB, but this host (or container) has {} MiB of memory in all: a replica needs as \
                 much as its primary; lower -m there, or run the replica elsewhere",
                memory_bytes >> 20,
                host_bytes >> 20
            )));
        }
        let ring_bytes = geometry.ring_bytes as usize;
        let plan = Plan {
            shards: geometry.shards as usize,
            ring_bytes,
            slab_bytes: geometry.slab_bytes as usize,
            policy: policy(geometry.record_bytes_max as usize, geometry.evict, ring_bytes),
        };
        Store::make(&plan, Making { workers, hugepages, hash_seed, epoch: Epoch::NONE })
            .map_err(|error| StoreError::no_memory(memory_bytes as usize, error))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const GOOD: Geometry =
        Geometry { shards: 2, ring_bytes: 64 << 10, slab_bytes: 64 << 10, record_bytes_max: 8 << 10, evict: true };

    #[test]
    fn a_replica_is_made_like_its_primary() {
        for geometry in [GOOD, Geometry { slab_bytes: 20 << 10, evict: false, ..GOOD }] {
            let store = Store::with_geometry(geometry, 1, false, None).unwrap();
            assert_eq!(store.geometry(), geometry);
            assert_eq!(store.slabs().count() as u64, 2 * (64u64 << 10).div_ceil(geometry.slab_bytes));
            assert!(store.epochs().is_empty());
        }
    }

    #[test]
    fn nothing_that_another_process_says_is_believed() {
        let values =
            [0, 1, 7, 8, 63, 64, 272, 1 << 10, 16 << 10, (64 << 10) + 4, 1 << 30, 1 << 40, u64::MAX - 7, u64::MAX];
        for value in values {
            for (what, geometry) in [
                ("shards", Geometry { shards: value as u32 | 3, ..GOOD }),
                ("ring", Geometry { ring_bytes: value, ..GOOD }),
                ("slab", Geometry { slab_bytes: value, ..GOOD }),
                ("record", Geometry { record_bytes_max: value, ..GOOD }),
            ] {
                let Err(error) = Store::with_geometry(geometry, 1, false, None) else {
                    let sound = geometry.record_bytes_max + 8 <= geometry.slab_bytes
                        && geometry.slab_bytes <= geometry.ring_bytes
                        && geometry.record_bytes_max <= geometry.ring_bytes / 4;
                    assert!(sound && what != "shards", "{geometry:?} was taken");
                    continue;
                };
                assert!(matches!(&error, StoreError::Config(words) if words.contains("primary")), "{error:?}");
            }
        }
        let huge = Geometry { shards: 256, ring_bytes: RING_BYTES_MAX, slab_bytes: 1 << 30, ..GOOD };
        assert!(Store::with_geometry(huge, 1, false, None).is_err_and(|error| error.to_string().contains("memory")));
    }
}
