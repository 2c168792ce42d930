//! Serving one connection in one turn: write what was left, read, execute, write; then say what it
//! waits for. The states of a connection, and what leads from one to another, are drawn in
//! [`super::state`].
//!
//! Back-pressure: nothing is read or executed for a connection whose client does not take its
//! answers, or whose output is full of answers that wait for replicas. So a connection holds at
//! most one full output and one value. While its output is not full, answers that wait for replicas
//! do not stop further requests. When [`Service::serve`] returns, the connection refers to no
//! memory of a log.

use super::Shared;
use super::acks::Holding;
use super::admission::is_to_admit;
use super::connection::{Connection, Progress, ReadAhead};
use super::control::PeerOf;
use super::execute::{Executor, spoken, tell_of_other_protocol};
use super::forward::Forwarder;
use super::memory::{Buffers, InputMemory};
use super::registry::Activity;
use super::state::{Event, State};
use crate::base::limits::{
    LINGER_BYTES_MAX, LINGER_SECONDS_MAX, MOVED_BYTES_MAX, READ_BUFFER_BYTES, READ_BYTES_PER_TURN,
    READ_BYTES_WHEN_TIGHT, READS_AHEAD_MAX,
};
use crate::base::time::{SteadySeconds, UnixSeconds};
use crate::engine::{Client, Context, Output, WorkerStats};
use crate::protocol::text::watch::CloseReason;
use crate::protocol::{Parsed, Protocol};
use crate::store::{Place, Turn};
use crate::sys::receive::receive;
use rustix::net::{Shutdown, shutdown};
use std::io;
use std::sync::Arc;

/// What a worker has beside its connections and listeners.
pub struct Service<'s> {
    /// What all workers share.
    pub shared: &'s Shared,
    /// This worker's counters.
    pub stats: Arc<WorkerStats>,
    /// This worker's buffers.
    pub buffers: Buffers,
    /// The wall clock of this turn: for expiry, and nothing else.
    pub now: UnixSeconds,
    /// The steady clock of this turn: for everything that waits.
    pub steady_now: SteadySeconds,
    /// Keys that gets of one connection look up before the others have their turn.
    pub keys_per_turn: u32,
    /// What answers are held for.
    pub holding: Holding,
    /// By which requests are forwarded; None where they are not.
    pub forwarder: Option<Box<Forwarder>>,
}

impl Service<'_> {
    /// Serve, and leave the connection in its next state. When the socket fails the client has
    /// gone, so the connection is closed and the error is not reported.
    pub fn serve(&mut self, turn: &Turn<'_>, connection: &mut Connection, event: Event) {
        if let State::Lingering { until, bytes_left } = connection.state {
            connection.state = self.linger(connection, until, bytes_left);
            return;
        }
        connection.view.set_activity(Activity::Execute);
        let mut output = connection.output.take().unwrap_or_else(|| self.buffers.take_output());
        let state = self.advance(turn, connection, &mut output, event).unwrap_or(State::Closed);
        if output.is_empty() {
            connection.state = match state {
                State::Ending { lingers } => self.finish(connection, lingers),
                goes_on => goes_on.with_all_sent(&connection.transport),
            };
            self.buffers.give_output(output);
            self.charge_output(connection, connection.transport.held_bytes());
        } else {
            self.keep_output(turn, connection, state, output);
        }
        connection.view.set_activity(connection.activity());
    }

    /// Answers are left, which stay with the connection, unless it ends.
    fn keep_output(&mut self, turn: &Turn<'_>, connection: &mut Connection, state: State, mut output: Box<Output>) {
        connection.state = state.with_unsent(&output, &connection.transport);
        if state == State::Closed {
            self.abandon(&mut output);
            self.buffers.give_output(output);
            self.charge_output(connection, connection.transport.held_bytes());
            return;
        }
        output.detach(self.shared.engine.store(), turn);
        self.charge_output(connection, output.capacity_bytes() + connection.transport.held_bytes());
        connection.output = Some(output);
    }

    /// Give back what a connection holds, before it is dropped.
    pub fn reclaim(&mut self, connection: &mut Connection) {
        connection.input.free(&mut self.input_memory());
        if let Some(output) = &mut connection.output {
            self.abandon(output);
        }
        self.charge_output(connection, 0);
    }

    /// The connection's output holds `bytes` from now on.
    #[inline]
    fn charge_output(&self, connection: &mut Connection, bytes: usize) {
        if bytes == connection.output_charged_bytes {
            return;
        }
        let budget = &self.shared.output_budget;
        budget.take(bytes);
        budget.give(std::mem::replace(&mut connection.output_charged_bytes, bytes));
    }

    /// Do what can be done now. Returns what execution has come to; what is left of the output is
    /// not looked at.
    fn advance(
        &mut self,
        turn: &Turn<'_>,
        connection: &mut Connection,
        output: &mut Output,
        event: Event,
    ) -> io::Result<State> {
        let is_fresh = output.is_empty();
        if !is_fresh {
            self.resolve(output);
            self.write(turn, connection, output)?;
        }
        // What was read ahead lies in a buffer that others need: it is executed, or kept, now.
        let goes_on = is_fresh || output.takes_more() || connection.read_ahead.is_some();
        if !(connection.state.takes_requests() && goes_on) {
            return Ok(connection.state);
        }
        let state = if connection.is_executable() {
            self.execute_pending(turn, connection, output)
        } else if event == Event::Ready {
            self.read_and_execute(turn, connection, output)?
        } else {
            State::Reading
        };
        if !state.takes_requests() {
            connection.input.free(&mut self.input_memory());
        }
        self.resolve(output);
        self.write(turn, connection, output)?;
        Ok(state)
    }

    /// One read and what comes of it.
    fn read_and_execute(
        &mut self,
        turn: &Turn<'_>,
        connection: &mut Connection,
        output: &mut Output,
    ) -> io::Result<State> {
        let held = connection.input.pending().len();
        let wanted_bytes = connection.progress.wanted_bytes;
        if held > 0 && (held > MOVED_BYTES_MAX || wanted_bytes > READ_BUFFER_BYTES) {
            return Ok(match self.read_behind(connection)? {
                Some(0) => State::Ending { lingers: false },
                Some(_) if connection.is_executable() => self.execute_pending(turn, connection, output),
                _ => State::Reading,
            });
        }
        let ReadAhead { slot, received } = match connection.read_ahead.take() {
            Some(ahead) => ahead,
            None => self.receive(connection, READS_AHEAD_MAX),
        };
        let bytes = match received? {
            None => return Ok(State::Reading),
            Some(0) => return Ok(State::Ending { lingers: false }),
            Some(bytes) => bytes,
        };
        self.count_read(connection, bytes);
        let arrived = held + bytes;
        let (mut consumed, mut state) = (0, State::Reading);
        if arrived >= wanted_bytes {
            let read = std::mem::take(&mut self.buffers.reads[slot]);
            (consumed, state) = self.execute(turn, connection, &read[..arrived], output);
            self.buffers.reads[slot] = read;
        }
        if state.takes_requests() && (held > 0 || consumed < arrived) {
            let memory = &mut InputMemory { pool: &mut self.buffers.inputs, budget: &self.shared.input_budget };
            connection.input.keep(&self.buffers.reads[slot][consumed..arrived], memory);
        }
        Ok(state)
    }

    /// One read into buffer `slot`, behind what is held of an unfinished request.
    fn receive(&mut self, connection: &mut Connection, slot: usize) -> ReadAhead {
        let held = connection.input.pending().len();
        let tight = self.shared.input_budget.is_tight();
        let upto = if tight { (held + READ_BYTES_WHEN_TIGHT).min(READ_BUFFER_BYTES) } else { READ_BUFFER_BYTES };
        let Buffers { reads, sealing, .. } = &mut self.buffers;
        let buffer = &mut reads[slot];
        if held > 0 {
            buffer[..held].copy_from_slice(connection.input.pending());
        }
        let Connection { socket, transport, .. } = connection;
        ReadAhead { slot, received: transport.receive(socket, &mut buffer[held..upto], sealing, &self.stats) }
    }

    /// Read for a connection that will be served later in this turn, and prefetch the memory that
    /// its first request needs. Only for a connection that has opened, and has no unfinished
    /// request and no unsent answer but those that wait for replicas. So the cache misses of
    /// several connections overlap, and the code of each system call stays in the cache.
    pub fn read_ahead(&mut self, connection: &mut Connection, slot: usize) -> Option<Place> {
        let is_plain = connection.state.takes_requests()
            && connection.output.as_ref().is_none_or(|output| output.takes_more())
            && connection.input.pending().is_empty()
            && connection.progress.open_get.is_none()
            && connection.read_ahead.is_none();
        let protocol = connection.progress.protocol.filter(|_| is_plain)?;
        let ahead = self.receive(connection, slot);
        let ahead = connection.read_ahead.insert(ahead);
        let Ok(Some(bytes)) = ahead.received else { return None };
        let engine = &self.shared.engine;
        let Buffers { reads, keys, .. } = &mut self.buffers;
        let input = &reads[slot][..bytes];
        match protocol.parse(input, engine.parse_limits(), &mut keys[0]) {
            Parsed::Request(request, _) => engine.target(&request).place(),
            Parsed::Incomplete { .. } | Parsed::Rejected(_) => None,
        }
    }

    /// Read behind a long unfinished request, into the connection's own buffer.
    fn read_behind(&mut self, connection: &mut Connection) -> io::Result<Option<usize>> {
        let tight = self.shared.input_budget.is_tight();
        let most = if tight { READ_BYTES_WHEN_TIGHT } else { READ_BYTES_PER_TURN };
        let Connection { socket, transport, input, .. } = connection;
        let wanted_bytes = connection.progress.wanted_bytes;
        let buffer = input.grow(wanted_bytes, &mut self.input_memory());
        let Service { buffers, stats, .. } = self;
        let received = transport.receive_behind(socket, buffer, most, &mut buffers.sealing, stats)?;
        self.count_read(connection, received.unwrap_or(0));
        Ok(received)
    }

    /// Execute from the connection's own buffer.
    fn execute_pending(&mut self, turn: &Turn<'_>, connection: &mut Connection, output: &mut Output) -> State {
        let input = std::mem::take(&mut connection.input);
        let (consumed, state) = self.execute(turn, connection, input.pending(), output);
        connection.input = input;
        connection.input.consume(consumed, &mut self.input_memory());
        state
    }

    fn execute(
        &mut self,
        turn: &Turn<'_>,
        connection: &mut Connection,
        input: &[u8],
        output: &mut Output,
    ) -> (usize, State) {
        connection.view.set_last_command(self.steady_now);
        let Some(protocol) = connection.progress.protocol else {
            return self.open(turn, connection, input, output);
        };
        let client = PeerOf(&connection.socket, connection.progress.care.preferences().read_from);
        self.run(turn, &client, protocol, input, &mut connection.progress, output)
    }

    /// A connection opens with `input`, which is not empty: it is to say who it is, where that is
    /// asked, and its first byte says what it speaks.
    #[cold]
    fn open(
        &mut self,
        turn: &Turn<'_>,
        connection: &mut Connection,
        input: &[u8],
        output: &mut Output,
    ) -> (usize, State) {
        connection.progress.wanted_bytes = 0;
        // Operators may choose.
        let only = self.shared.config.protocol.filter(|_| !connection.is_operator);
        let Some(protocol) = spoken(only, input) else {
            tell_of_other_protocol(only);
            return (input.len(), State::Ending { lingers: true });
        };
        if is_to_admit(self.shared, &connection.principal, protocol, input) {
            return self.admit(connection, protocol, input, output);
        }
        connection.progress.protocol = Some(protocol);
        self.execute(turn, connection, input, output)
    }

    /// Execute what `input` holds of a client's requests. Returns how many bytes were consumed, and
    /// what is waited for.
    #[inline(never)]
    pub fn run(
        &mut self,
        turn: &Turn<'_>,
        client: &dyn Client,
        protocol: Protocol,
        input: &[u8],
        progress: &mut Progress,
        output: &mut Output,
    ) -> (usize, State) {
        let Service { shared, stats, buffers, now, keys_per_turn, forwarder, .. } = self;
        let (host, scratch) = (&shared.registry, &mut buffers.scratch);
        let keys_left = *keys_per_turn;
        let mut context = Context { turn, now: *now, stats, scratch, keys_left, host, client };
        Executor { shared, protocol, forwarder: forwarder.as_deref_mut() }.run(
            &mut context,
            &mut buffers.keys,
            input,
            progress,
            output,
        )
    }

    fn write(&mut self, turn: &Turn<'_>, connection: &mut Connection, output: &mut Output) -> io::Result<()> {
        let Connection { socket, transport, .. } = connection;
        let Service { shared, buffers, .. } = self;
        let store = shared.engine.store();
        let Some(sent) = transport.write_out(socket, output, &mut buffers.sealing, store, turn)? else {
            return Ok(());
        };
        self.stats.write_calls.increment();
        self.stats.bytes_written.add(sent as u64);
        if sent > 0 {
            connection.moved_at = self.steady_now;
        }
        Ok(())
    }

    fn count_read(&mut self, connection: &mut Connection, bytes: usize) {
        self.stats.read_calls.increment();
        self.stats.bytes_read.add(bytes as u64);
        if bytes > 0 {
            connection.moved_at = self.steady_now;
        }
    }

    pub(super) fn input_memory(&mut self) -> InputMemory<'_> {
        InputMemory { pool: &mut self.buffers.inputs, budget: &self.shared.input_budget }
    }

    /// Everything is sent and nothing more is executed.
    fn finish(&mut self, connection: &mut Connection, lingers: bool) -> State {
        connection.transport.close(&connection.socket);
        if !lingers {
            connection.close_reason = CloseReason::Normal;
        }
        if !lingers || shutdown(&connection.socket, Shutdown::Write).is_err() {
            return State::Closed;
        }
        let until = SteadySeconds(self.steady_now.0 + LINGER_SECONDS_MAX);
        State::Lingering { until, bytes_left: LINGER_BYTES_MAX }
    }

    fn linger(&mut self, connection: &mut Connection, until: SteadySeconds, bytes_left: u64) -> State {
        match receive(&connection.socket, &mut self.buffers.reads[READS_AHEAD_MAX]) {
            Ok(None) if self.steady_now <= until => connection.state,
            Ok(Some(bytes)) if bytes > 0 && (bytes as u64) < bytes_left && self.steady_now <= until => {
                State::Lingering { until, bytes_left: bytes_left - bytes as u64 }
            }
            _ => State::Closed,
        }
    }
}
