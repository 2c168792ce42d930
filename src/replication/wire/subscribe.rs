//! Which shards a replica follows: said once its data channels are connected, again where its
//! history with one shard has ended, and where it follows one elsewhere. And what the primary
//! answers.

use super::read::{Fields, read_history};
use super::{PATH_MAX, put_history};
use crate::base::shards::ShardSet;
use crate::replication::ack::Tag;
use crate::replication::shares::PULLERS_MAX;
use crate::replication::standing::ServerNumber;
use crate::store::History;
use crate::store::sizing::SHARDS_MAX;

/// One shard that a replica subscribes to, and the puller that acknowledges it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    shard: u16,
    puller: u8,
}

impl Wanted {
    /// Shard `shard` by puller `puller`, which a slot has room for.
    pub fn new(shard: usize, puller: usize) -> Wanted {
        assert!(shard < SHARDS_MAX && puller < PULLERS_MAX, "no store has shard {shard}, or puller {puller}");
        Wanted { shard: shard as u16, puller: puller as u8 }
    }

    /// Which shard.
    pub fn shard(self) -> usize {
        self.shard.into()
    }

    /// The puller's number, which is that of its channel in Grant.
    pub fn puller(self) -> usize {
        self.puller.into()
    }
}

/// What a primary says of the shards that a replica has subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// The servers through which these shards come: the primary itself, the server that it follows
    /// with them, and so on.
    pub path: Vec<ServerNumber>,
    /// Of each shard, in the order of the subscription.
    pub shards: Vec<Told>,
}

/// The same of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Which.
    pub shard: usize,
    /// What positions of it are to say.
    pub tag: Tag,
    /// Its log's, as it was when the tag was given.
    pub history: History,
}

/// The fields of Subscribe.
pub(super) fn put_wanted(out: &mut Vec<u8>, wanted: &[Wanted]) {
    out.extend_from_slice(&(wanted.len() as u16).to_le_bytes());
    for one in wanted {
        out.extend_from_slice(&one.shard.to_le_bytes());
        out.push(one.puller);
    }
}

/// See [`put_wanted`]. Of a shard that is there twice the later one counts.
pub(super) fn read_wanted(fields: &mut Fields<'_>) -> Option<Vec<Wanted>> {
    let count = fields.u16().filter(|count| (1..=SHARDS_MAX).contains(&usize::from(*count)))?;
    let one = |_| {
        let shard = fields.u16().filter(|shard| usize::from(*shard) < SHARDS_MAX)?;
        Some(Wanted { shard, puller: fields.u8().filter(|puller| usize::from(*puller) < PULLERS_MAX)? })
    };
    (0..count).map(one).collect()
}

/// The fields of Subscribed.
pub(super) fn put_subscribed(out: &mut Vec<u8>, Subscribed { path, shards }: &Subscribed) {
    put_path(out, path);
    out.extend_from_slice(&(shards.len() as u16).to_le_bytes());
    for told in shards {
        out.extend_from_slice(&(told.shard as u16).to_le_bytes());
        out.extend_from_slice(&told.tag.number().to_le_bytes());
        put_history(out, &told.history);
    }
}

/// See [`put_subscribed`].
pub(super) fn read_subscribed(fields: &mut Fields<'_>) -> Option<Subscribed> {
    let path = read_path(fields)?;
    let count = fields.u16().filter(|count| usize::from(*count) <= SHARDS_MAX)?;
    let told = |_| {
        let shard = read_shard(fields)?;
        Some(Told { shard, tag: Tag::from_number(fields.u16()?)?, history: read_history(fields)? })
    };
    Some(Subscribed { path, shards: (0..count).map(told).collect::<Option<_>>()? })
}

/// The field of Unsubscribe.
pub(super) fn put_shards(out: &mut Vec<u8>, shards: ShardSet) {
    out.extend_from_slice(&(shards.count() as u16).to_le_bytes());
    shards.iter().for_each(|shard| out.extend_from_slice(&(shard as u16).to_le_bytes()));
}

/// See [`put_shards`].
pub(super) fn read_shards(fields: &mut Fields<'_>) -> Option<ShardSet> {
    let count = fields.u16().filter(|count| usize::from(*count) <= SHARDS_MAX)?;
    (0..count).map(|_| read_shard(fields)).collect()
}

pub(super) fn read_shard(fields: &mut Fields<'_>) -> Option<usize> {
    fields.u16().map(usize::from).filter(|shard| *shard < SHARDS_MAX)
}

/// Servers, the nearest first; of a path that is too long as many as may be told.
pub(super) fn put_path(out: &mut Vec<u8>, path: &[ServerNumber]) {
    let told = &path[..path.len().min(PATH_MAX)];
    out.push(told.len() as u8);
    told.iter().for_each(|server| out.extend_from_slice(server));
}

/// See [`put_path`].
pub(super) fn read_path(fields: &mut Fields<'_>) -> Option<Vec<ServerNumber>> {
    let count = fields.u8().filter(|count| usize::from(*count) <= PATH_MAX)?;
    (0..count).map(|_| fields.array()).collect()
}
