//! All items of a store, a few at a time, while it is written to.
//!
//! The walk goes by the buckets of each shard's index. It takes a shard's lock for one bucket at a
//! time, as the bucket is by then, however much the index has grown since the walk began. So it
//! sees what a reader would find at that moment, on a replica too, and each item exactly once that
//! stays as it is meanwhile. One that is written anew stays in its bucket: it is seen once, too, as
//! it was or as it is.

use super::index::Walk;
use super::record::{Kind, Record};
use super::{Item, Store, Turn};
use crate::base::time::UnixSeconds;

/// How far a walk over all items has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Browse {
    shard: usize,
    /// In its index.
    walk: Walk,
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
        let writer = shard.lock();
        let goes_on = shard.index.take_next(&mut at.walk, |slot| {
            let position = shard.position(slot.seen);
            if let Some(record) = Record::read(shard.log.words_at(position)) {
                let item = shard.item((slot, (position, record)));
                found.extend(Some(item).filter(|item| shard.is_alive(item, now)));
            }
        });
        drop(writer);
        if !goes_on {
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::{NewItem, StoreConfig};
    use std::collections::BTreeSet;

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

    fn put(store: &Store, turn: &Turn<'_>, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let key = number.to_be_bytes();
            let at = store.locate(&key);
            let draft = store.draft(&at, NewItem { value: b"value", ..NewItem::default() }, NOW);
            store.lock(&at).expect("it takes writes").entry(turn, NOW).set(&draft).expect("there is room");
        }
    }

    /// A walk that began while the index was small takes a few items at a time once it is large,
    /// and each item once that was there all the time.
    #[test]
    fn a_step_stays_small_though_the_index_grows() {
        let config = StoreConfig { shards: Some(1), hash_seed: Some((3, 5)), ..StoreConfig::default() };
        let store = Store::new(config).expect("memory for a store");
        let mut seat = store.join();
        let turn = seat.turn();
        put(&store, &turn, 0..40);
        let (mut at, mut seen, mut most) = (Browse::default(), BTreeSet::new(), 0);
        let mut found = Vec::new();
        let mut step = |found: &mut Vec<_>| {
            let goes_on = store.browse(&turn, &mut at, NOW, found);
            most = most.max(found.len());
            for item in found.drain(..) {
                let mut key = [0; crate::base::limits::KEY_BYTES_MAX];
                let key: [u8; 4] = Item::copy_key(&item, &mut key).try_into().expect("a number");
                assert!(seen.insert(u32::from_be_bytes(key)), "{key:?} comes twice");
            }
            goes_on
        };
        assert!(step(&mut found));
        put(&store, &turn, 40..20_000);
        while step(&mut found) {}
        assert!((0..40).all(|number| seen.contains(&number)), "{seen:?}");
        assert!(seen.len() > 10_000 && most < 64, "{most} at a time of {}", seen.len());
    }
}
