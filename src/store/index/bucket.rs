//! A bucket's words, one by one.

use super::slot::{Slot, tag};
use super::{PRESENT, USES_MAX};
use crate::sys::sync::{AtomicU64, Ordering};

pub(super) const SLOTS: usize = 7;
pub(super) const BUCKET_WORDS: usize = SLOTS + 1;
/// One cache line.
pub(super) const BUCKET_BYTES: usize = BUCKET_WORDS * 8;
pub(super) const OVERFLOW_SLOTS: usize = 3;
pub(super) const OVERFLOW_WORDS: usize = OVERFLOW_SLOTS + 1;
pub(super) const OVERFLOW_BYTES: usize = OVERFLOW_WORDS * 8;

/// A slot and what it held when it was looked at.
#[derive(Clone, Copy)]
pub struct SlotRef<'a> {
    pub(super) cell: &'a AtomicU64,
    /// What was seen.
    pub seen: Slot,
}

impl SlotRef<'_> {
    /// Count a use; gives up when the slot has changed or the counter is full.
    pub fn note_use(&self) {
        let uses = self.seen.uses();
        if uses < USES_MAX {
            let counted = self.seen.with_uses(uses + 1).0;
            let _ = self.cell.compare_exchange(self.seen.0, counted, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

pub(super) fn get(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

pub(super) fn set(cell: &AtomicU64, value: u64) {
    cell.store(value, Ordering::Relaxed);
}

/// Store to a slot on which readers may be trying to count a use. A compare-exchange of theirs
/// comes before this store in the slot's modification order, or fails. loom (0.7) lets it succeed
/// on the value that a plain store has just replaced, which no hardware and not the memory model
/// does; a swap keeps it honest there.
pub(super) fn overwrite(cell: &AtomicU64, value: u64) {
    #[cfg(not(loom))]
    cell.store(value, Ordering::Release);
    #[cfg(loom)]
    cell.swap(value, Ordering::AcqRel);
}

/// A bucket, primary or overflow.
#[derive(Clone, Copy)]
pub(super) struct Bucket<'a> {
    pub(super) slots: &'a [AtomicU64],
    pub(super) control: &'a AtomicU64,
}

impl<'a> Bucket<'a> {
    /// The `number`-th of a run of buckets with so many words each.
    #[inline]
    pub(super) fn of(words: &'a [AtomicU64], number: u64, bucket_words: usize) -> Bucket<'a> {
        let words = &words[number as usize * bucket_words..][..bucket_words];
        Bucket { slots: &words[..bucket_words - 1], control: &words[bucket_words - 1] }
    }

    /// The first slot of it whose tag is the hash's, and that `look` gives something for.
    #[inline]
    pub(super) fn scan<T>(self, hash: u64, look: &impl Fn(Slot) -> Option<T>) -> Option<(SlotRef<'a>, T)> {
        let (wanted, mask) = (PRESENT | tag(hash), PRESENT | tag(u64::MAX));
        for cell in self.slots {
            let seen = Slot(cell.load(Ordering::Acquire));
            if seen.0 & mask == wanted
                && let Some(found) = look(seen)
            {
                return Some((SlotRef { cell, seen }, found));
            }
        }
        None
    }

    /// An empty slot of it.
    #[inline]
    pub(super) fn vacancy(self) -> Option<&'a AtomicU64> {
        self.slots.iter().find(|cell| get(cell) == 0)
    }
}
