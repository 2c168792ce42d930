//! How long reclaim of one shard waits for replicas. Pure: time is passed in.
//!
//! A leaky bucket. While reclaim is held up it fills, by the time that passes; while reclaim is not
//! it drains, by a fourth of that. Reclaim's patience is over once there is more in it than
//! [`FULL_MICROSECONDS`], and stays so until some of that has drained.
//!
//! So a replica that stands still is waited for once, for so long. One that reads on, but holds
//! reclaim up for more than a fifth of the time, is not waited for for ever: the bucket fills by
//! what the time that it holds reclaim up is longer than a fourth of the rest. One that stands
//! still for a moment now and then is kept.
//!
//! It is the shard's, not a replica's: many replicas that stand still together, each a little
//! further on than the one before, cost no more than one.

use crate::base::limits::PARK_MILLISECONDS_MAX;

/// So long is waited for replicas that stand still.
pub const FULL_MICROSECONDS: u64 = 2_000_000;
/// While reclaim is not held up, the bucket drains by this share of the time.
const DRAIN_SHARE: u64 = 4;
/// At most so much of the time between two questions counts as waiting: a longer pause has another
/// reason. Workers ask in each turn while a writer waits for room.
const QUESTION_MICROSECONDS_MAX: u64 = 100_000;
/// Within the time that a write is parked at most, replicas hold reclaim up for less than this. Let
/// that be H, of a time T: what flows in, H, is no more than the bucket holds, a question, and what
/// flows out, (T - H) / DRAIN_SHARE.
const HELD_UP_MICROSECONDS_MAX: u64 =
    (DRAIN_SHARE * (FULL_MICROSECONDS + QUESTION_MICROSECONDS_MAX) + PARK_MILLISECONDS_MAX * 1000) / (DRAIN_SHARE + 1);
/// What is left of that time is enough for reclaim, and for workers that are late.
const _: () = assert!(HELD_UP_MICROSECONDS_MAX + 2_000_000 < PARK_MILLISECONDS_MAX * 1000);

/// See the module.
#[derive(Debug, Default)]
pub struct Patience {
    /// Microseconds in the bucket, times [`DRAIN_SHARE`]: so nothing is lost where it drains.
    filled: u64,
    /// When reclaim asked last; 0: never.
    asked_at: u64,
    /// Whether it was held up then.
    was_held_up: bool,
}

impl Patience {
    /// Reclaim asks at `now`, in microseconds from any beginning after 0, and replicas hold it up
    /// or not. True if it waits for nobody: its patience is over.
    pub fn is_over(&mut self, holds_up: bool, now: u64) -> bool {
        let elapsed = if self.asked_at == 0 { 0 } else { now.saturating_sub(self.asked_at) };
        let held_up = if self.was_held_up { elapsed.min(QUESTION_MICROSECONDS_MAX) } else { 0 };
        self.filled = (self.filled + DRAIN_SHARE * held_up).saturating_sub(elapsed - held_up);
        self.asked_at = now;
        let is_over = self.filled > DRAIN_SHARE * FULL_MICROSECONDS;
        self.was_held_up = holds_up && !is_over;
        holds_up && is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1000;
    const SECOND: u64 = 1_000_000;

    /// A question each millisecond from `now` on, for the given time; whether reclaim is held up is
    /// said by the time. When its patience was over.
    fn asked(patience: &mut Patience, now: u64, time: u64, holds_up: impl Fn(u64) -> bool) -> Option<u64> {
        (0..time / MILLISECOND).map(|step| step * MILLISECOND).find(|at| patience.is_over(holds_up(*at), now + at))
    }

    /// Held up for the first `held_up` of each `period`.
    fn in_bursts(held_up: u64, period: u64) -> Option<u64> {
        asked(&mut Patience::default(), 1, 3600 * SECOND, |at| at % period < held_up)
    }

    #[test]
    fn who_stands_still_is_waited_for_once() {
        let mut patience = Patience::default();
        let over_at = asked(&mut patience, 1, 10 * SECOND, |_| true);
        assert_eq!(over_at, Some(FULL_MICROSECONDS + MILLISECOND));
        // The next one that stands still, just above the first, is not waited for at all.
        assert_eq!(asked(&mut patience, 1 + 2002 * MILLISECOND, SECOND, |_| true), Some(0));
        // Some time later it is, for as long as has drained.
        let again = asked(&mut patience, 1 + 2003 * MILLISECOND + 4 * SECOND, 10 * SECOND, |_| true);
        assert!(again.is_some_and(|at| (SECOND..SECOND + 5 * MILLISECOND).contains(&at)), "{again:?}");
    }

    #[test]
    fn who_holds_reclaim_up_most_of_the_time_is_let_go_though_it_reads_on() {
        for (held_up, period, seconds) in [(9, 10, 3), (50, 100, 6), (300, 1000, 17)] {
            let over_at = in_bursts(held_up * MILLISECOND, period * MILLISECOND);
            assert!(over_at.is_some_and(|at| at < seconds * SECOND), "{held_up} of {period}: {over_at:?}");
        }
    }

    #[test]
    fn who_stands_still_for_a_moment_now_and_then_is_kept() {
        for (held_up, period) in [(1, 10), (199, 1000), (1900, 10_000)] {
            assert_eq!(in_bursts(held_up * MILLISECOND, period * MILLISECOND), None, "{held_up} of {period}");
        }
    }

    /// Whatever replicas do: reclaim waits for none while its patience is over.
    #[test]
    fn a_write_that_is_parked_meets_no_more_than_it_can_bear() {
        for (held_up, period) in [(1, 1), (1, 2), (1, 5), (40, 100), (700, 1000), (2000, 2001), (2000, 10_000)] {
            let (mut patience, mut held_ups, mut sum, mut worst) = (Patience::default(), Vec::new(), 0, 0);
            for step in 0..(60 * SECOND / MILLISECOND) as usize {
                let holds_up = step % period < held_up;
                let is_over = patience.is_over(holds_up, 1 + step as u64 * MILLISECOND);
                assert!(holds_up || !is_over, "nobody is let go who holds nothing up");
                held_ups.push(if holds_up && !is_over { MILLISECOND } else { 0 });
                sum += held_ups[step];
                sum -= step.checked_sub(PARK_MILLISECONDS_MAX as usize).map_or(0, |left| held_ups[left]);
                worst = worst.max(sum);
            }
            assert!(worst > 0 && worst <= HELD_UP_MICROSECONDS_MAX, "{held_up} of {period}: {worst}");
        }
    }

    #[test]
    fn a_long_pause_between_two_questions_has_another_reason() {
        let mut patience = Patience::default();
        let mut now = 1;
        for _ in 0..1000 {
            assert!(!patience.is_over(true, now));
            now += SECOND;
        }
    }
}
