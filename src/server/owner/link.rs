//! One link at the owner: what has arrived, what waits, what is to be sent; and its bounds.
//!
//! A request that waits, for room or for replicas, does not hold up those behind it, with one
//! exception: what is about the same shard keeps its order. The forwarder's client may have asked
//! for both over one connection.

use crate::base::limits::{FORWARD_BYTES_MAX, FORWARD_FRAMES_MAX, OUTPUT_BYTES_HIGH};
use crate::base::shards::ShardSet;
use crate::base::time::SteadySeconds;
use crate::engine::{Client, Origin, Output};
use crate::protocol::Protocol;
use crate::protocol::forward::{Asked, Fate, encode_answer};
use crate::replication::forwarding::LinkPlace;
use crate::replication::link::Line;
use crate::server::pipe::Pipe;
use crate::sys::poll::Interest;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// See the module.
pub struct Link {
    /// The connection.
    pub pipe: Pipe,
    /// The forwarder.
    pub peer: SocketAddr,
    /// What the poller watches for.
    pub interest: Interest,
    /// There may be something to read, or to be begun.
    pub is_ready: bool,
    /// Whole frames have arrived and are not begun.
    pub has_left: bool,
    /// Answers that wait for replicas.
    pub held: Vec<Held>,
    /// Memory of those.
    pub held_bytes: usize,
    /// Requests that wait for room, and those behind them.
    pub parked: VecDeque<Parked>,
    /// Their bytes.
    pub parked_bytes: usize,
    /// What those are about.
    pub blocked: Blocked,
    /// What it was last charged with, of unfinished requests and of unsent answers.
    pub charged: (usize, usize),
    /// When the socket last took a byte.
    pub moved_at: SteadySeconds,
    _place: LinkPlace,
}

/// An answer that is held.
pub struct Held {
    /// The request's.
    pub tag: u32,
    /// It alone.
    pub output: Box<Output>,
    /// What that takes.
    pub bytes: usize,
}

/// A request that waits.
pub struct Parked {
    /// The request's.
    pub tag: u32,
    /// What its client speaks.
    pub protocol: Protocol,
    /// The request.
    pub request: Box<[u8]>,
    /// What it is about.
    pub about: About,
    /// Where to go on; None while it has not been begun, for it is behind another one.
    pub resume: Option<u32>,
    /// Since when it is here.
    pub since: Instant,
    /// The forwarder waits for so long.
    pub within: Duration,
}

impl Parked {
    /// What has arrived as this frame.
    pub fn asked(&self) -> Asked<'_> {
        let within_milliseconds = u16::try_from(self.within.as_millis()).unwrap_or(u16::MAX);
        Asked { tag: self.tag, protocol: self.protocol, within_milliseconds, request: &self.request }
    }
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A key of this shard.
    Shard(u32),
    /// All shards.
    All,
}

/// What requests that wait are about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Blocked {
    shards: ShardSet,
    all: bool,
}

impl Blocked {
    /// Whether a request comes behind one of them.
    pub fn has(&self, about: About) -> bool {
        self.all
            || match about {
                About::Shard(shard) => self.shards.has(shard as usize),
                About::All => !self.shards.is_empty(),
            }
    }

    /// One more waits.
    pub fn add(&mut self, about: About) {
        match about {
            About::Shard(shard) => self.shards.insert(shard as usize),
            About::All => self.all = true,
        }
    }
}

impl Link {
    /// One that has just been handed over.
    pub fn new(line: Line, place: LinkPlace, now: SteadySeconds) -> io::Result<Link> {
        let peer = line.peer;
        Ok(Link {
            pipe: Pipe::new(line)?,
            peer,
            interest: Interest::Read,
            is_ready: true,
            has_left: false,
            held: Vec::new(),
            held_bytes: 0,
            parked: VecDeque::new(),
            parked_bytes: 0,
            blocked: Blocked::default(),
            charged: (0, 0),
            moved_at: now,
            _place: place,
        })
    }

    /// Whether a request waits: it is looked at again soon.
    pub fn is_waiting(&self) -> bool {
        !self.held.is_empty() || !self.parked.is_empty()
    }

    /// Whether a further request may be begun, and read.
    pub fn takes_more(&self) -> bool {
        self.takes_answers()
            && self.held.len() + self.parked.len() < FORWARD_FRAMES_MAX
            && self.parked_bytes < FORWARD_BYTES_MAX
            && self.held_bytes < FORWARD_BYTES_MAX
    }

    /// Whether there is room for what is answered now.
    pub fn takes_answers(&self) -> bool {
        self.pipe.outgoing.pending().len() < OUTPUT_BYTES_HIGH
    }

    /// Answer.
    pub fn answer(&mut self, tag: u32, fate: Fate, bytes: &[u8]) {
        encode_answer(self.pipe.outgoing.buffer(), tag, fate, |out| out.extend_from_slice(bytes));
    }

    /// Let a request wait; with where to go on, if it was begun.
    pub fn park(&mut self, asked: &Asked<'_>, about: About, resume: Option<u32>) {
        self.blocked.add(about);
        self.parked_bytes += asked.request.len();
        self.parked.push_back(Parked {
            tag: asked.tag,
            protocol: asked.protocol,
            request: asked.request.into(),
            about,
            resume,
            since: Instant::now(),
            within: Duration::from_millis(asked.within_milliseconds.into()),
        });
    }

    /// Hold an answer.
    pub fn hold(&mut self, tag: u32, mut output: Box<Output>) {
        // One that was used before may have held a large value.
        output.shrink();
        let bytes = output.capacity_bytes();
        self.held_bytes += bytes;
        self.held.push(Held { tag, output, bytes });
    }

    /// Memory of requests.
    pub fn input_bytes(&self) -> usize {
        self.pipe.incoming.held_bytes() + self.parked_bytes
    }

    /// Memory of answers.
    pub fn output_bytes(&self) -> usize {
        self.pipe.outgoing.held_bytes() + self.held_bytes
    }

    /// What its socket is to be watched for. For nothing where enough of its requests wait: whoever
    /// has hung up is noticed once they do not.
    pub fn wanted_interest(&self) -> Interest {
        if self.pipe.has_unsent() {
            Interest::Write
        } else if self.takes_more() {
            Interest::Read
        } else {
            Interest::Nothing
        }
    }
}

/// The forwarder, as the client of what is executed for it: who its own client is, only it knows.
pub struct Forwarder(pub RawFd);

impl Client for Forwarder {
    fn origin(&self) -> Origin {
        Origin::Elsewhere
    }

    fn descriptor(&self) -> i32 {
        self.0
    }

    fn is_forwarder(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_the_same_shard_comes_behind_what_waits() {
        let mut blocked = Blocked::default();
        assert!(!blocked.has(About::Shard(0)) && !blocked.has(About::All));
        blocked.add(About::Shard(7));
        assert_eq!([7, 8].map(|shard| blocked.has(About::Shard(shard))), [true, false]);
        assert!(blocked.has(About::All), "all shards are that one, too");
        let mut blocked = Blocked::default();
        blocked.add(About::All);
        assert!(blocked.has(About::Shard(3)) && blocked.has(About::All));
    }
}
