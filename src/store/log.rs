//! A shard's log: positions without end, of which a part has memory. Appended at the head,
//! reclaimed at the tail.
//!
//! Positions count bytes since the shard was born and never wrap; they meet memory only in
//! [`Log::words_at`]. The log is cut into **virtual slabs**, numbered by `position >> slab_shift`.
//! A table says which physical slab of the pool each of them stands on:
//!
//! ```text
//! cell [virtual slab mod cells], 64 bits:  physical slab, bits 0..25 | virtual slab, bits 26..63
//! ```
//!
//! Once anything of its virtual slab is committed, a cell does not change while that slab is at or
//! above the tail, and for locals until the tail's bytes are released; what it says of the virtual
//! slab shows a remote reader one that has changed. **A record's head lies in one slab; its value
//! may go on in the following ones.** Where not even the head fits, what is left of the slab is
//! padded (or, where not even a header fits, skipped).
//!
//! Ordering: a cell is stored (relaxed) before any record of its virtual slab is committed or
//! found, each of which is a release. So who has a position from `committed` or from a slot finds
//! the cell.

use super::cas::CasTerms;
use super::pool::{Pool, SLABS_MAX};
use super::record::HEADER_BYTES;
use crate::sys::memory::{Memfd, Part};
use crate::sys::sync::{AtomicU64, Ordering::Relaxed};
use crate::sys::words::copy_words;
use std::io;
use std::sync::Arc;

const PHYSICAL_BITS: u32 = SLABS_MAX.trailing_zeros();

/// What a cell of a table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Number of the virtual slab.
    pub virtual_slab: u64,
    /// Where in the pool it is.
    pub physical: u32,
}

impl Cell {
    /// As it stands in the table.
    pub fn to_bits(self) -> u64 {
        self.virtual_slab << PHYSICAL_BITS | u64::from(self.physical)
    }

    /// From what stands in the table.
    pub fn from_bits(bits: u64) -> Cell {
        Cell { virtual_slab: bits >> PHYSICAL_BITS, physical: bits as u32 & (SLABS_MAX - 1) }
    }
}

/// Cells of a table for a log of at most `slabs` slabs: head and tail may share one, and one more
/// is a cell that nobody looks at any more.
pub fn table_cells(slabs: u32) -> u32 {
    (slabs + 2).next_power_of_two()
}

/// See the module. What is where in it is the shard's business.
pub struct Log {
    shard: u32,
    pool: Arc<Pool>,
    words: Part,
    cells: Part,
    slab_shift: u32,
    /// The bits of a position that say where in its slab it is.
    within_mask: u64,
    cas_terms: CasTerms,
}

impl Log {
    /// The log of a shard, whose table is the `shard`-th in `tables`, of `cells` cells, a power of
    /// two.
    pub fn new(shard: u32, pool: Arc<Pool>, tables: &Arc<Memfd>, cells: u32) -> Log {
        assert!(cells.is_power_of_two());
        let (begin, cells) = (shard as usize * cells as usize, cells as usize);
        let slab_shift = pool.slab_shift();
        let (words, cells) = (pool.words(), Part::new(tables, begin..begin + cells));
        let within_mask = (1 << slab_shift) - 1;
        Log { shard, words, cells, pool, slab_shift, within_mask, cas_terms: CasTerms::new() }
    }

    /// One with memory of its own at every position, as a ring of `slabs` slabs, a power of two:
    /// for tests.
    pub fn alone(shard: u32, slabs: u32, slab_bytes: usize) -> io::Result<Log> {
        let pool = Arc::new(Pool::new(slabs, slab_bytes, false)?);
        let tables = Arc::new(Memfd::new("remora-tables", (shard as usize + 1) * slabs as usize * 8, false)?);
        let log = Log::new(shard, pool, &tables, slabs);
        (0..slabs).for_each(|slab| log.map(u64::from(slab), slab));
        Ok(log)
    }

    /// The shard whose log it is.
    pub fn shard(&self) -> u32 {
        self.shard
    }

    /// What the CAS of its records depends on.
    pub(super) fn cas_terms(&self) -> &CasTerms {
        &self.cas_terms
    }

    /// Where its slabs come from.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Length of a slab, as a power of two.
    pub(super) fn slab_shift(&self) -> u32 {
        self.slab_shift
    }

    fn cell(&self, virtual_slab: u64) -> &AtomicU64 {
        &self.cells[virtual_slab as usize & (self.cells.len() - 1)]
    }

    /// Where in the pool a virtual slab is, one that is mapped.
    pub(super) fn physical(&self, virtual_slab: u64) -> u32 {
        Cell::from_bits(self.cell(virtual_slab).load(Relaxed)).physical
    }

    /// From now on a virtual slab is there. Nobody may look for what its cell said before.
    pub fn map(&self, virtual_slab: u64, physical: u32) {
        self.cell(virtual_slab).store(Cell { virtual_slab, physical }.to_bits(), Relaxed);
    }

    /// The words from a position to the end of its slab.
    #[inline]
    pub fn words_at(&self, position: u64) -> &[AtomicU64] {
        let physical = u64::from(self.physical(position >> self.slab_shift));
        let begin = physical << self.slab_shift | position & self.within_mask;
        let end = (begin | self.within_mask) + 1;
        &self.words[begin as usize / 8..end as usize / 8]
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
    #[inline]
    pub fn bytes_to_slab_end(&self, position: u64) -> usize {
        (self.within_mask - (position & self.within_mask) + 1) as usize
    }

    /// A position at which a record can begin: this one, or the next slab's start if not even a
    /// header fits here.
    #[inline]
    pub fn settle(&self, position: u64) -> u64 {
        let left = self.bytes_to_slab_end(position);
        if left < HEADER_BYTES { position + left as u64 } else { position }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_cell_says_both_numbers() {
        for virtual_slab in [0, 1, (1 << 38) - 1] {
            for physical in [0, 7, SLABS_MAX - 1] {
                let cell = Cell { virtual_slab, physical };
                assert_eq!(Cell::from_bits(cell.to_bits()), cell);
            }
        }
    }

    #[test]
    fn positions_meet_memory_by_the_table() {
        let log = Log::alone(1, 4, 512).unwrap();
        log.map(1 << 30, 3);
        log.map((1 << 30) + 1, 0);
        let base = (1 << 30) * 512;
        log.words_at(base + 504)[0].store(7, Relaxed);
        log.words_at(base + 512)[0].store(8, Relaxed);
        let both = [AtomicU64::new(0), AtomicU64::new(0)];
        log.copy_to(base + 504, &both);
        assert_eq!(both.map(|word| word.load(Relaxed)), [7, 8]);
        assert_eq!(log.pool().memory().words()[(3 * 512 + 504) / 8].load(Relaxed), 7);
        assert_eq!((log.words_at(base + 504).len(), log.bytes_to_slab_end(base + 8)), (1, 504));
    }

    #[test]
    fn where_no_header_fits_the_next_slab_begins() {
        let log = Log::alone(0, 1, 512).unwrap();
        assert_eq!([488, 496, 504, 512].map(|position| log.settle(position)), [488, 496, 512, 512]);
    }
}
