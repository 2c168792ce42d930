//! What of a shard's log is alive, in bytes: counted when an item is written and when it dies. Pure.
//!
//! Whoever makes an item, replaces it, takes it away or changes its expiry says so here, under the shard's lock. Nobody says when an item
//! expires: [`super::expiries`] knows how many bytes may have. That is too many where items expire far ahead, so reclaim says what it
//! finds alive, lap by lap: so much of the doubt is taken back, until the first item that was found alive expires.

use super::expiries::Expiries;
use super::shape::Shape;
use crate::base::time::{Expiry, UnixSeconds};

/// What a record gains when it is appended again: its CAS.
pub(super) const MOVED_BYTES: u64 = 8;

/// What an item of this shape counts for: its record, and what that will gain when reclaim appends it again. So moving never needs more room
/// than was counted from the beginning.
#[inline]
pub(super) fn charge(shape: Shape) -> u64 {
    shape.record_bytes() as u64 + growth(shape)
}

#[inline]
fn growth(shape: Shape) -> u64 {
    if shape.has_explicit_cas() { 0 } else { MOVED_BYTES }
}

/// See the module.
pub(super) struct Live {
    /// Bytes of the items that were not flushed, as [`charge`] counts them.
    bytes: u64,
    /// Of these, what their records do not have yet.
    growth_bytes: u64,
    pub(super) expiries: Expiries,
    lap: Lap,
    /// Bytes that were taken for expired, and were found alive.
    cleared: Cleared,
}

/// The tail's way from where it was to where the head was then.
struct Lap {
    ends: u64,
    /// When it began: bytes of all items, and of those that might have expired.
    began_with: (u64, u64),
    /// Bytes found alive. Each of these items was alive when the lap began: what was written since stands behind its end.
    alive: Cleared,
}

impl Lap {
    const NONE: Lap = Lap { ends: 0, began_with: (u64::MAX, 0), alive: Cleared::NONE };
}

/// Bytes, and the second before which all of them are alive.
#[derive(Clone, Copy)]
struct Cleared {
    bytes: u64,
    until: UnixSeconds,
}

impl Cleared {
    const NONE: Cleared = Cleared { bytes: 0, until: UnixSeconds(u32::MAX) };
}

impl Live {
    pub(super) fn new() -> Live {
        Live { bytes: 0, growth_bytes: 0, expiries: Expiries::new(), lap: Lap::NONE, cleared: Cleared::NONE }
    }

    /// Bytes of all items, those included that have expired and that nobody has come by since.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of these, what will be added when they are moved.
    pub(super) fn growth_bytes(&self) -> u64 {
        self.growth_bytes
    }

    /// Bytes of items that are alive for certain.
    pub(super) fn certain_bytes(&self) -> u64 {
        let passed_bytes = self.expiries.passed_bytes();
        let cleared_bytes = if self.expiries.now() < self.cleared.until { self.cleared.bytes } else { 0 };
        self.bytes.saturating_sub(passed_bytes.saturating_sub(cleared_bytes))
    }

    /// Reclaim has found an item alive, and keeps or evicts it.
    pub(super) fn found_alive(&mut self, shape: Shape, expiry: Expiry) {
        let alive = &mut self.lap.alive;
        alive.bytes += charge(shape);
        if expiry != Expiry::NEVER {
            alive.until = alive.until.min(UnixSeconds(expiry.to_bits()));
        }
    }

    /// The tail has come to `tail`.
    #[inline]
    pub(super) fn pass(&mut self, tail: u64, head: u64) {
        if tail >= self.lap.ends {
            let (items_bytes, passed_bytes) = self.lap.began_with;
            let alive = self.lap.alive;
            self.cleared = Cleared { bytes: (passed_bytes + alive.bytes).saturating_sub(items_bytes), ..alive };
            let began_with = (self.bytes, self.expiries.passed_bytes());
            self.lap = Lap { ends: head, began_with, alive: Cleared::NONE };
        }
    }

    /// An item was written.
    #[inline]
    pub(super) fn add(&mut self, shape: Shape, expiry: Expiry) {
        self.bytes += charge(shape);
        self.growth_bytes += growth(shape);
        self.expiries.add(expiry, charge(shape));
    }

    /// An item died, or what was left of it was taken away.
    #[inline]
    pub(super) fn remove(&mut self, shape: Shape, expiry: Expiry) {
        self.bytes -= charge(shape);
        self.growth_bytes -= growth(shape);
        self.expiries.remove(expiry, charge(shape));
    }

    /// An item's expiry is another one now.
    pub(super) fn touch(&mut self, shape: Shape, before: Expiry, now: Expiry) {
        self.expiries.remove(before, charge(shape));
        self.expiries.add(now, charge(shape));
    }

    /// Everything so far was flushed.
    pub(super) fn clear(&mut self) {
        self.bytes = 0;
        self.growth_bytes = 0;
        self.expiries.clear();
        self.lap = Lap::NONE;
        self.cleared = Cleared::NONE;
    }

    /// The clock says `now`.
    #[inline]
    pub(super) fn advance(&mut self, now: UnixSeconds) {
        self.expiries.advance(now);
    }
}
