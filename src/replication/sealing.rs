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
use super::standing::ServerNumber;
use super::wire::{Message, NotSealed, Refusal, Seal, SealedShard};
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::store::Primary;
use std::net::{IpAddr, SocketAddr};
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
    /// It has begun. In these shards the heir's log goes on from all that this server had said that
    /// it has.
    Begun(ShardSet),
    /// It never will.
    GivenUp,
    /// Nobody knows here: the heir is gone.
    Lost,
}

/// Whoever is to be promoted, as those are told who are sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heir {
    /// Its number.
    pub server: ServerNumber,
    /// Where clients are to write, in words.
    pub clients_address: String,
    /// Where to follow it; None if it offers nothing.
    pub replication_address: Option<String>,
}

impl Heir {
    /// At the other end of a connection from `peer`, which is of this host or not. It says where it
    /// is reached: its connection may come from another address of its host. The connection's is
    /// used where it says none, or one that means this host here.
    fn of(peer: IpAddr, is_of_this_host: bool, seal: &Seal) -> Heir {
        let at = |told: SocketAddr| {
            let is_elsewhere = told.ip().is_loopback() && !is_of_this_host;
            let ip = if told.ip().is_unspecified() || is_elsewhere { peer } else { told.ip() };
            SocketAddr::new(ip, told.port()).to_string()
        };
        Heir {
            server: seal.heir,
            clients_address: seal.clients.map_or_else(|| format!("the host {peer}"), at),
            replication_address: seal.replication.map(at),
        }
    }

    /// As gates name it.
    pub(super) fn primary(&self) -> Primary {
        let replication = self.replication_address.as_deref().map(Box::from);
        Primary { clients: self.clients_address.as_str().into(), replication }
    }
}

/// Whoever changes the roles of this server's shards.
pub trait Sealer: Send + Sync {
    /// Stop in the shards of `seal`, by `deadline` or not at all; how far they have come. Err: why
    /// it does not stop.
    fn seal(&self, seal: Seal, heir: Heir, deadline: Instant) -> Result<Vec<SealedShard>, NotSealed>;

    /// What has become of this term.
    fn settle(&self, term: Term, settled: Settled);
}

/// An heir has said this. Returns why the connection is over.
pub(super) fn serve(offer: &Offer, link: &mut Link, seal: Seal) -> SessionError {
    if offer.chain().is(&seal.heir) {
        return SessionError::Refused(Refusal::Circle, "this is the replica itself".into());
    }
    let (term, heir) = (seal.term, Heir::of(link.peer().ip(), link.is_of_this_host(), &seal));
    let asked = offer.sealer().map(|sealer| (sealer.seal(seal, heir, Instant::now() + CONTROL_WAIT_MAX), sealer));
    let (sealed, sealer) = match asked {
        Some((Ok(sealed), sealer)) => (sealed, sealer),
        Some((Err(why), _)) => return refuse(link, why),
        None => return refuse(link, NotSealed::now("this server has not started yet")),
    };
    let told = link.send(&Message::Sealed(sealed), Instant::now() + HANDSHAKE_WAIT_MAX);
    let (settled, ended) = match told {
        Ok(()) => outcome(link),
        Err(error) => (Settled::Lost, error.into()),
    };
    sealer.settle(term, settled);
    ended
}

fn refuse(link: &mut Link, why: NotSealed) -> SessionError {
    let words = why.words.clone();
    match link.send(&Message::NotSealed(why), Instant::now() + HANDSHAKE_WAIT_MAX) {
        Ok(()) => SessionError::NotSealed(words),
        Err(error) => error.into(),
    }
}

/// What the heir says in the end, and why the connection is over.
fn outcome(link: &mut Link) -> (Settled, SessionError) {
    let silent_at = Instant::now() + OUTCOME_WAIT_MAX;
    loop {
        match link.receive(silent_at) {
            Ok(Message::Begun(goes_on)) => {
                return (Settled::Begun(goes_on), SessionError::Left("its term has begun".into()));
            }
            Ok(Message::GivenUp) => return (Settled::GivenUp, SessionError::Left("it is not promoted".into())),
            Ok(Message::Unknown(_)) if Instant::now() < silent_at => {}
            Ok(other) => return (Settled::Lost, LinkError::OutOfPlace(other.name()).into()),
            Err(error) => return (Settled::Lost, error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::shards::ShardSet;

    #[test]
    fn an_heir_is_where_it_says_unless_that_means_another_host_here() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let heir = |told: &str, is_of_this_host| {
            let (clients, replication) = (Some(address(told)), None);
            let seal = Seal { shards: ShardSet::one(0), term: Term::of(2, 7), heir: [9; 16], clients, replication };
            Heir::of("10.0.0.9".parse().unwrap(), is_of_this_host, &seal).clients_address
        };
        assert_eq!(heir("10.1.0.9:11211", false), "10.1.0.9:11211", "of another interface than its connection");
        assert_eq!(heir("0.0.0.0:11211", false), "10.0.0.9:11211");
        assert_eq!(heir("127.0.0.1:11211", false), "10.0.0.9:11211");
        assert_eq!(heir("127.0.0.1:11211", true), "127.0.0.1:11211");
        assert_eq!(heir("[fd00::9]:11211", false), "[fd00::9]:11211");
    }
}
