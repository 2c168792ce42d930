//! What an operator is shown of the cluster.

use super::copying::Copying;
use super::draft::stays;
use super::{Decisions, Millis};
use crate::base::shards::ShardSet;
use crate::cluster::map::{Map, Shard, Stage, Wanted};
use crate::cluster::report::Role;
use serde::{Deserialize, Serialize};

/// The cluster, as the locator in charge sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's number.
    pub cluster: String,
    /// Of the map.
    pub version: u64,
    /// Of the locator.
    pub generation: u64,
    /// In the order of the map; behind them those that wait to be added.
    pub servers: Vec<ServerStatus>,
    /// How many there are, and how many are not as they should be.
    pub shards: ShardsStatus,
    /// What is to be copied until all shards are where they are to be.
    pub copying: Copying,
    /// Why nothing is decided, if so.
    pub stopped: Option<String>,
    /// What is wrong, in words.
    pub warnings: Vec<String>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// Where clients connect.
    pub clients: String,
    /// Its zone.
    pub zone: String,
    /// Whether its lease is in force.
    pub alive: bool,
    /// Milliseconds since its last report; None: there was none.
    pub lease_age_ms: Option<u64>,
    /// Shards of which it is the primary.
    pub primary: usize,
    /// Shards of which it is a member.
    pub replica: usize,
    /// What operators want of it; None: it waits to be added.
    pub wanted: Option<Wanted>,
}

/// Shards, by what is wrong with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardsStatus {
    /// All.
    pub all: usize,
    /// With fewer than K members that are whole and alive.
    pub below_acks: usize,
    /// Without a primary that is alive and says so.
    pub without_primary: usize,
    /// Without one, because too few of their members are alive.
    pub waiting: usize,
    /// Not yet where they are to be.
    pub moving: usize,
    /// In which acknowledged writes may have been lost.
    pub unclean: usize,
}

impl ShardsStatus {
    /// Every shard is where it is to be, with a primary and enough members.
    pub fn are_settled(&self) -> bool {
        self.moving == 0 && self.without_primary == 0 && self.below_acks == 0
    }
}

impl Decisions {
    /// See [`Status`].
    pub fn status(&self, now: Millis) -> Status {
        let alive = Decisions::with_roles(&self.sessions, &self.map, now);
        let is_alive = |id: u16| alive[usize::from(id)].is_some();
        let mut servers = Vec::new();
        for server in &self.map.servers {
            let incarnation = server.incarnation.as_ref().or(server.missing.as_ref());
            let session = incarnation.and_then(|id| self.sessions.get(id));
            servers.push(ServerStatus {
                name: server.name.clone(),
                clients: server.clients.clone(),
                zone: server.zone.clone(),
                alive: is_alive(server.id),
                lease_age_ms: session.and_then(|session| session.heard).map(|heard| now.saturating_sub(heard)),
                primary: self.map.shards.iter().filter(|shard| shard.primary == Some(server.id)).count(),
                replica: self.map.shards.iter().filter(|shard| shard.member(server.id).is_some()).count(),
                wanted: Some(server.wanted),
            });
        }
        servers.extend(self.waiting_servers(now));
        let mut status = Status {
            cluster: self.map.cluster.clone(),
            version: self.map.version,
            generation: self.generation,
            servers,
            shards: ShardsStatus { all: self.map.shards.len(), ..ShardsStatus::default() },
            copying: self.copying(&self.map, now),
            stopped: self.memory.stopped.clone(),
            warnings: warnings(&self.map),
        };
        for (number, shard) in self.map.shards.iter().enumerate() {
            let counts = &mut status.shards;
            let whole = shard.members.iter().filter(|one| one.stage == Stage::Whole && is_alive(one.server)).count();
            let says_so = |primary: u16| {
                let session = alive[usize::from(primary)];
                session.is_some_and(|session| session.held(number) == Some((Role::Primary, shard.term)))
            };
            let has_primary = !shard.ended && shard.primary.is_some_and(says_so);
            counts.below_acks += usize::from(whole < usize::from(self.map.policy.acks));
            counts.without_primary += usize::from(!has_primary);
            counts.waiting += usize::from(!has_primary && self.memory.waiting.contains_key(&number));
            counts.moving += usize::from(!is_settled(shard));
            counts.unclean += usize::from(shard.unclean_term > 0);
        }
        for server in self.map.servers.iter().filter(|server| server.incarnation.is_none()) {
            let held_ms = self.held_out_ms(&server.name, now);
            if held_ms > 0 {
                let name = &server.name;
                status.warnings.push(format!("{name} has died again and again: it is held out for {held_ms} ms more"));
            }
        }
        let waiting: ShardSet = self.memory.waiting.keys().copied().collect();
        if !waiting.is_empty() {
            status.warnings.push(format!(
                "shards {waiting} wait: too few of their members are alive for all acknowledged writes to be there. Start \
                 the servers that are missing, or go on without them: remora ctl cluster failover SERVER --force"
            ));
        }
        status
    }

    /// Servers that have introduced themselves, and are in no map.
    fn waiting_servers(&self, now: Millis) -> Vec<ServerStatus> {
        let waits = self.sessions.values().filter(|one| one.is_alive(now) && self.map.named(&one.intro.name).is_none());
        let status = |session: &super::Session| ServerStatus {
            name: session.intro.name.clone(),
            clients: session.intro.clients.clone(),
            zone: session.intro.zone.clone(),
            alive: true,
            lease_age_ms: session.heard.map(|heard| now.saturating_sub(heard)),
            primary: 0,
            replica: 0,
            wanted: None,
        };
        let mut waiting: Vec<ServerStatus> = waits.map(status).collect();
        waiting.sort_by(|one, other| one.name.cmp(&other.name));
        waiting
    }
}

/// A shard is where it is to be.
fn is_settled(shard: &Shard) -> bool {
    let is_member = |id: &u16| shard.member(*id).is_some_and(|member| member.stage == Stage::Whole);
    shard.change.is_none()
        && shard.members.iter().all(stays)
        && shard.target.first().copied() == shard.primary
        && shard.members.len() + 1 == shard.target.len()
        && shard.target.iter().skip(1).all(is_member)
}

/// What is wrong with the cluster as it is wanted.
fn warnings(map: &Map) -> Vec<String> {
    let serving: Vec<_> = map.servers.iter().filter(|server| server.wanted == Wanted::Serving).collect();
    let mut hosts: Vec<&str> = serving.iter().map(|server| &*server.host).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let mut warnings = Vec::new();
    let needed = usize::from(map.policy.acks) + 1;
    if hosts.len() < needed {
        let there = hosts.len();
        warnings.push(format!(
            "servers at {there} hosts, and {needed} are needed for a write to be acknowledged: no acknowledged write can \
             succeed"
        ));
    }
    let has_zones = serving.windows(2).any(|pair| pair[0].zone != pair[1].zone);
    let zone = |id: &u16| map.server(*id).map_or("", |server| &server.zone);
    let is_in_one_zone =
        |shard: &&Shard| shard.target.len() > 1 && shard.target.iter().all(|id| zone(id) == zone(&shard.target[0]));
    let in_one_zone = map.shards.iter().filter(is_in_one_zone).count();
    if has_zones && in_one_zone > 0 {
        warnings.push(format!("{in_one_zone} shards have all their copies in one zone"));
    }
    warnings
}
