//! What everything else stands on and what stands on nothing: time, terms, hashes, limits. Pure:
//! no I/O, no state.

pub mod hash;
pub mod limits;
pub mod term;
pub mod time;
