//! The worker's side of forwarding: when links are looked at, how answers come to their clients,
//! and what has come back and is executed here.
//!
//! That is executed as an owner executes what it is sent ([`crate::server::owner`]): whole, or not
//! at all; its answer waits for replicas where one does, in an output of its own. Its client may
//! have gone: it is done all the same. Where there is no room, or the shard takes no writes here
//! after all, it stays among those that have come back, and so do those behind it.

use super::again::WITHIN;
use super::{Forwarder, Pending, Settled, Stage};
use crate::base::limits::KEY_BYTES_MAX;
use crate::engine::Output;
use crate::protocol::Parsed;
use crate::protocol::forward::Fate;
use crate::server::owner::{Trial, Tried};
use crate::server::service::Service;
use crate::server::state::Event;
use crate::server::worker::Worker;
use crate::store::Turn;
use std::collections::HashSet;
use std::time::Instant;

impl Worker<'_> {
    /// Before connections are served: take what owners have answered.
    #[cold]
    pub(in crate::server) fn receive_forwarded(&mut self, turn: &Turn<'_>) {
        let ending = self.service.holding.is_ending();
        let Worker { service, poller, .. } = self;
        let Some(forwarder) = &mut service.forwarder else { return };
        forwarder.receive(poller);
        forwarder.look(service.shared.engine.store(), Instant::now(), ending);
        // What is executed here is forwarded no more.
        if let Some(mut forwarder) = service.forwarder.take() {
            forwarder.answer_held(service, turn);
            forwarder.execute_here(service, turn);
            service.forwarder = Some(forwarder);
        }
        self.place_settled();
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
        let bytes = forwarder.input_bytes();
        let before = std::mem::replace(&mut forwarder.charged, bytes);
        if bytes != before {
            service.shared.input_budget.take(bytes);
            service.shared.input_budget.give(before);
        }
    }

    /// Put what is settled into its places.
    fn place_settled(&mut self) {
        let Some(forwarder) = &mut self.service.forwarder else { return };
        let mut settled = std::mem::take(&mut forwarder.settled);
        for Settled { client, place, answer } in settled.drain(..) {
            // A client that has gone wants nothing any more.
            let Some(connection) = self.connections.get_mut(client) else { continue };
            if let Some(output) = &mut connection.output {
                output.fulfil(place, answer);
            }
            if self.answered.last() != Some(&client) {
                self.answered.push(client);
            }
        }
        forwarder.settled = settled;
    }
}

impl Forwarder {
    /// Answer those that replicas have, or that have waited long enough.
    fn answer_held(&mut self, service: &mut Service<'_>, turn: &Turn<'_>) {
        for (pending, mut output) in std::mem::take(&mut self.held) {
            service.resolve(&mut output);
            self.answer_here(service, turn, pending, output);
        }
    }

    /// Execute those that are to be executed here, in their order.
    fn execute_here(&mut self, service: &mut Service<'_>, turn: &Turn<'_>) {
        let mut stuck = HashSet::new();
        for tag in std::mem::take(&mut self.here) {
            let Some(pending) = self.pending.get_mut(tag) else { continue };
            let group = (pending.client, pending.shard);
            if stuck.contains(&group) {
                continue;
            }
            match service.execute_returned(turn, pending) {
                Some(output) => {
                    self.note_overtaken(tag);
                    if let Some(pending) = self.take_out(tag) {
                        self.answer_here(service, turn, pending, output);
                    }
                }
                None => drop(stuck.insert(group)),
            }
        }
    }

    /// This is the answer to what was executed here, once it is held no more.
    fn answer_here(&mut self, service: &mut Service<'_>, turn: &Turn<'_>, pending: Pending, output: Box<Output>) {
        let (mut output, store) = (output, service.shared.engine.store());
        if output.is_holding() {
            output.detach(store, turn);
            return self.held.push((pending, output));
        }
        let mut bytes = Vec::new();
        turn.publish();
        output.take_bytes(store, turn, &mut bytes);
        service.buffers.give_output(output);
        let answer = pending.answer(Fate::Done, &bytes);
        self.settled.push(Settled { client: pending.client, place: pending.place, answer });
    }
}

impl Service<'_> {
    /// Execute a request that has come back. None where nothing is done now: there is no room, or
    /// its shard takes no writes here.
    fn execute_returned(&mut self, turn: &Turn<'_>, pending: &mut Pending) -> Option<Box<Output>> {
        let Stage::NotMine { last, resume } = pending.stage else { return None };
        let (engine, mut scratch) = (&self.shared.engine, [0; KEY_BYTES_MAX]);
        let parsed = pending.protocol.parse(&pending.bytes, engine.parse_limits(), &mut scratch);
        let Parsed::Request(request, _) = parsed else { unreachable!("it was one when it was forwarded") };
        let trial = Trial { request: &request, target: engine.target(&request), resume, last_try: false };
        let mut output = self.buffers.take_output();
        match self.execute_for(turn, -1, &trial, &mut output) {
            Tried::Done => {
                output.hold_within(WITHIN.saturating_sub(pending.since.elapsed()));
                return Some(output);
            }
            Tried::NoRoom(offset) => {
                pending.stage = Stage::NotMine { last, resume: Some(offset) };
                // The room may be another worker's to reclaim, and that one may be asleep.
                self.shared.wake_all();
            }
            Tried::Elsewhere(_) => {}
        }
        self.buffers.give_output(output);
        None
    }
}
