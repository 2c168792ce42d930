//! One replica at its primary: the handshake, the data channels, then heartbeats until one side
//! ends the connection.
//!
//! Three rules keep peers from reading what they may not. A peer is told nothing of the store
//! before it has proved itself. When a replica comes back, its old channels are destroyed before it
//! gets new ones. When a session ends, its channels are destroyed first.

use super::ack::AckSlots;
use super::clock::Clocks;
use super::forwarding;
use super::link::{Link, LinkError};
use super::offer::{Held, Offer, SlotGuard};
use super::places::{NoPlace, Place};
use super::push::pushing::Pushing;
use super::retain::Teller;
use super::sealing;
use super::secret::{Secret, Side};
use super::shares::PULLERS_MAX;
use super::standing::{Distance, ServerNumber};
use super::tls::Listening;
use super::wire::{
    Beat, Decline, Greeting, Join, Message, PATH_MAX, PROGRAM_VERSION, Refusal, Subscribed, Told, VERSION, Wanted,
    Welcome, WireError,
};
use super::{HANDSHAKE_WAIT_MAX, HEARTBEAT};
use crate::base::shards::ShardSet;
use crate::fabric::{Cause, Exporter, FabricError, GrantState, Invitation, Kind, Token};
use crate::sys::random::random;
use std::net::TcpStream;
use std::time::Instant;

/// Fabrics that a replica may try in one session.
const CHOICES_MAX: usize = 8;

/// Why a session has lost its place.
const LOST: &str = "another connection of this replica has taken its place";

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The control connection.
    #[error("{0}")]
    Link(#[from] LinkError),
    /// The data channel.
    #[error("{0}")]
    Fabric(#[from] FabricError),
    /// This side refused the peer, and told it why.
    #[error("refused: {1}")]
    Refused(Refusal, String),
    /// This server does not stop for that heir, and has told it why.
    #[error("an heir is refused: {0}")]
    NotSealed(String),
    /// The replica, of this name, cannot follow this server, and has told why.
    #[error("{0} does not follow this server: {1}")]
    Declined(String, String),
    /// The replica has ended the session of its own will, and has told why.
    #[error("the replica ends its session: {0}")]
    Left(String),
    /// It is a link from now on, and a worker has it.
    #[error("it forwards requests of its clients, which a worker executes from now on")]
    HandedOver,
    /// The kernel gave no random bytes, or the socket could not be set up.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Serve one peer until the connection is over. Returns why it is.
pub(super) fn serve(offer: &Offer, stream: TcpStream, place: &mut Place) -> SessionError {
    let deadline = Instant::now() + HANDSHAKE_WAIT_MAX;
    let mut link = match Link::accepted(stream, offer.listening(), deadline) {
        Ok(link) => link,
        // Without TLS it cannot be told why.
        Err(error) => return refusing(silent(error.into())),
    };
    let error = match begin(offer, &mut link, place, deadline) {
        Ok(Message::Forward) => match forwarding::admit(offer, &mut link, deadline) {
            Ok((owner, place)) => {
                owner.take(link.into_line(), place);
                return SessionError::HandedOver;
            }
            Err(error) => error,
        },
        Ok(message) => {
            let Err(error) = run(offer, &mut link, message, deadline);
            error
        }
        Err(error) => error,
    };
    let error = refusing(error);
    tell(&mut link, &error);
    error
}

/// Meet whoever has connected, at a port where there is nothing to follow: both sides prove by
/// `deadline` that they have the secret. Who is refused is told why, also where there is no room
/// for it once it is known (`known`).
pub(crate) fn meet_in_place(
    stream: TcpStream,
    listening: &Listening,
    secret: &Secret,
    own: ServerNumber,
    deadline: Instant,
    known: impl FnOnce() -> Result<(), NoPlace>,
) -> Result<Link, SessionError> {
    let mut link = Link::accepted(stream, listening, deadline).map_err(|error| refusing(silent(error.into())))?;
    let met = authenticate(&mut link, secret, own, deadline, known).map_err(|error| refusing(silent(error)));
    met.inspect_err(|error| tell(&mut link, error)).map(|()| link)
}

/// The same, where there is room for everybody.
pub fn meet(
    stream: TcpStream,
    listening: &Listening,
    secret: &Secret,
    own: ServerNumber,
    deadline: Instant,
) -> Result<Link, SessionError> {
    meet_in_place(stream, listening, secret, own, deadline, || Ok(()))
}

/// A peer that is refused is told why.
fn tell(link: &mut Link, error: &SessionError) {
    let refusal = match error {
        SessionError::Refused(why, words) => Some((*why, words.clone())),
        // So that the replica can tell that from the end of this process.
        SessionError::Fabric(error) => Some((refusal_of(error), format!("the data channel has ended: {error}"))),
        _ => None,
    };
    if let Some((why, words)) = refusal {
        let _ = link.send(&Message::Refuse { why, words }, Instant::now() + HANDSHAKE_WAIT_MAX);
    }
}

/// The same where the peer is to be refused: it has said what makes no sense.
fn refusing(error: SessionError) -> SessionError {
    match error {
        SessionError::Link(LinkError::Wire(WireError::Major(theirs))) => {
            SessionError::Refused(Refusal::Version, other_major(theirs))
        }
        SessionError::Link(what @ (LinkError::Tls(_) | LinkError::Wire(_) | LinkError::OutOfPlace(_))) => {
            SessionError::Refused(Refusal::Protocol, what.to_string())
        }
        error => error,
    }
}

/// The same in a handshake, where silence makes no sense either.
fn silent(error: SessionError) -> SessionError {
    match error {
        SessionError::Link(silent @ LinkError::Silent(_)) => {
            SessionError::Refused(Refusal::Protocol, format!("{silent}, in the middle of a handshake"))
        }
        error => error,
    }
}

/// Whether the channel has failed, or this side has ended it because its log is another one now.
fn refusal_of(error: &FabricError) -> Refusal {
    if error.cause == Cause::Elsewhere { Refusal::Ending } else { Refusal::Channel }
}

fn other_major(theirs: u16) -> String {
    let older = if theirs < VERSION.major { "the replica" } else { "the primary" };
    format!(
        "the primary speaks version {VERSION} of the replication protocol, the replica speaks version {theirs}: upgrade {older}"
    )
}

fn refused<T>(why: Refusal, words: impl Into<String>) -> Result<T, SessionError> {
    Err(SessionError::Refused(why, words.into()))
}

/// Both sides prove themselves, and the peer says what it is here for.
fn begin(offer: &Offer, link: &mut Link, place: &mut Place, deadline: Instant) -> Result<Message, SessionError> {
    let (secret, own) = (offer.secret(), offer.chain().own());
    authenticate(link, secret, own, deadline, || place.make_known()).map_err(silent)?;
    link.receive(deadline).map_err(|error| silent(error.into()))
}

fn run(
    offer: &Offer,
    link: &mut Link,
    message: Message,
    deadline: Instant,
) -> Result<std::convert::Infallible, SessionError> {
    let join = match message {
        Message::Join(join) => join,
        Message::Seal(seal) => return Err(sealing::serve(offer, link, seal)),
        other => return out_of_place(&other),
    };
    let slot = admit(offer, link, join, deadline).map_err(silent)?;
    let mut teller = Teller::default();
    let ended = follow(offer, link, &slot, &mut teller);
    teller.look(offer.board(), slot.session());
    ended
}

/// The rest of the handshake, up to a connected data channel.
fn admit<'o>(offer: &'o Offer, link: &mut Link, join: Join, deadline: Instant) -> Result<SlotGuard<'o>, SessionError> {
    if !offer.store().has_begun() {
        return refused(
            Refusal::Busy,
            "this is a replica itself, and has not begun in any shard yet: others cannot follow it so far",
        );
    }
    if offer.chain().is(&join.replica) {
        return refused(Refusal::Circle, "this is the replica itself: it cannot follow its own log");
    }
    let slot = match offer.admit(link, &join)? {
        Some(slot) => slot,
        None => return refused(Refusal::Busy, format!("there are {} replicas already", super::REPLICAS_MAX)),
    };
    let welcome = welcome(offer, &join, link);
    link.send(&Message::Welcome(welcome), deadline)?;
    match attach(offer, link, &slot, &join) {
        Err(SessionError::Link(_)) if slot.is_lost() => refused(Refusal::Replaced, LOST),
        attached => attached.map(|()| slot),
    }
}

/// Both sides prove that they have the secret, the peer first. `known` is called in between, and
/// may have no place for one more.
fn authenticate(
    link: &mut Link,
    secret: &Secret,
    own: ServerNumber,
    deadline: Instant,
    known: impl FnOnce() -> Result<(), NoPlace>,
) -> Result<(), SessionError> {
    let theirs = match link.receive(deadline)? {
        Message::Hello(greeting) => greeting,
        other => return out_of_place(&other),
    };
    let binding = *link.binding();
    if !secret.check(Side::Replica, &binding, &theirs.proof) {
        return refused(Refusal::Secret, "the replica has not proved that it has the primary's secret (--secret-file)");
    }
    known().or_else(|why| refused(Refusal::Busy, why.to_string()))?;
    let greeting = Greeting { version: VERSION, proof: secret.prove(Side::Primary, &binding) };
    link.send(&Message::Accept { greeting, server: own }, deadline)?;
    link.trust();
    Ok(())
}

/// How far from the root these shards are here, and the path by which they come. Refuses a replica
/// that is on the path itself, and one that would make it longer than it may be.
fn place_below(
    offer: &Offer,
    replica: &ServerNumber,
    shards: ShardSet,
) -> Result<(Distance, Vec<ServerNumber>), SessionError> {
    let path = offer.chain().path(shards);
    if path.contains(replica) {
        let words = "what this server has comes from the replica itself: they would follow one another in a circle";
        return refused(Refusal::Circle, words);
    }
    if path.len() > PATH_MAX {
        let words = format!(
            "what this server has comes through {} servers, itself included: there may be {PATH_MAX}",
            path.len()
        );
        return refused(Refusal::Circle, words);
    }
    Ok((offer.chain().distance(shards), path))
}

/// The replica subscribes. It is told each shard's history as it is when its tag is given.
fn subscribe(offer: &Offer, slot: &SlotGuard<'_>, wanted: &[Wanted]) -> Result<Subscribed, SessionError> {
    let shards = wanted.iter().map(|one| one.shard()).collect();
    let (_, path) = place_below(offer, slot.replica(), shards)?;
    let Some(acks) = slot.acks() else { return refused(Refusal::Replaced, LOST) };
    let tell = |one: &Wanted| {
        let shard = offer.store().shards().get(one.shard())?;
        shard.with_history(|history| Some(Told { shard: one.shard(), tag: acks.subscribe(*one)?, history }))
    };
    let Some(shards) = wanted.iter().map(tell).collect() else {
        return refused(Refusal::Protocol, "the replica subscribes to what is not there");
    };
    Ok(Subscribed { path, shards })
}

fn welcome(offer: &Offer, join: &Join, link: &Link) -> Welcome {
    // The boot id alone proves nothing: a peer elsewhere is told this host's, and can say it.
    let same_host = link.is_of_this_host() && join.host == offer.host() && join.host != [0; 16];
    let fabrics = offer.fabrics().filter(|kind| *kind != Kind::Shm || same_host).collect();
    Welcome {
        geometry: offer.store().geometry(),
        memory: offer.store().memory(),
        histories: offer.store().histories(),
        host: offer.host(),
        client_port: offer.client_port(),
        fabrics,
        program_version: PROGRAM_VERSION.into(),
    }
}

/// Grant data channels, until the replica says that it has connected them.
fn attach(offer: &Offer, link: &mut Link, slot: &SlotGuard<'_>, join: &Join) -> Result<(), SessionError> {
    for tried in 0..CHOICES_MAX {
        // The replica may try a fabric in this time, fail, and choose another.
        let deadline = Instant::now() + 2 * HANDSHAKE_WAIT_MAX;
        let message = next(link, deadline);
        if tried == 0 {
            if let Err(LinkError::Refused(_, words)) = message {
                return Err(SessionError::Declined(join.name.clone(), words));
            }
            slot.count();
            log::info!("replica {} ({}) is admitted as session {}", join.name, link.peer(), slot.session());
        }
        match message? {
            Message::Choose { fabric, channels } => {
                let exporter = exporter(offer, fabric, link)?;
                match grant(offer, exporter, channels.into(), &join.name) {
                    Ok((held, mut invitations)) => {
                        hold(slot, held)?;
                        let first = invitations.remove(0);
                        link.send(&Message::Grant { first, further: invitations }, deadline)?;
                    }
                    Err(SessionError::Fabric(error)) => link.send(&declined(&error, &join.name), deadline)?,
                    Err(error) => return Err(error),
                }
            }
            Message::Attached => return Ok(()),
            Message::Invite(invite) => {
                let kind = invite.fabric;
                let exporter = exporter(offer, kind, link)?;
                let store = (offer.regions(), offer.store().geometry(), offer.store().memory());
                match Pushing::accept(exporter, invite, link.peer().ip(), store, offer.silence_max()) {
                    Ok(pushing) => {
                        let pushed_bytes = Some(pushing.pushed_bytes());
                        let mut held = Held::new(kind, vec![Box::new(pushing)], offer.store().shards().len());
                        held.pushed_bytes = pushed_bytes;
                        hold(slot, held)?;
                        return Ok(link.send(&Message::Attached, deadline)?);
                    }
                    Err(error) => link.send(&declined(&error, &join.name), deadline)?,
                }
            }
            other => return out_of_place(&other),
        }
    }
    refused(Refusal::Protocol, "too many fabrics were tried")
}

/// Grant a replica so many channels, or as many as there can be.
fn grant(
    offer: &Offer,
    exporter: &dyn Exporter,
    channels: usize,
    name: &str,
) -> Result<(Held, Vec<Invitation>), SessionError> {
    let shards = offer.store().shards().len();
    let channels = channels.clamp(1, PULLERS_MAX.min(shards));
    let (mut grants, mut invitations) = (Vec::new(), Vec::new());
    while grants.len() < channels {
        let token = Token(random()?);
        match exporter.grant(token, offer.regions()) {
            Ok(grant) => {
                invitations.push(Invitation::new(exporter, token, &*grant));
                grants.push(grant);
            }
            Err(error) if grants.is_empty() => return Err(error.into()),
            Err(error) => {
                log::warn!("replica {name} gets {} of {channels} data channels: {error}", grants.len());
                break;
            }
        }
    }
    Ok((Held::new(exporter.kind(), grants, shards), invitations))
}

/// That a fabric cannot be had, and why. The replica may choose another.
fn declined(error: &FabricError, name: &str) -> Message {
    let why = if error.cause == Cause::NotYet { Decline::NotYet } else { Decline::Failed };
    let level = if why == Decline::NotYet { log::Level::Info } else { log::Level::Warn };
    log::log!(level, "replica {name} is declined a data channel: {error}");
    Message::Declined { why, words: error.to_string() }
}

/// The fabric that a peer has named. Shared memory is for peers of this host: one elsewhere would
/// have this process connect to a local socket of its choice.
fn exporter<'o>(offer: &'o Offer, kind: Kind, link: &Link) -> Result<&'o dyn Exporter, SessionError> {
    if kind == Kind::Shm && !link.is_of_this_host() {
        let words = "shared memory is for replicas whose control connection comes from this host; use verbs or tcp";
        return refused(Refusal::Fabric, words);
    }
    match offer.exporter(kind) {
        Some(exporter) => Ok(exporter),
        None => refused(Refusal::Fabric, format!("{} is not offered here", kind.name())),
    }
}

fn hold(slot: &SlotGuard<'_>, held: Held) -> Result<(), SessionError> {
    if slot.hold(held) {
        return Ok(());
    }
    refused(Refusal::Replaced, LOST)
}

/// The next message other than a heartbeat or of an unknown kind.
fn next(link: &mut Link, deadline: Instant) -> Result<Message, LinkError> {
    loop {
        match link.receive(deadline)? {
            // A peer that sends them without an end is cut off at the deadline.
            Message::Heartbeat(_) | Message::Unknown(_) if Instant::now() < deadline => {}
            Message::Heartbeat(_) => return Err(LinkError::OutOfPlace("nothing but Heartbeat")),
            message => return Ok(message),
        }
    }
}

/// The replica follows these shards here no more; there may be no such shard.
fn unsubscribe(offer: &Offer, acks: &AckSlots, shards: ShardSet) {
    let here = offer.store().shards().iter().enumerate().filter(|(number, _)| shards.has(*number));
    here.for_each(|(number, shard)| shard.with_history(|_| acks.unsubscribe(number)));
}

/// Heartbeats both ways, until one side ends it.
fn follow(
    offer: &Offer,
    link: &mut Link,
    slot: &SlotGuard<'_>,
    teller: &mut Teller,
) -> Result<std::convert::Infallible, SessionError> {
    let (mut heard_at, mut clocks) = (Instant::now(), Clocks::start());
    loop {
        let beat_at = Instant::now() + HEARTBEAT;
        let subscribed = slot.acks().map(|acks| acks.shards()).unwrap_or_default();
        let (distance, path) = place_below(offer, slot.replica(), subscribed)?;
        link.send(&Message::Heartbeat(Beat { distance, stamp: clocks.stamp(), path }), beat_at)?;
        while Instant::now() < beat_at {
            match link.receive(beat_at) {
                Ok(Message::Heartbeat(beat)) => {
                    heard_at = Instant::now();
                    // The replica shows the skew itself. This side only needs the stamp, to answer
                    // it.
                    let _ = clocks.heard(&beat.stamp);
                }
                Ok(Message::Subscribe(wanted)) => {
                    let subscribed = subscribe(offer, slot, &wanted)?;
                    link.send(&Message::Subscribed(subscribed), Instant::now() + HANDSHAKE_WAIT_MAX)?;
                }
                Ok(Message::Unsubscribe(shards)) => {
                    let Some(acks) = slot.acks() else { return refused(Refusal::Replaced, LOST) };
                    unsubscribe(offer, &acks, shards);
                }
                Ok(Message::Unknown(_)) => {}
                Ok(other) => return out_of_place(&other),
                Err(LinkError::Silent(_)) => {}
                Err(LinkError::Refused(Refusal::Leaves, words)) => return Err(SessionError::Left(words)),
                Err(_) if slot.is_lost() => return refused(Refusal::Replaced, LOST),
                Err(error) => return Err(error.into()),
            }
        }
        teller.look(offer.board(), slot.session());
        if offer.is_ending() {
            return refused(Refusal::Ending, "the primary is ending");
        }
        match slot.state()? {
            None => return refused(Refusal::Replaced, LOST),
            Some(GrantState::Waiting) => {
                return refused(Refusal::Protocol, "the replica said that its data channel stands, but it does not");
            }
            Some(GrantState::Connected) => {}
        }
        let silence = heard_at.elapsed();
        if silence > offer.silence_max() {
            return Err(LinkError::Silent(silence).into());
        }
    }
}

fn out_of_place<T>(message: &Message) -> Result<T, SessionError> {
    let what = message.name();
    refused(Refusal::Protocol, format!("the peer said {what} where it made no sense"))
}
