//! Reading another process's memory, one-sided: the primary offers regions, a replica READs them,
//! and the primary's threads take no part. The layers above know what the bytes mean; this one does
//! not.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`landing`] | where a READ puts its bytes: owned memory, moved into the fabric and back |
//! | [`error`] | how a channel fails, with its cause |
//! | `open` | the one place that knows them all: listen, connect |
//! | `write` | channels that WRITE data as well. For push alone |
//! | [`verbs`] | RDMA: reliable-connected queue pairs by RDMA CM, over `native/` |
//! | [`shm`] | one host: the primary's memory is mapped read-only, a READ is a copy |
//! | [`tcp`] | any network: a thread of the primary's answers READs |
//! | [`sim`] | in one process, by seed: delay, reorder, tear, drop, cut. For tests |
//! | `door`, `waiting` | what shm and tcp share: strangers that connect, and grants that wait for them |
//!
//! A channel has two ends. A primary has an
//! [`Exporter`] for each fabric that it offers, and makes a [`Grant`] for each replica that has
//! proved itself: a token, a descriptor of each region, and an ack slot. The replica calls
//! [`connect`] with these and gets a [`Channel`]. Dropping the grant ends the channel first and
//! everything else after it. Dropping the channel leaves nothing registered, mapped or under way.
//!
//! Push (replication/push) is there to be compared with that. It has the ends reversed: the replica
//! makes the grant, of regions that may be written to ([`Access::Write`]), and the primary connects
//! a [`WriteChannel`].
//!
//! Rules that all four fabrics keep; tests/conformance/fabric.rs checks them:
//! - A READ that is submitted once another one of its channel has completed sees no older bytes
//!   than that one. Of READs that are under way together, and of the bytes of one READ, none is
//!   promised to be older: a network card may fetch them in any order.
//! - Each READ that was taken comes back exactly once, with its landing, as a [`Completion`]. After
//!   a failure of the channel it comes back failed, or is dropped with the channel.
//! - When a READ completes without an error, its landing's first `bytes` bytes are filled, and
//!   nothing writes to them any more.
//! - A READ or WRITE beyond a region ends the channel with [`error::Cause::Access`], and reads or
//!   changes nothing beyond it. A WRITE to a region that is for reading alone changes nothing
//!   either.
//! - WRITEs of a [`WriteChannel`] are carried out in order with READs: once a READ has completed,
//!   every WRITE that was submitted before it has left its source and has arrived; one that was
//!   submitted later arrives later.
//! - No call waits longer than the caller allows.
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

mod door;
pub mod error;
pub mod landing;
mod open;
pub mod shm;
pub mod sim;
pub mod tcp;
pub mod verbs;
mod waiting;
mod write;

use crate::sys::memory::Memfd;
pub use error::{Cause, FabricError};
pub use landing::Landing;
pub use open::{ConnectOptions, connect, is_possible, listen};
use std::sync::Arc;
use std::time::Duration;
pub use write::{ConnectsWriters, WRITE_DEPTH_MAX, Write, WriteChannel};

/// Which fabric. The handshake sends its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Shared memory of one host.
    Shm = 1,
    /// RDMA.
    Verbs = 2,
    /// A responder behind a TCP connection.
    Tcp = 3,
    /// Within one process, for tests.
    Sim = 4,
}

impl Kind {
    /// From its number.
    pub fn from_number(number: u8) -> Option<Kind> {
        [Kind::Shm, Kind::Verbs, Kind::Tcp, Kind::Sim].into_iter().find(|kind| *kind as u8 == number)
    }

    /// As in `--fabric` and in stats.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Shm => "shm",
            Kind::Verbs => "verbs",
            Kind::Tcp => "tcp",
            Kind::Sim => "sim",
        }
    }
}

/// Most READs of one channel under way.
pub const DEPTH_MAX: usize = 16;
/// Most bytes of one READ.
pub const READ_BYTES_MAX: usize = 4 << 20;
/// Bytes of an ack slot: a summary, and a position for each of 1,024 shards; in whole pages.
pub const ACK_BYTES: usize = 12 << 10;
/// Longest wait for a data channel to be connected.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);

/// A random number that admits one data channel, once. It is made for a grant, and the peer is told
/// it over the control connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub [u8; 16]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)") // not for logs
    }
}

/// A region as its peers name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Address of its first byte (verbs: the virtual address at the primary; other fabrics: 0).
    pub address: u64,
    /// Key that gives access (verbs: the rkey; other fabrics: 0).
    pub key: u64,
    /// Its length.
    pub bytes: u64,
}

/// What a peer may do with a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// READ it.
    Read,
    /// READ it, and WRITE anything to it at any time.
    Write,
}

/// Memory that one end offers; regions are numbered from 0.
pub trait Regions: Send + Sync {
    /// How many there are; never changes.
    fn count(&self) -> usize;
    /// One of them. A region that peers may WRITE to must be made by [`Memfd::for_writers`].
    fn memory(&self, number: usize) -> &Memfd;
    /// What peers may do with it; never changes.
    fn access(&self, _number: usize) -> Access {
        Access::Read
    }
}

/// The primary's end of a fabric: it listens for data channels. Dropping it ends its threads;
/// grants must be gone by then.
pub trait Exporter: Send + Sync {
    /// Which fabric.
    fn kind(&self) -> Kind;
    /// Where replicas connect: what [`connect`] is given at the other end. For fabrics with a
    /// network port it is `ADDR:PORT`, with the unspecified address if it listens on all addresses.
    fn address(&self) -> String;
    /// Begin to make `regions` ready, in the background, for grants of them. Until that is done
    /// [`Exporter::grant`] fails with [`Cause::NotYet`]. Call it once, if at all: regions that were
    /// not prepared are made ready by each grant of them, which takes the longer the larger they
    /// are.
    fn prepare(&mut self, _regions: &Arc<dyn Regions>) -> Result<(), FabricError> {
        Ok(())
    }
    /// How far that is.
    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }
    /// Offer `regions` to the one peer that will show `token`. It must connect within
    /// [`CONNECT_WAIT_MAX`].
    fn grant(&self, token: Token, regions: Arc<dyn Regions>) -> Result<Box<dyn Grant>, FabricError>;
    /// What connects a [`WriteChannel`], if the fabric has such channels.
    fn writer(&self) -> Option<&dyn ConnectsWriters> {
        None
    }
}

/// How far an exporter is with what it was told to prepare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// There is nothing to wait for.
    Ready,
    /// Memory is being registered with a device.
    Registering {
        /// So much is.
        done_bytes: u64,
        /// Of so much.
        bytes: u64,
    },
    /// It has failed, and is tried again now and then.
    Failed(FabricError),
}

impl Readiness {
    /// For people.
    pub fn words(&self) -> String {
        match self {
            Readiness::Ready => "ready".into(),
            Readiness::Registering { done_bytes, bytes } => {
                format!("registering, {} of {} MiB", done_bytes >> 20, bytes.div_ceil(1 << 20))
            }
            Readiness::Failed(error) => format!("failed: {error}"),
        }
    }
}

/// What one replica was given. Dropping it takes everything back: it ends the channel first, so
/// that the peer can read no more, and then drops the ack slot, and what was registered for it
/// alone.
pub trait Grant: Send {
    /// The regions, by number; the ack slot is not among them.
    fn descriptors(&self) -> &[Descriptor];
    /// The ack slot, [`ACK_BYTES`] long, to which the peer WRITEs. It may outlive the grant; then
    /// it shows the peer's last WRITEs.
    fn ack(&self) -> &Arc<Memfd>;
    /// The ack slot's descriptor for the peer.
    fn ack_descriptor(&self) -> Descriptor;
    /// Whether the channel is connected; an error once it has ended.
    fn state(&mut self) -> Result<GrantState, FabricError>;
}

/// How far a grant is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantState {
    /// The peer has not connected yet.
    Waiting,
    /// The peer is connected.
    Connected,
}

/// One READ: `bytes` bytes from `offset` of a region, to the start of a landing that is at least so
/// long.
pub struct Read {
    /// Which region.
    pub region: u32,
    /// From where, in bytes.
    pub offset: u64,
    /// How many; a multiple of 8, at most [`READ_BYTES_MAX`].
    pub bytes: usize,
    /// Where to. It is the fabric's until the READ is done.
    pub landing: Landing,
    /// A number of the caller's, which comes back with the completion.
    pub tag: u64,
}

/// A READ that is done. The caller owns the landing again, whatever the outcome.
pub struct Completion {
    /// The READ's tag.
    pub tag: u64,
    /// The READ's landing.
    pub landing: Landing,
    /// How it ended.
    pub outcome: Result<(), FabricError>,
}

/// The replica's end of a data channel.
pub trait Channel: Send {
    /// Which fabric.
    fn kind(&self) -> Kind;
    /// The NUMA node of the device that fills landings; None if none is nearer than another.
    fn numa_node(&self) -> Option<u32> {
        None
    }
    /// How many READs may be submitted at a time, and not completed; at most [`DEPTH_MAX`]. (Over
    /// verbs the peer may take fewer at a time: the others wait in the channel.)
    fn depth_max(&self) -> usize;
    /// A new landing of `bytes` bytes (a multiple of 4096) that this channel's READs can fill. Make
    /// few and reuse them.
    fn landing(&mut self, bytes: usize) -> Result<Landing, FabricError>;
    /// Submit all of `reads`, in their order, with one doorbell. Panics if more than
    /// [`Channel::depth_max`] would be under way, or if a READ is longer than its landing: these
    /// are bugs of the caller.
    fn submit(&mut self, reads: &mut Vec<Read>) -> Result<(), FabricError>;
    /// Append finished READs to `done`, and return how many there were. Waits up to `wait` for the
    /// first one. An error means that the channel has ended.
    fn poll(&mut self, done: &mut Vec<Completion>, wait: Duration) -> Result<usize, FabricError>;
    /// WRITE `words`, at most [`ACK_BYTES`], at `offset` (in bytes, aligned) of the ack slot. Each
    /// word arrives whole, and WRITEs arrive in their order, but the words of one WRITE in any:
    /// some may be seen before others are there. Never waits. True once the words are taken, not
    /// once they have arrived; a failure shows in a later call. False: there is no room now, so try
    /// again later, with what has changed by then. A channel that has had none
    /// for a second ends.
    fn write_ack(&mut self, offset: usize, words: &[u64]) -> Result<bool, FabricError>;
}

/// What a peer was told about its grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Where to connect.
    pub address: String,
    /// What to show.
    pub token: Token,
    /// The regions.
    pub regions: Vec<Descriptor>,
    /// The ack slot.
    pub ack: Descriptor,
}

impl Invitation {
    /// To what `exporter` has granted to whoever shows `token`.
    pub fn new(exporter: &dyn Exporter, token: Token, grant: &dyn Grant) -> Invitation {
        let (regions, ack) = (grant.descriptors().to_vec(), grant.ack_descriptor());
        Invitation { address: exporter.address(), token, regions, ack }
    }
}
