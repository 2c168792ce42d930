//! What a locator decides. Pure: what servers say, what operators want and the time come in, the
//! next map and the reasons come out. Whoever calls it writes that map by compare-and-swap.
//!
//! **By level, not by edge.** Each step looks at the whole: the map, what servers report, who is
//! alive. Whatever a locator has in mind beside the map may be lost: another one that takes charge
//! decides the same, or does a step again, with a higher term.
//!
//! ```text
//!   introduced, reported, gone ---> sessions (liveness.rs) --+
//!   command ------------------------> orders (command.rs) ---+--> next(now) --> map of version + 1
//!   written, conflict -----------------------------> map ----+                  and notes
//! ```
//!
//! | file | what it decides |
//! | --- | --- |
//! | `liveness.rs` | who is alive, dead, back; when so many die that people must decide |
//! | `command.rs` | what operators want, as a change of the map |
//! | `plan.rs` | who is to have which shard in the end |
//! | `failover.rs` | who becomes the primary |
//! | `restored.rs` | when and how to go on from a store that was put back |
//! | `members.rs` | who joins, takes over and leaves, one after the other |
//! | `moving.rs` | a shard's primary goes to a server that an operator names |
//! | `listed.rs` | all servers are to be as an operator's list says |
//! | `copying.rs` | how much is to be copied, and for how long |
//! | `status.rs` | what an operator is shown |
//!
//! **Never wrong, whatever is lost or late**: an acknowledged write is on K listed members and the
//! primary. An heir stops all listed members that are alive, which are at least N-K+1 of the N
//! that are listed, so one of them has the write. A process's place in a list is not another
//! process's. Nobody leaves a list before those that stay have what was acknowledged.

mod command;
mod copying;
mod draft;
mod failover;
mod listed;
mod liveness;
mod members;
mod moving;
mod plan;
mod restored;
mod status;

pub use command::Command;
pub use copying::{Copying, in_words};
pub use draft::Note;
pub use listed::Listed;
pub use restored::recovered;
pub use status::{ServerStatus, ShardsStatus, Status};

use super::map::{Id, Map, Server, ServerId};
use super::report::{Introduction, Report, Role};
use crate::base::shards::ShardSet;
use draft::Draft;
use liveness::{Flaps, Session};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Milliseconds of a steady clock.
pub type Millis = u64;

/// An heir that takes longer than this is replaced: its orders end by themselves before.
pub const CHANGE_MS_MAX: u64 = 60_000;
/// Who could not do something is not asked for it again so soon; each time in a row twice as long.
/// A row ends where nothing fails for the longest pause.
const RETRY_MS: u64 = 500;
const RETRY_MS_MAX: u64 = 30_000;

/// How it is known that a server is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Its connection has ended; nothing more is known.
    Silent,
    /// Its process has ended, for certain.
    Ended,
}

/// A map to be written, and why it is as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// Its version is the next one.
    pub map: Map,
    /// In the order of the decisions.
    pub notes: Vec<Note>,
}

/// The locator in charge. See the module.
pub struct Decisions {
    /// As it is stored.
    map: Map,
    generation: u64,
    began: Millis,
    /// The highest version that any server has seen.
    floor: u64,
    sessions: HashMap<Id, Session>,
    memory: Memory,
    /// What operators want and no map says yet.
    orders: Vec<Command>,
    /// The map that is being written, if one is.
    writing: Option<Writing>,
}

/// A map that is being written.
struct Writing {
    /// How many orders are in it.
    orders: usize,
    /// Whose roles it takes away: they get no lease any more.
    buried: Vec<Id>,
}

/// What helps to decide, and may be lost.
#[derive(Default)]
struct Memory {
    /// The highest term of each shard that any server knows of.
    terms: Vec<u32>,
    /// Who could not become the primary of a shard, or follow there.
    failed: HashMap<(usize, ServerId), Failed>,
    /// Since when a change is under way.
    changing: HashMap<(usize, u32), Millis>,
    /// Since when a shard waits for members.
    waiting: BTreeMap<usize, Millis>,
    /// Shards that an operator has told to go on without enough members.
    forced: ShardSet,
    /// Since when a server is dead.
    dead: HashMap<ServerId, Millis>,
    /// Servers that died within the last while.
    deaths: Vec<(Millis, ServerId)>,
    /// Why nothing is decided until an operator confirms.
    stopped: Option<String>,
    /// An operator has confirmed.
    is_confirmed: bool,
    flaps: HashMap<String, Flaps>,
    /// Processes that have ended or were replaced.
    ended: HashSet<Id>,
    planned: Option<plan::Planned>,
    /// As fast as a server has copied lately.
    copied_kib_per_second: Option<u64>,
}

/// A server that could not do something.
#[derive(Clone, Copy)]
struct Failed {
    times: u32,
    term: u32,
    until: Millis,
}

impl Memory {
    /// It could not become the primary in this term. Once for each term.
    fn note_failure(&mut self, shard: usize, server: ServerId, term: u32, now: Millis) {
        if self.failed.get(&(shard, server)).is_none_or(|failed| failed.term != term) {
            self.put_off(shard, server, term, now);
        }
    }

    /// It is not asked again for a while: in a row of failures, each time for longer.
    fn put_off(&mut self, shard: usize, server: ServerId, term: u32, now: Millis) {
        let failed = self.failed.entry((shard, server)).or_insert(Failed { times: 0, term: 0, until: 0 });
        if now >= failed.until + RETRY_MS_MAX {
            failed.times = 0;
        }
        failed.term = term;
        failed.until = now + (RETRY_MS << failed.times.min(16)).min(RETRY_MS_MAX);
        failed.times += 1;
    }

    fn may_try(&self, shard: usize, server: ServerId, now: Millis) -> bool {
        self.failed.get(&(shard, server)).is_none_or(|failed| failed.until <= now)
    }
}

/// One step: what it looks at, and the map that it makes.
struct Step<'s> {
    now: Millis,
    /// By the servers' numbers: what those say that are alive and have roles.
    alive: Vec<Option<&'s Session>>,
    memory: &'s mut Memory,
    draft: Draft,
}

impl<'s> Step<'s> {
    fn session(&self, server: ServerId) -> Option<&'s Session> {
        self.alive.get(usize::from(server)).copied().flatten()
    }

    fn is_alive(&self, server: ServerId) -> bool {
        self.session(server).is_some()
    }

    /// As what a server that is alive has a shard, and to which term its log has come.
    fn held(&self, server: ServerId, shard: usize) -> Option<(Role, u32)> {
        self.session(server)?.held(shard)
    }

    /// It has all of a shard that it was ever asked for, though maybe not the latest.
    fn is_whole(&self, server: ServerId, shard: usize) -> bool {
        self.held(server, shard).is_some_and(|(role, _)| role != Role::Joining)
    }
}

impl Decisions {
    /// A locator that has taken charge, with a generation that the store gave it.
    pub fn new(map: Map, generation: u64, now: Millis) -> Decisions {
        let memory = Memory { terms: vec![0; map.shards.len()], ..Memory::default() };
        Decisions {
            generation: generation.max(map.generation + 1),
            began: now,
            floor: map.version,
            sessions: HashMap::new(),
            memory,
            orders: Vec::new(),
            writing: None,
            map,
        }
    }

    /// The map as it is stored.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// The lease that this process may be granted now, in milliseconds from its sending of the
    /// report: None until a map of this locator's generation is stored.
    pub fn lease(&self, incarnation: &str) -> Option<u64> {
        let is_known = self.sessions.get(incarnation).is_some_and(|session| !session.ended);
        let is_buried =
            self.writing.as_ref().is_some_and(|writing| writing.buried.iter().any(|one| one == incarnation));
        (is_known && !is_buried && self.map.generation == self.generation).then_some(self.map.policy.lease_ms)
    }

    /// A server says what it has come to. Err: it must introduce itself first, or never will again.
    pub fn reported(&mut self, incarnation: &str, report: &Report, now: Millis) -> Result<(), String> {
        let shards = self.map.shards.len();
        let lease_until = now + liveness::with_drift(self.map.policy.lease_ms);
        self.check_ahead("it", "map", report.map_version, self.map.version)?;
        let session = self.sessions.get_mut(incarnation).filter(|session| !session.ended);
        let session = session.ok_or("this process is not known here: it introduces itself first")?;
        let copied = session.note(report, shards, now, lease_until)?;
        self.memory.copied_kib_per_second = copied.or(self.memory.copied_kib_per_second);
        self.floor = self.floor.max(report.map_version);
        for shard in 0..shards {
            let held = session.held(shard).map_or(0, |(_, term)| term);
            self.memory.terms[shard] = self.memory.terms[shard].max(held);
        }
        Ok(())
    }

    /// The next map, if anything is to change: to be called after each event, and every 50 ms.
    /// Until [`Decisions::written`] or [`Decisions::conflict`] has said what became of it, there is
    /// no other.
    pub fn next(&mut self, now: Millis) -> Option<Next> {
        if self.writing.is_some() {
            return None;
        }
        let is_behind = self.is_behind();
        if is_behind && !self.may_go_on(now) {
            return None;
        }
        let mut draft = Draft::new(&self.map, self.floor.max(self.map.version) + 1);
        draft.take_charge(self.generation, is_behind);
        if is_behind {
            self.take_in(&mut draft, now);
        }
        let is_settled = self.is_settled(now);
        self.judge(&mut draft, now, is_settled);
        self.apply_orders(&mut draft, now);
        let wants_rebalance = self.wants_rebalance();
        let alive = Decisions::with_roles(&self.sessions, &draft.map, now);
        let mut step = Step { now, alive, memory: &mut self.memory, draft };
        if is_behind {
            step.take_over_restored();
        }
        step.complete();
        if is_settled && step.memory.stopped.is_none() {
            step.plan();
            if wants_rebalance {
                step.rebalance();
            }
            step.fail_over();
            step.change_members();
        }
        step.draft.remove_servers();
        let Some(next) = step.draft.finish(&self.map) else {
            // What changes nothing now is not to be done at some later time.
            self.orders.clear();
            return None;
        };
        let stays =
            |server: &&Server| next.map.server(server.id).is_some_and(|one| one.incarnation == server.incarnation);
        let buried =
            self.map.servers.iter().filter(|server| !stays(server)).filter_map(|server| server.incarnation.clone());
        self.writing = Some(Writing { orders: self.orders.len(), buried: buried.collect() });
        Some(next)
    }

    /// The map of [`Decisions::next`] is stored.
    pub fn written(&mut self, map: Map) {
        self.orders.drain(..self.writing.as_ref().map_or(0, |writing| writing.orders));
        self.memory.is_confirmed = false;
        self.take(map);
    }

    /// Another map is stored instead, or still: go on from that.
    pub fn conflict(&mut self, map: Map) {
        self.take(map);
    }

    fn take(&mut self, map: Map) {
        self.writing = None;
        self.generation = self.generation.max(map.generation);
        self.floor = self.floor.max(map.version);
        self.map = map;
    }

    fn see(&mut self, intro: &Introduction) {
        self.floor = self.floor.max(intro.map_version);
        if intro.generation > self.generation {
            self.generation = intro.generation + 1;
        }
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "decide/operators_tests.rs"]
mod operators_tests;

#[cfg(test)]
mod obedient;
#[cfg(test)]
mod simulation;
