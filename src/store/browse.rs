//! All items of a store, a few at a time, while it is written to.
//!
//! The walk goes by the buckets of each shard's index. It takes a shard's lock for one bucket at a
//! time. So it sees what a reader would find at that moment, on a replica too, and each item
//! exactly once that stays as it is meanwhile. One that is written anew stays in its bucket: it is
//! seen once, too, as it was or as it is.

use super::record::{Kind, Record};
use super::{Item, Store, Turn};
use crate::base::time::UnixSeconds;

/// How far a walk over all items has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Browse {
    shard: usize,
    bucket: u64,
    /// Of this shard, when the walk came to it; 0: it has not begun here.
    buckets: u64,
}

impl Store {
    /// Add the items of the walk's next bucket to `found`; there may be none. False at the end of
    /// the walk.
    pub fn browse<'t>(
        &'t self,
        turn: &'t Turn<'_>,
        at: &mut Browse,
        now: UnixSeconds,
        found: &mut Vec<Item<'t>>,
    ) -> bool {
        let _ = turn;
        let Some(shard) = self.shards.get(at.shard) else { return false };
        if at.buckets == 0 {
            at.buckets = shard.index.bucket_count();
        }
        let writer = shard.lock();
        shard.index.for_each_of(at.bucket, at.buckets, |slot| {
            let position = shard.position(slot.seen);
            if let Some(record) = Record::read(shard.log.words_at(position)) {
                let item = shard.item((slot, (position, record)));
                found.extend(Some(item).filter(|item| shard.is_alive(item, now)));
            }
        });
        drop(writer);
        at.bucket += 1;
        if at.bucket == at.buckets {
            *at = Browse { shard: at.shard + 1, ..Browse::default() };
        }
        true
    }

    /// Seconds since the last use of the oldest item, or of one that is about as old: of what
    /// stands at the tail of a log. 0 without items.
    pub fn oldest_idle_seconds(&self, now: UnixSeconds) -> u32 {
        let oldest = self.shards.iter().filter_map(|shard| {
            // While the lock is held the tail stays where it is, and what stands there with it.
            let _writer = shard.lock();
            let mut records = shard.walk(shard.tail()).take(OLDEST_RECORDS_MAX).map(|(_, record)| record);
            let oldest = records.find(|record| record.shape.kind() == Kind::Set && !record.meta().dead())?;
            Some(oldest.meta().idle_seconds(now))
        });
        oldest.max().unwrap_or(0)
    }
}

/// Records at a tail among which an item is looked for.
const OLDEST_RECORDS_MAX: usize = 64;
