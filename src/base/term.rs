//! Who writes a log, and from when on. A shard's log is written in terms, one after the other; each
//! has one writer. A log's first term begins when it is born, each later one when a replica is
//! promoted.
//!
//! ```text
//! bits   0                  40       64
//!        | nonce, never 0   | number |
//! ```
//!
//! The number tells which of two terms of one history is the later. The nonce is drawn anew for
//! each term: two servers that are promoted at the same time, by mistake, begin terms of the same
//! number, and neither is taken for the other. The checksum of each record is seeded with its term
//! (store/seed), so what one wrote never passes for what the other wrote at the same position.

use std::fmt;
use std::hash::BuildHasher;

const NONCE_BITS: u32 = 40;
const NONCE_MASK: u64 = (1 << NONCE_BITS) - 1;
/// The last number.
const NUMBER_MAX: u32 = (u64::MAX >> NONCE_BITS) as u32;
/// The last number that somebody may choose. Those behind it are for promotions that take the next
/// one, so that no choice is the end.
pub const CHOSEN_NUMBER_MAX: u32 = NUMBER_MAX / 2;

/// See the module. Ordered by number; the order of two of the same number means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Term(pub u64);

impl Term {
    /// No term: that of a replica's log which has not begun anywhere.
    pub const NONE: Term = Term(0);

    /// The first term of a log that is born.
    pub fn birth() -> Term {
        Term::numbered(1)
    }

    /// Of a number (its low 24 bits count) and a nonce (its low 40).
    pub const fn of(number: u32, nonce: u64) -> Term {
        Term((number as u64) << NONCE_BITS | nonce & NONCE_MASK)
    }

    /// 1 at birth, one more with each promotion.
    pub fn number(self) -> u32 {
        (self.0 >> NONCE_BITS) as u32
    }

    /// What tells it from another of the same number; 0 in none that is valid.
    pub fn nonce(self) -> u64 {
        self.0 & NONCE_MASK
    }

    /// Whether a log can have it.
    pub fn is_valid(self) -> bool {
        self.number() != 0 && self.nonce() != 0
    }

    /// Later, if it is of the same history.
    pub fn follows(self, earlier: Term) -> bool {
        self.number() > earlier.number()
    }

    /// What a promotion begins where this is the highest that is known. None after the last number.
    pub fn succeed(self) -> Option<Term> {
        (self.number() < NUMBER_MAX).then(|| Term::numbered(self.number() + 1))
    }

    /// A new term of this number.
    pub fn numbered(number: u32) -> Term {
        Term::of(number, draw_nonce())
    }
}

/// Randomness is the operating system's, by std's per-process keys.
fn draw_nonce() -> u64 {
    let state = std::hash::RandomState::new();
    let nonce = (0u64..).map(|attempt| state.hash_one(attempt) & NONCE_MASK).find(|nonce| *nonce != 0);
    nonce.unwrap_or(1)
}

impl fmt::Display for Term {
    /// Number in decimal, nonce in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:010x}", self.number(), self.nonce())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn births_are_told_apart_and_a_promotion_follows() {
        let (one, other) = (Term::birth(), Term::birth());
        assert!(one.is_valid() && other.is_valid() && one != other);
        assert_eq!((one.number(), other.number()), (1, 1));
        let next = one.succeed().unwrap();
        assert_eq!(next.number(), 2);
        assert!(next.follows(one) && !one.follows(next) && !one.follows(one) && !one.follows(other));
        assert_eq!(Term::of(NUMBER_MAX, 7).succeed(), None);
    }

    #[test]
    fn promotions_of_the_same_term_begin_different_ones_of_the_same_number() {
        let one = Term::of(5, 9);
        let drawn: std::collections::HashSet<Term> = (0..100).filter_map(|_| one.succeed()).collect();
        assert_eq!(drawn.len(), 100, "nonces are drawn anew");
        assert!(drawn.iter().all(|term| term.number() == 6 && term.follows(one)));
    }

    #[test]
    fn its_order_is_by_number() {
        let mut terms = [Term::of(3, 1), Term::of(1, 9), Term::of(2, 5), Term::NONE];
        terms.sort();
        assert_eq!(terms.map(Term::number), [0, 1, 2, 3]);
    }

    #[test]
    fn it_reads_as_number_and_nonce() {
        assert_eq!(Term::of(12, 0xABC).to_string(), "12-0000000abc");
        assert!(!Term::NONE.is_valid() && !Term::of(0, 1).is_valid() && !Term::of(1, 0).is_valid());
    }
}
