//! Time as the cache knows it. Expiry goes by whole seconds since the Unix epoch, absolute, so that
//! every replica judges it alike. Everything else (how long a connection has been idle, how long a
//! client has taken no byte) goes by a clock that never steps: when somebody sets the wall clock,
//! no connection is closed for it.

use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// Seconds since the Unix epoch; 32 bits last until 2106. Never zero in a running server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct UnixSeconds(pub u32);

impl UnixSeconds {
    /// The wall clock, now.
    pub fn now() -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        UnixSeconds(since_epoch.map_or(1, |elapsed| elapsed.as_secs().clamp(1, u32::MAX as u64) as u32))
    }
}

/// Milliseconds of a clock that goes on while the host sleeps.
pub fn boot_milliseconds() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Whole seconds of a clock that only goes forward, at the same pace whatever is done to the wall
/// clock. Where it began means nothing: only differences do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct SteadySeconds(pub u32);

impl SteadySeconds {
    /// Seconds since `earlier`; 0 if that is later.
    pub fn since(self, earlier: SteadySeconds) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where a server's time comes from. Both clocks are the system's coarse ones, which lag by a few
/// milliseconds at most and cost next to nothing: they are read once a turn, for whole seconds.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// How the wall clock is off; None outside of tests.
    set: Option<Arc<Settings>>,
}

/// What somebody has done to a wall clock.
#[derive(Debug, Default)]
struct Settings {
    /// Seconds by which it is off.
    step_seconds: Arc<AtomicI64>,
    /// The second, of the system's clock, at which it stands; 0 while it goes.
    stands_at: AtomicI64,
}

impl Settings {
    /// What the clock shows at `seconds` of the system's.
    #[cold]
    fn shown(&self, seconds: i64) -> i64 {
        let stands_at = self.stands_at.load(Relaxed);
        let seconds = if stands_at == 0 { seconds } else { stands_at };
        seconds.saturating_add(self.step_seconds.load(Relaxed))
    }
}

/// What may be done to a wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockChange {
    /// It stands.
    Pause,
    /// It goes again, from where it would be by now.
    Resume,
    /// It is set forward by so many seconds, or back.
    Step(i64),
}

impl Clock {
    /// The system's clocks, the wall clock off by as many seconds as stand in `step_seconds`: as if
    /// somebody had set it. For tests, which cannot set the clock of their host.
    pub fn with_wall_steps(step_seconds: Arc<AtomicI64>) -> Clock {
        Clock { set: Some(Arc::new(Settings { step_seconds, ..Settings::default() })) }
    }

    /// The system's clocks; the wall clock can be changed.
    pub fn changeable() -> Clock {
        Clock { set: Some(Arc::default()) }
    }

    /// Change the wall clock, for all who have this one; false where that cannot be done.
    pub fn change(&self, change: ClockChange) -> bool {
        let Some(set) = &self.set else { return false };
        match change {
            ClockChange::Pause => {
                let _ =
                    set.stands_at.compare_exchange(0, clock_gettime(ClockId::RealtimeCoarse).tv_sec, Relaxed, Relaxed);
            }
            ClockChange::Resume => set.stands_at.store(0, Relaxed),
            ClockChange::Step(seconds) => {
                set.step_seconds.fetch_add(seconds, Relaxed);
            }
        }
        true
    }

    /// The wall clock, now.
    pub fn wall(&self) -> UnixSeconds {
        let seconds = clock_gettime(ClockId::RealtimeCoarse).tv_sec;
        let seconds = self.set.as_ref().map_or(seconds, |set| set.shown(seconds));
        UnixSeconds(seconds.clamp(1, u32::MAX.into()) as u32)
    }

    /// The clock that never steps, now.
    pub fn steady(&self) -> SteadySeconds {
        SteadySeconds(clock_gettime(ClockId::MonotonicCoarse).tv_sec.clamp(0, u32::MAX.into()) as u32)
    }
}

/// When an item ceases to be: an absolute second, or never. Stored as its number, 0 meaning never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expiry(u32);

impl Expiry {
    /// The item stays until it is evicted or deleted.
    pub const NEVER: Expiry = Expiry(0);
    /// Already over, whatever the clock says.
    pub const PAST: Expiry = Expiry(1);

    /// Expires when the clock reaches `at`; a zero is taken as [`Expiry::PAST`], since it would
    /// read as never.
    pub fn at(at: UnixSeconds) -> Self {
        Expiry(at.0.max(1))
    }

    /// From the number that a record keeps.
    pub fn from_bits(bits: u32) -> Self {
        Expiry(bits)
    }

    /// The number that a record keeps.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// True once `now` has reached the expiry.
    pub fn has_passed(self, now: UnixSeconds) -> bool {
        self.0 != 0 && self.0 <= now.0
    }

    /// Seconds left at `now`, or None for never.
    pub fn remaining(self, now: UnixSeconds) -> Option<u32> {
        (self.0 != 0).then(|| self.0.saturating_sub(now.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_stands_goes_and_steps() {
        let clock = Clock::changeable();
        let other = clock.clone();
        assert!(clock.change(ClockChange::Pause) && clock.change(ClockChange::Pause));
        let stands = other.wall().0;
        assert!(clock.change(ClockChange::Step(100)));
        assert_eq!(other.wall().0, stands + 100);
        assert!(clock.change(ClockChange::Step(-40)));
        assert_eq!(other.wall().0, stands + 60);
        assert!(clock.change(ClockChange::Resume));
        assert!(other.wall().0 >= stands + 60);
        assert!(!Clock::default().change(ClockChange::Pause), "the system's own");
    }
}
