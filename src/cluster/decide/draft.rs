//! The map that is being made, and the reasons.

use super::Next;
use crate::base::shards::ShardSet;
use crate::cluster::map::{Change, Map, Member, Server, ServerId, Shard, Stage, Wanted};
use std::collections::HashMap;

/// A decision, in plain words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The shards that it is about; none: a server, or the cluster.
    pub shards: ShardSet,
    /// What was decided, and why.
    pub words: String,
}

/// See the module.
pub struct Draft {
    pub map: Map,
    /// That the map will have.
    pub version: u64,
    notes: Vec<Note>,
    /// By their words.
    noted: HashMap<String, usize>,
    must_write: bool,
}

impl Draft {
    pub fn new(map: &Map, version: u64) -> Draft {
        Draft { map: map.clone(), version, notes: Vec::new(), noted: HashMap::new(), must_write: false }
    }

    /// The map is this locator's, and above all that servers have seen.
    pub fn take_charge(&mut self, generation: u64, is_behind: bool) {
        if self.map.generation != generation {
            self.map.generation = generation;
            self.note(None, format!("a locator takes charge, with generation {generation}"));
        }
        self.map.longest_lease_ms = self.map.longest_lease_ms.max(self.map.policy.lease_ms);
        if is_behind {
            // What was confirmed for an earlier version may have been another map's.
            let version = self.version;
            self.map.shards.iter_mut().for_each(|shard| restamp(shard, version));
            self.note(None, format!("servers know a later map than the one that is stored: on with version {version}"));
            self.must_write = true;
        }
    }

    pub fn note(&mut self, shard: Option<usize>, words: String) {
        let at = *self.noted.entry(words).or_insert_with_key(|words| {
            self.notes.push(Note { shards: ShardSet::default(), words: words.clone() });
            self.notes.len() - 1
        });
        shard.into_iter().for_each(|shard| self.notes[at].shards.insert(shard));
    }

    pub fn name(&self, server: ServerId) -> &str {
        self.map.server(server).map_or("?", |server| &server.name)
    }

    pub fn server_mut(&mut self, id: ServerId) -> &mut Server {
        let at = self.map.servers.binary_search_by_key(&id, |server| server.id).expect("a server of this map");
        &mut self.map.servers[at]
    }

    /// The process of this server has ended: its places are nobody's.
    pub fn mark_gone(&mut self, server: ServerId) {
        let version = self.version;
        for shard in &mut self.map.shards {
            for member in shard.members.iter_mut().filter(|member| member.server == server) {
                if !matches!(member.stage, Stage::Gone(_)) {
                    member.stage = Stage::Gone(version);
                }
            }
            shard.ended |= shard.primary == Some(server);
            if let Some(change) = shard.change.as_mut().filter(|change| change.heir == server && change.gone == 0) {
                change.gone = version;
            }
        }
    }

    /// Reserve a term of this number for the heir.
    pub fn begin_change(&mut self, shard: usize, change: Change) {
        let place = &mut self.map.shards[shard];
        assert!(change.term > place.term && change.term > place.reserved, "shard {shard}: term {} again", change.term);
        place.reserved = change.term;
        place.change = Some(change);
    }

    /// Servers that are gone for good, and that no shard names, are taken out.
    pub fn remove_servers(&mut self) {
        let gone: Vec<ServerId> =
            self.map.servers.iter().filter(|server| server.wanted == Wanted::Removed).map(|server| server.id).collect();
        for id in
            gone.into_iter().filter(|id| !self.map.shards.iter().any(|shard| names(shard, *id))).collect::<Vec<_>>()
        {
            let words = format!("{} is taken out of the map", self.name(id));
            self.note(None, words);
            self.map.servers.retain(|server| server.id != id);
        }
    }

    /// The next map, if it differs from the one that it was made of.
    pub fn finish(mut self, before: &Map) -> Option<Next> {
        if !self.must_write && self.map == *before {
            return None;
        }
        self.map.version = self.version;
        debug_assert_eq!(self.map.check(), Ok(()));
        Some(Next { map: self.map, notes: self.notes })
    }
}

/// Whether a shard names this server anywhere.
pub fn names(shard: &Shard, id: ServerId) -> bool {
    shard.primary == Some(id)
        || shard.member(id).is_some()
        || shard.change.is_some_and(|change| change.heir == id)
        || shard.target.contains(&id)
}

/// Who is to go is to be confirmed anew.
pub fn restamp(shard: &mut Shard, version: u64) {
    for member in &mut shard.members {
        match &mut member.stage {
            Stage::Leaving(since) | Stage::Gone(since) => *since = version,
            Stage::Joining | Stage::Whole => {}
        }
    }
}

/// Listed, and to stay.
pub fn stays(member: &Member) -> bool {
    matches!(member.stage, Stage::Joining | Stage::Whole)
}
