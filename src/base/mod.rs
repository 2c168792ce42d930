//! What everything else stands on and what stands on nothing: time, terms, hashes, limits, sets of
//! shards. Pure: no I/O, no state.

pub mod hash;
pub mod limits;
pub mod shards;
pub mod term;
pub mod time;
