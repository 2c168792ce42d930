//! A connection's life: what it waits for between two turns, and what leads from one state to the
//! next. A connection that is served is in the box; where it comes out is its state until it is
//! served again.
//!
//! ```text
//!                accepted
//!                   |
//!                   v            all is answered
//!                Reading <-----------------------------------------------.
//!                   | input                                              |
//!                   v                                                    |
//!     .--> [ write what was left, read, execute, write ] ----------------'
//!     |        |         |           |           |           |
//!     |    more to    no room    not all is   too much    quit, end of input,
//!     |    be done    for a      taken by     is held     or refused for good
//!     |        |      request    the client      |           |
//!     |        |         |           |           |           v
//!     |        v         v           v           v         Ending, until all is sent
//!     |     Yielded   Parked      Writing     Holding        |
//!     |        |         |           |           |           +-- refused --> Lingering
//!     |     its turn  tried      the socket   replicas       |                  |
//!     |     comes     again      is ready     have it        |    client closes, or a bound
//!     |        |         |           |           |           v                  |
//!     '--------+---------+-----------+-----------'         Closed <-------------'
//!                                                            ^
//!     any of them: the socket fails, the server ends, -------'
//!     or it stands still for too long
//! ```
//!
//! One that is Ending is served as well, whenever its client takes answers or replicas release
//! some; it reads nothing more.
//!
//! The box is [`Service::serve`]. What execution comes to, [`Executor::run`] says, as a state, and
//! the service where there is nothing to execute; what follows from the answers that are left then,
//! [`State::with_all_sent`] and [`State::with_unsent`]. By TLS a connection whose answers are all
//! sent may still have records to send (it is Writing), or hold opened bytes that no socket tells
//! of (it is Yielded). How one that is Ending ends, the service says as well; who is closed for
//! standing still, `stillness.rs`. [`Worker::follow`] sees to it that a connection gets what it
//! waits for.
//!
//! [`Service::serve`]: super::service::Service::serve
//! [`Executor::run`]: super::execute::Executor::run
//! [`Worker::follow`]: super::worker::Worker::follow

use super::transport::Transport;
use crate::base::time::SteadySeconds;
use crate::engine::Output;
use crate::sys::poll::Interest;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The client is to send something: a request, or the rest of one.
    Reading,
    /// There is more to be done: it has had its share of this turn, or filled its output, or opens
    /// anew. It goes on in the next turn.
    Yielded,
    /// Its first request waits for memory to be reclaimed, or for files to be read.
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

    /// What follows once the client has all answers that may be sent.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::HELD_ANSWERS_MAX;
    use crate::engine::acks::{Goal, Held, Kind};
    use crate::protocol::Reply;
    use crate::store::Reign;
    use std::time::{Duration, Instant};

    const TAKING_REQUESTS: [State; 5] = [State::Reading, State::Yielded, State::Parked, State::Writing, State::Holding];
    const AT_THE_END: [State; 4] = [
        State::Ending { lingers: false },
        State::Ending { lingers: true },
        State::Lingering { until: SteadySeconds(7), bytes_left: 1 },
        State::Closed,
    ];

    /// Answers of which so many are held, behind so many bytes that may be sent.
    fn unsent(sendable_bytes: usize, held: usize) -> Output {
        let mut output = Output::default();
        output.bytes().resize(sendable_bytes, b'a');
        for _ in 0..held {
            let place = output.end();
            output.bytes().extend_from_slice(b"STORED\r\n");
            let (kind, goal) = (Kind::Write(Reply::Text), Goal::Shard { shard: 0, position: 1 });
            let (since, within) = (Instant::now(), Duration::MAX);
            output.hold(place, Held { kind, goal, reign: Reign::BIRTH, replicas: 1, since, within });
        }
        output
    }

    #[test]
    fn whoever_takes_no_answers_is_waited_for_whatever_else_there_is_to_do() {
        for state in TAKING_REQUESTS {
            assert!(state.takes_requests());
            for held in [0, 1, HELD_ANSWERS_MAX] {
                assert_eq!(state.with_unsent(&unsent(1, held), &Transport::Plain), State::Writing, "{state:?}");
            }
        }
        assert_eq!(State::Writing.interest(true), Interest::Write);
    }

    #[test]
    fn held_answers_stop_a_connection_once_they_are_too_many() {
        for state in TAKING_REQUESTS {
            let few = state.with_unsent(&unsent(0, HELD_ANSWERS_MAX - 1), &Transport::Plain);
            assert_eq!(few, state.with_all_sent(&Transport::Plain), "{state:?}");
            let too_many = state.with_unsent(&unsent(0, HELD_ANSWERS_MAX), &Transport::Plain);
            assert_eq!((too_many, too_many.interest(false)), (State::Holding, Interest::Nothing), "{state:?}");
        }
    }

    #[test]
    fn what_waited_for_the_client_or_replicas_reads_again_and_what_is_left_to_do_stays() {
        for (state, then, interest) in [
            (State::Reading, State::Reading, Interest::Read),
            (State::Writing, State::Reading, Interest::Read),
            (State::Holding, State::Reading, Interest::Read),
            (State::Yielded, State::Yielded, Interest::Read),
            (State::Parked, State::Parked, Interest::Nothing),
        ] {
            let next = state.with_all_sent(&Transport::Plain);
            assert_eq!((next, next.interest(false)), (then, interest), "{state:?}");
        }
    }

    #[test]
    fn what_ends_takes_no_request_and_does_not_come_back() {
        for state in AT_THE_END {
            assert!(!state.takes_requests());
            assert_eq!(state.with_all_sent(&Transport::Plain), state);
            for output in [unsent(1, 0), unsent(0, 1), unsent(0, HELD_ANSWERS_MAX)] {
                assert_eq!(state.with_unsent(&output, &Transport::Plain), state);
            }
        }
        let ending = State::Ending { lingers: false };
        assert_eq!([true, false].map(|sendable| ending.interest(sendable)), [Interest::Write, Interest::Nothing]);
    }
}
