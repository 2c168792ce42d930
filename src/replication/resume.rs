//! Where a replica goes on. Pure. A replica can go on from its cursor only if the primary's log has
//! the same records below it; the history of terms tells up to where that is so.
//!
//! A term has one writer, so two logs have the same bytes at the same position of the same term.
//! A replica may be *ahead* of the server that it follows (a replica that lags more): it then waits
//! until that server has come as far. A replica has diverged only if one of the two went on with
//! another term before its cursor.

use crate::base::term::Term;
use crate::store::TermStart;
use crate::store::shape::HEADER_BYTES;
use std::fmt;

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

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Joins => "it has nothing yet",
            Why::Overrun => "the next record is overwritten already",
            Why::Diverged => "it has records that the other log never had",
        })
    }
}

/// Decide for a shard. `theirs` are the terms of the primary's log, `ours` those of the log here,
/// up to and with that of its last record (none: there is nothing to go on from); `cursor` is the
/// position below which everything is applied.
pub fn resume(theirs: &[TermStart], ours: &[TermStart], cursor: u64, line: &Line) -> Resume {
    let Some(last) = ours.last() else {
        return Resume::Begin(Why::Joins);
    };
    // The primary forgets what ended below its tail.
    let is_forgotten = theirs.first().is_some_and(|first| first.term.follows(last.term));
    if has_diverged(theirs, ours, cursor, line) && !(is_forgotten && cursor < line.tail) {
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
pub fn is_doubtful(theirs: &[TermStart], ours: &[TermStart], cursor: u64, slab_bytes: u64) -> bool {
    let to_slab_end = (slab_bytes - cursor % slab_bytes) % slab_bytes;
    let goes_on_at = cursor + to_slab_end;
    let begins = |start: &TermStart| start.begins == goes_on_at;
    to_slab_end < HEADER_BYTES as u64
        && ours.last().is_some_and(|last| theirs.iter().any(|start| start.term.follows(last.term) && begins(start)))
}

/// The last term that both have. The same term that begins elsewhere is another one: then somebody
/// has made it up.
fn last_common(theirs: &[TermStart], ours: &[TermStart]) -> Option<Common> {
    let next = |starts: &[TermStart], at: usize| starts.get(at + 1).map(|start| start.begins);
    ours.iter().enumerate().rev().find_map(|(here, start)| {
        let there = theirs.iter().rposition(|other| other == start)?;
        Some(Common { theirs_until: next(theirs, there), ours_until: next(ours, here) })
    })
}

/// Where each of two logs goes on from the last term that both have, with a term of its own.
struct Common {
    theirs_until: Option<u64>,
    ours_until: Option<u64>,
}

impl Common {
    /// Up to here both have the same bytes, as far as they have any.
    fn until(&self) -> Option<u64> {
        self.theirs_until.into_iter().chain(self.ours_until).min()
    }
}

/// Whether a log that has been through `ours` up to `cursor` has bytes that the primary's log does
/// not have and never will.
pub fn has_diverged(theirs: &[TermStart], ours: &[TermStart], cursor: u64, line: &Line) -> bool {
    match last_common(theirs, ours) {
        None => true,
        // It may be a replica that has not come so far. It has not once it is beyond.
        Some(Common { theirs_until: None, ours_until }) => ours_until.is_some_and(|begins| line.committed > begins),
        Some(common) => common.until().is_some_and(|until| cursor > until),
    }
}

/// The position up to which a log that has diverged has the same bytes as the primary's; 0 if they
/// have no term in common.
pub fn parted_at(theirs: &[TermStart], ours: &[TermStart]) -> u64 {
    last_common(theirs, ours).and_then(|common| common.until()).unwrap_or(0)
}

/// Where a log that has diverged may go back to, to go on from there: where the two part. `tail`
/// and `cursor` are the ends of the log here. None where it has to begin anew:
///
/// - Its tail is above the primary's. An item that stood between the two may have been moved here
///   to where the log is dropped, and still live there.
/// - The primary has overwritten what follows.
/// - The two part where a slab begins: the records before that may differ
///   ([`is_doubtful`]).
pub fn goes_back_to(
    theirs: &[TermStart],
    ours: &[TermStart],
    (tail, cursor): (u64, u64),
    line: &Line,
    slab_bytes: u64,
) -> Option<u64> {
    let parted = parted_at(theirs, ours);
    let is_within = tail < parted && parted < cursor;
    let has_all = tail <= line.tail && line.tail <= parted;
    (is_within && has_all && !parted.is_multiple_of(slab_bytes) && parted.is_multiple_of(8)).then_some(parted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::term::Term;
    use crate::store::History;

    fn term(number: u32) -> Term {
        Term::of(number, 5)
    }

    /// Each term with where it begins.
    fn terms(starts: &[(u32, u64)]) -> Vec<TermStart> {
        let starts = starts.iter().map(|(number, begins)| TermStart { term: term(*number), begins: *begins });
        History::new(term(1), starts).starts().to_vec()
    }

    fn line(number: u32, tail: u64, committed: u64) -> Line {
        Line { term: term(number), committed, tail, capacity: 1 << 20 }
    }

    const DIVERGED: Resume = Resume::Begin(Why::Diverged);
    const OVERRUN: Resume = Resume::Begin(Why::Overrun);

    #[test]
    fn a_cursor_between_tail_and_committed_goes_on() {
        let history = terms(&[(1, 64)]);
        for (cursor, expected) in [
            (1000, Resume::Continue),
            (2000, Resume::Continue),
            (999, OVERRUN),
            // The replica is ahead of the server that it follows, which lags.
            (2001, Resume::Continue),
        ] {
            assert_eq!(resume(&history, &history, cursor, &line(1, 1000, 2000)), expected, "{cursor}");
        }
        assert_eq!(resume(&history, &[], 64, &line(1, 64, 64)), Resume::Begin(Why::Joins));
    }

    #[test]
    fn after_a_promotion_only_what_both_have_counts() {
        let theirs = terms(&[(1, 64), (2, 1500), (3, 1800)]);
        let line = line(3, 1000, 2000);
        let decided = |ours: usize, cursor| resume(&theirs, &theirs[..ours], cursor, &line);
        assert_eq!([decided(1, 1500), decided(1, 1508)], [Resume::Continue, DIVERGED]);
        assert_eq!([decided(2, 1800), decided(2, 1808)], [Resume::Continue, DIVERGED]);
        assert_eq!(decided(3, 2000), Resume::Continue);
        assert_eq!([1, 2].map(|ours| parted_at(&theirs, &theirs[..ours])), [1500, 1800]);
    }

    /// The replica that was promoted had not come to the second term.
    #[test]
    fn a_term_that_was_passed_over_has_no_part_in_it() {
        let (theirs, line) = (terms(&[(1, 64), (3, 1600)]), line(3, 1000, 2000));
        let (first, second) = (terms(&[(1, 64)]), terms(&[(1, 64), (2, 1500)]));
        assert_eq!(resume(&theirs, &first, 1600, &line), Resume::Continue);
        assert_eq!(resume(&theirs, &first, 1608, &line), DIVERGED);
        for cursor in [1540, 1600, 5000] {
            assert_eq!(resume(&theirs, &second, cursor, &line), DIVERGED);
        }
        assert_eq!(parted_at(&theirs, &second), 1500, "where the log here went another way");
    }

    /// The replica that is followed has not come to the second term, and will.
    #[test]
    fn who_is_ahead_by_a_term_waits() {
        let (theirs, ours) = (terms(&[(1, 64)]), terms(&[(1, 64), (2, 1500)]));
        assert_eq!(resume(&theirs, &ours, 1600, &line(1, 1000, 1490)), Resume::Continue);
        assert_eq!(resume(&theirs, &ours, 1600, &line(1, 1000, 1508)), DIVERGED, "it has other bytes there");
        assert_eq!(parted_at(&theirs, &ours), 1500);
        assert_eq!(resume(&theirs, &theirs, 1600, &line(1, 1000, 1490)), Resume::Continue);
    }

    #[test]
    fn another_of_the_same_number_or_that_begins_elsewhere_is_another_term() {
        let theirs = terms(&[(1, 64), (2, 1500)]);
        let ours = |second| [theirs[0], second];
        let (line, other) = (line(2, 1000, 2000), Term::of(2, 6));
        assert_eq!(resume(&theirs, &theirs, 1600, &line), Resume::Continue);
        for second in [TermStart { term: other, begins: 1500 }, TermStart { term: term(2), begins: 1400 }] {
            assert_eq!(resume(&theirs, &ours(second), 1600, &line), DIVERGED, "{second:?}");
            assert_eq!(parted_at(&theirs, &ours(second)), second.begins);
        }
    }

    /// The primary does not know any more in which of its older terms the replica was.
    #[test]
    fn of_what_is_forgotten_nobody_goes_on() {
        let (theirs, line) = (terms(&[(7, 5000), (8, 6000)]), line(8, 5500, 7000));
        assert_eq!(resume(&theirs, &terms(&[(1, 64), (6, 4000)]), 4500, &line), OVERRUN);
        assert_eq!(resume(&theirs, &terms(&[(1, 64), (6, 4000)]), 6500, &line), DIVERGED);
        assert_eq!(resume(&theirs, &terms(&[(1, 64), (9, 5200)]), 5400, &line), DIVERGED);
    }

    #[test]
    fn what_stands_before_a_later_term_may_be_something_else() {
        const SLAB_BYTES: u64 = 512;
        let theirs = terms(&[(1, 64), (2, 1536), (3, 2048), (4, 2568)]);
        let doubtful = |ours: usize, cursor| is_doubtful(&theirs, &theirs[..ours], cursor, SLAB_BYTES);
        assert!(doubtful(1, 1536) && doubtful(1, 2048) && doubtful(2, 2048));
        assert!(doubtful(1, 1528), "no record fits behind it: the log goes on with the next slab");
        assert!(!doubtful(1, 1520) && !doubtful(1, 1024), "a record might follow; no term begins there");
        assert!(!doubtful(1, 2568), "within a slab nothing is padded");
        assert!(!doubtful(2, 1536) && !doubtful(3, 2048) && !doubtful(0, 1536));
    }

    #[test]
    fn a_log_goes_back_where_nothing_can_be_missing_below() {
        let (theirs, ours) = (terms(&[(1, 64), (2, 1544)]), terms(&[(1, 64)]));
        let to = |tail, cursor, shown| goes_back_to(&theirs, &ours, (tail, cursor), &line(2, shown, 2000), 512);
        assert_eq!(to(1000, 1800, 1000), Some(1544));
        assert_eq!(to(64, 1552, 1544), Some(1544));
        assert_eq!(to(1008, 1800, 1000), None, "its tail is above");
        assert_eq!(to(1000, 1800, 1552), None, "what follows is overwritten");
        assert_eq!((to(1544, 1800, 1544), to(1000, 1544, 1000)), (None, None), "nothing is kept, or dropped");
        let at_slab = terms(&[(1, 64), (2, 1536)]);
        assert_eq!(goes_back_to(&at_slab, &ours, (1000, 1800), &line(2, 1000, 2000), 512), None);
        assert_eq!(goes_back_to(&terms(&[(9, 64)]), &ours, (64, 1800), &line(9, 64, 2000), 512), None);
    }

    #[test]
    fn another_birth_shares_nothing() {
        let ours = [TermStart { term: Term::of(1, 6), begins: 64 }];
        assert_eq!(resume(&terms(&[(1, 64)]), &ours, 64, &line(1, 64, 64)), DIVERGED);
        assert_eq!(parted_at(&terms(&[(1, 64)]), &ours), 0);
    }
}
