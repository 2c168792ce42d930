//! A server that is about to be promoted, the *heir*, seals others: it tells them its term, and
//! they stop first. A connection on which it does says nothing else.

use super::read::Fields;
use super::subscribe::{put_shards, read_shard, read_shards};
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::replication::standing::ServerNumber;
use crate::store::sizing::SHARDS_MAX;

/// What an heir says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// It is to be the primary of these.
    pub shards: ShardSet,
    /// In this term.
    pub term: Term,
    /// Its number.
    pub heir: ServerNumber,
    /// The port where its clients write, 0 for none; the host is that of the connection.
    pub client_port: u16,
    /// Its replication port, 0 for none; the same host.
    pub replication_port: u16,
}

/// How far a server has come in a shard that is sealed: nothing is added to its log any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedShard {
    /// Which.
    pub shard: usize,
    /// The newest term that it knows of.
    pub term: Term,
    /// Everything below this position is here; 0 where there is nothing to go on from.
    pub position: u64,
    /// Nothing is missing below it.
    pub is_whole: bool,
}

/// The fields of Seal.
pub(super) fn put_seal(out: &mut Vec<u8>, seal: &Seal) {
    put_shards(out, seal.shards);
    out.extend_from_slice(&seal.term.0.to_le_bytes());
    out.extend_from_slice(&seal.heir);
    out.extend_from_slice(&seal.client_port.to_le_bytes());
    out.extend_from_slice(&seal.replication_port.to_le_bytes());
}

/// See [`put_seal`]. Of no shard, or in no term, it is none.
pub(super) fn read_seal(fields: &mut Fields<'_>) -> Option<Seal> {
    let shards = read_shards(fields).filter(|shards| !shards.is_empty())?;
    let term = fields.u64().map(Term).filter(|term| term.is_valid())?;
    let (heir, client_port) = (fields.array()?, fields.u16()?);
    Some(Seal { shards, term, heir, client_port, replication_port: fields.u16()? })
}

/// The fields of Sealed.
pub(super) fn put_sealed(out: &mut Vec<u8>, sealed: &[SealedShard]) {
    out.extend_from_slice(&(sealed.len() as u16).to_le_bytes());
    for one in sealed {
        out.extend_from_slice(&(one.shard as u16).to_le_bytes());
        out.extend_from_slice(&one.term.0.to_le_bytes());
        out.extend_from_slice(&one.position.to_le_bytes());
        out.push(one.is_whole.into());
    }
}

/// See [`put_sealed`].
pub(super) fn read_sealed(fields: &mut Fields<'_>) -> Option<Vec<SealedShard>> {
    let count = fields.u16().filter(|count| usize::from(*count) <= SHARDS_MAX)?;
    let one = |_| {
        let (shard, term, position) = (read_shard(fields)?, Term(fields.u64()?), fields.u64()?);
        Some(SealedShard { shard, term, position, is_whole: fields.u8().filter(|bit| *bit <= 1)? == 1 })
    };
    (0..count).map(one).collect()
}
