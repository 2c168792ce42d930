//! How long a server is sure of its roles, where all threads can look.

use super::time::boot_milliseconds;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// See the module. One that nobody has set never ends.
pub struct Lease {
    /// In [`boot_milliseconds`].
    until: AtomicU64,
    strong_replicas: AtomicU8,
}

impl Default for Lease {
    fn default() -> Lease {
        Lease { until: AtomicU64::new(u64::MAX), strong_replicas: AtomicU8::new(0) }
    }
}

impl Lease {
    /// It ends then.
    pub fn set_until(&self, milliseconds: u64) {
        self.until.store(milliseconds, Release);
    }

    /// When it ends, in [`boot_milliseconds`].
    pub fn until(&self) -> u64 {
        self.until.load(Acquire)
    }

    /// Whether it has not ended.
    pub fn is_in_force(&self) -> bool {
        boot_milliseconds() < self.until()
    }

    /// In strong mode, how many replicas must have what a client is shown; 0 outside of it.
    pub fn strong_replicas(&self) -> u8 {
        self.strong_replicas.load(Relaxed)
    }

    /// See [`Lease::strong_replicas`].
    pub fn set_strong_replicas(&self, replicas: u8) {
        self.strong_replicas.store(replicas, Relaxed);
    }
}

/// What the policy of a cluster asks of this server, and whether its lease is in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sureness {
    /// In strong mode, how many replicas must have what a client is shown; 0 outside of it.
    pub strong_replicas: u8,
    /// Writes that no replica acknowledges are refused: the lease has ended, and the policy says
    /// so.
    pub refuses: bool,
}

/// Has requests heed this from now on.
pub type Heed = Arc<dyn Fn(Sureness) + Send + Sync>;
