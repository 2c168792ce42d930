//! What a store knows of itself.

use super::Store;
use crate::sys::memory::Backing;

/// Sums over all shards. Counters grow; the others are of now.
#[derive(Debug, Clone, Default)]
pub struct StoreStats {
    /// Shards.
    pub shards: u64,
    /// Bytes that all logs may have together.
    pub capacity_bytes: u64,
    /// Bytes of the slabs that they have.
    pub owned_bytes: u64,
    /// Bytes of all slabs, whether a log has them or not.
    pub pool_bytes: u64,
    /// Items present (those expired or flushed but not yet reclaimed included).
    pub items: u64,
    /// Bytes of the records of those items, without those that were flushed.
    pub item_bytes: u64,
    /// Bytes of the logs that are no item: replaced, deleted or flushed ones, records of deletes
    /// and touches, pads.
    pub dead_bytes: u64,
    /// What is counted under the shards' locks.
    pub counts: Counts,
    /// Bytes the tail has passed.
    pub reclaimed_bytes: u64,
    /// Lock acquisitions that had to wait.
    pub lock_waits: u64,
    /// Primary buckets of the index.
    pub index_buckets: u64,
    /// Overflow buckets in use.
    pub index_overflow_buckets: u64,
    /// Bytes of the index that are in memory.
    pub index_bytes: u64,
    /// Slabs of the pool, if it is backed by MAP_HUGETLB pages.
    pub slabs_hugetlb: u64,
    /// The same, with transparent huge pages asked for.
    pub slabs_transparent: u64,
    /// The same, of plain pages.
    pub slabs_plain: u64,
}

/// Counters of one shard, or sums over all.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Items ever written.
    pub total_items: u64,
    /// Items reclaimed while still alive.
    pub evictions: u64,
    /// Of those, never fetched.
    pub evicted_unfetched: u64,
    /// Items reclaimed after they had expired or been flushed.
    pub reclaimed: u64,
    /// Of those, never fetched.
    pub expired_unfetched: u64,
    /// Bytes appended, by commands and by reclaim.
    pub appended_bytes: u64,
    /// Bytes appended again by reclaim (second chance): the write amplification.
    pub reinserted_bytes: u64,
    /// Records appended again.
    pub reinserted_items: u64,
    /// Appends that found no room and had to be tried again.
    pub parked: u64,
}

impl Counts {
    /// Each counter of both, put together.
    fn with(&self, other: &Counts, each: fn(u64, u64) -> u64) -> Counts {
        Counts {
            total_items: each(self.total_items, other.total_items),
            evictions: each(self.evictions, other.evictions),
            evicted_unfetched: each(self.evicted_unfetched, other.evicted_unfetched),
            reclaimed: each(self.reclaimed, other.reclaimed),
            expired_unfetched: each(self.expired_unfetched, other.expired_unfetched),
            appended_bytes: each(self.appended_bytes, other.appended_bytes),
            reinserted_bytes: each(self.reinserted_bytes, other.reinserted_bytes),
            reinserted_items: each(self.reinserted_items, other.reinserted_items),
            parked: each(self.parked, other.parked),
        }
    }
}

impl StoreStats {
    /// What was counted since `base`. Where that is of later than these, as two who ask at the same
    /// time may see it, nothing was.
    pub fn since(self, base: &StoreStats) -> StoreStats {
        StoreStats {
            counts: self.counts.with(&base.counts, u64::saturating_sub),
            reclaimed_bytes: self.reclaimed_bytes.saturating_sub(base.reclaimed_bytes),
            lock_waits: self.lock_waits.saturating_sub(base.lock_waits),
            ..self
        }
    }
}

impl Store {
    /// Sums over all shards; takes each shard's lock in turn, briefly.
    pub fn stats(&self) -> StoreStats {
        let mut sum = StoreStats { shards: self.shards.len() as u64, ..StoreStats::default() };
        for shard in &self.shards {
            let (counts, counted_from, live_bytes, log_bytes) = {
                let writer = shard.lock();
                sum.capacity_bytes += u64::from(writer.mapped.goal()) * self.pool.slab_bytes();
                sum.owned_bytes += u64::from(writer.mapped.owned()) * self.pool.slab_bytes();
                let log_bytes = shard.head() - shard.tail();
                (
                    writer.counts.clone(),
                    writer.counted_from,
                    writer.live.bytes() - writer.live.growth_bytes(),
                    log_bytes,
                )
            };
            sum.items += shard.index.entries();
            sum.item_bytes += live_bytes;
            sum.dead_bytes += log_bytes.saturating_sub(live_bytes);
            sum.counts = sum.counts.with(&counts, u64::saturating_add);
            sum.reclaimed_bytes += shard.tail().wrapping_sub(counted_from);
            sum.lock_waits += shard.lock_waits();
            sum.index_buckets += shard.index.bucket_count();
            sum.index_overflow_buckets += shard.index.overflow_count();
            sum.index_bytes += shard.index.bytes();
        }
        sum.pool_bytes = u64::from(self.pool.slabs()) * self.pool.slab_bytes();
        *match self.pool.memory().backing() {
            Backing::Hugetlb => &mut sum.slabs_hugetlb,
            Backing::Transparent => &mut sum.slabs_transparent,
            Backing::Plain => &mut sum.slabs_plain,
        } = self.pool.slabs().into();
        sum
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_since_is_the_difference_of_each_counter() {
        let all = StoreStats {
            counts: Counts {
                total_items: 1,
                evictions: 2,
                evicted_unfetched: 3,
                reclaimed: 4,
                expired_unfetched: 5,
                appended_bytes: 6,
                reinserted_bytes: 7,
                reinserted_items: 8,
                parked: 9,
            },
            reclaimed_bytes: 10,
            lock_waits: 11,
            items: 12,
            ..StoreStats::default()
        };
        let said = |stats: &StoreStats| format!("{stats:?}");
        assert_eq!(said(&all.clone().since(&StoreStats::default())), said(&all));
        let nothing = StoreStats { items: 12, ..StoreStats::default() };
        assert_eq!(said(&all.clone().since(&all)), said(&nothing), "items are of now");
        assert_eq!(said(&nothing.clone().since(&all)), said(&nothing), "a later base leaves nothing");
    }
}
