//! All entries of an index, a bucket at a time, while it grows.

use super::bucket::{SlotRef, get};
use super::{Index, Slot, bucket_of};
use crate::sys::sync::Ordering;

/// Where a walk over an index stands: at the bucket of the hashes that begin like this, from the
/// lowest bit up. In that order a bucket is followed by what it was split from, or split into: so
/// whatever is split in the meantime, what is behind the walk stays behind it. A walk takes one
/// bucket at a time, as it is by then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walk {
    /// With the bits of a hash in reverse.
    reversed: u64,
}

impl Index {
    /// Call `take` with each entry of the walk's next bucket. False if it was the last one. The
    /// number of buckets never falls, so a walk meets each entry once that is there all the time.
    /// With the lock held: nothing moves.
    pub fn take_next<'a>(&'a self, walk: &mut Walk, mut take: impl FnMut(SlotRef<'a>)) -> bool {
        let count = self.bucket_count();
        let bucket = bucket_of(walk.reversed.reverse_bits(), count);
        let mut chained = Some(self.primary(bucket));
        while let Some(cells) = chained {
            for cell in cells.slots {
                let seen = Slot(cell.load(Ordering::Acquire));
                if seen.0 != 0 {
                    take(SlotRef { cell, seen });
                }
            }
            chained = self.next(get(cells.control));
        }
        // So many of a hash's lowest bits choose the bucket: one more where it was split at this
        // level of growth.
        let level = count.ilog2();
        let is_split = bucket >= 1 << level || bucket < count - (1 << level);
        let bits = level + u32::from(is_split);
        let last = walk.reversed | u64::MAX.checked_shr(bits).unwrap_or(0);
        match last.checked_add(1) {
            Some(reversed) => walk.reversed = reversed,
            None => return false,
        }
        true
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

    fn filled(entries: u64) -> Index {
        let index = Index::new(1 << 20).unwrap();
        for number in 0..entries {
            index.insert(hash(number), number * 8).unwrap();
        }
        index
    }

    fn grow(index: &Index, times: usize) {
        (0..times).for_each(|_| assert!(index.grow(|slot| hash(number(slot)))));
    }

    /// However the buckets are split while the walk is on its way.
    #[test]
    fn each_entry_is_met_once_though_the_index_grows() {
        for (grown_before, grown_after, grown_by) in
            [(0, 0, 0), (0, 1, 5), (2, 1, 1), (3, 2, 3), (4, 3, 40), (11, 5, 3), (60, 20, 70), (63, 40, 1)]
        {
            let index = filled(100);
            grow(&index, grown_before);
            let (mut met, mut walk, mut steps) = (BTreeMap::new(), Walk::default(), 0);
            while index.take_next(&mut walk, |slot| *met.entry(number(slot.seen)).or_insert(0) += 1) {
                steps += 1;
                if steps == grown_after {
                    grow(&index, grown_by);
                }
            }
            let grown = (grown_before, grown_after, grown_by);
            assert!(met.len() == 100 && met.values().all(|times| *times == 1), "{grown:?}: {met:?}");
        }
    }

    /// A walk that began while there were two buckets takes no more at a time, once there are many,
    /// than one that begins then.
    #[test]
    fn what_a_walk_takes_at_a_time_follows_the_growth() {
        let index = filled(100);
        grow(&index, 1);
        let mut walk = Walk::default();
        assert!(index.take_next(&mut walk, |_| ()));
        grow(&index, 62);
        let (mut most, mut taken) = (0, 0);
        loop {
            let mut here = 0;
            let goes_on = index.take_next(&mut walk, |_| here += 1);
            (most, taken) = (most.max(here), taken + here);
            if !goes_on {
                break;
            }
        }
        assert!(taken == 50 && most <= 8, "{most} of {taken} at a time");
    }
}
