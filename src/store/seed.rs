//! Which place of which log: a number that no two records share. A record's checksum is bound to
//! it, and an item's CAS is made from it ([`super::cas`]).
//!
//! ```text
//! bits   0          7 .. 61                    62     64
//!        | shard's low bits | position's bits  | log  |
//! ```
//!
//! Positions are multiples of 8. Shifted by seven, their low ten bits are free for the shard's
//! number.
//!
//! A shard has one log, number 0; the two bits leave room for more. Clients see the stamps of the
//! log that they write to alone, because whoever moves an item to another place keeps its CAS. So a
//! CAS stays below 2^62, which also who takes it for a signed number reads right.

use super::line::{BIRTH, POSITION_MAX};
use super::sizing::SHARDS_MAX;
use crate::base::term::Term;

const SHARD_BITS_ADDED: u32 = 7;
const LOG_SHIFT: u32 = 62;
const _: () = assert!(SHARDS_MAX <= 1 << (SHARD_BITS_ADDED + 3) && POSITION_MAX <= 1 << (LOG_SHIFT - SHARD_BITS_ADDED));
const _: () = assert!(BIRTH > 0);

/// The log that all records of a shard are in.
const ONLY_LOG: u64 = 0;

/// The number of a position of a shard: unique over all shards of a store.
#[inline]
pub fn stamp(shard: u32, position: u64) -> u64 {
    stamp_in(ONLY_LOG, shard, position)
}

#[inline]
fn stamp_in(log: u64, shard: u32, position: u64) -> u64 {
    log << LOG_SHIFT | position << SHARD_BITS_ADDED | u64::from(shard)
}

/// What a record's checksum is bound to: where the record stands, and in whose history.
///
/// The shard is part of it, because slabs wander between shards, whose positions advance alike:
/// another shard's stale bytes must not prove themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    pub(super) stamp: u64,
    pub(super) term: Term,
}

impl Seed {
    /// Of the record at `position` of a shard's log, in `term`.
    #[inline]
    pub fn of(shard: u32, position: u64, term: Term) -> Seed {
        Seed { stamp: stamp(shard, position), term }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::record::{Draft, Kind, Meta, Source};
    use std::sync::atomic::AtomicU64;

    /// As many as its bits can number.
    const LOGS: [u64; 4] = [0, 1, 2, 3];

    #[test]
    fn no_two_places_have_the_same_stamp() {
        let shards = [0, 1, 7, SHARDS_MAX as u32 - 1];
        let positions = [BIRTH, 72, 1 << 32, (1 << 39) + 8, POSITION_MAX - 8];
        let of_log = |log| shards.map(|shard| positions.map(|at| stamp_in(log, shard, at)));
        let mut stamps: Vec<u64> = LOGS.into_iter().flat_map(of_log).flatten().collect();
        assert!(stamps.iter().all(|stamp| *stamp != 0));
        stamps.sort_unstable();
        stamps.dedup();
        assert_eq!(stamps.len(), LOGS.len() * shards.len() * positions.len());
    }

    #[test]
    fn a_cas_is_small_enough_for_a_signed_number() {
        assert!(stamp(SHARDS_MAX as u32 - 1, POSITION_MAX - 8) < 1 << 62);
    }

    #[test]
    fn a_record_does_not_prove_itself_in_another_log() {
        let term = Term::of(1, 7);
        let seeds = LOGS.map(|log| Seed { stamp: stamp_in(log, 3, 640), term });
        let draft = Draft::new(Kind::Set, b"key", Meta::default(), 0, None, Source::Bytes(b"value"));
        for seed in seeds {
            let words: Vec<AtomicU64> = (0..draft.record_bytes() / 8).map(|_| AtomicU64::new(0)).collect();
            let record = draft.write(&words, seed);
            let proven: Vec<Seed> = seeds.into_iter().filter(|seed| record.proves_itself(*seed)).collect();
            assert_eq!(proven, [seed]);
        }
    }
}
