//! The primary's end of a simulation: grants and their states.

use super::{CONNECT_WAIT_MAX, Sim, WAITING_MAX, error};
use crate::fabric::waiting::{ACK_DESCRIPTOR, Stage, Step, descriptors};
use crate::fabric::{
    ACK_BYTES, Cause, ConnectsWriters, Descriptor, Exporter, FabricError, Grant, GrantState, Invitation, Kind, Regions,
    Token, WriteChannel,
};
use crate::sys::memory::Memfd;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct SimExporter {
    pub(super) sim: Sim,
    pub(super) number: u64,
}

impl Exporter for SimExporter {
    fn kind(&self) -> Kind {
        Kind::Sim
    }

    fn address(&self) -> String {
        format!("sim-{}", self.number)
    }

    fn grant(&self, token: Token, regions: Arc<dyn Regions>) -> Result<Box<dyn Grant>, FabricError> {
        let descriptors = descriptors(&*regions);
        let ack = Memfd::new("remora-ack", ACK_BYTES, false);
        let ack = ack.map_err(|error| FabricError::from_io(Kind::Sim, "memory for an ack slot", &error))?;
        let mut shared = self.sim.lock();
        let now = shared.now;
        shared.waiting.retain(|(_, granted)| now < granted.until);
        if shared.waiting.len() >= WAITING_MAX || shared.waiting.iter().any(|(other, _)| *other == token) {
            return Err(error(Cause::System, "too many grants wait, or one token was given out twice"));
        }
        let until = now + CONNECT_WAIT_MAX;
        let granted =
            Arc::new(Granted { regions, ack: Arc::new(ack), stage: Stage::waiting(), until, address: self.address() });
        shared.waiting.push((token, granted.clone()));
        Ok(Box::new(SimGrant { sim: self.sim.clone(), granted, descriptors }))
    }

    fn writer(&self) -> Option<&dyn ConnectsWriters> {
        Some(self)
    }
}

impl ConnectsWriters for SimExporter {
    fn connect(
        &self,
        invitation: &Invitation,
        sources: Arc<dyn Regions>,
    ) -> Result<Box<dyn WriteChannel>, FabricError> {
        Ok(self.sim.open(invitation, Some(sources))?)
    }
}

/// What one peer may read and write. The grant and its channel share it.
pub(super) struct Granted {
    pub(super) regions: Arc<dyn Regions>,
    pub(super) ack: Arc<Memfd>,
    pub(super) stage: Stage<()>,
    pub(super) until: Duration,
    pub(super) address: String,
}

impl Granted {
    /// End the channel. The first cause stays.
    pub(super) fn end(&self, why: FabricError) {
        let mut step = self.stage.lock();
        if !matches!(*step, Step::Over(_)) {
            *step = Step::Over(why);
        }
    }

    /// Why the channel is over, if it is.
    pub(super) fn over(&self) -> Option<FabricError> {
        match &*self.stage.lock() {
            Step::Over(why) => Some(why.clone()),
            _ => None,
        }
    }
}

struct SimGrant {
    sim: Sim,
    granted: Arc<Granted>,
    descriptors: Vec<Descriptor>,
}

impl Grant for SimGrant {
    fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }

    fn ack(&self) -> &Arc<Memfd> {
        &self.granted.ack
    }

    fn ack_descriptor(&self) -> Descriptor {
        ACK_DESCRIPTOR
    }

    fn state(&mut self) -> Result<GrantState, FabricError> {
        let is_due = self.sim.lock().now < self.granted.until;
        self.granted.stage.state(Kind::Sim, is_due)
    }
}

impl Drop for SimGrant {
    fn drop(&mut self) {
        self.sim.lock().waiting.retain(|(_, granted)| !Arc::ptr_eq(granted, &self.granted));
        self.granted.end(error(Cause::Closed, "the primary ended the channel"));
    }
}
