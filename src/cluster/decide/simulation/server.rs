//! A model of a server: it does what maps ask of it, as [`duty`] says, late and bit by bit.
//!
//! Its logs are lists of numbered writes. A replica pulls what its primary has beyond its own, and
//! gives up what its primary never had. A primary acknowledges a write once K of those that it
//! counts have it.

use crate::cluster::duty::{Duty, duty};
use crate::cluster::map::{Id, Map, Member, ServerId, Stage, Way};
use crate::cluster::report::{Failure, Holding, Introduction, Report, Role};
use std::collections::HashMap;
use std::sync::Arc;

/// A record: the term that it was written in, and a number that no other one has.
pub type Record = (u32, u64);

/// As what it acts in one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acts {
    /// As nothing: it has stopped, or was never asked.
    Stopped,
    Primary(u32),
    /// It follows that server's process.
    Follows(ServerId, Id),
}

/// The work of an heir.
#[derive(Debug, Clone)]
pub struct Succession {
    pub term: u32,
    pub way: Way,
    pub gather: Vec<Id>,
    /// Whom it has stopped: its last term, its log, and whether it is whole.
    pub sealed: HashMap<Id, (u32, Vec<Record>, bool)>,
    pub since: u64,
}

/// One shard of one process.
#[derive(Debug, Clone)]
pub struct Place {
    pub log: Vec<Record>,
    /// What it had, and was told to give up.
    pub given_up: Vec<Record>,
    pub acts: Acts,
    /// It acknowledges nobody of a lower term.
    pub promised: u32,
    /// The latest term that it has begun.
    pub begun: u32,
    pub is_whole: bool,
    pub is_current: bool,
    /// It is whole from here on.
    pub owes: usize,
    pub failure: Option<u32>,
    pub succession: Option<Succession>,
    /// Of a primary: how much each process has of its log, in its term.
    pub cursors: HashMap<Id, usize>,
    /// Of a primary: so much of its log is acknowledged, or was there when its term began.
    pub released: usize,
}

impl Place {
    fn new() -> Place {
        Place {
            log: Vec::new(),
            given_up: Vec::new(),
            acts: Acts::Stopped,
            promised: 0,
            begun: 0,
            is_whole: false,
            is_current: false,
            owes: 0,
            failure: None,
            succession: None,
            cursors: HashMap::new(),
            released: 0,
        }
    }

    pub fn last_term(&self) -> u32 {
        self.log.last().map_or(0, |record| record.0)
    }

    pub fn empty(&mut self) {
        self.given_up.append(&mut self.log);
        let (promised, given_up) = (self.promised, std::mem::take(&mut self.given_up));
        *self = Place { promised, given_up, ..Place::new() };
    }
}

/// A process of a server.
pub struct Process {
    pub intro: Introduction,
    pub is_running: bool,
    /// It stands still until then.
    pub stopped_until: u64,
    /// No locator hears it until then.
    pub cut_until: u64,
    /// Its clock is slower by so many thousandths.
    pub slow: u64,
    pub map: Option<Arc<Map>>,
    pub generation: u64,
    pub lease_until: u64,
    /// It was taken for dead at some time.
    pub was_dead: bool,
    pub reports_at: u64,
    pub places: Vec<Place>,
}

impl Process {
    pub fn new(intro: Introduction, slow: u64, now: u64) -> Process {
        Process {
            places: (0..intro.shards).map(|_| Place::new()).collect(),
            intro,
            is_running: true,
            stopped_until: 0,
            cut_until: 0,
            slow,
            map: None,
            generation: 0,
            lease_until: 0,
            was_dead: false,
            reports_at: now,
        }
    }

    pub fn acts(&self, now: u64) -> bool {
        self.is_running && self.stopped_until <= now
    }

    /// Its number in its map, if it has roles there.
    pub fn id(&self) -> Option<ServerId> {
        let server = self.map.as_ref()?.named(&self.intro.name)?;
        (server.incarnation.as_ref() == Some(&self.intro.incarnation)).then_some(server.id)
    }

    /// A map is there: roles that it takes away end at once, before any lease is counted.
    pub fn take_map(&mut self, map: &Arc<Map>) {
        if self.map.as_ref().is_some_and(|known| known.version >= map.version || known.generation > map.generation) {
            return;
        }
        self.map = Some(map.clone());
        self.generation = self.generation.max(map.generation);
        let id = self.id();
        let is_replaced = map.named(&self.intro.name).is_some_and(|server| {
            let ours = Some(&self.intro.incarnation);
            server.incarnation.as_ref() != ours && server.missing.as_ref() != ours
        });
        for (shard, place) in self.places.iter_mut().enumerate() {
            let asked = match id.map(|id| duty(map, id, shard)) {
                Some(Duty::Primary { term } | Duty::Heir { term, .. }) => term,
                _ => 0,
            };
            if matches!(place.acts, Acts::Primary(term) if term != asked) {
                place.acts = Acts::Stopped;
            }
            if place.succession.as_ref().is_some_and(|work| work.term != asked) {
                place.succession = None;
            }
            if is_replaced {
                place.empty();
            } else if id.is_none() {
                place.acts = Acts::Stopped;
            }
        }
    }

    /// Do what the map asks in this shard.
    pub fn obey(&mut self, shard: usize, now: u64) {
        let (Some(map), Some(id)) = (self.map.clone(), self.id()) else { return };
        let place = &mut self.places[shard];
        let asked = duty(&map, id, shard);
        if !matches!(asked, Duty::Heir { .. }) {
            (place.succession, place.failure) = (None, None);
        }
        match asked {
            Duty::Primary { .. } => {}
            Duty::Heir { term, least_term, gather, is_enough, way } => {
                let is_done = place.acts == Acts::Primary(term) || place.failure == Some(term);
                if is_done || (is_enough && place.succession.as_ref().is_some_and(|one| one.term == term)) {
                    return;
                }
                if place.begun == term && place.promised == term {
                    // It had to stop for a while, and for nobody.
                    place.acts = Acts::Primary(term);
                    return;
                }
                let is_whole = place.is_whole && place.last_term() >= least_term;
                if place.promised > term || !is_enough || (!is_whole && !matches!(way, Way::Empty | Way::Unclean)) {
                    (place.failure, place.succession) = (Some(term), None);
                    return;
                }
                // Processes, not servers: a new process of a server has nothing to stop.
                let process =
                    |id: ServerId| map.server(id).and_then(|one| one.incarnation.clone()).expect("it is alive");
                let gather = gather.into_iter().map(process).collect();
                (place.promised, place.acts) = (term, Acts::Stopped);
                place.succession = Some(Succession { term, way, gather, sealed: HashMap::new(), since: now });
            }
            Duty::Replica { of } => {
                let primary = map.server(of).and_then(|server| server.incarnation.clone()).expect("it is alive");
                place.acts = Acts::Follows(of, primary);
            }
            Duty::Wait => place.acts = Acts::Stopped,
            Duty::Absent { .. } => place.empty(),
        }
    }

    /// It stops for an heir. None: it has stopped for a later one.
    pub fn seal(&mut self, shard: usize, term: u32) -> Option<(u32, Vec<Record>, bool)> {
        let place = &mut self.places[shard];
        if place.promised > term {
            return None;
        }
        (place.promised, place.acts, place.is_current) = (term, Acts::Stopped, false);
        Some((place.last_term(), place.log.clone(), place.is_whole))
    }

    /// Whom it counts as a primary: the members that are to stay, by their processes.
    pub fn counts(&self, shard: usize) -> Vec<Id> {
        let Some(map) = &self.map else { return Vec::new() };
        let own = self.id();
        let stays =
            |member: &&Member| matches!(member.stage, Stage::Joining | Stage::Whole) && Some(member.server) != own;
        let process = |member: &Member| {
            // Who is dead is one of them all the same.
            map.server(member.server).and_then(|server| server.incarnation.clone()).unwrap_or_default()
        };
        map.shards[shard].members.iter().filter(stays).map(process).collect()
    }

    /// How much of a primary's log K of those that it counts have; with `all`, or all of them.
    fn held_by(&self, shard: usize, acks: usize, all: bool) -> Option<usize> {
        let place = &self.places[shard];
        let mut cursors: Vec<usize> =
            self.counts(shard).iter().map(|one| place.cursors.get(one).copied().unwrap_or(0)).collect();
        cursors.sort_unstable_by_key(|cursor| std::cmp::Reverse(*cursor));
        let acks = if all { acks.min(cursors.len()) } else { acks };
        if acks == 0 { None } else { cursors.get(acks - 1).copied() }
    }

    /// Writes that are acknowledged from now on: their places in the log.
    pub fn acknowledge(&mut self, shard: usize) -> std::ops::Range<usize> {
        let acks = self.map.as_ref().map_or(1, |map| usize::from(map.policy.acks));
        let held = self.held_by(shard, acks, false).unwrap_or(0);
        let place = &mut self.places[shard];
        let before = place.released;
        place.released = before.max(held);
        before..place.released
    }

    /// It has done in this shard what its map asks of a primary.
    fn has_confirmed(&self, shard: usize) -> bool {
        let Some(map) = &self.map else { return false };
        let has_to_go = |member: &Member| matches!(member.stage, Stage::Leaving(_) | Stage::Gone(_));
        let is_raised = map.acks_before.is_some();
        if !map.shards[shard].members.iter().any(has_to_go) && !is_raised {
            return true;
        }
        let held = self.held_by(shard, usize::from(map.policy.acks), true);
        held.is_none_or(|held| held >= self.places[shard].released)
    }

    pub fn report(&self) -> Report {
        let mut report = Report { map_version: self.map.as_ref().map_or(0, |map| map.version), ..Report::default() };
        let mut unconfirmed = Vec::new();
        for (shard, place) in self.places.iter().enumerate() {
            let role = match place.acts {
                Acts::Primary(_) => Role::Primary,
                _ if place.is_current => Role::Current,
                _ if place.is_whole => Role::Whole,
                _ => Role::Joining,
            };
            if role == Role::Primary && !self.has_confirmed(shard) {
                unconfirmed.push(shard.to_string());
            }
            if !place.log.is_empty() || matches!(place.acts, Acts::Follows(..)) {
                report.holdings.push(Holding { shards: shard.to_string(), role, term: place.last_term() });
            }
            if let Some(term) = place.failure {
                report.failures.push(Failure { shards: shard.to_string(), term, words: "it is a test".into() });
            }
        }
        report.unconfirmed = unconfirmed.join(",");
        report
    }
}

/// A replica looks at its primary, and takes some of what it lacks.
pub fn pull(replica: &mut Place, primary: &mut Place, process: &Id, take: usize) {
    let Acts::Primary(term) = primary.acts else { return };
    if replica.promised > term {
        return;
    }
    replica.promised = term;
    let same = common(&replica.log, &primary.log);
    if same < replica.log.len() || (replica.log.is_empty() && !replica.is_whole && replica.owes == 0) {
        replica.is_whole = false;
        replica.owes = primary.log.len();
        replica.log.truncate(same);
    }
    // Another primary may have less than the one that it began to copy from.
    replica.owes = replica.owes.min(primary.log.len());
    let upto = (same + take).min(primary.log.len());
    replica.log.extend_from_slice(&primary.log[same..upto]);
    replica.is_whole |= upto >= replica.owes;
    replica.is_current = replica.is_whole && upto == primary.log.len();
    if replica.is_whole {
        primary.cursors.insert(process.clone(), upto);
    } else {
        primary.cursors.remove(process);
    }
}

/// How much both logs have in common.
pub fn common(one: &[Record], other: &[Record]) -> usize {
    let mut upto = one.len().min(other.len());
    // Equal records are at equal places, and all before them are equal, too.
    while upto > 0 && one[upto - 1] != other[upto - 1] {
        upto -= 1;
    }
    upto
}
