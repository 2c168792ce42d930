//! What is known of a request before it is executed: where its key belongs. Requests that arrived together are planned
//! together, so that the memory that the second needs is on its way while the first is executed: most of a lookup's
//! time is the wait for two cache lines.

use super::{Call, Engine};
use crate::protocol::Request;
use crate::protocol::classic::NextKey;
use crate::store::{Located, Turn};

/// Where a request's key belongs (of a get, its first); nothing for a request without one.
#[derive(Clone, Copy, Default)]
pub struct Plan<'r> {
    pub(super) at: Option<Located<'r>>,
    /// Of a get: the offset behind its first key.
    pub(super) next: u32,
}

impl Engine {
    /// Hash the request's key, and have its bucket fetched.
    pub fn plan<'r>(&self, request: &Request<'r>) -> Plan<'r> {
        let (key, next) = match first_key(request) {
            NextKey::Key(key, next) => (key, next),
            NextKey::End | NextKey::Bad(_) => return Plan::default(),
        };
        let at = self.store.locate(key);
        self.store.prefetch_bucket(&at);
        Plan { at: Some(at), next }
    }

    /// Have the record fetched that the request is likely to look at. Best a few plans later.
    pub fn prefetch(&self, turn: &Turn<'_>, plan: &Plan<'_>) {
        if let Some(at) = &plan.at {
            self.store.prefetch_record(turn, at);
        }
    }

    /// Where `key` belongs: as planned, if it is the key that was planned for.
    pub(super) fn locate<'k>(&self, call: &Call<'_, '_, '_>, key: &'k [u8]) -> Located<'k> {
        call.plan.at.and_then(|at| at.of_same(key)).unwrap_or_else(|| self.store.locate(key))
    }
}

fn first_key<'r>(request: &Request<'r>) -> NextKey<'r> {
    match request {
        Request::Get(request) => request.keys.next(0),
        Request::Store(request) => NextKey::Key(request.key, 0),
        Request::Arithmetic(request) => NextKey::Key(request.key, 0),
        Request::Touch(request) => NextKey::Key(request.key, 0),
        Request::Delete(request) => NextKey::Key(request.key, 0),
        Request::Meta(request) => NextKey::Key(request.key, 0),
        Request::FlushAll { .. }
        | Request::CacheMemlimit { .. }
        | Request::Verbosity { .. }
        | Request::Stats(_)
        | Request::Version
        | Request::Quit
        | Request::MetaNoop => NextKey::End,
    }
}
