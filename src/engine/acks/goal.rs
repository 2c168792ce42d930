//! What must have been applied before a held answer goes out, and who says whether it has.

use super::Judge;
use crate::store::{Fate, Reign, Store};

/// Who has applied what.
pub trait Holders {
    /// How many replicas have applied everything below `position` of a shard.
    fn holders(&self, shard: usize, position: u64) -> usize;
}

/// What becomes of what was written, where gates change; see [`crate::store::reign`].
pub trait Reigns {
    /// Of what was written in this shard since `reign` was the store's.
    fn fate(&self, shard: usize, reign: Reign) -> Fate;

    /// Whether this one takes writes now.
    fn is_open(&self, shard: usize) -> bool;
}

impl Reigns for Store {
    fn fate(&self, shard: usize, reign: Reign) -> Fate {
        self.shards()[shard].fate(reign)
    }

    fn is_open(&self, shard: usize) -> bool {
        Store::is_open(self, shard as u32)
    }
}

/// What must have been applied.
#[derive(Debug)]
pub enum Goal {
    /// One shard, up to a position.
    Shard {
        /// Which.
        shard: u32,
        /// Up to where.
        position: u64,
    },
    /// All shards, up to these positions, each by replicas of its own; 0 for one that does not
    /// count.
    All(Box<[u64]>),
}

impl Goal {
    /// How many replicas have it, and its fate, where it was written since `reign` was the store's.
    /// Of several shards: how many have the one that fewest have, and the worst fate. A replica may
    /// have some shards of this server alone, and others of other servers.
    pub(super) fn standing(&self, judge: &Judge<'_>, reign: Reign) -> (usize, Fate) {
        let of = |shard: usize, position: u64| {
            let count = judge.holders.holders(shard, position);
            // Asked last: a shard may be closed, and followed, while this is judged. A position of
            // what is followed is told only once the fate is settled.
            let fate = judge.reigns.fate(shard, reign);
            // The server that is the primary now has it, and this one is a replica that has it.
            // That one may be among those who have told this one.
            (if fate == Fate::GoesOn { count.max(1) } else { count }, fate)
        };
        match self {
            Goal::Shard { shard, position } => of(*shard as usize, *position),
            Goal::All(positions) => {
                let asked = positions.iter().enumerate().filter(|(_, position)| **position > 0);
                let standings = asked.map(|(shard, position)| of(shard, *position));
                let both = |one: (usize, Fate), other: (usize, Fate)| (one.0.min(other.0), one.1.max(other.1));
                standings.reduce(both).unwrap_or((0, Fate::Here))
            }
        }
    }

    /// Whether one of its shards takes no writes now.
    pub(super) fn has_a_closed_shard(&self, reigns: &dyn Reigns) -> bool {
        match self {
            Goal::Shard { shard, .. } => !reigns.is_open(*shard as usize),
            Goal::All(positions) => {
                positions.iter().enumerate().any(|(shard, position)| *position > 0 && !reigns.is_open(shard))
            }
        }
    }

    /// Memory beside its own.
    pub fn bytes(&self) -> usize {
        match self {
            Goal::Shard { .. } => 0,
            Goal::All(positions) => size_of_val(&**positions),
        }
    }
}
