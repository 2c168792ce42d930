//! Which shards each of a replica's pullers has: its share. Pure.
//!
//! A share is a contiguous range, so the control lines of its shards lie together, and one READ
//! brings them. The replica divides the shards, and tells the primary when it subscribes to them.

use super::wire::Wanted;
use std::ops::Range;

/// Pullers of one replica, at most. Each has a thread and a data channel.
pub const PULLERS_MAX: usize = 16;

/// So many shards, shared by so many pullers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    shards: usize,
    pullers: usize,
}

impl Shares {
    /// Each puller has a shard at least, so there are no more pullers than shards.
    pub fn new(shards: usize, pullers: usize) -> Shares {
        assert!((1..=shards).contains(&pullers), "{pullers} pullers share {shards} shards");
        Shares { shards, pullers }
    }

    /// The share of one puller. Shares differ by one shard at most.
    pub fn of(self, puller: usize) -> Range<usize> {
        let begin = |puller: usize| puller * self.shards / self.pullers;
        begin(puller)..begin(puller + 1)
    }

    /// The puller that has this shard: the last one whose share begins at it or before it.
    pub fn owner(self, shard: usize) -> usize {
        ((shard + 1) * self.pullers - 1) / self.shards
    }

    /// The subscription to all shards, each by its puller.
    pub fn wanted(self) -> Vec<Wanted> {
        (0..self.shards).map(|shard| Wanted::new(shard, self.owner(shard))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_has_one_puller_and_each_puller_as_many_shards_but_for_one() {
        for shards in [1, 2, 3, 4, 8, 64, 100, 1024] {
            for pullers in 1..=PULLERS_MAX.min(shards) {
                let shares = Shares::new(shards, pullers);
                let all: Vec<usize> = (0..pullers).flat_map(|puller| shares.of(puller)).collect();
                assert_eq!(all, (0..shards).collect::<Vec<_>>(), "{shares:?}: in order, none twice, none left out");
                let lengths = (0..pullers).map(|puller| shares.of(puller).len());
                let (least, most) = (lengths.clone().min().unwrap(), lengths.max().unwrap());
                assert!(least >= 1 && most - least <= 1, "{shares:?}: {least} to {most}");
                for (shard, wanted) in shares.wanted().into_iter().enumerate() {
                    assert!(shares.of(shares.owner(shard)).contains(&shard), "{shares:?}, shard {shard}");
                    assert_eq!((wanted.shard(), wanted.puller()), (shard, shares.owner(shard)));
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "3 pullers share 2 shards")]
    fn a_puller_without_a_shard_is_a_bug() {
        let _ = Shares::new(2, 3);
    }
}
