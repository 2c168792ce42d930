//! What only the server can tell the engine: of a client, and of all connections.

use super::{CertificateTimes, Refresh, WorkerStats};
use crate::base::time::{ClockChange, UnixSeconds};
use crate::protocol::read_from::ReadFrom;
use std::sync::Arc;

/// What only the server can tell of one client.
pub trait Client {
    /// Where it comes from. May ask the system: for what is seldom.
    fn origin(&self) -> Origin;

    /// The number of its socket, for lines to watchers; -1 where there is none.
    fn descriptor(&self) -> i32 {
        -1
    }

    /// Whether it is another server, which forwards a request of its client's. A request is given
    /// back where its shard takes no writes here, and flush_all is about the shards that do.
    fn is_forwarder(&self) -> bool {
        false
    }

    /// Who may answer its reads that say nothing of it themselves.
    fn read_from(&self) -> ReadFrom {
        ReadFrom::default()
    }

    /// Whether it is there in the next turn, for an answer that takes several.
    fn stays(&self) -> bool {
        true
    }
}

/// Where a client comes from; the later ones may do whatever the earlier ones may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Another host, as far as is known.
    Elsewhere,
    /// This host: loopback or a unix socket. Behind it may be a proxy for clients elsewhere.
    ThisHost,
    /// The control socket: the server's own user, or root.
    ControlSocket,
}

/// What only the server can tell: a view of its connections for `stats conns`.
pub trait Host: Sync {
    /// Call `emit(connection id, field, value)` for every field of every connection, in memcached's
    /// names (addr, listen_addr, state, secs_since_last_cmd).
    fn connections(&self, emit: &mut dyn FnMut(u64, &str, &str));
    /// Sum over all workers' counters.
    fn worker_stats(&self) -> Vec<Arc<WorkerStats>>;
    /// Change the clock; the time that it shows then, or None where it cannot be changed.
    fn change_clock(&self, change: ClockChange) -> Option<UnixSeconds> {
        let _ = change;
        None
    }
    /// Of the certificates that clients are shown; None without TLS.
    fn certificate_times(&self) -> Option<CertificateTimes> {
        None
    }
    /// Have certificates read anew, by a thread that serves nobody; with the `ticket` of an earlier
    /// call, what has become of that. None without TLS.
    fn refresh_certificates(&self, _ticket: Option<u32>) -> Option<Refresh> {
        None
    }
}

/// Where there is neither: for tests.
#[cfg(test)]
pub struct Nobody;

#[cfg(test)]
impl Client for Nobody {
    fn origin(&self) -> Origin {
        Origin::Elsewhere
    }
}

#[cfg(test)]
impl Host for Nobody {
    fn connections(&self, _emit: &mut dyn FnMut(u64, &str, &str)) {}

    fn worker_stats(&self) -> Vec<Arc<WorkerStats>> {
        Vec::new()
    }
}
