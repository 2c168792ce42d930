//! A fabric within one process, deterministic by seed: delay, reorder, tear, stale, drop, corrupt,
//! cut. Only for tests.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`Sim`] | what both ends share: tokens, time, and the seed |
//! | `exporter` | grants |
//! | `channel` | READs and WRITEs, and what goes wrong with them |
//!
//! There are no threads and no clock. Time passes when a channel is polled: each poll carries some
//! operations further. So a test that makes the same calls in the same order sees the same results,
//! and it decides itself what happens between two polls (writes to other shards, logs that wrap
//! around).
//!
//! **Order.** READs are *carried out* strictly one after another, torn ones included: no other
//! READ comes between the parts of one. Only their completions may be late or out of turn. So a
//! READ that was submitted later never sees older bytes, whatever the faults, except `corrupt` and
//! `early`. Real fabrics promise less: only that a READ sees no older bytes than one that had
//! completed when it was submitted. The fault `early` stands for the rest. Within one READ nothing
//! is ordered, as on a network card: the parts of a torn one are carried out in any order. The same
//! holds for WRITEs.

mod channel;
mod exporter;

use super::{CONNECT_WAIT_MAX, Cause, Channel, Exporter, FabricError, Invitation, Kind, Regions, Token};
use channel::SimChannel;
use exporter::{Granted, SimExporter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many grants of one simulation may wait for their peers.
const WAITING_MAX: usize = 64;

/// What goes wrong, and how often. Shares are of all READs, from 0.0 (never) to 1.0 (always). By
/// default nothing goes wrong.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Faults {
    /// A READ takes up to so many polls to be carried out, and a WRITE to arrive.
    pub delay_polls_max: u32,
    /// Completions that others may overtake.
    pub reorder: f64,
    /// READs and WRITEs that are carried out in two to four parts, at different polls.
    pub tear: f64,
    /// READs that are carried out when they are submitted, with all before them, and completed up
    /// to [`Faults::stale_polls_max`] later.
    pub stale: f64,
    /// See [`Faults::stale`].
    pub stale_polls_max: u32,
    /// READs whose bytes are taken when they are submitted, before those of READs ahead of them: a
    /// card answers READs in their order, and may fetch what they ask for in another.
    pub early: f64,
    /// READs that never complete. They count as under way until the channel is dropped.
    pub drop: f64,
    /// This operation, if it is a READ, never completes; counted as for [`Faults::cut_after`].
    pub drop_at: Option<u64>,
    /// READs, and WRITEs of data, in which one bit is flipped.
    pub corrupt: f64,
    /// Only READs of regions, and WRITEs from sources, from this number on are changed by
    /// [`Faults::corrupt`].
    pub corrupt_from_region: u32,
    /// READs and WRITEs of data after which the channel ends.
    pub cut: f64,
    /// The channel ends after this operation, READs and WRITEs counted from 1; 0 ends it at once.
    pub cut_after: Option<u64>,
}

impl Faults {
    /// All faults that must not harm the layers above: operations are late, torn, stale and out of
    /// turn, but none is lost or wrong.
    pub fn unkind() -> Faults {
        Faults { delay_polls_max: 3, reorder: 0.3, tear: 0.5, stale: 0.3, stale_polls_max: 20, ..Faults::default() }
    }
}

/// A simulated network. Clones share it.
#[derive(Clone)]
pub struct Sim(Arc<Mutex<Shared>>);

struct Shared {
    random: fastrand::Rng,
    faults: Faults,
    now: Duration,
    waiting: Vec<(Token, Arc<Granted>)>,
    exporters: u64,
}

impl Sim {
    /// A network in which `seed` decides all that goes wrong.
    pub fn new(seed: u64, faults: Faults) -> Sim {
        let random = fastrand::Rng::with_seed(seed);
        Sim(Arc::new(Mutex::new(Shared { random, faults, now: Duration::ZERO, waiting: Vec::new(), exporters: 0 })))
    }

    /// A primary's end.
    pub fn exporter(&self) -> Box<dyn Exporter> {
        let mut shared = self.lock();
        shared.exporters += 1;
        Box::new(SimExporter { sim: self.clone(), number: shared.exporters })
    }

    /// A replica's end.
    pub fn connect(&self, invitation: &Invitation) -> Result<Box<dyn Channel>, FabricError> {
        Ok(self.open(invitation, None)?)
    }

    fn open(&self, invitation: &Invitation, sources: Option<Arc<dyn Regions>>) -> Result<Box<SimChannel>, FabricError> {
        let mut shared = self.lock();
        let at = shared
            .waiting
            .iter()
            .position(|(token, granted)| *token == invitation.token && granted.address == invitation.address);
        let granted = at.map(|at| shared.waiting.swap_remove(at).1);
        let Some(granted) = granted.filter(|granted| shared.now < granted.until) else {
            return Err(error(Cause::UnknownToken, "the primary does not know the token, or no longer"));
        };
        let random = shared.random.fork();
        Ok(channel::open(granted, shared.faults.clone(), random, sources))
    }

    /// Change what goes wrong, for channels that are connected from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Let time pass: tokens expire by it.
    pub fn pass(&self, time: Duration) {
        self.lock().now += time;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn error(cause: Cause, what: impl Into<String>) -> FabricError {
    FabricError::new(Kind::Sim, cause, what)
}

#[cfg(test)]
#[path = "sim/tests.rs"]
mod tests;
