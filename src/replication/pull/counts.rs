//! What a puller counts.

use crate::replication::resume::Why;

/// What was counted since the puller was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Looks at the control lines.
    pub looks: u64,
    /// Bytes of logs read.
    pub pulled_bytes: u64,
    /// READs of logs.
    pub pieces: u64,
    /// Records applied.
    pub records: u64,
    /// Shards that went on from their cursor.
    pub continued: u64,
    /// Shards that began for the first time.
    pub joined: u64,
    /// Shards that were overrun and began anew at the tail.
    pub overrun: u64,
    /// Shards that had diverged and began anew.
    pub diverged: u64,
    /// Shards that had diverged and went back to where the logs part.
    pub truncated: u64,
    /// Records that diverged shards had beyond the last position in common. They are gone.
    pub diverged_records: u64,
    /// Bytes of log that diverged shards had beyond that position.
    pub diverged_bytes: u64,
    /// Shards whose log was of another lineage and was given up, as told.
    pub discarded: u64,
    /// Records that failed their check.
    pub bad_records: u64,
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Counts) -> Counts {
        Counts {
            looks: self.looks + other.looks,
            pulled_bytes: self.pulled_bytes + other.pulled_bytes,
            pieces: self.pieces + other.pieces,
            records: self.records + other.records,
            continued: self.continued + other.continued,
            joined: self.joined + other.joined,
            overrun: self.overrun + other.overrun,
            diverged: self.diverged + other.diverged,
            truncated: self.truncated + other.truncated,
            diverged_records: self.diverged_records + other.diverged_records,
            diverged_bytes: self.diverged_bytes + other.diverged_bytes,
            discarded: self.discarded + other.discarded,
            bad_records: self.bad_records + other.bad_records,
        }
    }

    pub(super) fn count(&mut self, why: Why) {
        match why {
            Why::Joins => self.joined += 1,
            Why::Overrun => self.overrun += 1,
            Why::Diverged => self.diverged += 1,
        }
    }
}
