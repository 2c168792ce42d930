//! Whether a primary's log is of this store's lineage, and what is done where it is not.
//!
//! A process that starts empty begins a lineage of its own. To follow a primary of another lineage
//! is to give up everything that is here. A store that holds data therefore refuses such a primary,
//! until somebody says that the data may go: an order (`replicate --discard`) or a flag
//! (`--replica-discard`). Without this rule a supervisor that restarts a dead primary would empty
//! all its replicas within milliseconds.

use crate::base::term::Term;
use crate::store::Store;

/// For which primaries the data of this store may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discard {
    /// For none.
    #[default]
    Never,
    /// For one of this lineage: it was there when the order was given.
    For(u64),
    /// For any, at any time.
    Always,
}

impl Discard {
    /// May the data be given up for a primary of term `theirs`?
    pub fn allows(self, theirs: Term) -> bool {
        match self {
            Discard::Never => false,
            Discard::For(lineage) => lineage == theirs.lineage(),
            Discard::Always => true,
        }
    }
}

/// Whether `theirs` is of another lineage than the store's own. A replica's store that was never
/// told of a term has none.
pub fn is_foreign(theirs: Term, store: &Store) -> bool {
    let ours = store.newest_term();
    ours.is_valid() && theirs.lineage() != ours.lineage()
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
    for shard in store.shards() {
        let _writer = shard.lock();
        shard.control().begin_term(Term::NONE.0, 0);
    }
}
