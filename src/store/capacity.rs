//! How much memory the shards may have, changed while they serve.
//!
//! More is had at once: it was reserved when the pool was made. Less is had as the tails move,
//! which maintenance sees to: a slab goes back to the pool once its bytes are released, and nothing
//! is copied but what reclaim moves anyway.

use super::Store;
use super::shard::{Goal, Shard, Writer};
use super::sizing::{Budget, RECORD_SHARE_MAX, SHARD_BYTES_MIN, part};

/// Why the memory stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotResize {
    /// More than the pool has.
    #[error("more than --memory-max")]
    TooMuch,
    /// The largest item would not fit into a shard any more.
    #[error("the largest item would not fit; an item is at most a quarter of a shard")]
    TooLittle,
    /// `-M`, and what lives takes more.
    #[error("live items take more, and nothing is evicted")]
    Alive,
}

impl Store {
    /// From now on all logs together are to have `memory_bytes`, each an equal part. Nothing has
    /// changed after an error.
    pub fn set_memory(&self, memory_bytes: u64) -> Result<(), CannotResize> {
        let (shards, slab_bytes) = (self.shards.len() as u32, self.pool.slab_bytes());
        let slabs = memory_bytes / slab_bytes;
        let slabs = u32::try_from(slabs).ok().filter(|slabs| *slabs <= self.pool.slabs());
        let slabs = slabs.ok_or(CannotResize::TooMuch)?;
        let least_bytes = u64::from(slabs / shards) * slab_bytes;
        let policy = &self.shards[0].policy;
        let needed_bytes = (policy.record_bytes_max.saturating_sub(7) * RECORD_SHARE_MAX).max(SHARD_BYTES_MIN);
        if least_bytes < needed_bytes as u64 {
            return Err(CannotResize::TooLittle);
        }
        let is_too_full = |shard: &Shard| {
            let capacity_bytes = u64::from(part(slabs, shards, shard.number)) * slab_bytes;
            shard.lock().live.bytes() > Budget::of(policy, capacity_bytes).live_bytes_max
        };
        if !policy.evict && self.shards.iter().any(is_too_full) {
            return Err(CannotResize::Alive);
        }
        for shard in &self.shards {
            let mut writer = shard.lock();
            let capacity = part(slabs, shards, shard.number);
            // What all shards have together is at most the pool; but one may still be about to give
            // back what this one is to have.
            if !shard.set_capacity(&mut writer, capacity) {
                return Err(CannotResize::TooMuch);
            }
            if writer.mapped.shrinks() {
                shard.want_attention(true);
            }
        }
        Ok(())
    }
}

impl Shard {
    /// The shard is to have so many slabs. More are had at once; less, as its tail moves. False if
    /// they are not to be had.
    pub(super) fn set_capacity(&self, writer: &mut Writer, slabs: u32) -> bool {
        if !writer.mapped.set_goal(&self.log, slabs) {
            return false;
        }
        self.settle_budget(writer);
        true
    }

    /// What is mapped has changed: publish the capacity, and let the budget follow from what can be
    /// used.
    pub(super) fn settle_budget(&self, writer: &mut Writer) {
        let slab_bytes = self.log.pool().slab_bytes();
        let capacity_bytes = u64::from(writer.mapped.capacity()) * slab_bytes;
        if self.control().capacity_bytes() != capacity_bytes {
            self.control().set_capacity(capacity_bytes);
        }
        let usable_bytes = u64::from(writer.mapped.usable()) * slab_bytes;
        if writer.budget.capacity_bytes != usable_bytes {
            writer.budget = Budget::of(&self.policy, usable_bytes);
            writer.goal = Goal::default();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::time::UnixSeconds;
    use crate::store::{NewItem, StoreConfig};

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);
    const MEMORY_BYTES: usize = 256 << 10;

    fn store(evict: bool) -> Store {
        let config = StoreConfig {
            memory_bytes: MEMORY_BYTES,
            memory_bytes_max: Some(2 * MEMORY_BYTES),
            item_bytes_max: 4 << 10,
            evict,
            workers: 1,
            shards: Some(2),
            hugepages: false,
            hash_seed: Some((1, 2)),
            epoch: None,
        };
        Store::new(config).unwrap()
    }

    fn set(store: &Store, key: usize) -> bool {
        let (mut participant, key) = (store.join(), format!("key-{key}"));
        let turn = participant.turn();
        let at = store.locate(key.as_bytes());
        let draft = store.draft(&at, NewItem { value: &[7; 100], ..NewItem::default() }, NOW);
        let stored = store.entry(&turn, &at, NOW).set(&draft).is_ok();
        store.maintain(&turn, 0, NOW);
        stored
    }

    fn has(store: &Store, key: usize) -> bool {
        let (mut participant, key) = (store.join(), format!("key-{key}"));
        let turn = participant.turn();
        store.get(&turn, &store.locate(key.as_bytes()), NOW).is_some()
    }

    /// Turns without a write until maintenance has nothing to do any more; how many.
    fn rest(store: &Store) -> usize {
        (0..10_000).find(|_| !store.maintain(&store.join().turn(), 0, NOW)).expect("it comes to an end")
    }

    #[test]
    fn more_memory_holds_more_and_less_keeps_what_fits() {
        let store = store(true);
        (0..1000).for_each(|key| assert!(set(&store, key) || set(&store, key)));
        assert!((0..1000).all(|key| has(&store, key)), "half of it is alive");
        assert_eq!(store.set_memory(2 * MEMORY_BYTES as u64), Ok(()));
        (1000..2500).for_each(|key| assert!(set(&store, key) || set(&store, key)));
        assert!((0..2500).all(|key| has(&store, key)));
        let stats = store.stats();
        assert_eq!((stats.capacity_bytes, stats.evictions), (2 * MEMORY_BYTES as u64, 0));
        assert!(stats.owned_bytes > MEMORY_BYTES as u64);

        // Back again, by maintenance alone: what is alive fits into three quarters of neither
        // shard, so some of it goes.
        assert_eq!(store.set_memory(MEMORY_BYTES as u64), Ok(()));
        rest(&store);
        let stats = store.stats();
        assert_eq!((stats.capacity_bytes, stats.owned_bytes), (MEMORY_BYTES as u64, MEMORY_BYTES as u64));
        assert!(stats.evictions > 0 && stats.items > 1000, "{stats:?}");
        assert_eq!(store.set_memory(2 * MEMORY_BYTES as u64), Ok(()), "what was given back can be had again");
        (0..2500).for_each(|key| assert!(set(&store, key) || set(&store, key)));
        assert!((0..2500).all(|key| has(&store, key)));
    }

    #[test]
    fn what_fits_into_less_memory_is_kept() {
        let store = store(true);
        assert_eq!(store.set_memory(2 * MEMORY_BYTES as u64), Ok(()));
        for _ in 0..5 {
            (0..1000).for_each(|key| assert!(set(&store, key) || set(&store, key)));
        }
        assert_eq!(store.set_memory(MEMORY_BYTES as u64), Ok(()));
        rest(&store);
        let stats = store.stats();
        assert_eq!((stats.owned_bytes, stats.evictions), (MEMORY_BYTES as u64, 0));
        assert!((0..1000).all(|key| has(&store, key)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for evict in [false, true] {
            let store = store(evict);
            assert_eq!(store.set_memory(2 * MEMORY_BYTES as u64 + (64 << 10)), Err(CannotResize::TooMuch));
            assert_eq!(store.set_memory(u64::MAX), Err(CannotResize::TooMuch));
            assert_eq!(store.set_memory(16 << 10), Err(CannotResize::TooLittle));
            let filled = (0..5000).take_while(|key| set(&store, *key) || set(&store, *key)).count();
            assert_eq!(filled == 5000, evict);
            let less = store.set_memory(MEMORY_BYTES as u64 / 2);
            assert_eq!(less, if evict { Ok(()) } else { Err(CannotResize::Alive) });
            rest(&store);
            let expected = MEMORY_BYTES as u64 / if evict { 2 } else { 1 };
            assert_eq!(store.stats().capacity_bytes, expected);
            assert_eq!(store.set_memory(2 * MEMORY_BYTES as u64), Ok(()));
            assert!(set(&store, 9999));
        }
    }
}
