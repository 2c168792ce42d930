//! What a control line shows, compared with what it showed before. Pure.
//!
//! While a log goes on, each word of its line only grows. A word that is less than before was
//! either taken earlier than that one (two looks may be under way), or the server that is followed
//! is a replica itself, and has begun its log anew: whoever looks again finds out.

use crate::base::epoch::Epoch;
use crate::replication::resume::Line;
use crate::store::ring::{BIRTH, POSITION_MAX};
use crate::sys::sync::{AtomicU64, Ordering::Relaxed};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// A line that follows upon the last one.
    Line(Line),
    /// Nothing so far: the server that is followed has not begun this shard.
    NothingYet,
    /// The log is another one now, or the look is older than the one before; how that was seen, and
    /// the tail.
    BeganAnew(&'static str, u64),
    /// An epoch that is not in the history: it has grown, or is another lineage's.
    Unknown(Epoch),
    /// No store can have such a line, and why. The line may have changed while it was read: only
    /// single words are read whole.
    Senseless(&'static str),
}

/// Read a control line of a ring of `ring_bytes`, which showed `before` at the last look.
/// `is_known` tells the epochs that this shard has.
pub fn read(words: &[AtomicU64], before: Option<Line>, ring_bytes: u64, is_known: impl Fn(Epoch) -> bool) -> Shown {
    let word = |at: usize| words[at].load(Relaxed);
    let (epoch, committed, tail) = (Epoch(word(0)), word(1), word(2));
    if epoch == Epoch::NONE && before.is_none() {
        return Shown::NothingYet;
    }
    if epoch != Epoch::NONE && !is_known(epoch) {
        return Shown::Unknown(epoch);
    }
    if word(3) != ring_bytes {
        Shown::Senseless("its ring has another length than it said")
    } else if tail < BIRTH || committed > POSITION_MAX {
        Shown::Senseless("a position is one that no ring has")
    } else if !committed.is_multiple_of(8) || !tail.is_multiple_of(8) {
        Shown::Senseless("a position is not at a word")
    } else if tail > committed || committed - tail > ring_bytes {
        Shown::Senseless("tail and committed are not within one ring")
    } else if before.is_some_and(|line| line.committed > committed || line.tail > tail) {
        Shown::BeganAnew("a position went back", tail)
    } else if before.is_some_and(|line| line.epoch > epoch) {
        Shown::BeganAnew("its epoch went back", tail)
    } else {
        Shown::Line(Line { epoch, committed, tail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING_BYTES: u64 = 4096;
    const FIRST: Epoch = Epoch(5 << 24 | 1);

    fn shown(line: [u64; 4], before: Option<Line>) -> Shown {
        let known = |epoch: Epoch| epoch.lineage() == 5 && epoch.generation() <= 2;
        read(&line.map(AtomicU64::new), before, RING_BYTES, known)
    }

    #[test]
    fn a_line_goes_on_or_began_anew() {
        let line = |generation: u64, committed, tail| Line { epoch: Epoch(5 << 24 | generation), committed, tail };
        let before = line(2, 8000, 6000);
        let seen =
            |generation: u64, committed, tail| shown([5 << 24 | generation, committed, tail, RING_BYTES], Some(before));
        assert_eq!(seen(2, 8000, 6000), Shown::Line(before));
        assert_eq!(seen(2, 20_000, 16_000), Shown::Line(line(2, 20_000, 16_000)), "a jump ahead is like an overrun");
        assert_eq!(seen(2, 7992, 6000), Shown::BeganAnew("a position went back", 6000));
        assert_eq!(seen(2, 8000, 5992), Shown::BeganAnew("a position went back", 5992));
        assert_eq!(seen(1, 8000, 6000), Shown::BeganAnew("its epoch went back", 6000));
        assert_eq!(seen(3, 8000, 6000), Shown::Unknown(Epoch(5 << 24 | 3)));
    }

    #[test]
    fn who_has_not_begun_shows_no_epoch() {
        assert_eq!(shown([0, 64, 64, RING_BYTES], None), Shown::NothingYet);
        let before = Line { epoch: FIRST, committed: 64, tail: 64 };
        assert_eq!(shown([0, 64, 64, RING_BYTES], Some(before)), Shown::BeganAnew("its epoch went back", 64));
    }

    #[test]
    fn what_no_ring_has_is_senseless_wherever_it_was_before() {
        let before = Line { epoch: FIRST, committed: 8000, tail: 6000 };
        for (committed, tail) in
            [(5992, 6000), (10_104, 6000), (8004, 6000), (8000, 6004), (64, 56), (1 << 63, 1 << 63)]
        {
            let seen = shown([FIRST.0, committed, tail, RING_BYTES], Some(before));
            assert!(matches!(seen, Shown::Senseless(_)), "{committed} {tail}: {seen:?}");
        }
        assert!(matches!(shown([FIRST.0, 8000, 6000, 2 * RING_BYTES], None), Shown::Senseless(_)));
    }
}
