//! The control connection's messages, as bytes and back. Pure. Nothing that a peer sends is
//! trusted: each length is checked against what has arrived and against a bound before it is used.
//! docs/FORMATS.md draws the messages.
//!
//! What a later minor version has added is no error: fields behind those that are known here are
//! left out, and a message of another kind is [`Message::Unknown`].
//!
//! ```text
//! frame:  length 4 (of what follows) | kind 1 | fields ...
//! ```

mod read;
mod seal;
mod subscribe;
mod version;

use super::clock::Stamp;
use super::push::Invite;
use super::standing::{Distance, ServerNumber};
use crate::base::shards::ShardSet;
use crate::fabric::{Descriptor, Invitation, Kind};
use crate::store::sizing::SHARDS_MAX;
use crate::store::{Geometry, History, Memory};
use read::{Fields, read};
pub use seal::{NotSealed, Seal, SealedShard};
pub use subscribe::{Subscribed, Told, Wanted};
pub use version::{FORWARDING, PROGRAM_VERSION, VERSION, Version};

/// Every connection begins with these bytes, so that a stray client is not taken for a replica of
/// another version.
pub const MAGIC: [u8; 8] = *b"remora\r\n";
/// Bytes before a frame's kind.
pub const LENGTH_BYTES: usize = 4;
/// Longest frame while the peer has not proved itself.
pub const STRANGER_FRAME_BYTES_MAX: usize = 512;
/// Longest frame: a Welcome or a Subscribed that tells as much as it may of 1,024 shards takes
/// nearly all of it.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// What of a frame is left for what the cluster says: all but its length, its kind and a count.
pub const CLUSTER_BYTES_MAX: usize = FRAME_BYTES_MAX - 8;
/// Terms of one shard that are told, at most: the oldest, by which whoever joins begins to
/// read, and the latest. Of those between, records tell. A replica that comes back with a cursor in
/// one of those begins anew.
pub const TERMS_TOLD_MAX: usize = 60;
const _: () = assert!(SHARDS_MAX * (8 + 2 + TERMS_TOLD_MAX * 16) + 2 * TEXT_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(SHARDS_MAX * (2 + 2 + 8 + 2 + TERMS_TOLD_MAX * 16) + 16 * PATH_MAX + 8 < FRAME_BYTES_MAX);
/// Servers on a path that a message tells, at most.
pub const PATH_MAX: usize = 16;
/// Regions of one grant: a store has three.
pub const REGIONS_MAX: usize = 64;
/// Longest text in a message.
const TEXT_BYTES_MAX: usize = 400;

/// Computed from the secret and from what is of this connection alone; nobody can compute it
/// without the secret.
pub type Proof = [u8; 32];

/// Why a primary refuses a peer, or a replica its primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// It speaks another version of the protocol.
    Version = 1,
    /// It could not prove that it has the secret.
    Secret = 2,
    /// There are as many replicas as there may be.
    Busy = 3,
    /// What it asked for is not offered.
    Fabric = 4,
    /// It said something that makes no sense.
    Protocol = 5,
    /// Another connection of the same replica has taken its place.
    Replaced = 6,
    /// The primary is ending.
    Ending = 7,
    /// The replica would follow itself, directly or through others, or the chain would be too long.
    Circle = 8,
    /// A replica's word: its store cannot follow this primary, or may not.
    Unfit = 9,
    /// The data channel has ended, and the primary has not: joining again makes another one.
    Channel = 10,
    /// A replica's word: it ends the session of its own will.
    Leaves = 11,
}

/// Why a primary declines one fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Decline {
    /// It was tried, and failed.
    Failed = 1,
    /// It is being made ready, which takes a while.
    NotYet = 2,
}

/// What a side says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// What it speaks.
    pub version: Version,
    /// That it has the secret.
    pub proof: Proof,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Replica: the first message.
    Hello(Greeting),
    /// Primary: good, the same of mine, and who I am.
    Accept {
        /// The primary's.
        greeting: Greeting,
        /// Random, made at its start: the same on all connections to it, by whatever address.
        server: ServerNumber,
    },
    /// Primary, and a replica once it is welcome: no, and why. The connection ends.
    Refuse {
        /// For programs.
        why: Refusal,
        /// For people.
        words: String,
    },
    /// Replica: who I am and what I have.
    Join(Join),
    /// Primary: what there is to follow.
    Welcome(Welcome),
    /// Replica: grant channels over this fabric.
    Choose {
        /// Which.
        fabric: Kind,
        /// How many, one for each puller.
        channels: u16,
    },
    /// Primary: connect to these. There may be fewer than were asked for.
    Grant {
        /// To the first puller's.
        first: Invitation,
        /// To those of the others, in their order.
        further: Vec<Invitation>,
    },
    /// The side that has connected the data channels: all are connected.
    Attached,
    /// Either, once a second.
    Heartbeat(Beat),
    /// Replica: connect to this inbox, and push.
    Invite(Invite),
    /// Primary: it could not grant that fabric, or connect to the inbox. The replica may choose
    /// another fabric.
    Declined {
        /// For programs.
        why: Decline,
        /// For people.
        words: String,
    },
    /// Replica: these shards, from now on. In place of earlier subscriptions to the same ones.
    Subscribe(Vec<Wanted>),
    /// Primary: they are subscribed to. Answers to Subscribe come in its order.
    Subscribed(Subscribed),
    /// Replica: it follows these shards here no longer.
    Unsubscribe(ShardSet),
    /// Heir: stop in these shards, for I am to be their primary. In place of Join.
    Seal(Seal),
    /// The other side: it has stopped, and has come so far.
    Sealed(Vec<SealedShard>),
    /// The other side: it does not stop. The connection ends.
    NotSealed(NotSealed),
    /// Heir: the term has begun. In these shards its log goes on from what the other side has.
    Begun(ShardSet),
    /// Heir: the term is not going to begin.
    GivenUp,
    /// Either, where one is a locator: what the cluster says (cluster/wire.rs), bytes here.
    Cluster(Vec<u8>),
    /// Whoever forwards requests of its clients: execute them. In place of Join.
    Forward,
    /// The other side: it does. From here on the connection carries the frames of
    /// [`crate::protocol::forward`].
    Forwarding,
    /// Of a kind that is not known here. From a side that has proved itself it is no error.
    Unknown(u8),
}

/// What a heartbeat tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// How far from the root the primary is, which may be a replica itself. A replica says zeroes.
    pub distance: Distance,
    /// The sender's clocks.
    pub stamp: Stamp,
    /// The servers through which the shards come that the replica subscribes to, as in
    /// [`Subscribed`]. A replica says none.
    pub path: Vec<ServerNumber>,
}

/// What a replica says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Random, made at its start: the same on all its connections.
    pub replica: [u8; 16],
    /// Its host, to see whether memory can be shared; zeroes if it cannot tell.
    pub host: [u8; 16],
    /// For people.
    pub name: String,
    /// Of its program.
    pub program_version: String,
}

/// What a primary says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// What the replica must have as well.
    pub geometry: Geometry,
    /// How much memory it has, to READ it by.
    pub memory: Memory,
    /// Of each shard's log.
    pub histories: Vec<History>,
    /// Its host.
    pub host: [u8; 16],
    /// The port where clients write, 0 for none; the host is the one that the replica has reached.
    pub client_port: u16,
    /// What it offers, in its own order of preference.
    pub fabrics: Vec<Kind>,
    /// Of its program.
    pub program_version: String,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A length beyond its bound.
    #[error("a message of {0} bytes, more than is allowed here")]
    TooLong(usize),
    /// Fewer bytes than its fields take, or a value that is none.
    #[error("a malformed message of kind {0}")]
    Malformed(u8),
    /// A Hello without the magic.
    #[error("the peer does not speak Remora's replication protocol")]
    Stranger,
    /// A greeting of another major version. What follows the number may be anything.
    #[error("the peer speaks version {0} of the replication protocol, this server version {ours}: upgrade the older one", ours = VERSION)]
    Major(u16),
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Message::Hello(_) => 1,
            Message::Accept { .. } => 2,
            Message::Refuse { .. } => 3,
            Message::Join(_) => 4,
            Message::Welcome(_) => 5,
            Message::Choose { .. } => 6,
            Message::Grant { .. } => 7,
            Message::Attached => 8,
            Message::Heartbeat(_) => 9,
            Message::Invite(_) => 10,
            Message::Declined { .. } => 11,
            Message::Subscribe(_) => 12,
            Message::Subscribed(_) => 13,
            Message::Unsubscribe(_) => 14,
            Message::Seal(_) => 15,
            Message::Sealed(_) => 16,
            Message::Begun(_) => 17,
            Message::GivenUp => 18,
            Message::NotSealed(_) => 19,
            Message::Forward => 20,
            Message::Forwarding => 21,
            Message::Cluster(_) => 22,
            Message::Unknown(kind) => *kind,
        }
    }

    /// For people.
    pub fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "Hello",
            Message::Accept { .. } => "Accept",
            Message::Refuse { .. } => "Refuse",
            Message::Join(_) => "Join",
            Message::Welcome(_) => "Welcome",
            Message::Choose { .. } => "Choose",
            Message::Grant { .. } => "Grant",
            Message::Attached => "Attached",
            Message::Heartbeat(_) => "Heartbeat",
            Message::Invite(_) => "Invite",
            Message::Declined { .. } => "Declined",
            Message::Subscribe(_) => "Subscribe",
            Message::Subscribed(_) => "Subscribed",
            Message::Unsubscribe(_) => "Unsubscribe",
            Message::Seal(_) => "Seal",
            Message::Sealed(_) => "Sealed",
            Message::NotSealed(_) => "NotSealed",
            Message::Begun(_) => "Begun",
            Message::GivenUp => "GivenUp",
            Message::Cluster(_) => "Cluster",
            Message::Forward => "Forward",
            Message::Forwarding => "Forwarding",
            Message::Unknown(_) => "something of an unknown kind",
        }
    }

    /// Append the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        out.push(self.kind());
        match self {
            Message::Hello(greeting) => {
                out.extend_from_slice(&MAGIC);
                put_greeting(out, greeting);
            }
            Message::Accept { greeting, server } => {
                put_greeting(out, greeting);
                out.extend_from_slice(server);
            }
            Message::Refuse { why, words } => {
                out.push(*why as u8);
                put_text(out, words);
            }
            Message::Join(join) => {
                out.extend_from_slice(&join.replica);
                out.extend_from_slice(&join.host);
                put_text(out, &join.name);
                put_text(out, &join.program_version);
            }
            Message::Welcome(welcome) => put_welcome(out, welcome),
            Message::Choose { fabric, channels } => {
                out.push(*fabric as u8);
                out.extend_from_slice(&channels.to_le_bytes());
            }
            Message::Grant { first, further } => {
                put_invitation(out, first);
                out.extend_from_slice(&(further.len() as u16).to_le_bytes());
                further.iter().for_each(|invitation| put_invitation(out, invitation));
            }
            Message::Attached | Message::GivenUp | Message::Forward | Message::Forwarding | Message::Unknown(_) => {}
            Message::Heartbeat(Beat { distance, stamp, path }) => {
                out.extend_from_slice(&distance.depth.to_le_bytes());
                for number in
                    [distance.lag_bytes, distance.lag_microseconds, stamp.wall, stamp.sent, stamp.echo, stamp.held]
                {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                subscribe::put_path(out, path);
            }
            Message::Invite(invite) => put_invite(out, invite),
            Message::Declined { why, words } => {
                out.push(*why as u8);
                put_text(out, words);
            }
            Message::Subscribe(wanted) => subscribe::put_wanted(out, wanted),
            Message::Subscribed(subscribed) => subscribe::put_subscribed(out, subscribed),
            Message::Unsubscribe(shards) | Message::Begun(shards) => subscribe::put_shards(out, *shards),
            Message::Seal(seal) => seal::put_seal(out, seal),
            Message::Sealed(sealed) => seal::put_sealed(out, sealed),
            Message::NotSealed(why) => seal::put_not_sealed(out, why),
            Message::Cluster(bytes) => {
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
            }
        }
        let length = (out.len() - begin - LENGTH_BYTES) as u32;
        out[begin..begin + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    }

    /// The first message in `bytes` and how many bytes it takes; None while it is not whole. Frames
    /// longer than `bytes_max` are refused as soon as their length is there.
    pub fn decode(bytes: &[u8], bytes_max: usize) -> Result<Option<(Message, usize)>, WireError> {
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > bytes_max {
            // Someone who speaks HTTP or memcached's protocol begins with letters.
            let text = bytes[..LENGTH_BYTES].iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
            return Err(if text { WireError::Stranger } else { WireError::TooLong(length) });
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        let (kind, fields) = frame.split_first().ok_or(WireError::Malformed(0))?;
        Ok(Some((read(*kind, Fields(fields))?, LENGTH_BYTES + length)))
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&(end as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

fn put_greeting(out: &mut Vec<u8>, greeting: &Greeting) {
    out.extend_from_slice(&greeting.version.to_bytes());
    out.extend_from_slice(&greeting.proof);
}

fn put_welcome(out: &mut Vec<u8>, welcome: &Welcome) {
    let (Geometry { shards, slab_bytes, record_bytes_max, evict }, memory) = (welcome.geometry, welcome.memory);
    for number in [shards, memory.slabs, memory.table_cells] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for number in [slab_bytes, record_bytes_max] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(evict.into());
    out.extend_from_slice(&welcome.host);
    out.extend_from_slice(&welcome.client_port.to_le_bytes());
    out.push(welcome.fabrics.len() as u8);
    out.extend(welcome.fabrics.iter().map(|kind| *kind as u8));
    welcome.histories.iter().for_each(|history| put_history(out, history));
    put_text(out, &welcome.program_version);
}

fn put_history(out: &mut Vec<u8>, history: &History) {
    let history = history.within(TERMS_TOLD_MAX);
    out.extend_from_slice(&history.origin().0.to_le_bytes());
    out.extend_from_slice(&(history.starts().len() as u16).to_le_bytes());
    for start in history.starts() {
        out.extend_from_slice(&start.term.0.to_le_bytes());
        out.extend_from_slice(&start.begins.to_le_bytes());
    }
}

fn put_invitation(out: &mut Vec<u8>, invitation: &Invitation) {
    put_text(out, &invitation.address);
    out.extend_from_slice(&invitation.token.0);
    put_descriptor(out, &invitation.ack);
    out.extend_from_slice(&(invitation.regions.len() as u32).to_le_bytes());
    invitation.regions.iter().for_each(|region| put_descriptor(out, region));
}

fn put_invite(out: &mut Vec<u8>, invite: &Invite) {
    out.push(invite.fabric as u8);
    out.extend_from_slice(&invite.window_bytes.to_le_bytes());
    out.extend_from_slice(&invite.pause_microseconds.to_le_bytes());
    put_invitation(out, &invite.invitation);
}

fn put_descriptor(out: &mut Vec<u8>, descriptor: &Descriptor) {
    for number in [descriptor.address, descriptor.key, descriptor.bytes] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

#[cfg(test)]
mod tests;
