//! A part of a ring that is under way, has arrived, or is half applied.

use crate::fabric::Landing;
use std::time::Instant;

/// See the module.
pub struct Piece {
    /// Which, in the order in which they were planned.
    pub number: u32,
    /// Where it begins.
    pub begin: u64,
    /// Its length.
    pub bytes: usize,
    /// The round that brings it.
    pub round: u64,
    /// Its words, once they have arrived.
    pub landing: Option<Landing>,
    /// The tail that the first look behind it has shown.
    pub tail_after: Option<u64>,
    /// When that look had arrived, and the piece had not.
    pub overtaken_at: Option<Instant>,
    /// Words of it that have been consumed.
    pub consumed: usize,
}

impl Piece {
    /// Under way.
    pub fn new(number: u32, begin: u64, bytes: usize, round: u64) -> Piece {
        Piece { number, begin, bytes, round, landing: None, tail_after: None, overtaken_at: None, consumed: 0 }
    }

    /// The look of round `round` has arrived at `now`, and shows `tail`. It counts if it is the first one behind this piece.
    pub fn note_look(&mut self, round: u64, tail: u64, now: Instant) {
        if self.round <= round && self.tail_after.is_none() {
            self.tail_after = Some(tail);
            self.overtaken_at = self.landing.is_none().then_some(now);
        }
    }
}
