//! What a server tells a locator of itself.

use super::map::Id;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who a server is: the first thing that it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Its name.
    pub name: String,
    /// Of this process: the number by which it is known to other servers.
    pub incarnation: Id,
    /// The cluster that it takes itself for a part of; None before it has seen a map.
    pub cluster: Option<Id>,
    /// The highest version of a map that it has seen; 0: none.
    pub map_version: u64,
    /// The highest generation of a locator that it has heard of.
    pub generation: u64,
    /// Where clients connect, HOST:PORT.
    pub clients: String,
    /// Its replication port, HOST:PORT.
    pub replication: String,
    /// What tells one host from another.
    pub host: String,
    /// What fails together; may be empty.
    pub zone: String,
    /// For items, in MiB.
    pub memory_mib: u64,
    /// How many shards its store has.
    pub shards: usize,
}

/// What a server has come to: sent with each renewal of its lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// It has done what the map of this version asks of it as a primary. It counts the members that
    /// are to stay there, and no others. And all that it has acknowledged, or found when its term
    /// began, is held by K of them, or by all of them where they are fewer.
    pub map_version: u64,
    /// Shards of which it is the primary and in which that is not so yet; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unconfirmed: String,
    /// What it has, in groups of shards that stand alike. Shards of which it has nothing are left
    /// out.
    pub holdings: Vec<Holding>,
    /// What it could not do, of what the map asks.
    pub failures: Vec<Failure>,
    /// How long the log of each shard is of which it has anything, in KiB; looked at once a second.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kib: BTreeMap<usize, u64>,
}

/// Shards that stand alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Which, as in 0-127,200.
    pub shards: String,
    /// As what.
    pub role: Role,
    /// The number of the term to which its log has come.
    pub term: u32,
}

/// As what a server has a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It is copying, and not whole.
    Joining,
    /// It is whole, and behind.
    Whole,
    /// It is whole, and was up to date at its last look.
    Current,
}

/// What a server could not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In which shards.
    pub shards: String,
    /// It was to begin this term, has not, and never will; 0: it was to follow.
    pub term: u32,
    /// Why, for people.
    pub words: String,
}
