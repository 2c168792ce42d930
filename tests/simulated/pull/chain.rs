//! Chains: a primary, a replica of it, and replicas of replicas. Every link has a network of its
//! own, with everything that may go wrong with one; whoever is in the middle is overrun, begins
//! anew, and follows somebody else, while those below follow it.

use super::ledger::Ledger;
use super::writer::Writer;
use super::{SHARDS, SLABS, is_whole, seeds};
use crate::clock;
use crate::compare::assert_same;
use crate::pair::{NOW, Setup, primary, primary_of, replica_of};
use crate::pullers::End;
use crate::session::{Network, Offered, Session};
use fastrand::Rng;
use remora::base::shards::ShardSet;
use remora::base::term::Term;
use remora::fabric::sim::Faults;
use remora::replication::pull::{Counts, LaneEnd, PullError, Sign};
use remora::store::Store;
use remora::store::line::COPIED;
use remora::store::shard::Shard;
use std::sync::Arc;
use std::time::Duration;

const KEYS: usize = 100;
/// Replicas below the primary.
const DEPTH: usize = 3;
/// Steps of each in which all must have come up with a primary that rests.
const SETTLE_STEPS_MAX: usize = 40_000;

/// What became of the sessions of one run, or of many.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    counts: Counts,
    began_anew: u64,
    term_changed: u64,
    /// The same of sessions that began before every shard above had a log.
    began_later: u64,
    lost: u64,
    broken: u64,
    /// How often a replica had nothing yet that others could follow.
    refused: u64,
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        self.counts = self.counts.plus(&other.counts);
        self.began_anew += other.began_anew;
        self.term_changed += other.term_changed;
        self.began_later += other.began_later;
        self.lost += other.lost;
        self.broken += other.broken;
        self.refused += other.refused;
    }
}

/// One replica, and whom it follows.
struct Link<'s> {
    store: &'s Arc<Store>,
    upstream: &'s Arc<Store>,
    network: Network,
    session: Option<Session<'s>>,
    /// In the session of now, every shard's history was told.
    told_all: bool,
    faults: Faults,
    seen: Seen,
}

impl<'s> Link<'s> {
    fn new(seed: u64, store: &'s Arc<Store>, upstream: &'s Arc<Store>) -> Self {
        let (mut network, faults) = (Network::new(seed), Faults::default());
        network.pullers = 1 + seed as usize % 3;
        Link { store, upstream, network, session: None, told_all: false, faults, seen: Seen::default() }
    }

    fn end_session(&mut self) {
        if let Some(session) = self.session.take() {
            self.seen.counts = self.seen.counts.plus(&session.puller.counts());
        }
    }

    fn follow(&mut self, upstream: &'s Arc<Store>) {
        self.end_session();
        self.upstream = upstream;
    }

    fn connect(&mut self) {
        let offered = Offered::of(self.upstream);
        self.told_all = offered.histories.iter().all(|history| history.newest().is_valid());
        self.session = Some(self.network.connect(&offered, self.store, &self.faults));
    }

    fn pull(&mut self) {
        if self.session.is_none() {
            if !self.upstream.has_begun() {
                self.seen.refused += 1;
                return;
            }
            self.connect();
        }
        let session = self.session.as_mut().expect("made above");
        let Err(error) = session.step() else { return };
        match error {
            End::Puller(PullError::Stuck(..)) | End::Puller(PullError::Fabric(_)) => self.seen.lost += 1,
            End::Lane(LaneEnd::BadRecord { .. }) => self.seen.broken += 1,
            End::Lane(LaneEnd::TermChanged(_)) if self.told_all => self.seen.term_changed += 1,
            End::Lane(LaneEnd::TermChanged(_)) => self.seen.began_later += 1,
            End::Lane(LaneEnd::BeganAnew { .. }) => self.seen.began_anew += 1,
            End::Lane(
                LaneEnd::Senseless { .. } | LaneEnd::NoMemory { .. } | LaneEnd::Kept { .. } | LaneEnd::Held { .. },
            ) => {
                panic!("nobody lies: {error}")
            }
        }
        self.end_session();
    }

    fn is_level(&self) -> bool {
        let line = |store: &Store| -> Vec<(u64, u64)> {
            store.shards().iter().map(|shard| (shard.control().tail(), shard.control().committed())).collect()
        };
        let caught_up = |session: &Session<'_>| session.puller.is_caught_up();
        self.session.as_ref().is_some_and(caught_up) && line(self.store) == line(self.upstream)
    }
}

/// Late, torn, stale, out of turn; in half of the runs also lost and cut.
fn faults(random: &mut Rng) -> Faults {
    let lossy = random.bool();
    let share = |random: &mut Rng, most: f64| if lossy && random.bool() { random.f64() * most } else { 0.0 };
    Faults {
        delay_polls_max: random.u32(0..4),
        reorder: random.f64(),
        tear: random.f64(),
        stale: random.f64(),
        stale_polls_max: random.u32(0..30),
        drop: share(random, 0.03),
        cut: share(random, 0.03),
        ..Faults::default()
    }
}

struct Chain<'s> {
    random: Rng,
    links: Vec<Link<'s>>,
    ledger: Ledger,
    writer: Writer<'s>,
    setup: Setup,
}

impl<'s> Chain<'s> {
    /// Each of `stores` follows the one before it; the first is the primary.
    fn new(seed: u64, setup: Setup, stores: &'s [Arc<Store>]) -> Self {
        let (mut random, mut ledger) = (Rng::with_seed(seed), Ledger::default());
        let links = stores.windows(2).map(|pair| Link::new(random.u64(..), &pair[1], &pair[0])).collect();
        let writer = Writer::new(&stores[0], &mut ledger, setup, KEYS);
        Chain { random, links, ledger, writer, setup }
    }

    fn write(&mut self, steps: usize) {
        (0..steps).for_each(|_| self.writer.step(&mut self.ledger, &mut self.random));
    }

    /// Writes of about a lap and a half.
    fn write_burst(&mut self) {
        self.write(self.setup.shard_bytes * self.setup.shards * 3 / 2 / (130 + self.setup.item_bytes_max / 50));
    }

    fn pull(&mut self, link: usize) {
        clock::pass(Duration::from_micros(self.random.u64(1..60)));
        self.links[link].pull();
    }

    /// All take steps, each at its own pace, and stand still now and then. With `bursts` the
    /// primary overruns who does.
    fn drive(&mut self, steps: usize, bursts: bool) {
        let mut resting = vec![0_usize; self.links.len()];
        for _ in 0..steps {
            let burst = bursts && self.random.u8(0..40) == 0;
            if burst {
                self.write_burst()
            } else {
                let writes = self.random.usize(0..3);
                self.write(writes)
            }
            for (link, rest) in resting.iter_mut().enumerate() {
                if *rest > 0 {
                    *rest -= 1;
                    continue;
                }
                (0..self.random.usize(0..4)).for_each(|_| self.pull(link));
                *rest = if self.random.u8(0..30) == 0 { self.random.usize(0..60) } else { 0 };
            }
            let last = self.links.last().expect("a chain has links");
            self.ledger.assert_all_written(last.store, KEYS, self.writer.now());
        }
    }

    /// The primary rests, the networks heal: all become the same as `primary`.
    fn settle(&mut self, primary: &Store) {
        self.links.iter_mut().for_each(|link| link.faults = Faults::default());
        let mut steps = 0;
        while !self.links.iter().all(Link::is_level) {
            assert!(steps < SETTLE_STEPS_MAX, "never level: {}", self.describe());
            // A channel that loses READs is found out by the puller, one that is torn never ends.
            (0..self.links.len()).for_each(|link| self.pull(link));
            steps += 1;
        }
        let now = self.writer.now();
        self.links.iter().for_each(|link| assert_same(primary, link.store, now));
    }

    fn describe(&self) -> String {
        let link = |link: &Link<'_>| {
            let lines = |store: &Store| {
                let line = |shard: &remora::store::shard::Shard| {
                    (Term(shard.control().term()).number(), shard.control().tail(), shard.control().committed())
                };
                store.shards().iter().map(line).collect::<Vec<_>>()
            };
            format!("{:?} of {:?}: {:?}\n", lines(link.store), lines(link.upstream), link.seen)
        };
        self.links.iter().map(link).collect()
    }

    fn seen(mut self) -> Vec<Seen> {
        self.links.iter_mut().for_each(Link::end_session);
        self.links.iter().map(|link| link.seen).collect()
    }
}

/// A primary and replicas for a chain.
fn stores(setup: Setup) -> Vec<Arc<Store>> {
    let first = Arc::new(primary(setup));
    let replicas: Vec<_> = (0..DEPTH).map(|_| Arc::new(replica_of(&first))).collect();
    std::iter::once(first).chain(replicas).collect()
}

fn run(seed: u64, setup: Setup, bursts: bool) -> Vec<Seen> {
    println!("REMORA_SEED={seed} {setup:?}");
    let stores = stores(setup);
    let mut chain = Chain::new(seed, setup, &stores);
    for _ in 0..4 {
        for link in 0..DEPTH {
            chain.links[link].faults = faults(&mut chain.random);
        }
        chain.drive(60, bursts);
    }
    chain.settle(&stores[0]);
    assert_eq!(stores[DEPTH].histories(), stores[0].histories());
    chain.seen()
}

/// Nobody is overrun, so nobody begins more than once, and nothing that goes wrong with one link is
/// noticed at another.
#[test]
fn every_replica_becomes_the_same_whatever_its_link_does() {
    let mut seen = Seen::default();
    for seed in seeds() {
        let links = run(seed, SHARDS, false);
        links.iter().for_each(|link| seen.add(link));
    }
    println!("{seen:?}");
    assert_eq!((seen.counts.overrun, seen.counts.diverged, seen.counts.bad_records, seen.term_changed), (0, 0, 0, 0));
    assert!(
        !is_whole() || seen.lost > 0 && seen.counts.continued > 0 && seen.refused > 0 && seen.began_later > 0,
        "{seen:?}"
    );
}

/// Whoever in the chain is overrun begins anew, and so those below do: at other positions of the
/// same log.
#[test]
fn an_overrun_in_the_middle_goes_down_the_chain() {
    let mut below = Seen::default();
    for seed in seeds() {
        for setup in [SLABS, SHARDS] {
            let links = run(seed, setup, true);
            links[1..].iter().for_each(|link| below.add(link));
        }
    }
    println!("{below:?}");
    assert_eq!((below.counts.diverged, below.counts.bad_records, below.term_changed), (0, 0, 0));
    assert!(!is_whole() || below.counts.overrun > 0 && below.lost > 0, "{below:?}");
}

/// Another primary takes the place of the first, at positions of its own: everybody drops what it
/// had, from the top down.
#[test]
fn another_log_comes_down_the_chain() {
    let mut below = Seen::default();
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let stores = stores(SLABS);
        let second = Arc::new(primary_of(SLABS, Term::of(1, 0xDEF)));
        let mut chain = Chain::new(seed, SLABS, &stores);
        chain.drive(50 + seed as usize % 7 * 30, true);
        chain.links.iter_mut().for_each(|link| link.faults = Faults::unkind());
        chain.writer = Writer::new(&second, &mut chain.ledger, SLABS, KEYS);
        chain.write((seed % 4) as usize * 60);
        chain.links[0].follow(&second);
        chain.drive(100, seed % 2 == 0);
        chain.settle(&second);
        assert_eq!(stores[DEPTH].histories(), second.histories());
        chain.seen()[1..].iter().for_each(|link| below.add(link));
    }
    println!("{below:?}");
    assert!(!is_whole() || below.counts.diverged > 0 && below.term_changed > 0, "{below:?}");
}

/// Two replicas follow the first store, and the last one follows `lasts`. All are level; then less
/// than a lap is written, which nobody has seen yet.
fn ahead<'s>(seed: u64, stores: &'s [Arc<Store>], lasts: &'s Arc<Store>) -> Chain<'s> {
    let mut chain = Chain::new(seed, SLABS, stores);
    chain.links[1].follow(&stores[0]);
    chain.links[2].follow(lasts);
    chain.drive(20, false);
    chain.settle(&stores[0]);
    chain.write(60);
    chain
}

/// Re-pointed to a fellow replica that lags: what it has more is the same log, so it waits, and
/// says so, until the other has come as far.
#[test]
fn who_is_ahead_waits() {
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let stores = stores(SLABS);
        let [first, slow, quick, last] = &stores[..] else { panic!("a chain of {DEPTH}") };
        let mut chain = ahead(seed, &stores, quick);
        (0..400).for_each(|_| [1, 2].into_iter().for_each(|link| chain.pull(link)));
        let positions =
            |store: &Store| -> Vec<u64> { store.shards().iter().map(|shard| shard.control().committed()).collect() };
        let ahead = positions(last);
        assert!(ahead == positions(first) && ahead.iter().zip(positions(slow)).all(|(ours, theirs)| *ours > theirs));
        chain.links[1].follow(slow);
        chain.links[1].faults = Faults::unkind();
        (0..200).for_each(|_| [1, 2].into_iter().for_each(|link| chain.pull(link)));
        assert_eq!((positions(quick), positions(last)), (ahead.clone(), ahead.clone()), "nothing to do");
        let session = chain.links[1].session.as_ref().expect("it follows");
        assert!(session.puller.is_caught_up() && session.puller.lag().bytes == 0);
        let told: Vec<u64> = (0..SLABS.shards).map(|shard| session.acked(shard)).collect();
        assert_eq!(told, ahead, "who is followed is told what is so");
        chain.drive(60, false);
        chain.settle(first);
        let links = chain.seen();
        assert_eq!((links[1].counts.joined, links[1].counts.overrun + links[1].counts.diverged), (2, 0), "{links:?}");
        assert_eq!((links[2].counts.joined, links[2].counts.overrun + links[2].counts.diverged), (2, 0), "{links:?}");
    }
}

/// A replica becomes the primary, as `ctl promote` has it.
fn promote(chain: &mut Chain<'_>, link: usize) {
    chain.links[link].end_session();
    let store = chain.links[link].store;
    let all = ShardSet::all(store.shards().len());
    assert!(store.shards().iter().all(Shard::is_proven), "it has something of every shard");
    let has_room = (0..100).any(|_| store.make_room_for_term(all, NOW).is_ok());
    assert!(has_room, "nobody reads");
    store.begin_term(all, store.newest_term().succeed().expect("a term can follow"), &|_| {});
    store.open_gates(0..store.shards().len());
}

/// The former primary follows, and keeps what it has.
fn demote<'s>(chain: &mut Chain<'s>, link: usize, old: &'s Arc<Store>, new: &'s Arc<Store>) {
    chain.links[link] = Link::new(chain.random.u64(..), old, new);
    old.close_gates(0..old.shards().len(), None);
    chain.writer = Writer::new(new, &mut chain.ledger, chain.setup, KEYS);
}

/// Those below it go on over the record that begins the term; nobody of them joins anew. What was
/// the primary drops what nobody else has.
#[test]
fn who_is_promoted_in_the_middle_is_followed_on() {
    let (mut above, mut below) = (Seen::default(), Seen::default());
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let stores = stores(SLABS);
        let mut chain = Chain::new(seed, SLABS, &stores);
        chain.drive(20, false);
        chain.settle(&stores[0]);
        for link in 0..DEPTH {
            chain.links[link].end_session();
            chain.links[link].faults = faults(&mut chain.random);
        }
        chain.drive(20 + seed as usize % 20 * 2, false);
        promote(&mut chain, 0);
        demote(&mut chain, 0, &stores[0], &stores[1]);
        chain.drive(60, false);
        chain.settle(&stores[1]);
        assert_eq!(stores[1].newest_term().number(), 2);
        assert!(stores.iter().all(|store| store.histories() == stores[1].histories()));
        let links = chain.seen();
        above.add(&links[0]);
        for link in &links[1..] {
            assert_eq!(link.counts.joined, SLABS.shards as u64, "once: {link:?}");
            below.add(link);
        }
    }
    println!("above {above:?}, below {below:?}");
    assert_eq!((below.counts.diverged, below.counts.overrun, below.counts.bad_records), (0, 0, 0));
    assert_eq!(below.counts.truncated, 0);
    assert!(!is_whole() || above.counts.diverged > 0 && above.counts.truncated > 0 && below.term_changed > 0);
}

/// A replica that lags is promoted. What was the primary follows it, and drops its last writes;
/// those below that one have them too, and have to drop them as well, though they were never told
/// by whom they follow but by the history.
#[test]
fn what_was_dropped_above_is_dropped_below() {
    let mut below = Seen::default();
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let stores = stores(SLABS);
        let [old, new, middle, last] = &stores[..] else { panic!("a chain of {DEPTH}") };
        let mut chain = Chain::new(seed, SLABS, &stores);
        chain.links[1].follow(old);
        assert!(std::ptr::eq(chain.links[2].upstream, middle));
        chain.drive(20, false);
        chain.settle(old);
        for link in 1..DEPTH {
            chain.links[link].end_session();
            chain.links[link].faults = if seed % 2 == 0 { Faults::default() } else { faults(&mut chain.random) };
        }
        // From here on the replica that will be promoted sees nothing new.
        chain.write(20 + seed as usize % 5 * 20);
        (0..seed as usize * 20).for_each(|_| [1, 2].into_iter().for_each(|link| chain.pull(link)));
        promote(&mut chain, 0);
        demote(&mut chain, 0, old, new);
        chain.write(seed as usize % 7 * 15);
        chain.drive(60, seed % 3 == 0);
        chain.settle(new);
        assert!(stores.iter().all(|store| store.histories() == new.histories()) && last.newest_term().number() == 2);
        chain.seen()[1..].iter().for_each(|link| below.add(link));
    }
    println!("{below:?}");
    let Counts { diverged, truncated, .. } = below.counts;
    assert!(!is_whole() || diverged > 0 && truncated > 0 && below.term_changed > 0);
}

/// A replica has what the promoted one lacks, and its session with that one ends before its first
/// look. When it is promoted itself, it claims nothing of a branch that its log never had: who has
/// that branch drops it.
#[test]
fn who_never_looked_claims_nothing_of_what_it_was_told() {
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let stores = stores(SLABS);
        let [first, slow, quick, last] = &stores[..] else { panic!("a chain of {DEPTH}") };
        let mut chain = ahead(seed, &stores, slow);
        (0..400).for_each(|_| chain.pull(1));
        promote(&mut chain, 0);
        chain.writer = Writer::new(slow, &mut chain.ledger, SLABS, KEYS);
        chain.write(20);
        (0..400).for_each(|_| chain.pull(2));
        assert_eq!(last.histories(), slow.histories());

        let before = quick.histories();
        chain.links[1].follow(slow);
        chain.links[1].connect();
        chain.links[1].end_session();
        assert_eq!(quick.histories(), before, "nothing of it is here");
        promote(&mut chain, 1);
        demote(&mut chain, 0, slow, quick);
        demote(&mut chain, 1, first, quick);
        chain.links[2].follow(quick);
        chain.write(20);
        let joined = chain.links[2].seen.counts.joined;
        chain.settle(quick);
        let below = chain.seen()[2].counts;
        assert_eq!((below.joined, below.diverged + below.truncated), (joined, SLABS.shards as u64), "{below:?}");
    }
}

/// The primary's beat is seen at the end of the chain, though every lane on the way sleeps.
#[test]
fn a_beat_goes_down_the_whole_chain() {
    let stores = stores(SHARDS);
    let mut chain = Chain::new(1, SHARDS, &stores);
    chain.drive(60, false);
    chain.settle(&stores[0]);
    let signs = |chain: &Chain<'_>| -> Vec<Sign> {
        chain.links.iter().map(|link| link.session.as_ref().expect("it is level").puller.sign()).collect()
    };
    assert!(signs(&chain).iter().all(|sign| *sign == Sign { moved_at: None, serves: Some(false) }));
    for serves in [true, false] {
        stores[0].serve(serves);
        let before = clock::now();
        (0..1000).for_each(|step| chain.pull(step % DEPTH));
        for sign in signs(&chain) {
            assert_eq!(sign.serves, Some(serves));
            assert!(sign.moved_at.is_some_and(|moved_at| moved_at >= before), "it was seen to move");
        }
        let beats = |store: &Store| store.shards().iter().map(|shard| shard.control().beat()).collect::<Vec<_>>();
        let copies: Vec<u64> = beats(&stores[0]).iter().map(|beat| beat | COPIED).collect();
        assert!(stores[1..].iter().all(|store| beats(store) == copies));
    }
}
