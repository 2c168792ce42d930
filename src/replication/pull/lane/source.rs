//! Where a lane's bytes come from: pieces of the primary's log, in order. They are planned, READ,
//! vouched for by a look, and used up from the front.
//!
//! Invariant: pieces follow one another without a gap, up to where READs have been planned.

use super::super::cells::{Cells, CellsRead};
use super::super::piece::{Look, Piece};
use super::super::{LaneEnd, SENSELESS_LOOKS_MAX};
use crate::fabric::{Landing, Read};
use crate::replication::regions::POOL;
use crate::replication::resume::Line;
use crate::store::Memory;
use std::collections::VecDeque;

/// See the module.
pub struct Source {
    shard: usize,
    slab_bytes: u64,
    /// Where the primary's slabs are.
    cells: Cells,
    planned: u64,
    pieces: VecDeque<Piece>,
}

/// Where a READ belongs.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// The round that brings it.
    pub round: u64,
    /// Its number.
    pub number: u64,
}

impl Source {
    /// Of a shard of a primary with such memory, from position `from` on.
    pub fn new(shard: usize, slab_bytes: u64, memory: Memory, from: u64) -> Source {
        let cells = Cells::new(shard, memory);
        Source { shard, slab_bytes, cells, planned: from, pieces: VecDeque::new() }
    }

    /// Up to where READs have been planned.
    pub fn planned(&self) -> u64 {
        self.planned
    }

    /// No piece is on its way or waits to be used.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// No READ is under way, of a piece or of cells, and no piece waits.
    pub fn is_idle(&self) -> bool {
        self.is_empty() && !self.cells.is_asking()
    }

    /// The next READ into `landing`, of the log from `from` on, at most up to `until`; or of what
    /// must be known before: where its slabs are. The landing back if that is under way already.
    /// `from` is what is planned, or later where there are no pieces.
    pub fn plan(
        &mut self,
        landing: Landing,
        (from, until): (u64, u64),
        piece_bytes: usize,
        start: Start,
    ) -> Result<Read, Landing> {
        self.planned = from;
        let (virtual_slab, within) = (self.planned / self.slab_bytes, self.planned % self.slab_bytes);
        let Some(physical) = self.cells.physical(virtual_slab) else {
            return self.plan_cells(landing, (virtual_slab, (until - 1) / self.slab_bytes), start.number);
        };
        let bytes = (until - self.planned).min(self.slab_bytes - within).min(piece_bytes.min(landing.bytes()) as u64);
        let begin = self.planned;
        self.planned += bytes;
        let bytes = bytes as usize;
        self.pieces.push_back(Piece::new(start.number, begin, bytes, start.round));
        let offset = u64::from(physical) * self.slab_bytes + within;
        Ok(Read { region: POOL, offset, bytes, landing, tag: start.number })
    }

    /// A READ of the cells of virtual slabs `first` to `last`, unless cells are under way already.
    fn plan_cells(&mut self, landing: Landing, (first, last): (u64, u64), number: u64) -> Result<Read, Landing> {
        match self.cells.ask(first, last, landing.bytes(), number) {
            Some(CellsRead { region, offset, bytes }) => Ok(Read { region, offset, bytes, landing, tag: number }),
            None => Err(landing),
        }
    }

    /// A READ of cells is done.
    pub fn cells_arrived(&mut self, number: u64, landing: &Landing) -> Result<(), LaneEnd> {
        self.cells.learn(number, landing.words(landing.bytes()));
        if self.cells.missed() > SENSELESS_LOOKS_MAX {
            let what = "its table does not say where its slabs are";
            return Err(LaneEnd::Senseless { shard: self.shard, what });
        }
        Ok(())
    }

    /// A piece's READ is done, and `begun` is the latest round that has begun. Returns the landing
    /// if the piece is not wanted any more.
    pub fn arrived(&mut self, number: u64, landing: Landing, begun: u64) -> Option<Landing> {
        match self.pieces.iter_mut().find(|piece| piece.number == number) {
            Some(piece) => {
                piece.arrived(landing, begun);
                None
            }
            None => Some(landing),
        }
    }

    /// A look has arrived.
    pub fn look(&mut self, look: Look, line: &Line) {
        self.pieces.iter_mut().for_each(|piece| piece.look(look, line));
    }

    /// Whether a piece has arrived that no look vouches for, and none was submitted since; `begun`
    /// is the latest round that has begun.
    pub fn awaits_look(&self, begun: u64) -> bool {
        self.pieces.iter().any(|piece| piece.awaits_look(begun))
    }

    /// The piece at the front.
    pub fn front(&mut self) -> Option<&mut Piece> {
        self.pieces.front_mut()
    }

    /// The piece at the front is used up, or not wanted any more.
    pub fn pass(&mut self, free: &mut Vec<Landing>) {
        free.extend(self.pieces.pop_front().and_then(|piece| piece.landing));
    }

    /// Believe no cell any more, and go on from `position`, unless there are pieces: then behind
    /// those.
    pub fn begin_anew(&mut self, position: u64) {
        self.cells.forget();
        self.skip_to(position);
    }

    /// Where there are no pieces, go on from `position`.
    pub fn skip_to(&mut self, position: u64) {
        if self.pieces.is_empty() {
            self.planned = position;
        }
    }

    /// Read again from `position` on, and believe nothing of what is on its way.
    pub fn read_again(&mut self, position: u64, free: &mut Vec<Landing>) {
        self.cells.forget();
        free.extend(self.pieces.drain(..).filter_map(|piece| piece.landing));
        self.planned = position;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::log::Cell;
    use crate::sys::sync::Ordering::Relaxed;

    /// A READ of another number may be one of an earlier lane's of this shard.
    #[test]
    fn what_comes_back_under_another_number_is_not_wanted() {
        let mut source = Source::new(0, 4096, Memory { slabs: 4, table_cells: 4 }, 64);
        let landing = || Landing::new(4096).expect("a page");
        let plan = |source: &mut Source, number| {
            source.plan(landing(), (64, 128), 4096, Start { round: 1, number }).expect("there is something to read")
        };
        let cells = plan(&mut source, 7);
        cells.landing.words(8)[0].store(Cell { virtual_slab: 0, physical: 2 }.to_bits(), Relaxed);
        source.cells_arrived(3, &cells.landing).expect("nobody's");
        assert!(source.cells.is_asking());
        source.cells_arrived(7, &cells.landing).expect("it says where the slab is");
        let piece = plan(&mut source, 8);
        assert_eq!((piece.region, piece.offset, piece.tag), (POOL, 2 * 4096 + 64, 8));
        assert!(source.arrived(3, cells.landing, 1).is_some());
        assert!(source.front().expect("it was planned").landing.is_none());
        assert!(source.arrived(8, piece.landing, 1).is_none());
        assert!(source.front().expect("it was planned").landing.is_some());
    }
}
