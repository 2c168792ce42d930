//! How long a piece of a ring is read in one READ: as long as several round trips take, so that the round trip hardly counts, and no longer, so
//! that what has arrived is applied while the next is on its way. Pure.

use std::time::Duration;

/// Shortest piece that backlog is cut into.
pub const PIECE_BYTES_MIN: usize = 16 << 10;
/// Round trips that a piece may take.
const ROUND_TRIPS: u32 = 8;
/// What a piece may take in any case: shared memory has hardly a round trip, but each piece has its bookkeeping.
const PIECE_TIME_MIN: Duration = Duration::from_micros(40);

/// See the module.
#[derive(Debug)]
pub struct Sizer {
    piece_bytes: usize,
    piece_bytes_max: usize,
    round_trip: Duration,
}

impl Sizer {
    /// Pieces of at most `piece_bytes_max`.
    pub fn new(piece_bytes_max: usize) -> Sizer {
        Sizer { piece_bytes: 4 * PIECE_BYTES_MIN, piece_bytes_max, round_trip: PIECE_TIME_MIN }
    }

    /// Bytes of the next piece.
    pub fn piece_bytes(&self) -> usize {
        self.piece_bytes
    }

    /// A batch of READs took `elapsed` and brought `bytes` bytes of rings; none: it was a look, and that is the round trip.
    pub fn observe(&mut self, bytes: usize, elapsed: Duration) {
        if bytes == 0 {
            // The shortest of late: one that waited for the other side's processor says nothing about the way. It creeps up, for ways change.
            self.round_trip = elapsed.min(self.round_trip + self.round_trip / 64 + Duration::from_nanos(1));
            return;
        }
        let target = (self.round_trip * ROUND_TRIPS).max(PIECE_TIME_MIN);
        let fitting = bytes as u128 * target.as_nanos() / elapsed.as_nanos().max(1);
        let fitting = usize::try_from(fitting).unwrap_or(usize::MAX).clamp(PIECE_BYTES_MIN, self.piece_bytes_max);
        // A step at a time: one odd measurement must not throw it about.
        if fitting >= 2 * self.piece_bytes {
            self.piece_bytes *= 2;
        } else if fitting * 2 <= self.piece_bytes {
            self.piece_bytes /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 20;

    fn settle(round_trip: Duration, bytes_per_second: u64) -> usize {
        let mut sizer = Sizer::new(MAX);
        for _ in 0..1000 {
            sizer.observe(0, round_trip);
            let bytes = 4 * sizer.piece_bytes();
            let nanoseconds = round_trip.as_nanos() as u64 + bytes as u64 * 1_000_000_000 / bytes_per_second;
            sizer.observe(bytes, Duration::from_nanos(nanoseconds));
        }
        sizer.piece_bytes()
    }

    #[test]
    fn a_longer_way_and_a_faster_one_make_longer_pieces() {
        let (shm, near, far) = (
            settle(Duration::from_micros(1), 8_000_000_000),
            settle(Duration::from_micros(50), 100_000_000),
            settle(Duration::from_millis(10), 1_000_000_000),
        );
        assert!((128 << 10..=512 << 10).contains(&shm), "{shm}");
        assert!((16 << 10..=64 << 10).contains(&near), "{near}");
        assert_eq!(far, MAX);
    }

    #[test]
    fn one_odd_measurement_changes_it_by_one_step() {
        let mut sizer = Sizer::new(MAX);
        let before = sizer.piece_bytes();
        sizer.observe(before, Duration::from_secs(1));
        assert_eq!(sizer.piece_bytes(), before / 2);
        sizer.observe(before, Duration::ZERO);
        assert_eq!(sizer.piece_bytes(), before);
    }
}
