//! Commands while somebody watches: what they look up, store and delete is noted for those who do
//! ([`super::watch`]).
//!
//! Commands do not ask whether somebody watches. Two words that they look at in any case say so:
//! one says that a request needs more than to be done (other reasons are that answers wait for
//! replicas, and that a lease has ended), the other that uses of keys are counted by prefix. So a
//! server that nobody watches pays nothing.
//!
//! Noted is what clients ask for here, by whichever protocol and user. What a replica applies was
//! done elsewhere, and is noted there.

use super::prefixes::Observer;
use super::watch::{LogSizes, Watch, Watcher};
use super::{Call, Context, Engine, Outcome};
use crate::base::time::{Expiry, UnixSeconds};
use crate::protocol::answer::{Done, Stored};
use crate::protocol::request::StoreVerb;
use crate::protocol::text::meta::MetaVerb;
use crate::protocol::text::watch::{Event, FetchStatus, StoreStatus, Streams};
use crate::protocol::{Refusal, Rejection, Reply, Request};
use crate::store::{Absence, Evicted, Item, Located};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Bits of [`Engine::special`]: answers to what is written wait for replicas.
pub(super) const ACKS: u8 = 1;
/// Somebody watches.
const WATCHED: u8 = 2;
/// Strong mode: what is read is held, too.
pub(super) const STRONG: u8 = 4;
/// Without a lease: writes that no replica acknowledges are refused.
pub(super) const NO_LEASE: u8 = 8;

/// What was known before a request was done.
struct Before {
    /// Bytes of the value under its key.
    value_bytes: Option<u32>,
    counts: Counts,
}

/// Of the worker's counters, those that tell what a request has come to.
#[derive(Clone, Copy)]
struct Counts {
    cmd_set: u64,
    delete_hits: u64,
    store_too_large: u64,
    store_no_memory: u64,
}

impl Counts {
    fn of(context: &Context<'_, '_>) -> Counts {
        let stats = context.stats;
        Counts {
            cmd_set: stats.cmd_set.get(),
            delete_hits: stats.delete_hits.get(),
            store_too_large: stats.store_too_large.get(),
            store_no_memory: stats.store_no_memory.get(),
        }
    }
}

impl Engine {
    /// The same engine, with so much memory for what watchers are told.
    #[must_use]
    pub fn with_log_sizes(self, sizes: LogSizes) -> Engine {
        Engine { watch: Arc::new(Watch::new(self.settings.workers, sizes)), ..self }
    }

    /// Where what happens is noted for watchers.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// watch: the client is told of `streams` from now on.
    pub(super) fn begin_watching(&self, call: &mut Call<'_, '_, '_>, streams: Streams) -> Outcome {
        if !self.switches.watch {
            return call.refused(Reply::Text, Refusal::WatchOff);
        }
        if !call.context.client.stays() {
            return call.refused(Reply::Text, Refusal::TooMuchForUdp);
        }
        let Some(number) = self.watch.begin(streams, |all| self.heed_watchers(all)) else {
            return call.refused(Reply::Text, Refusal::TooManyWatchers);
        };
        call.done(Reply::Text, Done::Ok);
        Outcome::Watch(number)
    }

    /// The watcher that has begun under this number. Whoever has its connection says when it ends.
    pub fn watcher(&self, number: u32) -> Option<Arc<Watcher>> {
        self.watch.watcher(number)
    }

    /// Its connection has ended.
    pub fn end_watching(&self, watcher: &Watcher) {
        self.watch.end(watcher, |all| self.heed_watchers(all));
    }

    /// Have commands and reclaim know whether they are watched.
    fn heed_watchers(&self, streams: Streams) {
        let by_commands = streams.meets(Streams::FETCHERS.and(Streams::MUTATIONS).and(Streams::DELETIONS));
        if by_commands {
            self.special.fetch_or(WATCHED, Relaxed);
        } else {
            self.special.fetch_and(!WATCHED, Relaxed);
        }
        self.prefixes.observe(Observer::Watchers, by_commands);
        let watch = self.watch.clone();
        self.store.watch_evictions(streams.meets(Streams::EVICTIONS), move |evicted| note_eviction(&watch, evicted));
    }

    /// Whether there may be more to a request than to do it: its answer is held for replicas, it
    /// demands or is told a position, or somebody watches.
    #[inline(always)]
    pub(super) fn is_special(&self, request: &Request<'_>) -> bool {
        match request {
            Request::Meta(request) if !request.own.are_none() => true,
            _ => self.special.load(Relaxed) != 0,
        }
    }

    /// Do it, with all that there is to it.
    #[cold]
    pub(super) fn perform_specially<'c>(
        &self,
        call: &mut Call<'c, '_, '_>,
        request: &Request<'c>,
        resume: u32,
    ) -> Outcome {
        if let Some(outcome) = self.refuse_without_lease(call, request) {
            return outcome;
        }
        let before = self.look_before(call, request);
        let outcome = match self.ack_replicas(request) {
            replicas if self.is_strong(request) => self.perform_strongly(call, request, resume, replicas),
            0 => self.perform_aside(call, request, resume),
            replicas => self.perform_held(call, request, resume, replicas),
        };
        if let Some(before) = before {
            self.note_after(call, request, &before);
        }
        outcome
    }

    /// What is to be known before `request` is done; its key is looked up for that.
    #[cold]
    fn look_before(&self, call: &Call<'_, '_, '_>, request: &Request<'_>) -> Option<Before> {
        let key = key_of(request).filter(|_| self.special.load(Relaxed) & WATCHED != 0)?;
        let at = self.locate(call, key);
        let looked = self.store.look(call.context.turn, &at, call.context.now);
        let value_bytes = looked.ok().map(|item| item.value_bytes() as u32);
        // One that has waited for room was noted when it came.
        if !call.retried {
            self.note_fetch(call, key, looked);
        }
        Some(Before { value_bytes, counts: Counts::of(call.context) })
    }

    /// Note what the request has come to, unless [`Engine::store_item`] has.
    #[cold]
    fn note_after(&self, call: &Call<'_, '_, '_>, request: &Request<'_>, before: &Before) {
        let Some(key) = key_of(request) else { return };
        let (was, is) = (before.counts, Counts::of(call.context));
        let verb = verb_of(request);
        if is.store_too_large > was.store_too_large {
            self.note_refused(call.context, key, verb, StoreStatus::TooLarge);
        } else if is.store_no_memory > was.store_no_memory {
            self.note_refused(call.context, key, verb, StoreStatus::NoMemory);
        }
        let (deletes, by_meta, counts, empties) = match request {
            Request::Delete(_) => (true, false, false, false),
            Request::Meta(meta) => {
                (meta.verb == MetaVerb::Delete, true, meta.verb == MetaVerb::Arithmetic, meta.remove_value)
            }
            Request::Arithmetic(_) => (false, false, true, false),
            _ => return,
        };
        if counts && is.cmd_set > was.cmd_set {
            self.note_written(call, key, "add");
        }
        if deletes && is.delete_hits > was.delete_hits {
            if empties {
                self.note_written(call, key, "set");
            }
            let value_bytes = before.value_bytes.filter(|_| !empties).unwrap_or(0);
            self.watch.note(key, Event::Deleted { by_meta, value_bytes });
        }
    }

    /// A key of a get was looked up. It is looked up once more: to hand on what was found would
    /// cost gets that nobody watches.
    #[cold]
    pub(super) fn note_get(&self, call: &Call<'_, '_, '_>, at: &Located<'_>) {
        if !self.watch.streams().meets(Streams::FETCHERS) {
            return;
        }
        self.note_fetch(call, at.key, self.store.look(call.context.turn, at, call.context.now));
    }

    fn note_fetch(&self, call: &Call<'_, '_, '_>, key: &[u8], looked: Result<Item<'_>, Absence>) {
        let (status, value_bytes) = match looked {
            Ok(item) => (FetchStatus::Found, item.value_bytes() as u32),
            Err(Absence::Unknown) => (FetchStatus::NotFound, 0),
            Err(Absence::Expired) => (FetchStatus::Expired, 0),
            Err(Absence::Flushed) => (FetchStatus::Flushed, 0),
        };
        let descriptor = call.context.client.descriptor();
        self.watch.note(key, Event::Fetched { status, value_bytes, descriptor });
    }

    /// A store has come to `stored`.
    #[cold]
    pub(super) fn note_stored(
        &self,
        call: &Call<'_, '_, '_>,
        at: &Located<'_>,
        verb: StoreVerb,
        offered: (usize, Expiry),
        stored: Stored,
    ) {
        if !self.watch.streams().meets(Streams::MUTATIONS) {
            return;
        }
        let status = match stored {
            Stored::Written { .. } => return self.note_written(call, at.key, word(verb)),
            Stored::NotStored => StoreStatus::NotStored,
            Stored::Exists => StoreStatus::Exists,
            Stored::NotFound => StoreStatus::NotFound,
        };
        let (ttl_seconds, descriptor) = (left(offered.1, call.context.now), call.context.client.descriptor());
        let (command, value_bytes) = (word(verb), offered.0 as u32);
        self.watch.note(at.key, Event::Stored { status, command, ttl_seconds, value_bytes, descriptor });
    }

    /// What is under the key now was written just now.
    fn note_written(&self, call: &Call<'_, '_, '_>, key: &[u8], command: &'static str) {
        let (now, descriptor) = (call.context.now, call.context.client.descriptor());
        let at = self.locate(call, key);
        let item = self.store.get(call.context.turn, &at, now);
        // What was stored with a time that has passed is gone already.
        let expiry = item.map_or(Expiry::PAST, |item| item.expiry());
        let value_bytes = item.map_or(0, |item| item.value_bytes() as u32);
        let (status, ttl_seconds) = (StoreStatus::Stored, left(expiry, now));
        self.watch.note(key, Event::Stored { status, command, ttl_seconds, value_bytes, descriptor });
    }

    /// A store is refused before it is executed, or given up.
    #[cold]
    pub(super) fn note_rejection(&self, context: &Context<'_, '_>, rejection: &Rejection<'_>, status: StoreStatus) {
        if let Some(key) = rejection.unlink {
            self.note_refused(context, key, Some(StoreVerb::Set), status);
        }
    }

    fn note_refused(&self, context: &Context<'_, '_>, key: &[u8], verb: Option<StoreVerb>, status: StoreStatus) {
        let (command, descriptor) = (verb.map_or("null", word), context.client.descriptor());
        let event = Event::Stored { status, command, ttl_seconds: 0, value_bytes: 0, descriptor };
        self.watch.note(key, event);
    }
}

/// The key of a request whose lookup is not noted as it is done.
fn key_of<'r>(request: &Request<'r>) -> Option<&'r [u8]> {
    if let Request::GetOne(_) = request { None } else { request.key() }
}

fn verb_of(request: &Request<'_>) -> Option<StoreVerb> {
    match request {
        Request::Store(request) => Some(request.verb),
        Request::Meta(request) if request.verb == MetaVerb::Set => Some(StoreVerb::Set),
        _ => None,
    }
}

fn word(verb: StoreVerb) -> &'static str {
    match verb {
        StoreVerb::Set => "set",
        StoreVerb::Add => "add",
        StoreVerb::Replace => "replace",
        StoreVerb::Append => "append",
        StoreVerb::Prepend => "prepend",
        StoreVerb::Cas(_) => "cas",
    }
}

/// Seconds up to an expiry, as memcached shows them: 0 for ever, and a time that has passed wraps.
fn left(expiry: Expiry, now: UnixSeconds) -> u32 {
    if expiry == Expiry::NEVER { 0 } else { expiry.to_bits().wrapping_sub(now.0) }
}

fn note_eviction(watch: &Watch, evicted: &Evicted<'_>) {
    let Evicted { key, fetched, ttl_seconds, idle_seconds, value_bytes } = *evicted;
    watch.note(key, Event::Evicted { fetched, ttl_seconds, idle_seconds, value_bytes: value_bytes as u32 });
}
