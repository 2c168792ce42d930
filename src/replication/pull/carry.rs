//! A record that is cut by the end of a piece: its first part is kept until the next piece brings
//! the rest.

use crate::sys::sync::{AtomicU64, Ordering::Relaxed};

/// See the module. Bounded by the largest record.
#[derive(Default)]
pub struct Carry {
    words: Vec<AtomicU64>,
    wanted_words: usize,
}

impl Carry {
    /// Is there a part of a record?
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// What is there.
    pub fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    /// As much is there as was wanted.
    pub fn is_complete(&self) -> bool {
        self.words.len() >= self.wanted_words
    }

    /// All bytes that were wanted are there, and the record was not applied yet.
    pub fn holds_record(&self) -> bool {
        !self.is_empty() && self.is_complete()
    }

    /// Want so many bytes, counted from the record's start. False if they are there already: then
    /// the record is broken.
    pub fn want(&mut self, bytes: usize) -> bool {
        self.wanted_words = bytes.div_ceil(8);
        self.wanted_words > self.words.len()
    }

    /// Take from the start of `words` what is still wanted; returns how many words were taken.
    pub fn take(&mut self, words: &[AtomicU64]) -> usize {
        let count = (self.wanted_words - self.words.len().min(self.wanted_words)).min(words.len());
        self.words.extend(words[..count].iter().map(|word| AtomicU64::new(word.load(Relaxed))));
        count
    }

    /// Forget it.
    pub fn clear(&mut self) {
        self.words.clear();
        self.wanted_words = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However much there is to take, and whatever is wanted next: no more is kept than was wanted,
    /// in the order in which it came.
    #[test]
    fn it_keeps_what_was_wanted_and_no_more() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..1000 {
            let (mut carry, mut next) = (Carry::default(), 0);
            let mut wanted_bytes = 0;
            while wanted_bytes < 2000 {
                wanted_bytes += random.usize(0..400);
                assert_eq!(carry.want(wanted_bytes), wanted_bytes > carry.words().len() * 8);
                while !carry.is_complete() {
                    let words: Vec<AtomicU64> = (next..next + random.u64(0..30)).map(AtomicU64::new).collect();
                    let taken = carry.take(&words);
                    next += taken as u64;
                    assert!(taken == words.len() || carry.is_complete());
                }
                assert_eq!(carry.words().len() * 8, wanted_bytes.next_multiple_of(8));
                assert!(carry.words().iter().map(|word| word.load(Relaxed)).eq(0..next));
            }
            carry.clear();
            assert!(carry.is_empty() && !carry.holds_record());
        }
    }
}
