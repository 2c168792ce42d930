//! How a link begins: the connection by which one server, the forwarder, has another one, the
//! owner, execute requests of its clients ([`crate::protocol::forward`]). It is a control
//! connection up to the proofs. Then the forwarder says so, the owner agrees, and each side gives
//! its end of the same TLS session to a worker.

use super::HANDSHAKE_WAIT_MAX;
use super::attach::{AttachError, greet};
use super::link::{Line, Link, LinkError};
use super::offer::Offer;
use super::secret::Secret;
use super::session::SessionError;
use super::standing::ServerNumber;
use super::wire::{FORWARDING, Message, Refusal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Whoever executes what is forwarded to this server.
pub trait Owner: Send + Sync {
    /// A place for one more link; Err: why there is none, for people.
    fn enter(&self) -> Result<LinkPlace, String>;

    /// Execute what comes by this one from now on.
    fn take(&self, line: Line, place: LinkPlace);
}

/// One link's place; dropping it gives it back.
pub struct LinkPlace(Arc<AtomicU64>);

impl LinkPlace {
    /// One of so many; `taken` counts them. None where all are taken.
    pub fn of(taken: &Arc<AtomicU64>, places: u64) -> Option<LinkPlace> {
        let place = LinkPlace(taken.clone());
        // Counted before it is asked, so two that come at once do not both take the last one.
        (taken.fetch_add(1, Relaxed) < places).then_some(place)
    }
}

impl Drop for LinkPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The owner's side, once the peer has proved itself and said Forward: a place for it, of which it
/// is told.
pub(super) fn admit(
    offer: &Offer,
    link: &mut Link,
    deadline: Instant,
) -> Result<(Arc<dyn Owner>, LinkPlace), SessionError> {
    let busy = |words: String| SessionError::Refused(Refusal::Busy, words);
    if offer.is_ending() {
        return Err(SessionError::Refused(Refusal::Ending, "this server is ending".into()));
    }
    let owner = offer.owner().ok_or_else(|| busy("this server has not started yet".into()))?;
    let place = owner.enter().map_err(busy)?;
    link.send(&Message::Forwarding, deadline)?;
    Ok((owner, place))
}

/// The forwarder's side: a link to the server at `address` (HOST:PORT, its replication port), and
/// that server's number. Reaching it takes [`HANDSHAKE_WAIT_MAX`] at most, the handshake as long
/// once more.
pub fn connect(address: &str, secret: &Secret) -> Result<(Line, ServerNumber), AttachError> {
    let deadline = Instant::now() + 2 * HANDSHAKE_WAIT_MAX;
    let (mut link, greeting, server) = greet(address, secret, deadline)?;
    let peer = link.peer();
    if greeting.version < FORWARDING {
        return Err(AttachError::ForwardsNothing(peer, greeting.version));
    }
    let failed = |error| AttachError::Link(peer, error);
    link.send(&Message::Forward, deadline).map_err(failed)?;
    match link.receive(deadline).map_err(failed)? {
        Message::Forwarding => Ok((link.into_line(), server)),
        other => Err(failed(LinkError::OutOfPlace(other.name()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_places_and_each_is_given_back() {
        let taken = Arc::new(AtomicU64::new(0));
        let places: Vec<_> = (0..3).map(|_| LinkPlace::of(&taken, 2)).collect();
        assert_eq!(places.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(taken.load(Relaxed), 2, "one that was turned away is not counted");
        drop(places);
        assert_eq!(taken.load(Relaxed), 0);
    }
}
