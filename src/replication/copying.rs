//! How fast a server copies shards of which it has no whole replica yet: all that its pullers bring
//! for these together, within a bound. What follows a log that is whole here is not bounded, nor is
//! what an heir gathers: writes wait for those.
//!
//! A piece may be read once the time of the pieces before it has passed. So a puller needs no
//! timer: it asks at each step, and pauses as it does where nothing moves.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A puller that comes late makes up for so much: its pauses are shorter.
const LATE_MAX: Duration = Duration::from_millis(20);

/// See the module. All pullers of a server share one.
#[derive(Debug, Default)]
pub struct CopyBound {
    /// Looked at first: without a bound nobody takes the lock.
    is_bounded: AtomicBool,
    schedule: Mutex<Schedule>,
}

impl CopyBound {
    /// So many MiB in a second from now on; None: as fast as it goes.
    pub fn set(&self, mib_per_second: Option<u32>) {
        let mut schedule = self.schedule();
        schedule.bytes_per_second = mib_per_second.map(|mib| u64::from(mib) << 20);
        self.is_bounded.store(mib_per_second.is_some(), Relaxed);
    }

    /// Whether a piece may be read now.
    pub fn allows(&self, now: Instant) -> bool {
        !self.is_bounded.load(Relaxed) || self.schedule().allows(now)
    }

    /// A piece of so many bytes is read now.
    pub fn spend(&self, bytes: usize, now: Instant) {
        if self.is_bounded.load(Relaxed) {
            self.schedule().spend(bytes as u64, now);
        }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the next piece may be read. Pure.
#[derive(Debug, Default)]
struct Schedule {
    bytes_per_second: Option<u64>,
    /// The time of all pieces until now has passed then; None before the first.
    free_at: Option<Instant>,
}

impl Schedule {
    fn allows(&self, now: Instant) -> bool {
        self.bytes_per_second.is_none() || self.free_at.is_none_or(|free_at| free_at <= now)
    }

    fn spend(&mut self, bytes: u64, now: Instant) {
        let Some(rate) = self.bytes_per_second else { return };
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let late = now.checked_sub(LATE_MAX).unwrap_or(now);
        self.free_at = Some(self.free_at.map_or(now, |free_at| free_at.max(late)) + takes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: usize = 64 << 10;

    /// Bytes that two pullers read in a second that ask every `pause`.
    fn copied(bound: &CopyBound, pause: Duration) -> usize {
        let begun_at = Instant::now();
        let (mut now, mut bytes) = (begun_at, 0);
        while now < begun_at + Duration::from_secs(1) {
            for _ in 0..2 {
                // A round has many pieces at most.
                for _ in 0..14 {
                    if bound.allows(now) {
                        bound.spend(PIECE, now);
                        bytes += PIECE;
                    }
                }
            }
            now += pause;
        }
        bytes
    }

    #[test]
    fn all_pullers_together_copy_as_fast_as_the_bound_says_and_no_faster() {
        for mib in [1, 10, 200] {
            for pause in [Duration::from_micros(50), Duration::from_millis(1)] {
                let bound = CopyBound::default();
                bound.set(Some(mib));
                let (bytes, wanted) = (copied(&bound, pause), (mib as usize) << 20);
                assert!(bytes <= wanted + wanted / 20 + PIECE, "{mib} MiB: {bytes}");
                assert!(bytes >= wanted * 9 / 10, "{mib} MiB: {bytes}");
            }
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let (bound, now) = (CopyBound::default(), Instant::now());
        bound.set(Some(1));
        bound.spend(PIECE, now);
        let later = now + Duration::from_secs(3600);
        let mut pieces = 0;
        while bound.allows(later) {
            bound.spend(PIECE, later);
            pieces += 1;
        }
        assert!(pieces <= 2, "{pieces} pieces at once after an hour");
    }

    #[test]
    fn without_a_bound_everything_goes_and_a_new_bound_holds_at_once() {
        let (bound, now) = (CopyBound::default(), Instant::now());
        (0..1000).for_each(|_| bound.spend(PIECE, now));
        assert!(bound.allows(now));
        bound.set(Some(1));
        bound.spend(PIECE, now);
        assert!(!bound.allows(now));
        bound.set(None);
        assert!(bound.allows(now));
    }
}
