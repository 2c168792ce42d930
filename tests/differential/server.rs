//! One of the two servers, seen from a client: bytes go there in pieces, answers come back.
//!
//! Where all answers to a burst have come is told by a last request of which the answer is
//! unmistakable. Bytes are written and read by turns, so that a server whose answers nobody takes
//! does not stop reading.

use super::command::{Burst, Part};
use super::support::packets::Packet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Between two pieces, so that the server mostly sees them apart.
const PIECE_PAUSE: Duration = Duration::from_micros(30);

const NOOP: u8 = 0x0A;
/// In the opaques of these alone.
const SYNC_OPAQUE: u32 = 0xFF00_0000;

/// Where the two differ, by the order in which both are given everywhere.
pub const MEMCACHED: usize = 0;
pub const REMORA: usize = 1;

pub struct Connection {
    stream: TcpStream,
    binary: bool,
    syncs: u64,
}

/// What came of a burst.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum End {
    /// Everything is answered.
    Answered,
    /// The server has hung up.
    Closed,
    /// Nothing more comes: the server waits, say for the rest of a value.
    Silent,
}

impl Connection {
    pub fn to(address: SocketAddr, binary: bool) -> Connection {
        let stream = TcpStream::connect(address).expect("the server takes connections");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_nonblocking(true).expect("a TCP socket");
        Connection { stream, binary, syncs: 0 }
    }

    /// A request, and its answer, which is none of another request's.
    fn sync(&mut self) -> [Vec<u8>; 2] {
        self.syncs += 1;
        if !self.binary {
            let ask = format!("mg differential_sync O{}\r\n", self.syncs);
            return [ask, format!("EN O{}\r\n", self.syncs)].map(String::into_bytes);
        }
        let opaque = SYNC_OPAQUE | self.syncs as u32;
        let ask = Packet { opcode: NOOP, opaque, ..Packet::default() }.bytes();
        let mut answer = ask.clone();
        answer[0] = 0x81;
        [ask, answer]
    }

    /// Send all of `bytes` in pieces, and a request behind it whose answer says that all is
    /// answered; the answers before that one.
    pub fn ask(&mut self, bytes: &[u8], cuts: &[usize], wait_max: Duration) -> (Vec<u8>, End) {
        let [sync, expected] = self.sync();
        let all = [bytes, &sync].concat();
        let mut answers = Vec::new();
        let mut begin = 0;
        for cut in cuts.iter().map(|cut| bytes.len() * cut / 1000).chain([all.len()]) {
            if begin > 0 {
                std::thread::sleep(PIECE_PAUSE);
            }
            if !self.write(&all[begin..cut], &mut answers) {
                break;
            }
            begin = cut;
        }
        let until = Instant::now() + wait_max;
        let mut looks = 0u32;
        loop {
            if answers.ends_with(&expected) {
                answers.truncate(answers.len() - expected.len());
                return (answers, End::Answered);
            }
            match self.read(&mut answers) {
                Some(0) if Instant::now() > until => return (answers, End::Silent),
                // Answers come within some ten microseconds, mostly.
                Some(0) if looks < 20 => std::thread::yield_now(),
                Some(0) => std::thread::sleep(PIECE_PAUSE),
                Some(_) => looks = 0,
                None => return (answers, End::Closed),
            }
            looks += 1;
        }
    }

    /// False once the server has hung up.
    fn write(&mut self, piece: &[u8], answers: &mut Vec<u8>) -> bool {
        let mut rest = piece;
        let mut stuck_since = Instant::now();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(bytes) => {
                    rest = &rest[bytes..];
                    stuck_since = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(PIECE_PAUSE),
                Err(_) => return false,
            }
            if !rest.is_empty() && (self.read(answers).is_none() || stuck_since.elapsed() > Duration::from_secs(20)) {
                return false;
            }
        }
        true
    }

    /// Bytes that were there; none where the server has hung up.
    fn read(&mut self, answers: &mut Vec<u8>) -> Option<usize> {
        let mut piece = [0; 64 << 10];
        match self.stream.read(&mut piece) {
            Ok(0) => None,
            Ok(bytes) => {
                answers.extend_from_slice(&piece[..bytes]);
                Some(bytes)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
            Err(_) => None,
        }
    }
}

/// The bytes of a burst for one of the servers.
pub fn bytes_for(burst: &Burst, cas_of: impl Fn(&[u8]) -> u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in burst.commands.iter().flat_map(|command| &command.parts) {
        match part {
            Part::Bytes(part) => bytes.extend_from_slice(part),
            Part::Cas(key) => bytes.extend_from_slice(cas_of(key).to_string().as_bytes()),
            Part::CasBytes(key) => bytes.extend_from_slice(&cas_of(key).to_be_bytes()),
        }
    }
    bytes
}
