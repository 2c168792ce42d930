//! Serving one connection in one turn: write what was left, read, execute, write, settle; then
//! decide what it waits for.
//!
//! Back-pressure: nothing is read or executed for a connection whose client does not take its
//! answers, or whose output is full of answers that wait for replicas. So a connection holds at
//! most one full output and one value. While its output is not full, answers that wait for replicas
//! do not stop further requests. When [`Lane::serve`] returns, the connection refers to no memory
//! of a log.

use super::Shared;
use super::admission::is_to_admit;
use super::buffers::Buffers;
use super::connection::{Connection, Phase, Progress, ReadAhead};
use super::control::PeerOf;
use super::execute::{Executor, Stop, spoken, tell_of_stranger};
use super::holding::Holding;
use super::input::InputMemory;
use super::registry::State;
use crate::base::limits::{
    LINGER_BYTES_MAX, LINGER_SECONDS_MAX, READ_BUFFER_BYTES, READ_BYTES_PER_TURN, READ_BYTES_WHEN_TIGHT,
    READS_AHEAD_MAX,
};
use crate::base::time::{SteadySeconds, UnixSeconds};
use crate::engine::{Client, Context, Output, WorkerStats};
use crate::protocol::{Parsed, Protocol};
use crate::store::{Place, Turn};
use crate::sys::receive::receive;
use rustix::net::{Shutdown, shutdown};
use std::io;
use std::sync::Arc;

/// An unfinished request up to this length is moved to the front of the read buffer and parsed
/// there with what follows.
const MOVED_BYTES_MAX: usize = READ_BUFFER_BYTES / 4;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// More input.
    Read,
    /// The client taking what is pending.
    Write,
    /// Replicas: nothing more is executed before an answer is let go of.
    Replicas,
    /// Its next turn.
    Again,
    /// Memory for its first request.
    Room,
    /// Nothing: close it.
    Close,
}

/// Why a connection is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its socket is ready, or it has work left over.
    Ready,
    /// A held answer is held no longer.
    Released,
}

/// What a worker has beside its connections and listeners.
pub struct Lane<'s> {
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
}

impl Lane<'_> {
    /// Serve. When the socket fails the client has gone, so the connection is closed and the error
    /// is not reported.
    pub fn serve(&mut self, turn: &Turn<'_>, connection: &mut Connection, cause: Cause) -> Next {
        if let Phase::Lingering { until, bytes_left } = connection.phase {
            return self.linger(connection, until, bytes_left);
        }
        connection.view.set_state(State::Execute);
        let mut output = connection.output.take().unwrap_or_else(|| self.buffers.take_output());
        let next = self.advance(turn, connection, &mut output, cause).unwrap_or(Next::Close);
        if output.is_empty() || next == Next::Close {
            self.abandon(&mut output);
            self.buffers.give_output(output);
            self.charge_output(connection, connection.transport.held_bytes());
        } else {
            output.settle(self.shared.engine.store(), turn);
            self.charge_output(connection, output.capacity_bytes() + connection.transport.held_bytes());
            connection.output = Some(output);
        }
        connection.view.set_state(state_after(connection, next));
        next
    }

    /// Give back what a connection holds, before it is dropped.
    pub fn reclaim(&mut self, connection: &mut Connection) {
        connection.input.release(&mut self.input_memory());
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

    fn advance(
        &mut self,
        turn: &Turn<'_>,
        connection: &mut Connection,
        output: &mut Output,
        cause: Cause,
    ) -> io::Result<Next> {
        let is_fresh = output.is_empty();
        if !is_fresh {
            self.release(output);
            self.write(turn, connection, output)?;
        }
        // What was read ahead lies in a buffer that others need: it is executed, or kept, now.
        let goes_on = is_fresh || output.takes_more() || connection.read_ahead.is_some();
        let mut more = None;
        if connection.phase == Phase::Open && goes_on {
            let stop = if connection.input.is_executable() {
                self.execute_pending(turn, connection, output)
            } else if cause == Cause::Ready {
                self.read_and_execute(turn, connection, output)?
            } else {
                Some(Stop::NeedMore { wanted_bytes: connection.input.wanted_bytes() })
            };
            self.note(stop, connection);
            self.release(output);
            self.write(turn, connection, output)?;
            more = match stop {
                Some(Stop::Yield | Stop::Full | Stop::Admit) => Some(Next::Again),
                Some(Stop::Parked) => Some(Next::Room),
                _ => None,
            };
        }
        let is_open = connection.phase == Phase::Open;
        if output.is_empty() {
            return Ok(match is_open {
                true => more.unwrap_or(connection.transport.next()),
                false => self.finish(connection),
            });
        }
        Ok(match is_open {
            _ if output.sendable_bytes() > 0 => Next::Write,
            true if !output.is_full() => more.unwrap_or(connection.transport.next()),
            _ => Next::Replicas,
        })
    }

    /// What follows from a stop for the life of the connection. None is the end of what the client
    /// sends.
    fn note(&mut self, stop: Option<Stop>, connection: &mut Connection) {
        match stop {
            None | Some(Stop::Quit) => connection.phase = Phase::Closing { linger: false },
            Some(Stop::Refused) => connection.phase = Phase::Closing { linger: true },
            Some(Stop::Admit) => {
                connection.progress.protocol = None;
                return;
            }
            Some(Stop::NeedMore { .. } | Stop::Yield | Stop::Full | Stop::Parked) => return,
        }
        connection.input.release(&mut self.input_memory());
    }

    /// One read and what comes of it. None is the end of what the client sends.
    fn read_and_execute(
        &mut self,
        turn: &Turn<'_>,
        connection: &mut Connection,
        output: &mut Output,
    ) -> io::Result<Option<Stop>> {
        let held = connection.input.pending().len();
        let move_it = held <= MOVED_BYTES_MAX && connection.input.wanted_bytes() <= READ_BUFFER_BYTES;
        if !(held == 0 || move_it) {
            return Ok(match self.read_behind(connection)? {
                Some(0) => None,
                Some(_) if connection.input.is_executable() => self.execute_pending(turn, connection, output),
                _ => Some(Stop::NeedMore { wanted_bytes: connection.input.wanted_bytes() }),
            });
        }
        let ReadAhead { slot, received } = match connection.read_ahead.take() {
            Some(ahead) => ahead,
            None => self.receive(connection, READS_AHEAD_MAX),
        };
        let stop = match received? {
            None => {
                return Ok(Some(Stop::NeedMore { wanted_bytes: connection.input.wanted_bytes() }));
            }
            Some(0) => return Ok(None),
            Some(bytes) => {
                self.count_read(connection, bytes);
                let arrived = held + bytes;
                if arrived < connection.input.wanted_bytes() {
                    self.keep(connection, slot, 0..arrived, connection.input.wanted_bytes())
                } else {
                    let read = std::mem::take(&mut self.buffers.reads[slot]);
                    let (consumed, stop) = self.execute(turn, connection, &read[..arrived], output);
                    self.buffers.reads[slot] = read;
                    if !matches!(stop, Stop::Quit | Stop::Refused) {
                        self.keep(connection, slot, consumed..arrived, wanted(stop));
                    }
                    stop
                }
            }
        };
        Ok(Some(stop))
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
        let is_plain = connection.phase == Phase::Open
            && connection.output.as_ref().is_none_or(Output::takes_more)
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
            Parsed::Request(request, _) => engine.plan(&request).place(),
            Parsed::Incomplete { .. } | Parsed::Rejected(_) => None,
        }
    }

    /// Keep a part of the read buffer as the connection's unfinished input.
    fn keep(
        &mut self,
        connection: &mut Connection,
        slot: usize,
        part: std::ops::Range<usize>,
        wanted_bytes: usize,
    ) -> Stop {
        let memory = &mut InputMemory { pool: &mut self.buffers.inputs, budget: &self.shared.input_budget };
        connection.input.keep(&self.buffers.reads[slot][part], wanted_bytes, memory);
        Stop::NeedMore { wanted_bytes }
    }

    /// Read behind a long unfinished request, into the connection's own buffer.
    fn read_behind(&mut self, connection: &mut Connection) -> io::Result<Option<usize>> {
        let tight = self.shared.input_budget.is_tight();
        let most = if tight { READ_BYTES_WHEN_TIGHT } else { READ_BYTES_PER_TURN };
        let Connection { socket, transport, input, .. } = connection;
        let buffer = input.grow(&mut self.input_memory());
        let Lane { buffers, stats, .. } = self;
        let received = transport.receive_behind(socket, buffer, most, &mut buffers.sealing, stats)?;
        self.count_read(connection, received.unwrap_or(0));
        Ok(received)
    }

    /// Execute from the connection's own buffer.
    fn execute_pending(&mut self, turn: &Turn<'_>, connection: &mut Connection, output: &mut Output) -> Option<Stop> {
        let input = std::mem::take(&mut connection.input);
        let (consumed, stop) = self.execute(turn, connection, input.pending(), output);
        connection.input = input;
        connection.input.consume(consumed, wanted(stop), &mut self.input_memory());
        Some(stop)
    }

    fn execute(
        &mut self,
        turn: &Turn<'_>,
        connection: &mut Connection,
        input: &[u8],
        output: &mut Output,
    ) -> (usize, Stop) {
        connection.view.set_last_command(self.steady_now);
        let Some(protocol) = connection.progress.protocol else {
            return self.open(turn, connection, input, output);
        };
        let client = PeerOf(&connection.socket);
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
    ) -> (usize, Stop) {
        // Operators may choose.
        let only = self.shared.config.protocol.filter(|_| !connection.is_operator);
        let Some(protocol) = spoken(only, input) else {
            tell_of_stranger(only);
            return (input.len(), Stop::Refused);
        };
        if is_to_admit(self.shared, &connection.principal, protocol, input) {
            return self.admit(connection, protocol, input, output);
        }
        connection.progress.protocol = Some(protocol);
        self.execute(turn, connection, input, output)
    }

    /// Execute what `input` holds of a client's requests. Returns how many bytes were consumed, and
    /// why it stopped.
    #[inline(never)]
    pub fn run(
        &mut self,
        turn: &Turn<'_>,
        client: &dyn Client,
        protocol: Protocol,
        input: &[u8],
        progress: &mut Progress,
        output: &mut Output,
    ) -> (usize, Stop) {
        let Lane { shared, stats, buffers, now, keys_per_turn, .. } = self;
        let (host, scratch) = (&shared.registry, &mut buffers.scratch);
        let keys_left = *keys_per_turn;
        let mut context = Context { turn, now: *now, stats, scratch, keys_left, host, client };
        Executor { shared, protocol }.run(&mut context, &mut buffers.keys, input, progress, output)
    }

    fn write(&mut self, turn: &Turn<'_>, connection: &mut Connection, output: &mut Output) -> io::Result<()> {
        let Connection { socket, transport, .. } = connection;
        let Lane { shared, buffers, .. } = self;
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
    fn finish(&mut self, connection: &mut Connection) -> Next {
        connection.transport.close(&connection.socket);
        if connection.phase != (Phase::Closing { linger: true })
            || shutdown(&connection.socket, Shutdown::Write).is_err()
        {
            return Next::Close;
        }
        let until = SteadySeconds(self.steady_now.0 + LINGER_SECONDS_MAX);
        connection.phase = Phase::Lingering { until, bytes_left: LINGER_BYTES_MAX };
        Next::Read
    }

    fn linger(&mut self, connection: &mut Connection, until: SteadySeconds, bytes_left: u64) -> Next {
        match receive(&connection.socket, &mut self.buffers.reads[READS_AHEAD_MAX]) {
            Ok(None) if self.steady_now <= until => Next::Read,
            Ok(Some(bytes)) if bytes > 0 && (bytes as u64) < bytes_left && self.steady_now <= until => {
                connection.phase = Phase::Lingering { until, bytes_left: bytes_left - bytes as u64 };
                Next::Read
            }
            _ => Next::Close,
        }
    }
}

/// When to look at the rest again: a rest that was not looked at for want of bytes, at once.
fn wanted(stop: Stop) -> usize {
    if let Stop::NeedMore { wanted_bytes } = stop { wanted_bytes } else { 0 }
}

fn state_after(connection: &Connection, next: Next) -> State {
    let held = connection.input.pending().len();
    match next {
        Next::Close => State::Closing,
        Next::Write => State::Write,
        Next::Replicas => State::Acks,
        Next::Read if connection.is_holding() => State::Acks,
        Next::Again | Next::Room => State::Execute,
        Next::Read if connection.phase != Phase::Open => State::Closing,
        Next::Read if connection.progress.skip_bytes > 0 => State::Swallow,
        // A line that is not whole wants but one byte more; a body says how much is missing.
        Next::Read if held > 0 && connection.input.wanted_bytes() > held + 1 => State::ReadBody,
        Next::Read => State::Read,
    }
}
