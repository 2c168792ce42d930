//! Where a request's key belongs, and whether writes to it are taken here.
//!
//! Found out before the request is executed. Requests that arrived together are looked at together,
//! so that the memory that the second needs is on its way while the first is executed: most of a
//! lookup's time is the wait for two cache lines.
//!
//! A server that is a replica has shards that take no writes here. [`writes`] says which requests
//! write. One whose shard was closed when its target was found is refused before anything is done
//! for it. Where the gate was closed since, or a further key is in another shard, the store refuses
//! it ([`crate::store::reign`]). A read may write as well (it counts a use in the record, wins a
//! token, makes an item on a miss): it asks for its shard.
//!
//! Where requests are forwarded, whatever is about a closed shard is the business of its primary,
//! reads included ([`Outcome::Forward`]), unless a read may be answered by a replica and this one
//! is young enough ([`super::demands`]). Where the primary is not known the request is served here,
//! as if none were forwarded ([`Target::served_here`]); in a cluster it is refused.

use super::{Call, Engine, Outcome, failed};
use crate::protocol::reply::Fault;
use crate::protocol::request::NextKey;
use crate::protocol::text::meta::MetaVerb;
use crate::protocol::{Refusal, Reply, Request};
use crate::store::{Closed, Item, Located, Place, Turn};

/// Where a request's key belongs (of a get, its first); nothing for a request without one.
#[derive(Clone, Copy, Default)]
pub struct Target<'r> {
    pub(super) at: Option<Located<'r>>,
    /// Of a get: the offset behind its first key.
    pub(super) next: u32,
    pub(super) gate: Gate,
}

/// The gate of a target's shard.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Gate {
    /// It took writes here; of a request without a key there is none to ask.
    #[default]
    Open,
    /// It took none. Who writes looks again.
    Closed,
    /// The same, and what is about it is served here all the same, as far as it can be.
    ServedHere,
    /// Of a flush_all: it is about the shards that take writes here alone. The others are flushed
    /// elsewhere.
    OwnShards,
}

impl Target<'_> {
    /// Its shard took no writes here. Who writes looks again.
    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.gate != Gate::Open
    }

    /// Whether its shard took writes here.
    pub fn takes_writes(&self) -> bool {
        self.gate == Gate::Open
    }

    /// The same, to be forwarded to nobody.
    #[must_use]
    pub fn served_here(self) -> Self {
        Target { gate: Gate::ServedHere, ..self }
    }

    /// Of a flush_all: what this server does of it, where others are asked for the rest.
    #[must_use]
    pub fn own_shards(self) -> Self {
        Target { gate: Gate::OwnShards, ..self }
    }

    /// Where the key belongs.
    pub fn place(&self) -> Option<Place> {
        self.at.map(|at| at.place)
    }

    /// The same, if this is the very key of the target.
    pub fn place_of(&self, key: &[u8]) -> Option<Place> {
        self.at.filter(|at| std::ptr::eq(at.key, key)).map(|at| at.place)
    }
}

impl Engine {
    /// Hash the request's key, and have its bucket fetched.
    pub fn target<'r>(&self, request: &Request<'r>) -> Target<'r> {
        let NextKey::Key(key, next) = first_key(request) else {
            return Target::default();
        };
        let at = self.store.locate(key);
        self.store.prefetch_bucket(at.place);
        let gate = if self.store.takes_writes(at.place) { Gate::Open } else { Gate::Closed };
        Target { at: Some(at), next, gate }
    }

    /// Have the record fetched that a request with a key there is likely to look at. Best a few
    /// targets later.
    pub fn prefetch(&self, turn: &Turn<'_>, place: Place) {
        self.store.prefetch_record(turn, place);
    }

    /// Where `key` belongs: as found before, if it is the very key of the target.
    pub(super) fn locate<'k>(&self, call: &Call<'_, '_, '_>, key: &'k [u8]) -> Located<'k> {
        match call.target.at {
            Some(known) if std::ptr::eq(known.key, key) => Located { key, place: known.place },
            _ => self.store.locate(key),
        }
    }
}

impl Engine {
    /// Of a request whose gate was closed when its target was found, if it is closed still: what
    /// becomes of it; None for what is done here.
    #[cold]
    pub(super) fn answer_elsewhere(
        &self,
        call: &mut Call<'_, '_, '_>,
        request: &Request<'_>,
        resume: u32,
    ) -> Option<Outcome> {
        let place = call.target.at?.place;
        // The keys of a get are looked at one by one, and its first one is not its target's.
        if resume > 0 && matches!(request, Request::Get(_)) {
            return None;
        }
        if !self.is_elsewhere(call, place) {
            call.target.gate = Gate::Open;
            return None;
        }
        if self.forwards(call) {
            // Of a get this is about its first key; it looks at the others itself.
            if self.is_read_here(call, self.read_from(call, request), place) {
                return None;
            }
            return match request {
                Request::Get(get) if get.keys.has_bad() => {
                    Some(failed(request, call.refused(Reply::Text, Refusal::BadFormat)))
                }
                _ => Some(Outcome::Forward(0)),
            };
        }
        let reply = writes(request)?;
        let closed = Closed { shard: place.shard() };
        Some(failed(request, self.refuse_write(call, closed, reply)))
    }

    /// Whether a key's shard takes no writes here; or it takes some by now, and what its connection
    /// has asked of it before is still under way to another server. What is done here then would
    /// overtake that.
    pub(super) fn is_elsewhere(&self, call: &Call<'_, '_, '_>, place: Place) -> bool {
        !self.store.takes_writes(place) || call.out.under_way(Some(place.shard())).is_some()
    }

    /// Whether what is about a closed shard is forwarded.
    #[cold]
    pub(super) fn forwards(&self, call: &Call<'_, '_, '_>) -> bool {
        let client = call.context.client;
        // Nothing that is told over UDP waits, and nothing is forwarded twice.
        let may_be = client.stays() && !client.is_forwarder();
        self.switches.forwards && call.target.gate != Gate::ServedHere && may_be
    }

    /// Answer that a write belongs elsewhere. A forwarder is answered by whoever serves it.
    #[cold]
    pub(super) fn refuse_write(&self, call: &mut Call<'_, '_, '_>, closed: Closed, reply: Reply) -> Outcome {
        // An error is not held for what was written before it came to that.
        call.context.turn.forget_appended();
        if call.context.client.is_forwarder() {
            return Outcome::Elsewhere(closed);
        }
        call.context.stats.read_only_refused.increment();
        match self.store.primary_of(closed) {
            Some(primary) => {
                let why = format_args!("read-only replica: write to the primary at {}", primary.clients);
                reply.refused_because(call.out.bytes(), Fault::Server, why);
                Outcome::Done
            }
            None => call.refused(reply, Refusal::FollowsNobody),
        }
    }
}

impl Call<'_, '_, '_> {
    /// A client read the item, which is in a shard that takes writes here, or takes none.
    #[inline]
    pub(super) fn note_use(&self, item: &Item<'_>, takes_writes: bool) {
        if takes_writes {
            item.note_use(self.context.now);
        } else {
            item.note_use_in_index();
        }
    }
}

fn first_key<'r>(request: &Request<'r>) -> NextKey<'r> {
    match request {
        Request::Get(request) => request.keys.next(0),
        other => other.key().map_or(NextKey::End, |key| NextKey::Key(key, 0)),
    }
}

/// None for a request that does not write; else how its client wants to be answered. mg with N is
/// not counted here: it writes only on a miss.
pub(super) fn writes(request: &Request<'_>) -> Option<Reply> {
    let writes = match request {
        Request::Get(request) => request.form.touch.is_some(),
        Request::GetOne(request) => request.touch.is_some(),
        Request::Store(_) | Request::Arithmetic(_) | Request::Touch(_) | Request::Delete(_) => true,
        // How much memory there is, the primary says.
        Request::FlushAll { .. } | Request::CacheMemlimit { .. } => true,
        Request::Meta(request) => match request.verb {
            MetaVerb::Set | MetaVerb::Delete | MetaVerb::Arithmetic => true,
            MetaVerb::Get => request.ttl.is_some(),
            MetaVerb::Debug => false,
        },
        Request::Noop(_)
        | Request::Verbosity { .. }
        | Request::Stats { .. }
        | Request::Dump(_)
        | Request::Watch(_)
        | Request::DebugTime { .. }
        | Request::Replication(_)
        | Request::Hello(_)
        | Request::Discover { .. }
        | Request::Shutdown { .. }
        | Request::Wait { .. }
        | Request::Version(_)
        | Request::RefreshCertificates(_)
        | Request::Quit(_) => false,
    };
    writes.then(|| request.reply())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::KEY_BYTES_MAX;
    use crate::base::time::UnixSeconds;
    use crate::engine::{Attempt, Client, Context, Host, Origin, Output, Settings, WorkerStats};
    use crate::protocol::{Parsed, Protocol};
    use crate::store::{NewItem, Reign, Store, StoreConfig};
    use std::sync::Arc;

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

    struct Nothing;

    impl Host for Nothing {
        fn connections(&self, _emit: &mut dyn FnMut(u64, &str, &str)) {}

        fn worker_stats(&self) -> Vec<Arc<WorkerStats>> {
            Vec::new()
        }
    }

    struct Forwarder;

    impl Client for Forwarder {
        fn origin(&self) -> Origin {
            Origin::Elsewhere
        }

        fn is_forwarder(&self) -> bool {
            true
        }
    }

    /// The gate was open when the target was found, and is not any more.
    #[test]
    fn a_forwarded_write_that_finds_its_gate_closed_is_given_back_with_nothing_done() {
        let config =
            StoreConfig { memory_bytes: 1 << 20, item_bytes_max: 1024, shards: Some(1), ..StoreConfig::default() };
        let settings = Settings { item_bytes_max: 1024, workers: 1, rows: Vec::new() };
        let engine = Engine::new(Store::new(config).expect("a small store"), settings);
        let (stats, mut scratch, mut seat) = (WorkerStats::default(), Vec::new(), engine.store().join());
        let turn = seat.turn();
        for line in [
            "set a 0 0 1\r\nx\r\n",
            "delete a\r\n",
            "incr a 1\r\n",
            "touch a 1\r\n",
            "gat 1 a\r\n",
            "ms a 1\r\nx\r\n",
            "md a q\r\n",
            "ma a N0\r\n",
            "mg other N9\r\n",
            "flush_all\r\n",
        ] {
            engine.store().open_gates([0]);
            let mut keys = [0; KEY_BYTES_MAX];
            let parsed = Protocol::Text.parse(line.as_bytes(), engine.parse_limits(), &mut keys);
            let Parsed::Request(request, _) = parsed else { panic!("{line:?} is no request") };
            // Some of them ask for the gate only where there is something to change.
            let at = engine.store().locate(b"a");
            let draft = engine.store().draft(&at, NewItem { value: b"1", ..NewItem::default() }, NOW);
            engine.store().lock(&at).expect("it is open").entry(&turn, NOW).set(&draft).expect("there is room");
            let (target, head) = (engine.target(&request), engine.store().heads(Reign::BIRTH));
            engine.store().close_gates([0], Some("127.0.0.1:7"));
            let (host, client) = (&Nothing, &Forwarder);
            let scratch = &mut scratch;
            let mut context = Context { turn: &turn, now: NOW, stats: &stats, scratch, keys_left: 9, host, client };
            let mut output = Output::default();
            let outcome = engine.execute(&mut context, &request, target, Attempt::default(), &mut output);
            assert_eq!(outcome, Outcome::Elsewhere(Closed { shard: 0 }), "{line:?}");
            assert_eq!((output.pending_bytes(), engine.store().heads(Reign::BIRTH)), (0, head), "{line:?}");
        }
        assert_eq!(stats.read_only_refused.get(), 0, "nobody was refused");
    }
}
