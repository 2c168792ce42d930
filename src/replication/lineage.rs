//! Whether a primary's log is of this store's lineage, and what is done where it is not. The
//! lineage of a shard's log is told by its history's origin, the term in which all of it began.
//!
//! A process that starts empty begins a lineage of its own. To follow a primary of another lineage
//! is to give up everything that is here. A store that holds data therefore refuses such a primary,
//! until somebody says that the data may go: an order (`replicate --discard`) or a flag
//! (`--replica-discard`). Without this rule a supervisor that restarts a dead primary would empty
//! all its replicas within milliseconds.

use crate::base::term::Term;
use crate::store::History;
use crate::store::shard::Shard;
use std::collections::BTreeSet;

/// For which primaries the data of this store may be given up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Discard {
    /// For none.
    #[default]
    Never,
    /// In these shards, for a log of this origin: it was there when the order was given.
    For(BTreeSet<(usize, Term)>),
    /// For any, at any time.
    Always,
}

impl Discard {
    /// May a shard's data be given up for a log of this history?
    pub fn allows(&self, shard: usize, theirs: &History) -> bool {
        match self {
            Discard::Never => false,
            Discard::For(origins) => origins.contains(&(shard, theirs.origin())),
            Discard::Always => true,
        }
    }
}

/// Whether the shard has any log, and so perhaps an item.
pub fn holds_data(shard: &Shard) -> bool {
    let line = shard.control();
    line.committed() > line.tail()
}

/// Whether the shard has nothing that could be gone on from, or given up.
pub fn has_nothing(shard: &Shard) -> bool {
    !shard.is_proven() || !holds_data(shard)
}
