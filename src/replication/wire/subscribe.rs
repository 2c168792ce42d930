//! Which shards a replica follows, said once its data channels are connected, and again where its
//! history with one shard has ended.

use super::read::Fields;
use crate::replication::ack::Tag;
use crate::replication::shares::PULLERS_MAX;
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

/// The field of Subscribed.
pub(super) fn read_tag(fields: &mut Fields<'_>) -> Option<Tag> {
    Tag::from_number(fields.u16()?)
}
