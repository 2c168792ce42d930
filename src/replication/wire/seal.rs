//! A server that is about to be promoted, the *heir*, seals others: it tells them its term, and
//! they stop first. A connection on which it does says nothing else.

use super::put_text;
use super::read::Fields;
use super::subscribe::{put_shards, read_shard, read_shards};
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::replication::standing::ServerNumber;
use crate::store::sizing::SHARDS_MAX;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What an heir says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// It is to be the primary of these.
    pub shards: ShardSet,
    /// In this term.
    pub term: Term,
    /// Its number.
    pub heir: ServerNumber,
    /// Where its clients write, if anywhere. An unspecified address means that of the connection.
    pub clients: Option<SocketAddr>,
    /// Its replication port, if it has one. The same.
    pub replication: Option<SocketAddr>,
}

/// Why a server does not stop for an heir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotSealed {
    /// The latest term that it knows of in any of these shards, or has stopped for there: it stops
    /// for later ones alone. None where it knows of none.
    pub known: Term,
    /// For people.
    pub words: String,
}

impl NotSealed {
    /// For a reason that has nothing to do with terms.
    pub fn now(words: &str) -> NotSealed {
        NotSealed { known: Term::NONE, words: words.into() }
    }
}

/// How far a server has come in a shard that is sealed: nothing is added to its log any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedShard {
    /// Which.
    pub shard: usize,
    /// The term of the end of its log. It may have been told of later ones.
    pub term: Term,
    /// Everything below this position is here; 0 where there is nothing to go on from.
    pub position: u64,
    /// Nothing is missing below it.
    pub is_whole: bool,
    /// It was the primary.
    pub was_primary: bool,
}

/// The fields of Seal.
pub(super) fn put_seal(out: &mut Vec<u8>, seal: &Seal) {
    put_shards(out, seal.shards);
    out.extend_from_slice(&seal.term.0.to_le_bytes());
    out.extend_from_slice(&seal.heir);
    put_address(out, seal.clients);
    put_address(out, seal.replication);
}

/// See [`put_seal`]. Of no shard, in no term, or at an address that is no host's, it is none.
pub(super) fn read_seal(fields: &mut Fields<'_>) -> Option<Seal> {
    let shards = read_shards(fields).filter(|shards| !shards.is_empty())?;
    let term = fields.u64().map(Term).filter(|term| term.is_valid())?;
    let (heir, clients) = (fields.array()?, read_address(fields)?);
    Some(Seal { shards, term, heir, clients, replication: read_address(fields)? })
}

/// An address as one of IPv6, and the port. An address that means something on its own host alone
/// (of a link) is told as unspecified.
fn put_address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    let of_link = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let told = address.map(|address| address.ip()).filter(|ip| !ip.is_unspecified() && !of_link(*ip));
    let octets = match told {
        None => [0; 16],
        Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(ip)) => ip.octets(),
    };
    out.extend_from_slice(&octets);
    out.extend_from_slice(&address.map_or(0, |address| address.port()).to_le_bytes());
}

/// See [`put_address`]: port 0 is no address. The outer None: no host has it.
fn read_address(fields: &mut Fields<'_>) -> Option<Option<SocketAddr>> {
    let (told, port) = (Ipv6Addr::from(fields.array::<16>()?).to_canonical(), fields.u16()?);
    // One unspecified address, whichever was told: that of IPv4 may come as well.
    let ip = if told.is_unspecified() { Ipv6Addr::UNSPECIFIED.into() } else { told };
    let is_of_host = match ip {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unicast_link_local(),
    };
    is_of_host.then(|| Some(SocketAddr::new(ip, port)).filter(|_| port != 0))
}

/// The fields of NotSealed.
pub(super) fn put_not_sealed(out: &mut Vec<u8>, NotSealed { known, words }: &NotSealed) {
    out.extend_from_slice(&known.0.to_le_bytes());
    put_text(out, words);
}

/// See [`put_not_sealed`]. What is no term is none.
pub(super) fn read_not_sealed(fields: &mut Fields<'_>) -> Option<NotSealed> {
    let known = Some(Term(fields.u64()?)).filter(|term| term.is_valid()).unwrap_or(Term::NONE);
    Some(NotSealed { known, words: fields.text()? })
}

/// The fields of Sealed.
pub(super) fn put_sealed(out: &mut Vec<u8>, sealed: &[SealedShard]) {
    out.extend_from_slice(&(sealed.len() as u16).to_le_bytes());
    for one in sealed {
        out.extend_from_slice(&(one.shard as u16).to_le_bytes());
        out.extend_from_slice(&one.term.0.to_le_bytes());
        out.extend_from_slice(&one.position.to_le_bytes());
        out.push(u8::from(one.is_whole) | u8::from(one.was_primary) << 1);
    }
}

/// See [`put_sealed`].
pub(super) fn read_sealed(fields: &mut Fields<'_>) -> Option<Vec<SealedShard>> {
    let count = fields.u16().filter(|count| usize::from(*count) <= SHARDS_MAX)?;
    let one = |_| {
        let (shard, term, position) = (read_shard(fields)?, Term(fields.u64()?), fields.u64()?);
        let bits = fields.u8().filter(|bits| *bits <= 3)?;
        Some(SealedShard { shard, term, position, is_whole: bits & 1 != 0, was_primary: bits & 2 != 0 })
    };
    (0..count).map(one).collect()
}
