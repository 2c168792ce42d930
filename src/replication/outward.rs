//! The forwarder's side of a link's handshake: a connection to the replication port of another
//! server, which executes requests that come by it. What it carries then is in
//! [`crate::protocol::forward`].

use super::HANDSHAKE_WAIT_MAX;
use super::attach::{AttachError, meet};
use super::link::LinkError;
use super::secret::Secret;
use super::wire::Message;
use std::net::TcpStream;
use std::time::Instant;

/// A connection whose other end executes requests. Its stream does not block.
pub struct Opened {
    /// The socket.
    pub stream: TcpStream,
    /// Its TLS, whose handshake is done.
    pub tls: rustls::Connection,
    /// What has come over it already.
    pub received: Vec<u8>,
}

/// Connect to the server whose replication port is at `address` (HOST:PORT), prove to one another
/// that both have the secret, and ask it to execute requests. Takes three times
/// [`HANDSHAKE_WAIT_MAX`] at most.
pub fn open(address: &str, secret: &Secret) -> Result<Opened, AttachError> {
    let deadline = Instant::now() + 2 * HANDSHAKE_WAIT_MAX;
    let (mut link, _) = meet(address, secret, deadline)?;
    let peer = link.peer();
    let failed = |error| AttachError::Link(peer, error);
    let deadline = Instant::now() + HANDSHAKE_WAIT_MAX;
    link.send(&Message::Forward, deadline).map_err(failed)?;
    match link.receive(deadline).map_err(failed)? {
        Message::Forwarding => {
            let (stream, tls, received) = link.into_parts();
            Ok(Opened { stream, tls, received })
        }
        other => Err(failed(LinkError::OutOfPlace(other.name()))),
    }
}
