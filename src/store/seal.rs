//! Which place of which log: a number that no two records share. It is an item's CAS, and what a
//! record's checksum is bound to.
//!
//! ```text
//! bits   0          7 .. 62                    63
//!        | shard's low bits | position's bits  | 0, kept for a second log
//! ```
//!
//! Positions are multiples of 8. Shifted by seven, their low ten bits are free for the shard's
//! number.

use super::line::POSITION_MAX;
use super::sizing::SHARDS_MAX;
use crate::base::epoch::Epoch;

const SHARD_BITS_ADDED: u32 = 7;
const _: () = assert!(SHARDS_MAX <= 1 << (SHARD_BITS_ADDED + 3) && POSITION_MAX.leading_zeros() >= SHARD_BITS_ADDED);

/// The number of a position of a shard: unique over all shards of a store.
#[inline]
pub fn stamp(shard: u32, position: u64) -> u64 {
    position << SHARD_BITS_ADDED | u64::from(shard)
}

/// What a record's checksum is bound to: where the record stands, and in whose history.
///
/// The shard is part of it, because slabs wander between shards, whose positions advance alike:
/// another shard's stale bytes must not prove themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    pub(super) stamp: u64,
    pub(super) epoch: Epoch,
}

impl Seal {
    /// Of the record at `position` of a shard's log, in `epoch`.
    #[inline]
    pub fn of(shard: u32, position: u64, epoch: Epoch) -> Seal {
        Seal { stamp: stamp(shard, position), epoch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_places_have_the_same_stamp() {
        let shards = [0, 1, 7, SHARDS_MAX as u32 - 1];
        let positions = [64, 72, 1 << 32, (1 << 39) + 8, POSITION_MAX - 8];
        let mut stamps: Vec<u64> = shards.iter().flat_map(|shard| positions.map(|at| stamp(*shard, at))).collect();
        assert!(stamps.iter().all(|stamp| *stamp != 0 && *stamp >> 63 == 0));
        stamps.sort_unstable();
        stamps.dedup();
        assert_eq!(stamps.len(), shards.len() * positions.len());
    }
}
