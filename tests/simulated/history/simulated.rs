//! The same without processes: stores and pull loops over the simulated fabric, all in one thread
//! and one function of the seed. A primary is written to, two replicas pull and are read; the
//! network is late, torn, stale, and cut; the primary is never read again, a replica begins the
//! next term in its store, and so on. A write counts as acknowledged when the ack slots of as many
//! sessions show its end.

use super::link::{Began, Link};
use crate::author::Author;
use crate::pair::{NOW, Setup, primary, replica_of};
use crate::support::history::event::{Event, NEVER, Operation, Outcome, Place, Reign};
use crate::support::history::judge::{Judged, judge};
use crate::support::number;
use fastrand::Rng;
use remora::base::shards::ShardSet;
use remora::fabric::sim::Faults;
use remora::replication::wire::TERMS_TOLD_MAX;
use remora::store::Store;
use std::sync::Arc;

const SEEDS: u64 = 8;
const REIGNS: usize = 5;
const STEPS: usize = 400;
const KEYS: u32 = 24;
/// Writes whose acknowledgement is waited for; older ones are answered: not acknowledged.
const WAITING_MAX: usize = 16;
/// Steps in which a replica catches up with a primary that is not written to.
const SETTLE_STEPS_MAX: usize = 5_000;

/// The logs are never written over, so that every miss at a replica can be judged.
const ROOMY: Setup =
    Setup { shard_bytes: 1 << 20, slab_bytes: 32 << 10, shards: 2, item_bytes_max: 2 << 10, evict: true };
/// They are, many times, and whatever lives is moved.
const NARROW: Setup =
    Setup { shard_bytes: 16 << 10, slab_bytes: 4 << 10, shards: 1, item_bytes_max: 512, evict: false };

/// A write that is not answered yet.
struct Waiting {
    event: usize,
    /// Shard and position that must be applied.
    end: Option<(usize, u64)>,
}

struct World<'s> {
    random: Rng,
    stores: &'s [Arc<Store>],
    setup: Setup,
    /// Replicas that must have a write.
    acks: usize,
    primary: usize,
    author: Author<'s>,
    links: Vec<Link<'s>>,
    /// The time in which each replica has not begun anew; None while it does.
    spans: Vec<Option<u32>>,
    waiting: Vec<Waiting>,
    reigns: Vec<Reign>,
    time: u64,
    values: u64,
    sessions: u32,
}

impl<'s> World<'s> {
    fn new(seed: u64, setup: Setup, acks: usize, stores: &'s [Arc<Store>]) -> Self {
        let links = (1..=2).map(|number| Link::new(seed << 4 | number, &stores[number as usize], &stores[0]));
        World {
            random: Rng::with_seed(seed),
            stores,
            setup,
            acks,
            primary: 0,
            author: Author::new(&stores[0]),
            links: links.collect(),
            spans: vec![None; 2],
            waiting: Vec::new(),
            reigns: vec![Reign::default()],
            time: 0,
            values: 0,
            sessions: 0,
        }
    }

    fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    fn session(&mut self) -> u32 {
        self.sessions += 1;
        self.sessions
    }

    fn events(&mut self) -> &mut Vec<Event> {
        &mut self.reigns.last_mut().expect("one at least").events
    }

    fn step(&mut self) {
        match self.random.u8(0..10) {
            0..2 => self.write(),
            2 => {
                let (store, session) = (&self.stores[self.primary], self.session());
                self.read(store, session, Place::Primary);
            }
            3..5 => self.read_replica(),
            _ => {
                let number = self.random.usize(0..2);
                self.pull(number);
            }
        }
    }

    /// Each write has a session of its own: none waits for another's acknowledgement.
    fn write(&mut self) {
        let (key, session, invoked) = (self.random.u32(0..KEYS), self.session(), self.tick());
        let store = &self.stores[self.primary];
        let committed = || store.shards().iter().map(|shard| shard.control().committed()).collect::<Vec<_>>();
        let before = committed();
        let (operation, outcome) = if self.random.u8(0..4) == 0 {
            let was_there = shown(store, key).is_some();
            self.author.delete(&name(key));
            (Operation::Delete, if was_there { Outcome::Done } else { Outcome::Miss })
        } else {
            self.values += 1;
            let text = text(self.values, self.random.usize(0..self.setup.item_bytes_max.min(512) - 64));
            self.author.set_value(&name(key), &text).expect("nothing fills the memory");
            (Operation::Set(self.values), Outcome::Done)
        };
        let changed = committed().into_iter().enumerate().find(|(shard, end)| *end != before[*shard]);
        let returned = NEVER;
        let event =
            Event { session, place: Place::Primary, key, operation, invoked, returned, outcome, acknowledged: false };
        self.waiting.push(Waiting { event: self.reigns.last().expect("one").events.len(), end: changed });
        self.events().push(event);
        if self.waiting.len() > WAITING_MAX {
            let oldest = self.waiting.remove(0);
            self.answer(&oldest, false);
        }
    }

    fn answer(&mut self, waiting: &Waiting, acknowledged: bool) {
        let returned = self.tick();
        let event = &mut self.events()[waiting.event];
        (event.returned, event.acknowledged) = (returned, acknowledged && event.has_changed());
    }

    fn read_replica(&mut self) {
        let number = self.random.usize(0..2);
        let (store, session) = (self.links[number].store, self.session());
        self.read(store, session, self.spans[number].map_or(Place::Between, Place::Replica));
    }

    fn read(&mut self, store: &Store, session: u32, place: Place) {
        let (key, invoked) = (self.random.u32(0..KEYS), self.tick());
        self.look(store, session, place, key, invoked);
    }

    fn look(&mut self, store: &Store, session: u32, place: Place, key: u32, invoked: u64) {
        let outcome = shown(store, key).map_or(Outcome::Miss, Outcome::Hit);
        let returned = self.tick();
        let operation = Operation::Get;
        self.events().push(Event { session, place, key, operation, invoked, returned, outcome, acknowledged: false });
    }

    /// A step of one replica, and what it means for reads there and for writes that wait.
    fn pull(&mut self, number: usize) {
        let faults = if self.random.u8(0..3) == 0 { Faults::default() } else { self.faults() };
        if self.links[number].pull(&faults) == Began::Anew {
            self.spans[number] = None;
        }
        if self.spans[number].is_none() && self.links[number].is_caught_up() {
            self.spans[number] = Some(self.session());
        }
        for waiting in std::mem::take(&mut self.waiting) {
            let has = |link: &&Link<'_>| waiting.end.is_none_or(|(shard, end)| link.acked(shard) >= end);
            match self.links.iter().filter(has).count() >= self.acks {
                true => self.answer(&waiting, true),
                false => self.waiting.push(waiting),
            }
        }
    }

    fn faults(&mut self) -> Faults {
        Faults { cut: 0.01, ..Faults::unkind() }
    }

    /// The primary is never read again. What was not answered, nobody knows.
    fn succeed(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for waiting in waiting {
            self.events()[waiting.event].outcome = Outcome::Unknown;
        }
        self.links.iter_mut().for_each(Link::end_session);
        let heir = self.random.usize(0..2);
        self.reigns.last_mut().expect("one").heir = self.spans[heir];
        if self.acks == 1 {
            self.gather(heir);
        }
        let store = self.links[heir].store;
        promote(store);
        self.reigns.push(Reign::default());
        self.primary = self.stores.iter().position(|one| Arc::ptr_eq(one, store)).expect("it is one of them");
        self.author = Author::new(store);
        // A store of its own for who comes next: the last ones in the list are still empty.
        let fresh = self.stores.iter().rev().nth(REIGNS - self.reigns.len()).expect("one for each reign");
        let seed = self.random.u64(..);
        self.links[heir] = Link::new(seed, fresh, store);
        self.links[1 - heir].follow(store);
        self.spans = vec![None; 2];
        let session = self.session();
        for key in 0..KEYS {
            let invoked = self.tick();
            self.look(store, session, Place::Primary, key, invoked);
        }
    }

    fn gather(&mut self, heir: usize) {
        let other = self.links[1 - heir].store;
        self.links[heir].follow(other);
        self.settle(heir);
        self.links[heir].end_session();
    }

    fn settle(&mut self, number: usize) {
        let mut steps = 0;
        while !self.links[number].is_caught_up() {
            self.links[number].pull(&Faults::default());
            steps += 1;
            assert!(steps < SETTLE_STEPS_MAX, "it does not come up");
        }
    }
}

/// Promote as the control thread does.
fn promote(store: &Store) {
    for _ in 0..100 {
        let all = ShardSet::all(store.shards().len());
        if store.make_room_for_term(all, NOW).is_ok() {
            store.begin_term(all, store.newest_term().succeed().expect("few promotions"), &|_| {});
            return store.open_gates(0..store.shards().len());
        }
    }
    panic!("no room for a term");
}

fn name(key: u32) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

/// A value repeated to this length.
fn text(value: u64, bytes: usize) -> Vec<u8> {
    value.to_le_bytes().into_iter().cycle().take(bytes.max(8)).collect()
}

fn shown(store: &Store, key: u32) -> Option<u64> {
    let mut participant = store.join();
    let turn = participant.turn();
    let name = name(key);
    let item = store.get(&turn, &store.locate(&name), NOW)?;
    let mut bytes = Vec::new();
    item.value().copy_to(&mut bytes);
    let value = u64::from_le_bytes(*bytes.first_chunk().expect("eight at least"));
    assert_eq!(bytes, text(value, bytes.len()), "key {key}: a torn value");
    Some(value)
}

/// What was judged, and how often the logs were written over.
fn run(seed: u64, setup: Setup, acks: usize) -> (Judged, u64) {
    let first = primary(setup);
    let replicas: Vec<Store> = (0..=REIGNS).map(|_| replica_of(&first)).collect();
    let stores: Vec<Arc<Store>> = std::iter::once(first).chain(replicas).map(Arc::new).collect();
    let mut world = World::new(seed, setup, acks, &stores);
    for reign in 0..REIGNS {
        if reign > 0 {
            world.succeed();
        }
        let steps = world.random.usize(STEPS / 2..STEPS * 2);
        (0..steps).for_each(|_| world.step());
        // Who is killed next, nothing may be needed of a replica that has just begun.
        (0..2).for_each(|number| world.settle(number));
        (0..steps / 4).for_each(|_| world.step());
    }
    let waiting = std::mem::take(&mut world.waiting);
    waiting.iter().for_each(|waiting| world.answer(waiting, false));
    // What a replica gives up for room, and gets again further on, it counts as evicted too.
    let evictions: u64 = stores.iter().map(|store| store.stats().counts.evictions).sum();
    assert!(evictions == 0 || !setup.evict, "then misses cannot be judged");
    let judged = judge(&world.reigns).unwrap_or_else(|complaints| panic!("{}", complaints.join("\n")));
    let line = |shard: &remora::store::shard::Shard| shard.control().committed() / setup.shard_bytes as u64;
    let laps = stores[world.primary].shards().iter().map(line).min().expect("a shard");
    (judged, laps)
}

fn runs(setup: Setup, acks: usize) {
    let seeds = number("REMORA_SEED").map_or(1..=number("REMORA_SEEDS").unwrap_or(SEEDS), |seed| seed..=seed);
    let (mut acknowledged, mut laps) = (0, 0);
    for seed in seeds {
        println!("REMORA_SEED={seed}, {acks} of {setup:?}");
        let (judged, over) = run(seed, setup, acks);
        println!("{judged:?}, {over} laps");
        (acknowledged, laps) = (acknowledged + judged.acknowledged, laps + over);
    }
    let is_whole = number("REMORA_SEED").is_none();
    assert!(!is_whole || acknowledged > 1000, "too little to judge: {acknowledged}");
    assert_eq!(laps > 0, setup == NARROW);
}

#[test]
fn what_one_has_outlives_the_primary() {
    runs(ROOMY, 1);
}

#[test]
fn what_both_have_outlives_the_primary() {
    runs(ROOMY, 2);
}

#[test]
fn logs_are_written_over() {
    runs(NARROW, 1);
    runs(NARROW, 2);
}

/// More promotions than a Welcome tells, while the log of the first is still there.
#[test]
fn a_log_of_more_terms_than_are_told_is_joined() {
    let store = Arc::new(primary(ROOMY));
    let mut author = Author::new(&store);
    for number in 0..=TERMS_TOLD_MAX as u32 + 10 {
        author.set_value(&name(number % KEYS), &text(u64::from(number), 100)).expect("there is room");
        promote(&store);
    }
    let replica = Arc::new(replica_of(&store));
    let mut link = Link::new(1, &replica, &store);
    for _ in 0..SETTLE_STEPS_MAX {
        link.pull(&Faults::default());
    }
    assert!(link.is_caught_up(), "it cannot join");
    (0..KEYS).for_each(|key| assert_eq!(shown(&replica, key), shown(&store, key)));
    assert_eq!(replica.histories(), store.histories(), "records have told of the others");
}
