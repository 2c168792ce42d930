//! Connections that stand still, and what they lose for it.
//!
//! Once a second those are closed on which nothing has moved for too long.
//!
//! Others hold memory for what their clients do not finish: unfinished requests, answers not taken.
//! When all of it together is too much, those that have stood still for longest give theirs up, so
//! that no newcomer is refused for it.
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
use super::connection::Connection;
use super::control::Nobody;
use super::memory::Budget;
use super::service::Service;
use super::state::{Event, State};
use super::table::Token;
use super::worker::Worker;
use crate::base::limits::{KEY_BYTES_MAX, WRITE_STALL_SECONDS_MAX};
use crate::engine::{Context, Output};
use crate::protocol::text::watch::CloseReason;
use crate::protocol::{ParseLimits, Parsed, Rejection};
use crate::store::Turn;
use std::cmp::Reverse;
use std::sync::atomic::Ordering::Relaxed;

/// What counts for the decision.
#[derive(Debug, Clone, Copy)]
struct Stillness {
    /// Seconds since a byte went either way.
    seconds: u32,
    /// It has answers that it does not take.
    holds_output: bool,
    /// It has sent part of a request.
    holds_input: bool,
    /// It has answers that wait for replicas, or a request that waits for memory, and these waits
    /// have bounds of their own; or it watches, for as long as it likes. The client waits for the
    /// server, not the other way round.
    waits_for_us: bool,
}

/// Why to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// -o idle_timeout.
    Idle,
    /// It holds memory that others need, and does not go on.
    Stalled,
}

/// Whether to close. `idle_timeout_seconds` is 0 for never. A connection whose client takes no
/// answers is closed after [`WRITE_STALL_SECONDS_MAX`] at the latest. One whose client does not
/// finish a request is closed after as long, but only while memory for unfinished requests is
/// tight.
fn reason_to_close(still: Stillness, idle_timeout_seconds: u32, input_is_tight: bool) -> Option<Reason> {
    if still.waits_for_us && !still.holds_output {
        return None;
    }
    let holds = still.holds_output || still.holds_input && input_is_tight;
    if idle_timeout_seconds > 0 && still.seconds > idle_timeout_seconds {
        Some(if holds { Reason::Stalled } else { Reason::Idle })
    } else if holds && still.seconds > WRITE_STALL_SECONDS_MAX {
        Some(Reason::Stalled)
    } else {
        None
    }
}

impl Worker<'_> {
    /// Once a second: close the connections on which nothing has moved for too long.
    pub(super) fn sweep(&mut self) {
        let (shared, now) = (self.service.shared, self.service.steady_now);
        if now == self.swept_at {
            return;
        }
        self.swept_at = now;
        self.sweep_links();
        let tight = shared.input_budget.is_tight();
        let mut over = Vec::new();
        for connection in self.connections.iter_mut() {
            if connection.transport.take_moved() {
                connection.moved_at = now;
            }
            let still = Stillness {
                seconds: now.since(connection.moved_at),
                holds_output: connection.has_sendable(),
                holds_input: connection.input.held_bytes() > 0,
                waits_for_us: connection.waits_for_us(),
            };
            let is_late = connection.transport.is_late(now);
            if is_late {
                self.service.stats.ssl_handshake_errors.increment();
            }
            let lingered = matches!(connection.state, State::Lingering { until, .. } if now > until);
            let reason = reason_to_close(still, shared.config.idle_timeout_seconds, tight);
            match reason {
                Some(Reason::Idle) => self.service.stats.idle_kicks.increment(),
                Some(Reason::Stalled) => self.service.stats.stall_kicks.increment(),
                None => {}
            }
            if lingered || is_late || reason.is_some() {
                let told = if reason == Some(Reason::Idle) { CloseReason::IdleTimeout } else { CloseReason::Error };
                over.push((connection.token, told));
            }
        }
        over.into_iter().for_each(|(token, told)| self.close_for(token, Some(told)));
    }
}

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
        let shared = self.service.shared;
        for kind in [Kind::Input, Kind::Output] {
            if kind.budget(shared).is_over() {
                self.relieve_of(kind, turn);
            }
        }
    }

    #[cold]
    fn relieve_of(&mut self, kind: Kind, turn: &Turn<'_>) {
        let budget = kind.budget(self.service.shared);
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
        let (shared, now) = (self.service.shared, self.service.steady_now.0);
        if shared.relief_asked_at.swap(now, Relaxed) != now {
            shared.wake_all();
        }
    }

    fn drop_hoarder(&mut self, token: Token) {
        self.service.stats.hoard_kicks.increment();
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
        if !self.service.swallow(turn, connection) {
            return self.drop_hoarder(token);
        }
        self.service.serve(turn, connection, Event::Answered);
        self.follow(token);
    }
}

impl Service<'_> {
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
        connection.input.free(&mut self.input_memory());
        true
    }

    fn refuse_body(&mut self, turn: &Turn<'_>, rejection: &Rejection<'_>, output: &mut Output) {
        self.stats.input_refused.increment();
        let Service { shared, stats, buffers, now, .. } = self;
        let (host, scratch) = (&shared.registry, &mut buffers.scratch);
        let mut context = Context { turn, now: *now, stats, scratch, keys_left: 0, host, client: &Nobody };
        shared.engine.give_up(&mut context, rejection, output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn still(seconds: u32, holds_output: bool, holds_input: bool) -> Stillness {
        Stillness { seconds, holds_output, holds_input, waits_for_us: false }
    }

    #[test]
    fn an_idle_connection_stays_unless_a_timeout_is_set() {
        assert_eq!(reason_to_close(still(u32::MAX, false, false), 0, true), None);
        assert_eq!(reason_to_close(still(10, false, false), 10, true), None);
        assert_eq!(reason_to_close(still(11, false, false), 10, true), Some(Reason::Idle));
    }

    #[test]
    fn who_holds_memory_is_closed_after_a_bound() {
        let past = WRITE_STALL_SECONDS_MAX + 1;
        assert_eq!(reason_to_close(still(past - 1, true, false), 0, false), None);
        assert_eq!(reason_to_close(still(past, true, false), 0, false), Some(Reason::Stalled));
        assert_eq!(reason_to_close(still(past, false, true), 0, false), None);
        assert_eq!(reason_to_close(still(past, false, true), 0, true), Some(Reason::Stalled));
        assert_eq!(reason_to_close(still(6, true, false), 5, false), Some(Reason::Stalled));
    }

    #[test]
    fn who_waits_for_us_is_not_still_unless_answers_are_not_taken() {
        let waiting = |holds_output| Stillness { waits_for_us: true, ..still(u32::MAX, holds_output, true) };
        assert_eq!(reason_to_close(waiting(false), 5, true), None);
        assert_eq!(reason_to_close(waiting(true), 5, true), Some(Reason::Stalled));
    }
}
