//! What the two sides of a push tell each other in the inbox's memory: the primary's lines, the
//! replica's wants. Both are several words that the other side may find half written, so each
//! carries a seal over its words: what does not match is looked at again later. (Against tearing,
//! not against a peer that lies: that is what the checks of the lane and of the pusher are for.)
//!
//! ```text
//! line   word 0      1           2      3          4        5            6      7
//!        term | committed | tail | capacity | pushed | owes until | beat | seal 0..31, run 32..63
//! want   word 0         1
//!        position | seal 0..31, run 32..63
//! ```

use crate::store::line::{CONTROL_LINE_BYTES, ControlLine, POSITION_MAX};
use crate::sys::sync::{AtomicU64, Ordering::Relaxed, Ordering::Release, fence};

/// Words of a line.
pub const LINE_WORDS: usize = CONTROL_LINE_BYTES / 8;

const COMMITTED: usize = 1;
const TAIL: usize = 2;
/// In place of where the term begins, which no replica reads of a line.
const PUSHED: usize = 4;
const SEAL: usize = LINE_WORDS - 1;

/// A hash of `words` and `run`.
fn sealed(words: &[u64], run: u32) -> u64 {
    // The mixing step of FxHash with a start that is not zero: memory that nobody has written to is
    // not sealed.
    let mix = |mixed: u64, word: u64| (mixed.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
    let mixed = words.iter().copied().chain([u64::from(run)]).fold(0x5EA1_0000_5EA1, mix);
    u64::from(run) << 32 | mixed >> 32
}

/// What the primary tells of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushedLine([u64; LINE_WORDS]);

impl PushedLine {
    /// The control line as it is now. The window holds what the want of this run asks for, up to
    /// `pushed`.
    pub fn of(line: &ControlLine<'_>, pushed: u64, run: u32) -> PushedLine {
        // The words may be loaded in any order: a puller's look promises none either.
        let mut words = [
            line.term(),
            line.committed(),
            line.tail(),
            line.capacity_bytes(),
            pushed,
            line.owes_until(),
            line.beat(),
            0,
        ];
        words[SEAL] = sealed(&words[..SEAL], run);
        PushedLine(words)
    }

    /// The line in these words of an inbox; None while it is not whole. What is loaded after this
    /// call is no older than the line.
    pub fn load(words: &[AtomicU64]) -> Option<PushedLine> {
        let words: [u64; LINE_WORDS] = std::array::from_fn(|at| words[at].load(Relaxed));
        fence(crate::sys::sync::Ordering::Acquire);
        let line = PushedLine(words);
        (sealed(&words[..SEAL], line.run()) == words[SEAL]).then_some(line)
    }

    /// Store it in memory that it will be sent from.
    pub fn store(&self, words: &[AtomicU64]) {
        words.iter().zip(self.0).for_each(|(to, word)| to.store(word, Relaxed));
    }

    /// The control line, as a look is to show it. Where the term begins is zero.
    pub fn show(&self, words: &[AtomicU64]) {
        let control = |(at, word): (usize, u64)| if at == PUSHED || at == SEAL { 0 } else { word };
        words.iter().zip(self.0.into_iter().enumerate()).for_each(|(to, word)| to.store(control(word), Relaxed));
    }

    /// The term, and up to where the primary's log was committed.
    pub fn term_and_committed(&self) -> (u64, u64) {
        (self.0[0], self.0[COMMITTED])
    }

    /// The primary's tail.
    pub fn tail(&self) -> u64 {
        self.0[TAIL]
    }

    /// Up to where bytes are in the window.
    pub fn pushed(&self) -> u64 {
        self.0[PUSHED]
    }

    /// The run of the want that it answers; 0 before there is one.
    pub fn run(&self) -> u32 {
        (self.0[SEAL] >> 32) as u32
    }
}

/// What the replica tells of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// From where on it wants bytes; it has copied what lies before.
    pub position: u64,
    /// Its number, never 0; another one when the position is lower than before.
    pub run: u32,
}

impl Want {
    /// Tell it.
    pub fn store(&self, words: &[AtomicU64]) {
        words[0].store(self.position, Release);
        words[1].store(sealed(&[self.position], self.run), Release);
    }

    /// The want in these words; None if it is not whole, or no log has such a position.
    pub fn load(words: &[AtomicU64]) -> Option<Want> {
        let (position, seal) = (words[0].load(Relaxed), words[1].load(Relaxed));
        let run = (seal >> 32) as u32;
        let possible = position.is_multiple_of(8) && position <= POSITION_MAX && run != 0;
        (possible && sealed(&[position], run) == seal).then_some(Want { position, run })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: usize) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn half_of_one_and_half_of_another_is_neither() {
        let control = words(LINE_WORDS);
        let line = ControlLine::of(&control, 0);
        line.begin(7, 1 << 20);
        let one = PushedLine::of(&line, 64, 1);
        line.commit(4096);
        let other = PushedLine::of(&line, 4096, 1);
        let memory = words(LINE_WORDS);
        assert_eq!(PushedLine::load(&memory), None, "nothing was written yet");
        for cut in 0..=LINE_WORDS {
            one.store(&memory);
            other.store(&memory[..cut]);
            let expected = [(0, Some(one)), (LINE_WORDS, Some(other))];
            let found = expected.iter().find(|(at, _)| *at == cut || cut == 1 && *at == 0).and_then(|(_, line)| *line);
            assert_eq!(PushedLine::load(&memory), found, "cut at {cut}"); // the first words are the same
        }
        assert_eq!((other.pushed(), other.run()), (4096, 1));
        line.set_owes_until(8192);
        line.set_beat(5);
        PushedLine::of(&line, 4096, 1).show(&memory);
        let shown = memory.iter().map(|word| word.load(Relaxed)).collect::<Vec<_>>();
        assert_eq!(shown, [7, 4096, 64, 1 << 20, 0, 8192, 5, 0]);
    }

    #[test]
    fn a_want_is_whole_and_possible_or_none() {
        let memory = words(2);
        assert_eq!(Want::load(&memory), None);
        let want = Want { position: 4096, run: 3 };
        want.store(&memory);
        assert_eq!(Want::load(&memory), Some(want));
        memory[0].store(8192, Relaxed);
        assert_eq!(Want::load(&memory), None, "of two wants");
        for (position, run) in [(12, 1), (POSITION_MAX + 8, 1), (64, 0)] {
            Want { position, run }.store(&memory);
            assert_eq!(Want::load(&memory), None, "{position} {run}");
        }
    }
}
