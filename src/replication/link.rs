//! One end of a control connection: whole messages over TLS ([`super::tls`]) over a TCP stream,
//! each wait with a bound.
//!
//! The stream is non-blocking; a wait is a poll with a deadline. A message of which only a part has
//! arrived is kept until the rest has; no more than one frame is ever kept, and what TLS keeps of
//! one record or of one message of its handshake.

use super::tls::{self, Binding, Listening};
use super::wire::{FRAME_BYTES_MAX, LENGTH_BYTES, Message, Refusal, STRANGER_FRAME_BYTES_MAX, WireError};
use crate::sys::reach::are_one_host;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::Connection;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Bytes read at a time.
const READ_BYTES: usize = 16 << 10;
/// Steps in which a whole message is looked for, where nobody waits for one.
const STEPS_MAX: usize = 1024;

/// What one step towards the next message has come to.
enum Step {
    /// It is here.
    Whole(Box<Message>),
    /// More of it may be here.
    Part,
    /// Nothing more has arrived.
    Nothing,
}

/// See the module.
pub struct Link {
    stream: TcpStream,
    tls: Connection,
    binding: Binding,
    peer: SocketAddr,
    received: Vec<u8>,
    frame_bytes_max: usize,
}

/// An end of a control connection that carries something else from here on, over the same TLS.
pub struct Line {
    /// It does not block.
    pub stream: TcpStream,
    /// Its handshake is done.
    pub tls: Connection,
    /// Who is there.
    pub peer: SocketAddr,
    /// What has arrived behind the last message.
    pub received: Vec<u8>,
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
    /// What came is not TLS as it should be.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
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
    /// The end that has connected. The handshake of TLS is done by `deadline`; the peer has not
    /// proved itself then.
    pub fn connected(stream: TcpStream, deadline: Instant) -> Result<Link, LinkError> {
        let peer = stream.peer_addr()?;
        Link::begin(stream, peer, tls::begin(peer.ip()).map_err(LinkError::Tls)?, deadline)
    }

    /// The same of the end that has listened.
    pub fn accepted(stream: TcpStream, listening: &Listening, deadline: Instant) -> Result<Link, LinkError> {
        let peer = stream.peer_addr()?;
        Link::begin(stream, peer, listening.begin().map_err(LinkError::Tls)?, deadline)
    }

    fn begin(stream: TcpStream, peer: SocketAddr, tls: Connection, deadline: Instant) -> Result<Link, LinkError> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (binding, frame_bytes_max) = (Binding::default(), STRANGER_FRAME_BYTES_MAX);
        let mut link = Link { stream, tls, binding, peer, received: Vec::new(), frame_bytes_max };
        while link.tls.is_handshaking() {
            link.flush(deadline)?;
            if link.tls.is_handshaking() {
                link.wait(PollFlags::IN, deadline)?;
                link.read()?;
            }
        }
        link.flush(deadline)?;
        link.binding = tls::binding(&link.tls).map_err(LinkError::Tls)?;
        Ok(link)
    }

    /// What proofs are bound to.
    pub fn binding(&self) -> &Binding {
        &self.binding
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

    /// Both sides have agreed on what comes next, which is no message.
    pub fn into_line(self) -> Line {
        let Link { stream, tls, peer, received, .. } = self;
        Line { stream, tls, peer, received }
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
        self.send_bytes(&bytes, deadline)
    }

    /// The same of bytes, which may be no message.
    pub fn send_bytes(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), LinkError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.tls.writer().write(rest)?;
            rest = &rest[taken..];
            self.flush(deadline)?;
        }
        Ok(())
    }

    /// Have the stream take all that TLS has for it.
    fn flush(&mut self, deadline: Instant) -> Result<(), LinkError> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT, deadline)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Give TLS what has arrived. False if nothing has.
    fn read(&mut self) -> Result<bool, LinkError> {
        match self.tls.read_tls(&mut self.stream) {
            Ok(0) => return Err(LinkError::Closed),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        match self.tls.process_new_packets() {
            Ok(_) => Ok(true),
            Err(error) => {
                // The peer learns why, if there is room for that.
                let _ = self.tls.write_tls(&mut self.stream);
                Err(match error {
                    rustls::Error::InvalidMessage(_) if self.tls.is_handshaking() => WireError::Stranger.into(),
                    error => LinkError::Tls(error),
                })
            }
        }
    }

    /// The next message, by `deadline`. A refusal is an error.
    pub fn receive(&mut self, deadline: Instant) -> Result<Message, LinkError> {
        loop {
            match self.step()? {
                Step::Whole(message) => return Ok(*message),
                Step::Nothing => self.wait(PollFlags::IN, deadline)?,
                // A peer that sends on, and never comes to the end of a message, is silent.
                Step::Part if Instant::now() >= deadline => return Err(LinkError::Silent(Duration::ZERO)),
                Step::Part => {}
            }
        }
    }

    /// The next message if it has arrived, and is not behind too much else.
    pub fn try_receive(&mut self) -> Result<Option<Message>, LinkError> {
        for _ in 0..STEPS_MAX {
            match self.step()? {
                Step::Whole(message) => return Ok(Some(*message)),
                Step::Nothing => return Ok(None),
                Step::Part => {}
            }
        }
        Ok(None)
    }

    fn step(&mut self) -> Result<Step, LinkError> {
        if let Some((message, bytes)) = Message::decode(&self.received, self.frame_bytes_max)? {
            self.received.drain(..bytes);
            return match message {
                Message::Refuse { why, words } => Err(LinkError::Refused(why, words)),
                message => Ok(Step::Whole(Box::new(message))),
            };
        }
        let mut piece = [0; READ_BYTES];
        let room = (self.frame_bytes_max + LENGTH_BYTES).saturating_sub(self.received.len()).min(READ_BYTES);
        match self.tls.reader().read(&mut piece[..room]) {
            Ok(0) => Err(LinkError::Closed),
            Ok(count) => {
                self.received.extend_from_slice(&piece[..count]);
                Ok(Step::Part)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(if self.read()? { Step::Part } else { Step::Nothing })
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(LinkError::Closed),
            Err(error) => Err(error.into()),
        }
    }

    /// Wait until something may have arrived, or `other` is ready to be read; at most until then.
    pub fn rest(&self, other: impl AsFd, until: Instant) -> Result<(), LinkError> {
        let mut watched = [PollFd::new(&self.stream, PollFlags::IN), PollFd::new(&other, PollFlags::IN)];
        match poll_until(&mut watched, until) {
            Err(LinkError::Silent(_)) => Ok(()),
            other => other,
        }
    }

    fn wait(&self, for_what: PollFlags, deadline: Instant) -> Result<(), LinkError> {
        poll_until(&mut [PollFd::new(&self.stream, for_what)], deadline)
    }
}

/// Wait until one of these is ready. Silent: none was, by then.
fn poll_until(watched: &mut [PollFd<'_>], deadline: Instant) -> Result<(), LinkError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(LinkError::Silent(left));
    }
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    match poll(watched, Some(&timeout)) {
        Ok(0) => Err(LinkError::Silent(left)),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::shards::SHARDS_MAX;
    use crate::base::term::Term;
    use crate::replication::ack::Tag;
    use crate::replication::wire::{Greeting, PATH_MAX, Subscribed, TERMS_TOLD_MAX, Told, VERSION};
    use crate::store::{History, TermStart};
    use std::net::TcpListener;

    /// Two ends of one connection, the one that has connected first.
    pub fn pair() -> (Link, Link) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let one = std::thread::spawn(move || Link::connected(stream, soon()).unwrap());
        let two = Link::accepted(listener.accept().unwrap().0, &Listening::new().unwrap(), soon()).unwrap();
        (one.join().unwrap(), two)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        let (mut one, mut two) = pair();
        let hello = Message::Hello(Greeting { version: VERSION, proof: [7; 32] });
        let mut bytes = Vec::new();
        for _ in 0..3 {
            hello.encode(&mut bytes);
        }
        let writer = std::thread::spawn(move || {
            // Into records of few bytes, and each record into single bytes.
            for piece in bytes.chunks(7) {
                one.tls.writer().write_all(piece).unwrap();
                let mut sealed = Vec::new();
                while one.tls.wants_write() {
                    one.tls.write_tls(&mut sealed).unwrap();
                }
                sealed.iter().for_each(|byte| one.stream.write_all(&[*byte]).unwrap());
            }
            one
        });
        for _ in 0..3 {
            assert_eq!(two.receive(soon()).unwrap(), hello);
        }
        drop(writer.join().unwrap());
        assert!(matches!(two.receive(soon()), Err(LinkError::Closed)));
    }

    /// Of many records, and more than TLS keeps for the socket at a time.
    #[test]
    fn the_longest_message_arrives_in_both_directions() {
        let starts = (1..=TERMS_TOLD_MAX as u32).map(|number| TermStart { term: Term::of(number, 7), begins: 64 });
        let history = History::new(Term::of(1, 9), starts);
        let told = |shard| Told { shard, tag: Tag::FIRST, history: history.clone() };
        let shards = (0..SHARDS_MAX).map(told).collect();
        let long = Message::Subscribed(Subscribed { path: vec![[3; 16]; PATH_MAX], shards });
        let passes = |from: &mut Link, to: &mut Link| {
            std::thread::scope(|scope| {
                scope.spawn(|| from.send(&long, soon()).unwrap());
                assert_eq!(to.receive(soon()).unwrap(), long);
            });
        };
        let (mut one, mut two) = pair();
        [&mut one, &mut two].into_iter().for_each(Link::trust);
        passes(&mut one, &mut two);
        passes(&mut two, &mut one);
    }

    /// There is always something to read, and never a message.
    #[test]
    fn who_sends_on_without_an_end_is_silent_at_the_deadline() {
        let (mut one, mut two) = pair();
        two.trust();
        let sending = std::thread::spawn(move || {
            let length = (FRAME_BYTES_MAX as u32).to_le_bytes();
            while one.send_bytes(&[length; 1024].concat(), soon()).is_ok() {}
        });
        let (mut peeked, until) = (vec![0; 8 * READ_BYTES], soon());
        while two.stream.peek(&mut peeked).unwrap_or(0) < peeked.len() / 2 {
            assert!(Instant::now() < until, "it sends");
            std::thread::yield_now();
        }
        assert!(matches!(two.receive(Instant::now()), Err(LinkError::Silent(_))));
        assert!(two.received.len() <= READ_BYTES, "{} bytes were heard after the deadline", two.received.len());
        drop(two);
        sending.join().unwrap();
    }

    /// The two ends of a connection have one binding; another connection has another.
    #[test]
    fn a_binding_is_of_one_connection() {
        let ((one, two), (other, _)) = (pair(), pair());
        assert_eq!(one.binding(), two.binding());
        assert_ne!(one.binding(), other.binding());
        assert_ne!(*one.binding(), [0; 32]);
    }

    #[test]
    fn who_speaks_no_tls_is_a_stranger_on_either_side() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: cache\r\n\r\n").unwrap();
        let met = Link::accepted(listener.accept().unwrap().0, &Listening::new().unwrap(), soon());
        assert!(matches!(met.err(), Some(LinkError::Wire(WireError::Stranger))));
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        server.write_all(b"ERROR\r\nERROR\r\n").unwrap();
        assert!(matches!(Link::connected(stream, soon()).err(), Some(LinkError::Wire(WireError::Stranger))));
    }

    #[test]
    fn a_handshake_ends_at_its_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        assert!(matches!(Link::connected(stream, deadline).err(), Some(LinkError::Silent(_))));
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
        one.send_bytes(&bytes, soon()).unwrap();
        assert!(matches!(two.receive(soon()), Err(LinkError::Wire(WireError::TooLong(_)))));
    }
}
