//! What everything else stands on and what stands on nothing: time, epochs, hashes, limits. Pure:
//! no I/O, no state.

pub mod epoch;
pub mod hash;
pub mod limits;
pub mod time;
