//! Both ends of a link, of the test's own: a forwarder, which sends requests as frames and reads
//! answers as they come, and an owner, which does as it is told.

use super::WAIT_MAX;
use remora::protocol::Protocol;
use remora::protocol::forward::{Answered, Asked, Fate, Framed};
use remora::replication::forwarding;
use remora::replication::link::{Line, Link};
use remora::replication::secret::{Secret, Side};
use remora::replication::tls::Listening;
use remora::replication::wire::{Greeting, Message, VERSION};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

/// Longer than any answer of these tests.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// In milliseconds: no test lives to see it.
pub const NEVER: u16 = u16::MAX;

/// A link's connection.
struct Wire {
    line: Line,
    received: Vec<u8>,
}

impl Wire {
    fn new(line: Line) -> Wire {
        line.stream.set_nonblocking(false).expect("a socket");
        line.stream.set_read_timeout(Some(WAIT_MAX)).expect("a timeout");
        line.stream.set_write_timeout(Some(WAIT_MAX)).expect("a timeout");
        Wire { line, received: Vec::new() }
    }

    fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.line.tls.writer().write(bytes).expect("TLS takes it");
            bytes = &bytes[taken..];
            while self.line.tls.wants_write() {
                self.line.tls.write_tls(&mut self.line.stream).expect("the other side reads");
            }
        }
    }

    /// Wait for more; false at the end.
    fn receive(&mut self) -> bool {
        loop {
            let mut piece = [0; 16 << 10];
            match self.line.tls.reader().read(&mut piece) {
                Ok(0) => return false,
                Ok(bytes) => {
                    self.received.extend_from_slice(&piece[..bytes]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match self.line.tls.read_tls(&mut self.line.stream) {
                        Ok(0) => return false,
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
                        read => read.expect("something in time"),
                    };
                    self.line.tls.process_new_packets().expect("TLS");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// See the module.
pub struct Forwarder {
    wire: Wire,
    tags: u32,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub tag: u32,
    pub fate: Fate,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// What the client is to be told.
    pub fn done(self) -> String {
        assert_eq!(self.fate, Fate::Done, "{self:?}");
        self.text()
    }
}

impl Forwarder {
    /// To the replication port of a server that has no secret.
    pub fn connect(owner: SocketAddr) -> Forwarder {
        let (line, _) = forwarding::connect(&owner.to_string(), &Secret::none()).expect("a link");
        Forwarder::over(line)
    }

    /// Over a link that has begun.
    pub fn over(line: Line) -> Forwarder {
        Forwarder { wire: Wire::new(line), tags: 0 }
    }

    /// Send bytes, which may be no frame.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.wire.send(bytes);
    }

    /// Send these requests together; the tag of the first. The others follow it.
    pub fn send(&mut self, protocol: Protocol, within_milliseconds: u16, requests: &[&[u8]]) -> u32 {
        let (first, mut bytes) = (self.tags + 1, Vec::new());
        for request in requests {
            self.tags += 1;
            Asked { tag: self.tags, protocol, within_milliseconds, request }.encode(&mut bytes);
        }
        self.send_bytes(&bytes);
        first
    }

    /// The same of lines.
    pub fn send_text(&mut self, requests: &[&str]) -> u32 {
        let requests: Vec<&[u8]> = requests.iter().map(|request| request.as_bytes()).collect();
        self.send(Protocol::Text, NEVER, &requests)
    }

    /// The next answer, whichever it is to; None where the owner has ended the link.
    pub fn next(&mut self) -> Option<Answer> {
        loop {
            let received = &mut self.wire.received;
            if let Framed::Whole(answered, bytes) =
                Answered::decode(received, ANSWER_BYTES_MAX).expect("an owner sends frames")
            {
                let answer = Answer { tag: answered.tag, fate: answered.fate, bytes: answered.bytes.to_vec() };
                received.drain(..bytes);
                return Some(answer);
            }
            if !self.wire.receive() {
                return None;
            }
        }
    }

    /// The next answer.
    pub fn answer(&mut self) -> Answer {
        self.next().expect("the link goes on")
    }

    /// Send one request and read its answer.
    pub fn ask(&mut self, request: &str) -> Answer {
        let tag = self.send_text(&[request]);
        let answer = self.answer();
        assert_eq!(answer.tag, tag);
        answer
    }
}

/// An owner's port. It has no secret.
pub struct OwnerPort(TcpListener, Listening);

impl OwnerPort {
    pub fn new() -> OwnerPort {
        OwnerPort(TcpListener::bind("127.0.0.1:0").expect("a port"), Listening::new().expect("a key"))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    /// Its end of the next link.
    pub fn accept(&self) -> Owner {
        let until = Instant::now() + WAIT_MAX;
        let mut link = Link::accepted(self.0.accept().expect("a forwarder").0, &self.1, until).expect("TLS");
        assert!(matches!(link.receive(until), Ok(Message::Hello(_))));
        let greeting = Greeting { version: VERSION, proof: Secret::none().prove(Side::Primary, link.binding()) };
        link.send(&Message::Accept { greeting, server: [9; 16] }, until).expect("it is taken");
        assert_eq!(link.receive(until).expect("a message"), Message::Forward);
        link.send(&Message::Forwarding, until).expect("it is taken");
        Owner(Wire::new(link.into_line()))
    }
}

/// See the module.
pub struct Owner(Wire);

impl Owner {
    /// The next request, and its tag.
    pub fn request(&mut self) -> (u32, String) {
        loop {
            if let Framed::Whole(asked, bytes) =
                Asked::decode(&self.0.received, ANSWER_BYTES_MAX).expect("a forwarder sends frames")
            {
                let request = (asked.tag, String::from_utf8_lossy(asked.request).into_owned());
                self.0.received.drain(..bytes);
                return request;
            }
            assert!(self.0.receive(), "the link goes on");
        }
    }

    /// Answer one.
    pub fn answer(&mut self, tag: u32, fate: Fate, bytes: &[u8]) {
        let mut frame = Vec::new();
        Answered { tag, fate, bytes }.encode(&mut frame);
        self.0.send(&frame);
    }
}
