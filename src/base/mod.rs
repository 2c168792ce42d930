//! What everything else stands on and what stands on nothing: time, terms, leases, hashes, limits,
//! sets of shards, and which library TLS computes with. Pure: no I/O, no global state.

#[cfg(not(loom))]
pub mod crypto;
pub mod hash;
pub mod lease;
pub mod limits;
pub mod shards;
pub mod term;
pub mod time;
