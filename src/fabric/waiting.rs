//! Grants that wait for their peer. A token can be used once, within [`CONNECT_WAIT_MAX`], and is
//! compared in constant time.

use super::{ACK_BYTES, CONNECT_WAIT_MAX, Cause, Descriptor, FabricError, GrantState, Kind, Regions, Token};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How many grants may wait at a time: of as many replicas as a primary may have, each with 16
/// channels. Each waits for a few seconds at most.
const WAITING_MAX: usize = 512;

struct Entry<G> {
    token: Token,
    until: Instant,
    grant: Arc<G>,
}

/// The grants of one exporter whose peers have not connected yet.
pub(super) struct Waiting<G>(Mutex<Vec<Entry<G>>>);

impl<G> Default for Waiting<G> {
    fn default() -> Self {
        Waiting(Mutex::default())
    }
}

impl<G> Waiting<G> {
    /// Let `grant` wait for the peer that shows `token`. Returns the deadline.
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

    /// Take out the grant that waits for `token`, if there is one.
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

/// Takes the same time whichever byte differs, so that a peer cannot guess a token byte by byte.
fn same(left: &Token, right: &Token) -> bool {
    let differs = left.0.iter().zip(&right.0).fold(0, |differs, (left, right)| differs | (left ^ right));
    std::hint::black_box(differs) == 0
}

/// The state of a grant's channel, shared by the grant's owner and the thread that serves the peer.
pub(super) struct Stage<C>(Mutex<Step<C>>);

/// See [`Stage`].
pub(super) enum Step<C> {
    /// The peer has not connected.
    Waiting,
    /// The peer is connected, over this connection.
    Connected(C),
    /// The channel has ended, for this reason.
    Over(FabricError),
}

impl<C> Stage<C> {
    /// The first state.
    pub(super) fn waiting() -> Self {
        Stage(Mutex::new(Step::Waiting))
    }

    /// Look at the state or change it. Hold the lock for a short time only, and never while
    /// something blocks.
    pub(super) fn lock(&self) -> MutexGuard<'_, Step<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stage<()> {
    /// The state, for fabrics whose serving thread records the end of a connection. While `is_due`
    /// the peer may still connect; afterwards a grant that still waits is over.
    pub(super) fn state(&self, kind: Kind, is_due: bool) -> Result<GrantState, FabricError> {
        let mut step = self.lock();
        match &*step {
            Step::Waiting if is_due => Ok(GrantState::Waiting),
            Step::Waiting => {
                *step = Step::Over(nobody_came(kind));
                Err(nobody_came(kind))
            }
            Step::Connected(()) => Ok(GrantState::Connected),
            Step::Over(error) => Err(error.clone()),
        }
    }
}

/// Descriptors for fabrics in which a peer names a region by its number alone.
pub(super) fn descriptors(regions: &dyn Regions) -> Vec<Descriptor> {
    let bytes = |number| (regions.memory(number).words().len() * 8) as u64;
    (0..regions.count()).map(|number| Descriptor { address: 0, key: 0, bytes: bytes(number) }).collect()
}

/// The same for the ack slot.
pub(super) const ACK_DESCRIPTOR: Descriptor = Descriptor { address: 0, key: 0, bytes: ACK_BYTES as u64 };

/// The error of a grant to which no peer connected in time.
pub(super) fn nobody_came(kind: Kind) -> FabricError {
    let what = format!(
        "the replica did not connect within {} s; is the address reachable from it?",
        CONNECT_WAIT_MAX.as_secs()
    );
    FabricError::new(kind, Cause::TimedOut, what)
}
