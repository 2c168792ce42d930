//! Acknowledged writes: which answers are held for replicas, and until when. And `wait`.
//!
//! Whether an answer is held depends on what the request has written, not on the command: the turn
//! notes it ([`Appended`]). The answer to a request that has written nothing (NOT_STORED, EXISTS, a
//! miss, an error) is not held. Neither is that to a request with noreply. A quiet meta command is
//! held: it is answered only if too few replicas have it in time.
//!
//! From the request on: [`Engine::ack_replicas`] says how many replicas its answer waits for. What
//! it has written is the [`Goal`] that they must have applied. The answer waits in the output, as
//! [`Held`], in the queue of its connection ([`HeldAnswers`]). [`Held::verdict`] says what becomes
//! of it: that is pure, and takes what the replicas have applied ([`Holders`], which the server
//! looks up), the time, and what has become of the shards ([`Reigns`]). The worker's side, which
//! looks again and again, is `server/acks.rs`.
//!
//! In strong mode what is read is held as well: [`super::strong`].

mod goal;

use super::forwarded::{Parts, UnderWay, Wait};
use super::target::{Gate, writes};
use super::{Call, Engine, Outcome, watched};
use crate::base::lease::Lease;
use crate::base::limits::{ACK_MILLISECONDS_DEFAULT, HELD_ANSWERS_MAX, OUTPUT_BYTES_HIGH};
use crate::base::reused::Reused;
use crate::protocol::reply::Fault;
use crate::protocol::text::encode;
use crate::protocol::{Refusal, Reply, Request};
use crate::store::{Appended, Fate, Reign};
pub use goal::{Goal, Holders, Reigns};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::AtomicU8;
use std::time::{Duration, Instant};

/// How many replicas a write waits for, and how long, where the request says nothing.
#[derive(Debug, Clone, Copy)]
pub struct AckPolicy {
    /// 0: none.
    pub replicas: u8,
    /// Afterwards the client is told what is known.
    pub timeout: Duration,
}

impl Default for AckPolicy {
    fn default() -> AckPolicy {
        AckPolicy { replicas: 0, timeout: Duration::from_millis(ACK_MILLISECONDS_DEFAULT) }
    }
}

impl Engine {
    /// The same engine, with writes acknowledged like this.
    #[must_use]
    pub fn with_acks(self, acks: AckPolicy) -> Engine {
        Engine { special: AtomicU8::new(if acks.replicas > 0 { watched::ACKS } else { 0 }), acks, ..self }
    }

    /// How many replicas the answer to `request` is to wait for, if it turns out to have written
    /// something. In strong mode that is the policy's number at least.
    pub(super) fn ack_replicas(&self, request: &Request<'_>) -> u8 {
        let least = self.lease.strong_replicas();
        let by_default = self.acks.replicas.max(least);
        match request {
            Request::Meta(request) => request.ack_replicas.unwrap_or(by_default).max(least),
            // With noreply there is no answer to hold.
            _ if writes(request) == Some(Reply::Silent) => 0,
            _ => by_default,
        }
    }

    /// What is needed to hold the answer to what is written from here on. A gat that goes on has
    /// touched keys before, perhaps in an earlier turn; its last part is held for them. Of one that
    /// is answered in parts it is known whether it has ([`Engine::note_unfinished`]).
    #[cold]
    pub(super) fn begin_held(&self, call: &Call<'_, '_, '_>, request: &Request<'_>, resume: u32) -> Begin {
        match request {
            Request::Get(request)
                if (resume > 0 || request.continues)
                    && request.form.touch.is_some()
                    && call.out.parts() != Parts::Unwritten =>
            {
                call.context.turn.resume_appended()
            }
            _ => call.context.turn.forget_appended(),
        }
        Begin { place: call.out.end(), reign: self.store.reign() }
    }

    /// Hold the answer to what was written since `begin`, if anything was.
    #[cold]
    pub(super) fn hold_answer(&self, call: &mut Call<'_, '_, '_>, reply: Reply, replicas: u8, begin: Begin) {
        let Begin { place, reign } = begin;
        let goal = match call.context.turn.appended() {
            Appended::Nothing => return,
            Appended::Below { shard, position } => Goal::Shard { shard, position },
            Appended::Widely => Goal::All(self.store.heads(reign)),
        };
        call.context.stats.acks_waited.increment();
        let within = self.acks.timeout;
        let kind = Kind::Write(reply);
        let held = Held { kind, goal, reign, replicas, since: Instant::now(), within };
        if call.out.parts() == Parts::None && call.target.gate != Gate::OwnShards {
            call.out.hold(place, held);
        } else {
            call.out.hold_part(place, held);
        }
    }

    /// What was asked for since [`Engine::begin_held`] is not all done. A get that has come to a
    /// key of another server is answered in parts: note whether it has written anything here.
    #[cold]
    pub(super) fn note_unfinished(&self, call: &mut Call<'_, '_, '_>, outcome: Outcome) {
        if call.out.parts() != Parts::None || matches!(outcome, Outcome::Forward(1..)) {
            call.out.begin_parts(call.context.turn.appended() != Appended::Nothing);
        }
    }

    /// wait: what is written now is all that this connection, or any other, has written here so
    /// far.
    pub(super) fn wait(&self, call: &mut Call<'_, '_, '_>, replicas: u8, milliseconds: u32) -> Outcome {
        call.context.stats.waits.increment();
        let reign = self.store.reign();
        // What was written here before is followed elsewhere, or not at all: nobody can say.
        if self.store.writable().is_empty()
            && let Some(closed) = self.store.first_closed()
        {
            return self.refuse_write(call, closed, Reply::Text);
        }
        let goal = Goal::All(self.store.heads(reign));
        let within = Duration::from_millis(milliseconds.into());
        let place = call.out.end();
        call.out.hold(place, Held { kind: Kind::Count, goal, reign, replicas, since: Instant::now(), within });
        Outcome::Done
    }
}

/// Where a request begins whose answer may be held.
#[derive(Clone, Copy)]
pub(super) struct Begin {
    /// The place of its answer.
    pub(super) place: u64,
    /// The store's reign.
    pub(super) reign: Reign,
}

/// What held answers are judged by.
pub struct Judge<'a> {
    /// The replicas.
    pub holders: &'a dyn Holders,
    /// The time.
    pub now: Instant,
    /// The server ends: nothing is waited for any more.
    pub ending: bool,
    /// The reigns of now. Where the fate of what was written is not known, a shard's replicas
    /// report positions of another server's log, or of a log that has gone on from another
    /// server's: they say nothing about what was written before.
    pub reigns: &'a dyn Reigns,
    /// Whether this server is sure of its roles.
    pub lease: &'a Lease,
}

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The answer to a write: it goes out as it is, or an error in its place, told like this.
    Write(Reply),
    /// What was read in strong mode: it goes out as it is, or an error in its place.
    Read(Reply),
    /// The answer to wait, made when it is due: how many replicas have it, as [`Goal`] counts them.
    Count,
}

/// An answer's wait.
#[derive(Debug)]
pub struct Held {
    /// What is held.
    pub kind: Kind,
    /// What must have been applied.
    pub goal: Goal,
    /// The store's reign before that was written. (One number for all shards: reigns are counted
    /// for the whole store.)
    pub reign: Reign,
    /// By how many.
    pub replicas: u8,
    /// Since when it is waited for.
    pub since: Instant,
    /// For how long at most.
    pub within: Duration,
}

/// What becomes of a held answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It waits.
    Waits,
    /// It goes out as it is.
    Stands,
    /// This count is the answer.
    Counted(usize),
    /// The time is over, and only so many replicas have it.
    TimedOut(usize),
    /// Whether enough replicas have it can no longer be known.
    Demoted,
    /// This server cannot tell whether it is still the primary of what was read.
    NoLease,
}

impl Held {
    /// See [`Verdict`].
    pub fn verdict(&self, judge: &Judge<'_>) -> Verdict {
        let is_read = matches!(self.kind, Kind::Read(_));
        // After it was read. And before the gates are asked: a lease that was granted since they
        // have closed is counted only after that.
        let is_sure = !is_read || judge.lease.is_in_force();
        let (count, fate) = self.goal.standing(judge, self.reign);
        let enough = count >= usize::from(self.replicas);
        // Replicas tell another server how far they have come.
        let is_told_elsewhere = fate == Fate::GoesOn && !enough;
        if fate == Fate::Lost || is_told_elsewhere {
            return Verdict::Demoted;
        }
        if is_read && self.goal.has_a_closed_shard(judge.reigns) {
            return Verdict::Demoted;
        }
        if !is_sure {
            return Verdict::NoLease;
        }
        let over = || judge.ending || judge.now.saturating_duration_since(self.since) >= self.within;
        match self.kind {
            Kind::Write(_) | Kind::Read(_) if enough => Verdict::Stands,
            Kind::Write(_) | Kind::Read(_) if over() => Verdict::TimedOut(count),
            Kind::Count if enough || over() => Verdict::Counted(count),
            Kind::Write(_) | Kind::Read(_) | Kind::Count => Verdict::Waits,
        }
    }

    /// Append what the client is told instead of the answer that was held.
    pub fn write_verdict(&self, verdict: Verdict, now: Instant, out: &mut Vec<u8>) {
        let reply = match self.kind {
            Kind::Write(reply) | Kind::Read(reply) => reply,
            Kind::Count => Reply::Text,
        };
        match verdict {
            Verdict::Waits | Verdict::Stands => {}
            Verdict::Counted(count) => encode::replicas(out, count),
            Verdict::TimedOut(count) => {
                let waited = now.saturating_duration_since(self.since).as_millis();
                let wanted = self.replicas;
                let (what, then) = match self.kind {
                    Kind::Read(_) => ("not confirmed", "what would be shown may be lost; ask again"),
                    Kind::Write(_) | Kind::Count => ("not acknowledged", "it is stored here"),
                };
                let why = format_args!("{what}: {count} of {wanted} replicas have it after {waited} ms; {then}");
                reply.refused_because(out, Fault::Server, why);
            }
            Verdict::Demoted if matches!(self.kind, Kind::Read(_)) => reply.refused(out, Refusal::ReadElsewhere),
            Verdict::Demoted => reply.refused(out, Refusal::Demoted),
            Verdict::NoLease => reply.refused(out, Refusal::NoLeaseToRead),
        }
    }
}

/// Those of one output, in the order in which they are to go out.
///
/// All answers that an output has had are one stream of bytes, and places are counted from where it
/// began to be counted here.
#[derive(Default)]
pub(super) struct HeldAnswers {
    /// How much of the stream is no longer kept in the output.
    gone_bytes: u64,
    /// Each with its place in the stream.
    pub(super) queue: VecDeque<(Range<u64>, Wait)>,
    /// Memory that they point to.
    pub(super) goal_bytes: usize,
    /// How many have ever been in the queue.
    pub(super) pushed: u64,
    /// How many of the queue wait for replicas.
    acks: usize,
    /// Of those that another server answers, and has not answered yet.
    pub(super) under_way: UnderWay,
    /// Whether an answer in parts has no end yet. It is the last one.
    pub(super) parts: Parts,
    /// The error that stands in the place of the end of what is answered in parts, once one part
    /// has failed. Of the first such answer whose end is not let go of.
    pub(super) failure: Option<Reused>,
}

/// What [`HeldAnswers::resolve`] let go of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Answers that waited for replicas and are held no more.
    pub answers: usize,
    /// Of these, those that became an error.
    pub failed: usize,
}

impl HeldAnswers {
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Nothing is held, and nothing is known of an answer that has no end yet.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.parts == Parts::None
    }

    /// How many wait for replicas.
    pub fn acks(&self) -> usize {
        self.acks
    }

    /// Whether as much is held as may be, where the output has so many bytes to send.
    pub fn are_full(&self, pending_bytes: usize) -> bool {
        let bytes = pending_bytes + self.goal_bytes + self.under_way.reserved_bytes();
        bytes >= OUTPUT_BYTES_HIGH || self.queue.len() >= HELD_ANSWERS_MAX
    }

    /// Memory of the queue.
    pub fn capacity_bytes(&self) -> usize {
        self.queue.capacity() * size_of::<(Range<u64>, Wait)>() + self.under_way.answered_bytes
    }

    /// Up to where the output may be sent, of its bytes: to the first held answer.
    pub fn barrier(&self) -> Option<usize> {
        self.queue.front().map(|(range, _)| (range.start - self.gone_bytes) as usize)
    }

    /// The place in the stream of the output's first byte.
    pub fn gone_bytes(&self) -> u64 {
        self.gone_bytes
    }

    /// The output keeps its first `bytes` no longer.
    pub fn note_gone(&mut self, bytes: usize) {
        self.gone_bytes += bytes as u64;
    }

    /// Hold the answer at `range`, behind the others. Returns its number.
    pub fn push(&mut self, range: Range<u64>, wait: Wait) -> u64 {
        debug_assert!(self.queue.back().is_none_or(|(last, _)| last.end <= range.start), "one behind the other");
        match &wait {
            Wait::Acks { held, .. } => {
                self.goal_bytes += held.goal.bytes();
                self.acks += 1;
            }
            Wait::Forwarded(elsewhere) => self.under_way.begin(elsewhere),
            Wait::End => {}
        }
        self.queue.push_back((range, wait));
        self.pushed += 1;
        self.pushed - 1
    }

    /// A part has failed of what is answered in parts, and no part of it is held any more.
    pub fn take_failure(&mut self) -> Option<Reused> {
        self.failure.take()
    }

    /// None of them is waited for longer than that.
    pub fn bound(&mut self, within: Duration) {
        for (_, wait) in &mut self.queue {
            if let Wait::Acks { held, .. } = wait {
                held.within = held.within.min(within);
            }
        }
    }

    /// Whether [`HeldAnswers::resolve`] would let go of something.
    pub fn are_resolvable(&self, judge: &Judge<'_>) -> bool {
        self.queue.front().is_some_and(|(_, wait)| wait.verdict(judge) != Verdict::Waits)
    }

    /// Let go of those at the front that wait no longer, with other words in the place of those
    /// that have not made it. `bytes` are the output's.
    pub fn resolve(&mut self, bytes: &mut Vec<u8>, judge: &Judge<'_>) -> Resolved {
        let mut resolved = Resolved::default();
        // The bytes as they will be, and how many of them as they are that stands for. Nothing is
        // moved for answers that stand at the end, as they do where nothing was answered here.
        let (mut rewritten, mut rewritten_upto) = (Vec::new(), 0);
        let (end, mut appended) = (bytes.len(), 0);
        while let Some((_, front)) = self.queue.front() {
            let verdict = front.verdict(judge);
            if verdict == Verdict::Waits {
                break;
            }
            let (range, wait) = self.queue.pop_front().expect("it has a front");
            let words = match wait {
                Wait::Acks { held, is_part } => {
                    let words = self.end_wait(&held, verdict, judge.now, &mut resolved);
                    // What a part shows that has failed is taken back.
                    let rest = words.is_some().then(Reused::default);
                    if is_part { self.note_failure(words).or(rest) } else { words }
                }
                Wait::Forwarded(elsewhere) => self.place(elsewhere),
                Wait::End => self.failure.take(),
            };
            let Some(words) = words else { continue };
            let place = |position: u64| (position - self.gone_bytes) as usize;
            if place(range.start) == end && rewritten.is_empty() && rewritten_upto == 0 {
                bytes.extend_from_slice(&words);
                appended += words.len() as i64;
                continue;
            }
            rewritten.extend_from_slice(&bytes[rewritten_upto..place(range.start)]);
            rewritten.extend_from_slice(&words);
            rewritten_upto = place(range.end);
        }
        if rewritten_upto > 0 || !rewritten.is_empty() {
            let growth = rewritten.len() as i64 - rewritten_upto as i64;
            rewritten.extend_from_slice(&bytes[rewritten_upto..]);
            *bytes = rewritten;
            appended += growth;
        }
        if appended != 0 {
            self.shift(appended);
        }
        resolved
    }

    /// It waits for replicas no longer. Returns what is to stand in its place; None where it stands
    /// as it is.
    fn end_wait(&mut self, held: &Held, verdict: Verdict, now: Instant, resolved: &mut Resolved) -> Option<Reused> {
        self.goal_bytes -= held.goal.bytes();
        self.acks -= 1;
        resolved.answers += 1;
        if verdict == Verdict::Stands {
            return None;
        }
        resolved.failed += usize::from(!matches!(verdict, Verdict::Counted(_)));
        let mut words = Vec::new();
        held.write_verdict(verdict, now, &mut words);
        Some(words.into())
    }

    /// What is held still stands so much further behind. All that was sent is where it was.
    fn shift(&mut self, growth: i64) {
        let moved = |position: u64| position.strict_add_signed(growth);
        self.queue.iter_mut().for_each(|(range, _)| *range = moved(range.start)..moved(range.end));
    }
}

#[cfg(test)]
pub(super) mod tests;
