//! How much is read in one round. Pure. As much as arrives within several round trips, so that the
//! wait for the first byte hardly counts. No more, so that a round is applied while it is still in
//! the processor's cache and the next one is being read.
//!
//! What counts is the time of the fabric. A round that arrived while the one before it was applied
//! lay there until the fabric was asked: how long it took is not known, and it is left out.

use std::time::Duration;

/// Shortest piece that backlog is cut into.
pub const PIECE_BYTES_MIN: usize = 16 << 10;
/// Pieces that a round's bytes are cut into, at least, where there is so much.
const PIECES_PER_ROUND: usize = 8;
/// The least that a round is planned for, because each round costs a look and acks. So much fits
/// into a second-level cache.
const ROUND_BYTES_MIN: usize = 256 << 10;
/// Round trips that a round may take.
const ROUND_TRIPS: u32 = 8;
/// What a round may take in any case: shared memory has hardly a round trip.
const ROUND_TIME_MIN: Duration = Duration::from_micros(40);

/// A measured time in which the fabric was not asked for more than this part of it tells nothing.
pub const UNASKED_PART_MAX: u32 = 4;

/// See the module.
#[derive(Debug)]
pub struct Sizer {
    round_bytes: usize,
    round_bytes_max: usize,
    piece_bytes_max: usize,
    round_trip: Duration,
}

impl Sizer {
    /// Rounds of at most `pieces_max` pieces of at most `piece_bytes_max`.
    pub fn new(piece_bytes_max: usize, pieces_max: usize) -> Sizer {
        let round_bytes_max = (piece_bytes_max * pieces_max).max(ROUND_BYTES_MIN);
        Sizer { round_bytes: ROUND_BYTES_MIN, round_bytes_max, piece_bytes_max, round_trip: ROUND_TIME_MIN }
    }

    /// Bytes of the next round.
    pub fn round_bytes(&self) -> usize {
        self.round_bytes
    }

    /// Bytes of each of its pieces, at most.
    pub fn piece_bytes(&self) -> usize {
        (self.round_bytes / PIECES_PER_ROUND).clamp(PIECE_BYTES_MIN, self.piece_bytes_max.max(PIECE_BYTES_MIN))
    }

    /// A round took `elapsed`, less up to `unasked` in which it may have been there already, and
    /// brought `bytes` bytes of logs; none: it was a look, and that is the round trip.
    pub fn observe(&mut self, bytes: usize, elapsed: Duration, unasked: Duration) {
        if unasked * UNASKED_PART_MAX > elapsed {
            return;
        }
        if bytes == 0 {
            // The shortest of the last ones: a longer one may have waited for the other side's
            // processor. It creeps up, because the path may change.
            self.round_trip = elapsed.min(self.round_trip + self.round_trip / 64 + Duration::from_nanos(1));
            return;
        }
        let target = (self.round_trip * ROUND_TRIPS).max(ROUND_TIME_MIN);
        let fitting = bytes as u128 * target.as_nanos() / elapsed.as_nanos().max(1);
        let fitting = usize::try_from(fitting).unwrap_or(usize::MAX).clamp(ROUND_BYTES_MIN, self.round_bytes_max);
        // One step at a time, so that a single odd measurement changes little.
        if fitting >= 2 * self.round_bytes {
            self.round_bytes *= 2;
        } else if fitting * 2 <= self.round_bytes {
            self.round_bytes /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 20;

    fn settle(round_trip: Duration, bytes_per_second: u64) -> usize {
        let mut sizer = Sizer::new(MAX, 14);
        for _ in 0..1000 {
            sizer.observe(0, round_trip, Duration::ZERO);
            let bytes = sizer.round_bytes();
            let nanoseconds = round_trip.as_nanos() as u64 + bytes as u64 * 1_000_000_000 / bytes_per_second;
            sizer.observe(bytes, Duration::from_nanos(nanoseconds), Duration::ZERO);
        }
        assert!((PIECE_BYTES_MIN..=MAX).contains(&sizer.piece_bytes()));
        sizer.round_bytes()
    }

    #[test]
    fn a_longer_way_and_a_faster_one_make_longer_rounds() {
        let (shm, near, far) = (
            settle(Duration::from_micros(1), 8_000_000_000),
            settle(Duration::from_micros(50), 100_000_000),
            settle(Duration::from_millis(10), 1_000_000_000),
        );
        assert!((ROUND_BYTES_MIN..=512 << 10).contains(&shm), "{shm}");
        assert_eq!(near, ROUND_BYTES_MIN);
        assert_eq!(far, 8 * MAX, "the largest power of two of the least that fits into 14 pieces");
    }

    #[test]
    fn one_odd_measurement_changes_it_by_one_step() {
        let mut sizer = Sizer::new(MAX, 14);
        let before = sizer.round_bytes();
        sizer.observe(before, Duration::from_nanos(1), Duration::ZERO);
        assert_eq!(sizer.round_bytes(), 2 * before);
        sizer.observe(before, Duration::from_secs(1), Duration::ZERO);
        assert_eq!(sizer.round_bytes(), before);
    }
    #[test]
    fn what_may_have_lain_there_while_the_last_round_was_applied_is_left_out() {
        let mut sizer = Sizer::new(MAX, 14);
        let (before, long) = (sizer.round_bytes(), Duration::from_secs(1));
        sizer.observe(before, long, long / 2);
        sizer.observe(0, long, long);
        assert_eq!(sizer.round_bytes(), before);
        sizer.observe(before, Duration::from_nanos(1), Duration::ZERO);
        assert_eq!(sizer.round_bytes(), 2 * before, "the round trip is what it was");
        sizer.observe(before, long, long / 100);
        assert_eq!(sizer.round_bytes(), before);
    }
}
