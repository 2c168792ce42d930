//! What each command means: the only place. Takes a parsed request, a worker's turn and the clock; changes the store;
//! appends the answer to the output.

pub mod output;
pub mod stats;

use crate::base::time::UnixSeconds;
use crate::protocol::{ParseLimits, Rejection, Request};
use crate::store::{Store, Turn};
pub use output::Output;
pub use stats::{GlobalStats, WorkerStats};
use std::sync::Arc;

/// The engine: one per process, shared by all workers.
pub struct Engine {
    store: Store,
    settings: Settings,
    global: GlobalStats,
}

/// What commands and stats need to know of the configuration. The server fills it; nothing in it changes later.
#[derive(Debug, Clone)]
pub struct Settings {
    /// -I in bytes.
    pub item_bytes_max: usize,
    /// -t.
    pub workers: usize,
    /// Further `stats settings` rows, name and value, that only the server knows (maxconns, tcpport, ...).
    pub rows: Vec<(&'static str, String)>,
}

/// What a worker lends the engine for one request.
pub struct Context<'w, 't> {
    /// The worker's pass to the store for this turn.
    pub turn: &'w Turn<'t>,
    /// The clock, read once per turn.
    pub now: UnixSeconds,
    /// This worker's counters.
    pub stats: &'w WorkerStats,
    /// A buffer reused by append and prepend.
    pub scratch: &'w mut Vec<u8>,
    /// What the server knows and the engine does not.
    pub host: &'w dyn Host,
}

/// What only the server can tell: a view of its connections for `stats conns`.
pub trait Host: Sync {
    /// Call `emit(connection id, field, value)` for every field of every connection, in memcached's names (addr,
    /// listen_addr, state, secs_since_last_cmd).
    fn connections(&self, emit: &mut dyn FnMut(u64, &str, &str));
    /// Sum over all workers' counters.
    fn worker_stats(&self) -> Vec<Arc<WorkerStats>>;
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Executed; its answer, if any, is in the output. Go on with the next.
    Done,
    /// Executed in part: the output is full. Flush it, then call again with this offset.
    Resume(u32),
    /// Nothing was done: there is no room until memory is reclaimed. Try again in the next turn.
    Park,
    /// The connection is to be closed once its output is flushed (quit).
    Close,
}

impl Engine {
    /// An engine over `store`.
    pub fn new(store: Store, settings: Settings) -> Self {
        Engine { store, settings, global: GlobalStats::default() }
    }

    /// The store below, for maintenance by the workers.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Counters that belong to the process, not to a worker.
    pub fn global(&self) -> &GlobalStats {
        &self.global
    }

    /// What the parser must know.
    pub fn parse_limits(&self) -> ParseLimits {
        ParseLimits { value_bytes_max: self.settings.item_bytes_max }
    }

    /// Execute `request`. `resume` is 0, or the offset of an earlier [`Outcome::Resume`] of the same request. With
    /// `last_try` a request that would park is answered with an error instead (it has waited long enough).
    pub fn execute(
        &self,
        context: &mut Context<'_, '_>,
        request: &Request<'_>,
        resume: u32,
        last_try: bool,
        out: &mut Output,
    ) -> Outcome {
        let _ = (context, request, resume, last_try, out);
        Outcome::Done
    }

    /// Answer a refusal: append its answer, and delete the key that must not stay.
    pub fn reject(&self, context: &mut Context<'_, '_>, rejection: &Rejection<'_>, out: &mut Output) -> Outcome {
        let _ = (context, rejection, out);
        Outcome::Done
    }

    /// Once a turn: what is due by the clock (a delayed flush_all).
    pub fn tick(&self, context: &mut Context<'_, '_>) {
        let _ = context;
    }
}
