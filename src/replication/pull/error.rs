//! Why pulling ended: of all lanes of a puller, or of one.

use crate::base::term::Term;
use crate::fabric::FabricError;
use crate::replication::resume::Why;
use crate::store::BadRecord;
use std::time::Duration;

/// Why a puller ended: its channel is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The channel failed.
    #[error("{0}")]
    Fabric(#[from] FabricError),
    /// READs did not come back.
    #[error("{0} READs were not answered within {1:?}")]
    Stuck(usize, Duration),
}

impl LaneEnd {
    /// The log that is followed has become another one, which whoever subscribes again is told of.
    pub fn is_no_failure(&self) -> bool {
        matches!(self, LaneEnd::TermChanged(_) | LaneEnd::BeganAnew { .. })
    }
}

/// Why one lane ended. The others of its puller go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LaneEnd {
    /// The primary has begun a term that is not in the history that it told. Joining again tells
    /// the new history.
    #[error("the primary's term is now {0}")]
    TermChanged(Term),
    /// The server that is followed is a replica itself, and has begun its log anew. This replica
    /// keeps what it has; joining again decides where it goes on.
    #[error("shard {shard}: the server that this replica follows has begun its log anew: {what}")]
    BeganAnew {
        /// Which.
        shard: usize,
        /// How that was seen.
        what: &'static str,
    },
    /// What is here would have to be given up, and this puller gives nothing up.
    #[error("shard {shard}: what is here would have to begin anew ({why}), and is kept")]
    Kept {
        /// Which.
        shard: usize,
        /// Why.
        why: Why,
    },
    /// A following of before has not let go of it yet.
    #[error("shard {shard}: another thread writes to it still")]
    Held {
        /// Which.
        shard: usize,
    },
    /// The primary's shard has more memory than this store can give its own.
    #[error("shard {shard}: the primary has {capacity} bytes for it, and this replica has not so much: restart it")]
    NoMemory {
        /// Which.
        shard: usize,
        /// In bytes.
        capacity: u64,
    },
    /// Its control lines make no sense.
    #[error("shard {shard}: the primary's control line makes no sense: {what}")]
    Senseless {
        /// Which.
        shard: usize,
        /// In words.
        what: &'static str,
    },
    /// A record that the primary has published is broken.
    #[error("shard {shard}: the record at position {position} failed its check {times} times: {why}")]
    BadRecord {
        /// Which.
        shard: usize,
        /// Where.
        position: u64,
        /// How often in a row.
        times: u32,
        /// How.
        why: BadRecord,
    },
}
