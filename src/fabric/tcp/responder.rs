//! The thread that answers one replica. It takes a request, carries it out, sends the answer, and
//! only then takes the next. It ends when either side ends the connection.

use super::error;
use super::exporter::Granted;
use super::frames::{ANSWER_BYTES, Next, Request, Requests, Status, answer};
use crate::fabric::waiting::Step;
use crate::fabric::{Cause, FabricError, Kind};
use crate::sys::receive::receive;
use crate::sys::send::{Part, send_parts};
use crate::sys::words::WordSpan;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest sleep. The end of the grant shuts the socket down, which wakes the thread sooner.
const SLEEP_MAX: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long a replica that was refused may take to read the reason. Closing at once could reset the
/// connection and lose the answer.
const LINGER_MAX: Duration = Duration::from_secs(1);

/// Start answering.
pub(super) fn start(socket: Arc<TcpStream>, granted: Arc<Granted>) -> io::Result<JoinHandle<()>> {
    let mut responder = Responder { socket, granted, requests: Requests::default() };
    std::thread::Builder::new().name("tcp-reads".into()).spawn(move || responder.run())
}

struct Responder {
    socket: Arc<TcpStream>,
    granted: Arc<Granted>,
    requests: Requests,
}

impl Responder {
    fn run(&mut self) {
        let Err(why) = self.serve();
        let refused = matches!(why.cause, Cause::Access | Cause::Protocol);
        {
            let mut step = self.granted.stage.lock();
            if !matches!(*step, Step::Over(_)) {
                *step = Step::Over(why);
            }
        }
        if refused {
            self.linger();
        }
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn serve(&mut self) -> Result<std::convert::Infallible, FabricError> {
        loop {
            match self.requests.next() {
                Next::Request(request) => self.carry_out(request)?,
                Next::Incomplete => self.receive()?,
                Next::Malformed => {
                    self.send(&answer(0, Status::Malformed, 0), None)?;
                    return Err(error(Cause::Protocol, "the replica sent a request that makes no sense"));
                }
            }
        }
    }

    fn receive(&mut self) -> Result<(), FabricError> {
        match receive(&*self.socket, self.requests.room()) {
            Ok(None) => self.wait(PollFlags::IN),
            Ok(Some(0)) => Err(error(Cause::Closed, "the replica ended its channel, or its process has ended")),
            Ok(Some(bytes)) => {
                self.requests.filled(bytes);
                Ok(())
            }
            Err(error) => Err(FabricError::from_io(Kind::Tcp, "requests of a replica", &error)),
        }
    }

    fn carry_out(&self, request: Request) -> Result<(), FabricError> {
        match request {
            Request::Read { region, offset, bytes, tag } => {
                let number = region as usize;
                let words =
                    (number < self.granted.regions.count()).then(|| self.granted.regions.memory(number).words());
                let within = |words: &&[_]| end(offset, bytes).is_some_and(|end| end <= words.len() * 8);
                let Some(words) = words.filter(within) else {
                    return self.refuse(tag, format!("a READ of {bytes} bytes at {offset} of region {region}"));
                };
                let span = WordSpan::new(words, offset as usize, bytes);
                self.send(&answer(tag, Status::Good, bytes), Some(span))?;
                // Order (see tcp.rs): the next READ sees nothing older.
                fence(Ordering::Acquire);
                Ok(())
            }
            Request::Write { offset, words, count } => {
                let slot = self.granted.ack.words();
                let Some(end) = end(offset, count * 8).filter(|end| *end <= slot.len() * 8) else {
                    return self.refuse(0, format!("a WRITE of {count} words at {offset} of the ack slot"));
                };
                let to = &slot[end / 8 - count..end / 8];
                to.iter().zip(words).for_each(|(to, word)| to.store(word, Ordering::Release));
                Ok(())
            }
        }
    }

    fn refuse(&self, tag: u64, what: String) -> Result<(), FabricError> {
        self.send(&answer(tag, Status::Access, 0), None)?;
        Err(error(Cause::Access, format!("the replica asked for {what}, which is beyond it")))
    }

    /// Send a whole answer, as fast as the replica takes it. The kernel copies the words from the
    /// regions.
    fn send(&self, header: &[u8; ANSWER_BYTES], span: Option<WordSpan<'_>>) -> Result<(), FabricError> {
        let body_bytes = span.map_or(0, |span| span.len());
        let mut sent = 0;
        while sent < ANSWER_BYTES + body_bytes {
            let header_left = Part::Bytes(&header[sent.min(ANSWER_BYTES)..]);
            let taken = match span {
                None => send_parts(&*self.socket, &[header_left]),
                Some(span) => {
                    let body_left = Part::Words(span.slice(sent.saturating_sub(ANSWER_BYTES), body_bytes));
                    send_parts(&*self.socket, &[header_left, body_left])
                }
            };
            match taken {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FabricError::from_io(Kind::Tcp, "answers to a replica", &error)),
            }
        }
        Ok(())
    }

    /// Wait until the socket is ready or over, or some time has passed. The caller then tries
    /// again.
    fn wait(&self, what: PollFlags) -> Result<(), FabricError> {
        let _ = poll(&mut [PollFd::new(&*self.socket, what)], Some(&SLEEP_MAX)); // interrupted: tried again, too
        match &*self.granted.stage.lock() {
            Step::Over(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Give the replica time to read the reason; ignore what it still sends.
    fn linger(&self) {
        let until = Instant::now() + LINGER_MAX;
        let _ = self.socket.shutdown(Shutdown::Write);
        while Instant::now() < until {
            let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let _ = poll(&mut [PollFd::new(&*self.socket, PollFlags::IN)], Some(&tick));
            match receive(&*self.socket, &mut [0; 512]) {
                Ok(None) => {}
                Ok(Some(bytes)) if bytes > 0 => {}
                _ => return,
            }
        }
    }
}

/// Where a piece of memory ends, if it can be counted.
fn end(offset: u64, bytes: usize) -> Option<usize> {
    usize::try_from(offset).ok()?.checked_add(bytes)
}
