//! Messages from bytes. Each length is checked against what is there and against its bound before
//! it is used.

use super::seal::{read_not_sealed, read_seal, read_sealed};
use super::subscribe::{read_path, read_shards, read_subscribed, read_wanted};
use super::{
    Beat, Decline, Greeting, Join, MAGIC, Message, REGIONS_MAX, Refusal, TERMS_TOLD_MAX, TEXT_BYTES_MAX, VERSION,
    Version, Welcome, WireError,
};
use crate::base::term::Term;
use crate::fabric::{Descriptor, Invitation, Kind, Token};
use crate::replication::clock::Stamp;
use crate::replication::push::Invite;
use crate::replication::shares::PULLERS_MAX;
use crate::replication::standing::Distance;
use crate::store::sizing::SHARDS_MAX;
use crate::store::{Geometry, History, Memory, TermStart};

/// The kinds that say a version.
const HELLO: u8 = 1;
/// See [`HELLO`].
const ACCEPT: u8 = 2;

/// What is left of a frame.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Text that can be shown: no control characters.
    pub fn text(&mut self) -> Option<String> {
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

/// The message of this kind with these fields. Bytes behind the fields that are known are left out.
pub(super) fn read(kind: u8, mut fields: Fields<'_>) -> Result<Message, WireError> {
    if kind == HELLO && fields.array() != Some(MAGIC) {
        return Err(WireError::Stranger);
    }
    if [HELLO, ACCEPT].contains(&kind) {
        let major = Fields(fields.0).u16().filter(|major| *major != VERSION.major);
        major.map_or(Ok(()), |major| Err(WireError::Major(major)))?;
    }
    message(kind, &mut fields).ok_or(WireError::Malformed(kind))
}

fn message(kind: u8, fields: &mut Fields<'_>) -> Option<Message> {
    Some(match kind {
        HELLO => Message::Hello(read_greeting(fields)?),
        ACCEPT => Message::Accept { greeting: read_greeting(fields)?, server: fields.array()? },
        3 => Message::Refuse { why: refusal(fields.u8()?)?, words: fields.text()? },
        4 => {
            let (replica, host, name) = (fields.array()?, fields.array()?, fields.text()?);
            Message::Join(Join { replica, host, name, program_version: fields.text()? })
        }
        5 => Message::Welcome(read_welcome(fields)?),
        6 => Message::Choose { fabric: fields.kind()?, channels: fields.u16()? },
        7 => Message::Grant { first: read_invitation(fields)?, further: read_further(fields)? },
        8 => Message::Attached,
        9 => {
            let (depth, lag_bytes, lag_microseconds) = (fields.u32()?, fields.u64()?, fields.u64()?);
            let distance = Distance { depth, lag_bytes, lag_microseconds };
            let stamp = Stamp { wall: fields.u64()?, sent: fields.u64()?, echo: fields.u64()?, held: fields.u64()? };
            Message::Heartbeat(Beat { distance, stamp, path: read_path(fields)? })
        }
        10 => Message::Invite(read_invite(fields)?),
        11 => Message::Declined { why: decline(fields.u8()?)?, words: fields.text()? },
        12 => Message::Subscribe(read_wanted(fields)?),
        13 => Message::Subscribed(read_subscribed(fields)?),
        14 => Message::Unsubscribe(read_shards(fields)?),
        15 => Message::Seal(read_seal(fields)?),
        16 => Message::Sealed(read_sealed(fields)?),
        17 => Message::Begun(read_shards(fields)?),
        18 => Message::GivenUp,
        19 => Message::NotSealed(read_not_sealed(fields)?),
        20 => Message::Forward,
        21 => Message::Forwarding,
        22 => {
            let length = fields.u32()? as usize;
            Message::Cluster(fields.take(length)?.to_vec())
        }
        unknown => Message::Unknown(unknown),
    })
}

fn read_greeting(fields: &mut Fields<'_>) -> Option<Greeting> {
    let version = Version { major: fields.u16()?, minor: fields.u16()? };
    Some(Greeting { version, proof: fields.array()? })
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
    let histories = (0..shards).map(|_| read_history(fields)).collect::<Option<_>>()?;
    let program_version = fields.text()?;
    Some(Welcome { geometry, memory, histories, host, client_port, fabrics, program_version })
}

pub(super) fn read_history(fields: &mut Fields<'_>) -> Option<History> {
    let origin = Term(fields.u64()?);
    let count = fields.u16().filter(|count| usize::from(*count) <= TERMS_TOLD_MAX)?;
    let start = |_| Some(TermStart { term: Term(fields.u64()?), begins: fields.u64()? });
    Some(History::new(origin, (0..count).map(start).collect::<Option<Vec<_>>>()?))
}

fn read_invitation(fields: &mut Fields<'_>) -> Option<Invitation> {
    let (address, token) = (fields.text()?, Token(fields.array()?));
    let ack = fields.descriptor()?;
    let count = fields.u32().filter(|count| *count as usize <= REGIONS_MAX)?;
    let regions = (0..count).map(|_| fields.descriptor()).collect::<Option<_>>()?;
    Some(Invitation { address, token, regions, ack })
}

/// The invitations behind the first one.
fn read_further(fields: &mut Fields<'_>) -> Option<Vec<Invitation>> {
    let count = fields.u16().filter(|count| usize::from(*count) < PULLERS_MAX)?;
    (0..count).map(|_| read_invitation(fields)).collect()
}

fn read_invite(fields: &mut Fields<'_>) -> Option<Invite> {
    let (fabric, window_bytes, pause_microseconds) = (fields.kind()?, fields.u64()?, fields.u32()?);
    Some(Invite { fabric, window_bytes, pause_microseconds, invitation: read_invitation(fields)? })
}
