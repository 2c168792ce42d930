//! Which history a log belongs to. Every store that is born begins a lineage of its own, at random;
//! every promotion of a replica begins a later generation of the lineage.
//!
//! ```text
//! bits   0            24                64
//!        | generation | lineage, never 0 |
//! ```
//!
//! The checksum of each record is seeded with its term (store/seed), so what a primary wrote never
//! passes for what another one, restarted and empty, wrote at the same position.

use std::fmt;
use std::hash::BuildHasher;

const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;

/// The largest step to the next generation: it leaves a lineage some 30,000 promotions, and two of
/// the same term are alike once in 1,024 times.
const STEP_MAX: u64 = 1024;

/// See the module. Ordered by age only within a lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Term(pub u64);

impl Term {
    /// No term: that of a replica's store which has not begun anywhere.
    pub const NONE: Term = Term(0);

    /// The first generation of a new lineage (randomness is the operating system's, by std's
    /// per-process keys).
    pub fn birth() -> Term {
        let state = std::hash::RandomState::new();
        let lineage = (0u64..).map(|attempt| state.hash_one(attempt) >> GENERATION_BITS).find(|lineage| *lineage != 0);
        Term::of(lineage.unwrap_or(1), 1)
    }

    /// Of a lineage (its low 40 bits count) and a generation (its low 24).
    pub fn of(lineage: u64, generation: u32) -> Term {
        Term(lineage << GENERATION_BITS | u64::from(generation) & GENERATION_MASK)
    }

    /// Whose history; 0 in none that is valid.
    pub fn lineage(self) -> u64 {
        self.0 >> GENERATION_BITS
    }

    /// 1 at birth, more with each promotion.
    pub fn generation(self) -> u32 {
        (self.0 & GENERATION_MASK) as u32
    }

    /// Whether a store can have it.
    pub fn is_valid(self) -> bool {
        self.lineage() != 0 && self.generation() != 0
    }

    /// The same history, later.
    pub fn follows(self, earlier: Term) -> bool {
        self.lineage() == earlier.lineage() && self.generation() > earlier.generation()
    }

    /// What a promotion begins: a later generation, how much later is drawn at random, up to
    /// [`STEP_MAX`]. So two replicas that are promoted from the same term, by mistake, begin
    /// different ones, and neither's records pass for the other's. None where there are no more.
    pub fn succeed(self) -> Option<Term> {
        let step = std::hash::RandomState::new().hash_one(self.0) % STEP_MAX + 1;
        let generation = u64::from(self.generation()) + step;
        (generation <= GENERATION_MASK).then_some(Term(self.0 + step))
    }

    /// The very next generation; None after the last.
    pub fn next(self) -> Option<Term> {
        (self.generation() < GENERATION_MASK as u32).then_some(Term(self.0 + 1))
    }
}

impl fmt::Display for Term {
    /// Lineage in hexadecimal, generation in decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010x}-{}", self.lineage(), self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_births_share_nothing_and_a_promotion_follows() {
        let (one, other) = (Term::birth(), Term::birth());
        assert!(one.is_valid() && other.is_valid() && one.lineage() != other.lineage());
        assert_eq!(one.generation(), 1);
        let next = one.next().unwrap();
        assert!(next.follows(one) && !one.follows(next) && !one.follows(one) && !next.follows(other));
        assert_eq!((next.lineage(), next.generation()), (one.lineage(), 2));
        assert_eq!(Term::of(7, GENERATION_MASK as u32).next(), None);
        assert_eq!(Term::of(7, GENERATION_MASK as u32).succeed(), None);
    }

    #[test]
    fn promotions_of_the_same_term_begin_different_ones() {
        let one = Term::of(9, 5);
        let drawn: std::collections::HashSet<Term> = (0..100).filter_map(|_| one.succeed()).collect();
        assert!(drawn.len() > 50, "{drawn:?}");
        assert!(drawn.iter().all(|term| term.follows(one)));
    }

    #[test]
    fn it_reads_as_lineage_and_generation() {
        assert_eq!(Term::of(0xABC, 12).to_string(), "0000000abc-12");
        assert!(!Term::NONE.is_valid() && !Term::of(0, 1).is_valid() && !Term::of(1, 0).is_valid());
    }
}
