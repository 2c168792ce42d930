//! One client: its socket, what it has sent in part, what it has not taken yet. While neither is
//! there it holds no buffer.

use super::admission::{Principal, Sasl};
use super::claims::Claims;
use super::memory::Input;
use super::registry::{Activity, View};
use super::state::State;
use super::table::Token;
use super::transport::Transport;
use crate::base::time::SteadySeconds;
use crate::engine::Output;
use crate::protocol::Protocol;
use crate::protocol::request::GetForm;
use crate::protocol::text::hello::Preferences;
use crate::protocol::text::watch::CloseReason;
use crate::sys::poll::Interest;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// How far the connection's requests have come.
#[derive(Default)]
pub struct Progress {
    /// What it speaks, once it has opened: something has arrived, and it has said who it is.
    pub protocol: Option<Protocol>,
    /// How long what is pending must be before looking at it makes sense.
    pub wanted_bytes: usize,
    /// Where to go on in the first pending request (see Outcome::Resume).
    pub resume: u32,
    /// The pending bytes go on with the keys of a get of this form: its line has begun before them.
    pub open_get: Option<GetForm>,
    /// Bytes of a refused request's body still to be dropped as they arrive.
    pub skip_bytes: u64,
    /// The rest of a refused get's line is still to be dropped as it arrives.
    pub skip_line: bool,
    /// When the first pending request first found no room.
    pub parked_at: Option<Instant>,
    /// The next try is its last, however short it has waited.
    pub is_last_try: bool,
    /// What it has for longer than a request.
    pub claims: Claims,
    /// Whose requests these are; nobody's where none is forwarded.
    pub client: Token,
    /// The version of the map that its client was told of last.
    pub told_version: u64,
    /// A request has waited in vain for another map than that of this version.
    pub waited_for: Option<u64>,
    /// Whether each request is to be looked at before it is executed.
    pub care: Care,
}

/// Why each request of a connection is to be looked at before it is executed, apart from what its
/// output knows ([`Output::needs_care`]). One word says whether it is, so that it costs others no
/// more than that.
#[derive(Default)]
pub struct Care {
    /// The first pending request is done here, though its shard takes no writes here.
    serves_here: bool,
    /// What the client has asked for by hello.
    preferences: Preferences,
    /// One of these asks for it.
    is_needed: bool,
}

impl Care {
    /// Whether it is so.
    #[inline]
    pub fn is_needed(&self) -> bool {
        self.is_needed
    }

    /// Whether the first pending request is done here, wherever its shard takes writes.
    pub fn serve_here(&mut self, serves_here: bool) {
        self.serves_here = serves_here;
        self.is_needed = serves_here || self.preferences.are_any();
    }

    /// Whether it is. The next one is not.
    pub fn take_serves_here(&mut self) -> bool {
        let serves_here = self.serves_here;
        self.serve_here(false);
        serves_here
    }

    /// What the client has asked for.
    pub fn preferences(&self) -> Preferences {
        self.preferences
    }

    /// The client asks for this from now on.
    pub fn prefer(&mut self, preferences: Preferences) {
        self.preferences = preferences;
        self.serve_here(self.serves_here);
    }
}

/// What was read for a connection before its turn to be served came.
#[derive(Debug)]
pub struct ReadAhead {
    /// Which of the worker's read buffers it is in.
    pub slot: usize,
    /// As [`receive`](crate::sys::receive::receive) says it.
    pub received: io::Result<Option<usize>>,
}

/// What is known of a client when it has connected.
pub struct Arrival {
    /// It has come by the control socket.
    pub is_operator: bool,
    /// Whose requests its are.
    pub principal: Principal,
    /// How its bytes travel.
    pub transport: Transport,
}

/// See the module.
pub struct Connection {
    /// The socket, whichever its family.
    pub socket: OwnedFd,
    /// How its bytes travel over that.
    pub transport: Transport,
    /// Its name in the worker's table and its events.
    pub token: Token,
    /// What the poller watches for.
    pub interest: Interest,
    /// What it waits for.
    pub state: State,
    /// The unfinished request.
    pub input: Input,
    /// What was read already in this turn, if anything.
    pub read_ahead: Option<ReadAhead>,
    /// The answers not taken, if any.
    pub output: Option<Box<Output>>,
    /// What its output, and its transport, were last charged with.
    pub output_charged_bytes: usize,
    /// Of its requests.
    pub progress: Progress,
    /// When a byte last went either way.
    pub moved_at: SteadySeconds,
    /// The turn in which it was last served: once is enough.
    pub served_in_turn: u64,
    /// It is listed for the next turn: it has work left.
    pub has_more: bool,
    /// It is listed among those whose requests wait for memory.
    pub is_parked: bool,
    /// The worker knows that it has held answers.
    pub is_waiting: bool,
    /// It has come by the control socket, and is counted apart.
    pub is_operator: bool,
    /// Whose requests these are.
    pub principal: Principal,
    /// How its client says that by SASL.
    pub sasl: Sasl,
    /// Why it is closed, as far as it knows itself.
    pub close_reason: CloseReason,
    /// For `stats conns`.
    pub view: Arc<View>,
}

impl Connection {
    /// A new one.
    pub fn new(socket: OwnedFd, token: Token, view: Arc<View>, now: SteadySeconds, by: Arrival) -> Connection {
        let Arrival { is_operator, principal, transport } = by;
        Connection {
            socket,
            transport,
            token,
            interest: Interest::Read,
            state: State::Reading,
            input: Input::default(),
            read_ahead: None,
            output: None,
            output_charged_bytes: 0,
            progress: Progress { client: token, ..Progress::default() },
            moved_at: now,
            served_in_turn: 0,
            has_more: false,
            is_parked: false,
            is_waiting: false,
            is_operator,
            principal,
            sasl: Sasl::default(),
            close_reason: CloseReason::Error,
            view,
        }
    }

    /// Whether it waits for its next request and nothing else, and holds no memory.
    #[inline]
    pub fn is_at_rest(&self) -> bool {
        self.output_charged_bytes == 0 && self.interest == Interest::Read && self.input.held_bytes() == 0
    }

    /// Whether it makes sense to look at what is pending as it is.
    #[inline]
    pub fn is_executable(&self) -> bool {
        let held = self.input.pending().len();
        held > 0 && held >= self.progress.wanted_bytes
    }

    /// What it does, as it is shown between two turns.
    pub fn activity(&self) -> Activity {
        let held = self.input.pending().len();
        match self.state {
            State::Writing => Activity::Write,
            State::Holding => Activity::Acks,
            State::Yielded | State::Parked => Activity::Execute,
            State::Ending { .. } if self.has_sendable() => Activity::Write,
            State::Ending { .. } => Activity::Acks,
            State::Lingering { .. } | State::Closed => Activity::Closing,
            State::Reading if self.is_holding() => Activity::Acks,
            State::Reading if self.progress.skip_bytes > 0 => Activity::Swallow,
            // A line that is not whole wants but one byte more; a body says how much is missing.
            State::Reading if held > 0 && self.progress.wanted_bytes > held + 1 => Activity::ReadBody,
            State::Reading => Activity::Read,
        }
    }

    /// Whether it has answers that wait for replicas, or for other servers.
    pub fn is_holding(&self) -> bool {
        self.output.as_ref().is_some_and(|output| output.is_holding())
    }

    /// Whether it has answers that wait for replicas.
    pub fn awaits_replicas(&self) -> bool {
        self.output.as_ref().is_some_and(|output| output.awaits_replicas())
    }

    /// Whether its client waits for this server, not the other way round.
    pub fn waits_for_us(&self) -> bool {
        self.is_holding() || self.progress.parked_at.is_some() || self.progress.claims.watcher().is_some()
    }

    /// Whether it has answers that its client could take.
    pub fn has_sendable(&self) -> bool {
        self.output.as_ref().is_some_and(|output| output.sendable_bytes() > 0)
    }
}
