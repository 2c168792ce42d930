//! Who is alive, who is dead, and who has come back.
//!
//! A server is alive while its lease is in force: the locator counts from the receipt of a report,
//! and adds 1 % for clocks that differ, so its end of a lease is later than the server's own. One
//! that is silent is dead when its lease has ended; one whose process has ended, at once. A locator
//! that takes charge knows nothing of earlier leases and waits for the longest.
//!
//! Where too many die together, the fault is more likely in what the locator sees: then it decides
//! nothing until they are back as they were, all but one, or an operator confirms. Who has died and
//! is whole again counts no more.

use super::copying::Sizes;
use super::draft::Draft;
use super::{Decisions, Millis, Proof};
use crate::base::shards::ShardSet;
use crate::base::term::CHOSEN_NUMBER_MAX;
use crate::cluster::map::{Id, Map, Server, ServerId, Shard, Stage, Wanted};
use crate::cluster::report::{Introduction, Report, Role};
use std::collections::HashMap;

/// Deaths so close together count together.
const TOGETHER_MS: u64 = 60_000;
/// Failures of a server in this time count as flapping.
const FLAPS_MS: u64 = 600_000;
/// The second failure holds a server out for so long; each further one for twice as long.
const HELD_OUT_MS: u64 = 10_000;
/// No longer than this.
const HELD_OUT_MS_MAX: u64 = 600_000;

/// Processes that have ended and are remembered, at most.
const ENDED_MAX: usize = 4096;

/// Versions and generations that are further ahead of the stored map than this are a mistake.
const AHEAD_MAX: u64 = 1 << 40;

/// What a process has said.
pub struct Session {
    pub intro: Introduction,
    /// None before its first report.
    pub heard: Option<Millis>,
    pub lease_until: Millis,
    pub map_version: u64,
    /// Where it has not done what that map asks.
    unconfirmed: ShardSet,
    held: Vec<Option<(Role, u32)>>,
    /// Shards, term, and why.
    pub failures: Vec<(ShardSet, u32, String)>,
    pub sizes: Sizes,
    pub ended: bool,
    pub is_connected: bool,
}

/// How often a server's processes have ended lately.
#[derive(Default)]
pub struct Flaps {
    ends: Vec<(Millis, Id)>,
    held_until: Millis,
}

/// A clock of a server may be slower than this one, by 1 %.
pub fn with_drift(lease_ms: u64) -> u64 {
    lease_ms.saturating_add(lease_ms / 100 + 1)
}

impl Session {
    pub fn held(&self, shard: usize) -> Option<(Role, u32)> {
        self.held.get(shard).copied().flatten()
    }

    pub fn is_alive(&self, now: Millis) -> bool {
        !self.ended && self.heard.is_some() && now < self.lease_until
    }

    /// Take what it reports; the KiB that it has copied in a second, if that is seen. Err: it makes
    /// no sense.
    pub fn note(
        &mut self,
        report: &Report,
        shards: usize,
        now: Millis,
        lease_until: Millis,
    ) -> Result<Option<u64>, String> {
        let set = |text: &str| text.parse::<ShardSet>().map_err(|bad| bad.to_string());
        let mut held = vec![None; shards];
        for holding in &report.holdings {
            if holding.term > CHOSEN_NUMBER_MAX {
                return Err(format!("a term of number {}, which makes no sense", holding.term));
            }
            for shard in set(&holding.shards)?.iter().filter(|shard| *shard < shards) {
                held[shard] = Some((holding.role, holding.term));
            }
        }
        let failure = |failure: &crate::cluster::report::Failure| {
            Ok((set(&failure.shards)?, failure.term, failure.words.clone()))
        };
        self.failures = report.failures.iter().map(failure).collect::<Result<_, String>>()?;
        self.unconfirmed = if report.unconfirmed.is_empty() { ShardSet::default() } else { set(&report.unconfirmed)? };
        let before = std::mem::replace(&mut self.held, held);
        let role = |shard: usize| before.get(shard).copied().flatten().map(|(role, _)| role);
        let copied = self.sizes.note(report, role, now);
        self.map_version = report.map_version;
        self.lease_until = self.lease_until.max(lease_until);
        self.heard = Some(now);
        self.is_connected = true;
        Ok(copied)
    }

    /// It has done, as this shard's primary, what the map of this version asks.
    pub fn has_confirmed(&self, shard: usize, version: u64) -> bool {
        self.map_version >= version && !self.unconfirmed.has(shard)
    }

    /// Why it could not begin this term in this shard, or follow there (term 0).
    pub fn failure(&self, shard: usize, term: u32) -> Option<&str> {
        let failure = self.failures.iter().find(|(shards, of, _)| *of == term && shards.has(shard));
        failure.map(|(_, _, words)| &**words)
    }
}

impl Decisions {
    /// A server's connection begins. Err: why it cannot be taken.
    pub fn introduced(&mut self, intro: Introduction, now: Millis) -> Result<(), String> {
        if let Some(other) = intro.cluster.as_ref().filter(|cluster| **cluster != self.map.cluster) {
            return Err(format!("{} belongs to the cluster {other}, and this is {}", intro.name, self.map.cluster));
        }
        if intro.shards != self.map.shards.len() {
            let (theirs, ours) = (intro.shards, self.map.shards.len());
            return Err(format!(
                "{} has {theirs} shards, and the cluster {ours}: start it with --shards {ours}",
                intro.name
            ));
        }
        self.check_ahead(&intro.name, "map", intro.map_version, self.map.version)?;
        self.check_ahead(&intro.name, "locator", intro.generation, self.generation)?;
        if self.memory.ended.contains(&intro.incarnation) {
            return Err(format!("another process has taken the place of {}: start it anew", intro.name));
        }
        let is_other = |one: &&Session| one.intro.name == intro.name && one.intro.incarnation != intro.incarnation;
        let mut others = self.sessions.values().filter(is_other);
        if let Some(other) = others.find(|one| one.is_alive(now) && one.intro.replication != intro.replication) {
            return Err(format!("{} is alive at {}: give this one another name", intro.name, other.intro.replication));
        }
        self.see(&intro);
        let fresh = || Session {
            intro: intro.clone(),
            heard: None,
            lease_until: 0,
            map_version: 0,
            unconfirmed: ShardSet::default(),
            held: Vec::new(),
            failures: Vec::new(),
            sizes: Sizes::default(),
            ended: false,
            is_connected: true,
        };
        let session = self.sessions.entry(intro.incarnation.clone()).or_insert_with(fresh);
        session.intro = intro;
        session.is_connected = true;
        Ok(())
    }

    /// A number that only a fault can have come to would leave none for those that follow.
    pub(super) fn check_ahead(&self, name: &str, of: &str, number: u64, ours: u64) -> Result<(), String> {
        if number > ours.saturating_add(AHEAD_MAX) {
            return Err(format!("{name} knows a {of} of number {number}, and the latest is {ours}: it makes no sense"));
        }
        Ok(())
    }

    /// A server's connection has ended, or its process.
    pub fn gone(&mut self, incarnation: &str, proof: Proof) {
        if let Some(session) = self.sessions.get_mut(incarnation) {
            session.is_connected = false;
        }
        // One observer has seen it end, and may be deceived. In strong mode that is not enough:
        // where it still runs it answers reads until its lease ends.
        if proof == Proof::Ended && self.map.policy.strong_replicas() == 0 {
            self.end(incarnation.into());
        }
    }

    /// A process has ended, or is taken for ended: it is heard no more.
    pub(super) fn end(&mut self, incarnation: Id) {
        if let Some(session) = self.sessions.get_mut(&incarnation) {
            session.ended = true;
        }
        self.memory.ended.insert(incarnation);
    }

    /// No lease of an earlier locator can be in force.
    pub(super) fn is_settled(&self, now: Millis) -> bool {
        now >= self.began + with_drift(self.map.longest_lease_ms.max(self.map.policy.lease_ms))
    }

    /// What those say that are alive and have roles, by number.
    pub(super) fn with_roles<'s>(
        sessions: &'s HashMap<Id, Session>,
        map: &Map,
        now: Millis,
    ) -> Vec<Option<&'s Session>> {
        let count = map.servers.last().map_or(0, |server| usize::from(server.id) + 1);
        let mut alive = vec![None; count];
        for server in &map.servers {
            let session = server.incarnation.as_ref().and_then(|incarnation| sessions.get(incarnation));
            alive[usize::from(server.id)] = session.filter(|session| session.is_alive(now));
        }
        alive
    }

    /// Who has died, who is back.
    pub(super) fn judge(&mut self, draft: &mut Draft, now: Millis, is_settled: bool) {
        let servers = draft.map.servers.clone();
        let dead: Vec<&Server> = servers.iter().filter(|server| self.has_died(server, now, is_settled)).collect();
        self.stop_where_too_many_die(&dead, draft, now);
        if self.memory.stopped.is_none() {
            dead.iter().for_each(|server| self.bury(server, draft, now));
        }
        if self.memory.is_confirmed {
            self.memory.deaths.clear();
        }
        for server in &servers {
            self.take_back(server.id, draft, now);
        }
        // Processes that nobody needs to know of any more.
        let named = |id: &Id| draft.map.servers.iter().any(|one| one.incarnation.as_ref() == Some(id));
        self.sessions.retain(|id, session| named(id) || session.is_connected || session.is_alive(now));
        if self.memory.ended.len() > ENDED_MAX {
            let sessions = &self.sessions;
            self.memory.ended.retain(|id| named(id) || sessions.contains_key(id));
        }
    }

    /// A process that has roles, and is dead.
    fn has_died(&self, server: &Server, now: Millis, is_settled: bool) -> bool {
        let Some(incarnation) = &server.incarnation else { return false };
        let is_alive = self.sessions.get(incarnation).is_some_and(|session| session.is_alive(now));
        self.memory.ended.contains(incarnation) || (!is_alive && is_settled)
    }

    fn stop_where_too_many_die(&mut self, dead: &[&Server], draft: &mut Draft, now: Millis) {
        let is_over = |id: ServerId| self.is_whole_again(id, &draft.map, now);
        let counts = |(when, id): &(Millis, ServerId)| now < when + TOGETHER_MS && !is_over(*id);
        self.memory.deaths = self.memory.deaths.iter().copied().filter(counts).collect();
        let counts = |server: &&&Server| server.wanted != Wanted::Paused && server.wanted != Wanted::Removed;
        let dead: Vec<&Server> = dead.iter().filter(counts).copied().collect();
        let earlier = self.memory.deaths.iter().filter_map(|(_, id)| draft.map.server(*id));
        let mut together: Vec<&Server> = dead.iter().copied().chain(earlier).collect();
        together.sort_by_key(|server| server.id);
        together.dedup_by_key(|server| server.id);
        let most = (draft.map.servers.len() / 3).max(1);
        let zone = together.first().map_or("", |server| &server.zone);
        let is_one_zone = !zone.is_empty()
            && together.iter().all(|server| server.zone == zone)
            && draft.map.servers.iter().any(|server| server.zone != zone);
        let is_too_many = !dead.is_empty() && together.len() > most && !is_one_zone;
        // What is left is the failure of one server.
        let is_tolerable = dead.is_empty() || together.len() == 1;
        if self.memory.is_confirmed || is_tolerable {
            (self.memory.stopped, self.memory.is_confirmed) = (None, self.memory.is_confirmed && !dead.is_empty());
        } else if is_too_many && self.memory.stopped.is_none() {
            let names: Vec<&str> = together.iter().map(|server| &*server.name).collect();
            let words = format!(
                "{} of {} servers have died within {} s ({}): nothing is decided until those that are dead are back, or an \
                 operator says resume",
                together.len(),
                draft.map.servers.len(),
                TOGETHER_MS / 1000,
                names.join(", ")
            );
            self.memory.stopped = Some(words);
        }
    }

    /// It is alive, and has all that it is to have: its death is over.
    fn is_whole_again(&self, id: ServerId, map: &Map, now: Millis) -> bool {
        let incarnation = map.server(id).and_then(|server| server.incarnation.as_ref());
        let session = incarnation.and_then(|incarnation| self.sessions.get(incarnation));
        let Some(session) = session.filter(|session| session.is_alive(now)) else { return false };
        let has = |(shard, place): (usize, &Shard)| match session.held(shard) {
            Some((Role::Primary, term)) => place.primary == Some(id) && !place.ended && term == place.term,
            Some((Role::Current, term)) => {
                term == place.term && place.member(id).is_some_and(|member| member.stage == Stage::Whole)
            }
            _ => false,
        };
        let mut parts = map.shards.iter().enumerate().filter(|(_, place)| place.target.contains(&id)).peekable();
        parts.peek().is_some() && parts.all(has)
    }

    /// A server is dead from now on.
    fn bury(&mut self, server: &Server, draft: &mut Draft, now: Millis) {
        let Some(incarnation) = server.incarnation.clone() else { return };
        let has_ended = self.memory.ended.contains(&incarnation);
        let place = draft.server_mut(server.id);
        place.incarnation = None;
        place.missing = (!has_ended).then(|| incarnation.clone());
        if server.wanted != Wanted::Paused {
            self.memory.deaths.push((now, server.id));
        }
        let why = if has_ended { "its process has ended" } else { "its lease has ended" };
        draft.note(None, format!("{} is dead: {why}", server.name));
        if has_ended {
            self.count_end(&server.name, &incarnation, now);
            draft.mark_gone(server.id);
        }
    }

    /// A server that flaps is held out, for longer each time.
    fn count_end(&mut self, name: &str, process: &Id, now: Millis) {
        let flaps = self.memory.flaps.entry(name.into()).or_default();
        flaps.ends.retain(|(when, _)| now < when + FLAPS_MS);
        if flaps.ends.iter().any(|(_, ended)| ended == process) {
            return;
        }
        flaps.ends.push((now, process.clone()));
        let times = flaps.ends.len().saturating_sub(2).min(16);
        if flaps.ends.len() >= 2 {
            flaps.held_until = now + (HELD_OUT_MS << times).min(HELD_OUT_MS_MAX);
        }
    }

    /// For how long a server that flaps is held out yet.
    pub(super) fn held_out_ms(&self, name: &str, now: Millis) -> u64 {
        self.memory.flaps.get(name).map_or(0, |flaps| flaps.held_until.saturating_sub(now))
    }

    /// A dead server's process is back, or it is known to have ended, or another one takes its
    /// place.
    fn take_back(&mut self, id: ServerId, draft: &mut Draft, now: Millis) {
        let server = draft.map.server(id).expect("a server of this map").clone();
        if server.incarnation.is_some() || server.wanted == Wanted::Removed {
            return;
        }
        if let Some(missing) = &server.missing {
            if self.memory.ended.contains(missing) {
                self.count_end(&server.name, missing, now);
                draft.server_mut(id).missing = None;
                draft.mark_gone(id);
                draft.note(None, format!("the process of {} has ended", server.name));
            } else if self.sessions.get(missing).is_some_and(|session| session.is_alive(now)) {
                let place = draft.server_mut(id);
                place.incarnation = place.missing.take();
                draft.note(None, format!("{} is back, as it was", server.name));
                return;
            }
        }
        let of_name = |one: &&Session| one.intro.name == server.name && one.is_alive(now);
        let newest = self.sessions.values().filter(of_name).max_by_key(|one| (one.lease_until, &one.intro.incarnation));
        let Some(intro) = newest.map(|one| one.intro.clone()) else { return };
        let is_last = !draft.map.servers.iter().any(|one| one.incarnation.is_some());
        if !is_last && self.held_out_ms(&server.name, now) > 0 {
            return;
        }
        if let Some(missing) = server.missing {
            self.count_end(&server.name, &missing, now);
            self.end(missing);
            draft.mark_gone(id);
        }
        draft.note(None, format!("{} is there with a new process, which has nothing yet", intro.name));
        describe(draft.server_mut(id), intro);
    }
}

/// What a process says of itself.
pub fn describe(server: &mut Server, intro: Introduction) {
    server.incarnation = Some(intro.incarnation);
    server.missing = None;
    server.clients = intro.clients;
    server.replication = intro.replication;
    server.host = intro.host;
    server.zone = intro.zone;
    server.memory_mib = intro.memory_mib.max(1);
}
