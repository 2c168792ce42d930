//! A puller on the simulated fabric, and the primary's end of its channel.

use crate::clock;
use remora::base::epoch::Epoch;
use remora::fabric::sim::{Faults, Sim};
use remora::fabric::{Exporter, Grant, Invitation, Regions, Token};
use remora::replication::ack::{Summary, applied};
use remora::replication::pull::{PullError, Puller, Step};
use remora::store::{EpochStart, Store};
use std::sync::Arc;
use std::time::Duration;

/// Silence of a primary, in simulated time, before it counts as gone.
pub const SILENCE_MAX: Duration = Duration::from_millis(5);

/// A primary as far as its replicas see it.
#[derive(Clone)]
pub struct Offered {
    pub regions: Arc<dyn Regions>,
    pub history: Vec<EpochStart>,
}

impl Offered {
    pub fn of(primary: &Arc<Store>) -> Offered {
        Offered { regions: remora::replication::offer::regions(primary), history: primary.epochs() }
    }
}

/// Where sessions are made.
pub struct Network {
    sim: Sim,
    exporter: Box<dyn Exporter>,
    tokens: u128,
}

/// The channel goes before the grant.
pub struct Session<'s> {
    pub puller: Puller<'s>,
    grant: Box<dyn Grant>,
    /// What goes wrong on it.
    pub faults: Faults,
}

impl Network {
    pub fn new(seed: u64) -> Network {
        let sim = Sim::new(seed, Faults::default());
        Network { exporter: sim.exporter(), sim, tokens: 0 }
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
        let grant = self.exporter.grant(token, offered.regions.clone()).expect("few grants wait");
        let regions = grant.descriptors().to_vec();
        let invitation = Invitation { address: self.exporter.address(), token, regions, ack: grant.ack_descriptor() };
        self.sim.set_faults(faults.clone());
        let channel = self.sim.connect(&invitation).expect("the token is known");
        let mut puller =
            Puller::new(channel, replica, &offered.history, known, SILENCE_MAX).expect("memory for landings");
        puller.set_clock(clock::now);
        replica.adopt_epochs(offered.history.clone());
        Session { puller, grant, faults: faults.clone() }
    }
}

impl Session<'_> {
    /// One step, and what the primary sees of it: nothing that is not so.
    pub fn step(&mut self, replica: &Store) -> Result<Step, PullError> {
        let stepped = self.puller.step(Duration::ZERO);
        for (shard, mine) in replica.shards().iter().enumerate() {
            let (acked, cursor) = (self.acked(shard), mine.control().committed());
            assert!(acked <= cursor, "shard {shard}: {acked} is acknowledged, {cursor} is applied");
        }
        stepped
    }

    pub fn acked(&self, shard: usize) -> u64 {
        applied(self.grant.ack().words(), shard)
    }

    pub fn summary(&self) -> Summary {
        Summary::read(self.grant.ack().words())
    }
}
