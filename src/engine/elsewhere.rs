//! What is written elsewhere: shards that take no writes here. A server that is a replica has only
//! such shards.
//!
//! [`writes`] says which requests write. One whose shard was closed when it was planned is refused
//! before anything is done for it. Where the gate was closed since, or a further key is in another
//! shard, the store refuses it ([`crate::store::reign`]). A read may write as well (it counts a use
//! in the record, wins a token, makes an item on a miss): it asks for its shard.

use super::{Call, Engine, Outcome};
use crate::protocol::Request;
use crate::protocol::meta::MetaVerb;
use crate::store::{Closed, Item};

const NOBODY: &str = "SERVER_ERROR read-only replica that follows nobody: write to the primary, or make this one the primary \
    (remora ctl promote)\r\n";

impl Engine {
    /// Of a request whose gate was closed when it was planned: whether it writes, and the gate is
    /// closed still. With whether its client wants no answer (noreply).
    #[cold]
    pub(super) fn is_elsewhere(&self, call: &mut Call<'_, '_, '_>, request: &Request<'_>) -> Option<(Closed, bool)> {
        let place = call.plan.at?.place;
        call.plan.is_closed = !self.store.takes_writes(place);
        let noreply = writes(request).filter(|_| call.plan.is_closed)?;
        Some((Closed { shard: place.shard() }, noreply))
    }

    /// Answer that a write belongs elsewhere.
    #[cold]
    pub(super) fn refuse_write(&self, call: &mut Call<'_, '_, '_>, closed: Closed, noreply: bool) -> Outcome {
        // An error is not held for what was written before it came to that.
        call.context.turn.forget_appended();
        call.context.stats.read_only_refused.increment();
        match self.store.primary_of(closed) {
            Some(primary) => {
                let line = format!("SERVER_ERROR read-only replica: write to the primary at {primary}\r\n");
                call.answer_unless(noreply, line.as_bytes())
            }
            None => call.answer_unless(noreply, NOBODY.as_bytes()),
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

/// None for a request that does not write; else whether its client wants no answer (noreply). A
/// refused meta command is answered even with q. mg with N is not counted here: it writes only on a
/// miss.
pub(super) fn writes(request: &Request<'_>) -> Option<bool> {
    match request {
        Request::Get(request) => request.form.touch.map(|_| false),
        Request::Store(request) => Some(request.noreply),
        Request::Arithmetic(request) => Some(request.noreply),
        Request::Touch(request) => Some(request.noreply),
        Request::Delete(request) => Some(request.noreply),
        // How much memory there is, the primary says.
        Request::FlushAll { noreply, .. } | Request::CacheMemlimit { noreply, .. } => Some(*noreply),
        Request::Meta(request) => match request.verb {
            MetaVerb::Set | MetaVerb::Delete | MetaVerb::Arithmetic => Some(false),
            MetaVerb::Get => request.ttl.map(|_| false),
            MetaVerb::Debug => None,
        },
        Request::MetaNoop
        | Request::Verbosity { .. }
        | Request::Stats(_)
        | Request::Replication(_)
        | Request::Shutdown { .. }
        | Request::Wait { .. }
        | Request::Version
        | Request::Quit => None,
    }
}
