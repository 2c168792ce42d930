//! A replica's engine: it answers requests that do not write to the store, and refuses the others
//! with the primary's address.
//!
//! [`writes`] says which requests write; it is asked before a request is executed. A read may write
//! as well (it counts a use in the record, wins a token, makes an item on a miss): that code asks
//! [`Reign::is_read_only`]. A delayed flush is carried out by the primary, and reaches the replica
//! by the log.

use super::{Call, Engine, Outcome};
use crate::protocol::Request;
use crate::protocol::meta::MetaVerb;
use crate::store::Item;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

/// A time in which the engine has one role: it takes writes, or it is a replica's and refuses them.
/// Each change of the role begins another reign, so a position that was written in one is not
/// mistaken for the same position of a later one, where the log may have gone another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reign(u64);

impl Reign {
    /// The engine is a replica's in every other one.
    #[inline]
    pub(super) fn is_read_only(self) -> bool {
        self.0 & 1 == 1
    }

    /// The same reign, if it has that role; else the next one.
    pub(super) fn with_role(self, read_only: bool) -> Reign {
        Reign(self.0 + u64::from(self.is_read_only() != read_only))
    }
}

/// Whether this engine is a replica's, and what it answers to a write.
#[derive(Default)]
pub(super) struct ReadOnly {
    reign: AtomicU64,
    refusal: RwLock<Vec<u8>>,
}

impl ReadOnly {
    #[inline]
    pub(super) fn reign(&self) -> Reign {
        Reign(self.reign.load(Relaxed))
    }

    /// Only the thread that carries out orders changes it.
    fn set(&self, read_only: bool) {
        self.reign.store(self.reign().with_role(read_only).0, Relaxed);
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
            self.read_only.set(false);
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
        self.read_only.set(true);
    }

    /// Whether this is a replica's engine.
    pub fn is_read_only(&self) -> bool {
        self.reign().is_read_only()
    }

    /// The reign of now.
    pub fn reign(&self) -> Reign {
        self.read_only.reign()
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
        if self.reign.is_read_only() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_of_the_role_begins_another_reign() {
        let read_only = ReadOnly::default();
        let mut reigns = vec![read_only.reign()];
        for role in [true, false, true, false] {
            read_only.set(role);
            read_only.set(role); // no change
            assert_eq!(read_only.reign().is_read_only(), role);
            assert!(!reigns.contains(&read_only.reign()), "a reign never comes again");
            reigns.push(read_only.reign());
        }
        assert!(!reigns[0].is_read_only());
        assert_eq!(read_only.reign(), Reign(4));
    }
}
