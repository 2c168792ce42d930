//! How many bytes of a shard's live items may have expired by now, though nobody has looked at them
//! yet. Pure.
//!
//! Bytes are counted by the second in which they expire: exactly where that is near, in ever wider
//! blocks of seconds where it is far (a hierarchical timing wheel, after Varghese and Lauck,
//! SOSP'87). A block at level n is 2^n seconds wide and lies 16 to 32 blocks ahead. When it comes
//! nearer it moves one level down, as a whole, to the first of the two blocks that it covers there.
//!
//! ```text
//! now                                                                        far
//!  | level 0: seconds 1 to 32 | level 1: blocks of 2 s | level 2: of 4 s | ... |
//! ```
//!
//! So an item counts as expired at its expiry or earlier, by at most a fifteenth of the time that
//! it was given. [`Expiries::passed_bytes`] is therefore never too low: what it does not cover is
//! alive. Items that die are counted in a wheel of their own. An item whose block had moved before
//! it died is in doubt until the block that its expiry names has passed, too.

use crate::base::time::{Expiry, UnixSeconds};

/// Blocks of one level. Those in use lie 16 to 32 blocks ahead, so no two of them share a cell.
const BLOCKS: usize = 32;
/// A block nearer than this many of its own width belongs to the level below.
const NEAREST_BLOCK: u32 = 16;
/// Enough for every expiry that 32 bits can hold.
const LEVELS: usize = 29;
/// A clock that jumps further is not followed second by second: then everything may have expired.
const JUMP_SECONDS_MAX: u32 = 1 << 16;
/// Workers read the clock by themselves, so it may seem to go back a little. Beyond that it was set
/// back: everything may have expired, for all that is known here, but what is written from then on
/// is counted by the new time.
const BACK_SECONDS_MAX: u32 = 5;

/// See the module.
pub(super) struct Expiries {
    /// The latest second that the clock has told, since it was set back if it was.
    now: u32,
    /// What the clock told last.
    told: UnixSeconds,
    /// No item expires before this second. [`u32::MAX`] where none expires.
    soonest: u32,
    written: Wheel,
    dead: Wheel,
}

/// Bytes by the second in which they expire.
struct Wheel {
    /// Bytes whose block has passed, ever.
    passed_bytes: u64,
    levels: Box<[[u64; BLOCKS]; LEVELS]>,
}

impl Expiries {
    pub(super) fn new() -> Expiries {
        Expiries { now: 0, told: UnixSeconds(0), soonest: u32::MAX, written: Wheel::new(), dead: Wheel::new() }
    }

    /// An item of so many bytes is there.
    #[inline]
    pub(super) fn add(&mut self, expiry: Expiry, bytes: u64) {
        if expiry != Expiry::NEVER {
            *self.written.cell(expiry.to_bits(), self.now) += bytes;
            self.note_soonest(expiry);
        }
    }

    /// It is gone, or has another expiry now.
    #[inline]
    pub(super) fn remove(&mut self, expiry: Expiry, bytes: u64) {
        if expiry != Expiry::NEVER {
            *self.dead.cell(expiry.to_bits(), self.now) += bytes;
        }
    }

    /// An item that expires then is there.
    pub(super) fn note_soonest(&mut self, expiry: Expiry) {
        if expiry != Expiry::NEVER {
            self.soonest = self.soonest.min(expiry.to_bits());
        }
    }

    /// Whether an item may have expired. Exact once all items were looked at since
    /// [`Expiries::forget_soonest`], and noted.
    pub(super) fn any_may_have_passed(&self, now: UnixSeconds) -> bool {
        self.soonest <= now.0
    }

    /// All items are about to be looked at. What is added meanwhile is noted besides.
    pub(super) fn forget_soonest(&mut self) {
        self.soonest = u32::MAX;
    }

    /// Nothing is there any more.
    pub(super) fn clear(&mut self) {
        self.soonest = u32::MAX;
        self.written.clear();
        self.dead.clear();
    }

    /// The clock says `now`.
    #[inline]
    pub(super) fn advance(&mut self, now: UnixSeconds) {
        if now != self.told {
            self.told = now;
            if now.0 > self.now || self.now - now.0 > BACK_SECONDS_MAX {
                self.advance_to(now.0);
            }
        }
    }

    /// What the clock told last.
    pub(super) fn told(&self) -> UnixSeconds {
        self.told
    }

    /// Bytes that may have expired: all that have, and some that will soon.
    pub(super) fn passed_bytes(&self) -> u64 {
        self.written.passed_bytes.saturating_sub(self.dead.passed_bytes)
    }

    /// Bytes of dead items whose expiry has passed as well, ever.
    pub(super) fn dead_passed_bytes(&self) -> u64 {
        self.dead.passed_bytes
    }

    #[inline(never)]
    fn advance_to(&mut self, now: u32) {
        if now < self.now || now - self.now > JUMP_SECONDS_MAX {
            self.written.pass_all();
            self.dead.pass_all();
            self.now = now;
            return;
        }
        while self.now < now {
            self.now += 1;
            self.written.tick(self.now);
            self.dead.tick(self.now);
        }
    }
}

impl Wheel {
    fn new() -> Wheel {
        Wheel { passed_bytes: 0, levels: Box::new([[0; BLOCKS]; LEVELS]) }
    }

    fn clear(&mut self) {
        self.passed_bytes = 0;
        self.levels.iter_mut().for_each(|level| level.fill(0));
    }

    fn pass_all(&mut self) {
        self.passed_bytes += self.levels.iter().flatten().sum::<u64>();
        self.levels.iter_mut().for_each(|level| level.fill(0));
    }

    /// It is `now`, a second later: what expires in it has passed, and what has come near moves one
    /// level down.
    fn tick(&mut self, now: u32) {
        self.passed_bytes += std::mem::take(&mut self.levels[0][now as usize % BLOCKS]);
        for level in 1..LEVELS.min(now.trailing_zeros() as usize + 1) {
            let block = u64::from(now >> level) + u64::from(NEAREST_BLOCK) - 1;
            let bytes = std::mem::take(&mut self.levels[level][block as usize % BLOCKS]);
            self.levels[level - 1][(2 * block) as usize % BLOCKS] += bytes;
        }
    }

    #[inline]
    fn cell(&mut self, expiry: u32, now: u32) -> &mut u64 {
        if expiry <= now {
            return &mut self.passed_bytes;
        }
        // The widest block that is far enough ahead: either of two levels, which the distance's
        // length names.
        let bits = (u32::BITS - (expiry - now).leading_zeros()) as usize;
        let ahead = |level: usize| (expiry >> level) - (now >> level);
        let level = match bits.saturating_sub(4) {
            0 => 0,
            level if level < LEVELS && ahead(level) >= NEAREST_BLOCK => level,
            level => level - 1,
        };
        &mut self.levels[level][(expiry >> level) as usize % BLOCKS]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const START: u32 = 1_700_000_000;

    /// Every item by itself.
    #[derive(Default)]
    struct Naive(Vec<(u32, u64, u32)>);

    impl Naive {
        fn expired_bytes(&self, now: u32) -> u64 {
            self.0.iter().filter(|(expiry, ..)| *expiry <= now).map(|(_, bytes, _)| bytes).sum()
        }

        /// With each item's time shortened by a fifteenth and a second.
        fn nearly_expired_bytes(&self, now: u32) -> u64 {
            let early = |(expiry, _, given): &&(u32, u64, u32)| expiry - (given / 15 + 1).min(*given) <= now;
            self.0.iter().filter(early).map(|(_, bytes, _)| bytes).sum()
        }
    }

    #[test]
    fn never_too_low_and_early_by_no_more_than_a_fifteenth() {
        let mut rng = fastrand::Rng::with_seed(7);
        for round in 0..12 {
            let (mut expiries, mut naive, mut now) = (Expiries::new(), Naive::default(), START + round * 977);
            let longest_bits = rng.u32(2..31);
            for _ in 0..1000 {
                expiries.advance(UnixSeconds(now));
                if rng.u8(..4) > 0 {
                    let bits = rng.u32(1..longest_bits);
                    let given = rng.u32(0..1 << bits);
                    let bytes = rng.u64(1..1000);
                    expiries.add(Expiry::from_bits(now + given), bytes);
                    naive.0.push((now + given, bytes, given));
                }
                now += rng.u32(0..3) * rng.u32(0..3);
                expiries.advance(UnixSeconds(now));
                let told = expiries.passed_bytes();
                assert!(told >= naive.expired_bytes(now), "seed round {round}: too low");
                assert!(told <= naive.nearly_expired_bytes(now), "seed round {round}: too early");
            }
        }
    }

    #[test]
    fn what_dies_is_taken_out_wherever_it_has_come_to() {
        let mut rng = fastrand::Rng::with_seed(8);
        for _ in 0..12 {
            let (mut expiries, mut naive, mut now) = (Expiries::new(), Naive::default(), START);
            for _ in 0..1000 {
                now += rng.u32(0..2) * rng.u32(0..40);
                expiries.advance(UnixSeconds(now));
                if rng.bool() || naive.0.is_empty() {
                    let bits = rng.u32(1..20);
                    let (given, bytes) = (rng.u32(0..1 << bits), rng.u64(1..1000));
                    expiries.add(Expiry::from_bits(now + given), bytes);
                    naive.0.push((now + given, bytes, given));
                } else {
                    let (expiry, bytes, _) = naive.0.swap_remove(rng.usize(..naive.0.len()));
                    expiries.remove(Expiry::from_bits(expiry), bytes);
                }
                assert!(expiries.passed_bytes() >= naive.expired_bytes(now));
            }
            naive.0.drain(..).for_each(|(expiry, bytes, _)| expiries.remove(Expiry::from_bits(expiry), bytes));
            (0..40).for_each(|step| expiries.advance(UnixSeconds(now + (1 << 15) * step)));
            assert_eq!(expiries.passed_bytes(), 0, "nothing is left");
            assert_eq!(expiries.written.passed_bytes, expiries.dead.passed_bytes);
        }
    }

    #[test]
    fn a_clock_that_is_set_makes_all_of_it_doubtful() {
        let mut expiries = Expiries::new();
        expiries.advance(UnixSeconds(START));
        expiries.add(Expiry::from_bits(START + 100), 10);
        expiries.add(Expiry::from_bits(u32::MAX), 5);
        expiries.add(Expiry::NEVER, 1000);
        assert_eq!(expiries.passed_bytes(), 0);
        expiries.advance(UnixSeconds(START - BACK_SECONDS_MAX));
        assert_eq!((expiries.passed_bytes(), expiries.told().0), (0, START - BACK_SECONDS_MAX));
        expiries.advance(UnixSeconds(START + 100));
        assert_eq!(expiries.passed_bytes(), 10);
        expiries.advance(UnixSeconds(START + 100 + JUMP_SECONDS_MAX + 1));
        assert_eq!(expiries.passed_bytes(), 15);
        expiries.remove(Expiry::from_bits(u32::MAX), 5);
        expiries.clear();
        assert_eq!(expiries.passed_bytes(), 0);
        expiries.add(Expiry::from_bits(u32::MAX), 7);
        expiries.advance(UnixSeconds(START));
        assert_eq!(expiries.passed_bytes(), 7);
        expiries.add(Expiry::from_bits(START + 100), 3);
        assert_eq!(expiries.passed_bytes(), 7);
        expiries.advance(UnixSeconds(START + 100));
        assert_eq!(expiries.passed_bytes(), 10);
    }
}
