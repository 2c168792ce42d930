//! A shard's log: a fixed span of memory, appended at the head, reclaimed at the tail.
//!
//! Positions count bytes since the shard was born and never wrap; they meet memory only in
//! [`Ring::words_at`]. A ring is one or more slabs; **no record crosses the end of a slab**: what
//! is left there is padded (or, where not even a header fits, skipped). The control line is what
//! others, remote ones included, read of a shard:
//!
//! ```text
//! word  0      1          2     3           4                5..7
//!       epoch  committed  tail  ring bytes  epoch begins at  reserved, zero
//! ```
//!
//! Ordering: a record's bytes are stored relaxed, then
//! `committed` is stored with release; who loads `committed` with acquire sees every byte below it.
//! `tail` is stored with release before the era that must pass is asked for (sys/quiescence).

use super::record::HEADER_BYTES;
use crate::sys::memory::{Backing, Slab};
use crate::sys::sync::{AtomicU64, Ordering, fence};
use std::io;

/// Bytes of a control line, and of a cache line.
pub const CONTROL_LINE_BYTES: usize = 64;
/// Rings larger than this are made of slabs of this size.
pub const SLAB_BYTES_MAX: usize = 1 << 30;
/// The first position of every ring. Not 0, which is no CAS.
pub const BIRTH: u64 = 64;
/// Positions that another process says are held to this, so that no sum of them overflows, and a
/// CAS holds them. A log of 1 GiB/s takes two years to get there.
pub const POSITION_MAX: u64 = 1 << 56;

const EPOCH: usize = 0;
const COMMITTED: usize = 1;
const TAIL: usize = 2;
const RING_BYTES: usize = 3;
const EPOCH_BEGIN: usize = 4;

/// Memory of one ring. What is where in it is the shard's business.
pub struct Ring {
    slabs: Box<[Slab]>,
    slab_bytes: u64,
    ring_bytes: u64,
    /// 2^64 / ring_bytes, for a modulo without a division.
    reciprocal: u64,
}

impl Ring {
    /// A ring of `ring_bytes` (a multiple of 8).
    pub fn new(name: &str, ring_bytes: usize, hugepages: bool) -> io::Result<Ring> {
        Self::with_slabs(name, ring_bytes, SLAB_BYTES_MAX, hugepages)
    }

    /// With slabs of another size: tests that must cross them.
    pub fn with_slabs(name: &str, ring_bytes: usize, slab_bytes: usize, hugepages: bool) -> io::Result<Ring> {
        assert!(ring_bytes.is_multiple_of(8) && slab_bytes.is_multiple_of(8) && ring_bytes >= 8 * HEADER_BYTES);
        let slab = |from: usize| Slab::new(name, slab_bytes.min(ring_bytes - from), hugepages);
        Ok(Ring {
            slabs: (0..ring_bytes).step_by(slab_bytes).map(slab).collect::<io::Result<_>>()?,
            slab_bytes: slab_bytes as u64,
            ring_bytes: ring_bytes as u64,
            reciprocal: u64::MAX / ring_bytes as u64,
        })
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

    /// Bytes from a position to the end of its slab.
    pub fn bytes_to_slab_end(&self, position: u64) -> usize {
        self.words_at(position).len() * 8
    }

    /// A position at which a record can begin: this one, or the next slab's start if not even a
    /// header fits here.
    pub fn settle(&self, position: u64) -> u64 {
        let left = self.bytes_to_slab_end(position);
        if left < HEADER_BYTES { position + left as u64 } else { position }
    }
}

/// The published state of one shard: 8 words of the memory that holds all shards' control lines.
#[derive(Clone, Copy)]
pub struct ControlLine<'a>(&'a [AtomicU64]);

impl<'a> ControlLine<'a> {
    /// The line of shard `index` in `lines`.
    pub fn of(lines: &'a [AtomicU64], index: usize) -> Self {
        let words = CONTROL_LINE_BYTES / 8;
        ControlLine(&lines[index * words..][..words])
    }

    /// Fill it in before anybody else sees it.
    pub fn begin(&self, epoch: u64, ring_bytes: u64) {
        self.0[EPOCH].store(epoch, Ordering::Relaxed);
        self.0[RING_BYTES].store(ring_bytes, Ordering::Relaxed);
        self.0[EPOCH_BEGIN].store(BIRTH, Ordering::Relaxed);
        self.0[TAIL].store(BIRTH, Ordering::Relaxed);
        self.0[COMMITTED].store(BIRTH, Ordering::Release);
    }

    /// The epoch; changes only under the shard's lock.
    pub fn epoch(&self) -> u64 {
        self.0[EPOCH].load(Ordering::Relaxed)
    }

    /// Where the epoch began.
    pub fn epoch_begin(&self) -> u64 {
        self.0[EPOCH_BEGIN].load(Ordering::Relaxed)
    }

    /// Length of the ring.
    pub fn ring_bytes(&self) -> u64 {
        self.0[RING_BYTES].load(Ordering::Relaxed)
    }

    /// Records from `position` on are of `epoch`. Under the shard's lock.
    pub fn begin_epoch(&self, epoch: u64, position: u64) {
        self.0[EPOCH_BEGIN].store(position, Ordering::Relaxed);
        self.0[EPOCH].store(epoch, Ordering::Relaxed);
    }

    /// An empty log at `position`, where a replica begins. The fence orders it before the bytes
    /// that are overwritten from now on: who reads such bytes and then this line again, from
    /// however far, sees that they are not what he looked for.
    pub fn restart(&self, position: u64) {
        self.0[TAIL].store(position, Ordering::Release);
        self.0[COMMITTED].store(position, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Records below this position are complete.
    pub fn committed(&self) -> u64 {
        self.0[COMMITTED].load(Ordering::Acquire)
    }

    /// Publish everything below `position`.
    pub fn commit(&self, position: u64) {
        self.0[COMMITTED].store(position, Ordering::Release);
    }

    /// The oldest position still valid.
    pub fn tail(&self) -> u64 {
        self.0[TAIL].load(Ordering::Acquire)
    }

    /// Give up everything below `position`.
    pub fn advance_tail(&self, position: u64) {
        self.0[TAIL].store(position, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn positions_wrap_only_at_the_access() {
        for bytes in [128, 136, 1000, 65_536, (64 << 20) / 3 / 8 * 8] {
            let ring = Ring::new("test", bytes, false).unwrap();
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
        let ring = Ring::with_slabs("test", 256 + 128, 256, false).unwrap();
        assert_eq!(ring.bytes_to_slab_end(0), 256);
        assert_eq!(ring.bytes_to_slab_end(248), 8);
        assert_eq!(ring.settle(248), 256);
        assert_eq!(ring.settle(240), 240);
        assert_eq!(ring.bytes_to_slab_end(256), 128);
        assert_eq!(ring.bytes_to_slab_end(384), 256);
    }
}
