//! The control connection's messages, as bytes and back. Pure. Nothing that a peer sends is
//! trusted: each length is checked against what has arrived and against a bound before it is used.
//! docs/FORMATS.md draws the messages.
//!
//! ```text
//! frame:  length 4 (of what follows) | kind 1 | fields ...
//! ```

use super::clock::Stamp;
use super::push::Invite;
use super::standing::Distance;
use crate::base::epoch::Epoch;
use crate::fabric::{Descriptor, Invitation, Kind, Token};
use crate::store::sizing::SHARDS_MAX;
use crate::store::{EPOCHS_MAX, EpochStart, Geometry, Memory};

/// The protocol spoken here. It grows with every change that an older side would misunderstand.
pub const VERSION: u16 = 5;
/// Every connection begins with these bytes, so that a stray client is not taken for a replica of
/// another version.
pub const MAGIC: [u8; 8] = *b"remora\r\n";
/// Bytes before a frame's kind.
pub const LENGTH_BYTES: usize = 4;
/// Longest frame while the peer has not proved itself.
pub const STRANGER_FRAME_BYTES_MAX: usize = 512;
/// Longest frame: a Welcome that tells where 64 epochs began in each of 1,024 shards is half of it.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Regions of one grant: a store has three.
pub const REGIONS_MAX: usize = 64;
/// Longest text in a message.
const TEXT_BYTES_MAX: usize = 400;

/// Bytes of a nonce, of a proof.
pub const NONCE_BYTES: usize = 32;

/// A random number, used once.
pub type Nonce = [u8; NONCE_BYTES];
/// Computed from two nonces and the secret; nobody can compute it without the secret.
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

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Replica: the first message.
    Hello {
        /// Of the replica's protocol.
        version: u16,
        /// The replica's.
        nonce: Nonce,
    },
    /// Primary: prove that you have the secret.
    Challenge {
        /// The primary's.
        nonce: Nonce,
    },
    /// Replica: here is my proof.
    Prove {
        /// Over both nonces.
        proof: Proof,
    },
    /// Primary: good, and here is mine.
    Accept {
        /// Over both nonces.
        proof: Proof,
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
    /// Replica: grant a channel over this fabric.
    Choose(Kind),
    /// Primary: connect to this.
    Grant(Invitation),
    /// The side that has connected the data channel: it is connected.
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
}

/// What a heartbeat tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// How far from the root the primary is, which may be a replica itself. A replica says zeroes.
    pub distance: Distance,
    /// The sender's clocks.
    pub stamp: Stamp,
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
}

/// What a primary says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// What the replica must have as well.
    pub geometry: Geometry,
    /// How much memory it has, to READ it by.
    pub memory: Memory,
    /// Its epochs, the oldest first.
    pub epochs: Vec<EpochStart>,
    /// Its host.
    pub host: [u8; 16],
    /// The port where clients write, 0 for none; the host is the one that the replica has reached.
    pub client_port: u16,
    /// What it offers, in its own order of preference.
    pub fabrics: Vec<Kind>,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A length beyond its bound.
    #[error("a message of {0} bytes, more than is allowed here")]
    TooLong(usize),
    /// Fewer or more bytes than its fields take, or a value that is none.
    #[error("a malformed message of kind {0}")]
    Malformed(u8),
    /// A Hello without the magic.
    #[error("the peer does not speak Remora's replication protocol")]
    Stranger,
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Message::Hello { .. } => 1,
            Message::Challenge { .. } => 2,
            Message::Prove { .. } => 3,
            Message::Accept { .. } => 4,
            Message::Refuse { .. } => 5,
            Message::Join(_) => 6,
            Message::Welcome(_) => 7,
            Message::Choose(_) => 8,
            Message::Grant(_) => 9,
            Message::Attached => 10,
            Message::Heartbeat(_) => 11,
            Message::Invite(_) => 12,
            Message::Declined { .. } => 13,
        }
    }

    /// For people.
    pub fn name(&self) -> &'static str {
        match self {
            Message::Hello { .. } => "Hello",
            Message::Challenge { .. } => "Challenge",
            Message::Prove { .. } => "Prove",
            Message::Accept { .. } => "Accept",
            Message::Refuse { .. } => "Refuse",
            Message::Join(_) => "Join",
            Message::Welcome(_) => "Welcome",
            Message::Choose(_) => "Choose",
            Message::Grant(_) => "Grant",
            Message::Attached => "Attached",
            Message::Heartbeat(_) => "Heartbeat",
            Message::Invite(_) => "Invite",
            Message::Declined { .. } => "Declined",
        }
    }

    /// Append the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        out.push(self.kind());
        match self {
            Message::Hello { version, nonce } => {
                out.extend_from_slice(&MAGIC);
                out.extend_from_slice(&version.to_le_bytes());
                out.extend_from_slice(nonce);
            }
            Message::Challenge { nonce } => out.extend_from_slice(nonce),
            Message::Prove { proof } | Message::Accept { proof } => out.extend_from_slice(proof),
            Message::Refuse { why, words } => {
                out.push(*why as u8);
                put_text(out, words);
            }
            Message::Join(join) => {
                out.extend_from_slice(&join.replica);
                out.extend_from_slice(&join.host);
                put_text(out, &join.name);
            }
            Message::Welcome(welcome) => put_welcome(out, welcome),
            Message::Choose(fabric) => out.push(*fabric as u8),
            Message::Grant(invitation) => put_invitation(out, invitation),
            Message::Attached => {}
            Message::Heartbeat(Beat { distance, stamp }) => {
                out.extend_from_slice(&distance.depth.to_le_bytes());
                for number in
                    [distance.lag_bytes, distance.lag_microseconds, stamp.wall, stamp.sent, stamp.echo, stamp.held]
                {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
            Message::Invite(invite) => put_invite(out, invite),
            Message::Declined { why, words } => {
                out.push(*why as u8);
                put_text(out, words);
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
        let mut fields = Fields(fields);
        let message = read(*kind, &mut fields).ok_or(if *kind == 1 {
            WireError::Stranger
        } else {
            WireError::Malformed(*kind)
        })?;
        if !fields.0.is_empty() {
            return Err(WireError::Malformed(*kind));
        }
        Ok(Some((message, LENGTH_BYTES + length)))
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
    let first = welcome.epochs.len().saturating_sub(EPOCHS_MAX);
    let epochs = &welcome.epochs[first..];
    out.push(epochs.len() as u8);
    for start in epochs {
        out.extend_from_slice(&start.epoch.0.to_le_bytes());
        start.begins.iter().for_each(|begin| out.extend_from_slice(&begin.to_le_bytes()));
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

/// What is left of a frame.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Text that can be shown: no control characters.
    fn text(&mut self) -> Option<String> {
        let length = usize::from(self.u16()?);
        let bytes = self.take(length).filter(|_| length <= TEXT_BYTES_MAX)?;
        let text = std::str::from_utf8(bytes).ok()?;
        Some(text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect())
    }

    fn kind(&mut self) -> Option<Kind> {
        Kind::from_number(self.u8()?)
    }

    fn descriptor(&mut self) -> Option<Descriptor> {
        Some(Descriptor { address: self.u64()?, key: self.u64()?, bytes: self.u64()? })
    }
}

fn read(kind: u8, fields: &mut Fields<'_>) -> Option<Message> {
    Some(match kind {
        1 => {
            fields.array().filter(|magic| *magic == MAGIC)?;
            Message::Hello { version: fields.u16()?, nonce: fields.array()? }
        }
        2 => Message::Challenge { nonce: fields.array()? },
        3 => Message::Prove { proof: fields.array()? },
        4 => Message::Accept { proof: fields.array()? },
        5 => Message::Refuse { why: refusal(fields.u8()?)?, words: fields.text()? },
        6 => Message::Join(Join { replica: fields.array()?, host: fields.array()?, name: fields.text()? }),
        7 => Message::Welcome(read_welcome(fields)?),
        8 => Message::Choose(fields.kind()?),
        9 => Message::Grant(read_invitation(fields)?),
        10 => Message::Attached,
        11 => {
            let (depth, lag_bytes, lag_microseconds) = (fields.u32()?, fields.u64()?, fields.u64()?);
            let distance = Distance { depth, lag_bytes, lag_microseconds };
            let stamp = Stamp { wall: fields.u64()?, sent: fields.u64()?, echo: fields.u64()?, held: fields.u64()? };
            Message::Heartbeat(Beat { distance, stamp })
        }
        12 => Message::Invite(read_invite(fields)?),
        13 => Message::Declined { why: decline(fields.u8()?)?, words: fields.text()? },
        _ => return None,
    })
}

fn refusal(number: u8) -> Option<Refusal> {
    use Refusal::*;
    [Version, Secret, Busy, Fabric, Protocol, Replaced, Ending, Circle, Unfit, Channel, Leaves]
        .into_iter()
        .find(|why| *why as u8 == number)
}

fn decline(number: u8) -> Option<Decline> {
    [Decline::Failed, Decline::NotYet].into_iter().find(|why| *why as u8 == number)
}

fn read_welcome(fields: &mut Fields<'_>) -> Option<Welcome> {
    let shards = fields.u32().filter(|shards| (1..=SHARDS_MAX as u32).contains(shards))?;
    let memory = Memory { slabs: fields.u32()?, table_cells: fields.u32()? };
    let (slab_bytes, record_bytes_max) = (fields.u64()?, fields.u64()?);
    let evict = fields.u8().filter(|evict| *evict <= 1)? == 1;
    let geometry = Geometry { shards, slab_bytes, record_bytes_max, evict };
    let (host, client_port) = (fields.array()?, fields.u16()?);
    let fabrics = (0..fields.u8()?).map(|_| fields.kind()).collect::<Option<_>>()?;
    let count = fields.u8().filter(|count| (1..=EPOCHS_MAX).contains(&usize::from(*count)))?;
    let start = |_| {
        let epoch = Epoch(fields.u64()?);
        let begins = (0..shards).map(|_| fields.u64()).collect::<Option<_>>()?;
        Some(EpochStart { epoch, begins })
    };
    let epochs = (0..count).map(start).collect::<Option<_>>()?;
    Some(Welcome { geometry, memory, epochs, host, client_port, fabrics })
}

fn read_invitation(fields: &mut Fields<'_>) -> Option<Invitation> {
    let (address, token) = (fields.text()?, Token(fields.array()?));
    let ack = fields.descriptor()?;
    let count = fields.u32().filter(|count| *count as usize <= REGIONS_MAX)?;
    let regions = (0..count).map(|_| fields.descriptor()).collect::<Option<_>>()?;
    Some(Invitation { address, token, regions, ack })
}

fn read_invite(fields: &mut Fields<'_>) -> Option<Invite> {
    let (fabric, window_bytes, pause_microseconds) = (fields.kind()?, fields.u64()?, fields.u32()?);
    Some(Invite { fabric, window_bytes, pause_microseconds, invitation: read_invitation(fields)? })
}

#[cfg(test)]
mod tests;
