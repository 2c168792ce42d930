//! Memory that connections hold for what their clients do not finish: unfinished requests, answers
//! not taken. When all of it together is too much, those that have stood still for longest give
//! theirs up, so that no newcomer is refused for it.
//!
//! An unfinished body is dropped, and the rest of it swallowed as it arrives: the client is told
//! that there was no memory, as by memcached, and its connection stays. A connection that holds
//! anything else is closed. One whose answers wait for replicas is closed only where closing all
//! others is not enough.
//!
//! The bound on all memory of a kind is what its [`Budget`] allows plus, for each worker, what one
//! connection may hold: of those that hold some, the one that was served last is never chosen (it
//! holds a buffer as large as the largest request, or a full output and one value). So a request
//! larger than the budget gets through.

use super::Shared;
use super::budget::Budget;
use super::connection::Connection;
use super::control::Nobody;
use super::lane::Lane;
use super::state::Event;
use super::table::Token;
use super::worker::Worker;
use crate::base::limits::KEY_BYTES_MAX;
use crate::engine::{Context, Output};
use crate::protocol::{ParseLimits, Parsed, Rejection};
use crate::store::Turn;
use std::cmp::Reverse;
use std::sync::atomic::Ordering::Relaxed;

/// What may be hoarded.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Input,
    Output,
}

impl Kind {
    fn budget(self, shared: &Shared) -> &Budget {
        match self {
            Kind::Input => &shared.input_budget,
            Kind::Output => &shared.output_budget,
        }
    }

    fn held_bytes(self, connection: &Connection) -> usize {
        match self {
            Kind::Input => connection.input.held_bytes(),
            Kind::Output => connection.output_charged_bytes,
        }
    }

    /// It is this server that does not let go of what the connection holds: all of its answers wait
    /// for replicas. Such a connection has stood still through no fault of its client's, so it
    /// comes last.
    fn is_ours(self, connection: &Connection) -> bool {
        match self {
            Kind::Input => false,
            Kind::Output => connection.is_holding() && !connection.has_sendable(),
        }
    }
}

impl Worker<'_> {
    /// If all connections together hold too much, and those of this worker more than its share,
    /// drop what some of them hold.
    #[inline]
    pub(super) fn relieve(&mut self, turn: &Turn<'_>) {
        let shared = self.lane.shared;
        for kind in [Kind::Input, Kind::Output] {
            if kind.budget(shared).is_over() {
                self.relieve_of(kind, turn);
            }
        }
    }

    #[cold]
    fn relieve_of(&mut self, kind: Kind, turn: &Turn<'_>) {
        let budget = kind.budget(self.lane.shared);
        let own_bytes: u64 = self.connections.iter().map(|one| kind.held_bytes(one) as u64).sum();
        let mut excess_bytes = budget.excess_bytes(own_bytes);
        if excess_bytes == 0 {
            return self.have_others_relieve();
        }
        let served = match kind {
            Kind::Input => self.served_with_input,
            Kind::Output => self.served_with_output,
        };
        let mut hoards: Vec<_> = self
            .connections
            .iter()
            .filter(|one| kind.held_bytes(one) > 0 && Some(one.token) != served)
            .map(|one| (kind.is_ours(one), one.moved_at, one.served_in_turn, Reverse(kind.held_bytes(one)), one.token))
            .collect();
        // Of those that moved within the same second, the order of turns tells who has stood still
        // for longer.
        hoards.sort_unstable_by_key(|(is_ours, moved_at, turn, bytes, _)| (*is_ours, *moved_at, *turn, *bytes));
        for (_, _, _, Reverse(bytes), token) in hoards {
            if excess_bytes == 0 {
                break;
            }
            excess_bytes = excess_bytes.saturating_sub(bytes as u64);
            match kind {
                Kind::Input => self.drop_input(turn, token),
                Kind::Output => self.drop_hoarder(token),
            }
        }
    }

    /// Others hold what is too much, and may be asleep. Once a second is enough: they look in each
    /// of their turns.
    fn have_others_relieve(&self) {
        let (shared, now) = (self.lane.shared, self.lane.steady_now.0);
        if shared.relief_asked_at.swap(now, Relaxed) != now {
            shared.wake_all();
        }
    }

    fn drop_hoarder(&mut self, token: Token) {
        self.lane.stats.hoard_kicks.increment();
        self.close(token);
    }

    /// Drop what a connection has of an unfinished request.
    fn drop_input(&mut self, turn: &Turn<'_>, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.progress.parked_at.is_some() {
            // It is the server that has it wait. It is tried again soon, and answered then.
            connection.progress.is_last_try = true;
            return;
        }
        if !self.lane.swallow(turn, connection) {
            return self.drop_hoarder(token);
        }
        self.lane.serve(turn, connection, Event::Answered);
        self.follow(token);
    }
}

impl Lane<'_> {
    /// Refuse the request whose body has arrived in part: answer, let go of what there is, and
    /// ignore the rest as it comes. False where the pending bytes are no such request.
    fn swallow(&mut self, turn: &Turn<'_>, connection: &mut Connection) -> bool {
        let (pending, wanted_bytes) = (connection.input.pending(), connection.progress.wanted_bytes);
        // It has opened: what a stranger asks for is not looked at.
        let Some(protocol) = connection.progress.protocol else { return false };
        let takes_requests = connection.state.takes_requests();
        if !takes_requests || connection.progress.open_get.is_some() || wanted_bytes <= pending.len() {
            return false;
        }
        // Parsed with a limit of no value bytes, the request is refused as too large. The refusal
        // has all that is needed here: the length of the request, whether its client wants an
        // answer, and the key whose old value must go.
        let mut scratch = [0; KEY_BYTES_MAX];
        let nothing = ParseLimits { value_bytes_max: 0 };
        let Parsed::Rejected(rejection) = protocol.parse(pending, nothing, &mut scratch) else { return false };
        if rejection.skip_bytes != wanted_bytes as u64 {
            return false;
        }
        let skip_bytes = rejection.skip_bytes - pending.len() as u64;
        let mut output = connection.output.take().unwrap_or_else(|| self.buffers.take_output());
        self.refuse_body(turn, &rejection, &mut output);
        connection.output = Some(output);
        (connection.progress.skip_bytes, connection.progress.wanted_bytes) = (skip_bytes, 0);
        connection.input.release(&mut self.input_memory());
        true
    }

    fn refuse_body(&mut self, turn: &Turn<'_>, rejection: &Rejection<'_>, output: &mut Output) {
        self.stats.input_refused.increment();
        let Lane { shared, stats, buffers, now, .. } = self;
        let (host, scratch) = (&shared.registry, &mut buffers.scratch);
        let mut context = Context { turn, now: *now, stats, scratch, keys_left: 0, host, client: &Nobody };
        shared.engine.give_up(&mut context, rejection, output);
    }
}
