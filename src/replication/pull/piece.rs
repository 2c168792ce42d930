//! A part of a log on its way, and the looks that vouch for it.

use crate::fabric::Landing;
use crate::replication::resume::Line;

/// How far above the tail a piece must lie, at the least, for a look to vouch for it that was
/// submitted together with it: the bytes of both may have been taken in any order, but within
/// microseconds of one another. (Once the tail has passed it, its slab may be another shard's at
/// once.)
const FAR_BYTES_MIN: u64 = 1 << 20;
/// The same as a part of the log's capacity.
const FAR_SHARE: u64 = 16;

/// A look that has arrived.
#[derive(Clone, Copy)]
pub struct Look {
    /// Its round.
    pub round: u64,
    /// The latest round that had begun when it arrived.
    pub begun: u64,
}

/// Under way, arrived, or half applied.
pub struct Piece {
    /// Its READ's.
    pub number: u64,
    /// The position of its first byte.
    pub begin: u64,
    /// Its length.
    pub bytes: usize,
    /// The round that brings it.
    round: u64,
    /// Its bytes, once it has arrived.
    pub landing: Option<Landing>,
    /// The latest round that had begun when it arrived: the look of a later one was submitted after
    /// that.
    begun_before: Option<u64>,
    /// The tail that the first look which vouches for it has shown.
    pub tail_after: Option<u64>,
    /// Words of it that have been consumed.
    pub consumed: usize,
}

impl Piece {
    /// One that is to be READ in `round`.
    pub fn new(number: u64, begin: u64, bytes: usize, round: u64) -> Piece {
        Piece { number, begin, bytes, round, landing: None, begun_before: None, tail_after: None, consumed: 0 }
    }

    /// Its READ is done; `begun` is the latest round that has begun.
    pub fn arrived(&mut self, landing: Landing, begun: u64) {
        self.landing = Some(landing);
        self.begun_before = Some(begun);
    }

    /// Whether it has arrived, no look vouches for it, and none was submitted since; `begun` is the
    /// latest round that has begun.
    pub fn awaits_look(&self, begun: u64) -> bool {
        self.tail_after.is_none() && self.begun_before == Some(begun)
    }

    /// Note what a look says of it, and its line.
    pub fn look(&mut self, look: Look, line: &Line) {
        if self.tail_after.is_some() {
            return;
        }
        let far_bytes = FAR_BYTES_MIN.max(line.capacity / FAR_SHARE);
        let is_behind = self.round <= look.round;
        let was_submitted_after = self.begun_before.is_some_and(|begun| look.round > begun);
        let is_far = line.tail + far_bytes <= self.begin;
        if was_submitted_after || is_behind && is_far {
            self.tail_after = Some(line.tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::term::Term;

    const CAPACITY_BYTES: u64 = 8 << 20;

    /// Whether a look of `round` vouches for a piece of round 3, which begins at the given position
    /// and has arrived when round 4 had begun.
    fn vouches(round: u64, begin: u64, has_arrived: bool) -> bool {
        let line = Line { term: Term::of(1, 1), committed: 20 << 20, tail: 13 << 20, capacity: CAPACITY_BYTES };
        let mut piece = Piece::new(1, begin, 4096, 3);
        if has_arrived {
            piece.arrived(Landing::new(4096).unwrap(), 4);
        }
        piece.look(Look { round, begun: 4 }, &line);
        assert!(piece.tail_after.is_none_or(|tail| tail == line.tail));
        piece.tail_after.is_some()
    }

    #[test]
    fn a_look_vouches_that_was_submitted_after_the_piece_had_arrived() {
        let near = (14 << 20) - 8;
        assert!(!vouches(3, near, true) && !vouches(4, near, true), "both were under way together");
        assert!(vouches(5, near, true));
        assert!(!vouches(5, near, false), "it is still to come");
    }

    #[test]
    fn a_look_of_its_round_vouches_for_what_lies_far_above_the_tail() {
        let far = 14 << 20;
        assert!(vouches(3, far, true) && vouches(3, far, false) && vouches(4, far, true));
        assert!(!vouches(2, far, true), "an earlier look says nothing");
    }
}
