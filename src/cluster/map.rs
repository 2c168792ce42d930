//! The map of a cluster: which servers there are, and which of them has which shard in which role.
//!
//! As text it is JSON, so that an operator can read what is in the store. A map never changes: a
//! new one takes its place, with a higher version.
//!
//! **One member at a time.** A shard's members are the servers that may hold a replica of it. A
//! replica is a member before its server is told to follow; a primary counts members alone for
//! acknowledged writes. A member that is to go is [`Stage::Leaving`] first. The primary stops
//! counting it when it sees that map, and says so once those that stay have what it has
//! acknowledged. Then the member is taken out. So whoever may hold an acknowledged write is listed.
//!
//! **A place belongs to a process.** Where a process has ended, its places are [`Stage::Gone`], and
//! what it was the primary of is [`Shard::ended`]: a new process of that server has no part in
//! them.
//!
//! **A change of primary** is written twice. First with the heir and the number of its term, which
//! is reserved by that ([`Shard::change`]). Once the heir has reported that it is the primary in
//! this term, with the heir as the primary.

use crate::base::shards::SHARDS_MAX;
use serde::{Deserialize, Serialize};

/// The version of this text form. A locator reads what it knows.
pub const FORMAT: u32 = 1;

/// A random number in hexadecimal digits: of a cluster, or of one process of a server.
pub type Id = String;

/// A server's number in one map; never used again for another one.
pub type ServerId = u16;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// [`FORMAT`].
    pub format: u32,
    /// Random, made when the cluster is born.
    pub cluster: Id,
    /// Rises with each map, for ever, whichever locator writes it.
    pub version: u64,
    /// Of the locator that wrote it: rises with each that takes charge.
    pub generation: u64,
    /// The longest lease that any locator has granted: whoever takes charge waits for it.
    #[serde(default)]
    pub longest_lease_ms: u64,
    /// The number for the next server.
    #[serde(default)]
    pub next_server: ServerId,
    /// A lower K of before, with which acknowledged writes are still to be reckoned, and the
    /// version of the map that has raised it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acks_before: Option<(u8, u64)>,
    /// It was put together where the store was lost: servers take it once an operator has said that
    /// all are there, and it was gone on from.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// What operators want.
    pub policy: Policy,
    /// In the order of their numbers.
    pub servers: Vec<Server>,
    /// All shards of the cluster, by number. How many there are never changes.
    pub shards: Vec<Shard>,
}

/// What operators want. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Replicas of each shard.
    pub replicas: u8,
    /// The least number of replicas that an acknowledged write may wait for (K).
    pub acks: u8,
    /// For how long a server is sure of its roles without hearing from a locator.
    pub lease_ms: u64,
    /// From the death of a server on, its replicas are missed for so long before others are made,
    /// in shards that have enough for K.
    pub heal_delay_ms: u64,
    /// A shard whose members do not answer in sufficient number waits so long; then who is there
    /// goes on, and acknowledged writes may be lost. None: it waits for an operator.
    pub unclean_after_ms: Option<u64>,
    /// Shards that are copied to one server at the same time.
    pub copies_at_once: u8,
    /// So many MiB in a second are copied to one server at most, of shards that it has not whole
    /// yet. None: as fast as it goes.
    #[serde(default)]
    pub copy_mib_per_second: Option<u32>,
    /// What a read shows.
    #[serde(default)]
    pub consistency: Consistency,
    /// What becomes of writes that no replica acknowledges, at a server whose lease has ended.
    #[serde(default)]
    pub without_lease: WithoutLease,
}

/// What a read shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// What its server has: it may be lost yet, or be old where its server is cut off.
    #[default]
    Cached,
    /// What K replicas have acknowledged, from a server that is sure to be the primary: each key is
    /// linearizable.
    Strong,
}

/// What becomes of writes that no replica acknowledges, at a server whose lease has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WithoutLease {
    /// They are done: it is a cache, and they may be lost in any case.
    #[default]
    Serve,
    /// They are refused.
    Refuse,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            replicas: 1,
            acks: 1,
            lease_ms: 2_000,
            heal_delay_ms: 30_000,
            unclean_after_ms: None,
            copies_at_once: 8,
            copy_mib_per_second: None,
            consistency: Consistency::Cached,
            without_lease: WithoutLease::Serve,
        }
    }
}

/// More replicas of each shard than these are a mistake: each one takes every write.
const REPLICAS_MAX: u8 = 15;
/// Leases outside of these are a mistake: too short for a report's way, too long to be waited for.
pub const LEASE_MS: std::ops::RangeInclusive<u64> = 300..=60_000;
/// The longest time that anything is put off: a week.
const DELAY_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

impl Policy {
    /// What differs from the policy of before, as KEY: BEFORE -> AFTER.
    pub fn changes(&self, before: &Policy) -> Vec<String> {
        let table = |policy: &Policy| serde_json::to_value(policy).unwrap_or_default();
        let (after, before) = (table(self), table(before));
        let changed = |(key, value): (&String, &serde_json::Value)| {
            let old = &before[key];
            (old != value).then(|| format!("{key}: {old} -> {value}"))
        };
        after.as_object().into_iter().flatten().filter_map(changed).collect()
    }

    /// Whether a cluster can do as it says. Err: why not, in words.
    pub fn check(&self) -> Result<(), String> {
        let (acks, replicas) = (self.acks, self.replicas);
        if acks > replicas {
            return Err(format!("with {replicas} replicas, no write can be acknowledged by {acks}"));
        }
        if replicas > REPLICAS_MAX {
            return Err(format!("{replicas} replicas: a shard has at most {REPLICAS_MAX}"));
        }
        if !LEASE_MS.contains(&self.lease_ms) {
            let (least, most) = (LEASE_MS.start(), LEASE_MS.end());
            return Err(format!("a lease of {} ms: it is {least} to {most} ms long", self.lease_ms));
        }
        if self.heal_delay_ms > DELAY_MS_MAX || self.unclean_after_ms.is_some_and(|after| after > DELAY_MS_MAX) {
            return Err(format!("a delay is at most {DELAY_MS_MAX} ms, a week"));
        }
        if self.copies_at_once == 0 {
            return Err("copies_at_once is at least 1: nothing could be copied".into());
        }
        if self.copy_mib_per_second == Some(0) {
            return Err("copy_mib_per_second is at least 1: nothing could be copied; null is no bound".into());
        }
        self.check_strong()
    }

    fn check_strong(&self) -> Result<(), String> {
        if self.consistency == Consistency::Cached {
            return Ok(());
        }
        if self.acks == 0 {
            return Err("in strong mode every write is acknowledged by a replica at least: acks is 1 or more".into());
        }
        if self.unclean_after_ms.is_some() {
            return Err("in strong mode no shard goes on by itself without what was acknowledged: leave \
                        unclean_after_ms out"
                .into());
        }
        Ok(())
    }

    /// How many replicas must have what a read shows; 0 where that is not asked.
    pub fn strong_replicas(&self) -> u8 {
        if self.consistency == Consistency::Strong { self.acks } else { 0 }
    }
}

/// A server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its number.
    pub id: ServerId,
    /// Its name; no two have the same.
    pub name: String,
    /// The process that has its roles; None where it is dead. A process that is started anew is
    /// another one, and has no roles until it is given some.
    pub incarnation: Option<Id>,
    /// The process that had its roles, where it is taken for dead without a proof: it has them
    /// again if it comes back before another process of this server does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Id>,
    /// Where clients connect, HOST:PORT.
    pub clients: String,
    /// Its replication port, HOST:PORT.
    pub replication: String,
    /// What tells one host from another: no two copies of a shard are at one.
    pub host: String,
    /// What fails together, as operators name it; may be empty.
    pub zone: String,
    /// For items, in MiB.
    pub memory_mib: u64,
    /// What operators want of it.
    pub wanted: Wanted,
}

/// What operators want of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// It has its part of the shards.
    Serving,
    /// It keeps what it has, and is not failed over while it is away for maintenance.
    Paused,
    /// Its shards go to others.
    Draining,
    /// It is gone for good: it is taken out of the map once no shard names it.
    Removed,
}

/// Who has one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Who takes its writes, or did before it died; None before the first.
    pub primary: Option<ServerId>,
    /// The number of the primary's term; 0 before the first. Never falls.
    pub term: u32,
    /// The highest number that was ever reserved for a term. A primary whose hand-over failed goes
    /// on in a term of its own, which nobody has reserved: a locator takes that up when it hears
    /// it.
    #[serde(default)]
    pub reserved: u32,
    /// The process that was the primary has ended: what runs under the server's name is another
    /// one, which is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// Who may hold a replica.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// Another one is becoming the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// Who is to have it in the end, the primary first. Empty: as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target: Vec<ServerId>,
    /// The term from which on acknowledged writes may be missing, because an operator or the policy
    /// had it go on without enough members; 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unclean_term: u32,
}

/// A server that may hold a replica of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub server: ServerId,
    /// How far it has come.
    pub stage: Stage,
}

/// How far a member has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It is copying, and was not seen whole yet. It may be counted already.
    Joining,
    /// It was seen whole.
    Whole,
    /// It is to go, since the map of this version. The primary counts it no more once it has seen
    /// that map.
    Leaving(u64),
    /// The process that held it has ended, which is known since the map of this version. It goes
    /// as one that is leaving does. Until then it is one of those that may have been counted.
    Gone(u64),
}

/// A change of a shard's primary that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Who becomes the primary.
    pub heir: ServerId,
    /// The number of its term, above all that were ever written for the shard.
    pub term: u32,
    /// How it comes to what the shard has.
    pub way: Way,
    /// So many of the listed members stop for it at least, itself among them where it is one.
    #[serde(default)]
    pub least: u8,
    /// The heir's process has ended, which is known since the map of this version; 0: it has not.
    /// What runs under the server's name is not the heir. Whether it has begun its term is not
    /// known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gone: u64,
}

/// How an heir comes to what a shard has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The primary is alive and hands over.
    HandOver,
    /// The primary was stopped, is alive, and nobody has begun a term since: it has everything.
    GoesOn,
    /// The primary is dead: from the members that are alive, which are enough of them.
    Gather,
    /// The same, from fewer members than are needed to have all that was acknowledged.
    Unclean,
    /// Nobody has anything: it begins empty.
    Empty,
}

/// Why a map is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadMap {
    /// Not JSON of this form.
    #[error("this is no map of a cluster: {0}")]
    Text(String),
    /// Of another format.
    #[error("the map is of format {0}, and this program knows format {FORMAT}: upgrade it")]
    Format(u32),
    /// It contradicts itself.
    #[error("the map of version {version} makes no sense: {why}")]
    Nonsense {
        /// Of the map.
        version: u64,
        /// In words.
        why: String,
    },
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl Map {
    /// Of a cluster that is born, without servers. `shards` is a power of two, at most 1,024.
    pub fn born(cluster: Id, shards: usize, policy: Policy) -> Map {
        assert!(shards.is_power_of_two() && shards <= SHARDS_MAX, "checked where it is asked for");
        Map {
            format: FORMAT,
            cluster,
            version: 1,
            generation: 0,
            longest_lease_ms: policy.lease_ms,
            next_server: 1,
            acks_before: None,
            restored: false,
            policy,
            servers: Vec::new(),
            shards: vec![Shard::default(); shards],
        }
    }

    /// Its text.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a map has no part that JSON cannot say")
    }

    /// Of a text that anybody may have written.
    pub fn of_text(text: &[u8]) -> Result<Map, BadMap> {
        #[derive(Deserialize)]
        struct Formatted {
            format: u32,
        }
        let text_error = |error: serde_json::Error| BadMap::Text(error.to_string());
        let Formatted { format } = serde_json::from_slice(text).map_err(text_error)?;
        if format != FORMAT {
            return Err(BadMap::Format(format));
        }
        let map: Map = serde_json::from_slice(text).map_err(text_error)?;
        map.check()?;
        Ok(map)
    }

    /// Whether it makes sense.
    pub fn check(&self) -> Result<(), BadMap> {
        let nonsense = |why: String| Err(BadMap::Nonsense { version: self.version, why });
        if !(self.shards.len().is_power_of_two() && self.shards.len() <= SHARDS_MAX) {
            return nonsense(format!(
                "{} shards; their number is a power of two, at most {SHARDS_MAX}",
                self.shards.len()
            ));
        }
        if let Err(why) = self.policy.check() {
            return nonsense(why);
        }
        for pair in self.servers.windows(2) {
            if pair[0].id >= pair[1].id {
                return nonsense(format!("server {} stands behind server {}", pair[1].id, pair[0].id));
            }
        }
        for (at, server) in self.servers.iter().enumerate() {
            if self.servers[..at].iter().any(|other| other.name == server.name) {
                return nonsense(format!("two servers have the name {}", server.name));
            }
        }
        for (number, shard) in self.shards.iter().enumerate() {
            if let Some(why) = shard.nonsense(&|id| self.server(id).is_some()) {
                return nonsense(format!("shard {number}: {why}"));
            }
        }
        Ok(())
    }

    /// The server of that number.
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        self.servers.binary_search_by_key(&id, |server| server.id).ok().map(|at| &self.servers[at])
    }

    /// The server of that name.
    pub fn named(&self, name: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.name == name)
    }

    /// The primary of a shard, where the process that became it may have roles.
    pub fn living_primary(&self, shard: &Shard) -> Option<ServerId> {
        shard.primary.filter(|primary| self.is_alive(*primary) && !shard.ended)
    }

    /// Whether that server has a process that may have roles.
    pub fn is_alive(&self, id: ServerId) -> bool {
        self.server(id).is_some_and(|server| server.incarnation.is_some())
    }
}

impl Shard {
    /// This server, which is no member yet, joins.
    pub fn join(&mut self, server: ServerId) {
        self.members.push(Member { server, stage: Stage::Joining });
    }

    /// The member that this server is.
    pub fn member(&self, server: ServerId) -> Option<&Member> {
        self.members.iter().find(|member| member.server == server)
    }

    /// Why it contradicts itself, if it does.
    fn nonsense(&self, is_known: &dyn Fn(ServerId) -> bool) -> Option<String> {
        let named = self.members.iter().map(|member| member.server).chain(self.primary);
        let named = named.chain(self.change.map(|change| change.heir)).chain(self.target.iter().copied());
        if let Some(unknown) = named.clone().find(|id| !is_known(*id)) {
            return Some(format!("there is no server {unknown}"));
        }
        for (at, member) in self.members.iter().enumerate() {
            if self.members[..at].iter().any(|other| other.server == member.server) {
                return Some(format!("server {} is a member twice", member.server));
            }
            if self.primary == Some(member.server) {
                return Some(format!("server {} is the primary, and a member", member.server));
            }
        }
        if (self.term == 0) != self.primary.is_none() {
            return Some(format!("term {} with the primary {:?}", self.term, self.primary));
        }
        match self.change {
            Some(change) if change.term <= self.term => {
                Some(format!("the next term is {}, and the one of now {}", change.term, self.term))
            }
            Some(change) if change.term > self.reserved => {
                Some(format!("the next term is {}, and none above {} is reserved", change.term, self.reserved))
            }
            Some(change) if self.primary == Some(change.heir) && change.way == Way::HandOver => {
                Some(format!("server {} hands over to itself", change.heir))
            }
            _ => None,
        }
    }
}
