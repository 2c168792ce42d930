//! The one place that knows all fabrics by name: listening and connecting.

use super::{Cause, Channel, Exporter, FabricError, Invitation, Kind, shm, tcp, verbs};
use std::net::SocketAddr;

/// What fabrics need to know about this host.
#[derive(Debug, Clone, Default)]
pub struct ConnectOptions {
    /// Which RDMA device.
    pub verbs: verbs::VerbsOptions,
}

/// Listen for channels of `kind`. Fabrics with a network port listen at `address`.
pub fn listen(kind: Kind, address: SocketAddr, options: &ConnectOptions) -> Result<Box<dyn Exporter>, FabricError> {
    match kind {
        Kind::Shm => Ok(Box::new(shm::Exporter::listen()?)),
        Kind::Tcp => Ok(Box::new(tcp::Exporter::listen(address)?)),
        Kind::Verbs => Ok(Box::new(verbs::Exporter::listen(address, &options.verbs)?)),
        Kind::Sim => Err(only_for_tests()),
    }
}

/// Ok if this host has what `kind` needs; otherwise the reason.
pub fn is_possible(kind: Kind, options: &ConnectOptions) -> Result<(), FabricError> {
    match kind {
        Kind::Shm | Kind::Tcp => Ok(()),
        Kind::Verbs => verbs::is_possible(&options.verbs),
        Kind::Sim => Err(only_for_tests()),
    }
}

/// Connect to what an exporter elsewhere has granted. Waits for at most
/// [`super::CONNECT_WAIT_MAX`].
pub fn connect(kind: Kind, invitation: &Invitation, options: &ConnectOptions) -> Result<Box<dyn Channel>, FabricError> {
    match kind {
        Kind::Shm => shm::connect(invitation),
        Kind::Tcp => tcp::connect(invitation),
        Kind::Verbs => verbs::connect(invitation, &options.verbs),
        Kind::Sim => Err(only_for_tests()),
    }
}

fn only_for_tests() -> FabricError {
    FabricError::new(Kind::Sim, Cause::Unsupported, "it joins two ends within one process, and is for tests")
}
