//! How `-m`, `-I` and `-t` become shards and slabs. Pure arithmetic, but for asking how much memory
//! the host has.

use super::index::LOG_BYTES_MAX;
use super::live::MOVED_BYTES;
use super::pool::{SLAB_BYTES_MAX, SLABS_MAX};
use super::record::PAD_BYTES_MAX;
use super::shard::Policy;
use crate::base::term::Term;
use crate::sys::memory::memory_bytes_available;
use std::io;

/// What a store is made from.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Bytes for all logs together (`-m`).
    pub memory_bytes: usize,
    /// To what that may be raised later (`--memory-max`); None for no more.
    pub memory_bytes_max: Option<usize>,
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
    /// The term to be born in; None for a lineage of its own, at random. For tests that must
    /// repeat.
    pub term: Option<Term>,
}

/// A server's that is told nothing, but for one worker and on plain pages.
impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            memory_bytes: 64 << 20,
            memory_bytes_max: None,
            item_bytes_max: 1 << 20,
            evict: true,
            workers: 1,
            shards: None,
            hugepages: false,
            hash_seed: None,
            term: None,
        }
    }
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
/// The shard's number fits into ten bits of a CAS.
pub use crate::base::shards::SHARDS_MAX;
/// More shards than this are not chosen without being asked for: they gain nothing.
const SHARDS_BY_ITSELF_MAX: usize = 256;
/// A shard holds at least this many of the largest items; with `-M` more, since it keeps room to
/// move one.
const LARGEST_ITEMS_PER_SHARD: usize = 8;
const LARGEST_ITEMS_PER_SHARD_NO_EVICT: usize = 32;
/// A record is at most this share of its shard, whatever is configured.
pub(super) const RECORD_SHARE_MAX: usize = 4;
/// Smallest shard that makes sense.
pub(super) const SHARD_BYTES_MIN: usize = 16 << 10;
/// A slab is shorter than it could be where a shard would have fewer than this many.
const SLABS_PER_SHARD: usize = 8;
/// But not shorter than a page.
const SLAB_BYTES_LEAST: usize = 4 << 10;
/// While what is alive fits into this part of a shard, in quarters, none of it is evicted.
const KEPT_QUARTERS: u64 = 3;
/// Reclaim keeps this share of a shard free ahead of the head, at least.
const AHEAD_SHARE: u64 = 128;
/// And at least this much, or an eighth of a small shard: what one turn of a worker may append.
const AHEAD_BYTES_MIN: u64 = 64 << 10;

/// The outcome.
#[derive(Debug)]
pub(super) struct Plan {
    pub shards: usize,
    /// Of the pool.
    pub slabs: u32,
    /// Of these, what the shards begin with.
    pub slabs_used: u32,
    pub slab_bytes: usize,
    pub policy: Policy,
}

impl Plan {
    /// Slabs of a shard, and the most that it can have.
    pub fn capacity(&self, shard: u32) -> (u32, u32) {
        let shards = self.shards as u32;
        (part(self.slabs_used, shards, shard), capacity_max(self.slabs, shards))
    }
}

/// An equal part of `slabs`; of what is left over one each for the first shards.
pub(super) fn part(slabs: u32, shards: u32, shard: u32) -> u32 {
    slabs / shards + u32::from(shard < slabs % shards)
}

/// The most slabs that one of `shards` shards can have of a pool: its table and its index have room
/// for no more.
pub(super) fn capacity_max(slabs: u32, shards: u32) -> u32 {
    slabs.div_ceil(shards)
}

/// What follows from a shard's capacity.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Most bytes of log between tail and head.
    pub capacity_bytes: u64,
    /// While no more than this is alive, no live item is evicted.
    pub kept_bytes_max: u64,
    /// Bytes that reclaim keeps free ahead of the head, at least.
    pub ahead_bytes: u64,
    /// Bytes that only reclaim may use, so that it can move the record at the tail: with `-M`
    /// always, else nearly always.
    pub reserve_bytes: u64,
    /// Most bytes of live records (`-M`).
    pub live_bytes_max: u64,
}

/// Decide, or say what is wrong with the configuration.
pub(super) fn plan(config: &StoreConfig, slab_bytes_max: usize) -> Result<Plan, StoreError> {
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
    let slab_bytes = slab_bytes(config.memory_bytes / shards).min(slab_bytes_max);
    let slabs_used = config.memory_bytes / slab_bytes;
    // That of the shards that have the fewest slabs.
    let shard_bytes = slabs_used / shards * slab_bytes;
    if shard_bytes < SHARD_BYTES_MIN || shard_bytes < config.item_bytes_max.saturating_mul(RECORD_SHARE_MAX) {
        return Err(StoreError::Config(format!(
            "a cache of {} KiB in {shards} shard(s) cannot hold items of {} KiB: an item is at most a quarter of a shard. \
             Raise -m, lower -I, or use fewer --shards",
            config.memory_bytes >> 10,
            config.item_bytes_max >> 10
        )));
    }
    let slabs = config.memory_bytes_max.map_or(slabs_used, |bytes| (bytes / slab_bytes).max(slabs_used));
    if slabs.div_ceil(shards) * slab_bytes > LOG_BYTES_MAX as usize {
        return Err(StoreError::Config(format!(
            "shards of {} GiB are too large: use more --shards (a shard is at most {} GiB)",
            (slabs.div_ceil(shards) * slab_bytes) >> 30,
            LOG_BYTES_MAX >> 30
        )));
    }
    let slabs = u32::try_from(slabs).ok().filter(|slabs| *slabs <= SLABS_MAX).ok_or_else(|| {
        let (option, bytes) = most_memory(config);
        StoreError::Config(format!("a cache of {} GiB has too many slabs: lower {option}", bytes >> 30))
    })?;
    let policy = Policy { evict: config.evict, record_bytes_max: config.item_bytes_max.next_multiple_of(8) };
    Ok(Plan { shards, slabs, slabs_used: slabs_used as u32, slab_bytes, policy })
}

/// The most memory that is asked for, and by which option.
fn most_memory(config: &StoreConfig) -> (&'static str, usize) {
    match config.memory_bytes_max {
        Some(most) if most > config.memory_bytes => ("--memory-max", most),
        _ => ("-m", config.memory_bytes),
    }
}

fn check_host(config: &StoreConfig) -> Result<(), StoreError> {
    let (asks, memory_bytes) = most_memory(config);
    match memory_bytes_available() {
        Some(host_bytes) if memory_bytes as u64 > host_bytes => Err(StoreError::Memory(format!(
            "{asks} asks for {} MiB, but this host (or container) has {} MiB of memory in all: lower {asks}",
            memory_bytes >> 20,
            host_bytes >> 20
        ))),
        _ => Ok(()),
    }
}

/// Enough that locks are idle, few enough that a shard holds several of the largest items.
fn shards_for(config: &StoreConfig) -> usize {
    let wanted = (config.workers * SHARDS_PER_WORKER).next_power_of_two().min(SHARDS_BY_ITSELF_MAX);
    let items = if config.evict { LARGEST_ITEMS_PER_SHARD } else { LARGEST_ITEMS_PER_SHARD_NO_EVICT };
    let fitting = (config.memory_bytes / (config.item_bytes_max * items).max(SHARD_BYTES_MIN)).max(1);
    // The largest power of two that fits.
    wanted.min(1 << fitting.ilog2())
}

/// The longest slab of which a shard of `shard_bytes` has several.
fn slab_bytes(shard_bytes: usize) -> usize {
    let fitting = (shard_bytes / SLABS_PER_SHARD).max(SLAB_BYTES_LEAST);
    (1 << fitting.ilog2()).min(SLAB_BYTES_MAX)
}

impl Budget {
    /// That of a shard of `capacity_bytes`.
    pub(super) fn of(policy: &Policy, capacity_bytes: u64) -> Budget {
        let ahead_bytes = (capacity_bytes / AHEAD_SHARE).max(AHEAD_BYTES_MIN.min(capacity_bytes / 8));
        // The largest record as it is when it was moved, and a pad before it. Where evicting is an
        // option, enough that an item in use rarely has to go for want of room.
        let longest_bytes = policy.record_bytes_max as u64 + MOVED_BYTES + PAD_BYTES_MAX as u64;
        let reserve_bytes = if policy.evict { ahead_bytes / 4 } else { longest_bytes };
        let unusable = 2 * reserve_bytes + ahead_bytes + capacity_bytes / 16;
        Budget {
            capacity_bytes,
            kept_bytes_max: capacity_bytes / 4 * KEPT_QUARTERS,
            ahead_bytes,
            reserve_bytes,
            live_bytes_max: capacity_bytes.saturating_sub(unusable),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::{Geometry, Memory};

    fn config(memory_bytes: usize, workers: usize) -> StoreConfig {
        StoreConfig { memory_bytes, workers, ..StoreConfig::default() }
    }

    fn plan_of(config: &StoreConfig) -> Result<Plan, StoreError> {
        plan(config, SLAB_BYTES_MAX)
    }

    #[test]
    fn small_memory_means_few_shards() {
        assert_eq!(plan_of(&config(64 << 20, 2)).unwrap().shards, 8);
        assert_eq!(plan_of(&config(64 << 20, 16)).unwrap().shards, 8);
        assert_eq!(plan_of(&config(8 << 20, 2)).unwrap().shards, 1);
        assert_eq!(plan_of(&config(1 << 30, 2)).unwrap().shards, 8);
        assert_eq!(plan_of(&config(1 << 30, 16)).unwrap().shards, 64);
    }

    #[test]
    fn what_cannot_work_is_said() {
        for (broken, word) in [
            (StoreConfig { shards: Some(3), ..config(64 << 20, 1) }, "power of two"),
            (StoreConfig { item_bytes_max: 64 << 20, ..config(64 << 20, 1) }, "lower -I"),
            // A quarter of an eighth of the memory, but not of the shard that has the fewest slabs.
            (StoreConfig { item_bytes_max: 540 << 10, shards: Some(8), ..config(17 << 20, 1) }, "lower -I"),
            (config(1 << 50, 1), "lower -m"),
        ] {
            let error = plan_of(&broken).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    /// What a primary is made of, a replica can be made of.
    #[test]
    fn whatever_is_planned_can_be_followed() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut planned = 0;
        for _ in 0..10_000 {
            let (memory_bytes_max, item_bytes_max) = (1 << random.u32(15..34), 1 << random.u32(11..24));
            let memory_bytes = random.usize(16 << 10..memory_bytes_max);
            let shards = random.bool().then(|| 1 << random.u32(0..11));
            let item_bytes_max = random.usize(1 << 10..item_bytes_max);
            let memory_bytes_max = random.bool().then(|| memory_bytes * random.usize(1..20));
            let config =
                StoreConfig { shards, item_bytes_max, memory_bytes_max, ..config(memory_bytes, random.usize(1..9)) };
            let Ok(plan) = plan_of(&config) else { continue };
            planned += 1;
            let geometry = Geometry {
                shards: plan.shards as u32,
                slab_bytes: plan.slab_bytes as u64,
                record_bytes_max: plan.policy.record_bytes_max as u64,
                evict: plan.policy.evict,
            };
            assert_eq!(geometry.complaint(plan.slabs), None, "{config:?}");
            assert!(Memory::of(plan.slabs, geometry.shards).is_possible(&geometry));
        }
        assert!(planned > 1000, "only {planned}");
    }

    #[test]
    fn without_eviction_some_room_is_kept_to_move_items() {
        let plan = plan_of(&StoreConfig { evict: false, ..config(64 << 20, 2) }).unwrap();
        assert_eq!(plan.shards, 2);
        let budget = Budget::of(&plan.policy, 32 << 20);
        assert!(budget.live_bytes_max > budget.capacity_bytes * 3 / 4);
    }

    #[test]
    fn little_memory_is_cut_into_short_slabs_and_no_slab_is_left_over() {
        for (shard_bytes, expected) in [
            (16 << 10, 4096),
            (64 << 10, 8192),
            (1 << 20, 128 << 10),
            (2 << 20, SLAB_BYTES_MAX),
            (1 << 40, SLAB_BYTES_MAX),
        ] {
            assert_eq!(slab_bytes(shard_bytes), expected, "{shard_bytes}");
        }
        let plan = plan_of(&StoreConfig { shards: Some(8), ..config(67 << 20, 2) }).unwrap();
        assert_eq!((plan.slabs, plan.capacity(0), plan.capacity(7)), (268, (34, 34), (33, 34)));
        assert_eq!((0..8).map(|shard| plan.capacity(shard).0).sum::<u32>(), plan.slabs);
    }
}
