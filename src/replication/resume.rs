//! Where a replica goes on. Pure. A replica can go on from its cursor only if the primary's log has
//! the same records below it; the history of terms tells up to where that is so.
//!
//! A term has one writer, so two logs have the same bytes at the same position of the same term.
//! A replica may be *ahead* of the server that it follows (a replica that lags more): it then waits
//! until that server has come as far. A replica has diverged only if a later term began before its
//! cursor.

use crate::base::term::Term;
use crate::store::shape::HEADER_BYTES;
use crate::store::{NOT_BEGUN, TermStart};

/// What a shard's control line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The term of what is appended now.
    pub term: Term,
    /// Records below this position are complete.
    pub committed: u64,
    /// The oldest byte still valid.
    pub tail: u64,
    /// Most bytes of log between the two.
    pub capacity: u64,
}

/// What to do with one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Go on from the cursor.
    Continue,
    /// Begin at the tail.
    Begin(Why),
}

/// Why a shard begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The shard has nothing yet.
    Joins,
    /// The primary has overwritten the next record already: the replica was away, or too slow, for
    /// too long.
    Overrun,
    /// The shard has records that this primary never had.
    Diverged,
}

/// Decide for shard `shard`. `term` is the term of its last record (None: it has none),
/// `cursor` the position below which it has applied everything, `history` the primary's.
pub fn resume(history: &[TermStart], shard: usize, term: Option<Term>, cursor: u64, line: &Line) -> Resume {
    let Some(term) = term else {
        return Resume::Begin(Why::Joins);
    };
    if has_diverged(history, shard, term, cursor, line) {
        Resume::Begin(Why::Diverged)
    } else if cursor < line.tail {
        Resume::Begin(Why::Overrun)
    } else {
        Resume::Continue
    }
}

/// Whether the bytes just below `cursor` may differ although no position says so. That is possible
/// where the log goes on at `cursor` with a slab, and a later term begins there: the primary's log
/// may have a pad of the older term before it, and a log that went another way may have a record
/// of the same length there, or one that is shorter by less than a record.
pub fn is_doubtful(history: &[TermStart], shard: usize, term: Option<Term>, cursor: u64, slab_bytes: u64) -> bool {
    let to_slab_end = (slab_bytes - cursor % slab_bytes) % slab_bytes;
    let goes_on_at = cursor + to_slab_end;
    let begins = |start: &TermStart| start.begins[shard] == goes_on_at;
    to_slab_end < HEADER_BYTES as u64
        && term.is_some_and(|term| history.iter().any(|start| start.term.follows(term) && begins(start)))
}

/// Whether a log that is in `term` at `cursor` has bytes that the primary's log does not have and
/// never will.
pub fn has_diverged(history: &[TermStart], shard: usize, term: Term, cursor: u64, line: &Line) -> bool {
    let Some(at) = history.iter().position(|start| start.term == term) else { return true };
    // Of all later terms, not only of the next: a promoted replica may have skipped the next one
    // in this shard.
    let common_until = history[at + 1..].iter().map(|start| start.begins[shard]).min().unwrap_or(NOT_BEGUN);
    if history[at].begins[shard] != NOT_BEGUN {
        return cursor > common_until;
    }
    // The primary's log has no record of this term in this shard. Either it went another way, or
    // the primary is a replica that has not come so far yet.
    common_until != NOT_BEGUN || cursor <= line.committed
}

/// The position up to which a log that is in `term`, and has diverged, has the same bytes as the
/// primary's; 0 if the primary does not know that term.
pub fn parted_at(history: &[TermStart], shard: usize, term: Term) -> u64 {
    let Some(at) = history.iter().position(|start| start.term == term) else { return 0 };
    history[at + 1..].iter().map(|start| start.begins[shard]).min().unwrap_or(0)
}

/// The term of the record at `position` of a shard.
pub fn term_at(history: &[TermStart], shard: usize, position: u64) -> Option<Term> {
    history.iter().rev().find(|start| start.begins[shard] <= position).map(|start| start.term)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(generation: u64) -> Term {
        Term(5 << 24 | generation)
    }

    fn history(begins: &[u64]) -> Vec<TermStart> {
        let start = |(at, begin): (usize, &u64)| TermStart { term: term(at as u64 + 1), begins: vec![*begin] };
        begins.iter().enumerate().map(start).collect()
    }

    fn line(generation: u64, tail: u64, committed: u64) -> Line {
        Line { term: term(generation), committed, tail, capacity: 1 << 20 }
    }

    #[test]
    fn a_cursor_between_tail_and_committed_goes_on() {
        let history = history(&[64]);
        for (cursor, expected) in [
            (1000, Resume::Continue),
            (2000, Resume::Continue),
            (999, Resume::Begin(Why::Overrun)),
            // The replica is ahead of the server that it follows, which lags.
            (2001, Resume::Continue),
        ] {
            assert_eq!(resume(&history, 0, Some(term(1)), cursor, &line(1, 1000, 2000)), expected, "{cursor}");
        }
        assert_eq!(resume(&history, 0, None, 64, &line(1, 64, 64)), Resume::Begin(Why::Joins));
    }

    #[test]
    fn after_a_promotion_only_what_both_have_counts() {
        let history = history(&[64, 1500, 1800]);
        let line = line(3, 1000, 2000);
        assert_eq!(resume(&history, 0, Some(term(1)), 1500, &line), Resume::Continue);
        assert_eq!(resume(&history, 0, Some(term(1)), 1508, &line), Resume::Begin(Why::Diverged));
        assert_eq!(resume(&history, 0, Some(term(2)), 1800, &line), Resume::Continue);
        assert_eq!(resume(&history, 0, Some(term(2)), 1808, &line), Resume::Begin(Why::Diverged));
        assert_eq!([1, 2, 9].map(|generation| parted_at(&history, 0, term(generation))), [1500, 1800, 0]);
        assert_eq!(resume(&history, 0, Some(term(3)), 2000, &line), Resume::Continue);
    }

    /// The replica that was promoted had come to the second term in the first shard only. In the
    /// second shard its own term comes directly after the first.
    #[test]
    fn a_term_that_was_passed_over_has_no_part_in_it() {
        let mut history = history(&[64, 1500, 1800]);
        history.iter_mut().zip([64, NOT_BEGUN, 1600]).for_each(|(start, begin)| start.begins.push(begin));
        let (line, diverged) = (line(3, 1000, 2000), Resume::Begin(Why::Diverged));
        assert_eq!(resume(&history, 1, Some(term(1)), 1600, &line), Resume::Continue);
        assert_eq!(resume(&history, 1, Some(term(1)), 1608, &line), diverged);
        for cursor in [1500, 1600, 5000] {
            assert_eq!(resume(&history, 1, Some(term(2)), cursor, &line), diverged);
        }
        assert_eq!(resume(&history, 0, Some(term(2)), 1800, &line), Resume::Continue);
        assert_eq!(term_at(&history, 1, 1599), Some(term(1)));
        assert_eq!(term_at(&history, 1, 1600), Some(term(3)));
    }

    /// The replica that is followed has come to the second term in the first shard only, and will
    /// come to it in the other.
    #[test]
    fn who_is_ahead_by_a_term_waits() {
        let mut history = history(&[64, 1500]);
        history.iter_mut().zip([64, NOT_BEGUN]).for_each(|(start, begin)| start.begins.push(begin));
        let line = line(1, 1000, 1490);
        assert_eq!(resume(&history, 1, Some(term(2)), 1600, &line), Resume::Continue);
        assert_eq!(resume(&history, 1, Some(term(2)), 1490, &line), Resume::Begin(Why::Diverged), "other bytes below");
        assert_eq!(resume(&history, 1, Some(term(1)), 1600, &line), Resume::Continue);
    }

    #[test]
    fn what_stands_before_a_later_term_may_be_something_else() {
        const SLAB_BYTES: u64 = 512;
        let history = history(&[64, 1536, 2048, 2568]);
        let doubtful = |generation, cursor| is_doubtful(&history, 0, Some(term(generation)), cursor, SLAB_BYTES);
        assert!(doubtful(1, 1536) && doubtful(1, 2048) && doubtful(2, 2048));
        assert!(doubtful(1, 1528), "no record fits behind it: the log goes on with the next slab");
        assert!(!doubtful(1, 1520) && !doubtful(1, 1024), "a record might follow; no term begins there");
        assert!(!doubtful(1, 2568), "within a slab nothing is padded");
        assert!(!doubtful(2, 1536) && !doubtful(3, 2048));
        assert!(!is_doubtful(&history, 0, None, 1536, SLAB_BYTES));
    }

    #[test]
    fn another_birth_shares_nothing() {
        let other = Term(6 << 24 | 1);
        let decided = resume(&history(&[64]), 0, Some(other), 64, &line(1, 64, 64));
        assert_eq!(decided, Resume::Begin(Why::Diverged));
    }

    #[test]
    fn the_term_of_a_position_is_the_last_that_began_before_it() {
        let history = history(&[64, 1500]);
        let generations = [64, 1499, 1500, 9000].map(|position| term_at(&history, 0, position));
        assert_eq!(generations, [Some(term(1)), Some(term(1)), Some(term(2)), Some(term(2))]);
        assert_eq!(term_at(&history, 0, 8), None);
    }
}
