//! A link's bytes: frames over TLS over a socket, none of which blocks.
//!
//! Frames are sealed only while nothing sealed waits for the socket, so what waits is bounded by
//! one batch of them.

use crate::protocol::forward::{Answered, Framed};
use crate::replication::outward::Opened;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes that are opened at a time.
const PIECE_BYTES: usize = 16 << 10;
/// Bytes of answers that are read in a turn before others have theirs.
const RECEIVE_BYTES_MAX: usize = 1 << 20;
/// Bytes of frames that are sealed before the socket has taken those before them, but for one
/// frame that is larger.
const SEAL_BYTES_MAX: usize = 256 << 10;
/// What is kept of the memory for frames that have arrived in part.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// See the module.
pub struct Wire {
    stream: TcpStream,
    tls: rustls::Connection,
    /// Of answers, what is not decoded yet.
    arrived: Vec<u8>,
    /// Of requests, what is not sealed yet.
    frames: Vec<u8>,
}

impl Wire {
    /// Over a connection whose other end is ready.
    pub fn new(opened: Opened) -> Wire {
        let Opened { stream, mut tls, received } = opened;
        // What may be held is bounded here, by what is sealed at a time.
        tls.set_buffer_limit(None);
        Wire { stream, tls, arrived: received, frames: Vec::new() }
    }

    /// The frames to be sent next, to append to; None while there are enough.
    pub fn frames(&mut self) -> Option<&mut Vec<u8>> {
        (self.frames.len() < SEAL_BYTES_MAX && !self.tls.wants_write()).then_some(&mut self.frames)
    }

    /// Have the socket take what it takes. True while something is left that it does not take now.
    pub fn send(&mut self) -> io::Result<bool> {
        loop {
            while self.tls.wants_write() {
                match self.tls.write_tls(&mut self.stream) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if self.frames.is_empty() {
                return Ok(false);
            }
            self.tls.writer().write_all(&self.frames)?;
            self.frames.clear();
            self.frames.shrink_to(SPARE_BYTES_MAX);
        }
    }

    /// Read what has arrived, and call `take` for each answer, of at most `answer_bytes_max` bytes.
    /// Err: nothing more comes.
    pub fn receive(&mut self, answer_bytes_max: usize, mut take: impl FnMut(Answered<'_>)) -> io::Result<()> {
        let mut left = RECEIVE_BYTES_MAX;
        loop {
            let ended = self.read()?;
            left = left.saturating_sub(self.arrived.len());
            self.decode(answer_bytes_max, &mut take)?;
            match ended {
                Some(Over::Closed) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(Over::Nothing) => return Ok(()),
                None if left == 0 => return Ok(()),
                None => {}
            }
        }
    }

    /// One read, and all that it brings. None where more may be there.
    fn read(&mut self) -> io::Result<Option<Over>> {
        let read = match self.tls.read_tls(&mut self.stream) {
            Ok(0) => Some(Over::Closed),
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(Over::Nothing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Err(error) => return Err(error),
        };
        self.tls.process_new_packets().map_err(io::Error::other)?;
        loop {
            let at = self.arrived.len();
            self.arrived.resize(at + PIECE_BYTES, 0);
            let opened = self.tls.reader().read(&mut self.arrived[at..]);
            self.arrived.truncate(at + opened.as_ref().map_or(0, |bytes| *bytes));
            match opened {
                Ok(0) => return Ok(Some(Over::Closed)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(read),
                Err(error) => return Err(error),
            }
        }
    }

    fn decode(&mut self, answer_bytes_max: usize, take: &mut impl FnMut(Answered<'_>)) -> io::Result<()> {
        let mut at = 0;
        while at < self.arrived.len() {
            let decoded = Answered::decode(&self.arrived[at..], answer_bytes_max);
            match decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                Framed::Whole(answered, bytes) => {
                    take(answered);
                    at += bytes;
                }
                Framed::Incomplete { .. } => break,
            }
        }
        if at > 0 {
            self.arrived.drain(..at);
        }
        if self.arrived.is_empty() {
            self.arrived.shrink_to(SPARE_BYTES_MAX);
        }
        Ok(())
    }
}

/// What one read has come to, where nothing more is there now.
enum Over {
    Nothing,
    Closed,
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
