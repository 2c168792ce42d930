//! How long a replica waits between two looks at its primary. If nothing has changed, it first
//! looks again at once, then pauses, longer each time. If little has changed, it pauses shortly as
//! well: otherwise a few writes a second would keep a core busy.

use std::time::Duration;

/// Looks without a pause after the last change. Over shared memory they take as long as a few dozen
/// requests.
const SPINS: u32 = 64;
/// The first pause, and the one after little was applied. The kernel adds some 50 us to each.
const PAUSE_MIN: Duration = Duration::from_micros(20);
/// With at least so much left to read there is no pause.
const BACKLOG_BYTES: u64 = 64 << 10;

/// See the module.
#[derive(Debug)]
pub struct Pace {
    pause_max: Duration,
    still: u32,
    pause: Duration,
}

impl Pace {
    /// With pauses of at most `pause_max`; zero for none at all (a core spins for the lowest lag).
    pub fn new(pause_max: Duration) -> Pace {
        Pace { pause_max, still: 0, pause: PAUSE_MIN }
    }

    /// Something is on its way: no wait before the next look.
    pub fn moved(&mut self) -> Duration {
        self.still = 0;
        self.pause = PAUSE_MIN;
        Duration::ZERO
    }

    /// Something was applied, and so much is known to be left; how long to wait before the next
    /// look.
    pub fn applied(&mut self, backlog_bytes: u64) -> Duration {
        self.moved();
        if backlog_bytes < BACKLOG_BYTES { PAUSE_MIN.min(self.pause_max) } else { Duration::ZERO }
    }

    /// Nothing moved at this look; how long to wait before the next.
    pub fn still(&mut self) -> Duration {
        self.still = self.still.saturating_add(1);
        if self.still <= SPINS {
            return Duration::ZERO;
        }
        let pause = self.pause.min(self.pause_max);
        self.pause = (self.pause * 2).min(self.pause_max.max(PAUSE_MIN));
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew() {
        let bound = Duration::from_millis(1);
        let mut pace = Pace::new(bound);
        let pauses: Vec<Duration> = (0..SPINS + 20).map(|_| pace.still()).collect();
        assert!(pauses[..SPINS as usize].iter().all(Duration::is_zero));
        assert!(pauses[SPINS as usize..].is_sorted());
        assert_eq!(pauses.last(), Some(&bound));
        pace.moved();
        assert_eq!(pace.still(), Duration::ZERO);
    }

    #[test]
    fn a_trickle_is_gathered_and_a_backlog_is_not_left_waiting() {
        let mut pace = Pace::new(Duration::from_millis(1));
        assert_eq!(pace.applied(0), PAUSE_MIN);
        assert_eq!(pace.applied(BACKLOG_BYTES), Duration::ZERO);
        assert_eq!(pace.still(), Duration::ZERO, "as after anything that moved");
    }

    #[test]
    fn a_bound_of_zero_never_pauses() {
        let mut pace = Pace::new(Duration::ZERO);
        assert!((0..1000).all(|_| pace.still().is_zero() && pace.applied(0).is_zero()));
    }
}
