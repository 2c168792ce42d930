//! Any network: a thread of the primary's answers READs over a TCP connection.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`frames`] | what passes over the connection, and its parsing: pure |
//! | `exporter` | the primary's end: the listener, and grants |
//! | `responder` | the thread that answers one replica |
//! | `channel` | the replica's end |
//!
//! **Order.** The responder answers requests one after another, straight from the regions' words.
//! Each READ is one or more sends of its own, followed by an acquire fence, so that the kernel has
//! copied all its words before it copies those of the next READ. So a later READ sees nothing
//! older. The replica sends all requests of a batch in one system call.
//!
//! **Revoking.** Dropping the grant shuts the connection down and waits for the responder, which
//! never blocks for long. Bytes that are stored after that do not leave the primary. Bytes that
//! were read before may still arrive.
//!
//! **Bounds.** The primary keeps [`frames::REQUESTS_BYTES`] for each replica; further requests stay
//! in the socket. A replica that takes no answers holds up only itself.

mod channel;
mod exporter;
pub mod frames;
mod responder;

pub use channel::connect;
pub use exporter::Exporter;

use super::{Cause, FabricError, Kind};

fn error(cause: Cause, what: impl Into<String>) -> FabricError {
    FabricError::new(Kind::Tcp, cause, what)
}
