//! A cluster whose servers do at once what a map says: for tests of one rule after the other.

use super::{Command, Decisions, Millis, Proof};
use crate::cluster::map::{Map, Policy, ServerId, Stage};
use crate::cluster::report::{Failure, Holding, Introduction, Report, Role};

/// See the module.
pub struct Cluster {
    pub decisions: Decisions,
    pub now: Millis,
    /// Names, processes and zones of those that run.
    pub running: Vec<(String, String, String)>,
    pub notes: Vec<String>,
    /// Whoever joins does not become whole yet.
    pub copies_slowly: bool,
    /// This process can follow nobody in this shard.
    pub cannot_follow: Option<(String, usize)>,
}

pub fn intro(name: &str, process: &str, zone: &str) -> Introduction {
    Introduction {
        name: name.into(),
        incarnation: process.into(),
        cluster: None,
        map_version: 0,
        generation: 0,
        clients: format!("{name}:1"),
        replication: format!("{name}:2"),
        host: name.into(),
        zone: zone.into(),
        memory_mib: 64,
        shards: 8,
    }
}

pub fn policy(replicas: u8, acks: u8) -> Policy {
    Policy { replicas, acks, lease_ms: 1000, heal_delay_ms: 10_000, ..Policy::default() }
}

impl Cluster {
    /// So many servers, each in the zone that `zone` says, with all their shards.
    pub fn new(servers: usize, policy: Policy, zone: impl Fn(usize) -> String) -> Cluster {
        let decisions = Decisions::new(Map::born("c".into(), 8, policy), 1, 0);
        let mut cluster = Cluster {
            decisions,
            now: 0,
            running: Vec::new(),
            notes: Vec::new(),
            copies_slowly: false,
            cannot_follow: None,
        };
        for server in 0..servers {
            cluster.running.push((format!("s{server}"), format!("s{server}-0"), zone(server)));
        }
        cluster.step();
        cluster.command(Command::Add { server: None }).expect("it is there");
        cluster.pass(5000);
        cluster
    }

    pub fn command(&mut self, command: Command) -> Result<String, String> {
        self.decisions.command(command, false, self.now)
    }

    /// What this process is to report, if it has done what the map says.
    pub fn report(&self, process: &str) -> Report {
        let map = self.decisions.map();
        let mut report = Report { map_version: map.version, ..Report::default() };
        let server = map.servers.iter().find(|server| server.incarnation.as_deref() == Some(process));
        for (number, shard) in map.shards.iter().enumerate() {
            let Some(id) = server.map(|server| server.id) else { break };
            let change = shard.change.filter(|change| change.heir == id);
            let (role, term) = match change {
                Some(change) => (Role::Primary, change.term),
                None if shard.primary == Some(id) && !shard.ended => (Role::Primary, shard.term),
                None if shard.member(id).is_some_and(|one| one.stage == Stage::Joining) && self.copies_slowly => {
                    (Role::Joining, shard.term)
                }
                None if shard.member(id).is_some() => (Role::Current, shard.term),
                None => continue,
            };
            let stays = shard.member(id).is_some_and(|one| matches!(one.stage, Stage::Joining | Stage::Whole));
            if stays && self.cannot_follow.as_ref().is_some_and(|(who, at)| who == process && *at == number) {
                let words = "it is a test".into();
                report.failures.push(Failure { shards: number.to_string(), term: 0, words });
                continue;
            }
            report.holdings.push(Holding { shards: number.to_string(), role, term });
        }
        report
    }

    pub fn step(&mut self) {
        self.now += 100;
        for (name, process, zone) in self.running.clone() {
            if self.decisions.introduced(intro(&name, &process, &zone), self.now).is_ok() {
                let report = self.report(&process);
                self.decisions.reported(&process, &report, self.now).expect("it is there");
            }
        }
        self.decide();
    }

    pub fn decide(&mut self) -> bool {
        let Some(next) = self.decisions.next(self.now) else { return false };
        assert!(next.map.version > self.decisions.map().version);
        assert_eq!(next.map.check(), Ok(()));
        self.notes.extend(next.notes.into_iter().map(|note| note.words));
        self.decisions.written(next.map);
        true
    }

    pub fn pass(&mut self, ms: Millis) {
        let until = self.now + ms;
        while self.now < until {
            self.step();
        }
    }

    pub fn stop(&mut self, name: &str) -> String {
        let at = self.running.iter().position(|(of, ..)| of == name).expect("it is there");
        self.running.remove(at).1
    }

    pub fn kill(&mut self, name: &str) {
        let process = self.stop(name);
        self.decisions.gone(&process, Proof::Ended);
    }

    pub fn start(&mut self, name: &str, process: &str) {
        self.running.push((name.into(), process.into(), String::new()));
    }

    pub fn map(&self) -> &Map {
        self.decisions.map()
    }

    pub fn id(&self, name: &str) -> ServerId {
        self.map().named(name).expect("it is there").id
    }

    pub fn led_by(&self, name: &str) -> usize {
        let id = self.id(name);
        self.map().shards.iter().filter(|shard| shard.primary == Some(id) && !shard.ended).count()
    }

    pub fn is_well(&self) -> bool {
        let shards = self.decisions.status(self.now).shards;
        shards.without_primary + shards.moving + shards.waiting == 0
    }

    pub fn was_noted(&self, words: &str) -> bool {
        self.notes.iter().any(|note| note.contains(words))
    }
}
