//! RDMA, over `native/`: reliable-connected queue pairs, connected by RDMA CM.
//!
//! | file | what it is |
//! | --- | --- |
//! | `native` | the C layer, made safe: the only unsafe code here |
//! | `devices` | which devices there are, and which one, with which address, is meant |
//! | `exporter` | the primary's end: what its owner calls |
//! | `listener` | its thread: accepts, and listens again once a device or an address is back |
//! | `desk` | which tokens are expected |
//! | `standing` | whether it listens, over which device, and what is registered with that |
//! | `backoff` | pauses between tries |
//! | `preparing` | work that takes long, on a thread of its own |
//! | `registered` | regions that are registered, once for all replicas, and their protection domain |
//! | `grant` | what one replica was given: registered regions, an ack slot, one queue pair |
//! | `connecting` | the replica's way to a channel |
//! | `channel` | the replica's end: READs, completions, acks |
//! | `watch` | a device's own events: a queue pair or the device has failed |
//! | `errors` | refusals and completions in words, with what helps |
//!
//! Things are destroyed in this order: the queue pair, then registrations, then the protection
//! domain. Each holds a reference to what it was made from.

mod backoff;
mod channel;
mod connecting;
mod desk;
mod devices;
mod errors;
mod exporter;
mod grant;
mod listener;
mod native;
mod preparing;
mod registered;
mod standing;
mod watch;

pub use connecting::connect;
pub use devices::{DeviceInfo, Gid, IWARP, PortInfo, devices, is_possible};
pub use exporter::Exporter;
pub use native::registrations;

/// Whether this build has RDMA, that is, whether it was compiled on a host that had the headers.
pub const BUILT: bool = cfg!(remora_verbs);

/// Whether the RDMA libraries can be loaded; if not, the loader's words.
pub fn libraries() -> Result<(), String> {
    native::library().map(drop).map_err(str::to_string)
}

/// Which device to use, where not all of it follows from an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerbsOptions {
    /// Its name, as `remora doctor` lists it.
    pub device: Option<String>,
    /// Its port, from 1.
    pub port: Option<u8>,
    /// The entry of the port's table of GIDs. The GIDs of RoCE are network addresses, and RDMA CM
    /// is bound to the address of this one.
    pub gid_index: Option<u8>,
    /// Type of service of the channels that this end connects (RoCE: traffic class); None for the
    /// system's own.
    pub tos: Option<u8>,
    /// Wait for an answer before each retransmission.
    pub ack_timeout: AckTimeout,
}

/// A time that a queue pair can wait for an answer: 4.096 us * 2^n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckTimeout(u8);

impl AckTimeout {
    /// The longest, in milliseconds: with it a host that has vanished is noticed after four
    /// minutes.
    pub const MILLISECONDS_MAX: u32 = 34_000;
    /// With it a host that has lost its power is noticed after about two seconds, and a packet that
    /// a switch drops costs a quarter of one.
    pub const MILLISECONDS_DEFAULT: u32 = 250;

    /// The shortest that is no less than so many milliseconds.
    pub fn at_least(milliseconds: u32) -> AckTimeout {
        let microseconds = u64::from(milliseconds.clamp(1, Self::MILLISECONDS_MAX)) * 1000;
        let is_enough = |exponent: &u8| (4_096u64 << exponent) / 1000 >= microseconds;
        AckTimeout((1..=31).find(is_enough).expect("the longest of all is two hours"))
    }

    /// The n.
    pub fn exponent(self) -> u8 {
        self.0
    }
}

impl Default for AckTimeout {
    fn default() -> AckTimeout {
        AckTimeout::at_least(Self::MILLISECONDS_DEFAULT)
    }
}

/// Retransmissions before a peer counts as gone. One less than a queue pair can be told: soft-RoCE
/// takes 7 for "for ever", and never noticed a host that had lost its power.
const RETRIES: u8 = 6;

/// Retries of a peer that is not ready. READs and WRITEs need no receive, so this is only for
/// devices that fault in pages meanwhile; 7 would mean for ever.
const RNR_RETRIES: u8 = 6;

/// READs under way on one queue pair. More than [`super::DEPTH_MAX`] are never posted.
const READ_DEPTH: u8 = super::DEPTH_MAX as u8;

/// Bytes of an ack that a queue pair is to take inline: a summary and 16 positions. The device
/// fetches longer ones from a buffer, which costs a round trip over its bus.
const INLINE_BYTES: usize = 192;

const _: () = assert!(super::DEPTH_MAX <= native::READS_MAX, "a batch is one chain of requests");

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
