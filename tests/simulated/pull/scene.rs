//! A primary with a history, its replica, and a copy of the primary's memory that a test changes:
//! the replica pulls from the copy.

use super::Setup;
use super::ledger::Ledger;
use super::writer::Writer;
use crate::clock;
use crate::compare::assert_same;
use crate::pair::{NOW, primary, replica_of};
use crate::pullers::End;
use crate::session::{Network, Offered, Session};
use fastrand::Rng;
use remora::fabric::Regions;
use remora::fabric::sim::Faults;

use remora::store::Store;
use remora::sys::memory::Memfd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Keys of a random history.
pub const KEYS: usize = 80;
/// Within so many steps a puller has to decide what it thinks of a primary.
pub const STEPS_MAX: usize = 5000;

/// Words of a control line.
pub const TERM: usize = 0;
pub const COMMITTED: usize = 1;
pub const TAIL: usize = 2;
pub const CAPACITY: usize = 3;
pub const OWES: usize = 5;

/// Copies of a primary's regions, to be changed.
pub struct Forged(Vec<Memfd>);

impl Regions for Forged {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn memory(&self, number: usize) -> &Memfd {
        &self.0[number]
    }
}

impl Forged {
    fn new(store: &Store) -> Arc<Forged> {
        let copy = |slab: &Memfd| {
            let copy = Memfd::new("remora-test", slab.words().len() * 8, false).expect("a small slab");
            overwrite(&copy, slab);
            copy
        };
        Arc::new(Forged(regions(store).map(copy).into()))
    }

    /// Copy the true regions in again.
    pub fn restore(&self, store: &Store) {
        regions(store).iter().zip(&self.0).for_each(|(from, to)| overwrite(to, from));
    }

    /// The control lines.
    pub fn lines(&self) -> &[AtomicU64] {
        self.0[0].words()
    }

    /// The tables of all shards.
    pub fn tables(&self) -> &[AtomicU64] {
        self.0[1].words()
    }

    /// All slabs.
    pub fn pool(&self) -> &[AtomicU64] {
        self.0[2].words()
    }
}

fn regions(store: &Store) -> [&Memfd; 3] {
    [store.control_lines(), store.tables(), store.pool().memory()]
}

fn overwrite(to: &Memfd, from: &Memfd) {
    to.words().iter().zip(from.words()).for_each(|(to, from)| to.store(from.load(Relaxed), Relaxed));
}

/// See the module.
pub struct Scene {
    pub store: Store,
    pub replica: Store,
    pub forged: Arc<Forged>,
    pub offered: Offered,
    pub ledger: Ledger,
    pub network: Network,
}

impl Scene {
    /// After a random history.
    pub fn new(seed: u64, setup: Setup) -> Scene {
        let store = primary(setup);
        let (mut ledger, mut random) = (Ledger::default(), Rng::with_seed(seed));
        let mut writer = Writer::new(&store, &mut ledger, setup, KEYS);
        (0..1500).for_each(|_| writer.step(&mut ledger, &mut random));
        drop(writer);
        Scene::of(seed, store, ledger)
    }

    /// Of a primary with the history that the ledger knows.
    pub fn of(seed: u64, store: Store, ledger: Ledger) -> Scene {
        let (replica, forged) = (replica_of(&store), Forged::new(&store));
        let offered = Offered {
            regions: forged.clone(),
            histories: store.histories(),
            geometry: store.geometry(),
            memory: store.memory(),
        };
        Scene { store, replica, forged, offered, ledger, network: Network::new(seed) }
    }
}

/// Until it has caught up and has nothing more to do, or why it ended.
pub fn pull(session: &mut Session<'_>) -> Result<(), End> {
    for _ in 0..STEPS_MAX {
        clock::pass(Duration::from_micros(20));
        if !session.step()?.moved && session.puller.is_caught_up() {
            return Ok(());
        }
    }
    panic!("{STEPS_MAX} steps, and neither an error nor an end: {:?}", session.puller.counts());
}

/// What is here is not gone on from.
pub fn forget(replica: &Store) {
    (0..replica.shards().len()).for_each(|shard| replica.follower(shard).expect("nobody follows").doubt());
}

/// An honest primary after a dishonest one: the replica becomes the same.
pub fn pull_honest(scene: &mut Scene) {
    scene.forged.restore(&scene.store);
    let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
    for _ in 0..STEPS_MAX {
        session.step().expect("it is honest");
        let tails = |store: &Store| store.shards().iter().map(|shard| shard.control().tail()).collect::<Vec<_>>();
        if session.puller.is_caught_up() && tails(&scene.replica) == tails(&scene.store) {
            return assert_same(&scene.store, &scene.replica, NOW);
        }
    }
    panic!("never comes up with an honest primary: {:?}", session.puller.counts());
}

/// Why it ended, which it must.
pub fn lie_until_it_ends(session: &mut Session<'_>) -> End {
    for _ in 0..STEPS_MAX {
        clock::pass(Duration::from_micros(20));
        if let Err(error) = session.step() {
            return error;
        }
    }
    panic!("{STEPS_MAX} steps, and no error: {:?}", session.puller.counts());
}
