//! Whole clusters by seed: servers that die, stand still, are cut off and come back, locators that
//! take charge from each other at any step, operators that add, drain and swap. What must hold is
//! in `ledger.rs`.
//!
//! `REMORA_SEED=<seed> cargo test --lib cluster::decide::simulation` replays one cluster,
//! `REMORA_SEEDS=<count>` runs so many instead of a few hundred. A cluster that is replayed prints
//! what is decided.
#![allow(clippy::print_stdout)]

mod ledger;
mod server;
mod troubles;
mod work;

use super::{Decisions, Proof};
use crate::cluster::map::{Id, Map, Policy, Wanted, Way};
use crate::cluster::report::{Introduction, Report};
use fastrand::Rng;
use ledger::{Ledger, check_step};
use server::{Acts, Process};
use std::collections::BTreeMap;
use std::sync::Arc;

const SEEDS: u64 = 200;
const TICK_MS: u64 = 20;
/// For so long there are troubles; then all heals.
const TROUBLES_MS: u64 = 20_000;
/// By then all must be well again.
const CALM_MS: u64 = 120_000;
/// Nothing may move for so long.
const STILL_MS: u64 = 3_000;

/// What is under way between processes and locators.
enum Message {
    /// To the locator of this generation.
    Report(usize, Box<(Introduction, Report)>, u64, u64),
    /// A lease, counted from the report's sending, with the map that it goes with.
    Lease(usize, u64, u64, Arc<Map>),
    Map(usize, Arc<Map>),
    Ended(Id, u64),
}

/// The locator in charge.
struct Locator {
    decisions: Decisions,
    generation: u64,
    /// A map that it writes, and when that is done.
    writing: Option<(Map, u64)>,
}

/// See the module.
struct World {
    seed: u64,
    random: Rng,
    now: u64,
    processes: Vec<Process>,
    /// Who cannot reach whom, until when.
    cuts: BTreeMap<(usize, usize), u64>,
    messages: BTreeMap<(u64, u64), Message>,
    sent: u64,
    locator: Locator,
    generation: u64,
    stored: Map,
    ledger: Ledger,
    records: u64,
    /// Shards that an operator has had go on.
    forced: Vec<u64>,
    is_calm: bool,
    is_replay: bool,
    written: u64,
    /// The lowest K that was ever wanted.
    lowest_acks: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Rng::with_seed(seed);
        let replicas = random.u8(1..4);
        let policy = Policy {
            replicas,
            acks: random.u8(1..=replicas),
            lease_ms: 400,
            heal_delay_ms: random.u64(500..4000),
            unclean_after_ms: (random.u8(0..4) == 0).then(|| random.u64(1000..5000)),
            copies_at_once: random.u8(1..5),
            ..Policy::default()
        };
        let map = Map::born("c".into(), 1 << random.u8(0..4), policy);
        let (shards, map_acks) = (map.shards.len(), map.policy.acks);
        let mut world = World {
            seed,
            now: 0,
            processes: Vec::new(),
            cuts: BTreeMap::new(),
            messages: BTreeMap::new(),
            sent: 0,
            locator: Locator { decisions: Decisions::new(map.clone(), 1, 0), generation: 1, writing: None },
            generation: 1,
            stored: map,
            ledger: Ledger::default(),
            records: 0,
            forced: vec![0; shards],
            is_calm: false,
            is_replay: std::env::var_os("REMORA_SEED").is_some(),
            written: 0,
            lowest_acks: usize::from(map_acks),
            random,
        };
        for number in 0..world.random.usize(2..7) {
            world.start(number);
        }
        world
    }

    /// A process of a server begins.
    fn start(&mut self, number: usize) {
        let zones = 1 + self.seed as usize % 3;
        let intro = Introduction {
            name: format!("s{number}"),
            incarnation: format!("s{number}-{}", self.processes.len()),
            cluster: None,
            map_version: 0,
            generation: 0,
            clients: format!("s{number}:1"),
            replication: format!("s{number}:2"),
            host: format!("h{number}"),
            zone: if zones == 1 { String::new() } else { format!("z{}", number % zones) },
            memory_mib: 64 << (number % 2),
            shards: self.stored.shards.len(),
        };
        let slow = self.random.u64(0..10);
        self.processes.push(Process::new(intro, slow, self.now));
    }

    fn send(&mut self, message: Message) {
        let at = self.now + self.random.u64(1..40);
        self.sent += 1;
        // Some are lost.
        if self.is_calm || self.random.u8(0..20) != 0 {
            self.messages.insert((at, self.sent), message);
        }
    }

    fn reaches(&self, one: usize, other: usize) -> bool {
        let is_cut = self.cuts.get(&(one.min(other), one.max(other))).is_some_and(|until| *until > self.now);
        !is_cut && self.processes[one].acts(self.now) && self.processes[other].acts(self.now)
    }

    fn process(&self, incarnation: &Id) -> Option<usize> {
        self.processes.iter().position(|process| process.intro.incarnation == *incarnation)
    }

    fn tick(&mut self) {
        self.now += TICK_MS;
        self.lowest_acks = self.lowest_acks.min(usize::from(self.stored.policy.acks));
        while let Some(entry) = self.messages.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let message = entry.remove();
            self.deliver(message);
        }
        self.decide();
        for process in 0..self.processes.len() {
            if self.processes[process].acts(self.now) {
                self.work(process);
            }
        }
        self.check_leases();
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Report(process, said, sent, generation) if generation == self.locator.generation => {
                let (intro, report) = *said;
                let incarnation = intro.incarnation.clone();
                let decisions = &mut self.locator.decisions;
                if decisions.introduced(intro, self.now).is_err() {
                    return;
                }
                decisions.reported(&incarnation, &report, self.now).expect("it has introduced itself");
                let map = Arc::new(decisions.map().clone());
                match decisions.lease(&incarnation) {
                    Some(lease) => self.send(Message::Lease(process, sent, lease, map)),
                    None => self.send(Message::Map(process, map)),
                }
            }
            Message::Report(..) => {}
            Message::Lease(process, sent, lease, map) => {
                if self.hears(process) && self.processes[process].generation <= map.generation {
                    let process = &mut self.processes[process];
                    process.take_map(&map);
                    process.lease_until = process.lease_until.max(sent + lease + lease * process.slow / 1000);
                }
            }
            Message::Map(process, map) => {
                if self.hears(process) {
                    self.processes[process].take_map(&map);
                }
            }
            Message::Ended(incarnation, generation) => {
                if generation == self.locator.generation {
                    self.locator.decisions.gone(&incarnation, Proof::Ended);
                }
            }
        }
    }

    fn hears(&self, process: usize) -> bool {
        let process = &self.processes[process];
        process.acts(self.now) && process.cut_until <= self.now
    }

    /// For whoever replays a cluster.
    fn say(&self, words: impl FnOnce() -> String) {
        if self.is_replay {
            println!("{:7} {}", self.now, words());
        }
    }

    /// The locator in charge decides, and writes.
    fn decide(&mut self) {
        if let Some((map, _)) = self.locator.writing.take_if(|(_, done)| *done <= self.now) {
            self.store(map.clone());
            self.locator.decisions.written(map.clone());
            let map = Arc::new(map);
            for process in 0..self.processes.len() {
                if self.hears(process) {
                    self.send(Message::Map(process, map.clone()));
                }
            }
        }
        if self.locator.writing.is_none()
            && let Some(next) = self.locator.decisions.next(self.now)
        {
            for note in &next.notes {
                self.say(|| format!("{:4} [{}] {}", next.map.version, note.shards, note.words));
            }
            let takes = if self.random.u8(0..10) == 0 { self.random.u64(0..300) } else { 0 };
            self.locator.writing = Some((next.map, self.now + takes));
        }
    }

    fn store(&mut self, map: Map) {
        check_step(&self.stored, &map);
        self.written += 1;
        for process in &mut self.processes {
            let ours = Some(&process.intro.incarnation);
            process.was_dead |= map.servers.iter().any(|server| server.missing.as_ref() == ours);
        }
        self.stored = map;
    }

    /// Another locator takes charge. What the one of before was writing may be stored, or not.
    fn replace_locator(&mut self) {
        if let Some((map, _)) = self.locator.writing.take()
            && self.random.bool()
        {
            self.store(map);
        }
        self.generation += 1;
        let decisions = Decisions::new(self.stored.clone(), self.generation, self.now);
        self.locator = Locator { decisions, generation: self.generation, writing: None };
    }

    /// Who is sure of its roles is the only one that has them.
    fn check_leases(&self) {
        for process in self.processes.iter().filter(|process| process.acts(self.now) && process.lease_until > self.now)
        {
            for (shard, place) in process.places.iter().enumerate() {
                if let Acts::Primary(term) = place.acts {
                    self.ledger.sure(shard, term, &process.intro.incarnation);
                }
            }
        }
    }

    fn may_lose(&self, shard: usize, way: Way) -> bool {
        let by_policy = self.stored.policy.unclean_after_ms.is_some();
        matches!(way, Way::Unclean | Way::Empty) && (by_policy || self.forced[shard] > 0)
    }

    /// All is well, by the map.
    fn is_well(&self) -> bool {
        let status = self.locator.decisions.status(self.now);
        let bad = status.shards.without_primary + status.shards.moving + status.shards.waiting;
        let is_there = status.servers.iter().all(|server| server.alive && server.wanted == Some(Wanted::Serving));
        is_there && bad == 0 && status.stopped.is_none() && self.locator.writing.is_none()
    }

    fn run(mut self) -> Ledger {
        while self.now < TROUBLES_MS {
            self.make_troubles();
            self.tick();
        }
        self.heal();
        let (mut still, calm) = (0, self.now);
        let mut version = self.stored.version;
        while still < STILL_MS {
            self.operate_in_calm();
            self.tick();
            let is_still = self.is_well() && self.stored.version == version;
            (still, version) = (if is_still { still + TICK_MS } else { 0 }, self.stored.version);
            if self.now > calm + CALM_MS {
                panic!(
                    "5, 7: not well after {CALM_MS} ms: {:#?}\n{}",
                    self.locator.decisions.status(self.now),
                    self.stored.to_text()
                );
            }
        }
        self.check_balance();
        assert!(self.written < 3000, "7: {} maps", self.written);
        self.ledger
    }

    /// Whoever is there has its part.
    fn check_balance(&self) {
        let map = &self.stored;
        let copies: usize = map.shards.iter().map(|shard| shard.members.len() + 1).sum();
        let memory: u64 = map.servers.iter().map(|server| server.memory_mib).sum();
        for server in &map.servers {
            let has = map.shards.iter().filter(|shard| shard.target.contains(&server.id)).count() as u64;
            let part = (copies as u64 * server.memory_mib / memory).min(map.shards.len() as u64);
            assert!(2 * has + 2 >= part, "7: {} has {has} shards, and its part is {part}: {map:?}", server.name);
        }
    }
}

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("REMORA_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("REMORA_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

/// Clusters by seed: see the module.
#[test]
fn clusters_keep_what_they_promise() {
    let seeds = seeds();
    let (mut acknowledged, mut begun) = (0, 0);
    for seed in &seeds {
        println!("REMORA_SEED={seed}");
        let ledger = World::new(*seed).run();
        (acknowledged, begun) = (acknowledged + ledger.acknowledged, begun + ledger.begun);
    }
    println!("{} clusters, {acknowledged} acknowledged writes, {begun} terms", seeds.len());
    assert!(seeds.len() == 1 || acknowledged > 50 * seeds.len() as u64, "too little to judge: {acknowledged}");
}
