//! Requests over UDP: a datagram is a request, or several whole ones, and is answered before the
//! next one is looked at. Nothing is kept between two of them.
//!
//! A datagram's sender may be forged, so what one of them may cost has a bound: an answer has at
//! most [`UDP_ANSWER_BYTES_MAX`] bytes, and nothing that is told over UDP waits, neither for memory
//! nor for replicas. A datagram that the socket does not take now is lost, as others are on their
//! way.

use super::service::Service;
use super::state::State;
use super::table::Token;
use crate::base::limits::{
    DATAGRAM_BYTES_MAX, DATAGRAM_PARKED_MAX, DATAGRAM_ROUNDS_MAX, DATAGRAMS_PER_TURN, READS_AHEAD_MAX,
    UDP_ANSWER_BYTES_MAX,
};
use crate::engine::{Client, Origin};
use crate::protocol::datagram::{self, Asked};
use crate::protocol::{Parsed, Protocol, Refusal, Reply};
use crate::server::connection::Progress;
use crate::store::Turn;
use crate::sys::poll::{Interest, Poller};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// The first socket's number among a worker's tokens: listeners have lower ones.
pub const DATAGRAMS: u32 = 1 << 16;

/// Whoever has sent a datagram to the socket with this number. Nobody knows who that was.
struct Sender(i32);

impl Client for Sender {
    fn origin(&self) -> Origin {
        Origin::Elsewhere
    }

    fn descriptor(&self) -> i32 {
        self.0
    }

    fn stays(&self) -> bool {
        false
    }
}

/// A worker's sockets.
pub struct Datagrams {
    sockets: Vec<UdpSocket>,
    /// Those that have something, by their place.
    ready: Vec<usize>,
    answer: Vec<u8>,
}

impl Datagrams {
    /// Watch the sockets.
    pub fn new(sockets: Vec<UdpSocket>, poller: &Poller) -> io::Result<Datagrams> {
        for (token, socket) in (DATAGRAMS..).zip(&sockets) {
            poller.add(socket, Token::other(token).to_bits(), Interest::Read)?;
        }
        Ok(Datagrams { sockets, ready: Vec::new(), answer: Vec::new() })
    }

    /// The socket with this token has something.
    pub fn note_ready(&mut self, token: u32) {
        self.ready.push((token - DATAGRAMS) as usize);
    }

    /// Whether one has something.
    #[inline]
    pub fn are_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Serve those that have something. What is left is reported again.
    #[cold]
    pub fn serve(&mut self, service: &mut Service<'_>, turn: &Turn<'_>) {
        while let Some(at) = self.ready.pop() {
            let Some(socket) = self.sockets.get(at) else { continue };
            // One that takes long counts for many.
            let mut left = DATAGRAMS_PER_TURN;
            while left > 0 {
                let Some(rounds) = serve_one(service, turn, socket, &mut self.answer) else { break };
                left = left.saturating_sub(1 + (rounds - 1) * DATAGRAMS_PER_TURN / DATAGRAM_ROUNDS_MAX);
            }
        }
    }

    /// Let go of the sockets.
    pub fn close(&mut self, poller: &Poller) {
        self.sockets.drain(..).for_each(|socket| drop(poller.remove(&socket)));
    }
}

/// Serve one datagram; None where there is none. Returns how many turns of a connection it was
/// worth.
fn serve_one(service: &mut Service<'_>, turn: &Turn<'_>, socket: &UdpSocket, answer: &mut Vec<u8>) -> Option<usize> {
    let mut input = std::mem::take(&mut service.buffers.reads[READS_AHEAD_MAX]);
    let received = socket.recv_from(&mut input);
    answer.clear();
    let mut rounds = 1;
    if let Ok((bytes, from)) = received {
        service.stats.read_calls.increment();
        service.stats.bytes_read.add(bytes as u64);
        let number = match datagram::parse(&input[..bytes]) {
            Asked::Request(number, request) => {
                let protocol = Protocol::of(request[0]);
                if service.shared.config.protocol.is_none_or(|only| only == protocol) {
                    let sender = Sender(socket.as_raw_fd());
                    rounds = execute(service, turn, &sender, protocol, request, answer);
                }
                number
            }
            Asked::Part(number) => {
                answer.extend_from_slice(Refusal::DatagramsOfOneRequest.line());
                number
            }
            Asked::Nothing => 0,
        };
        datagram::split(number, answer, &mut [0; DATAGRAM_BYTES_MAX], |part| {
            service.stats.write_calls.increment();
            service.stats.bytes_written.add(socket.send_to(part, from).unwrap_or(0) as u64);
        });
    }
    service.buffers.reads[READS_AHEAD_MAX] = input;
    // A send that came back from where nobody listens is told of here, in the place of a datagram.
    let is_one = received.is_ok() || received.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    is_one.then_some(rounds)
}

/// Execute whole requests. `answer` is empty before; what follows the last whole request has none.
/// Returns how many turns of a connection that was worth.
fn execute(
    service: &mut Service<'_>,
    turn: &Turn<'_>,
    sender: &Sender,
    protocol: Protocol,
    input: &[u8],
    answer: &mut Vec<u8>,
) -> usize {
    let mut output = service.buffers.take_output();
    let begin = output.mark();
    let mut progress = Progress::default();
    let (mut consumed, mut rounds, mut parked, mut refusal) = (0, 1, 0, None);
    while consumed < input.len() && refusal.is_none() {
        let (bytes, state) = service.run(turn, sender, protocol, &input[consumed..], &mut progress, &mut output);
        consumed += bytes;
        match state {
            // A get that is long enough is executed in parts.
            State::Reading if bytes > 0 => {}
            // It is tried once more, and then answered.
            State::Parked if parked < DATAGRAM_PARKED_MAX => (parked, progress.is_last_try) = (parked + 1, true),
            State::Parked => refusal = Some(Refusal::OutOfMemory),
            State::Yielded if rounds < DATAGRAM_ROUNDS_MAX && !output.is_full() => rounds += 1,
            State::Yielded => refusal = Some(Refusal::TooMuchForUdp),
            _ => break,
        }
    }
    if output.is_holding() {
        service.abandon(&mut output);
        refusal = Some(Refusal::UdpDoesNotWait);
    }
    if output.pending_bytes() > UDP_ANSWER_BYTES_MAX {
        refusal = Some(Refusal::TooMuchForUdp);
    }
    if let Some(refusal) = refusal {
        output.withdraw(begin);
        reply_to(service, protocol, input).refused(answer, refusal);
    } else if progress.open_get.is_some() {
        // A get whose line does not end.
        output.withdraw(begin);
    } else if output.sendable_bytes() > 0 {
        // What the turn has written is published before it leaves.
        turn.publish();
        output.take_bytes(service.shared.engine.store(), turn, answer);
    }
    service.buffers.give_output(output);
    if refusal.is_some() { DATAGRAM_ROUNDS_MAX } else { rounds }
}

/// How the first request of `input` is to be answered that wants an answer.
#[cold]
fn reply_to(service: &mut Service<'_>, protocol: Protocol, mut input: &[u8]) -> Reply {
    let Service { shared, buffers, .. } = service;
    while !input.is_empty() {
        let (reply, bytes) = match protocol.parse(input, shared.engine.parse_limits(), &mut buffers.keys[0]) {
            Parsed::Request(request, bytes) => (request.reply(), bytes as u64),
            Parsed::Rejected(rejection) => (rejection.reply, rejection.skip_bytes),
            Parsed::Incomplete { .. } => break,
        };
        if reply != Reply::Silent {
            return reply;
        }
        input = input.get(bytes as usize..).unwrap_or_default();
    }
    Reply::Silent
}
