//! Requests that are another server's: from the executor to that server's link.
//!
//! Nothing of this is on the way of a request whose shard takes writes here. A connection that has
//! requests under way is executed in the careful way, in which each request is looked at first:
//! does it go by another way than an earlier one about its shard?

use super::{Executor, Flow, has_waited_enough, next_attempt};
use crate::base::reused::Reused;
use crate::engine::forwarded::Elsewhere;
use crate::engine::{Context, Outcome, Output, Target};
use crate::protocol::reply::Fault;
use crate::protocol::{Protocol, Reply, Request, binary};
use crate::server::connection::Progress;
use crate::server::forward::{Part, Pending, Stage};
use crate::server::state::State;
use crate::store::Primary;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// What is forwarded.
struct Frame<'r> {
    /// None: a flush_all.
    shard: Option<u32>,
    part: Part,
    protocol: Protocol,
    reply: Reply,
    bytes: Cow<'r, [u8]>,
    /// Of a get: where to go on.
    next: u32,
}

impl Executor<'_> {
    /// Whether a request has to wait for earlier ones of its connection that are under way: they
    /// are about the same shard, and it would be done here. Of a get that is its first key; at
    /// others the engine stops ([`Outcome::Forward`]), and so it does where the gate opens only
    /// now.
    #[cold]
    pub(super) fn is_ahead(request: &Request<'_>, target: Target<'_>, resume: u32, output: &Output) -> bool {
        let Some(place) = target.place() else {
            return matches!(request, Request::FlushAll { .. }) && output.is_forwarding();
        };
        let is_about_it = target.takes_writes() && resume == 0;
        output.under_way(None).is_some() || is_about_it && output.under_way(Some(place.shard())).is_some()
    }

    /// Note that the first request waits for others of its connection, or for a link.
    #[cold]
    pub(super) fn wait(context: &Context<'_, '_>, progress: &mut Progress) -> State {
        if progress.parked_at.is_none() {
            context.stats.forward_waits.increment();
            progress.parked_at = Some(Instant::now());
        }
        State::Parked
    }

    /// A request, of these bytes, is another server's from the key at `at` on: have that one do it.
    #[cold]
    #[inline(never)]
    pub(super) fn pass_on(
        &mut self,
        context: &mut Context<'_, '_>,
        (request, target): (&Request<'_>, Target<'_>),
        bytes: &[u8],
        at: u32,
        progress: &mut Progress,
        output: &mut Output,
    ) -> Flow {
        if let Request::FlushAll { reply, .. } = request {
            return self.flush_everywhere(context, request, bytes, *reply, progress, output);
        }
        if at != progress.resume {
            // The keys before it are answered.
            (progress.resume, progress.parked_at, progress.is_last_try) = (at, None, false);
        }
        if let Some(flow) = self.answer_moved(context, request, at, progress, output) {
            return flow;
        }
        let store = self.shared.engine.store();
        let shard_of = |key: &[u8]| target.place_of(key).unwrap_or_else(|| store.locate(key).place).shard();
        let frame = frame_of(request, bytes, at, self.protocol, shard_of);
        let (Some(forwarder), Some(frame)) = (self.forwarder.as_deref_mut(), frame) else {
            progress.care.serve_here(true);
            return Flow::Carefully;
        };
        let shard = frame.shard;
        let way = shard.and_then(|shard| forwarder.way(store, shard, frame.bytes.len()));
        let Some((owner, has_room)) = way else {
            if output.under_way(shard).is_some() {
                return Flow::Stop(Self::wait(context, progress));
            }
            // One whose gate has opened is looked at again.
            let closed = shard.filter(|shard| !store.is_open(*shard));
            if let Some(closed) = closed.filter(|_| self.shared.engine.cluster().is_some()) {
                // What is here may be old, or nothing.
                let why = format_args!("shard {closed} has no primary that is known here; nothing was done");
                refuse_undone(context, request, why, progress, output);
                return Flow::On;
            }
            progress.care.serve_here(shard.is_none() || closed.is_some());
            return Flow::Carefully;
        };
        if self.goes_otherwise(shard, owner, progress, output) || !has_room && !has_waited_enough(progress) {
            return Flow::Stop(Self::wait(context, progress));
        }
        if !has_room {
            let primary = self.forwarder.as_deref().and_then(|forwarder| forwarder.primary_of(store, shard?));
            refuse_for_lack_of_room(context, request, primary.as_deref(), progress, output);
            return Flow::On;
        }
        (progress.parked_at, progress.is_last_try) = (None, false);
        let (part, next) = (frame.part, frame.next);
        let is_begun = at > 0 || matches!(request, Request::Get(get) if get.continues);
        self.submit(frame, owner, output.end(), progress, output);
        match part {
            Part::Whole | Part::Flush | Part::Unlink => {
                progress.resume = 0;
                Flow::On
            }
            Part::Key => {
                if !output.is_in_parts() {
                    output.begin_parts(is_begun);
                }
                progress.resume = next;
                Flow::Carefully
            }
        }
    }

    /// A flush_all: done here for the shards that take writes here, and by the primaries of all
    /// others. Refused where one of these is not known.
    fn flush_everywhere(
        &mut self,
        context: &mut Context<'_, '_>,
        request: &Request<'_>,
        bytes: &[u8],
        reply: Reply,
        progress: &mut Progress,
        output: &mut Output,
    ) -> Flow {
        let engine = &self.shared.engine;
        let Some(asked) = self.forwarder.as_deref_mut().and_then(|forwarder| forwarder.all_primaries(engine.store()))
        else {
            progress.care.serve_here(true);
            return Flow::Carefully;
        };
        let owners: Vec<_> = asked.iter().map_while(|primary| self.owner_of(primary, bytes.len())).collect();
        let full = asked.get(owners.len());
        if output.is_forwarding() || full.is_some() && !has_waited_enough(progress) {
            return Flow::Stop(Self::wait(context, progress));
        }
        if let Some(full) = full {
            refuse_for_lack_of_room(context, request, Some(full), progress, output);
            return Flow::On;
        }
        let (begin, flushed) = (output.end(), context.stats.cmd_flush.get());
        let target = Target::default().own_shards();
        let outcome = engine.execute(context, request, target, next_attempt(progress), output);
        if let Some(state) = self.follow(context, outcome, progress) {
            return Flow::Stop(state);
        }
        if context.stats.cmd_flush.get() == flushed {
            return Flow::On; // there was no room for it
        }
        for owner in owners {
            let frame = Frame {
                shard: None,
                part: Part::Flush,
                protocol: self.protocol,
                reply,
                bytes: Cow::Borrowed(bytes),
                next: 0,
            };
            self.submit(frame, owner, begin, progress, output);
        }
        output.end_parts(begin);
        Flow::On
    }

    /// A refused store must not leave the old value (as memcached has it), whoever has that. Where
    /// there is no room to have it deleted it stays.
    #[cold]
    pub(super) fn unlink_elsewhere(&mut self, key: &[u8], progress: &Progress, output: &mut Output) {
        let store = self.shared.engine.store();
        let shard = store.locate(key).place.shard();
        let Some(primary) = self.forwarder.as_deref().and_then(|forwarder| forwarder.primary_of(store, shard)) else {
            return;
        };
        let bytes = binary::quiet_delete(key);
        let Some(owner) = self.owner_of(&primary, bytes.len()) else { return };
        if self.goes_otherwise(Some(shard), owner, progress, output) {
            return;
        }
        let (shard, part, protocol) = (Some(shard), Part::Unlink, Protocol::Binary);
        let frame = Frame { shard, part, protocol, reply: Reply::Silent, bytes: Cow::Owned(bytes), next: 0 };
        self.submit(frame, owner, output.end(), progress, output);
    }

    /// Whether earlier requests of the same client about the same shard are under way by another
    /// way than to this owner, or about all shards.
    fn goes_otherwise(&self, shard: Option<u32>, owner: u32, progress: &Progress, output: &Output) -> bool {
        output.under_way(shard).is_some_and(|before| before != owner)
            || output.under_way(None).is_some()
            || self.forwarder.as_deref().is_some_and(|forwarder| forwarder.holds_up(progress.client, shard))
    }

    /// The number of that server, if it takes one more request of so many bytes.
    fn owner_of(&mut self, primary: &Arc<Primary>, bytes: usize) -> Option<u32> {
        let (owner, has_room) = self.forwarder.as_deref_mut()?.owner(primary, bytes);
        has_room.then_some(owner)
    }

    /// A request has been executed, parts of which may be forwarded: then its last line stands only
    /// if none of these fails.
    pub(super) fn end_parts(outcome: Outcome, output: &mut Output) {
        if output.is_in_parts() && matches!(outcome, Outcome::Done | Outcome::DropLine) {
            output.end_parts(output.last_line());
        }
    }

    /// Its answer is to stand at `at`.
    fn submit(&mut self, frame: Frame<'_>, owner: u32, at: u64, progress: &Progress, output: &mut Output) {
        let Some(forwarder) = self.forwarder.as_deref_mut() else { return };
        let Frame { shard, part, protocol, reply, bytes, .. } = frame;
        let (is_part, since) = (matches!(part, Part::Key | Part::Flush), forwarder.now());
        let place = output.await_answer(at, Elsewhere { shard, owner, is_part, answer: None });
        forwarder.submit(Pending {
            client: progress.client,
            place,
            shard,
            part,
            reply,
            protocol,
            bytes: Reused::from(&*bytes),
            owner,
            since,
            stage: Stage::Queued,
            failures: 0,
            first_not_mine: None,
        });
    }
}

/// There was no room for a request among those to this server, for as long as one may wait.
#[cold]
fn refuse_for_lack_of_room(
    context: &Context<'_, '_>,
    request: &Request<'_>,
    primary: Option<&Primary>,
    progress: &mut Progress,
    output: &mut Output,
) {
    // The gate may have changed within the turn.
    let name = primary.map_or("its primary", |primary| &primary.clients);
    let why = format_args!("too many requests are under way to {name}; nothing was done");
    refuse_undone(context, request, why, progress, output);
}

/// Refuse a request of which nothing was done; of a get, from here on.
#[cold]
pub(super) fn refuse_undone(
    context: &Context<'_, '_>,
    request: &Request<'_>,
    why: fmt::Arguments<'_>,
    progress: &mut Progress,
    output: &mut Output,
) {
    let begin = output.end();
    context.stats.forward_errors.increment();
    request.reply().refused_because(output.bytes(), Fault::Server, why);
    if output.is_in_parts() {
        output.end_parts(begin);
    }
    (progress.resume, progress.parked_at, progress.is_last_try) = (0, None, false);
    progress.skip_line = matches!(request, Request::Get(get) if !get.ends);
}

/// What is to be forwarded of a request, of these bytes, whose key at `at` is another server's.
fn frame_of<'r>(
    request: &Request<'_>,
    bytes: &'r [u8],
    at: u32,
    protocol: Protocol,
    shard_of: impl Fn(&[u8]) -> u32,
) -> Option<Frame<'r>> {
    let reply = request.reply();
    let whole = |key| Frame {
        shard: Some(shard_of(key)),
        part: Part::Whole,
        protocol,
        reply,
        bytes: Cow::Borrowed(bytes),
        next: 0,
    };
    let (key, next, is_only) = request.key_at(at)?;
    let Request::Get(get) = request else { return Some(whole(key)) };
    if is_only {
        return Some(whole(key));
    }
    let word = match (get.form.touch, get.form.with_cas) {
        (None, false) => "get".to_string(),
        (None, true) => "gets".to_string(),
        (Some(exptime), false) => format!("gat {}", exptime.0),
        (Some(exptime), true) => format!("gats {}", exptime.0),
    };
    let line = [word.as_bytes(), b" ", key, b"\r\n"].concat();
    Some(Frame { shard: Some(shard_of(key)), part: Part::Key, protocol, reply, bytes: Cow::Owned(line), next })
}
