//! What must have been applied before a held answer goes out, and who says whether it has.

use crate::store::{Reign, Store};

/// Who has applied what.
pub trait Holders {
    /// How many replicas have applied everything below `position` of a shard.
    fn holders(&self, shard: usize, position: u64) -> usize;
}

/// The reign of each shard; see [`crate::store::reign`].
pub trait Reigns {
    /// Of this one, now.
    fn reign(&self, shard: usize) -> Reign;

    /// Whether this one takes writes now.
    fn is_open(&self, shard: usize) -> bool;
}

impl Reigns for Store {
    fn reign(&self, shard: usize) -> Reign {
        self.shards()[shard].reign()
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
    /// How many replicas have it; of several shards, how many have the one that fewest have. A
    /// replica may have some shards of this server alone, and others of other servers.
    pub(super) fn holders(&self, holders: &dyn Holders) -> usize {
        match self {
            Goal::Shard { shard, position } => holders.holders(*shard as usize, *position),
            Goal::All(positions) => {
                let asked = positions.iter().enumerate().filter(|(_, position)| **position > 0);
                asked.map(|(shard, position)| holders.holders(shard, *position)).min().unwrap_or(0)
            }
        }
    }

    /// Whether the gate of one of its shards has changed since `reign` was the store's.
    pub(super) fn has_lost_a_shard(&self, reigns: &dyn Reigns, reign: Reign) -> bool {
        match self {
            Goal::Shard { shard, .. } => reigns.reign(*shard as usize) > reign,
            Goal::All(positions) => {
                let has_changed = |(shard, position): (usize, &u64)| *position > 0 && reigns.reign(shard) > reign;
                positions.iter().enumerate().any(has_changed)
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
