//! Whether a thread has stood still.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// Since when the thread that decides was at work or waited. What it has worked is no standing
/// still: who works hears nothing, but decides by what it has heard.
pub struct Watch {
    at: Instant,
    worked: Duration,
}

impl Watch {
    /// From now on.
    pub fn begin() -> Watch {
        Watch { at: Instant::now(), worked: worked() }
    }

    /// For how long it has not worked since then.
    pub fn stood_still(&self) -> Duration {
        self.at.elapsed().saturating_sub(worked().saturating_sub(self.worked))
    }
}

/// For how long this thread has had a processor.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
