//! The worker's side of forwarding: when links are looked at, and how answers come to their
//! clients.

use super::{Pending, Settled, Settlement};
use crate::engine::forwarded::Answer;
use crate::protocol::forward::Fate;
use crate::server::connection::Progress;
use crate::server::control::PeerOf;
use crate::server::service::Service;
use crate::server::state::{Event, State};
use crate::server::worker::Worker;
use crate::store::Turn;
use std::time::Instant;

/// Turns that a request which has come back may take here.
const ROUNDS_MAX: usize = 4;

impl Worker<'_> {
    /// Before connections are served: take what owners have answered.
    #[cold]
    pub(in crate::server) fn receive_forwarded(&mut self, turn: &Turn<'_>) {
        let ending = self.service.holding.is_ending();
        let Worker { service, poller, .. } = self;
        let Some(forwarder) = &mut service.forwarder else { return };
        forwarder.receive(poller);
        forwarder.look(service.shared.engine.store(), Instant::now(), ending);
        self.place_settled(turn);
    }

    /// After connections were served: send what they have forwarded, and serve those that have got
    /// an answer and nothing else.
    #[cold]
    pub(in crate::server) fn send_forwarded(&mut self, turn: &Turn<'_>) {
        let mut answered = std::mem::take(&mut self.answered);
        for token in answered.drain(..) {
            self.serve(turn, token, Event::Answered);
        }
        self.answered = answered;
        let Worker { service, poller, .. } = self;
        let Some(forwarder) = &mut service.forwarder else { return };
        forwarder.send(poller, Instant::now());
    }

    /// Put what is settled into its places.
    fn place_settled(&mut self, turn: &Turn<'_>) {
        let Some(forwarder) = &mut self.service.forwarder else { return };
        for Settled { client, place, fate } in std::mem::take(&mut forwarder.settled) {
            // A client that has gone wants nothing any more.
            let Some(connection) = self.connections.get_mut(client) else { continue };
            let answer = match fate {
                Settlement::Answer(answer) => answer,
                Settlement::Here(pending) => self.service.execute_here(turn, &PeerOf(&connection.socket), &pending),
            };
            if let Some(output) = &mut connection.output {
                output.fulfil(place, answer);
            }
            if self.answered.last() != Some(&client) {
                self.answered.push(client);
            }
        }
    }
}

impl Service<'_> {
    /// Execute a request here whose owner has not done it, and whose shard takes writes here by
    /// now.
    fn execute_here(&mut self, turn: &Turn<'_>, client: &PeerOf<'_>, pending: &Pending) -> Answer {
        let (mut output, mut progress, mut consumed) = (self.buffers.take_output(), Progress::default(), 0);
        for _ in 0..ROUNDS_MAX {
            (progress.serves_here, progress.is_last_try) = (true, progress.parked_at.is_some());
            let input = &pending.bytes[consumed..];
            let (bytes, state) = self.run(turn, client, pending.protocol, input, &mut progress, &mut output);
            consumed += bytes;
            if !matches!(state, State::Parked | State::Yielded) || consumed == pending.bytes.len() {
                break;
            }
        }
        let mut bytes = Vec::new();
        if output.is_holding() {
            self.abandon(&mut output);
            return pending.failure("it is stored here, and whether replicas have it is not known");
        }
        turn.publish();
        output.take_bytes(self.shared.engine.store(), turn, &mut bytes);
        self.buffers.give_output(output);
        pending.answer(Fate::Done, &bytes)
    }
}
