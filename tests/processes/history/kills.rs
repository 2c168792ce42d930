//! kill -9 of a primary at any moment under acknowledged writes, again and again: whoever is
//! promoted has them all, and is the next to be killed.

use super::chains::run_chains;
use super::clients::Traffic;
use super::connection::{Acks, Connection, End};
use super::run::{APART, Going, MIXED, Run};
use crate::support::history::event::{Event, Operation, Outcome, Place, Reign};
use crate::support::history::judge::Judge;
use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

const KILLS_DEFAULT: u64 = 10;
/// Kills of one chain: more than the terms that a history keeps, so that early ones are forgotten.
const CHAIN_KILLS_MAX: u64 = 100;
/// Acknowledged writes that a kill waits for, at most. More come while it waits for some moment.
const WRITES_MAX: u64 = 100;
/// Keys that are looked up at a time.
const KEYS_AT_A_TIME: usize = 500;

const TRAFFIC: Traffic =
    Traffic { registers: 2000, counters: 20, batch_max: 32, acks: Acks::Server, pause_max: Duration::ZERO };
/// Nothing is evicted (-M), so nothing may be missing, though the logs are written over many times
/// in a chain.
const ARGUMENTS: [&str; 9] = ["-M", "-m", "4", "-I", "8k", "--replication-timeout", "5", "--ack-timeout", "5000"];

/// The ways in which writes ask for acknowledgement; the seed chooses one.
const ASKED: [(Acks, u32); 5] =
    [(Acks::Server, 1), (Acks::Flag(1), 1), (Acks::Wait(1), 1), (Acks::Server, 2), (Acks::Flag(2), 2)];

/// The outcome of the kills.
#[derive(Debug, Default)]
struct Sum {
    kills: u64,
    /// Acknowledged writes that were waited for.
    awaited: usize,
    acknowledged: usize,
    found: usize,
    lost: usize,
    unknown: usize,
    operations: usize,
    complaints: Vec<String>,
}

impl Sum {
    fn add(&mut self, other: &Sum) {
        self.kills += other.kills;
        self.awaited += other.awaited;
        self.acknowledged += other.acknowledged;
        self.found += other.found;
        self.lost += other.lost;
        self.unknown += other.unknown;
        self.operations += other.operations;
    }
}

impl Display for Sum {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Sum { kills, acknowledged, found, lost, unknown, operations, .. } = self;
        write!(
            f,
            "{kills} kills, {operations} operations, {acknowledged} acknowledged writes: {found} found, {lost} lost; \
             {unknown} outcomes unknown"
        )
    }
}

struct Chain {
    run: Run,
    judge: Judge,
    gathers: bool,
    sum: Sum,
}

impl Chain {
    fn start(seed: u64) -> Chain {
        let (acks, replicas) = ASKED[seed as usize % ASKED.len()];
        let held = if acks == Acks::Server { replicas } else { 0 }.to_string();
        let arguments: Vec<&str> = ARGUMENTS.iter().copied().chain(["--ack-replicas", &held]).collect();
        let fabrics = if seed.is_multiple_of(2) { MIXED } else { APART };
        let run = Run::start(seed, Traffic { acks, ..TRAFFIC }, 0, fabrics, &arguments);
        Chain { run, judge: Judge::default(), gathers: replicas == 1, sum: Sum::default() }
    }

    /// Kill once, and look at what is there afterwards.
    fn kill(&mut self) {
        // The kill may come as early as the first write.
        let writes = self.run.random.u64(1..WRITES_MAX);
        self.run.write_acknowledged(writes, 0..150);
        self.sum.awaited += writes as usize;
        let heir = self.run.random.usize(0..2);
        let old = self.run.promote(heir, self.gathers, Going::Killed);
        self.sum.kills += 1;
        self.judge_reign();
        self.run.open();
        self.run.come_back(heir, old, Going::Killed);
        // Whoever is killed next, nothing may be needed of a replica that has just begun.
        self.run.settle();
        self.run.open();
    }

    /// What was recorded up to the kill, and what there is of it now.
    fn judge_reign(&mut self) {
        let mut reign = Reign::default();
        for (number, events) in self.run.site.take() {
            assert_eq!(number + 1, self.run.reign, "no writer was let in since");
            reign.events.extend(events);
        }
        self.sum.operations += reign.events.len();
        self.sum.unknown += reign.events.iter().filter(|event| !event.is_known()).count();
        let mut acknowledged: HashMap<u32, usize> = HashMap::new();
        let writes = reign.events.iter().filter(|event| event.acknowledged && event.has_changed());
        writes.for_each(|event| *acknowledged.entry(event.key).or_default() += 1);
        let mut wrong = self.judge.reign(&reign);
        let shown = self.look();
        for event in &shown {
            let count = acknowledged.get(&event.key).copied().unwrap_or(0);
            let state = if let Outcome::Hit(value) = event.outcome { Some(value) } else { None };
            self.sum.acknowledged += count;
            if self.judge.may_be(event.key, state) {
                self.sum.found += count;
            } else {
                self.sum.lost += count;
                wrong.push(format!(
                    "key {}: {state:?} cannot be what there is after kill {}",
                    event.key, self.sum.kills
                ));
            }
        }
        self.sum.complaints.append(&mut wrong);
        self.run.site.note(self.run.reign, shown);
    }

    /// Read every key at the new primary.
    fn look(&self) -> Vec<Event> {
        let site = &self.run.site;
        let session = site.number();
        let mut connection =
            Connection::open(self.run.primary.server.tcp[0], Acks::None).expect("the new primary lives");
        let keys: Vec<_> = TRAFFIC.keys().map(|key| (key, Operation::Get)).collect();
        let mut shown = Vec::new();
        for keys in keys.chunks(KEYS_AT_A_TIME) {
            let (events, end) = connection.ask(session, Place::Primary, keys, || site.now());
            assert_eq!(end, End::Answered, "the new primary lives");
            shown.extend(events);
        }
        shown
    }

    /// Each process has the same at the end, and clients found nothing wrong.
    fn end(mut self) -> Sum {
        self.run.compare();
        self.run.end();
        self.sum
    }
}

#[test]
fn kills_lose_nothing_that_was_acknowledged() {
    let mut sum = Sum::default();
    run_chains("history::kills", KILLS_DEFAULT, CHAIN_KILLS_MAX, |seed, kills, again| {
        let begun_at = Instant::now();
        let mut chain = Chain::start(seed);
        for _ in 0..kills {
            chain.kill();
            assert!(chain.sum.complaints.is_empty(), "{again}\n{:?}\n{}", chain.sum, chain.sum.complaints.join("\n"));
        }
        sum.add(&chain.end());
        println!("{sum}; this chain in {:.1} s", begun_at.elapsed().as_secs_f64());
    });
    assert!(sum.kills > 0 && sum.acknowledged >= sum.awaited, "not all was judged: {sum}");
    assert!(sum.lost == 0 && sum.found == sum.acknowledged);
}
