//! What everything else stands on and what stands on nothing: time, terms, leases, hashes, limits,
//! sets of shards, buffers that are used again, and which library TLS computes with. No I/O, and no
//! state but spare buffers.

#[cfg(not(loom))]
pub mod crypto;
pub mod hash;
pub mod lease;
pub mod limits;
pub mod reused;
pub mod shards;
pub mod term;
pub mod time;
