//! Who has applied what: the ack slots of all replicas that follow now. A slot is memory that its replica WRITEs to, so asking is loading words.
//!
//! A replica tells only positions that it has applied, of a log that is this store's; what one slot has said stays true, whoever reads it.

use super::REPLICAS_MAX;
use super::ack::applied;
use crate::sys::memory::Slab;
use arrayvec::ArrayVec;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard};

/// See the module. One per store; put up and taken down by who admits replicas.
#[derive(Default)]
pub struct Board {
    slots: Mutex<ArrayVec<(u64, Arc<Slab>), REPLICAS_MAX>>,
    /// Grows with each change of `slots`.
    version: AtomicU64,
}

impl Board {
    /// The slot of session `session`, from now on; in place of an earlier one of the same session.
    pub fn put_up(&self, session: u64, ack: Arc<Slab>) {
        let mut slots = self.slots();
        slots.retain(|slot| slot.0 != session);
        slots.try_push((session, ack)).unwrap_or_else(|_| panic!("more sessions than there may be replicas"));
        self.version.fetch_add(1, Release);
    }

    /// No longer.
    pub fn take_down(&self, session: u64) {
        self.slots().retain(|slot| slot.0 != session);
        self.version.fetch_add(1, Release);
    }

    fn slots(&self) -> MutexGuard<'_, ArrayVec<(u64, Arc<Slab>), REPLICAS_MAX>> {
        self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One thread's view of a board: no lock while the replicas stay the same.
pub struct BoardView {
    board: Arc<Board>,
    version: u64,
    slots: ArrayVec<Arc<Slab>, REPLICAS_MAX>,
}

impl BoardView {
    /// Of `board`.
    pub fn new(board: Arc<Board>) -> BoardView {
        BoardView { board, version: u64::MAX, slots: ArrayVec::new() }
    }

    /// See who is there now. To be called before asking, as often as that matters.
    pub fn refresh(&mut self) {
        let version = self.board.version.load(Acquire);
        if version != self.version {
            self.slots = self.board.slots().iter().map(|slot| slot.1.clone()).collect();
            self.version = version;
        }
    }

    /// How many replicas there are.
    pub fn replicas(&self) -> usize {
        self.slots.len()
    }

    /// How many have applied everything below `position` of a shard.
    pub fn holders(&self, shard: usize, position: u64) -> usize {
        self.slots.iter().filter(|slot| applied(slot.words(), shard) >= position).count()
    }

    /// How many have applied everything below `positions[n]` of each shard n.
    pub fn holders_of_all(&self, positions: &[u64]) -> usize {
        let has_all = |slot: &&Arc<Slab>| {
            positions.iter().enumerate().all(|(shard, position)| applied(slot.words(), shard) >= *position)
        };
        self.slots.iter().filter(has_all).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::ACK_BYTES;

    fn slot(positions: &[u64]) -> Arc<Slab> {
        let slab = Slab::new("test-ack", ACK_BYTES, false).unwrap();
        // After the summary's line.
        positions.iter().enumerate().for_each(|(shard, position)| slab.words()[8 + shard].store(*position, Release));
        Arc::new(slab)
    }

    #[test]
    fn it_counts_the_replicas_of_now() {
        let board = Arc::new(Board::default());
        let mut view = BoardView::new(board.clone());
        view.refresh();
        assert_eq!((view.replicas(), view.holders(0, 0)), (0, 0));
        board.put_up(1, slot(&[100, 300]));
        board.put_up(2, slot(&[200, 200]));
        view.refresh();
        assert_eq!([100, 101, 200, 201].map(|position| view.holders(0, position)), [2, 1, 1, 0]);
        assert_eq!(view.holders_of_all(&[100, 200]), 2);
        assert_eq!(view.holders_of_all(&[200, 300]), 0, "each lacks something");
        board.put_up(2, slot(&[0, 0]));
        board.take_down(1);
        view.refresh();
        assert_eq!((view.replicas(), view.holders(0, 1)), (1, 0), "another channel of the same session begins anew");
    }
}
