//! A store that was put back from a copy: servers know a later map than the one that is stored.
//!
//! What was decided since is lost, and servers hold what no stored map says. A map that was made of
//! the old one at once would have them empty what they hold. So nothing is written until leases of
//! before have ended, all that are connected have reported, and an operator has said that nobody is
//! missing. Then whoever has anything of a shard is listed there.

use super::failover::Found;
use super::liveness::Session;
use super::{Command, Decisions, Draft, Millis, Step};
use crate::cluster::map::{Map, ServerId, Stage};
use crate::cluster::report::Role;

/// A lost map may have reserved terms that no server knows of yet: at most so many of one shard.
const LOST_TERMS: u32 = 1024;

/// Maps that may have been written after a copy was made, and that nobody who is there has seen: at
/// most so many.
const LOST_VERSIONS: u64 = 1 << 20;

/// The map as it is to be stored where there is no store any more: the latest one that anybody
/// knows, and the highest version that servers know of, 0 where they know of none.
///
/// It is gone on from as from a store that was put back: once all have reported, and an operator
/// says resume. Until then no server takes it. Where those that are there know less, others may
/// know more than it says, and it goes above what may have been written since.
pub fn recovered(mut map: Map, highest: u64) -> Map {
    map.restored = true;
    if map.version > highest {
        map.version += LOST_VERSIONS;
        map.acks_before = Some((1, map.version));
        for shard in &mut map.shards {
            shard.reserved = shard.reserved.max(shard.term).saturating_add(LOST_TERMS);
        }
    }
    map
}

impl Decisions {
    /// Servers know a later map than the one that is stored, or may.
    pub(super) fn is_behind(&self) -> bool {
        self.floor > self.map.version || self.map.restored
    }

    /// Whether the stored map, which is behind, may be gone on from.
    pub(super) fn may_go_on(&mut self, now: Millis) -> bool {
        if self.memory.is_confirmed && self.has_heard_all(now) {
            return true;
        }
        self.memory.is_confirmed = false;
        self.memory.stopped = Some(format!(
            "the stored map has version {}, and servers know version {}: the store was put back from a copy, or lost. \
             Nothing is decided until an operator has started all servers, and says resume",
            self.map.version, self.floor
        ));
        false
    }

    /// No lease of before is in force, and whoever is connected has reported.
    fn has_heard_all(&self, now: Millis) -> bool {
        let is_silent = |one: &Session| one.is_connected && !one.ended && one.heard.is_none();
        self.is_settled(now) && !self.sessions.values().any(is_silent)
    }

    /// Err: why this command has to wait until the store is gone on from.
    pub(super) fn check_behind(&self, command: &Command, now: Millis) -> Result<(), String> {
        let stopped = self.memory.stopped.as_deref().unwrap_or("servers know a later map than the one that is stored");
        match command {
            _ if !self.is_behind() => Ok(()),
            Command::Resume { server: None } if self.has_heard_all(now) => Ok(()),
            Command::Resume { server: None } => Err(format!("not all servers have reported yet: ask again. {stopped}")),
            _ => Err(stopped.into()),
        }
    }

    /// Servers that hold shards, and are in no map, are in it from now on.
    pub(super) fn take_in(&self, draft: &mut Draft, now: Millis) {
        let is_lost = |one: &&Session| {
            let holds = (0..self.map.shards.len()).any(|shard| one.held(shard).is_some());
            one.is_alive(now) && holds && draft.map.named(&one.intro.name).is_none()
        };
        let mut lost: Vec<String> = self.sessions.values().filter(is_lost).map(|one| one.intro.name.clone()).collect();
        lost.sort_unstable();
        lost.dedup();
        for name in lost {
            let words = match super::command::add(draft, &name, &self.sessions, now) {
                Ok(_) => format!("{name} holds shards, and is in the map again"),
                Err(why) => why,
            };
            draft.note(None, words);
        }
    }
}

impl Step<'_> {
    /// The map says of each shard what servers say.
    pub fn take_over_restored(&mut self) {
        let version = self.draft.version;
        // K may have been lower in a map that is lost.
        self.draft.map.acks_before = Some((1, version));
        self.draft.map.restored = false;
        for shard in 0..self.draft.map.shards.len() {
            self.draft.map.shards[shard].change = None;
            let latest = self.memory.terms[shard];
            if latest > self.draft.map.shards[shard].term
                && let Some(primary) = self.latest_holder(shard, latest)
            {
                self.put_first(shard, primary, latest, Found::InLostMap);
            }
            self.list_holders(shard);
            let place = &mut self.draft.map.shards[shard];
            place.reserved = place.reserved.max(latest).saturating_add(LOST_TERMS);
        }
    }

    /// The primary of the latest term; without one, somebody that has come to this term: it is the
    /// primary in name, and the next one gathers from all that are listed.
    fn latest_holder(&self, shard: usize, latest: u32) -> Option<ServerId> {
        let rank = |id: &ServerId| match self.held(*id, shard) {
            Some((role, term)) if term == latest => match role {
                Role::Primary => 3,
                Role::Whole | Role::Current => 2,
                Role::Joining => 1,
            },
            _ => 0,
        };
        let ids = self.draft.map.servers.iter().map(|server| server.id);
        ids.filter(|id| rank(id) > 0).max_by_key(rank)
    }

    /// Whoever has anything may be a member by a lost map, and whoever lacks it is none that is
    /// whole.
    fn list_holders(&mut self, shard: usize) {
        let mut servers: Vec<ServerId> = self.draft.map.servers.iter().map(|server| server.id).collect();
        servers.retain(|id| self.is_alive(*id));
        for id in servers {
            let role = self.held(id, shard).map(|(role, _)| role);
            let place = &mut self.draft.map.shards[shard];
            if place.primary == Some(id) && !place.ended {
                continue;
            }
            let Some(at) = place.members.iter().position(|member| member.server == id) else {
                if role.is_some() && place.primary != Some(id) {
                    place.join(id);
                }
                continue;
            };
            let has_come_since = role.is_some() && matches!(place.members[at].stage, Stage::Gone(_));
            let lacks = role.is_none_or(|role| role == Role::Joining) && place.members[at].stage == Stage::Whole;
            if has_come_since || lacks {
                place.members[at].stage = Stage::Joining;
            }
        }
    }
}

#[cfg(test)]
#[path = "restored_tests.rs"]
mod tests;
