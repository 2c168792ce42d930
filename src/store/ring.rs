//! A shard's log: a fixed span of memory, appended at the head, reclaimed at the tail.
//!
//! Positions count bytes since the shard was born and never wrap; they meet memory only in [`Ring::words_at`]. A ring is one or more slabs;
//! **a record's head lies in one slab; its value may go on in the following ones**. Where not even the head fits, what is left of the slab is
//! padded (or, where not even a header fits, skipped).

use super::record::HEADER_BYTES;
use crate::sys::memory::{Backing, Slab};
use crate::sys::sync::AtomicU64;
use crate::sys::words::copy_words;
use std::io;

/// Rings larger than this are made of slabs of this size.
pub const SLAB_BYTES_MAX: usize = 1 << 30;

/// Memory of one ring. What is where in it is the shard's business.
pub struct Ring {
    shard: u32,
    slabs: Box<[Slab]>,
    slab_bytes: u64,
    ring_bytes: u64,
    /// 2^64 / ring_bytes, for a modulo without a division.
    reciprocal: u64,
}

impl Ring {
    /// A ring of `ring_bytes` (a multiple of 8).
    pub fn new(shard: u32, ring_bytes: usize, hugepages: bool) -> io::Result<Ring> {
        Self::with_slabs(shard, ring_bytes, SLAB_BYTES_MAX, hugepages)
    }

    /// With slabs of another size: tests that must cross them.
    pub fn with_slabs(shard: u32, ring_bytes: usize, slab_bytes: usize, hugepages: bool) -> io::Result<Ring> {
        let name = format!("remora-ring-{shard}");
        assert!(ring_bytes.is_multiple_of(8) && slab_bytes.is_multiple_of(8) && ring_bytes >= 8 * HEADER_BYTES);
        let slab = |from: usize| Slab::new(&name, slab_bytes.min(ring_bytes - from), hugepages);
        Ok(Ring {
            shard,
            slabs: (0..ring_bytes).step_by(slab_bytes).map(slab).collect::<io::Result<_>>()?,
            slab_bytes: slab_bytes as u64,
            ring_bytes: ring_bytes as u64,
            reciprocal: u64::MAX / ring_bytes as u64,
        })
    }

    /// The shard whose log it is.
    pub fn shard(&self) -> u32 {
        self.shard
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// What its slabs stand on.
    pub fn backings(&self) -> impl Iterator<Item = Backing> {
        self.slabs.iter().map(Slab::backing)
    }

    /// Its slabs, in order.
    pub fn slabs(&self) -> &[Slab] {
        &self.slabs
    }

    /// Length of each slab but, perhaps, the last.
    pub fn slab_bytes(&self) -> u64 {
        self.slab_bytes
    }

    /// Where in the ring a position lies.
    pub fn place(&self, position: u64) -> u64 {
        let laps = ((u128::from(position) * u128::from(self.reciprocal)) >> 64) as u64;
        let mut place = position - laps * self.ring_bytes;
        while place >= self.ring_bytes {
            place -= self.ring_bytes;
        }
        place
    }

    /// The words from a position to the end of its slab.
    pub fn words_at(&self, position: u64) -> &[AtomicU64] {
        let place = self.place(position);
        let (slab, within) = if self.slabs.len() == 1 {
            (0, place)
        } else {
            ((place / self.slab_bytes) as usize, place % self.slab_bytes)
        };
        &self.slabs[slab].words()[within as usize / 8..]
    }

    /// Copy the words from a position on, slab after slab, into `to`.
    pub fn copy_to(&self, position: u64, mut to: &[AtomicU64]) {
        let mut at = position;
        while !to.is_empty() {
            let words = self.words_at(at);
            let (here, behind) = to.split_at(to.len().min(words.len()));
            copy_words(&words[..here.len()], here);
            at += here.len() as u64 * 8;
            to = behind;
        }
    }

    /// Bytes from a position to the end of its slab.
    pub fn bytes_to_slab_end(&self, position: u64) -> usize {
        self.words_at(position).len() * 8
    }

    /// A position at which a record can begin: this one, or the next slab's start if not even a header fits here.
    pub fn settle(&self, position: u64) -> u64 {
        let left = self.bytes_to_slab_end(position);
        if left < HEADER_BYTES { position + left as u64 } else { position }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn positions_wrap_only_at_the_access() {
        for bytes in [128, 136, 1000, 65_536, (64 << 20) / 3 / 8 * 8] {
            let ring = Ring::new(0, bytes, false).unwrap();
            let huge = u64::MAX / 2 / bytes as u64 * bytes as u64;
            for base in [0, bytes as u64, 7 * bytes as u64, huge] {
                for within in [0, 8, bytes as u64 - 8] {
                    assert_eq!(ring.place(base + within), within);
                    assert_eq!(ring.bytes_to_slab_end(base + within), bytes - within as usize);
                }
            }
        }
    }

    #[test]
    fn a_slab_ends_what_can_be_contiguous() {
        let ring = Ring::with_slabs(0, 256 + 128, 256, false).unwrap();
        assert_eq!(ring.bytes_to_slab_end(0), 256);
        assert_eq!(ring.bytes_to_slab_end(248), 8);
        assert_eq!(ring.settle(248), 256);
        assert_eq!(ring.settle(240), 240);
        assert_eq!(ring.bytes_to_slab_end(256), 128);
        assert_eq!(ring.bytes_to_slab_end(384), 256);
    }
}
