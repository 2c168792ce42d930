//! One replica of a simulated run, and whom it follows.

use crate::pullers::End;
use crate::session::{Network, Offered, Session};
use remora::fabric::sim::Faults;
use remora::replication::pull::{LaneEnd, PullError};
use remora::store::Store;
use std::sync::Arc;

/// What a step has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Began {
    Nothing,
    /// A shard replays from somewhere else: older values may show again.
    Anew,
}

/// See the module.
pub struct Link<'s> {
    pub store: &'s Arc<Store>,
    upstream: &'s Arc<Store>,
    network: Network,
    session: Option<Session<'s>>,
}

impl<'s> Link<'s> {
    pub fn new(seed: u64, store: &'s Arc<Store>, upstream: &'s Arc<Store>) -> Self {
        let mut network = Network::new(seed);
        network.pullers = 1 + seed as usize % 3;
        Link { store, upstream, network, session: None }
    }

    pub fn end_session(&mut self) {
        self.session = None;
    }

    pub fn follow(&mut self, upstream: &'s Arc<Store>) {
        self.end_session();
        self.upstream = upstream;
    }

    /// One step; `faults` are those of the session, if it begins with it.
    pub fn pull(&mut self, faults: &Faults) -> Began {
        crate::clock::pass(std::time::Duration::from_micros(20));
        let Link { store, upstream, network, session } = self;
        let session = session.get_or_insert_with(|| network.connect(&Offered::of(upstream), store, faults));
        let anew = |session: &Session<'_>| {
            let counts = session.puller.counts();
            counts.joined + counts.overrun + counts.diverged
        };
        let before = anew(session);
        let stepped = session.step();
        let began = if anew(session) > before { Began::Anew } else { Began::Nothing };
        match stepped {
            Ok(_) => {}
            Err(
                End::Puller(PullError::Fabric(_))
                | End::Puller(PullError::Stuck(..))
                | End::Lane(LaneEnd::TermChanged(_))
                | End::Lane(LaneEnd::BeganAnew { .. }),
            ) => {
                self.end_session();
            }
            Err(error) => panic!("nobody lies here: {error}"),
        }
        began
    }

    pub fn is_caught_up(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.puller.is_caught_up())
    }

    /// As the primary knows it: up to where the replica has applied, while it is connected.
    pub fn acked(&self, shard: usize) -> u64 {
        self.session.as_ref().map_or(0, |session| session.acked(shard))
    }
}
