//! The terms that a store's log has been through, and where in each log they began. A replica that
//! comes back with a cursor of an older term goes on from it only if that term had not ended
//! before the cursor.

use super::Store;
use super::line::BIRTH;
use crate::base::term::Term;
use crate::sys::sync::Mutex;

/// One term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TermStart {
    /// Which.
    pub term: Term,
    /// The position in each shard's log where it begins; [`NOT_BEGUN`] where a replica has not come
    /// by it yet.
    pub begins: Vec<u64>,
}

/// In place of a position: this shard's log has not come to that term.
pub const NOT_BEGUN: u64 = u64::MAX;
/// Terms that are remembered, the latest. Who asks about an older one has been away for so many
/// promotions, and rejoins from the tail.
pub const TERMS_MAX: usize = 64;

/// All that is remembered, oldest first.
pub(super) struct History(Mutex<Vec<TermStart>>);

impl History {
    /// Of a store that is born, or, with [`Term::NONE`], of a replica's, which takes over its
    /// primary's.
    pub(super) fn new(term: Term, shards: usize) -> Self {
        let first = term.is_valid().then(|| TermStart { term, begins: vec![BIRTH; shards] });
        History(Mutex::new(first.into_iter().collect()))
    }

    /// The latest; [`Term::NONE`] where there is none.
    pub(super) fn newest(&self) -> Term {
        self.0.lock().expect("nobody panics while holding the history").last().map_or(Term::NONE, |last| last.term)
    }

    /// Shard `shard` of `shards` begins `term` at `position`. Another lineage's past is nobody's
    /// any more.
    pub(super) fn note(&self, term: Term, shard: usize, shards: usize, position: u64) {
        let mut starts = self.0.lock().expect("nobody panics while holding the history");
        starts.retain(|start| start.term.lineage() == term.lineage());
        let at = starts.partition_point(|start| start.term < term);
        if starts.get(at).is_none_or(|start| start.term != term) {
            starts.insert(at, TermStart { term, begins: vec![NOT_BEGUN; shards] });
        }
        starts[at].begins[shard] = position;
        forget_oldest(&mut starts);
    }
}

fn forget_oldest(starts: &mut Vec<TermStart>) {
    starts.drain(..starts.len().saturating_sub(TERMS_MAX));
}

impl Store {
    /// The terms, oldest first; the last is the one that is now. Empty in a replica that has not
    /// begun.
    pub fn terms(&self) -> Vec<TermStart> {
        self.history.0.lock().expect("nobody panics while holding the history").clone()
    }

    /// What the primary says of its past, in place of what was known. Of a foreign process's list
    /// only what can be is kept: valid terms of the last one's lineage, in order, with a position
    /// for each shard. Where a term begins is the same for all who have it, so what the other has
    /// not come by, and this store has, is kept.
    pub fn adopt_terms(&self, mut terms: Vec<TermStart>) {
        let now = terms.last().map_or(Term::NONE, |last| last.term);
        terms.retain(|start| {
            start.term.is_valid() && start.term.lineage() == now.lineage() && start.begins.len() == self.shards.len()
        });
        terms.sort_by_key(|start| start.term);
        terms.dedup_by_key(|start| start.term);
        forget_oldest(&mut terms);
        let mut known = self.history.0.lock().expect("nobody panics while holding the history");
        for start in &mut terms {
            let here = known.iter().find(|here| here.term == start.term);
            let begins = start.begins.iter_mut().zip(here.iter().flat_map(|here| &here.begins));
            begins.filter(|(theirs, _)| **theirs == NOT_BEGUN).for_each(|(theirs, ours)| *theirs = *ours);
        }
        *known = terms;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_another_has_not_come_by_is_kept() {
        let geometry =
            crate::store::Geometry { shards: 2, slab_bytes: 4 << 10, record_bytes_max: 1 << 10, evict: true };
        let store = Store::with_geometry(geometry, 32, 1, false, None).unwrap();
        let start = |term, begins: [u64; 2]| TermStart { term, begins: begins.to_vec() };
        let (first, second) = (Term::of(9, 1), Term::of(9, 2));
        store.adopt_terms(vec![start(first, [64, 64]), start(second, [800, NOT_BEGUN])]);
        store.adopt_terms(vec![start(second, [NOT_BEGUN, 640])]);
        assert_eq!(store.terms(), [start(second, [800, 640])]);
        store.adopt_terms(vec![start(Term::of(10, 1), [64, 64])]);
        assert_eq!(store.terms(), [start(Term::of(10, 1), [64, 64])]);
    }

    #[test]
    fn each_shard_comes_to_a_term_in_its_own_time() {
        let first = Term::of(9, 1);
        let history = History::new(first, 2);
        let second = first.next().unwrap();
        history.note(second, 1, 2, 800);
        assert_eq!(history.0.lock().unwrap()[1], TermStart { term: second, begins: vec![NOT_BEGUN, 800] });
        history.note(second, 0, 2, 640);
        assert_eq!(history.0.lock().unwrap()[1].begins, [640, 800]);
        let third = second.next().unwrap();
        (0..TERMS_MAX).fold(third, |term, _| {
            history.note(term, 0, 2, 1000);
            term.next().unwrap()
        });
        assert_eq!(history.0.lock().unwrap().len(), TERMS_MAX);
        assert_eq!(history.0.lock().unwrap()[0].term, third, "the oldest were forgotten");
        history.note(Term::of(10, 3), 0, 2, 64);
        assert_eq!(history.0.lock().unwrap().len(), 1, "another lineage begins anew");
    }
}
