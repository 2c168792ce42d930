//! The replica's end of TCP: requests go out in batches, answers come straight into their landings.

use super::error;
use super::frames::{
    ANSWER_BYTES, Answers, BadAnswer, Expected, REQUEST_BYTES, Status, WELCOME_BYTES, WRITE_BYTES_MAX, Want, greeting,
    parse_welcome, put_read, put_writes,
};
use crate::fabric::{
    ACK_BYTES, CONNECT_WAIT_MAX, Cause, Channel, Completion, DEPTH_MAX, FabricError, Invitation, Kind, Landing,
    READ_BYTES_MAX, Read,
};
use crate::sys::receive::{receive, receive_words};
use crate::sys::send::{Part, send_parts};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::{self, Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Most bytes of requests that wait for the socket: far more than the requests of all READs under
/// way, and an ack after each of them. When the limit is reached, the primary counts as gone.
const OUT_BYTES_MAX: usize = 512 << 10;
/// Longest wait of one poll: far longer than any caller asks for, and no clock overflows by it.
const POLL_WAIT_MAX: Duration = Duration::from_secs(3600);
/// The shortest timeout: the system takes zero for no limit.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Connect to the address of `invitation`, which must be numeric.
pub fn connect(invitation: &Invitation) -> Result<Box<dyn Channel>, FabricError> {
    let address: SocketAddr = invitation
        .address
        .parse()
        .map_err(|_| error(Cause::Protocol, format!("{} is not an address with a port", invitation.address)))?;
    let (socket, answer) = greet(address, invitation).map_err(|error| {
        FabricError::from_io(Kind::Tcp, &format!("connecting to {address} (is the port open to this host?)"), &error)
    })?;
    match parse_welcome(&answer) {
        Some((Status::Good, regions)) if regions as usize == invitation.regions.len() => {}
        Some((Status::Unknown, _)) => {
            return Err(error(Cause::UnknownToken, "the primary does not know the token, or no longer"));
        }
        Some((Status::Version, _)) => {
            return Err(error(Cause::Unsupported, "the primary speaks another version; run the same on both hosts"));
        }
        _ => return Err(error(Cause::Protocol, format!("what answers at {address} is not that primary"))),
    }
    Ok(Box::new(TcpChannel {
        socket,
        out: Vec::new(),
        under_way: VecDeque::with_capacity(DEPTH_MAX),
        answers: Answers::default(),
        over: None,
    }))
}

fn greet(address: SocketAddr, invitation: &Invitation) -> io::Result<(TcpStream, [u8; WELCOME_BYTES])> {
    let until = Instant::now() + CONNECT_WAIT_MAX;
    let left = || Some(until.saturating_duration_since(Instant::now()).max(WAIT_MIN));
    let mut socket = TcpStream::connect_timeout(&address, CONNECT_WAIT_MAX)?;
    socket.set_nodelay(true)?;
    socket.set_write_timeout(left())?;
    socket.write_all(&greeting(&invitation.token))?;
    let mut answer = [0; WELCOME_BYTES];
    let mut read = 0;
    while read < answer.len() {
        socket.set_read_timeout(left())?;
        match socket.read(&mut answer[read..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => read += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    socket.set_nonblocking(true)?;
    Ok((socket, answer))
}

struct TcpChannel {
    socket: TcpStream,
    /// Requests that the socket has not taken yet.
    out: Vec<u8>,
    /// READs under way, in the order of their submission, which is the order of their answers.
    under_way: VecDeque<Read>,
    answers: Answers,
    over: Option<FabricError>,
}

impl Channel for TcpChannel {
    fn kind(&self) -> Kind {
        Kind::Tcp
    }

    fn depth_max(&self) -> usize {
        DEPTH_MAX
    }

    fn landing(&mut self, bytes: usize) -> Result<Landing, FabricError> {
        Landing::new(bytes).map_err(|error| FabricError::from_io(Kind::Tcp, "memory for a landing", &error))
    }

    fn submit(&mut self, reads: &mut Vec<Read>) -> Result<(), FabricError> {
        self.check()?;
        assert!(self.under_way.len() + reads.len() <= DEPTH_MAX, "more READs under way than were allowed");
        for read in reads.drain(..) {
            assert!(
                read.bytes.is_multiple_of(8) && read.bytes <= READ_BYTES_MAX,
                "a READ is whole words, not too many"
            );
            assert!(read.bytes <= read.landing.bytes(), "a READ longer than its landing");
            put_read(&mut self.out, read.region, read.offset, read.bytes, read.tag);
            self.under_way.push_back(read);
        }
        self.send(); // an error shows when the READs come back
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Completion>, wait: Duration) -> Result<usize, FabricError> {
        let before = done.len();
        let until = Instant::now() + wait.min(POLL_WAIT_MAX);
        loop {
            self.send();
            self.receive(done);
            if let Some(over) = &self.over {
                let failed =
                    |read: Read| Completion { tag: read.tag, landing: read.landing, outcome: Err(over.clone()) };
                done.extend(self.under_way.drain(..).map(failed));
                return if done.len() > before { Ok(done.len() - before) } else { Err(over.clone()) };
            }
            let left = until.saturating_duration_since(Instant::now());
            if done.len() > before || left.is_zero() {
                return Ok(done.len() - before);
            }
            self.wait(left);
        }
    }

    fn write_ack(&mut self, offset: usize, words: &[u64]) -> Result<bool, FabricError> {
        self.check()?;
        assert!(
            words.len() * 8 <= ACK_BYTES && offset.is_multiple_of(8),
            "a WRITE is whole words, no more than a slot"
        );
        put_writes(&mut self.out, offset, words);
        self.send();
        self.check().map(|()| true)
    }
}

impl TcpChannel {
    fn check(&self) -> Result<(), FabricError> {
        self.over.clone().map_or(Ok(()), Err)
    }

    fn end(&mut self, why: FabricError) {
        self.over.get_or_insert(why);
    }

    /// Send as much as the socket takes.
    fn send(&mut self) {
        while self.over.is_none() && !self.out.is_empty() {
            match send_parts(&self.socket, &[Part::Bytes(&self.out)]) {
                Ok(bytes) => drop(self.out.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The primary may have sent the reason before it closed; receive() finds it.
                Err(_) => return self.out.clear(),
            }
        }
        if self.out.len() > OUT_BYTES_MAX {
            self.end(error(Cause::TimedOut, "the primary takes no requests; is its process stopped?"));
        }
    }

    /// Receive what has arrived for READs under way. Without any, this only finds out whether the
    /// primary has closed the connection.
    fn receive(&mut self, done: &mut Vec<Completion>) {
        let before = done.len();
        while self.over.is_none() && (done.len() == before || !self.under_way.is_empty()) {
            let received = match (self.answers.want(), self.under_way.front()) {
                (Want::Body { from }, Some(read)) => receive_words(&self.socket, read.landing.words(read.bytes), from),
                (Want::Header(room), _) => receive(&self.socket, room),
                (Want::Body { .. }, None) => unreachable!("a body is some READ's"),
            };
            match received {
                Ok(None) => return,
                Ok(Some(0)) => {
                    self.end(error(Cause::Closed, "the primary ended the channel, or its process has ended"))
                }
                Ok(Some(bytes)) => self.took(bytes, done),
                Err(error) => self.end(FabricError::from_io(Kind::Tcp, "answers of the primary", &error)),
            }
        }
    }

    fn took(&mut self, bytes: usize, done: &mut Vec<Completion>) {
        let next = self.under_way.front().map(|read| Expected { tag: read.tag, bytes: read.bytes });
        match self.answers.took(bytes, next) {
            Ok(false) => {}
            Ok(true) => done.extend(self.under_way.pop_front().map(|read| Completion {
                tag: read.tag,
                landing: read.landing,
                outcome: Ok(()),
            })),
            Err(BadAnswer::Status(Status::Access)) => {
                self.end(error(Cause::Access, "the primary refused a READ or WRITE beyond what it offers"));
            }
            Err(bad) => self.end(error(Cause::Protocol, format!("the primary's answer makes no sense: {bad:?}"))),
        }
    }

    /// Wait up to `wait` until the socket is ready. A signal may shorten the wait.
    fn wait(&self, wait: Duration) {
        let sending = if self.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::IN | sending)], Some(&timeout));
    }
}

/// An ack goes as several requests, each with a header.
const ACK_REQUESTS_BYTES: usize = ACK_BYTES.div_ceil(WRITE_BYTES_MAX) * (REQUEST_BYTES + WRITE_BYTES_MAX);
const _: () = assert!(ANSWER_BYTES > 0 && OUT_BYTES_MAX >= DEPTH_MAX * (2 * REQUEST_BYTES + ACK_REQUESTS_BYTES));
