//! What processes do in each tick: write, pull, acknowledge, succeed, report.

use super::ledger::Holders;
use super::server::{Acts, Succession, pull};
use super::{Message, World};
use crate::cluster::map::{Id, Server, Stage, Way};

/// An heir that cannot reach somebody gives up after so long.
const SEALING_MS_MAX: u64 = 1500;

impl World {
    pub fn work(&mut self, process: usize) {
        for shard in 0..self.stored.shards.len() {
            // It comes to it sooner or later.
            if self.random.u8(0..3) == 0 {
                self.processes[process].obey(shard, self.now);
            }
            match self.processes[process].places[shard].acts.clone() {
                Acts::Primary(term) => self.serve(process, shard, term),
                Acts::Follows(_, primary) => self.follow(process, shard, &primary),
                Acts::Stopped => {}
            }
            if self.random.u8(0..3) == 0 {
                self.succeed(process, shard);
            }
        }
        self.report(process);
    }

    fn serve(&mut self, process: usize, shard: usize, term: u32) {
        if !self.is_calm && self.random.u8(0..4) == 0 {
            self.records += 1;
            self.processes[process].places[shard].log.push((term, self.records));
        }
        let acks = self.processes[process].map.as_ref().map_or(1, |map| usize::from(map.policy.acks));
        for at in self.processes[process].acknowledge(shard) {
            let record = self.processes[process].places[shard].log[at];
            let by = self.processes[process].intro.incarnation.clone();
            self.ledger.acknowledge(shard, record, term, acks, &by);
        }
    }

    fn follow(&mut self, process: usize, shard: usize, primary: &Id) {
        let Some(primary) = self.process(primary).filter(|primary| *primary != process) else { return };
        if !self.reaches(process, primary) || self.random.u8(0..3) == 0 {
            return;
        }
        let take = if self.random.bool() { usize::MAX >> 1 } else { self.random.usize(0..8) };
        let incarnation = self.processes[process].intro.incarnation.clone();
        let [one, other] = self.processes.get_disjoint_mut([process, primary]).expect("two processes");
        pull(&mut one.places[shard], &mut other.places[shard], &incarnation, take);
    }

    /// A step of an heir.
    fn succeed(&mut self, process: usize, shard: usize) {
        let Some(work) = self.processes[process].places[shard].succession.clone() else { return };
        let next = work.gather.iter().find(|other| !work.sealed.contains_key(*other));
        match next {
            Some(other) => self.seal(process, shard, &work, other),
            None => self.begin(process, shard, &work),
        }
    }

    fn fail(&mut self, process: usize, shard: usize, term: u32) {
        let place = &mut self.processes[process].places[shard];
        (place.succession, place.failure) = (None, Some(term));
    }

    fn seal(&mut self, process: usize, shard: usize, work: &Succession, incarnation: &Id) {
        let other = self.process(incarnation);
        match other.filter(|other| self.reaches(process, *other)) {
            Some(other) => match self.processes[other].seal(shard, work.term) {
                Some(sealed) => {
                    let place = &mut self.processes[process].places[shard];
                    place.succession.as_mut().expect("it is at work").sealed.insert(incarnation.clone(), sealed);
                }
                None => self.fail(process, shard, work.term),
            },
            None if self.now > work.since + SEALING_MS_MAX => self.fail(process, shard, work.term),
            None => {}
        }
    }

    /// All are sealed: take what they have, and begin.
    fn begin(&mut self, process: usize, shard: usize, work: &Succession) {
        let place = &mut self.processes[process].places[shard];
        if place.promised > work.term {
            return self.fail(process, shard, work.term);
        }
        if work.way == Way::Empty {
            place.empty();
            place.promised = work.term;
        } else {
            let whole = work.sealed.values().filter(|(_, _, is_whole)| *is_whole);
            let most = whole.max_by_key(|(term, log, _)| (*term, log.len()));
            match most {
                Some((term, ..)) if *term > place.last_term() => return self.fail(process, shard, work.term),
                Some((term, log, _)) if *term == place.last_term() && log.len() > place.log.len() => {
                    assert!(log.starts_with(&place.log), "one term has one writer");
                    place.log = log.clone();
                }
                _ => {}
            }
        }
        self.records += 1;
        let begins = (work.term, self.records);
        let place = &mut self.processes[process].places[shard];
        let before = place.log.clone();
        place.log.push(begins);
        (place.acts, place.is_whole, place.is_current) = (Acts::Primary(work.term), true, true);
        place.begun = work.term;
        (place.succession, place.failure, place.released) = (None, None, place.log.len());
        place.cursors.clear();
        let by = self.processes[process].intro.incarnation.clone();
        let may_lose = self.may_lose(shard, work.way);
        let acks = self.lowest_acks;
        let (processes, stored) = (&self.processes, &self.stored);
        let holders = |record| {
            let mut holders = Holders { alive: 0, failed: 0, acks };
            for one in processes {
                let (place, server) = (&one.places[shard], stored.named(&one.intro.name));
                let is_it = |server: &&Server| server.incarnation.as_ref() == Some(&one.intro.incarnation);
                let member = server.filter(is_it).and_then(|server| stored.shards[shard].member(server.id));
                let is_member = member.is_some_and(|member| member.stage == Stage::Whole);
                let has_it = place.log.contains(&record);
                // Who was away and is not whole again has failed as well.
                if has_it && one.is_running && is_member && place.is_whole {
                    holders.alive += 1;
                } else if (has_it || place.given_up.contains(&record)) && (!one.is_running || one.was_dead) {
                    holders.failed += 1;
                }
            }
            holders
        };
        self.ledger.begin((shard, work.term, work.way), &before, &by, may_lose, holders);
        self.tell(process, shard, work);
    }

    /// Those that were sealed follow, if they hear of it.
    fn tell(&mut self, process: usize, shard: usize, work: &Succession) {
        let Some(id) = self.processes[process].id() else { return };
        let incarnation = self.processes[process].intro.incarnation.clone();
        for other in &work.gather {
            let other = self.process(other).filter(|other| self.reaches(process, *other));
            if let Some(other) = other.filter(|_| self.random.bool()) {
                let place = &mut self.processes[other].places[shard];
                if place.promised == work.term && place.acts == Acts::Stopped {
                    place.acts = Acts::Follows(id, incarnation.clone());
                }
            }
        }
    }

    fn report(&mut self, process: usize) {
        let one = &mut self.processes[process];
        if one.reports_at > self.now || one.cut_until > self.now {
            return;
        }
        one.reports_at = self.now + 100;
        let mut intro = one.intro.clone();
        intro.cluster = one.map.as_ref().map(|map| map.cluster.clone());
        intro.map_version = one.map.as_ref().map_or(0, |map| map.version);
        intro.generation = one.generation;
        let said = Box::new((intro, one.report()));
        let (now, generation) = (self.now, self.locator.generation);
        self.send(Message::Report(process, said, now, generation));
    }
}
