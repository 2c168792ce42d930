//! Where this process stands in a chain of replicas: its own number, how many links it is away from
//! the root, and how far behind the root it is. (The *root* is the server that takes writes; each
//! replica *above* this one is nearer to the root.) The thread that follows writes what it hears
//! from above; sessions tell it to the replicas below, once a second.
//!
//! The lag is the sum of what each link has measured. Time in which nothing was heard from above
//! counts as lag.

use super::HEARTBEAT;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Replicas in a row. A longer chain is a mistake, or a circle: in a circle the depth that each
/// tells the next grows until it reaches this.
pub const DEPTH_MAX: u32 = 16;
/// A heartbeat that is at most so old counts as current. One comes each second, and a busy host may
/// delay it.
const FRESH: Duration = HEARTBEAT.saturating_mul(3);

/// How far from the root; all zero at the root itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Distance {
    /// Links from here to the root.
    pub depth: u32,
    /// Behind, in bytes: the sum over all links.
    pub lag_bytes: u64,
    /// Behind, in time: the same.
    pub lag_microseconds: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Standing {
    replica: [u8; 16],
    /// None at the root.
    below: Mutex<Option<Below>>,
}

/// What a process that follows knows.
#[derive(Debug, Clone, Copy)]
struct Below {
    upstream: Distance,
    heard_at: Instant,
    lag_bytes: u64,
    lag_microseconds: u64,
    measured_at: Instant,
}

impl Standing {
    /// Of the process that calls itself `replica` when it follows. It counts as a root until it
    /// hears from above.
    pub fn new(replica: [u8; 16]) -> Standing {
        Standing { replica, below: Mutex::new(None) }
    }

    /// Whether `replica` is this process.
    pub fn is(&self, replica: &[u8; 16]) -> bool {
        self.replica == *replica
    }

    /// The server that this process follows has told its own distance.
    pub fn heard(&self, upstream: Distance) {
        let now = Instant::now();
        self.update(|below| Below { upstream, heard_at: now, ..below });
    }

    /// This process is so far behind the server that it follows.
    pub fn measured(&self, lag_bytes: u64, lag: Duration) {
        let (lag_microseconds, measured_at) = (lag.as_micros() as u64, Instant::now());
        self.update(|below| Below { lag_bytes, lag_microseconds, measured_at, ..below });
    }

    /// Before the first heartbeat, the server that is followed counts as the root.
    fn update(&self, change: impl FnOnce(Below) -> Below) {
        let mut below = self.below();
        let new = || {
            let now = Instant::now();
            let upstream = Distance::default();
            Below { upstream, heard_at: now, lag_bytes: 0, lag_microseconds: 0, measured_at: now }
        };
        *below = Some(change(below.unwrap_or_else(new)));
    }

    /// This process takes writes from now on.
    pub fn be_root(&self) {
        *self.below() = None;
    }

    /// How far from the root it is now.
    pub fn distance(&self) -> Distance {
        self.distance_at(Instant::now())
    }

    fn distance_at(&self, now: Instant) -> Distance {
        let Some(below) = *self.below() else { return Distance::default() };
        let unheard = |since: Instant| match now.saturating_duration_since(since) {
            age if age > FRESH => age.as_micros() as u64,
            _ => 0,
        };
        let upstream = below.upstream;
        Distance {
            depth: upstream.depth.saturating_add(1),
            lag_bytes: upstream.lag_bytes.saturating_add(below.lag_bytes),
            lag_microseconds: upstream
                .lag_microseconds
                .saturating_add(below.lag_microseconds)
                .saturating_add(unheard(below.heard_at).max(unheard(below.measured_at))),
        }
    }

    fn below(&self) -> MutexGuard<'_, Option<Below>> {
        self.below.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_adds_up_and_a_root_has_none() {
        let standing = Standing::new([1; 16]);
        assert!(standing.is(&[1; 16]) && !standing.is(&[2; 16]));
        assert_eq!(standing.distance(), Distance::default(), "it follows nobody");
        standing.measured(100, Duration::from_millis(1));
        let to_root = Distance { depth: 1, lag_bytes: 100, lag_microseconds: 1000 };
        assert_eq!(standing.distance(), to_root, "the server that is followed counts as the root until it is heard");
        standing.heard(Distance { depth: 2, lag_bytes: 1000, lag_microseconds: 70 });
        standing.measured(100, Duration::from_micros(5));
        assert_eq!(standing.distance(), Distance { depth: 3, lag_bytes: 1100, lag_microseconds: 75 });
        standing.be_root();
        assert_eq!(standing.distance(), Distance::default());
    }

    #[test]
    fn time_in_which_nothing_is_heard_is_lag() {
        let standing = Standing::new([1; 16]);
        standing.heard(Distance::default());
        standing.measured(0, Duration::ZERO);
        let heard_at = standing.below().expect("it was heard").heard_at;
        assert_eq!(standing.distance_at(heard_at + FRESH / 2), Distance { depth: 1, ..Distance::default() });
        let later = standing.distance_at(heard_at + Duration::from_secs(100));
        assert_eq!(later, Distance { depth: 1, lag_bytes: 0, lag_microseconds: 100_000_000 });
    }

    #[test]
    fn what_no_chain_has_overflows_nothing() {
        let standing = Standing::new([1; 16]);
        standing.heard(Distance { depth: u32::MAX, lag_bytes: u64::MAX, lag_microseconds: u64::MAX });
        standing.measured(u64::MAX, Duration::from_secs(1));
        assert_eq!(standing.distance_at(Instant::now() + Duration::from_secs(9)).depth, u32::MAX);
    }
}
