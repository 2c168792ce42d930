//! A replica's engine: it answers requests that do not write to the store, and refuses the others
//! with the primary's address.
//!
//! [`writes`] says which requests write; it is asked before a request is executed. A read may write
//! as well (it counts a use in the record, wins a token, makes an item on a miss): that code asks
//! [`Call::read_only`]. A delayed flush is carried out by the primary, and reaches the replica by
//! the log.

use super::{Call, Engine, Outcome};
use crate::protocol::Request;
use crate::protocol::meta::MetaVerb;
use crate::store::Item;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

/// Whether this engine is a replica's, and what it answers to a write.
#[derive(Default)]
pub(super) struct ReadOnly {
    on: AtomicBool,
    refusal: RwLock<Vec<u8>>,
}

impl ReadOnly {
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }
}

impl Engine {
    /// With an address (HOST:PORT), make this a replica's engine, which tells its clients to write
    /// to that primary; with None, a primary's. Each worker reads the role before each request. So
    /// the caller that makes a primary a replica must wait until all turns that are under way have
    /// ended before it lets anything else write to the store.
    pub fn set_read_only(&self, primary: Option<String>) {
        if let Some(primary) = &primary {
            let line = format!("SERVER_ERROR read-only replica: write to the primary at {primary}\r\n");
            self.refuse_writes_with(line);
        } else {
            // It was asked for when this server was a primary before. The primaries in between did
            // not know of it.
            self.forget_delayed_flush();
            self.read_only.on.store(false, Relaxed);
        }
    }

    /// Make this the engine of a replica that has no primary.
    pub fn set_detached(&self) {
        let line = "SERVER_ERROR read-only replica that follows nobody: write to the primary, or make this one the primary \
                    (remora ctl promote)\r\n";
        self.refuse_writes_with(line.into());
    }

    fn refuse_writes_with(&self, line: String) {
        *self.read_only.refusal.write().unwrap_or_else(PoisonError::into_inner) = line.into_bytes();
        self.read_only.on.store(true, Relaxed);
    }

    /// Whether this is a replica's engine.
    pub fn is_read_only(&self) -> bool {
        self.read_only.is_on()
    }

    /// Answer that a write belongs elsewhere.
    pub(super) fn refuse_write(&self, call: &mut Call<'_, '_, '_>, noreply: bool) -> Outcome {
        call.context.stats.read_only_refused.increment();
        let line = self.read_only.refusal.read().unwrap_or_else(PoisonError::into_inner);
        call.answer_unless(noreply, &line)
    }
}

impl Call<'_, '_, '_> {
    /// A client read the item.
    #[inline]
    pub(super) fn note_use(&self, item: &Item<'_>) {
        if self.read_only {
            item.note_use_in_index();
        } else {
            item.note_use(self.context.now);
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
        | Request::Wait { .. }
        | Request::Version
        | Request::Quit => None,
    }
}
