//! A forwarder of the test's own: it sends requests as frames over a link, and reads answers as
//! they come.

use super::WAIT_MAX;
use remora::protocol::Protocol;
use remora::protocol::forward::{Answered, Asked, Fate, Framed};
use remora::replication::forwarding;
use remora::replication::link::Line;
use remora::replication::secret::Secret;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

/// Longer than any answer of these tests.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// In milliseconds: no test lives to see it.
pub const NEVER: u16 = u16::MAX;

/// See the module.
pub struct Forwarder {
    line: Line,
    received: Vec<u8>,
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
        line.stream.set_nonblocking(false).expect("a socket");
        line.stream.set_read_timeout(Some(WAIT_MAX)).expect("a timeout");
        line.stream.set_write_timeout(Some(WAIT_MAX)).expect("a timeout");
        Forwarder { line, received: Vec::new(), tags: 0 }
    }

    /// Send bytes, which may be no frame.
    pub fn send_bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.line.tls.writer().write(bytes).expect("TLS takes it");
            bytes = &bytes[taken..];
            while self.line.tls.wants_write() {
                self.line.tls.write_tls(&mut self.line.stream).expect("the owner reads");
            }
        }
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
            if let Framed::Whole(answered, bytes) =
                Answered::decode(&self.received, ANSWER_BYTES_MAX).expect("an owner sends frames")
            {
                let answer = Answer { tag: answered.tag, fate: answered.fate, bytes: answered.bytes.to_vec() };
                self.received.drain(..bytes);
                return Some(answer);
            }
            let mut piece = [0; 16 << 10];
            match self.line.tls.reader().read(&mut piece) {
                Ok(0) => return None,
                Ok(bytes) => self.received.extend_from_slice(&piece[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match self.line.tls.read_tls(&mut self.line.stream) {
                        Ok(0) => return None,
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                        read => read.expect("an answer in time"),
                    };
                    self.line.tls.process_new_packets().expect("TLS");
                }
                Err(error) => panic!("{error}"),
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
