//! Where one shard's slabs are in the primary's pool, as far as this replica has read it. Pure.
//!
//! A cell is read before the bytes that it leads to, and those are judged by a look that was
//! submitted behind them: if the tail is at or below them then, their slab had not changed hands
//! when they were read, and the cell was right. So a cell is used for as long as the log goes on,
//! and what is known is forgotten where it begins anew or was not believed.

use super::super::regions::TABLES;
use crate::store::Memory;
use crate::store::log::Cell;
use crate::sys::sync::{AtomicU64, Ordering::Relaxed};
use std::collections::VecDeque;

/// Cells that are read in one go, at most: of 128 MiB of log.
const CELLS_PER_READ: u64 = 512;

/// See the module.
pub struct Cells {
    shard: u64,
    memory: Memory,
    /// Where the slabs from virtual slab `first` on are.
    first: u64,
    physical: VecDeque<u32>,
    /// The READ of cells that is under way.
    asked: Option<Asked>,
    /// READs in a row that showed nothing of what was asked.
    missed: u32,
}

struct Asked {
    number: u64,
    /// The first virtual slab of it, and how many.
    first: u64,
    count: usize,
}

/// A READ of cells: of which region, from where, how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellsRead {
    pub region: u32,
    pub offset: u64,
    pub bytes: usize,
}

impl Cells {
    /// Nothing is known of the shard's table.
    pub fn new(shard: usize, memory: Memory) -> Cells {
        let (shard, physical) = (shard as u64, VecDeque::new());
        Cells { shard, memory, first: 0, physical, asked: None, missed: 0 }
    }

    /// Where a virtual slab is, if that is known. Those before it are not asked for any more.
    pub fn physical(&mut self, virtual_slab: u64) -> Option<u32> {
        let ahead = virtual_slab.checked_sub(self.first)?;
        let passed = usize::try_from(ahead).unwrap_or(usize::MAX).min(self.physical.len());
        self.physical.drain(..passed);
        self.first += passed as u64;
        self.physical.front().copied().filter(|_| self.first == virtual_slab)
    }

    /// Ask for the cells from `virtual_slab` to `last`, or for some of them, by the READ `number`;
    /// None while others are awaited.
    pub fn ask(&mut self, virtual_slab: u64, last: u64, bytes_max: usize, number: u64) -> Option<CellsRead> {
        if self.asked.is_some() {
            return None;
        }
        let cells = u64::from(self.memory.table_cells);
        let at = virtual_slab & (cells - 1);
        let count = (last - virtual_slab + 1).min(cells - at).min(CELLS_PER_READ).min(bytes_max as u64 / 8);
        let count = count as usize;
        self.asked = Some(Asked { number, first: virtual_slab, count });
        let offset = (self.shard * cells + at) * 8;
        Some(CellsRead { region: TABLES, offset, bytes: count * 8 })
    }

    /// What was asked for under `number` has arrived at the beginning of `words`.
    pub fn learn(&mut self, number: u64, words: &[AtomicU64]) {
        let Some(Asked { first, count, .. }) = self.asked.take_if(|asked| asked.number == number) else { return };
        let cells = words[..count].iter().map(|word| Cell::from_bits(word.load(Relaxed)));
        let slabs = self.memory.slabs;
        let right = |(cell, virtual_slab): &(Cell, u64)| cell.virtual_slab == *virtual_slab && cell.physical < slabs;
        (self.first, self.physical) =
            (first, cells.zip(first..).take_while(right).map(|(cell, _)| cell.physical).collect());
        self.missed = if self.physical.is_empty() { self.missed + 1 } else { 0 };
    }

    /// A READ of cells is under way.
    pub fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// How often in a row nothing came of asking.
    pub fn missed(&self) -> u32 {
        self.missed
    }

    /// Believe nothing of what is known, or on its way.
    pub fn forget(&mut self) {
        self.physical.clear();
        self.asked = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Memory = Memory { slabs: 100, table_cells: 8 };

    /// A table in which the virtual slabs `from..until` are mapped, each to its own number modulo
    /// 50.
    fn table(from: u64, until: u64) -> Vec<AtomicU64> {
        let table: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
        for virtual_slab in from..until {
            let cell = Cell { virtual_slab, physical: virtual_slab as u32 % 50 };
            table[virtual_slab as usize % 8].store(cell.to_bits(), Relaxed);
        }
        table
    }

    fn read(table: &[AtomicU64], read: CellsRead) -> &[AtomicU64] {
        assert_eq!((read.region, read.offset / 64), (TABLES, 3), "shard 3's");
        &table[read.offset as usize / 8 % 8..][..read.bytes / 8]
    }

    #[test]
    fn what_is_read_is_known_up_to_the_tables_end_and_the_rest_is_asked_for() {
        let (mut cells, table) = (Cells::new(3, MEMORY), table(205, 211));
        assert_eq!(cells.physical(205), None);
        let first = cells.ask(205, 210, 4096, 1).expect("nothing is under way");
        assert_eq!((first.bytes, cells.ask(205, 210, 4096, 1)), (24, None), "205 to 207, where the table ends");
        cells.learn(1, read(&table, first));
        assert_eq!([205, 206, 207, 208].map(|slab| cells.physical(slab)), [Some(5), Some(6), Some(7), None]);
        let second = cells.ask(208, 210, 16, 2).expect("the first has come");
        assert_eq!(second.bytes, 16);
        cells.learn(2, read(&table, second));
        assert_eq!([208, 209, 210].map(|slab| cells.physical(slab)), [Some(8), Some(9), None]);
        assert_eq!(cells.physical(205), None, "what was passed is forgotten");
    }

    #[test]
    fn a_stale_cell_and_one_beyond_the_pool_are_not_believed() {
        let (mut cells, table) = (Cells::new(3, MEMORY), table(200, 204));
        for (asked, missed) in [(208, 1), (216, 2)] {
            let read_of = cells.ask(asked, asked, 4096, 1).expect("nothing is under way");
            cells.learn(1, read(&table, read_of));
            assert_eq!((cells.physical(asked), cells.missed()), (None, missed));
        }
        table[1].store(Cell { virtual_slab: 217, physical: 100 }.to_bits(), Relaxed);
        let read_of = cells.ask(217, 217, 4096, 1).expect("nothing is under way");
        cells.learn(1, read(&table, read_of));
        assert_eq!((cells.physical(217), cells.missed()), (None, 3));
    }

    #[test]
    fn what_was_asked_before_all_was_forgotten_teaches_nothing() {
        let (mut cells, table) = (Cells::new(3, MEMORY), table(200, 204));
        let before = cells.ask(200, 203, 4096, 1).expect("nothing is under way");
        cells.forget();
        let after = cells.ask(201, 203, 4096, 2).expect("it was forgotten");
        cells.learn(1, read(&table, before));
        assert_eq!(cells.physical(201), None);
        cells.learn(2, read(&table, after));
        assert_eq!(cells.physical(201), Some(1));
    }
}
