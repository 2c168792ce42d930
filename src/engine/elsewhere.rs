//! What is written elsewhere: shards that take no writes here. A server that is a replica has only
//! such shards.
//!
//! [`writes`] says which requests write. One whose shard was closed when it was planned is refused
//! before anything is done for it. Where the gate was closed since, or a further key is in another
//! shard, the store refuses it ([`crate::store::reign`]). A read may write as well (it counts a use
//! in the record, wins a token, makes an item on a miss): it asks for its shard.

use super::{Call, Engine, Outcome};
use crate::protocol::reply::Fault;
use crate::protocol::text::meta::MetaVerb;
use crate::protocol::{Refusal, Reply, Request};
use crate::store::{Closed, Item};

impl Engine {
    /// Of a request whose gate was closed when it was planned: whether it writes, and the gate is
    /// closed still. With how its client wants to be answered.
    #[cold]
    pub(super) fn is_elsewhere(&self, call: &mut Call<'_, '_, '_>, request: &Request<'_>) -> Option<(Closed, Reply)> {
        let place = call.plan.at?.place;
        call.plan.is_closed = !self.store.takes_writes(place);
        let reply = writes(request).filter(|_| call.plan.is_closed)?;
        Some((Closed { shard: place.shard() }, reply))
    }

    /// Answer that a write belongs elsewhere.
    #[cold]
    pub(super) fn refuse_write(&self, call: &mut Call<'_, '_, '_>, closed: Closed, reply: Reply) -> Outcome {
        // An error is not held for what was written before it came to that.
        call.context.turn.forget_appended();
        call.context.stats.read_only_refused.increment();
        match self.store.primary_of(closed) {
            Some(primary) => {
                let why = format_args!("read-only replica: write to the primary at {primary}");
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
        | Request::Shutdown { .. }
        | Request::Wait { .. }
        | Request::Version(_)
        | Request::RefreshCertificates(_)
        | Request::Quit(_) => false,
    };
    writes.then(|| request.reply())
}
