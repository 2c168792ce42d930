//! A server is sealed: another one is about to be promoted in some shards, and this one stops
//! there. As a primary it takes no more writes, as a replica it pulls no more; then it says how far
//! it has come. Until it is told what has become of the heir's term, it does nothing else in these
//! shards.
//!
//! The session's thread waits for the control thread ([`super::node`]), which alone changes roles,
//! and for the heir. If the heir is gone without a word, its term may have begun: this server
//! follows it then, and somebody must say who goes on if that one is gone for good.

use super::HANDSHAKE_WAIT_MAX;
use super::link::{Link, LinkError};
use super::offer::Offer;
use super::session::SessionError;
use super::wire::{Message, Refusal, Seal, SealedShard};
use crate::base::term::Term;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Longest wait for the control thread, which may be carrying out an order. Less than the heir
/// waits for the answer.
const CONTROL_WAIT_MAX: Duration = Duration::from_secs(4);
const _: () = assert!(CONTROL_WAIT_MAX.as_secs() < HANDSHAKE_WAIT_MAX.as_secs());

/// Longest wait for the heir's last word: as long as it may wait for others that it seals, gather,
/// and wait for room.
const OUTCOME_WAIT_MAX: Duration = Duration::from_secs(20);

/// What has become of the heir's term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It has begun.
    Begun,
    /// It never will.
    GivenUp,
    /// Nobody knows here: the heir is gone.
    Lost,
}

/// Whoever is to be promoted, as those are told who are sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heir {
    /// Where clients are to write, in words.
    pub clients_address: String,
    /// Where to follow it; None if it offers nothing.
    pub replication_address: Option<String>,
}

impl Heir {
    /// At the other end of a connection from `peer`.
    fn of(peer: SocketAddr, seal: &Seal) -> Heir {
        let at = |port: u16| SocketAddr::new(peer.ip(), port).to_string();
        Heir {
            clients_address: match seal.client_port {
                0 => format!("the host {}", peer.ip()),
                port => at(port),
            },
            replication_address: Some(seal.replication_port).filter(|port| *port != 0).map(at),
        }
    }
}

/// Whoever changes the roles of this server's shards.
pub trait Sealer: Send + Sync {
    /// Stop in the shards of `seal`, by `deadline` or not at all; how far they have come. Err: why
    /// it does not stop.
    fn seal(&self, seal: Seal, heir: Heir, deadline: Instant) -> Result<Vec<SealedShard>, String>;

    /// What has become of this term.
    fn settle(&self, term: Term, settled: Settled);
}

/// An heir has said this. Returns why the connection is over.
pub(super) fn serve(offer: &Offer, link: &mut Link, seal: Seal) -> SessionError {
    let refuse = |words: String| SessionError::Refused(Refusal::NotSealed, words);
    if offer.chain().is(&seal.heir) {
        return SessionError::Refused(Refusal::Circle, "this is the replica itself".into());
    }
    let Some(sealer) = offer.sealer() else { return refuse("this server has not started yet".into()) };
    let (term, heir) = (seal.term, Heir::of(link.peer(), &seal));
    let sealed = match sealer.seal(seal, heir, Instant::now() + CONTROL_WAIT_MAX) {
        Ok(sealed) => sealed,
        Err(why) => return refuse(why),
    };
    let told = link.send(&Message::Sealed(sealed), Instant::now() + HANDSHAKE_WAIT_MAX);
    let (settled, ended) = match told {
        Ok(()) => outcome(link),
        Err(error) => (Settled::Lost, error.into()),
    };
    sealer.settle(term, settled);
    ended
}

/// What the heir says in the end, and why the connection is over.
fn outcome(link: &mut Link) -> (Settled, SessionError) {
    let silent_at = Instant::now() + OUTCOME_WAIT_MAX;
    loop {
        match link.receive(silent_at) {
            Ok(Message::Begun) => return (Settled::Begun, SessionError::Left("its term has begun".into())),
            Ok(Message::GivenUp) => return (Settled::GivenUp, SessionError::Left("it is not promoted".into())),
            Ok(Message::Unknown(_)) if Instant::now() < silent_at => {}
            Ok(other) => return (Settled::Lost, LinkError::OutOfPlace(other.name()).into()),
            Err(error) => return (Settled::Lost, error.into()),
        }
    }
}
