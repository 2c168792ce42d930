//! The primary's end, as its owner sees it: a listener of RDMA CM on a thread of its own, and what
//! is registered for its grants.
//!
//! Regions that are [prepared](fabric::Exporter::prepare) are registered once, by a thread of their
//! own, and every grant of them shares that.

use super::VerbsOptions;
use super::connecting::{Wish, establish};
use super::desk::Desk;
use super::devices::choose;
use super::errors::library;
use super::grant::Grant;
use super::listener::Listener;
use super::native::cm::Events;
use super::registered::Sources;
use super::standing::{Standing, Stop};
use crate::fabric::{self, ConnectsWriters, FabricError, Invitation, Kind, Readiness, Regions, Token, WriteChannel};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

/// See the module.
pub struct Exporter {
    standing: Arc<Standing>,
    options: VerbsOptions,
    desk: Arc<Desk>,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Listen on `address`, on a port of the system's choice if that is 0. The unspecified address
    /// takes replicas over all addresses of one device: the one that `options` name, else the first
    /// that has a link.
    pub fn listen(address: SocketAddr, options: &VerbsOptions) -> Result<Exporter, FabricError> {
        let events = Events::open(library().and_then(|library| choose(options, None).map(|_| library))?)?;
        let (desk, stop) = (Arc::new(Desk::default()), Arc::new(Stop::new()?));
        let (listener, standing) = Listener::new(events, address, options, (desk.clone(), stop.clone()))?;
        let thread = std::thread::Builder::new().name("verbs-listen".into()).spawn(move || listener.run());
        let thread = thread.map_err(|error| FabricError::from_io(Kind::Verbs, "cannot start a thread", &error))?;
        Ok(Exporter { standing, options: options.clone(), desk, stop, thread: Some(thread) })
    }
}

impl fabric::Exporter for Exporter {
    fn kind(&self) -> Kind {
        Kind::Verbs
    }

    fn address(&self) -> String {
        self.standing.address().to_string()
    }

    fn prepare(&mut self, regions: &Arc<dyn Regions>) -> Result<(), FabricError> {
        self.standing.prepare(regions)
    }

    fn readiness(&self) -> Readiness {
        self.standing.readiness()
    }

    fn grant(&self, token: Token, regions: Arc<dyn Regions>) -> Result<Box<dyn fabric::Grant>, FabricError> {
        Ok(Box::new(Grant::new(self.standing.registered(&regions)?, &self.desk, token)?))
    }

    fn writer(&self) -> Option<&dyn ConnectsWriters> {
        Some(self)
    }
}

impl ConnectsWriters for Exporter {
    fn connect(
        &self,
        invitation: &Invitation,
        sources: Arc<dyn Regions>,
    ) -> Result<Box<dyn WriteChannel>, FabricError> {
        let sources = Sources { regions: sources, registered: self.standing.prepared()? };
        Ok(Box::new(establish(invitation, &self.options, Wish::default(), Some(&sources))?))
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.ask();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
