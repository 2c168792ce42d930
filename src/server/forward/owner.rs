//! One server that executes requests of this worker's clients, and the link to it.
//!
//! ```text
//!              wanted                 connected
//!     Idle ------------> Connecting ------------> Up
//!      ^                     | not                 | it ends
//!      |       paused        v                     |
//!      '------------------ Resting <---------------'
//! ```

use crate::base::limits::{
    FORWARD_FRAMES_MAX, FORWARD_PAUSE_MILLISECONDS_MAX, FORWARD_PAUSE_MILLISECONDS_MIN, FORWARD_SENT_BYTES_MAX,
};
use crate::server::pipe::Pipe;
use crate::store::Primary;
use crate::sys::poll::Interest;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a link stands.
pub enum State {
    /// Nobody has wanted it yet, or its pause is over.
    Idle,
    /// A thread connects it.
    Connecting,
    /// It carries requests.
    Up(Box<Pipe>),
    /// It has failed, and is connected again after a pause, if somebody wants it.
    Resting(Instant),
}

/// See the module.
pub struct Owner {
    /// By which addresses it is known.
    pub primary: Arc<Primary>,
    /// Its link.
    pub state: State,
    /// What the poller watches the link for.
    pub interest: Interest,
    /// Tags of the requests that wait for the link, in their order.
    pub queue: VecDeque<u32>,
    /// Requests that are queued or sent, or have come back and are to be sent again.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
    /// The next pause.
    pause: Duration,
}

const PAUSE_MIN: Duration = Duration::from_millis(FORWARD_PAUSE_MILLISECONDS_MIN);
const PAUSE_MAX: Duration = Duration::from_millis(FORWARD_PAUSE_MILLISECONDS_MAX);

impl Owner {
    /// One to which there is no link.
    pub fn new(primary: Arc<Primary>) -> Owner {
        Owner {
            primary,
            state: State::Idle,
            interest: Interest::Read,
            queue: VecDeque::new(),
            frames: 0,
            bytes: 0,
            pause: PAUSE_MIN,
        }
    }

    /// Whether it is this one.
    pub fn is(&self, primary: &Primary) -> bool {
        self.primary.replication == primary.replication
    }

    /// Whether nothing would be lost with it.
    pub fn is_spare(&self) -> bool {
        self.frames == 0 && !matches!(self.state, State::Connecting)
    }

    /// Whether a request of so many bytes may be added.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.frames < FORWARD_FRAMES_MAX && (self.frames == 0 || self.bytes + bytes <= FORWARD_SENT_BYTES_MAX)
    }

    /// A request of so many bytes is queued.
    pub fn note_queued(&mut self, tag: u32, bytes: usize) {
        self.queue.push_back(tag);
        self.frames += 1;
        self.bytes += bytes;
    }

    /// One that is not in the queue is its business no longer.
    pub fn note_gone(&mut self, bytes: usize) {
        self.frames -= 1;
        self.bytes -= bytes;
    }

    /// An answer has come: the link is a good one.
    pub fn note_answer(&mut self) {
        self.pause = PAUSE_MIN;
    }

    /// The link has failed. Each failure makes the next try later, until an answer comes.
    pub fn rest(&mut self, now: Instant) {
        self.state = State::Resting(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Whether a link is wanted, and may be connected now.
    pub fn wants_link(&mut self, now: Instant) -> bool {
        if let State::Resting(until) = self.state
            && now >= until
        {
            self.state = State::Idle;
        }
        matches!(self.state, State::Idle) && !self.queue.is_empty()
    }
}
