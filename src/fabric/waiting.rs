//! Grants that wait for their peer: a token is good once, for [`CONNECT_WAIT_MAX`], and is compared in constant time.

use super::{ACK_BYTES, CONNECT_WAIT_MAX, Cause, Descriptor, FabricError, GrantState, Kind, Regions, Token};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Grants that may wait at a time; one waits for a few seconds at most.
const WAITING_MAX: usize = 64;

struct Entry<G> {
    token: Token,
    until: Instant,
    grant: Arc<G>,
}

/// The grants of one exporter whose peer has not come.
pub(super) struct Waiting<G>(Mutex<Vec<Entry<G>>>);

impl<G> Default for Waiting<G> {
    fn default() -> Self {
        Waiting(Mutex::default())
    }
}

impl<G> Waiting<G> {
    /// Let `grant` wait for who shows `token`. Returns until when.
    pub(super) fn add(&self, kind: Kind, token: Token, grant: Arc<G>) -> Result<Instant, FabricError> {
        let mut entries = self.lock();
        let now = Instant::now();
        entries.retain(|entry| now < entry.until);
        let refused = |what: &str| Err(FabricError::new(kind, Cause::System, what));
        if entries.len() >= WAITING_MAX {
            return refused("too many replicas are being connected at once; try again in some seconds");
        }
        if entries.iter().any(|entry| same(&entry.token, &token)) {
            return refused("a token was given out twice; make each from a random source");
        }
        let until = now + CONNECT_WAIT_MAX;
        entries.push(Entry { token, until, grant });
        Ok(until)
    }

    /// The grant of `token`, if it waits; it waits no longer.
    pub(super) fn take(&self, token: &Token) -> Option<Arc<G>> {
        let mut entries = self.lock();
        let at = entries.iter().position(|entry| same(&entry.token, token))?;
        let entry = entries.swap_remove(at);
        (Instant::now() < entry.until).then_some(entry.grant)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry<G>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes as long whichever byte differs.
fn same(left: &Token, right: &Token) -> bool {
    let differs = left.0.iter().zip(&right.0).fold(0, |differs, (left, right)| differs | (left ^ right));
    std::hint::black_box(differs) == 0
}

/// How far a grant's channel is, for those who look: the grant's owner and the thread that serves it.
pub(super) struct Stage<C>(Mutex<Place<C>>);

/// See [`Stage`].
pub(super) enum Place<C> {
    /// The peer has not come.
    Waiting,
    /// It has, and here is its connection.
    Connected(C),
    /// And this is how it ended.
    Over(FabricError),
}

impl<C> Stage<C> {
    /// Nobody has come.
    pub(super) fn waiting() -> Self {
        Stage(Mutex::new(Place::Waiting))
    }

    /// Look and change; held shortly, over nothing that blocks.
    pub(super) fn lock(&self) -> MutexGuard<'_, Place<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stage<()> {
    /// How far it is, where the end of a connection is told by the thread that serves it. A peer that `is_due` may still come; who is not has
    /// not come, and that is the end.
    pub(super) fn state(&self, kind: Kind, is_due: bool) -> Result<GrantState, FabricError> {
        let mut place = self.lock();
        match &*place {
            Place::Waiting if is_due => Ok(GrantState::Waiting),
            Place::Waiting => {
                *place = Place::Over(nobody_came(kind));
                Err(nobody_came(kind))
            }
            Place::Connected(()) => Ok(GrantState::Connected),
            Place::Over(error) => Err(error.clone()),
        }
    }
}

/// The descriptors of regions that a peer names by their numbers alone.
pub(super) fn descriptors(regions: &dyn Regions) -> Vec<Descriptor> {
    let bytes = |number| (regions.slab(number).words().len() * 8) as u64;
    (0..regions.count()).map(|number| Descriptor { address: 0, key: 0, bytes: bytes(number) }).collect()
}

/// The same of the ack slot.
pub(super) const ACK_DESCRIPTOR: Descriptor = Descriptor { address: 0, key: 0, bytes: ACK_BYTES as u64 };

/// What a grant's owner is told when nobody came.
pub(super) fn nobody_came(kind: Kind) -> FabricError {
    let what = format!(
        "the replica did not connect within {} s; is the address reachable from it?",
        CONNECT_WAIT_MAX.as_secs()
    );
    FabricError::new(kind, Cause::TimedOut, what)
}
