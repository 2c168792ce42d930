//! How a connection's bytes travel: as they are, or sealed (TLS). Below the service, which reads
//! and writes what clients mean and does not know which it is.
//!
//! A sealed connection is a [`Session`]. What the service is told to be sent is gone for good: the
//! socket has taken the records that carry it. So no plaintext is held twice, and whatever counts
//! on what was sent (answers that wait for replicas) holds here, too.

mod session;

use super::state::State;
use crate::base::limits::HANDSHAKES_PER_TURN;
use crate::base::time::SteadySeconds;
use crate::engine::{Output, WorkerStats};
use crate::store::{Store, Turn};
use crate::sys::receive;
use crate::sys::send::send_parts;
pub use session::Session;
use std::io;
use std::os::fd::OwnedFd;

/// Most bytes that one read behind a long request takes of a sealed connection: records are opened
/// where they arrive, and copied from there.
const READ_BEHIND_BYTES_MAX: usize = session::SEALED_BYTES;

/// See the module.
pub enum Transport {
    /// As they are.
    Plain,
    /// By TLS.
    Tls(Box<Session>),
}

/// What a worker lends to those of its connections that are sealed.
pub struct Sealing {
    /// What has arrived, sealed.
    cipher: Box<[u8]>,
    /// What is to be sealed, in one piece.
    plain: Vec<u8>,
    /// Connections in their handshake that may still be served in this turn.
    handshakes_left: usize,
}

impl Sealing {
    /// Only what is used takes memory.
    pub fn new() -> Sealing {
        Sealing { cipher: vec![0; session::SEALED_BYTES].into(), plain: Vec::new(), handshakes_left: 0 }
    }

    /// Another turn.
    pub fn begin_turn(&mut self) {
        self.handshakes_left = HANDSHAKES_PER_TURN;
    }
}

impl Transport {
    /// As [`receive::receive`].
    #[inline]
    pub fn receive(
        &mut self,
        socket: &OwnedFd,
        buffer: &mut [u8],
        sealing: &mut Sealing,
        stats: &WorkerStats,
    ) -> io::Result<Option<usize>> {
        match self {
            Transport::Plain => receive::receive(socket, buffer),
            Transport::Tls(session) => session.receive(socket, buffer, sealing, stats),
        }
    }

    /// As [`receive::receive_behind`].
    #[inline]
    pub fn receive_behind(
        &mut self,
        socket: &OwnedFd,
        buffer: &mut Vec<u8>,
        bytes_max: usize,
        sealing: &mut Sealing,
        stats: &WorkerStats,
    ) -> io::Result<Option<usize>> {
        let Transport::Tls(session) = self else { return receive::receive_behind(socket, buffer, bytes_max) };
        let held = buffer.len();
        let room = (buffer.capacity() - held).min(bytes_max).min(READ_BEHIND_BYTES_MAX);
        buffer.resize(held + room, 0);
        let received = session.receive(socket, &mut buffer[held..], sealing, stats);
        let bytes = received.as_ref().map_or(0, |bytes| bytes.unwrap_or(0));
        buffer.truncate(held + bytes);
        received
    }

    /// As [`Output::write_out`]. Each form by itself, for what is plain would pay for the other.
    #[inline]
    pub fn write_out(
        &mut self,
        socket: &OwnedFd,
        output: &mut Output,
        sealing: &mut Sealing,
        store: &Store,
        turn: &Turn<'_>,
    ) -> io::Result<Option<usize>> {
        match self {
            Transport::Plain => output.write_out(|parts| send_parts(socket, parts), store, turn),
            Transport::Tls(session) => {
                output.write_out(|parts| session.send(socket, parts, &mut sealing.plain), store, turn)
            }
        }
    }

    /// What a connection waits for that has answered all that it was asked.
    #[inline]
    pub fn next(&self) -> State {
        match self {
            Transport::Plain => State::Reading,
            Transport::Tls(session) => session.next(),
        }
    }

    /// Memory that it holds and that depends on what the client does.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        match self {
            Transport::Plain => 0,
            Transport::Tls(session) => session.held_bytes(),
        }
    }

    /// Whether a byte has gone either way since this was asked, though it may be no use yet: a part
    /// of a record.
    pub fn take_moved(&mut self) -> bool {
        match self {
            Transport::Plain => false,
            Transport::Tls(session) => session.take_moved(),
        }
    }

    /// Whether its client has had its time for the handshake.
    pub fn is_late(&self, now: SteadySeconds) -> bool {
        matches!(self, Transport::Tls(session) if session.is_late(now))
    }

    /// Tell the client that nothing more comes, if the socket takes it.
    pub fn close(&mut self, socket: &OwnedFd) {
        if let Transport::Tls(session) = self {
            session.close(socket);
        }
    }
}
