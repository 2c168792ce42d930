//! All entries of an index, some at a time.

use super::bucket::{SlotRef, get};
use super::{Index, Slot, bucket_of};
use crate::sys::sync::Ordering;

impl Index {
    /// Call `take` with each entry whose hash chose `bucket` when there were `count` of them,
    /// wherever it is by now. The number of buckets never falls, so all buckets of a `count` give
    /// each entry once. With the lock held: nothing moves.
    pub fn for_each_of<'a>(&'a self, bucket: u64, count: u64, mut take: impl FnMut(SlotRef<'a>)) {
        // What a bucket was split into has its lowest bits.
        let least_step = (u64::MAX >> count.leading_zeros()) / 2 + 1;
        let parts = (bucket..self.bucket_count()).step_by(least_step as usize);
        for part in parts.filter(|part| bucket_of(*part, count) == bucket) {
            let mut chained = Some(self.primary(part));
            while let Some(cells) = chained {
                for cell in cells.slots {
                    let seen = Slot(cell.load(Ordering::Acquire));
                    if seen.0 != 0 {
                        take(SlotRef { cell, seen });
                    }
                }
                chained = self.next(get(cells.control));
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::TAG_FROM_BIT;
    use super::*;
    use std::collections::BTreeMap;

    const REFERENCE: u64 = 1 << 20;

    fn hash(number: u64) -> u64 {
        number << TAG_FROM_BIT | number & 0xFF
    }

    fn number(slot: Slot) -> u64 {
        slot.position(REFERENCE) / 8
    }

    /// However the buckets are split while the walk is on its way.
    #[test]
    fn each_entry_is_met_once_though_the_index_grows() {
        for (grown_before, grown_between) in [(0, 5), (2, 1), (4, 40), (11, 3), (60, 70)] {
            let index = Index::new(1 << 20).unwrap();
            for number in 0..100 {
                index.insert(hash(number), number * 8).unwrap();
            }
            let grow = |times| (0..times).for_each(|_| assert!(index.grow(|slot| hash(number(slot)))));
            grow(grown_before);
            let count = index.bucket_count();
            let mut met = BTreeMap::new();
            for bucket in 0..count {
                index.for_each_of(bucket, count, |slot| *met.entry(number(slot.seen)).or_insert(0) += 1);
                if bucket == count / 2 {
                    grow(grown_between);
                }
            }
            assert!(met.len() == 100 && met.values().all(|times| *times == 1), "{count} buckets: {met:?}");
        }
    }
}
