//! A shard's index: which record is the item under a key. Grows by itself, one bucket at a time
//! (linear hashing), while it serves.
//!
//! ```text
//! bucket, 64 bytes:           slot 0 | slot 1 | ... | slot 6 | control: version 32, overflow bucket + 1 (0: none) 32
//! overflow bucket, 32 bytes:  slot 0 | slot 1 | slot 2 | control, without a version
//! slot, 64 bits:              present 1 | uses 2 | tag 25 (the hash's bits 8 to 32) | place 36 (position / 8, its low bits)
//! ```
//!
//! A third of the buckets have overflow, of 2.4 entries on average when the number of buckets has
//! just doubled, and of 3.5 half way to the next time. So an overflow bucket is half as long: in
//! one of 64 bytes half of the slots would be empty, or more.
//!
//! Writers hold the shard's lock. Readers hold nothing: they load slots with acquire, and a slot is
//! stored with release after the record it points to. An entry is replaced in place, so a reader
//! sees the old or the new. It moves only when its bucket is split: the copy is stored first, then
//! the new bucket count is published and the old bucket's version made odd, then the old entries
//! are cleared, then the version is made even. A reader that found nothing looks again whether the
//! bucket's control word and the key's bucket are what they were; if not, it looks again, a bounded
//! number of times, and then asks for the lock.

mod bucket;
mod each;
mod slot;

use crate::sys::memory::Reservation;
use crate::sys::prefetch::prefetch;
use crate::sys::sync::{AtomicU64, Ordering, fence};
use arrayvec::ArrayVec;
pub use bucket::SlotRef;
use bucket::{BUCKET_BYTES, BUCKET_WORDS, Bucket, OVERFLOW_BYTES, OVERFLOW_WORDS, get, overwrite, set};
use crossbeam::utils::CachePadded;
pub use each::Walk;
pub use slot::Slot;
use slot::tag;
use std::io;

/// A bucket is split when there are more entries than this per two buckets: few enough that most
/// buckets need no overflow, many enough that a record costs about 12 bytes of index.
const ENTRIES_PER_TWO_BUCKETS: u64 = 13;
/// Entries that a split moves, at most. There are six or seven on average, and the hash is secret:
/// more than this there are once in 10^40 splits. Then the index does not grow until some are gone.
const MOVED_MAX: usize = 64;
/// Looks without the lock before a reader takes it. A bucket is split once per doubling, so a
/// second look nearly always settles it.
const LOOKS_MAX: usize = 16;

const VERSION_MASK: u64 = 0xFFFF_FFFF;
const PRESENT: u64 = 1 << 63;
const USES_SHIFT: u32 = 61;
const USES_MAX: u64 = 3;
const TAG_SHIFT: u32 = 36;
const TAG_BITS: u32 = 25;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
const TAG_FROM_BIT: u32 = 8;
const PLACE_MASK: u64 = (1 << TAG_SHIFT) - 1;
const PLACE_UNUSED_BITS: u32 = 64 - TAG_SHIFT;
/// A log is no longer than this, in bytes: so far in either direction a place names one position
/// only.
pub const LOG_BYTES_MAX: u64 = (PLACE_MASK + 1) * 8 / 2;

/// What a look found.
pub enum Look<T> {
    /// The key's entry.
    Found(T),
    /// No such key.
    Absent,
    /// Buckets kept moving: take the lock and look again.
    Unsettled,
}

/// See the module.
pub struct Index {
    buckets: Reservation,
    overflow: Reservation,
    /// Primary buckets in use; published with release when a split's copies are in place.
    count: AtomicU64,
    count_max: u64,
    /// On a cache line of its own: every insert writes to it, and every reader needs what stands
    /// before it.
    writer_state: CachePadded<WriterState>,
}

/// Written under the shard's lock only; atomics so that statistics may read them.
struct WriterState {
    entries: AtomicU64,
    overflow_used: AtomicU64,
    /// Head of the list of freed overflow buckets, linked through their first slot (without the
    /// present bit, so that a late reader takes it for no entry); bucket + 1, 0 for none.
    overflow_free: AtomicU64,
    overflow_in_use: AtomicU64,
}

/// The bucket of a hash, of `count` buckets.
#[inline]
fn bucket_of(hash: u64, count: u64) -> u64 {
    let mask = u64::MAX >> count.leading_zeros();
    let bucket = hash & mask;
    if bucket < count { bucket } else { bucket & mask >> 1 }
}

/// No overflow bucket is left.
#[derive(Debug, PartialEq, Eq)]
pub struct IndexFull;

impl Index {
    /// An index for a log of at most `capacity_bytes`; reserves address space for the most records
    /// that the log can hold.
    pub fn new(capacity_bytes: u64) -> io::Result<Index> {
        // The smallest record takes 24 bytes; at 6.5 of them a bucket that is 0.41 bytes of bucket
        // per byte of log.
        let count_max = (capacity_bytes / 2 / BUCKET_BYTES as u64).max(2);
        let overflow_max = (capacity_bytes / 4 / OVERFLOW_BYTES as u64).max(2);
        Ok(Index {
            buckets: Reservation::new(count_max as usize * BUCKET_BYTES)?,
            overflow: Reservation::new(overflow_max as usize * OVERFLOW_BYTES)?,
            count: AtomicU64::new(1),
            count_max,
            writer_state: CachePadded::new(WriterState {
                entries: AtomicU64::new(0),
                overflow_used: AtomicU64::new(0),
                overflow_free: AtomicU64::new(0),
                overflow_in_use: AtomicU64::new(0),
            }),
        })
    }

    /// Entries present.
    pub fn entries(&self) -> u64 {
        get(&self.writer_state.entries)
    }

    /// Primary buckets in use.
    pub fn bucket_count(&self) -> u64 {
        get(&self.count)
    }

    /// Overflow buckets in use.
    pub fn overflow_count(&self) -> u64 {
        get(&self.writer_state.overflow_in_use)
    }

    /// Bytes of memory touched.
    pub fn bytes(&self) -> u64 {
        self.bucket_count() * BUCKET_BYTES as u64 + get(&self.writer_state.overflow_used) * OVERFLOW_BYTES as u64
    }

    #[inline]
    fn primary(&self, bucket: u64) -> Bucket<'_> {
        Bucket::of(self.buckets.words(), bucket, BUCKET_WORDS)
    }

    /// The overflow bucket behind a link (its number + 1, as control words and the free list keep
    /// it).
    #[inline]
    fn overflow_bucket(&self, link: u64) -> Bucket<'_> {
        Bucket::of(self.overflow.words(), link - 1, OVERFLOW_WORDS)
    }

    /// The overflow bucket that a control word names.
    #[inline]
    fn next(&self, control: u64) -> Option<Bucket<'_>> {
        let link = control >> 32;
        (link != 0).then(|| self.overflow_bucket(link))
    }

    /// Look for the key with this hash; `look` gives something if the record behind an entry is the
    /// one. Without the lock.
    #[inline]
    pub fn find<'a, T>(&'a self, hash: u64, look: impl Fn(Slot) -> Option<T>) -> Look<(SlotRef<'a>, T)> {
        for _ in 0..LOOKS_MAX {
            let count = self.count.load(Ordering::Acquire);
            let bucket = self.primary(bucket_of(hash, count));
            let control = bucket.control.load(Ordering::Acquire);
            if let Some(found) = self.scan(bucket, control, hash, &look) {
                return Look::Found(found);
            }
            fence(Ordering::Acquire);
            let same_bucket = bucket_of(hash, get(&self.count)) == bucket_of(hash, count);
            if same_bucket && get(bucket.control) == control && control & 1 == 0 {
                return Look::Absent;
            }
            #[cfg(loom)]
            loom::thread::yield_now();
        }
        Look::Unsettled
    }

    /// The same, with the lock held: nothing moves, so one look settles it.
    #[inline]
    pub fn find_locked<'a, T>(&'a self, hash: u64, look: impl Fn(Slot) -> Option<T>) -> Option<(SlotRef<'a>, T)> {
        let bucket = self.primary(bucket_of(hash, get(&self.count)));
        self.scan(bucket, get(bucket.control), hash, &look)
    }

    #[inline]
    fn scan<'a, T>(
        &'a self,
        primary: Bucket<'a>,
        control: u64,
        hash: u64,
        look: &impl Fn(Slot) -> Option<T>,
    ) -> Option<(SlotRef<'a>, T)> {
        let found = primary.scan(hash, look);
        if found.is_some() {
            return found;
        }
        let mut control = control;
        loop {
            let bucket = self.next(control)?;
            let found = bucket.scan(hash, look);
            if found.is_some() {
                return found;
            }
            control = bucket.control.load(Ordering::Acquire);
        }
    }

    /// Fetch the bucket of a key with this hash.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.primary(bucket_of(hash, get(&self.count))).slots, 1);
    }

    /// What may be the entry of a key with this hash, if it is in its bucket's first line: good
    /// enough to fetch its record.
    #[inline]
    pub fn guess(&self, hash: u64) -> Option<Slot> {
        let (wanted, mask) = (PRESENT | tag(hash), PRESENT | tag(u64::MAX));
        let bucket = self.primary(bucket_of(hash, get(&self.count)));
        bucket.slots.iter().map(|cell| Slot(cell.load(Ordering::Acquire))).find(|slot| slot.0 & mask == wanted)
    }

    /// Point the entry in `slot` to another record of the same key. Its uses start anew at `uses`.
    pub fn replace<'a>(&'a self, slot: &SlotRef<'a>, hash: u64, position: u64, uses: u64) -> SlotRef<'a> {
        let seen = Slot::new(hash, position).with_uses(uses);
        overwrite(slot.cell, seen.0);
        SlotRef { cell: slot.cell, seen }
    }

    /// Take the entry out. Where its bucket has overflow, the gap is filled from the end of the
    /// chain, so that overflow buckets do not outlive their entries.
    pub fn remove(&self, slot: &SlotRef<'_>, hash: u64) {
        let primary = self.primary(bucket_of(hash, get(&self.count)));
        if get(primary.control) >> 32 == 0 {
            overwrite(slot.cell, 0);
        } else {
            self.rearrange(primary, || {
                overwrite(slot.cell, 0);
                self.compact(primary);
            });
        }
        set(&self.writer_state.entries, self.entries() - 1);
    }

    /// Move entries within the chain of `primary`: its version is odd meanwhile, which readers that
    /// find nothing notice.
    fn rearrange(&self, primary: Bucket<'_>, moving: impl FnOnce()) {
        let with_version = |version: u64| get(primary.control) >> 32 << 32 | version & VERSION_MASK;
        let version = get(primary.control) & VERSION_MASK;
        primary.control.store(with_version(version + 1), Ordering::Release);
        moving();
        primary.control.store(with_version(version + 2), Ordering::Release);
    }

    /// Add an entry for a key that is not there.
    pub fn insert(&self, hash: u64, position: u64) -> Result<SlotRef<'_>, IndexFull> {
        let bucket = bucket_of(hash, get(&self.count));
        let cell = self.vacancy(self.primary(bucket))?;
        let seen = Slot::new(hash, position);
        cell.store(seen.0, Ordering::Release);
        set(&self.writer_state.entries, self.entries() + 1);
        Ok(SlotRef { cell, seen })
    }

    /// An empty slot in the chain of `primary`; a new overflow bucket if there is none.
    #[inline]
    fn vacancy<'a>(&'a self, primary: Bucket<'a>) -> Result<&'a AtomicU64, IndexFull> {
        match primary.vacancy() {
            Some(cell) => Ok(cell),
            None => self.overflow_vacancy(primary),
        }
    }

    /// The same, where all slots of `primary` itself are taken.
    #[inline(never)]
    fn overflow_vacancy<'a>(&'a self, primary: Bucket<'a>) -> Result<&'a AtomicU64, IndexFull> {
        let mut bucket = primary;
        while let Some(next) = self.next(get(bucket.control)) {
            bucket = next;
            if let Some(cell) = bucket.vacancy() {
                return Ok(cell);
            }
        }
        let (link, fresh) = self.take_overflow()?;
        bucket.control.store(get(bucket.control) & VERSION_MASK | link << 32, Ordering::Release);
        Ok(&fresh.slots[0])
    }

    fn take_overflow(&self) -> Result<(u64, Bucket<'_>), IndexFull> {
        let state = &self.writer_state;
        let link = match get(&state.overflow_free) {
            0 => {
                let used = get(&state.overflow_used);
                if (used as usize + 1) * OVERFLOW_WORDS > self.overflow.words().len() {
                    return Err(IndexFull);
                }
                set(&state.overflow_used, used + 1);
                used + 1
            }
            link => link,
        };
        let bucket = self.overflow_bucket(link);
        if link == get(&state.overflow_free) {
            set(&state.overflow_free, get(&bucket.slots[0]));
            bucket.slots[0].store(0, Ordering::Release);
        }
        set(&state.overflow_in_use, get(&state.overflow_in_use) + 1);
        Ok((link, bucket))
    }

    /// Take out every entry, as when a replica begins elsewhere. Readers find nothing from now on,
    /// or what they had found already.
    pub fn clear(&self) {
        for bucket in 0..get(&self.count) {
            let primary = self.primary(bucket);
            let mut chained = Some(primary);
            self.rearrange(primary, || {
                while let Some(cells) = chained {
                    cells.slots.iter().filter(|cell| get(cell) != 0).for_each(|cell| overwrite(cell, 0));
                    chained = self.next(get(cells.control));
                }
                self.release_chain(primary);
            });
        }
        set(&self.writer_state.entries, 0);
    }

    /// True when an insert might find no overflow bucket. The reservation is sized so that records
    /// fill the log before that.
    pub fn is_full(&self) -> bool {
        let state = &self.writer_state;
        let used_up = get(&state.overflow_used) as usize * OVERFLOW_WORDS >= self.overflow.words().len();
        used_up && get(&state.overflow_free) == 0
    }

    /// True when a bucket should be split.
    pub fn wants_growth(&self) -> bool {
        let count = get(&self.count);
        self.entries() * 2 > count * ENTRIES_PER_TWO_BUCKETS && count < self.count_max
    }

    /// Split one bucket; `hash_of` gives an entry's hash anew (from its record's key) where the tag
    /// does not tell. With the lock held. False if it cannot be split now: nothing has changed
    /// then.
    pub fn grow(&self, hash_of: impl Fn(Slot) -> u64) -> bool {
        let count = get(&self.count);
        let level = count.ilog2();
        let (old, new) = (self.primary(count - (1 << level)), self.primary(count));
        let has_bit = |slot: Slot| match level.checked_sub(TAG_FROM_BIT) {
            Some(bit) if bit < TAG_BITS => slot.0 >> (TAG_SHIFT + bit) & 1 == 1,
            _ => hash_of(slot) >> level & 1 == 1,
        };
        let moves = |cell: &&AtomicU64| get(cell) != 0 && has_bit(Slot(get(cell)));

        // 1. Copies of what moves go into the new bucket, which no reader knows yet.
        let mut moved: ArrayVec<&AtomicU64, MOVED_MAX> = ArrayVec::new();
        let mut bucket = Some(old);
        while let Some(cells) = bucket {
            for cell in cells.slots.iter().filter(moves) {
                let (Ok(vacant), Ok(())) = (self.vacancy(new), moved.try_push(cell)) else {
                    self.abandon(new);
                    return false;
                };
                vacant.store(get(cell), Ordering::Release);
            }
            bucket = self.next(get(cells.control));
        }
        // 2. Publish it. 3. Clear what moved; pull what stays forward, and give back the overflow
        //    buckets that this empties.
        self.count.store(count + 1, Ordering::Release);
        self.rearrange(old, || {
            moved.iter().for_each(|cell| overwrite(cell, 0));
            self.compact(old);
        });
        true
    }

    /// No overflow bucket for the copies, or too many of them: leave everything as it was.
    fn abandon(&self, new: Bucket<'_>) {
        for cell in new.slots {
            cell.store(0, Ordering::Release);
        }
        self.release_chain(new);
    }

    /// Move entries from the chain's end into empty slots before them, then drop what is empty at
    /// the end. Readers see each entry at one of its two places or notice the odd version.
    fn compact(&self, primary: Bucket<'_>) {
        let mut bucket = primary;
        while let Some(next) = self.next(get(bucket.control)) {
            for vacant in bucket.slots.iter().filter(|cell| get(cell) == 0) {
                let Some(last) = self.last_entry(next) else {
                    break;
                };
                vacant.store(get(last), Ordering::Release);
                overwrite(last, 0);
            }
            if self.last_entry(next).is_none() {
                return self.release_chain(bucket);
            }
            bucket = next;
        }
    }

    /// The last entry in the chain that begins at `bucket`.
    fn last_entry<'a>(&'a self, mut bucket: Bucket<'a>) -> Option<&'a AtomicU64> {
        let mut last = None;
        loop {
            last = bucket.slots.iter().rev().find(|cell| get(cell) != 0).or(last);
            match self.next(get(bucket.control)) {
                Some(next) => bucket = next,
                None => return last,
            }
        }
    }

    /// Unlink everything behind `bucket`, all of it empty, and keep it for reuse. A reader still in
    /// there finds nothing, or another bucket's entries, whose keys do not match; then it notices
    /// the odd version.
    fn release_chain(&self, bucket: Bucket<'_>) {
        let state = &self.writer_state;
        let control = get(bucket.control);
        bucket.control.store(control & VERSION_MASK, Ordering::Release);
        let mut link = control >> 32;
        while link != 0 {
            let freed = self.overflow_bucket(link);
            let next = get(freed.control) >> 32;
            // Release, also where nothing changes: who reads these values must see the odd version
            // that came before them.
            for cell in &freed.slots[1..] {
                cell.store(0, Ordering::Release);
            }
            freed.control.store(0, Ordering::Release);
            freed.slots[0].store(get(&state.overflow_free), Ordering::Release);
            set(&state.overflow_free, link);
            set(&state.overflow_in_use, get(&state.overflow_in_use) - 1);
            link = next;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
