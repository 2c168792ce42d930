//! Strong mode: what a client is shown is held back until it cannot be lost any more, and is shown
//! only by a server that was certainly the primary when it was read.
//!
//! A read is done at once, as ever. Its answer is held ([`super::acks`]) until so many replicas as
//! the policy says have all of the shard's log up to where it ended just after the read: then what
//! was read, a miss as well, is acknowledged. And when that is so, it is looked whether the shard
//! has been this server's all the while (its gate is open, and has not changed), and whether the
//! lease is in force *then*. Until a lease ends nobody else becomes the primary without having
//! stopped this server; so nobody had become it when the item was read. Where any of this fails,
//! the client is told an error, and no value.
//!
//! A new primary has a record that begins its term at the end of its log. So nothing of what it has
//! inherited is shown before replicas have that record.
//!
//! A write that has written nothing (a cas with another number, an add of what is there) shows what
//! is there: it is a read. One that has written waits for its own record, which is behind all that
//! its answer shows, and needs no lease.
//!
//! A get of several keys may be answered in several turns, and by several servers. What each turn
//! has found is a part of the answer ([`super::forwarded`]) that is held by itself; where one
//! fails, its values are taken back if they have not been sent, and the answer ends in an error.

use super::acks::{Begin, Goal, Held, Kind};
use super::forwarded::Parts;
use super::target::Gate;
use super::{Call, Engine, Outcome, failed, watched};
use crate::protocol::reply::Fault;
use crate::protocol::request::NextKey;
use crate::protocol::text::meta::MetaVerb;
use crate::protocol::{Reply, Request};
use crate::store::{Appended, Closed};
use memchr::memrchr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Up to which key of a get its keys were looked up.
#[derive(Clone, Copy)]
enum Upto {
    /// All.
    End,
    /// Those before this offset.
    Before(u32),
}

impl Engine {
    /// Whether the answer to a request is held for what it shows.
    pub(super) fn is_strong(&self, request: &Request<'_>) -> bool {
        self.special.load(Relaxed) & watched::STRONG != 0
            && request.reply() != Reply::Silent
            && (matches!(request, Request::Get(_)) || request.key().is_some())
    }

    /// Do it, and hold the answer until so many `replicas` have what it shows.
    #[cold]
    pub(super) fn perform_strongly<'c>(
        &self,
        call: &mut Call<'c, '_, '_>,
        request: &Request<'c>,
        resume: u32,
        replicas: u8,
    ) -> Outcome {
        if let Some(outcome) = self.refuse_elsewhere(call, request, resume) {
            return outcome;
        }
        // A touch that is left out of the log would be shown as if replicas had it.
        self.store.log_touches();
        call.context.turn.forget_appended();
        let begin = Begin { place: call.out.end(), reign: self.store.reign() };
        let mark = call.out.mark();
        let outcome = self.perform_aside(call, request, resume);
        if outcome == Outcome::DropLine {
            // The error stands alone: nobody waits for what was shown before it.
            let said = call.out.bytes_since(mark);
            let line = memrchr(b'\n', &said[..said.len().saturating_sub(1)]).map_or(0, |at| at + 1);
            let words = said[line..].to_vec();
            call.out.withdraw(mark);
            call.out.bytes().extend_from_slice(&words);
        }
        let upto = match outcome {
            Outcome::Done | Outcome::Part => Upto::End,
            Outcome::Resume(at) | Outcome::Park(at) | Outcome::Forward(at) => Upto::Before(at),
            _ => return outcome,
        };
        if let Some(goal) = self.shown(call, request, resume, upto) {
            self.hold_shown(call, request, outcome, (goal, replicas), begin);
        }
        outcome
    }

    /// What is about a shard that takes no writes here is not answered here.
    fn refuse_elsewhere(&self, call: &mut Call<'_, '_, '_>, request: &Request<'_>, resume: u32) -> Option<Outcome> {
        let is_of_target = call.target.gate == Gate::ServedHere || resume == 0;
        let place = call.target.at.filter(|_| call.target.is_closed() && is_of_target)?.place;
        let closed = Closed { shard: place.shard() };
        if call.context.client.is_forwarder() {
            return Some(Outcome::Elsewhere(closed));
        }
        let primary = self.store.primary_of(closed);
        let who = primary.as_ref().map_or("not known now: ask again", |primary| &primary.clients);
        let why = format_args!("in strong mode the primary alone answers, and it is {who}");
        request.reply().refused_because(call.out.bytes(), Fault::Server, why);
        Some(failed(request, Outcome::Done))
    }

    /// What must be acknowledged before it is shown; None where nothing is.
    fn shown(&self, call: &Call<'_, '_, '_>, request: &Request<'_>, resume: u32, upto: Upto) -> Option<Goal> {
        let shards = self.store.shards();
        let Request::Get(get) = request else {
            let goal = match (call.context.turn.appended(), upto) {
                (_, Upto::Before(_)) => return None,
                (Appended::Below { shard, position }, _) => Goal::Shard { shard, position },
                _ => {
                    let shard = call.target.place()?.shard();
                    Goal::Shard { shard, position: shards[shard as usize].head() }
                }
            };
            return Some(goal);
        };
        let (mut only, mut several, mut from) = (None, Box::default(), resume);
        loop {
            if matches!(upto, Upto::Before(at) if at <= from) {
                break;
            }
            let NextKey::Key(key, next) = get.keys.next(from) else { break };
            let shard = self.store.locate(key).place.shard();
            match only {
                None => only = Some(shard),
                Some(first) if first != shard => note(&mut several, [first, shard], shards.len()),
                Some(_) => {}
            }
            from = next;
        }
        let head = |shard: usize| shards[shard].head();
        if several.is_empty() {
            return only.map(|shard| Goal::Shard { shard, position: head(shard as usize) });
        }
        let asked = several.iter_mut().enumerate().filter(|(_, position)| **position > 0);
        asked.for_each(|(shard, position)| *position = head(shard));
        Some(Goal::All(several))
    }

    fn hold_shown(
        &self,
        call: &mut Call<'_, '_, '_>,
        request: &Request<'_>,
        outcome: Outcome,
        (goal, replicas): (Goal, u8),
        begin: Begin,
    ) {
        let Begin { place, reign } = begin;
        let reply = request.reply();
        let is_write = !is_retrieval(request) && call.context.turn.appended() != Appended::Nothing;
        let kind = if is_write { Kind::Write(reply) } else { Kind::Read(reply) };
        call.context.stats.acks_waited.increment();
        let held = Held { kind, goal, reign, replicas, since: Instant::now(), within: self.acks.timeout };
        let is_done = outcome == Outcome::Done;
        match call.out.parts() {
            Parts::None if is_done => return call.out.hold(place, held),
            Parts::None => call.out.begin_parts(true),
            Parts::Unwritten | Parts::Written => {}
        }
        // The last line is the end of the whole answer.
        let end = if is_done { call.out.last_line() } else { call.out.end() };
        call.out.hold_part_of(place..end, held);
    }
}

/// These shards are asked for.
fn note(several: &mut Box<[u64]>, asked: [u32; 2], shards: usize) {
    if several.is_empty() {
        *several = vec![0; shards].into();
    }
    asked.into_iter().for_each(|shard| several[shard as usize] = 1);
}

/// Whether it asks for items, whatever it changes in them.
fn is_retrieval(request: &Request<'_>) -> bool {
    match request {
        Request::Get(_) | Request::GetOne(_) => true,
        Request::Meta(meta) => meta.verb == MetaVerb::Get,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
