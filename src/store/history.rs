//! The terms that a shard's log has been through, and where each began. A replica that comes back
//! with a cursor of an older term goes on from it only if that term had not ended before the
//! cursor.
//!
//! A history belongs to its log: the two change together, under the shard's lock. Beyond the log's
//! head it holds what the primary that is followed has told: terms that the log is going to come
//! by. What ended below the tail is forgotten, but for the **origin**, the term in which the
//! history began. Two logs of one origin had the same first record; of two origins they have
//! nothing in common.

use super::Store;
use super::promotion::TERM_RECORD_BYTES;
use super::shard::Shard;
use crate::base::term::Term;
use crate::sys::sync::MutexGuard;
use std::collections::BTreeSet;

/// One term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TermStart {
    /// Which.
    pub term: Term,
    /// The position where it begins.
    pub begins: u64,
}

/// See the module. Terms have rising numbers and begin at rising positions. Without a term it is
/// that of a log which has not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    origin: Term,
    starts: Vec<TermStart>,
}

/// Whether a log has what stands below a position of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has.
    Here,
    /// It may come by it.
    NotYet,
    /// It never will: the term has ended below.
    Lost,
    /// The term is not later than all that are known here, and is not known.
    Unknown,
}

impl History {
    /// Of a log that has not begun.
    pub const NONE: History = History { origin: Term::NONE, starts: Vec::new() };

    /// Of an origin and terms, the oldest first. Another process may have said them: what cannot
    /// be is left out.
    pub fn new(origin: Term, told: impl IntoIterator<Item = TermStart>) -> History {
        let mut starts: Vec<TermStart> = Vec::new();
        let ascends = |last: Option<&TermStart>, next: &TermStart| {
            last.is_none_or(|last| next.term.follows(last.term) && next.begins >= last.begins)
        };
        for start in told.into_iter().filter(|start| start.term.is_valid()) {
            if ascends(starts.last(), &start) {
                starts.push(start);
            }
        }
        if origin.is_valid() && !starts.is_empty() { History { origin, starts } } else { History::NONE }
    }

    /// Of a log that begins with this term; of none where it is none.
    pub fn born(term: Term, begins: u64) -> History {
        History::new(term, [TermStart { term, begins }])
    }

    /// The first of all its terms, which may be forgotten; [`Term::NONE`] where there is none.
    pub fn origin(&self) -> Term {
        self.origin
    }

    /// The terms, the oldest first; none only where the log has not begun.
    pub fn starts(&self) -> &[TermStart] {
        &self.starts
    }

    /// The latest term; [`Term::NONE`] where there is none.
    pub fn newest(&self) -> Term {
        self.starts.last().map_or(Term::NONE, |last| last.term)
    }

    /// The term of the record at `position`; where the history does not reach back so far, the
    /// oldest.
    pub fn start_at(&self, position: u64) -> Option<TermStart> {
        self.starts.iter().rfind(|start| start.begins <= position).or(self.starts.first()).copied()
    }

    /// The term of the record that ends at `position`, where it is known.
    pub fn before_position(&self, position: u64) -> Option<TermStart> {
        self.starts.iter().rfind(|start| start.begins < position).copied()
    }

    /// Whether a log of this history, which is here up to `head`, has what stands below `position`
    /// of a term. `ends` tells of the position where a term begins up to where the one before it
    /// goes for certain.
    fn standing(&self, term: Term, position: u64, head: u64, ends: impl Fn(u64) -> u64) -> Standing {
        let Some(at) = self.starts.iter().position(|start| start.term == term) else {
            return if term.follows(self.newest()) { Standing::NotYet } else { Standing::Unknown };
        };
        match self.starts.get(at + 1) {
            Some(next) if position > ends(next.begins) => Standing::Lost,
            _ if position <= head => Standing::Here,
            _ => Standing::NotYet,
        }
    }

    /// The terms up to and with `term`; none where it is not among them.
    pub fn up_to(&self, term: Term) -> &[TermStart] {
        let end = self.starts.iter().rposition(|start| start.term == term).map_or(0, |at| at + 1);
        &self.starts[..end]
    }

    /// Whether a log that ends at `position`, in this term, is a beginning of this one: the term is
    /// one of its own, and had not ended before. Not known of a term that is forgotten.
    pub fn has(&self, term: Term, position: u64) -> bool {
        let Some(at) = self.starts.iter().position(|start| start.term == term) else { return false };
        self.starts.get(at + 1).is_none_or(|next| position <= next.begins)
    }

    /// So many of its terms at most: the oldest, which whoever begins at the tail needs, and the
    /// latest. Of those between, the log's records tell.
    pub fn within(&self, terms_max: usize) -> History {
        let (oldest, later) = self.starts.split_at(self.starts.len().min(1));
        let latest = &later[later.len().saturating_sub(terms_max - 1)..];
        History { origin: self.origin, starts: [oldest, latest].concat() }
    }

    /// Whether what began under another origin is there and here.
    pub fn is_foreign_to(&self, other: &History) -> bool {
        self.origin.is_valid() && other.origin.is_valid() && self.origin != other.origin
    }

    /// The log has come by a term, told of or not.
    fn note(&mut self, start: TermStart) {
        if self.starts.contains(&start) {
            return;
        }
        let origin = if self.origin.is_valid() { self.origin } else { start.term };
        let is_later = |other: &&TermStart| other.begins >= start.begins && other.term.follows(start.term);
        let later: Vec<TermStart> = self.starts.iter().filter(is_later).copied().collect();
        *self = History::new(origin, self.before(start).chain([start]).chain(later));
    }

    /// What may have come before this.
    fn before(&self, start: TermStart) -> impl Iterator<Item = TermStart> {
        let is_earlier = move |other: &&TermStart| other.begins <= start.begins && start.term.follows(other.term);
        self.starts.iter().filter(is_earlier).copied()
    }

    /// Nothing below `tail` is in the log any more: only the term of what stood just below it, and
    /// later ones, matter. (A replica may come back with its cursor at the tail.)
    fn forget_below(&mut self, tail: u64) {
        let ended = self.starts.iter().skip(1).take_while(|next| next.begins < tail).count();
        self.starts.drain(..ended);
    }
}

impl Shard {
    /// The terms of this shard's log.
    pub fn history(&self) -> History {
        let mut history = self.lock_history().clone();
        history.forget_below(self.control().tail());
        history
    }

    /// Whether this log has what stands below `position` of a term. With the shard's lock, so that
    /// whatever is in the log is in the index, too.
    pub fn standing(&self, term: Term, position: u64) -> Standing {
        let _writer = self.lock();
        let slab_bytes = self.log.pool().slab_bytes();
        // Where a slab has no room for the record of a term, the rest of it is padded.
        let ends =
            |begins: u64| if begins.is_multiple_of(slab_bytes) { begins - TERM_RECORD_BYTES as u64 } else { begins };
        self.lock_history().standing(term, position, self.head(), ends)
    }

    /// The position where this log ends now, whoever may see it, and the term of what stands below.
    /// Of what was found in a turn all stands below it, until that turn has ended.
    pub fn end_now(&self) -> (Term, u64) {
        let head = self.head();
        (self.term_before(head), head)
    }

    /// The term of what stands below a position; [`Term::NONE`] where it is not known any more.
    pub fn term_before(&self, position: u64) -> Term {
        let history = self.lock_history();
        let start = history.before_position(position).or(history.start_at(position));
        start.map_or(Term::NONE, |start| start.term)
    }

    /// Whether all that the primary had at this log's end is here, and a record has shown it. With
    /// the shard's lock: whoever has begun to empty the log has said so.
    pub fn is_complete(&self) -> bool {
        let _writer = self.lock();
        self.is_proven() && self.is_whole()
    }

    /// What becomes of this shard's history meanwhile waits: its lock is held. `then` must not ask
    /// for it.
    pub fn with_history<T>(&self, then: impl FnOnce(History) -> T) -> T {
        let _writer = self.lock();
        then(self.history())
    }

    fn lock_history(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("nobody panics while holding a history")
    }

    /// This log is over: whoever looks finds no term of it.
    pub fn leave_history(&self) {
        let _writer = self.lock();
        self.set_history(History::NONE);
        self.control().begin_term(Term::NONE.0, 0);
    }

    /// With the shard's lock held, as for all that change it.
    pub(super) fn set_history(&self, history: History) {
        self.change_history(|own| *own = history);
    }

    /// The log comes by this term.
    pub(super) fn note_term(&self, start: TermStart) {
        self.change_history(|history| history.note(start));
    }

    /// The log ends where this term begins: what was told of beyond is not going to be here. A log
    /// that has not begun takes part in the history of this origin.
    pub(super) fn begin_history(&self, start: TermStart, origin: Term) {
        self.change_history(|history| {
            let origin = if history.origin.is_valid() { history.origin } else { origin };
            *history = History::new(origin, history.before(start).chain([start]));
        });
    }

    /// The log goes on as that of `told`, whose records below the head are the same: what is told
    /// of the terms beyond is taken over.
    pub(super) fn adopt_history(&self, told: &History) {
        let (head, term) = (self.head(), Term(self.control().term()));
        self.change_history(|history| {
            let beyond = told.starts.iter().filter(|start| start.begins >= head);
            *history = History::new(history.origin, history.up_to(term).iter().chain(beyond).copied());
        });
    }

    /// The CAS of the log's items depends on its terms, so it is told of each change.
    fn change_history(&self, change: impl FnOnce(&mut History)) {
        let mut history = self.lock_history();
        history.forget_below(self.tail());
        change(&mut history);
        self.log.cas_terms().set(&history);
    }
}

impl Store {
    /// Each shard's.
    pub fn histories(&self) -> Vec<History> {
        self.shards.iter().map(Shard::history).collect()
    }

    /// Whether any shard's log has begun somewhere, so that others can follow. A replica's begins
    /// with its first look at its primary.
    pub fn has_begun(&self) -> bool {
        self.shards.iter().any(|shard| shard.lock_history().newest().is_valid())
    }

    /// The terms that are known of in any shard, oldest first. Empty in a replica that has not
    /// begun.
    pub fn terms_known(&self) -> Vec<Term> {
        let terms: BTreeSet<Term> = self.histories().iter().flat_map(History::starts).map(|start| start.term).collect();
        terms.into_iter().collect()
    }

    /// The latest term that is known of in any shard; [`Term::NONE`] in a replica that has not
    /// begun.
    pub fn newest_term(&self) -> Term {
        self.shards.iter().map(|shard| shard.lock_history().newest()).max().unwrap_or_default()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn start(number: u32, begins: u64) -> TermStart {
        TermStart { term: Term::of(number, 9), begins }
    }

    fn history(starts: &[(u32, u64)]) -> History {
        History::new(Term::of(1, 9), starts.iter().map(|(number, begins)| start(*number, *begins)))
    }

    #[test]
    fn of_what_is_told_only_what_can_be_is_kept() {
        let told = [start(1, 64), start(0, 70), start(3, 800), start(2, 900), start(4, 700), start(5, 800)];
        let expected = history(&[(1, 64), (3, 800), (5, 800)]);
        assert_eq!(History::new(Term::of(1, 9), told), expected, "a term may be over before anything was written");
        assert_eq!(History::new(Term::NONE, told), History::NONE);
        assert_eq!(History::new(Term::of(1, 9), []), History::NONE);
        assert_eq!(History::born(Term::NONE, 64), History::NONE);
    }

    #[test]
    fn a_term_that_the_log_comes_by_is_put_where_it_belongs() {
        let mut told = history(&[(1, 64), (5, 900)]);
        told.note(start(3, 500));
        assert_eq!(told, history(&[(1, 64), (3, 500), (5, 900)]), "one that was not told of");
        told.note(start(5, 900));
        assert_eq!(told, history(&[(1, 64), (3, 500), (5, 900)]), "one that was");
        told.note(start(4, 700));
        told.note(TermStart { term: Term::of(4, 8), begins: 800 });
        assert_eq!(told.newest(), Term::of(5, 9));
        assert_eq!(told.starts()[2].term, Term::of(4, 8), "another of the same number takes its place");
        told.note(start(6, 850));
        assert_eq!(told.starts().last(), Some(&start(6, 850)), "the log went another way than was told");
        let mut none = History::NONE;
        none.note(start(7, 64));
        assert_eq!((none.origin(), none.newest()), (Term::of(7, 9), Term::of(7, 9)));
    }

    #[test]
    fn what_ended_below_the_tail_is_forgotten_but_not_where_all_began() {
        let mut past = history(&[(1, 64), (2, 500), (3, 900)]);
        past.forget_below(500);
        assert_eq!(past.starts().len(), 3, "a cursor at the tail may be of the first");
        past.forget_below(508);
        assert_eq!(past.starts(), [start(2, 500), start(3, 900)]);
        past.forget_below(5000);
        assert_eq!((past.starts(), past.origin()), (&[start(3, 900)][..], Term::of(1, 9)));
    }

    #[test]
    fn a_position_is_of_the_last_term_that_began_before_it() {
        let past = history(&[(1, 64), (2, 500), (3, 500)]);
        let number = |position| past.start_at(position).map(|start| start.term.number());
        assert_eq!([8, 64, 499, 500, 9000].map(number), [1, 1, 1, 3, 3].map(Some));
        assert_eq!(past.up_to(Term::of(2, 9)).len(), 2);
        assert_eq!((past.up_to(Term::of(2, 8)).len(), History::NONE.start_at(64)), (0, None));
    }

    #[test]
    fn what_a_term_had_beyond_its_end_is_lost_and_what_is_to_come_is_not() {
        let past = history(&[(1, 64), (2, 500), (4, 900)]);
        let standing = |number, position| past.standing(Term::of(number, 9), position, 700, |begins| begins);
        assert_eq!(standing(1, 500), Standing::Here, "all that is below the end of its term");
        assert_eq!(standing(1, 501), Standing::Lost);
        assert_eq!([700, 701, 900].map(|at| standing(2, at)), [Standing::Here, Standing::NotYet, Standing::NotYet]);
        assert_eq!(standing(2, 901), Standing::Lost, "its end is known before it is here");
        assert_eq!(standing(4, 950), Standing::NotYet);
        assert_eq!((standing(3, 600), standing(5, 600)), (Standing::Unknown, Standing::NotYet));
        let other = Term::of(2, 8);
        assert_eq!(past.standing(other, 600, 700, |begins| begins), Standing::Unknown, "another of the same number");
        assert_eq!(History::NONE.standing(other, 600, 0, |begins| begins), Standing::NotYet);
        let padded = |position| past.standing(Term::of(1, 9), position, 700, |begins| begins - 40);
        assert_eq!([460, 461].map(padded), [Standing::Here, Standing::Lost], "what is padded may have been records");
    }

    #[test]
    fn who_began_elsewhere_is_foreign_whatever_came_later() {
        let (one, other) = (history(&[(4, 900)]), History::born(Term::of(1, 8), 64));
        assert!(one.is_foreign_to(&other) && !one.is_foreign_to(&history(&[(7, 2000)])));
        assert!(!one.is_foreign_to(&History::NONE) && !History::NONE.is_foreign_to(&one));
    }
}
