//! Whether a primary's log is of this store's lineage, and what is done where it is not. The
//! lineage of a shard's log is told by its history's origin, the term in which all of it began.
//!
//! A process that starts empty begins a lineage of its own. To follow a primary of another lineage
//! is to give up everything that is here. A store that holds data therefore refuses such a primary,
//! until somebody says that the data may go: an order (`replicate --discard`) or a flag
//! (`--replica-discard`). Without this rule a supervisor that restarts a dead primary would empty
//! all its replicas within milliseconds.

use crate::base::term::Term;
use crate::store::shard::Shard;
use crate::store::{History, Store};

/// For which primaries the data of this store may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discard {
    /// For none.
    #[default]
    Never,
    /// For one whose every log is of this origin: it was there when the order was given.
    For(Term),
    /// For any, at any time.
    Always,
}

impl Discard {
    /// May the data be given up for a primary whose shards have these histories?
    pub fn allows(self, theirs: &[History]) -> bool {
        match self {
            Discard::Never => false,
            Discard::For(origin) => theirs.iter().all(|history| [Term::NONE, origin].contains(&history.origin())),
            Discard::Always => true,
        }
    }
}

/// The origins of the first shard whose history is of another lineage than the store's own, theirs
/// and ours. A log that never began is of none.
pub fn foreign(theirs: &[History], store: &Store) -> Option<(Term, Term)> {
    let mut pairs = theirs.iter().zip(store.shards()).map(|(theirs, shard)| (theirs, shard.history()));
    pairs.find(|(theirs, ours)| theirs.is_foreign_to(ours)).map(|(theirs, ours)| (theirs.origin(), ours.origin()))
}

/// Whether the store has any log, and so perhaps an item.
pub fn holds_data(store: &Store) -> bool {
    store.shards().iter().any(|shard| {
        let line = shard.control();
        line.committed() > line.tail()
    })
}

/// Show to whoever reads this store's control lines that its log is over, before anything of it is
/// given up. Otherwise a replica that follows this store would see a tail that moves to the end,
/// and would give up all that it has as well.
pub fn leave(store: &Store) {
    store.shards().iter().for_each(Shard::leave_history);
}
