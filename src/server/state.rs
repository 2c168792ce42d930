//! A connection's life: what it waits for between two turns, and what leads from one state to the
//! next. [`Lane::serve`](super::lane::Lane::serve) is the box in the middle: it takes a connection
//! in one state, and leaves it in another.
//!
//! ```text
//!     accepted                                         all is answered
//!        |          .----------------------------------------------------------.
//!        v          v                                                          |
//!        '------> Reading                                                      |
//!                   | input                                                    |
//!                   v                                                          |
//!     .--> [ write what was left, read, execute, write ] ----------------------'
//!     |        |         |          |           |            |
//!     |  share of    no room   not all is   full of held     | quit, refused for good,
//!     |  the turn    for the   taken by     answers          | or no more input
//!     |  used up     request   the client      |             |
//!     |        |         |          |          |             v
//!     |        v         v          v          v         Ending --. sends what is left
//!     |     Yielded   Parked     Writing    Holding          |  ^--'
//!     |        |         |          |          |             | all is sent
//!     |   next turn   due again  socket    replicas          |
//!     |        |         |       ready     have it           +-- was refused --> Lingering
//!     '--------+---------+----------+----------'             |                       |
//!                                                            v         client closes, or enough
//!     any state -- the socket fails, or a bound is reached -> Closed <---------------'
//! ```
//!
//! By TLS a connection whose answers are all sent may still have records to send (it is Writing),
//! or hold opened bytes that no socket tells of (it is Yielded): [`Transport::next`] says so.

use super::transport::Transport;
use crate::base::time::SteadySeconds;
use crate::engine::Output;
use crate::sys::poll::Interest;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The client is to send something: a request, or the rest of one.
    Reading,
    /// It has had its share of a turn, and goes on in the next one.
    Yielded,
    /// Its first request waits for memory to be reclaimed.
    Parked,
    /// The client is to take what is pending.
    Writing,
    /// Replicas are to apply what its answers tell of: as many are held as may be.
    Holding,
    /// No more requests; what is pending is sent, then it ends.
    Ending {
        /// It was refused while it may still be sending: its answer must survive the close.
        lingers: bool,
    },
    /// Everything is sent and said so; what still arrives is ignored, within bounds, until the
    /// client closes.
    Lingering {
        /// When to stop waiting.
        until: SteadySeconds,
        /// How much more to ignore.
        bytes_left: u64,
    },
    /// Nothing is waited for: it is to be dropped.
    Closed,
}

/// What brings a connection its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its socket is ready, or it has work left over.
    Ready,
    /// An answer is there without it: one that was held, or a refusal. Nothing is read.
    Answered,
}

impl State {
    /// Whether requests are read and executed.
    #[inline]
    pub fn takes_requests(self) -> bool {
        match self {
            State::Reading | State::Yielded | State::Parked | State::Writing | State::Holding => true,
            State::Ending { .. } | State::Lingering { .. } | State::Closed => false,
        }
    }

    /// What follows once all answers are sent, for one that goes on.
    #[inline]
    pub fn with_all_sent(self, transport: &Transport) -> State {
        match self {
            State::Reading | State::Writing | State::Holding => transport.next(),
            State::Yielded | State::Parked => self,
            State::Ending { .. } | State::Lingering { .. } | State::Closed => self,
        }
    }

    /// What follows while `output` has answers that are not sent.
    pub fn with_unsent(self, output: &Output, transport: &Transport) -> State {
        match self {
            State::Ending { .. } | State::Lingering { .. } | State::Closed => self,
            _ if output.sendable_bytes() > 0 => State::Writing,
            _ if output.is_full() => State::Holding,
            _ => self.with_all_sent(transport),
        }
    }

    /// What its socket is to be watched for.
    #[inline]
    pub fn interest(self, has_sendable: bool) -> Interest {
        match self {
            State::Reading | State::Yielded | State::Lingering { .. } => Interest::Read,
            State::Writing => Interest::Write,
            State::Ending { .. } if has_sendable => Interest::Write,
            State::Ending { .. } | State::Parked | State::Holding | State::Closed => Interest::Nothing,
        }
    }
}
