//! What of a shard's log is alive, in bytes: counted when an item is written and when it dies.
//! Pure.
//!
//! Whoever makes an item, replaces it, takes it away or changes its expiry says so here, under the
//! shard's lock. Nobody says when an item expires: [`super::expiries`] knows how many bytes may
//! have. That is too many where items expire far ahead, so reclaim says what it finds alive, lap by
//! lap. So much of the doubt is taken back, until the first item that was found alive expires, and
//! less what has died meanwhile.

use super::expiries::Expiries;
use super::shape::Shape;
use crate::base::time::{Expiry, UnixSeconds};

/// What a record gains when it is appended again: its CAS.
pub(super) const MOVED_BYTES: u64 = 8;

/// What an item of this shape counts for: its record, and what that will gain when reclaim appends
/// it again. So moving never needs more room than was counted from the beginning.
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
    /// The longest record that was written in this lap, and in the one before: no longer one is in
    /// the log.
    longest_bytes: [u64; 2],
}

/// The tail's way from where it was to where the head was then.
struct Lap {
    ends: u64,
    /// When it began: bytes of all items, and of those that might have expired.
    began_with: (u64, u64),
    /// When it began: see [`Expiries::dead_passed_bytes`].
    dead_passed_bytes: u64,
    /// Bytes found alive. Each of these items was alive when the lap began: what was written since
    /// stands behind its end.
    alive: Cleared,
}

impl Lap {
    const NONE: Lap = Lap { ends: 0, began_with: (u64::MAX, 0), dead_passed_bytes: 0, alive: Cleared::NONE };
}

/// Bytes of items, none of which expires before a second.
#[derive(Clone, Copy)]
struct Cleared {
    bytes: u64,
    until: UnixSeconds,
    /// What dies from then on, and was in doubt, may be part of them: see
    /// [`Expiries::dead_passed_bytes`].
    dead_passed_bytes: u64,
}

impl Cleared {
    const NONE: Cleared = Cleared { bytes: 0, until: UnixSeconds(u32::MAX), dead_passed_bytes: 0 };
}

impl Live {
    pub(super) fn new() -> Live {
        Live {
            bytes: 0,
            growth_bytes: 0,
            expiries: Expiries::new(),
            lap: Lap::NONE,
            cleared: Cleared::NONE,
            longest_bytes: [0; 2],
        }
    }

    /// Bytes of all items, those included that have expired and that nobody has looked at since.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of these, what will be added when they are moved.
    pub(super) fn growth_bytes(&self) -> u64 {
        self.growth_bytes
    }

    /// Bytes of items that are alive for certain.
    pub(super) fn certain_bytes(&self) -> u64 {
        match self.expiries.passed_bytes() {
            0 => self.bytes,
            passed_bytes => self.bytes.saturating_sub(passed_bytes.saturating_sub(self.cleared_bytes())),
        }
    }

    fn cleared_bytes(&self) -> u64 {
        let Cleared { bytes, until, dead_passed_bytes } = self.cleared;
        let died_bytes = self.expiries.dead_passed_bytes() - dead_passed_bytes;
        if self.expiries.told() < until { bytes.saturating_sub(died_bytes) } else { 0 }
    }

    /// No record in the log is longer.
    #[inline]
    pub(super) fn longest_bytes(&self) -> u64 {
        self.longest_bytes[0].max(self.longest_bytes[1])
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
            let Lap { began_with: (items_bytes, passed_bytes), dead_passed_bytes, alive, .. } = self.lap;
            let bytes = (passed_bytes + alive.bytes).saturating_sub(items_bytes);
            self.cleared = Cleared { bytes, until: alive.until, dead_passed_bytes };
            self.lap = Lap {
                ends: head,
                began_with: (self.bytes, self.expiries.passed_bytes()),
                dead_passed_bytes: self.expiries.dead_passed_bytes(),
                alive: Cleared::NONE,
            };
            self.longest_bytes = [0, self.longest_bytes[0]];
        }
    }

    /// An item was written.
    #[inline]
    pub(super) fn add(&mut self, shape: Shape, expiry: Expiry) {
        let (bytes, growth_bytes) = (charge(shape), growth(shape));
        self.bytes += bytes;
        self.growth_bytes += growth_bytes;
        if bytes > self.longest_bytes[0] {
            self.longest_bytes[0] = bytes;
        }
        self.expiries.add(expiry, bytes);
    }

    /// An item died. (A flushed one is not counted any more.)
    #[inline]
    pub(super) fn remove(&mut self, shape: Shape, expiry: Expiry) {
        let (bytes, growth_bytes) = (charge(shape), growth(shape));
        self.bytes -= bytes;
        self.growth_bytes -= growth_bytes;
        self.expiries.remove(expiry, bytes);
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
