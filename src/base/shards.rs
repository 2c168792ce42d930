//! A set of shards, by their numbers: what an order is about, what a replica follows at one
//! primary.
//!
//! As text it is numbers and ranges, from 0 on, both ends included: `0-127,200`.

use std::fmt;
use std::str::FromStr;

/// Shards of a store, at most.
pub const SHARDS_MAX: usize = 1024;

const WORDS: usize = SHARDS_MAX / 64;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardSet([u64; WORDS]);

/// Text that names no set of shards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" names no shards: write numbers and ranges below {SHARDS_MAX}, as in 0-127,200")]
pub struct BadShards(String);

impl ShardSet {
    /// The first `count` shards: all, of a store that has so many.
    pub fn all(count: usize) -> ShardSet {
        (0..count).collect()
    }

    /// This shard alone.
    pub fn one(shard: usize) -> ShardSet {
        [shard].into_iter().collect()
    }

    /// Whether the set has this shard.
    pub fn has(&self, shard: usize) -> bool {
        self.0.get(shard / 64).is_some_and(|word| word >> (shard % 64) & 1 == 1)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        let set = *self;
        (0..SHARDS_MAX).filter(move |shard| set.has(*shard))
    }

    /// The first one.
    pub fn first(&self) -> Option<usize> {
        self.iter().next()
    }

    /// The last one.
    pub fn last(&self) -> Option<usize> {
        (0..SHARDS_MAX).rev().find(|shard| self.has(*shard))
    }

    /// The set has this shard from now on.
    pub fn insert(&mut self, shard: usize) {
        self.0[shard / 64] |= 1 << (shard % 64);
    }

    /// The set has this shard no more.
    pub fn remove(&mut self, shard: usize) {
        self.0[shard / 64] &= !(1 << (shard % 64));
    }

    /// What is in either.
    #[must_use]
    pub fn with(self, other: ShardSet) -> ShardSet {
        self.merged(other, |one, other| one | other)
    }

    /// What is in this one and not in `other`.
    #[must_use]
    pub fn without(self, other: ShardSet) -> ShardSet {
        self.merged(other, |one, other| one & !other)
    }

    /// What is in both.
    #[must_use]
    pub fn within(self, other: ShardSet) -> ShardSet {
        self.merged(other, |one, other| one & other)
    }

    fn merged(self, other: ShardSet, merge: impl Fn(u64, u64) -> u64) -> ShardSet {
        ShardSet(std::array::from_fn(|at| merge(self.0[at], other.0[at])))
    }
}

impl FromIterator<usize> for ShardSet {
    /// Panics at a number that no store has.
    fn from_iter<T: IntoIterator<Item = usize>>(shards: T) -> ShardSet {
        let mut set = ShardSet::default();
        shards.into_iter().for_each(|shard| set.insert(shard));
        set
    }
}

impl FromStr for ShardSet {
    type Err = BadShards;

    fn from_str(text: &str) -> Result<ShardSet, BadShards> {
        let bad = || BadShards(text.chars().take(80).collect());
        let number = |text: &str| text.parse::<usize>().ok().filter(|shard| *shard < SHARDS_MAX).ok_or_else(bad);
        let mut set = ShardSet::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(bad());
            }
            (first..=last).for_each(|shard| set.insert(shard));
        }
        Ok(set)
    }
}

impl fmt::Display for ShardSet {
    /// As it is read; `none` for none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let (mut next, mut comma) = (0, "");
        while let Some(first) = (next..SHARDS_MAX).find(|shard| self.has(*shard)) {
            let end = (first..SHARDS_MAX).find(|shard| !self.has(*shard)).unwrap_or(SHARDS_MAX);
            match end - first {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", end - 1)?,
            }
            (next, comma) = (end, ",");
        }
        Ok(())
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_it_writes() {
        for text in ["0", "0-1", "0-127,200", "7,9,11-1023", "1023"] {
            assert_eq!(text.parse::<ShardSet>().unwrap().to_string(), text);
        }
        assert_eq!("5,3,4,4-5".parse::<ShardSet>().unwrap().to_string(), "3-5");
        assert_eq!(ShardSet::default().to_string(), "none");
    }

    #[test]
    fn text_that_names_no_shards_is_refused() {
        for text in ["", "none", "-", "3-", "-3", "5-3", "1024", "1,,2", "0x1", "1 2", "99999999999999999999999"] {
            assert!(text.parse::<ShardSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn sets_are_merged_word_by_word() {
        let (low, middle) = (ShardSet::all(700), "650-799".parse::<ShardSet>().unwrap());
        assert_eq!(low.with(middle), ShardSet::all(800));
        assert_eq!(low.without(middle).to_string(), "0-649");
        assert_eq!(low.within(middle).to_string(), "650-699");
        assert_eq!((middle.first(), middle.last(), middle.count()), (Some(650), Some(799), 150));
        assert!(!middle.has(5000) && middle.within(ShardSet::all(3)).is_empty());
    }
}
