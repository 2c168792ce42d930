//! Pauses between tries of something that fails: each is twice as long as the one before, up to a
//! bound. Time is told, so tests make it.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub(super) struct Backoff {
    pause_min: Duration,
    pause_max: Duration,
    /// The next pause.
    pause: Duration,
    works_since: Option<Instant>,
}

impl Backoff {
    /// From the first pause to the longest.
    pub fn new(pause_min: Duration, pause_max: Duration) -> Backoff {
        Backoff { pause_min, pause_max, pause: pause_min, works_since: None }
    }

    /// It works from `now` on.
    pub fn works(&mut self, now: Instant) {
        self.works_since = Some(now);
    }

    /// It has failed, or does not work any more. When to try again. What worked for less than the
    /// longest pause goes on with longer ones: it comes and goes.
    pub fn failed(&mut self, now: Instant) -> Instant {
        let worked = self.works_since.take().map(|since| now.saturating_duration_since(since));
        if worked.is_some_and(|worked| worked >= self.pause_max) {
            self.pause = self.pause_min;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(self.pause_max);
        now + pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_grow_to_a_bound_and_are_short_again_after_it_worked() {
        let mut backoff = Backoff::new(SECOND, SECOND * 30);
        let begun = Instant::now();
        let mut now = begun;
        let pauses = |backoff: &mut Backoff, now: &mut Instant, count: usize| -> Vec<u64> {
            let pause = |_| {
                let next = backoff.failed(*now);
                let pause = next - *now;
                *now = next;
                pause.as_secs()
            };
            (0..count).map(pause).collect()
        };
        assert_eq!(pauses(&mut backoff, &mut now, 7), [1, 2, 4, 8, 16, 30, 30]);
        backoff.works(now);
        now += SECOND * 30;
        assert_eq!(pauses(&mut backoff, &mut now, 3), [1, 2, 4]);
        // It comes and goes: the pauses grow on.
        for expected in [8, 16, 30, 30] {
            backoff.works(now);
            now += SECOND;
            assert_eq!(pauses(&mut backoff, &mut now, 1), [expected]);
        }
    }
}
