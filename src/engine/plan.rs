//! What is known of a request before it is executed: where its key belongs, and whether writes to
//! it are taken here. Requests that arrived together are planned together, so that the memory that
//! the second needs is on its way while the first is executed: most of a lookup's time is the wait
//! for two cache lines.

use super::{Call, Engine};
use crate::protocol::Request;
use crate::protocol::text::keys::NextKey;
use crate::store::{Located, Place, Turn};

/// Where a request's key belongs (of a get, its first); nothing for a request without one.
#[derive(Clone, Copy, Default)]
pub struct Plan<'r> {
    pub(super) at: Option<Located<'r>>,
    /// Of a get: the offset behind its first key.
    pub(super) next: u32,
    /// Its shard took no writes here. Who writes looks again.
    pub(super) is_closed: bool,
}

impl Plan<'_> {
    /// Where the key belongs.
    pub fn place(&self) -> Option<Place> {
        self.at.map(|at| at.place)
    }
}

impl Engine {
    /// Hash the request's key, and have its bucket fetched.
    pub fn plan<'r>(&self, request: &Request<'r>) -> Plan<'r> {
        let NextKey::Key(key, next) = first_key(request) else {
            return Plan::default();
        };
        let at = self.store.locate(key);
        self.store.prefetch_bucket(at.place);
        Plan { at: Some(at), next, is_closed: !self.store.takes_writes(at.place) }
    }

    /// Have the record fetched that a request with a key there is likely to look at. Best a few
    /// plans later.
    pub fn prefetch(&self, turn: &Turn<'_>, place: Place) {
        self.store.prefetch_record(turn, place);
    }

    /// Where `key` belongs: as planned, if it is the very key that was planned for.
    pub(super) fn locate<'k>(&self, call: &Call<'_, '_, '_>, key: &'k [u8]) -> Located<'k> {
        match call.plan.at {
            Some(planned) if std::ptr::eq(planned.key, key) => Located { key, place: planned.place },
            _ => self.store.locate(key),
        }
    }
}

fn first_key<'r>(request: &Request<'r>) -> NextKey<'r> {
    match request {
        Request::Get(request) => request.keys.next(0),
        Request::GetOne(request) => NextKey::Key(request.key, 0),
        Request::Store(request) => NextKey::Key(request.key, 0),
        Request::Arithmetic(request) => NextKey::Key(request.key, 0),
        Request::Touch(request) => NextKey::Key(request.key, 0),
        Request::Delete(request) => NextKey::Key(request.key, 0),
        Request::Meta(request) => NextKey::Key(request.key, 0),
        Request::FlushAll { .. }
        | Request::CacheMemlimit { .. }
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
        | Request::Quit(_)
        | Request::Noop(_) => NextKey::End,
    }
}
