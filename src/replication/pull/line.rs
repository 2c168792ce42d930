//! What a control line shows, compared with what it showed before. Pure.
//!
//! While a log goes on, each word of its line only grows. A word that is less than before was
//! either taken earlier than that one (two looks may be under way), or the server that is followed
//! is a replica itself, and has begun its log anew: whoever looks again finds out.

use crate::base::term::Term;
use crate::replication::resume::Line;
use crate::store::line::{BIRTH, ControlLine, OWES_NOT_KNOWN, POSITION_MAX};
use crate::sys::sync::AtomicU64;

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
    /// A term that is not in the history: it has grown, or is another one's.
    Unknown(Term),
    /// No store can have such a line, and why. The line may have changed while it was read: only
    /// single words are read whole.
    Senseless(&'static str),
}

/// What capacities are possible: whole slabs, and not more than there are.
#[derive(Debug, Clone, Copy)]
pub struct Slabs {
    /// Length of one.
    pub bytes: u64,
    /// In all.
    pub count: u64,
}

impl Slabs {
    fn can_be(self, capacity: u64) -> bool {
        capacity.is_multiple_of(self.bytes) && (1..=self.count).contains(&(capacity / self.bytes))
    }
}

/// Read a control line of a primary with such slabs, which showed `before` at the last look.
/// `is_known` tells the terms that this shard has.
pub fn read(words: &[AtomicU64], before: Option<Line>, slabs: Slabs, is_known: impl Fn(Term) -> bool) -> Shown {
    let shown = ControlLine::of(words, 0);
    let (term, committed, tail) = (Term(shown.term()), shown.committed(), shown.tail());
    let (capacity, owes_until) = (shown.capacity_bytes(), shown.owes_until());
    if term == Term::NONE && before.is_none() {
        return Shown::NothingYet;
    }
    if term != Term::NONE && !is_known(term) {
        return Shown::Unknown(term);
    }
    if !slabs.can_be(capacity) {
        Shown::Senseless("its capacity is one that no shard of it has")
    } else if tail < BIRTH || committed > POSITION_MAX || (POSITION_MAX + 1..OWES_NOT_KNOWN).contains(&owes_until) {
        Shown::Senseless("a position is one that no log has")
    } else if !committed.is_multiple_of(8) || !tail.is_multiple_of(8) {
        Shown::Senseless("a position is not at a word")
    } else if tail > committed || committed - tail > capacity {
        Shown::Senseless("tail and committed are further apart than its capacity")
    } else if before.is_some_and(|line| line.committed > committed || line.tail > tail) {
        Shown::BeganAnew("a position went back", tail)
    } else if before.is_some_and(|line| line.term > term) {
        Shown::BeganAnew("its term went back", tail)
    } else {
        Shown::Line(Line { term, committed, tail, capacity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: u64 = 4096;
    const FIRST: Term = Term::of(1, 5);

    fn shown(line: [u64; 4], before: Option<Line>) -> Shown {
        shown_that_owes(0, line, before)
    }

    fn shown_that_owes(owes_until: u64, line: [u64; 4], before: Option<Line>) -> Shown {
        let known = |term: Term| term.nonce() == 5 && term.number() <= 2;
        let words: Vec<AtomicU64> = line.into_iter().chain([64, owes_until, 0, 0]).map(AtomicU64::new).collect();
        read(&words, before, Slabs { bytes: 4096, count: 8 }, known)
    }

    #[test]
    fn a_line_goes_on_or_began_anew() {
        let term = |number| Term::of(number, 5);
        let line = |number, committed, tail| Line { term: term(number), committed, tail, capacity: CAPACITY };
        let before = line(2, 8000, 6000);
        let seen = |number, committed, tail| shown([term(number).0, committed, tail, CAPACITY], Some(before));
        assert_eq!(seen(2, 8000, 6000), Shown::Line(before));
        assert_eq!(seen(2, 20_000, 16_000), Shown::Line(line(2, 20_000, 16_000)), "a jump ahead is like an overrun");
        assert_eq!(seen(2, 7992, 6000), Shown::BeganAnew("a position went back", 6000));
        assert_eq!(seen(2, 8000, 5992), Shown::BeganAnew("a position went back", 5992));
        assert_eq!(seen(1, 8000, 6000), Shown::BeganAnew("its term went back", 6000));
        assert_eq!(seen(3, 8000, 6000), Shown::Unknown(term(3)));
    }

    #[test]
    fn who_has_not_begun_shows_no_term() {
        assert_eq!(shown([0, 64, 64, CAPACITY], None), Shown::NothingYet);
        let before = Line { term: FIRST, committed: 64, tail: 64, capacity: CAPACITY };
        assert_eq!(shown([0, 64, 64, CAPACITY], Some(before)), Shown::BeganAnew("its term went back", 64));
    }

    #[test]
    fn what_no_log_has_is_senseless_wherever_it_was_before() {
        let before = Line { term: FIRST, committed: 8000, tail: 6000, capacity: CAPACITY };
        for (committed, tail) in
            [(5992, 6000), (10_104, 6000), (8004, 6000), (8000, 6004), (64, 56), (1 << 63, 1 << 63)]
        {
            let seen = shown([FIRST.0, committed, tail, CAPACITY], Some(before));
            assert!(matches!(seen, Shown::Senseless(_)), "{committed} {tail}: {seen:?}");
        }
        for capacity in [0, 4095, 4104, 9 * CAPACITY, u64::MAX, 1 << 63] {
            assert!(matches!(shown([FIRST.0, 8000, 6000, capacity], None), Shown::Senseless(_)), "{capacity}");
        }
        for (owes_until, is_senseless) in [(POSITION_MAX, false), (POSITION_MAX + 1, true), (u64::MAX, false)] {
            let seen = shown_that_owes(owes_until, [FIRST.0, 8000, 6000, CAPACITY], Some(before));
            assert_eq!(matches!(seen, Shown::Senseless(_)), is_senseless, "{owes_until}: {seen:?}");
        }
        let grown = Line { term: FIRST, committed: 12_000, tail: 6000, capacity: 2 * CAPACITY };
        assert_eq!(shown([FIRST.0, 12_000, 6000, 2 * CAPACITY], Some(before)), Shown::Line(grown));
    }
}
