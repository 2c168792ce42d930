//! One end of a control connection: whole messages over a TCP stream, each wait with a bound.
//!
//! The stream is non-blocking; a wait is a poll with a deadline. A message of which only a part has
//! arrived is kept until the rest has; no more than one frame is ever kept.

use super::wire::{FRAME_BYTES_MAX, LENGTH_BYTES, Message, Refusal, STRANGER_FRAME_BYTES_MAX, WireError};
use crate::sys::reach::are_one_host;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Bytes read at a time.
const READ_BYTES: usize = 16 << 10;

/// See the module.
pub struct Link {
    stream: TcpStream,
    peer: SocketAddr,
    received: Vec<u8>,
    frame_bytes_max: usize,
}

/// Why a control connection is over.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The system failed a call.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer closed it.
    #[error("the peer closed the connection")]
    Closed,
    /// No whole message came in time.
    #[error("the peer said nothing for {0:?}")]
    Silent(Duration),
    /// The bytes that came are no message.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The primary refused.
    #[error("the primary refused: {1}")]
    Refused(Refusal, String),
    /// A message that has no place here.
    #[error("the peer said {0} where it made no sense")]
    OutOfPlace(&'static str),
}

impl Link {
    /// Over a connected stream, with a peer that has not proved itself.
    pub fn new(stream: TcpStream) -> io::Result<Link> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        Ok(Link { stream, peer, received: Vec::new(), frame_bytes_max: STRANGER_FRAME_BYTES_MAX })
    }

    /// The peer has proved itself: longer messages are taken from it.
    pub fn trust(&mut self) {
        self.frame_bytes_max = FRAME_BYTES_MAX;
    }

    /// Who is there.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// This end's address: one at which the peer reaches this host.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Whether the peer is on this host, by the addresses of the connection: not by what it says.
    pub fn is_of_this_host(&self) -> bool {
        self.local().is_ok_and(|own| are_one_host(own, self.peer))
    }

    /// By which another thread ends this end's waits for the peer ([`Link::end_waits`]).
    pub fn handle(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Whoever waits for the peer at the link of `handle` is told at once that it is closed.
    /// Messages to the peer still go out.
    pub fn end_waits(handle: &TcpStream) {
        // It fails where the connection is over, and then nobody waits.
        let _ = handle.shutdown(Shutdown::Read);
    }

    /// Send one message, whole, by `deadline`.
    pub fn send(&mut self, message: &Message, deadline: Instant) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT, deadline)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next message, by `deadline`. A refusal is an error.
    pub fn receive(&mut self, deadline: Instant) -> Result<Message, LinkError> {
        loop {
            if let Some(message) = self.try_receive()? {
                return Ok(message);
            }
            self.wait(PollFlags::IN, deadline)?;
        }
    }

    /// The next message if it has arrived.
    pub fn try_receive(&mut self) -> Result<Option<Message>, LinkError> {
        loop {
            if let Some((message, bytes)) = Message::decode(&self.received, self.frame_bytes_max)? {
                self.received.drain(..bytes);
                return match message {
                    Message::Refuse { why, words } => Err(LinkError::Refused(why, words)),
                    message => Ok(Some(message)),
                };
            }
            let mut piece = [0; READ_BYTES];
            let room = (self.frame_bytes_max + LENGTH_BYTES).saturating_sub(self.received.len()).min(READ_BYTES);
            match self.stream.read(&mut piece[..room]) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => self.received.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, for_what: PollFlags, deadline: Instant) -> Result<(), LinkError> {
        let begin = Instant::now();
        let left = deadline.saturating_duration_since(begin);
        let mut watched = [PollFd::new(&self.stream, for_what)];
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut watched, Some(&timeout)) {
            Ok(0) => Err(LinkError::Silent(left)),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::wire::{Greeting, VERSION};
    use std::net::TcpListener;

    fn pair() -> (Link, Link) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = Link::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap()).unwrap();
        (one, Link::new(listener.accept().unwrap().0).unwrap())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        let (mut one, mut two) = pair();
        let challenge = Message::Challenge(Greeting { version: VERSION, nonce: [7; 32] });
        let mut bytes = Vec::new();
        for _ in 0..3 {
            challenge.encode(&mut bytes);
        }
        let writer = std::thread::spawn(move || {
            bytes.iter().for_each(|byte| one.stream.write_all(&[*byte]).unwrap());
            one
        });
        for _ in 0..3 {
            assert_eq!(two.receive(soon()).unwrap(), challenge);
        }
        drop(writer.join().unwrap());
        assert!(matches!(two.receive(soon()), Err(LinkError::Closed)));
    }

    #[test]
    fn silence_ends_and_a_refusal_is_an_error() {
        let (mut one, mut two) = pair();
        assert!(matches!(two.receive(Instant::now()), Err(LinkError::Silent(_))));
        one.send(&Message::Refuse { why: Refusal::Busy, words: "full".into() }, soon()).unwrap();
        assert!(matches!(two.receive(soon()), Err(LinkError::Refused(Refusal::Busy, words)) if words == "full"));
    }

    #[test]
    fn a_wait_is_ended_by_another_thread_and_a_last_word_still_goes_out() {
        let (mut one, mut two) = pair();
        let handle = one.handle().unwrap();
        let waiting = std::thread::spawn(move || {
            let heard = one.receive(soon());
            one.send(&Message::Refuse { why: Refusal::Replaced, words: "over".into() }, soon()).unwrap();
            heard
        });
        Link::end_waits(&handle);
        assert!(matches!(waiting.join().unwrap(), Err(LinkError::Closed)));
        assert!(matches!(two.receive(soon()), Err(LinkError::Refused(Refusal::Replaced, _))));
    }

    #[test]
    fn a_stranger_cannot_make_us_keep_much() {
        let (mut one, mut two) = pair();
        let mut bytes = (STRANGER_FRAME_BYTES_MAX as u32 + 1).to_le_bytes().to_vec();
        bytes.resize(64, 0);
        one.stream.write_all(&bytes).unwrap();
        assert!(matches!(two.receive(soon()), Err(LinkError::Wire(WireError::TooLong(_)))));
    }
}
