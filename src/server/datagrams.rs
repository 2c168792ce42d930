//! Requests over UDP: a datagram is a request, or several whole ones, and is answered before the
//! next one is looked at. Nothing is kept between two of them.
//!
//! A datagram's sender may be forged, so what one of them may cost has a bound: an answer has at
//! most [`UDP_ANSWER_BYTES_MAX`] bytes, and nothing that is told over UDP waits, neither for memory
//! nor for replicas. A datagram that the socket does not take now is lost, as others are on their
//! way.

use super::control::Nobody;
use super::execute::Stop;
use super::lane::Lane;
use super::table::Token;
use crate::base::limits::{DATAGRAMS_PER_TURN, READS_AHEAD_MAX, UDP_ANSWER_BYTES_MAX};
use crate::engine::Output;
use crate::protocol::datagram::{self, Asked, DATAGRAM_BYTES_MAX};
use crate::protocol::{Parsed, Protocol, Refusal, Reply};
use crate::server::connection::Progress;
use crate::store::Turn;
use crate::sys::poll::{Interest, Poller};
use std::io;
use std::net::UdpSocket;

/// The first socket's number among a worker's tokens: listeners have lower ones.
pub const DATAGRAMS: u32 = 1 << 16;

/// Turns of a datagram's requests: each may look up the keys of one.
const ROUNDS_MAX: usize = 4;

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
    pub fn serve(&mut self, lane: &mut Lane<'_>, turn: &Turn<'_>) {
        while let Some(at) = self.ready.pop() {
            let Some(socket) = self.sockets.get(at) else { continue };
            for _ in 0..DATAGRAMS_PER_TURN {
                if !serve_one(lane, turn, socket, &mut self.answer) {
                    break;
                }
            }
        }
    }

    /// Let go of the sockets.
    pub fn close(&mut self, poller: &Poller) {
        self.sockets.drain(..).for_each(|socket| drop(poller.remove(&socket)));
    }
}

/// Serve one datagram; false where there is none.
fn serve_one(lane: &mut Lane<'_>, turn: &Turn<'_>, socket: &UdpSocket, answer: &mut Vec<u8>) -> bool {
    let mut input = std::mem::take(&mut lane.buffers.reads[READS_AHEAD_MAX]);
    let received = socket.recv_from(&mut input);
    answer.clear();
    if let Ok((bytes, from)) = received {
        lane.stats.read_calls.increment();
        lane.stats.bytes_read.add(bytes as u64);
        let number = match datagram::parse(&input[..bytes]) {
            Asked::Request(number, request) => {
                let protocol = Protocol::of(request[0]);
                if lane.shared.config.protocol.is_none_or(|only| only == protocol) {
                    execute(lane, turn, protocol, request, answer);
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
            lane.stats.write_calls.increment();
            lane.stats.bytes_written.add(socket.send_to(part, from).unwrap_or(0) as u64);
        });
    }
    lane.buffers.reads[READS_AHEAD_MAX] = input;
    // A send that came back from where nobody listens is told of here, in the place of a datagram.
    received.is_ok() || received.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Execute whole requests. `answer` is empty before; what follows the last whole request has none.
fn execute(lane: &mut Lane<'_>, turn: &Turn<'_>, protocol: Protocol, input: &[u8], answer: &mut Vec<u8>) {
    let (mut output, mut progress) = (lane.buffers.take_output(), Progress::default());
    let mut refusal = None;
    let (mut consumed, mut rounds) = (0, 0);
    while consumed < input.len() && refusal.is_none() {
        let (bytes, stop) = lane.run(turn, &Nobody, protocol, &input[consumed..], &mut progress, &mut output);
        consumed += bytes;
        match stop {
            // A get that is long enough is executed in parts.
            Stop::NeedMore { .. } if bytes > 0 => {}
            Stop::NeedMore { .. } | Stop::Quit | Stop::Refused => break,
            Stop::Parked => progress.is_last_try = true,
            Stop::Yield if rounds < ROUNDS_MAX => rounds += 1,
            Stop::Yield | Stop::Full => refusal = Some(Refusal::TooLargeForUdp),
        }
    }
    if output.is_holding() {
        lane.abandon(&mut output);
        refusal = Some(Refusal::UdpDoesNotWait);
    }
    if output.pending_bytes() > UDP_ANSWER_BYTES_MAX {
        refusal = Some(Refusal::TooLargeForUdp);
    }
    take_answer(lane, turn, &mut output, answer);
    if let Some(refusal) = refusal {
        answer.clear();
        reply_to(lane, protocol, input).refused(answer, refusal);
    }
    lane.buffers.give_output(output);
}

/// How the first request is to be answered.
#[cold]
fn reply_to(lane: &mut Lane<'_>, protocol: Protocol, input: &[u8]) -> Reply {
    let Lane { shared, buffers, .. } = lane;
    match protocol.parse(input, shared.engine.parse_limits(), &mut buffers.keys[0]) {
        Parsed::Request(request, _) => request.reply(),
        Parsed::Rejected(rejection) => rejection.reply,
        Parsed::Incomplete { .. } => Reply::Silent,
    }
}

/// Move what is to be sent into `answer`. What the turn has written is published before it leaves.
fn take_answer(lane: &Lane<'_>, turn: &Turn<'_>, output: &mut Output, answer: &mut Vec<u8>) {
    if output.sendable_bytes() > 0 {
        turn.publish();
        output.take_bytes(lane.shared.engine.store(), turn, answer);
    }
}
