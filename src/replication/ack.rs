//! The ack slot: what a replica tells its primary, by one-sided WRITEs of one line each, into
//! memory of the primary that only this replica writes to.
//!
//! ```text
//! line 0       epoch | lag in bytes | lag in microseconds | bytes pulled | records applied | begun anew | bad records | beats
//! line 1 + n   applied positions of shards 8 n to 8 n + 7
//! ```
//!
//! Each word arrives whole, and WRITEs arrive in the order in which they were made: positions
//! first, then line 0. A replica writes a position only once it has applied everything below it.

use crate::base::epoch::Epoch;
use crate::fabric::{ACK_BYTES, Channel, FabricError, WRITE_BYTES_MAX};
use crate::store::sizing;
use crate::sys::sync::{AtomicU64, Ordering::Acquire};

const LINE_WORDS: usize = WRITE_BYTES_MAX / 8;
/// Shards that a slot has room for.
const SHARDS_MAX: usize = (ACK_BYTES / WRITE_BYTES_MAX - 1) * LINE_WORDS;
const _: () = assert!(SHARDS_MAX >= sizing::SHARDS_MAX);

/// Line 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// What the replica follows; 0 as long as it has written nothing.
    pub epoch: u64,
    /// Bytes that were committed at its last look and that it had not applied.
    pub lag_bytes: u64,
    /// For how long there has been something it had not applied.
    pub lag_microseconds: u64,
    /// Log bytes that it has read, in all.
    pub pulled_bytes: u64,
    /// Records that it has applied, in all.
    pub records: u64,
    /// Times that a shard had to begin anew, beyond the first.
    pub begun_anew: u64,
    /// Records that failed their check.
    pub bad_records: u64,
    /// Grows with each summary.
    pub beats: u64,
}

impl Summary {
    fn words(self) -> [u64; LINE_WORDS] {
        let Summary { epoch, lag_bytes, lag_microseconds, pulled_bytes, records, begun_anew, bad_records, beats } =
            self;
        [epoch, lag_bytes, lag_microseconds, pulled_bytes, records, begun_anew, bad_records, beats]
    }

    /// As it stands in a slot.
    pub fn read(slot: &[AtomicU64]) -> Summary {
        let word = |at: usize| slot[at].load(Acquire);
        Summary {
            epoch: word(0),
            lag_bytes: word(1),
            lag_microseconds: word(2),
            pulled_bytes: word(3),
            records: word(4),
            begun_anew: word(5),
            bad_records: word(6),
            beats: word(7),
        }
    }
}

/// The position that the replica behind this slot has applied of a shard; 0 before it has said so.
pub fn applied(slot: &[AtomicU64], shard: usize) -> u64 {
    slot[LINE_WORDS + shard].load(Acquire)
}

/// The replica's side: writes what has changed since it wrote last.
pub struct Acks {
    written: Vec<[u64; LINE_WORDS]>,
    summary: Summary,
}

impl Acks {
    /// For so many shards.
    pub fn new(shards: usize) -> Acks {
        assert!(shards <= SHARDS_MAX, "more shards than a slot has room for");
        Acks { written: vec![[0; LINE_WORDS]; shards.div_ceil(LINE_WORDS)], summary: Summary::default() }
    }

    /// Tell the primary: positions that have changed, then the summary (its `epoch` and `beats` are
    /// filled in here).
    pub fn write(
        &mut self,
        channel: &mut dyn Channel,
        epoch: Epoch,
        applied: impl Iterator<Item = u64>,
        summary: Summary,
    ) -> Result<(), FabricError> {
        let mut lines = self.written.clone();
        applied.enumerate().for_each(|(shard, position)| lines[shard / LINE_WORDS][shard % LINE_WORDS] = position);
        for (at, (line, written)) in lines.iter().zip(&mut self.written).enumerate() {
            if line != written {
                channel.write_ack((at + 1) * WRITE_BYTES_MAX, line)?;
                *written = *line;
            }
        }
        self.summary = Summary { epoch: epoch.0, beats: self.summary.beats + 1, ..summary };
        channel.write_ack(0, &self.summary.words())
    }
}
