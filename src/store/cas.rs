//! The CAS of an item that was given none: the stamp of its record's place, moved by an offset that
//! belongs to the term in which it was written.
//!
//! Without the offset an old CAS could fit by chance. A primary that dies may have written log that
//! no replica has, and told clients the places in it. Who is promoted writes something else to the
//! same places. So each term's offset is [`OFFSET_BYTES`] above that of the number before, more
//! than any log holds: places of two terms never give the same CAS. Offsets come again after 4,096
//! terms.
//!
//! An item keeps its CAS when a term begins, because the offset is that of the term in which it was
//! written: a hand-over changes no CAS. All servers that hold an item know that term, so they agree
//! on its CAS.
//!
//! ```text
//! a term as it is kept here, 64 bits:  number - 1, bits 0..11 | position where it begins / 8, bits 12..63
//! ```
//!
//! Written with the shard's lock held, read without it. Ordering: a term is here before the first
//! item of it is found, which is a release and an acquire (index). Terms that stay do not move, so
//! who looks while others are added or removed finds them.

use super::history::History;
use super::line::POSITION_MAX;
use super::seed::stamp;
use crate::sys::sync::{AtomicU64, Ordering::Relaxed};
use std::sync::OnceLock;

const NUMBER_BITS: u32 = 12;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;
/// How far the offset of a term is above that of the number before: 8 TiB.
const OFFSET_BYTES: u64 = POSITION_MAX >> NUMBER_BITS;
const _: () = assert!(POSITION_MAX == OFFSET_BYTES << NUMBER_BITS && POSITION_MAX / 8 <= 1 << (64 - NUMBER_BITS));

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

fn pack(number: u32, begins: u64) -> u64 {
    (begins / 8) << NUMBER_BITS | u64::from(number.wrapping_sub(1)) & NUMBER_MASK
}

fn begins(packed: u64) -> u64 {
    (packed >> NUMBER_BITS) * 8
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
        let offset = (term & NUMBER_MASK) * OFFSET_BYTES;
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
        let terms: Vec<u64> = history.starts().iter().map(|start| pack(start.term.number(), start.begins)).collect();
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
    use crate::base::term::Term;
    use crate::store::history::TermStart;

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
        assert_eq!(other.cas(0, 640), stamp(0, 640 + OFFSET_BYTES));
        assert_eq!(terms([(4096, 64)]).cas(0, 640), stamp(0, 640 + 4095 * OFFSET_BYTES));
        let last = stamp(1023, POSITION_MAX - 8);
        assert_eq!(terms([(2, 64)]).cas(1023, OFFSET_BYTES * 4095 - 8), last, "no CAS is larger");
        assert_eq!(terms([(4096, 64)]).cas(0, OFFSET_BYTES + 64), stamp(0, 64), "offsets come again");
    }

    #[test]
    fn an_item_keeps_its_cas_however_many_terms_begin_and_are_forgotten() {
        let starts: Vec<(u32, u64)> = (1..100).map(|number| (number, u64::from(number) * 64)).collect();
        let terms = CasTerms::new();
        for known in 1..=starts.len() {
            let oldest = known.saturating_sub(40);
            terms.set(&history(starts[oldest..known].iter().copied()));
            for (number, begins) in &starts[oldest..known] {
                let offset = u64::from(number - 1) * OFFSET_BYTES;
                assert_eq!(terms.cas(5, begins + 8), stamp(5, begins + 8 + offset), "{number} of {known}");
            }
        }
        assert_eq!(terms.blocks().count(), 3, "places are used again");
    }

    #[test]
    fn of_two_terms_that_begin_at_one_place_the_later_counts() {
        let terms = terms([(1, 64), (2, 640), (3, 640), (4, 6400)]);
        assert_eq!(terms.cas(0, 640), stamp(0, 640 + 2 * OFFSET_BYTES));
    }

    #[test]
    fn a_log_that_is_over_has_no_terms() {
        let terms = terms([(1, 64), (2, 640)]);
        terms.set(&History::NONE);
        assert_eq!(terms.cas(0, 640), stamp(0, 640));
    }
}
