//! Quiescent-state reclamation: when may bytes that nobody can find any more be overwritten?
//!
//! Each thread that reads has a [`Seat`]. While it is inside a turn its seat shows the era it
//! entered in; outside, 0. Who has taken something out of sight calls
//! [`Domain::advance`] and may overwrite it once [`Domain::all_passed`] says that every thread
//! inside entered later. Nobody waits here: the caller asks again in a later turn.
//!
//! Ordering. Enter: show the era, SeqCst fence, then read. Reclaim: take out of sight, SeqCst
//! fence, advance, later look at the seats. Of the two fences one comes first: either the reclaimer
//! sees the seat taken, or the reader sees the thing gone. Leaving is a release store that the
//! reclaimer's acquire load meets, so a reader's last look happens before the overwriting. loom
//! checks it.

use super::sync::{AtomicU64, Ordering, fence};
use crossbeam::utils::CachePadded;

const OUTSIDE: u64 = 0;
const VACANT: u64 = u64::MAX;

/// The seats of all reading threads, and the era.
pub struct Domain {
    era: CachePadded<AtomicU64>,
    seats: Box<[CachePadded<AtomicU64>]>,
}

/// A moment. What was taken out of sight before it may be overwritten once it has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Era(u64);

/// One thread's place in a domain; given back when dropped.
pub struct Seat<'d> {
    cell: &'d AtomicU64,
    era: &'d AtomicU64,
}

/// Proof of being inside a turn; leaving is dropping it.
pub struct Inside<'s> {
    cell: &'s AtomicU64,
}

impl Domain {
    /// A domain for at most `seats` threads at a time.
    pub fn new(seats: usize) -> Self {
        Domain {
            era: CachePadded::new(AtomicU64::new(1)),
            seats: (0..seats).map(|_| CachePadded::new(AtomicU64::new(VACANT))).collect(),
        }
    }

    /// Take a free seat; None when all are taken.
    pub fn sit(&self) -> Option<Seat<'_>> {
        self.seats.iter().find_map(|cell| {
            cell.compare_exchange(VACANT, OUTSIDE, Ordering::AcqRel, Ordering::Relaxed).ok()?;
            Some(Seat { cell, era: &self.era })
        })
    }

    /// Call after something has been taken out of sight; says what must pass before it is
    /// overwritten.
    pub fn advance(&self) -> Era {
        fence(Ordering::SeqCst);
        Era(self.era.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// True when every thread that is inside entered at or after `era`.
    pub fn all_passed(&self, era: Era) -> bool {
        fence(Ordering::SeqCst);
        self.seats.iter().all(|cell| {
            let entered = cell.load(Ordering::Acquire);
            entered == OUTSIDE || entered >= era.0
        })
    }
}

impl Seat<'_> {
    /// Begin a turn.
    pub fn enter(&mut self) -> Inside<'_> {
        self.cell.store(self.era.load(Ordering::Acquire), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Inside { cell: self.cell }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.cell.store(OUTSIDE, Ordering::Release);
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.cell.store(VACANT, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_era_passes_when_those_inside_have_left() {
        let domain = Domain::new(2);
        let mut first = domain.sit().unwrap();
        let mut second = domain.sit().unwrap();
        assert!(domain.sit().is_none());
        let inside = first.enter();
        let era = domain.advance();
        assert!(!domain.all_passed(era));
        let late = second.enter();
        assert!(!domain.all_passed(era));
        drop(inside);
        assert!(domain.all_passed(era), "who entered after the era began holds nobody up");
        drop(late);
    }

    #[test]
    fn a_seat_that_is_left_can_be_taken_again() {
        let domain = Domain::new(1);
        drop(domain.sit().unwrap());
        assert!(domain.sit().is_some());
    }
}
