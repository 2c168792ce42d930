//! How much memory the shards may have, changed while they serve.
//!
//! More is reserved at once, and had at once, but where tail and head of a log share a slab: it
//! takes more once its tail has left that slab. Less is had as the tails move: a slab goes back to
//! the pool, and its pages to the system, once its bytes are released. Maintenance moves the tails
//! for both; nothing is copied but what reclaim moves anyway.

use super::Store;
use super::reign::Closed;
use super::shard::Shard;
use super::sizing::{Budget, RECORD_SHARE_MAX, SHARD_BYTES_MIN, part};
use super::writer::{Goal, Writer};
use std::sync::PoisonError;

/// Why the memory stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotResize {
    /// More than the pool has.
    #[error("more than --memory-max")]
    TooMuch,
    /// The largest item would not fit into a shard any more.
    #[error("the largest item would not fit; an item is at most a quarter of a shard")]
    TooLittle,
    /// `-M`, and what lives takes more, expired items that nobody has found yet among it.
    #[error("items take more, and nothing is evicted (expired ones count until they are found)")]
    Alive,
    /// How much memory a shard has that takes no writes here, its primary says.
    #[error("{0}: its primary says how much memory it has")]
    Closed(#[from] Closed),
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
        // Two at a time would leave some shards of one size, and some of the other.
        let _resizing = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut goals_before = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            match shard.resize(part(slabs, shards, shard.number)) {
                Ok(goal_before) => goals_before.push(goal_before),
                Err(why) => {
                    self.undo(&goals_before);
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// The first shards are to have again what they were to have before. They always can: the pool
    /// has a part for each shard, and none is to have more than that. One that has been closed
    /// since follows its primary in this, too.
    fn undo(&self, goals_before: &[u32]) {
        for (shard, goal) in self.shards.iter().zip(goals_before) {
            let Ok(mut writer) = shard.lock_open() else { continue };
            let undone = shard.set_capacity(&mut writer, *goal);
            if shard.is_resizing(&writer) {
                shard.want_attention(true);
            }
            debug_assert!(undone, "shard {}: {goal} slabs were its own", shard.number);
        }
    }
}

impl Shard {
    /// From now on the shard is to have so many slabs, if they are to be had, and what lives fits
    /// into them or may be evicted. Returns how many it was to have before.
    fn resize(&self, slabs: u32) -> Result<u32, CannotResize> {
        let writer = &mut self.lock_open()?;
        let goal_before = writer.mapped.goal();
        let capacity_bytes = u64::from(slabs) * self.log.pool().slab_bytes();
        if !self.policy.evict && writer.live.bytes() > Budget::of(&self.policy, capacity_bytes).live_bytes_max {
            return Err(CannotResize::Alive);
        }
        if !self.set_capacity(writer, slabs) {
            return Err(CannotResize::TooMuch);
        }
        if self.is_resizing(writer) {
            self.want_attention(true);
        }
        Ok(goal_before)
    }

    /// The shard is to have so many slabs. More are reserved at once; less are had as its tail
    /// moves. False if they are not to be had.
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
    use crate::store::{Flushed, NewItem, StoreConfig};

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);
    const MEMORY_BYTES: usize = 256 << 10;

    fn config(evict: bool) -> StoreConfig {
        StoreConfig {
            memory_bytes: MEMORY_BYTES,
            memory_bytes_max: Some(2 * MEMORY_BYTES),
            item_bytes_max: 4 << 10,
            evict,
            shards: Some(2),
            hash_seed: Some((1, 2)),
            ..StoreConfig::default()
        }
    }

    fn store(evict: bool) -> Store {
        Store::new(config(evict)).unwrap()
    }

    fn set(store: &Store, key: usize) -> bool {
        let (mut participant, key) = (store.join(), format!("key-{key}"));
        let turn = participant.turn();
        let at = store.locate(key.as_bytes());
        let draft = store.draft(&at, NewItem { value: &[7; 100], ..NewItem::default() }, NOW);
        let stored = store.lock(&at).unwrap().entry(&turn, NOW).set(&draft).is_ok();
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
        assert_eq!((stats.capacity_bytes, stats.counts.evictions), (2 * MEMORY_BYTES as u64, 0));
        assert!(stats.owned_bytes > MEMORY_BYTES as u64);

        // Back again, by maintenance alone: what is alive fits into three quarters of neither
        // shard, so some of it goes.
        assert_eq!(store.set_memory(MEMORY_BYTES as u64), Ok(()));
        rest(&store);
        let stats = store.stats();
        assert_eq!((stats.capacity_bytes, stats.owned_bytes), (MEMORY_BYTES as u64, MEMORY_BYTES as u64));
        assert!(stats.counts.evictions > 0 && stats.items > 1000, "{stats:?}");
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
        assert_eq!((stats.owned_bytes, stats.counts.evictions), (MEMORY_BYTES as u64, 0));
        assert!((0..1000).all(|key| has(&store, key)));
    }

    /// `-M`, and a log whose tail and head share a slab: what it is given it has soon, though
    /// nobody's write moves its tail.
    #[test]
    fn a_full_log_that_evicts_nothing_can_grow() {
        const LOG_BYTES: u64 = 2 << 20;
        let config = StoreConfig {
            memory_bytes: LOG_BYTES as usize,
            memory_bytes_max: Some(2 * LOG_BYTES as usize),
            item_bytes_max: 1 << 10,
            shards: Some(1),
            ..config(false)
        };
        let store = Store::new(config).unwrap();
        let is_held_up = || store.shards()[0].lock().mapped.is_held_up();
        let set = |key| set(&store, key) || set(&store, key);
        let filled = (0..50_000).take_while(|key| set(*key)).count();
        assert!(filled < 50_000);
        let came_round = (0..filled).cycle().take(20 * filled).any(|key| {
            assert!(set(key));
            assert_eq!(store.set_memory(2 * LOG_BYTES), Ok(()));
            is_held_up() || store.set_memory(LOG_BYTES).is_err()
        });
        assert!(came_round && is_held_up(), "tail and head have shared a slab");
        rest(&store);
        assert!(!is_held_up());
        let more = (50_000..100_000).take_while(|key| set(*key)).count();
        assert!(more > filled * 3 / 4, "{more} more than {filled}");
        assert!((0..filled).chain(50_000..50_000 + more).all(|key| has(&store, key)));
        assert_eq!(store.stats().counts.evictions, 0);
    }

    /// Where nothing lives, nothing is moved to the head: the slabs above it go back all the same.
    #[test]
    fn an_empty_cache_gives_back_all_but_what_it_is_to_have() {
        let store = store(true);
        assert_eq!(store.set_memory(2 * MEMORY_BYTES as u64), Ok(()));
        for _ in 0..10 {
            (0..1500).for_each(|key| assert!(set(&store, key) || set(&store, key)));
        }
        assert_eq!(store.flush(&store.join().turn(), Flushed::All), Ok(()));
        let less_bytes = 2 * SHARD_BYTES_MIN as u64;
        assert_eq!(store.set_memory(less_bytes), Ok(()));
        rest(&store);
        let stats = store.stats();
        assert_eq!((stats.owned_bytes, stats.capacity_bytes), (less_bytes, less_bytes));
        assert!(set(&store, 1) && has(&store, 1));
    }

    /// The shards before the one that refuses are as they were: none has less than another.
    #[test]
    fn what_one_shard_refuses_no_shard_does() {
        let store = store(false);
        let in_the_last = (0..100_000).filter(|key| {
            let key = format!("key-{key}");
            store.locate(key.as_bytes()).place.shard() == 1
        });
        let filled = in_the_last.take_while(|key| set(&store, *key) || set(&store, *key)).count();
        assert!(filled > 100);
        assert_eq!(store.set_memory(MEMORY_BYTES as u64 / 2), Err(CannotResize::Alive));
        rest(&store);
        assert_eq!(store.stats().capacity_bytes, MEMORY_BYTES as u64);
        assert_eq!(store.shards().iter().map(|shard| shard.lock().mapped.goal()).sum::<u32>(), store.pool.slabs() / 2);
    }

    /// Whoever asks for more and whoever asks for less at the same time: all shards have what one
    /// of them asked for.
    #[test]
    fn two_who_resize_at_once_do_not_mix() {
        let store = store(true);
        for _ in 0..200 {
            std::thread::scope(|scope| {
                for half in [1, 2, 3, 4] {
                    let store = &store;
                    scope.spawn(move || assert_eq!(store.set_memory(MEMORY_BYTES as u64 / 2 * half), Ok(())));
                }
            });
            let goals: Vec<u32> = store.shards().iter().map(|shard| shard.lock().mapped.goal()).collect();
            assert_eq!(goals[0], goals[1], "{goals:?}");
        }
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
