//! The heir's side of a seal: whoever is about to be promoted has other servers stop first, and
//! learns how far they have come. They do not go on before they are told what has become of it.

use super::HANDSHAKE_WAIT_MAX;
use super::attach::{AttachError, meet};
use super::link::{Link, LinkError};
use super::order::Peer;
use super::secret::Secret;
use super::standing::ServerNumber;
use super::wire::{Message, NotSealed, Seal, SealedShard};
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::store::History;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Pause between two looks whether all have answered.
const LOOK: Duration = Duration::from_micros(200);

/// Why a server has not stopped.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It could not be asked, or has not answered.
    #[error("{0}")]
    Attach(#[from] AttachError),
    /// Whoever answers there is not the server that is meant.
    #[error("{at} is another process than the one that is to stop: that one has ended")]
    Another {
        /// Where.
        at: SocketAddr,
    },
    /// It goes on.
    #[error("{at} does not stop: {words}")]
    NotSealed {
        /// Who.
        at: SocketAddr,
        /// The latest term that it knows of, or has stopped for; none where it tells none.
        known: Term,
        /// Why.
        words: String,
    },
}

impl ClaimError {
    /// The term above which that server may stop; none where that is not why.
    pub fn known(&self) -> Term {
        match self {
            ClaimError::Attach(_) | ClaimError::Another { .. } => Term::NONE,
            ClaimError::NotSealed { known, .. } => *known,
        }
    }
}

/// One server that has stopped.
pub struct Claim {
    /// Its replication port, HOST:PORT, as it was given.
    pub peer: String,
    /// Its number.
    pub server: ServerNumber,
    link: Link,
    sealed: Vec<SealedShard>,
}

impl Claim {
    /// Seal `peer`.
    pub fn ask(peer: &Peer, secret: &Secret, seal: &Seal) -> Result<Claim, ClaimError> {
        let deadline = Instant::now() + 2 * HANDSHAKE_WAIT_MAX;
        let (mut link, server) = meet(&peer.address, secret, deadline)?;
        let address = link.peer();
        if peer.server.is_some_and(|meant| meant != server) {
            return Err(ClaimError::Another { at: address });
        }
        let failed = |error| AttachError::Link(address, error);
        link.send(&Message::Seal(seal.clone()), deadline).map_err(failed)?;
        match link.receive(deadline).map_err(failed)? {
            Message::Sealed(sealed) if sealed.iter().map(|one| one.shard).eq(seal.shards.iter()) => {
                Ok(Claim { peer: peer.address.clone(), server, link, sealed })
            }
            Message::NotSealed(NotSealed { known, words }) => Err(ClaimError::NotSealed { at: address, known, words }),
            other => Err(failed(LinkError::OutOfPlace(other.name())).into()),
        }
    }

    /// The same at all of these side by side, in their order. `meanwhile` is called again and again
    /// until all have answered.
    pub fn ask_all(
        peers: &[Peer],
        secret: &Secret,
        seal: &Seal,
        meanwhile: &mut dyn FnMut(),
    ) -> Vec<Result<Claim, ClaimError>> {
        std::thread::scope(|scope| {
            let ask = |peer: &'_ Peer| {
                let (peer, thread) = (peer.clone(), std::thread::Builder::new().name("replica-claim".into()));
                thread.spawn_scoped(scope, move || Claim::ask(&peer, secret, seal))
            };
            let asked: Vec<_> = peers.iter().map(ask).collect();
            while asked.iter().flatten().any(|thread| !thread.is_finished()) {
                meanwhile();
                std::thread::sleep(LOOK);
            }
            let answer = |asked: std::io::Result<std::thread::ScopedJoinHandle<'_, _>>| match asked {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(error) => Err(AttachError::Thread(error).into()),
            };
            asked.into_iter().map(answer).collect()
        })
    }

    /// How far it has come in a shard that it was sealed in.
    pub fn sealed(&self, shard: usize) -> Option<&SealedShard> {
        self.sealed.iter().find(|one| one.shard == shard)
    }

    /// In which shards the log here, whose `history` is given for each, goes on from all that this
    /// server has said that it has.
    pub fn goes_on(&self, history: impl Fn(usize) -> History) -> ShardSet {
        let is_kept = |one: &&SealedShard| history(one.shard).has(one.term, one.position);
        self.sealed.iter().filter(is_kept).map(|one| one.shard).collect()
    }

    /// Tell it whether the term has begun, and in which shards the log here goes on from its own.
    /// Where that does not arrive, it follows the heir, and finds out.
    pub fn settle(mut self, begun: Option<ShardSet>) {
        let message = begun.map_or(Message::GivenUp, Message::Begun);
        if let Err(error) = self.link.send(&message, Instant::now() + HANDSHAKE_WAIT_MAX) {
            log::warn!("{} was not told what has become of the promotion: {error}", self.peer);
        }
    }
}
