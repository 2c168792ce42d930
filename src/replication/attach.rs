//! The replica's side of the handshake: prove, be welcomed, choose a fabric, connect to it by as
//! many channels as there are to be pullers.
//!
//! Which fabric: shared memory on the same host, else verbs if both hosts have a device, else TCP.
//! A fabric that the primary declines, or that cannot be connected, is passed over ([`Choice`]).

use super::HANDSHAKE_WAIT_MAX;
use super::choice::Choice;
use super::host_id;
use super::link::{Link, LinkError};
use super::penalties::NOT_YET_PAUSE;
use super::push::inbox::Inbox;
use super::push::layout::Layout;
use super::reached::{Holder, Reached, Taken};
use super::regions;
use super::secret::{Secret, Side};
use super::shares::{PULLERS_MAX, Shares};
use super::standing::{Chain, ServerNumber};
use super::wire::{Greeting, Join, Message, PROGRAM_VERSION, Refusal, Subscribed, VERSION, Version, Wanted, Welcome};
use crate::base::shards::ShardSet;
use crate::fabric::{self, Channel, ConnectOptions, FabricError, Invitation, Kind, Token};
use crate::sys::random::random;
use crate::sys::reach;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

/// The fabrics that `--fabric auto` tries, in this order.
pub const PREFERENCE: [Kind; 3] = [Kind::Shm, Kind::Verbs, Kind::Tcp];

/// The longest pause after a primary was busy: it has no place free, or is a replica that has not
/// joined its own primary yet, which takes a moment. And after a refusal because both would follow
/// each other: an order to the other one ends that.
const BUSY_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Who the replica is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// A random number that stays the same for the life of the process.
    pub replica: [u8; 16],
    /// Its name, for people.
    pub name: String,
    /// The servers at which it has a place.
    pub reached: Arc<Reached>,
}

impl Identity {
    /// Of a replica that has reached nobody.
    pub fn new(replica: [u8; 16], name: impl Into<String>) -> Identity {
        Identity { replica, name: name.into(), reached: Arc::default() }
    }
}

/// An admitted replica, before it has a channel.
pub struct Joined {
    /// The control connection.
    pub link: Link,
    /// What the primary has said.
    pub welcome: Welcome,
    /// Its number.
    pub server: ServerNumber,
    /// The place there.
    pub taken: Taken,
}

/// Connected data channels.
pub struct Channels {
    /// One for each puller; the primary knows their order.
    pub channels: Vec<Box<dyn Channel>>,
    /// Their fabric, and why that one.
    pub fabric: String,
}

/// Why a primary could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Its name cannot be resolved.
    #[error("{0}: {1}")]
    Resolve(String, std::io::Error),
    /// It does not answer.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// It follows this server, directly or through others.
    #[error("{0}: what it has comes from this server: they would follow one another in a circle")]
    Circle(SocketAddr),
    /// The handshake went wrong.
    #[error("{0}: {1}")]
    Link(SocketAddr, LinkError),
    /// It has not proved that it has the secret.
    #[error("{0} has not proved that it has the secret: it is not the primary, or its --secret-file is another one")]
    Impostor(SocketAddr),
    /// It is too old for links.
    #[error("{0} speaks version {1} of the replication protocol, by which nothing is forwarded: upgrade it")]
    ForwardsNothing(SocketAddr, Version),
    /// No fabric could be used; each with its reason.
    #[error("no fabric could be used: {0}")]
    NoFabric(String),
    /// The same, but one of them is being made ready.
    #[error("no fabric can be used yet: {0}")]
    NotYet(String),
    /// Another connection of this process has reached the same server.
    #[error("it is the server that is followed at {}", holder.name())]
    Twin {
        /// Its number.
        server: ServerNumber,
        /// Who has the place there.
        holder: Arc<Holder>,
    },
    /// The system gives no thread.
    #[error("cannot start a thread: {0}; raise `ulimit -u`")]
    Thread(std::io::Error),
    /// The kernel gave no random bytes.
    #[error("{0}")]
    Random(std::io::Error),
}

impl AttachError {
    /// Trying again does not help until an operator changes something.
    pub(super) fn is_final(&self) -> bool {
        match self {
            AttachError::Impostor(_) | AttachError::Circle(_) | AttachError::ForwardsNothing(..) => true,
            AttachError::Link(_, LinkError::Wire(_)) => true,
            // These pass by themselves.
            AttachError::Link(_, LinkError::Refused(why, _)) => {
                !matches!(why, Refusal::Busy | Refusal::Replaced | Refusal::Ending | Refusal::Channel)
            }
            _ => false,
        }
    }

    /// How long to wait for the next try; `pause` if this error says nothing about that.
    pub(super) fn pause(&self, pause: Duration) -> Duration {
        match self {
            AttachError::NotYet(_) => NOT_YET_PAUSE,
            AttachError::Circle(_) | AttachError::Link(_, LinkError::Refused(Refusal::Busy | Refusal::Circle, _)) => {
                pause.min(BUSY_PAUSE_MAX)
            }
            _ => pause,
        }
    }
}

/// A control connection to the server at `address` (HOST:PORT), on which both sides have proved
/// that they have the secret, and that server's number. Looking its name up and trying its
/// addresses take [`HANDSHAKE_WAIT_MAX`] together, the proofs are to be there by `deadline`.
pub fn meet(address: &str, secret: &Secret, deadline: Instant) -> Result<(Link, ServerNumber), AttachError> {
    greet(address, secret, deadline).map(|(link, _, server)| (link, server))
}

/// The same, and how that server has greeted.
pub(super) fn greet(
    address: &str,
    secret: &Secret,
    deadline: Instant,
) -> Result<(Link, Greeting, ServerNumber), AttachError> {
    let until = Instant::now() + HANDSHAKE_WAIT_MAX;
    let unknown = |error| AttachError::Resolve(address.into(), error);
    let addresses = reach::resolve(address, until).map_err(unknown)?;
    let stream = reach::connect(&addresses, until).map_err(|(address, error)| match address {
        Some(address) => AttachError::Connect(address, error),
        None => unknown(error),
    })?;
    let address = stream.peer_addr().map_err(unknown)?;
    let failed = |error| AttachError::Link(address, error);
    let mut link = Link::connected(stream, deadline).map_err(failed)?;
    let greeting = Greeting { version: VERSION, proof: secret.prove(Side::Replica, link.binding()) };
    link.send(&Message::Hello(greeting), deadline).map_err(failed)?;
    match link.receive(deadline).map_err(failed)? {
        Message::Accept { greeting, server } if secret.check(Side::Primary, link.binding(), &greeting.proof) => {
            link.trust();
            Ok((link, greeting, server))
        }
        Message::Accept { .. } => Err(AttachError::Impostor(address)),
        other => Err(failed(LinkError::OutOfPlace(other.name()))),
    }
}

/// Be admitted at `primary` (HOST:PORT); the place there is for `holder`. Reaching it takes
/// [`HANDSHAKE_WAIT_MAX`] at most, the handshake as long once more.
pub fn join(primary: &str, secret: &Secret, identity: &Identity, holder: &Arc<Holder>) -> Result<Joined, AttachError> {
    let deadline = Instant::now() + 2 * HANDSHAKE_WAIT_MAX;
    let (mut link, server) = meet(primary, secret, deadline)?;
    let twin = |holder| AttachError::Twin { server, holder };
    let taken = identity.reached.take(identity.replica, server, holder).map_err(twin)?;
    let failed = |peer| move |error| AttachError::Link(peer, error);
    let failed = failed(link.peer());
    let join = Join {
        replica: identity.replica,
        host: host_id(),
        name: identity.name.clone(),
        program_version: PROGRAM_VERSION.into(),
    };
    link.send(&Message::Join(join), deadline).map_err(failed)?;
    match link.receive(deadline).map_err(failed)? {
        Message::Welcome(welcome) => Ok(Joined { link, welcome, server, taken }),
        other => Err(failed(LinkError::OutOfPlace(other.name()))),
    }
}

/// Connect over the first fabric of `choice` that works, by a channel for each of `pullers`. A
/// primary may give fewer.
pub fn attach(
    joined: &mut Joined,
    mut choice: Choice<'_>,
    options: &ConnectOptions,
    pullers: usize,
) -> Result<Channels, AttachError> {
    let peer = joined.link.peer();
    let failed = |error| AttachError::Link(peer, error);
    let wanted = pullers.clamp(1, PULLERS_MAX.min(joined.welcome.geometry.shards as usize));
    for kind in choice.order() {
        if let Err(why) = is_usable(kind, &joined.welcome.fabrics, &joined.link, options) {
            choice.cannot(why);
            continue;
        }
        let deadline = Instant::now() + HANDSHAKE_WAIT_MAX;
        joined.link.send(&Message::Choose { fabric: kind, channels: wanted as u16 }, deadline).map_err(failed)?;
        let mut invitations = match answer(&mut joined.link, deadline).map_err(failed)? {
            Message::Grant { first, further } => [vec![first], further].concat(),
            Message::Declined { why, words } => {
                choice.declined(kind, why, words);
                continue;
            }
            other => return Err(failed(LinkError::OutOfPlace(other.name()))),
        };
        if invitations.len() > wanted {
            return Err(failed(LinkError::OutOfPlace("a grant of more channels than were asked for")));
        }
        let Welcome { geometry, memory, .. } = &joined.welcome;
        for invitation in &mut invitations {
            name_host(invitation, peer.ip());
            regions::check(&invitation.regions, geometry, memory)
                .map_err(|what| failed(LinkError::OutOfPlace(what)))?;
        }
        match connect_all(kind, &invitations, options) {
            Ok(connected) => {
                joined.link.send(&Message::Attached, deadline).map_err(failed)?;
                return Ok(Channels { channels: connected, fabric: choice.words(kind) });
            }
            Err(error) => choice.failed(kind, &error),
        }
    }
    Err(choice.none())
}

/// A channel for each invitation, in their order, by which pullers are numbered. All are connected
/// at the same time, because each token is good for seconds only.
fn connect_all(
    kind: Kind,
    invitations: &[Invitation],
    options: &ConnectOptions,
) -> Result<Vec<Box<dyn Channel>>, FabricError> {
    let (first, further) = invitations.split_first().expect("a grant has an invitation at least");
    std::thread::scope(|scope| {
        let connect = |invitation| {
            let thread = Builder::new().name("replica-connect".into());
            thread.spawn_scoped(scope, move || fabric::connect(kind, invitation, options))
        };
        let connecting: Vec<_> = further.iter().map(connect).collect();
        let first = fabric::connect(kind, first, options);
        let further = connecting.into_iter().map(|thread| {
            let thread = thread.map_err(|error| FabricError::from_io(kind, "cannot start a thread", &error))?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        std::iter::once(first).chain(further).collect()
    })
}

/// The same if the primary is to push: it connects to an inbox of this replica, by one channel.
/// While nothing moves the primary pauses for at most `pause_max`.
pub fn attach_pushed(
    joined: &mut Joined,
    mut choice: Choice<'_>,
    options: &ConnectOptions,
    pause_max: Duration,
) -> Result<Channels, AttachError> {
    let peer = joined.link.peer();
    let failed = |error| AttachError::Link(peer, error);
    for kind in choice.order() {
        if let Err(why) = is_usable(kind, &joined.welcome.fabrics, &joined.link, options) {
            choice.cannot(why);
            continue;
        }
        let token = Token(random().map_err(AttachError::Random)?);
        let Welcome { geometry, memory, .. } = joined.welcome;
        let listen = inbox_address(&joined.link, options).map_err(|error| failed(error.into()))?;
        let granted = fabric::listen(kind, listen, options)
            .and_then(|exporter| Inbox::grant(exporter, token, geometry, memory, Layout::of(&geometry, &memory)));
        let (inbox, mut invite) = match granted {
            Ok(granted) => granted,
            Err(error) => {
                choice.failed(kind, &error);
                continue;
            }
        };
        invite.pause_microseconds = u32::try_from(pause_max.as_micros()).unwrap_or(u32::MAX);
        // The time that the primary may take to try to connect, and then to decline.
        let deadline = Instant::now() + 2 * HANDSHAKE_WAIT_MAX;
        joined.link.send(&Message::Invite(invite), deadline).map_err(failed)?;
        match answer(&mut joined.link, deadline).map_err(failed)? {
            Message::Attached => {
                return Ok(Channels { channels: vec![Box::new(inbox)], fabric: choice.words(kind) });
            }
            Message::Declined { why, words } => {
                choice.declined(kind, why, format!("the primary could not push: {words}"));
            }
            other => return Err(failed(LinkError::OutOfPlace(other.name()))),
        }
    }
    Err(choice.none())
}

/// Subscribe to these shards, each by one of so many pullers, which share all shards. Not where
/// they come through this process, whose chain that is.
pub fn subscribe(
    joined: &mut Joined,
    shards: ShardSet,
    pullers: usize,
    chain: &Chain,
) -> Result<Subscribed, AttachError> {
    let peer = joined.link.peer();
    let failed = |error| AttachError::Link(peer, error);
    let shares = Shares::new(joined.welcome.geometry.shards as usize, pullers);
    let wanted = shards.iter().map(|shard| Wanted::new(shard, shares.owner(shard))).collect();
    let deadline = Instant::now() + HANDSHAKE_WAIT_MAX;
    let told =
        joined.link.send(&Message::Subscribe(wanted), deadline).and_then(|()| answer(&mut joined.link, deadline));
    let subscribed = match told.map_err(failed)? {
        Message::Subscribed(subscribed) => subscribed,
        other => return Err(failed(LinkError::OutOfPlace(other.name()))),
    };
    if chain.is_on(&subscribed.path) {
        return Err(AttachError::Circle(peer));
    }
    if subscribed.shards.iter().map(|told| told.shard).eq(shards.iter()) {
        Ok(subscribed)
    } else {
        Err(failed(LinkError::OutOfPlace("Subscribed of other shards")))
    }
}

/// The primary's answer by `deadline`. Heartbeats may come before it, and unknown messages.
fn answer(link: &mut Link, deadline: Instant) -> Result<Message, LinkError> {
    loop {
        match link.receive(deadline)? {
            Message::Heartbeat(_) | Message::Unknown(_) if Instant::now() < deadline => {}
            answer => return Ok(answer),
        }
    }
}

/// Where an inbox listens: at the address by which the primary reaches this host, or at all
/// addresses if a device is named.
fn inbox_address(link: &Link, options: &ConnectOptions) -> std::io::Result<SocketAddr> {
    let local = link.local()?.ip();
    Ok(match options.verbs.device {
        None => SocketAddr::new(local, 0),
        Some(_) if local.is_ipv4() => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        Some(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
    })
}

/// Ok if both sides have what `kind` needs now; otherwise the reason.
pub(super) fn is_usable(kind: Kind, offered: &[Kind], link: &Link, options: &ConnectOptions) -> Result<(), String> {
    if !offered.contains(&kind) {
        let why = if kind == Kind::Shm { "another host, or not offered" } else { "not offered" };
        return Err(format!("{}: {why}", kind.name()));
    }
    // A primary on another host must not choose to which socket of this host this process connects.
    if kind == Kind::Shm && !link.is_of_this_host() {
        return Err("shm: the primary's connection is not of this host".into());
    }
    fabric::is_possible(kind, options).map_err(|error| error.to_string())
}

/// If an exporter listens on all addresses, put the address of the control connection into its
/// invitation.
pub(super) fn name_host(invitation: &mut Invitation, host: IpAddr) {
    if let Ok(mut address) = invitation.address.parse::<SocketAddr>()
        && address.ip().is_unspecified()
    {
        address.set_ip(host);
        invitation.address = address.to_string();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::Descriptor;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A primary that answers none before all of them are there.
    #[test]
    fn channels_are_connected_at_the_same_time() {
        const CHANNELS: usize = 3;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let invitation = |number| Invitation {
            address: listener.local_addr().unwrap().to_string(),
            token: Token([number; 16]),
            regions: Vec::new(),
            ack: Descriptor { address: 0, key: 0, bytes: 0 },
        };
        let invitations: Vec<_> = (0..CHANNELS as u8).map(invitation).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut sockets: Vec<_> = (0..CHANNELS).map(|_| listener.accept().unwrap().0).collect();
                for socket in &mut sockets {
                    socket.read_exact(&mut [0; 32]).unwrap();
                    socket.write_all(b"RMRTCP1\n\0\0\0\0\0\0\0\0").unwrap();
                }
            });
            let connected = connect_all(Kind::Tcp, &invitations, &ConnectOptions::default()).unwrap();
            assert_eq!(connected.len(), CHANNELS);
        });
    }
}
