//! What is known of a request before it is executed: where its key belongs. Requests that arrived together are planned
//! together, so that the memory that the second needs is on its way while the first is executed: most of a lookup's
//! time is the wait for two cache lines.

use super::{Call, Engine};
use crate::protocol::Request;
use crate::protocol::classic::NextKey;
use crate::store::{Located, Turn};

/// A request, and the place of its key (of a get, its first).
pub struct Plan<'r> {
    pub(super) request: Request<'r>,
    pub(super) at: Option<Located<'r>>,
}

impl Engine {
    /// Hash the request's key, and have its bucket fetched.
    pub fn plan<'r>(&self, request: Request<'r>) -> Plan<'r> {
        let at = first_key(&request).map(|key| self.store.locate(key));
        if let Some(at) = &at {
            self.store.prefetch_bucket(at);
        }
        Plan { request, at }
    }

    /// Have the record fetched that the request is likely to look at. Best a few plans later.
    pub fn prefetch(&self, turn: &Turn<'_>, plan: &Plan<'_>) {
        if let Some(at) = &plan.at {
            self.store.prefetch_record(turn, at);
        }
    }

    /// Where `key` belongs: as planned, if it is the key that was planned for.
    pub(super) fn locate<'k>(&self, call: &Call<'_, '_, '_>, key: &'k [u8]) -> Located<'k> {
        call.planned.and_then(|at| at.of_same(key)).unwrap_or_else(|| self.store.locate(key))
    }
}

fn first_key<'r>(request: &Request<'r>) -> Option<&'r [u8]> {
    match request {
        Request::Get(request) => match request.keys.next(0) {
            NextKey::Key(key, _) => Some(key),
            NextKey::End | NextKey::Bad(_) => None,
        },
        Request::Store(request) => Some(request.key),
        Request::Arithmetic(request) => Some(request.key),
        Request::Touch(request) => Some(request.key),
        Request::Delete(request) => Some(request.key),
        Request::Meta(request) => Some(request.key),
        Request::FlushAll { .. }
        | Request::CacheMemlimit { .. }
        | Request::Verbosity { .. }
        | Request::Stats(_)
        | Request::Version
        | Request::Quit
        | Request::MetaNoop => None,
    }
}
