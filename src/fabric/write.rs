//! Channels that WRITE data as well as they READ it, and who connects them: what push
//! (replication/push) is made of. Pull has no use for any of this. shm, verbs and sim have such
//! channels, tcp has none.

use super::{Channel, Exporter, FabricError, Invitation, Kind, Regions};
use std::sync::Arc;

impl Kind {
    /// Whether it has [`WriteChannel`]s.
    pub fn writes(self) -> bool {
        self != Kind::Tcp
    }
}

/// Most WRITEs of one channel behind its last completed READ.
pub const WRITE_DEPTH_MAX: usize = 16;

/// One WRITE: `bytes` bytes from `from` of a source to `offset` of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// Which of the sources.
    pub source: usize,
    /// From where in it, in bytes.
    pub from: usize,
    /// Which region of the peer's.
    pub region: u32,
    /// To where in it, in bytes.
    pub offset: u64,
    /// How many; a multiple of 8, at most [`super::READ_BYTES_MAX`].
    pub bytes: usize,
}

/// A data channel that WRITEs as well, from regions of this end: its sources, which it keeps. Other
/// threads may store to them at any time: a WRITE then sends older and newer words mixed, as a READ
/// does.
pub trait WriteChannel: Channel {
    /// Submit all of `writes`, in their order, with one doorbell. Panics if there are more than
    /// [`WRITE_DEPTH_MAX`] behind the last completed READ, or if one reaches beyond its source:
    /// these are bugs of the caller. Returns once they are taken; a failure may show in a later
    /// call.
    fn write(&mut self, writes: &[Write]) -> Result<(), FabricError>;
}

/// An exporter that also connects in the other direction, over the same device.
pub trait ConnectsWriters: Exporter {
    /// Connect to what a peer's exporter has granted, to WRITE from `sources`. What is prepared of
    /// them ([`Exporter::prepare`]) is used as it is, and until it is ready this fails with
    /// [`super::Cause::NotYet`].
    fn connect(&self, invitation: &Invitation, sources: Arc<dyn Regions>)
    -> Result<Box<dyn WriteChannel>, FabricError>;
}
