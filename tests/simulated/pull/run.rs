//! One run: a primary that is written to, a replica that pulls and is read, one after the other in
//! one thread, by seed.

use super::ledger::Ledger;
use super::writer::Writer;
use crate::clock;
use crate::compare::{Seen as Item, assert_identical, assert_same, items};
use crate::pair::Setup;
use crate::pullers::End;
use crate::session::{Network, Offered, Session};
use fastrand::Rng;
use remora::base::time::UnixSeconds;
use remora::fabric::sim::Faults;
use remora::replication::pull::{Counts, LaneEnd, PullError};
use remora::store::Store;
use remora::store::shard::Shard;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Steps in which a replica must have come up with a primary that rests.
const SETTLE_STEPS_MAX: usize = 20_000;
/// Of those, steps after which a channel that loses or changes bytes is made anew without faults.
const FAULTY_STEPS_MAX: usize = 300;
/// Steps in which the last ack must have arrived.
const ACK_STEPS_MAX: usize = 200;

/// What happened in a run, or in many.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    pub counts: Counts,
    pub stuck: u64,
    pub closed: u64,
    pub broken: u64,
    /// Sessions that ended for a control line that was changed on its way.
    pub lines_refused: u64,
    /// Sessions that were made with something known, after one that had ended.
    pub remade: u64,
    /// Turns of a reader that outlasted the applier's room.
    pub waited: u64,
    pub hits: u64,
    pub laps: u64,
    pub second_chances: u64,
}

impl Seen {
    pub fn add(&mut self, other: &Seen) {
        self.counts = self.counts.plus(&other.counts);
        self.stuck += other.stuck;
        self.closed += other.closed;
        self.broken += other.broken;
        self.lines_refused += other.lines_refused;
        self.remade += other.remade;
        self.waited += other.waited;
        self.hits += other.hits;
        self.laps += other.laps;
        self.second_chances += other.second_chances;
    }
}

/// How fast the primary is written to.
#[derive(Debug, Clone, Copy)]
enum Pace {
    Rests,
    Slow,
    Even,
    Bursts,
}

pub struct Run<'s> {
    pub random: Rng,
    pub network: Network,
    pub ledger: Ledger,
    pub primary: &'s Arc<Store>,
    pub offered: Offered,
    pub writer: Writer<'s>,
    pub replica: &'s Store,
    pub faults: Faults,
    pub session: Option<Session<'s>>,
    pub seen: Seen,
    /// Bytes were changed on their way. Of a set the word of metadata is outside the checksum:
    /// nobody notices there.
    pub metadata_may_differ: bool,
    keys: usize,
    pace: Pace,
    /// Writes in a burst: of a lap or so, if a test does not say otherwise.
    pub burst: usize,
}

impl<'s> Run<'s> {
    pub fn new(seed: u64, setup: Setup, keys: usize, primary: &'s Arc<Store>, replica: &'s Store) -> Self {
        Run::of_lineage(seed, setup, keys, primary, replica, Ledger::default())
    }

    /// The same, with a ledger of what earlier primaries wrote.
    pub fn of_lineage(
        seed: u64,
        setup: Setup,
        keys: usize,
        primary: &'s Arc<Store>,
        replica: &'s Store,
        mut ledger: Ledger,
    ) -> Self {
        Run {
            random: Rng::with_seed(seed),
            network: Network::new(seed),
            writer: Writer::new(primary, &mut ledger, setup, keys),
            ledger,
            primary,
            offered: Offered::of(primary),
            replica,
            faults: Faults::default(),
            session: None,
            seen: Seen::default(),
            metadata_may_differ: false,
            keys,
            pace: Pace::Even,
            // By the mean of what the writer does.
            burst: setup.shard_bytes * setup.shards * 3 / 2 / (130 + setup.item_bytes_max / 50),
        }
    }

    pub fn write(&mut self, steps: usize) {
        for _ in 0..steps {
            self.writer.step(&mut self.ledger, &mut self.random);
        }
    }

    /// One step of the puller; a session that has failed is made anew at the next.
    pub fn pull(&mut self) {
        clock::pass(Duration::from_micros(self.random.u64(1..60)));
        let Run { network, offered, replica, faults, .. } = self;
        let session = self.session.get_or_insert_with(|| network.connect(offered, replica, faults));
        self.metadata_may_differ |= session.faults.corrupt > 0.0;
        let Err(error) = session.step() else { return };
        match &error {
            End::Puller(PullError::Stuck(..)) => self.seen.stuck += 1,
            End::Puller(PullError::Fabric(_)) => self.seen.closed += 1,
            End::Lane(LaneEnd::BadRecord { .. }) => self.seen.broken += 1,
            End::Lane(LaneEnd::Kept { .. } | LaneEnd::Held { .. }) => panic!("this one gives up what it must: {error}"),
            End::Lane(LaneEnd::TermChanged(_))
            | End::Lane(LaneEnd::Senseless { .. })
            | End::Lane(LaneEnd::NoMemory { .. })
            | End::Lane(LaneEnd::BeganAnew { .. }) => {
                assert!(session.faults.corrupt > 0.0 && session.faults.corrupt_from_region == 0, "{error}");
                self.seen.lines_refused += 1;
            }
        }
        self.end_session();
    }

    /// As replication does after a failure.
    pub fn end_session(&mut self) {
        let Some(session) = self.session.take() else { return };
        if session.faults.corrupt > 0.0 && session.faults.corrupt_from_region == 0 {
            // What begins anew after a changed line replays what readers have seen before.
            self.ledger.forget_seen();
        }
        self.seen.remade += u64::from(self.replica.shards().iter().any(Shard::is_proven));
        self.seen.counts = self.seen.counts.plus(&session.puller.counts());
    }

    /// Everybody takes steps in turn; a reader sometimes stays inside for many.
    pub fn drive(&mut self, steps: usize) {
        let mut reader = self.replica.join();
        let mut taken = 0;
        while taken < steps {
            self.pace = [Pace::Rests, Pace::Slow, Pace::Even, Pace::Bursts][self.random.usize(0..4)];
            let turn = reader.turn();
            let held = self.ledger.look(self.replica, &turn, &mut self.random, self.keys, self.writer.now());
            let inside = [0, 0, 3, 40][self.random.usize(0..4)];
            let waiting = self.applied();
            for _ in 0..inside {
                self.step();
                held.iter().for_each(super::ledger::Held::assert_unchanged);
            }
            drop(held);
            drop(turn);
            let outside = self.random.usize(1..30);
            self.seen.waited += u64::from(inside == 40 && waiting == self.applied() && self.lag() > 0);
            (0..outside).for_each(|_| self.step());
            taken += inside + outside;
        }
        self.seen.hits = self.ledger.hits;
    }

    fn step(&mut self) {
        let writes = match self.pace {
            Pace::Rests => 0,
            Pace::Slow => usize::from(self.random.u8(0..4) == 0),
            Pace::Even => self.random.usize(0..4),
            // Now and then.
            Pace::Bursts => {
                if self.random.u8(0..20) == 0 {
                    self.burst
                } else {
                    0
                }
            }
        };
        self.write(writes);
        self.pull();
    }

    fn applied(&self) -> u64 {
        self.replica.shards().iter().map(|shard| shard.control().committed()).sum()
    }

    fn lag(&self) -> u64 {
        self.session.as_ref().map_or(0, |session| session.puller.lag().bytes)
    }

    pub fn is_settled(&self) -> bool {
        let tails = |store: &Store| store.shards().iter().map(|shard| shard.control().tail()).collect::<Vec<_>>();
        let committed =
            |store: &Store| store.shards().iter().map(|shard| shard.control().committed()).collect::<Vec<_>>();
        self.session.as_ref().is_some_and(|session| session.puller.is_caught_up())
            && committed(self.primary) == committed(self.replica)
            && tails(self.primary) == tails(self.replica)
    }

    /// The primary rests: the replica becomes the same, and the primary is told.
    pub fn settle(&mut self) {
        self.faults = Faults::default();
        self.network.lanes_come_and_go = false;
        self.session.iter_mut().for_each(Session::keep_lanes);
        // A channel that loses READs is found out by the puller.
        let faulty = |faults: &Faults| faults.corrupt > 0.0 || faults.cut > 0.0;
        let mut steps = 0;
        while !self.is_settled() {
            assert!(steps < SETTLE_STEPS_MAX, "never comes up: {}", self.describe());
            if steps == FAULTY_STEPS_MAX && self.session.as_ref().is_some_and(|session| faulty(&session.faults)) {
                self.end_session();
            }
            self.pull();
            steps += 1;
        }
        if self.metadata_may_differ {
            assert_identical(self.primary, self.replica);
            assert_eq!(items_but_metadata(self.replica), items_but_metadata(self.primary));
        } else {
            assert_same(self.primary, self.replica, self.writer.now());
        }
        let session = self.session.as_ref().expect("it is settled");
        assert_eq!((session.puller.lag().bytes, session.puller.lag().time), (0, Duration::ZERO));
        self.assert_told(faulty);
        let stats = self.primary.stats();
        self.seen.laps = stats.counts.appended_bytes / stats.capacity_bytes;
        self.seen.second_chances = self.replica.stats().counts.reinserted_items;
    }

    /// In the end the ack slot shows all that was committed.
    fn assert_told(&mut self, faulty: impl Fn(&Faults) -> bool) {
        let committed: Vec<u64> = self.primary.shards().iter().map(|shard| shard.control().committed()).collect();
        for step in 0.. {
            let is_settled = self.is_settled();
            if let Some(session) = &mut self.session {
                if is_settled {
                    // As with each heartbeat. A channel that fails here fails at the next step.
                    let _ = session.puller.summarize();
                }
                let acked: Vec<u64> = (0..committed.len()).map(|shard| session.acked(shard)).collect();
                let summary = session.summary();
                let told = summary.beats > 0 && summary.lag_bytes == 0 && acked == committed;
                if told && is_settled {
                    return;
                }
                assert!(step < ACK_STEPS_MAX, "{acked:?} of {committed:?} is acknowledged, {summary:?}");
                if step == ACK_STEPS_MAX / 2 && faulty(&session.faults) {
                    self.end_session();
                }
            }
            self.pull();
        }
    }

    fn describe(&self) -> String {
        let line = |store: &Store| {
            let line = |shard: &remora::store::shard::Shard| (shard.control().tail(), shard.control().committed());
            store.shards().iter().map(line).collect::<Vec<_>>()
        };
        let now = self.session.as_ref().map(|session| (session.puller.counts(), session.puller.lag()));
        format!("primary {:?}, replica {:?}, {:?}, now {now:?}", line(self.primary), line(self.replica), self.seen)
    }
}

/// Every item that the index knows, those that have expired included: at this time none has.
fn items_but_metadata(store: &Store) -> BTreeMap<Vec<u8>, Item> {
    let mut found = items(store, UnixSeconds(0));
    found.values_mut().for_each(|item| (item.expiry, item.stale, item.token_sent) = (0, false, false));
    found
}
