//! The CAS of an item that was given none: the stamp of its record's place, moved by an offset that
//! belongs to the term in which it was written.
//!
//! Without the offset an old CAS could fit by chance. A primary that dies may have written log that
//! no replica has, and told clients the places in it. Who is promoted writes something else to the
//! same places. So each term has an offset of its own, a multiple of [`OFFSET_BYTES`], which is
//! more than any log holds. It is made of the last six bits of the term's number and of its nonce:
//! terms of 64 numbers in a row have different ones. Two terms of one number, which two servers
//! have begun by mistake, have in 63 of 64 cases. The first term's is 0.
//!
//! An item keeps its CAS when a term begins, because the offset is that of the term in which it was
//! written: a hand-over changes no CAS. All servers that hold an item know that term, so they agree
//! on its CAS.
//!
//! ```text
//! a term as it is kept here, 64 bits:  nonce, bits 0..5 | number - 1, bits 6..11 | position where it begins / 8, bits 12..63
//! ```
//!
//! Written with the shard's lock held, read without it. Ordering: a term is here before the first
//! item of it is found, which is a release and an acquire (index). Terms that stay do not move, so
//! who looks while others are added or removed finds them.

use super::history::{History, TermStart};
use super::line::POSITION_MAX;
use super::seed::stamp;
use crate::base::term::Term;
use crate::sys::sync::{AtomicU64, Ordering::Relaxed};
use std::sync::OnceLock;

const NONCE_BITS: u32 = 6;
const INDEX_BITS: u32 = 12;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
/// From one offset to the next: 8 TiB.
const OFFSET_BYTES: u64 = POSITION_MAX >> INDEX_BITS;
const _: () = assert!(POSITION_MAX == OFFSET_BYTES << INDEX_BITS && POSITION_MAX / 8 <= 1 << (64 - INDEX_BITS));

/// Terms of a block: with the pointer to the next, two cache lines.
const BLOCK_TERMS: usize = 14;

/// The terms of a log that has items of them. See the module.
pub(super) struct CasTerms {
    /// The one that begins last; 0: none has begun.
    newest: AtomicU64,
    first: Block,
}

/// Terms in no order; 0: a free place.
struct Block {
    terms: [AtomicU64; BLOCK_TERMS],
    next: OnceLock<Box<Block>>,
}

/// Which of the offsets is the term's.
fn index(term: Term) -> u64 {
    let number = u64::from(term.number().wrapping_sub(1));
    let nonce = if number == 0 { 0 } else { term.nonce() & ((1 << NONCE_BITS) - 1) };
    (number << NONCE_BITS | nonce) & INDEX_MASK
}

fn pack(start: &TermStart) -> u64 {
    (start.begins / 8) << INDEX_BITS | index(start.term)
}

fn begins(packed: u64) -> u64 {
    (packed >> INDEX_BITS) * 8
}

impl Block {
    fn new() -> Block {
        Block { terms: std::array::from_fn(|_| AtomicU64::new(0)), next: OnceLock::new() }
    }
}

impl CasTerms {
    pub fn new() -> CasTerms {
        CasTerms { newest: AtomicU64::new(0), first: Block::new() }
    }

    /// The CAS of what stands at `position` of a shard's log.
    #[inline]
    pub fn cas(&self, shard: u32, position: u64) -> u64 {
        let newest = self.newest.load(Relaxed);
        let term = if begins(newest) <= position { newest } else { self.term_at(position) };
        let offset = (term & INDEX_MASK) * OFFSET_BYTES;
        stamp(shard, (position + offset) % POSITION_MAX)
    }

    /// The latest term that begins at or before `position`.
    #[cold]
    fn term_at(&self, position: u64) -> u64 {
        let terms = self.places().map(|place| place.load(Relaxed));
        terms.filter(|term| begins(*term) <= position).max().unwrap_or(0)
    }

    /// The log's terms are those of `history`. With the shard's lock held.
    pub fn set(&self, history: &History) {
        let terms: Vec<u64> = history.starts().iter().map(pack).collect();
        let mut known: Vec<u64> = self.places().map(|place| place.load(Relaxed)).collect();
        for term in terms.iter().filter(|term| !known.contains(term)) {
            self.free_place().store(*term, Relaxed);
        }
        self.newest.store(terms.last().copied().unwrap_or(0), Relaxed);
        known.retain(|term| !terms.contains(term));
        let is_over = |place: &&AtomicU64| known.contains(&place.load(Relaxed));
        self.places().filter(is_over).for_each(|place| place.store(0, Relaxed));
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        std::iter::successors(Some(&self.first), |block| block.next.get().map(Box::as_ref))
    }

    fn places(&self) -> impl Iterator<Item = &AtomicU64> {
        self.blocks().flat_map(|block| &block.terms)
    }

    fn free_place(&self) -> &AtomicU64 {
        let free = self.places().find(|place| place.load(Relaxed) == 0);
        free.unwrap_or_else(|| {
            let last = self.blocks().last().expect("there is a first block");
            &last.next.get_or_init(|| Box::new(Block::new())).terms[0]
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn terms(starts: impl IntoIterator<Item = (u32, u64)>) -> CasTerms {
        let terms = CasTerms::new();
        terms.set(&history(starts));
        terms
    }

    fn history(starts: impl IntoIterator<Item = (u32, u64)>) -> History {
        let start = |(number, begins)| TermStart { term: Term::of(number, 9), begins };
        History::new(Term::of(1, 9), starts.into_iter().map(start))
    }

    #[test]
    fn the_cas_of_a_first_term_is_the_stamp_of_the_place() {
        assert_eq!(terms([(1, 64)]).cas(3, 640), stamp(3, 640));
        assert_eq!(CasTerms::new().cas(3, 640), stamp(3, 640));
    }

    #[test]
    fn the_same_place_in_two_terms_gives_two_numbers() {
        let (one, other) = (terms([(1, 64)]), terms([(1, 64), (2, 640)]));
        assert_eq!(one.cas(0, 632), other.cas(0, 632), "what stood there before");
        assert_eq!(other.cas(0, 640), stamp(0, 640 + OFFSET_BYTES * (64 + 9)));
        let numbers = (1..=64).map(|number| terms([(number, 64)]).cas(0, 640));
        assert_eq!(numbers.collect::<std::collections::HashSet<_>>().len(), 64);
        let last = stamp(1023, POSITION_MAX - 8);
        assert_eq!(terms([(2, 64)]).cas(1023, OFFSET_BYTES * (4095 - 64 - 9 + 1) - 8), last, "no CAS is larger");
    }

    #[test]
    fn two_terms_of_one_number_are_told_apart_by_their_nonces() {
        let of = |nonce| {
            let terms = CasTerms::new();
            terms.set(&History::born(Term::of(6, nonce), 64));
            terms.cas(0, 640)
        };
        assert_eq!((1..=64).map(of).collect::<std::collections::HashSet<_>>().len(), 64);
        let born = |nonce| {
            let terms = CasTerms::new();
            terms.set(&History::born(Term::of(1, nonce), 64));
            terms.cas(0, 640)
        };
        assert_eq!((born(1), born(2)), (stamp(0, 640), stamp(0, 640)), "the first is as it was");
    }

    #[test]
    fn an_item_keeps_its_cas_however_many_terms_begin_and_are_forgotten() {
        let starts: Vec<(u32, u64)> = (1..100).map(|number| (number, u64::from(number) * 64)).collect();
        let terms = CasTerms::new();
        for known in 1..=starts.len() {
            let oldest = known.saturating_sub(40);
            terms.set(&history(starts[oldest..known].iter().copied()));
            for (number, begins) in &starts[oldest..known] {
                let offset = index(Term::of(*number, 9)) * OFFSET_BYTES;
                assert_eq!(terms.cas(5, begins + 8), stamp(5, begins + 8 + offset), "{number} of {known}");
            }
        }
        assert_eq!(terms.blocks().count(), 3, "places are used again");
    }

    #[test]
    fn of_two_terms_that_begin_at_one_place_the_later_counts() {
        let terms = terms([(1, 64), (2, 640), (3, 640), (4, 6400)]);
        assert_eq!(terms.cas(0, 640), stamp(0, 640 + index(Term::of(3, 9)) * OFFSET_BYTES));
    }

    #[test]
    fn a_log_that_is_over_has_no_terms() {
        let terms = terms([(1, 64), (2, 640)]);
        terms.set(&History::NONE);
        assert_eq!(terms.cas(0, 640), stamp(0, 640));
    }
}
