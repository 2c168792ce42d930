//! A part of a shard's log on its way: within one slab, so that one READ brings it.

use crate::fabric::Landing;
use std::time::Instant;

/// A part of the log under way, arrived, or half applied.
pub struct Piece {
    /// Its READ's.
    pub number: u32,
    /// Its first position.
    pub begin: u64,
    /// Its length.
    pub bytes: usize,
    /// The round that brings it.
    pub round: u64,
    /// Its bytes, once they have arrived.
    pub landing: Option<Landing>,
    /// The tail that the first look behind it has shown.
    pub tail_after: Option<u64>,
    /// When that look had arrived, and the piece had not.
    pub overtaken_at: Option<Instant>,
    /// Words of it that have been consumed.
    pub consumed: usize,
}

impl Piece {
    /// One that is asked for in round `round`.
    pub fn new(number: u32, begin: u64, bytes: usize, round: u64) -> Piece {
        Piece { number, begin, bytes, round, landing: None, tail_after: None, overtaken_at: None, consumed: 0 }
    }
}
