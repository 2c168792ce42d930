//! A puller on the simulated fabric, and the primary's end of its channel: a grant that is read, or
//! a pusher that writes.

use crate::clock;
use fastrand::Rng;
use remora::base::epoch::Epoch;
use remora::fabric::sim::{Faults, Sim};
use remora::fabric::{Exporter, Grant, Invitation, Regions, Token};
use remora::replication::ack::{Summary, applied};
use remora::replication::pull::{PullError, Puller, Step};
use remora::replication::push::inbox::Inbox;
use remora::replication::push::layout::Layout;
use remora::replication::push::pusher::Pusher;
use remora::store::{EpochStart, Geometry, Memory, Store};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Silence of a primary, in simulated time, before it counts as gone.
pub const SILENCE_MAX: Duration = Duration::from_millis(5);

/// What replicas see of a primary.
#[derive(Clone)]
pub struct Offered {
    pub regions: Arc<dyn Regions>,
    pub history: Vec<EpochStart>,
    pub geometry: Geometry,
    pub memory: Memory,
}

impl Offered {
    pub fn of(primary: &Arc<Store>) -> Offered {
        let regions = remora::replication::regions::of(primary);
        Offered { regions, history: primary.epochs(), geometry: primary.geometry(), memory: primary.memory() }
    }
}

/// Where sessions are made.
pub struct Network {
    sim: Sim,
    exporter: Box<dyn Exporter>,
    tokens: u128,
    /// Sessions are pushed to, from now on.
    pub push: bool,
}

/// The primary's end.
enum Far {
    Granted(Box<dyn Grant>),
    /// It takes steps in turn with the replica, some more, some less.
    Pushes(Box<Pusher>, Rng),
}

/// The channel is dropped before the grant.
pub struct Session<'s> {
    pub puller: Puller<'s>,
    far: Far,
    /// What goes wrong on it.
    pub faults: Faults,
}

impl Network {
    pub fn new(seed: u64) -> Network {
        let sim = Sim::new(seed, Faults::default());
        Network { exporter: sim.exporter(), sim, tokens: 0, push: false }
    }

    /// As replication does it after each admission.
    pub fn connect<'s>(
        &mut self,
        offered: &Offered,
        replica: &'s Store,
        known: &[Option<Epoch>],
        faults: &Faults,
    ) -> Session<'s> {
        self.tokens += 1;
        let token = Token(self.tokens.to_le_bytes());
        if self.push {
            return self.connect_pusher(token, offered, replica, known, faults);
        }
        let grant = self.exporter.grant(token, offered.regions.clone()).expect("few grants wait");
        let regions = grant.descriptors().to_vec();
        let invitation = Invitation { address: self.exporter.address(), token, regions, ack: grant.ack_descriptor() };
        self.sim.set_faults(faults.clone());
        let channel = self.sim.connect(&invitation).expect("the token is known");
        let mut puller = Puller::new(channel, replica, offered.memory, &offered.history, known, SILENCE_MAX)
            .expect("memory for landings");
        puller.set_clock(clock::now);
        replica.adopt_epochs(offered.history.clone());
        Session { puller, far: Far::Granted(grant), faults: faults.clone() }
    }

    fn connect_pusher<'s>(
        &mut self,
        token: Token,
        offered: &Offered,
        replica: &'s Store,
        known: &[Option<Epoch>],
        faults: &Faults,
    ) -> Session<'s> {
        let (geometry, memory) = (offered.geometry, offered.memory);
        // Of all lengths, most of them far less than a shard: a few records, or not even one.
        let mut random = Rng::with_seed(self.tokens as u64);
        let window_bytes =
            [u64::from(memory.slabs / geometry.shards) * geometry.slab_bytes, 16 << 10, 4096, 1000][random.usize(0..4)];
        let layout = Layout::told(&geometry, &memory, window_bytes).expect("a layout that can be");
        let granted = Inbox::grant(self.sim.exporter(), token, geometry, memory, layout);
        let (inbox, invite) = granted.expect("few grants wait");
        self.sim.set_faults(faults.clone());
        assert_eq!(Layout::told(&geometry, &memory, invite.window_bytes), Some(layout));
        let (writer, regions) = (self.exporter.writer().expect("the simulation writes"), offered.regions.clone());
        let pusher = Pusher::connect(writer, &invite.invitation, regions, (geometry, memory), layout, SILENCE_MAX);
        let mut pusher = pusher.expect("the token is known");
        pusher.set_clock(clock::now);
        let mut puller = Puller::new(Box::new(inbox), replica, offered.memory, &offered.history, known, SILENCE_MAX)
            .expect("memory for landings");
        puller.set_clock(clock::now);
        replica.adopt_epochs(offered.history.clone());
        let far = Far::Pushes(Box::new(pusher), random);
        Session { puller, far, faults: faults.clone() }
    }
}

impl Session<'_> {
    /// One step, and what the primary sees of it: nothing that is not so.
    pub fn step(&mut self, replica: &Store) -> Result<Step, PullError> {
        if let Far::Pushes(pusher, random) = &mut self.far {
            for _ in 0..random.u32(0..4) {
                pusher.step(Duration::ZERO)?;
            }
        }
        let stepped = self.puller.step(Duration::ZERO);
        for (shard, mine) in replica.shards().iter().enumerate() {
            let (acked, cursor) = (self.acked(shard), mine.control().committed());
            assert!(acked <= cursor, "shard {shard}: {acked} is acknowledged, {cursor} is applied");
        }
        stepped
    }

    pub fn acked(&self, shard: usize) -> u64 {
        applied(self.slot(), shard)
    }

    pub fn summary(&self) -> Summary {
        Summary::read(self.slot())
    }

    fn slot(&self) -> &[AtomicU64] {
        match &self.far {
            Far::Granted(grant) => grant.ack().words(),
            Far::Pushes(pusher, _) => pusher.ack().words(),
        }
    }
}
