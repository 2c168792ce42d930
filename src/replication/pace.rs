//! How long a replica waits between two looks at a primary where nothing moves: first not at all, then a little, then longer.

use std::time::Duration;

/// Looks without a pause after the last thing that moved: about the time of a few dozen requests over shared memory.
const SPINS: u32 = 64;
/// The first pause.
const PAUSE_MIN: Duration = Duration::from_micros(20);

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

    /// Something moved.
    pub fn moved(&mut self) {
        self.still = 0;
        self.pause = PAUSE_MIN;
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
    fn a_bound_of_zero_never_pauses() {
        let mut pace = Pace::new(Duration::ZERO);
        assert!((0..1000).all(|_| pace.still().is_zero()));
    }
}
