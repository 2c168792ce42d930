//! The memory of all logs: one memfd, cut into slabs of one length. Logs take slabs as they grow
//! and give them back.
//!
//! A slab is known by its number, its place in the memfd. Slabs are **reserved** before they are
//! taken: a shard's capacity is what it has reserved, so a log below its capacity always finds a
//! slab.
//!
//! A slab that is given up is a hole: its pages are the system's again. Who reads a hole through a
//! mapping has the kernel fill it with zeroed pages, and they stay. A replica may do so: its READ
//! was under way when the slab was given up, or is of what no log has. So a pool that takes more
//! memory than its logs can use empties its holes anew ([`Pool::empty_holes`]).

use crate::sys::memory::{Backing, HUGEPAGE_BYTES, Memfd, PAGE_BYTES, Part};
use crate::sys::sync::Mutex;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Physical slabs of a pool, at most: a cell has 26 bits for one.
pub const SLABS_MAX: u32 = 1 << 26;
/// A slab's length is a power of two within these bounds; what they share is told to replicas.
pub const SLAB_BYTES_MIN: usize = 512;
/// See [`SLAB_BYTES_MIN`]. Short, so that little is lost where a log ends; long, so that little is
/// lost where a record's head must not be cut, and one READ is worth its round trip.
pub const SLAB_BYTES_MAX: usize = 256 << 10;
/// Huge pages come whole: a smaller pool would be mostly rounding.
const HUGEPAGES_FROM_BYTES: usize = 2 * HUGEPAGE_BYTES;

/// See the module.
pub struct Pool {
    memory: Arc<Memfd>,
    slabs: u32,
    slab_shift: u32,
    state: Mutex<State>,
}

struct State {
    /// Slabs from this one on were never taken: holes.
    untouched: u32,
    /// Those that were given back with their pages.
    returned: Vec<u32>,
    /// Those that were given up: holes, but where pages cannot be given back to the system.
    given_up: Vec<u32>,
    /// Of the holes, the one that is to be emptied next: first those that were given up, then the
    /// untouched ones.
    next_hole: u32,
    /// Those that were promised: taken, or to be taken.
    reserved: u32,
}

impl Pool {
    /// A pool of `slabs` slabs of `slab_bytes` bytes, a power of two.
    pub fn new(slabs: u32, slab_bytes: usize, hugepages: bool) -> io::Result<Pool> {
        assert!(slab_bytes.is_power_of_two() && (SLAB_BYTES_MIN..=SLAB_BYTES_MAX).contains(&slab_bytes));
        assert!((1..=SLABS_MAX).contains(&slabs));
        let bytes = slabs as usize * slab_bytes;
        let hugepages = hugepages && bytes > HUGEPAGES_FROM_BYTES;
        let bytes = bytes.next_multiple_of(if hugepages { HUGEPAGE_BYTES } else { PAGE_BYTES });
        let memory = Arc::new(Memfd::new("remora-pool", bytes, hugepages)?);
        let state = Mutex::new(State {
            untouched: 0,
            returned: Vec::with_capacity(slabs as usize),
            given_up: Vec::with_capacity(slabs as usize),
            next_hole: 0,
            reserved: 0,
        });
        Ok(Pool { memory, slabs, slab_shift: slab_bytes.trailing_zeros(), state })
    }

    /// The memory, to be offered as a region.
    pub fn memory(&self) -> &Arc<Memfd> {
        &self.memory
    }

    /// The words of all slabs, one slab behind the other.
    pub(super) fn words(&self) -> Part {
        Part::new(&self.memory, 0..(self.slabs as usize) << (self.slab_shift - 3))
    }

    /// How many there are.
    pub fn slabs(&self) -> u32 {
        self.slabs
    }

    /// Length of each.
    pub fn slab_bytes(&self) -> u64 {
        1 << self.slab_shift
    }

    /// The same, as a power of two.
    pub(super) fn slab_shift(&self) -> u32 {
        self.slab_shift
    }

    /// Promise `slabs` more; false if there are not so many.
    pub(super) fn reserve(&self, slabs: u32) -> bool {
        let mut state = self.lock();
        let fits = slabs <= self.slabs - state.reserved;
        if fits {
            state.reserved += slabs;
        }
        fits
    }

    /// `slabs` that were promised are not needed any more.
    pub(super) fn unreserve(&self, slabs: u32) {
        if slabs > 0 {
            self.lock().reserved -= slabs;
        }
    }

    /// Take a slab that was reserved.
    pub(super) fn take(&self) -> u32 {
        let mut state = self.lock();
        let State { returned, given_up, .. } = &mut *state;
        // One that has its pages needs none.
        returned.pop().or_else(|| given_up.pop()).unwrap_or_else(|| {
            let slab = state.untouched;
            assert!(slab < self.slabs, "a slab is taken that was not reserved");
            state.untouched += 1;
            slab
        })
    }

    /// Give one back, to be taken again soon.
    pub(super) fn give(&self, slab: u32) {
        self.lock().returned.push(slab);
    }

    /// Give one back that is more than the log is to have: where its pages can be given back to the
    /// system, they are.
    pub(super) fn give_up(&self, slab: u32) {
        // Before anybody can take it: what is written to it then must stay.
        self.memory.give_back(self.bytes_of(slab));
        self.lock().given_up.push(slab);
    }

    /// Where somebody has had pages put into holes, give them back to the system: look at up to
    /// `holes_max` of the holes, in turn. Costs a system call where nobody has, and another one
    /// for each hole looked at where somebody has. Not for a thread that serves clients.
    pub fn empty_holes(&self, holes_max: u32) {
        // Transparent huge pages cover several slabs, and would be split.
        if self.memory.backing() != Backing::Plain {
            return;
        }
        // Slabs are counted behind it: what is taken meanwhile is no hole.
        let bytes = self.memory.resident_bytes();
        if bytes <= self.lock().used() * self.slab_bytes() {
            return;
        }
        for _ in 0..holes_max {
            // Locked anew for each, so that who takes a slab seldom waits for more than one.
            let mut state = self.lock();
            let Some(slab) = state.turn_to_hole(self.slabs) else { return };
            if !self.memory.give_back(self.bytes_of(slab)) {
                return; // a device holds the pages, or they are huge
            }
        }
    }

    fn bytes_of(&self, slab: u32) -> Range<usize> {
        let begin = (slab as usize) << self.slab_shift;
        begin..begin + (1 << self.slab_shift)
    }

    /// Held for a few instructions, once for each slab that a log takes or gives; for a system call
    /// where a hole is emptied.
    fn lock(&self) -> crate::sys::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the pool")
    }
}

impl State {
    /// Slabs that are no holes.
    fn used(&self) -> u64 {
        u64::from(self.untouched) - self.given_up.len() as u64
    }

    /// The next hole of all, if there is one.
    fn turn_to_hole(&mut self, slabs: u32) -> Option<u32> {
        let given_up = self.given_up.len() as u32;
        let holes = given_up + (slabs - self.untouched);
        let hole = self.next_hole.checked_rem(holes)?;
        self.next_hole = hole + 1;
        Some(match self.given_up.get(hole as usize) {
            Some(slab) => *slab,
            None => self.untouched + (hole - given_up),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sys::foreign::ReadOnlyWords;
    use crate::sys::sync::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn what_is_reserved_can_be_taken_and_comes_back() {
        let pool = Pool::new(3, 4096, false).unwrap();
        assert!(pool.reserve(2) && !pool.reserve(2) && pool.reserve(1));
        let mut taken = [pool.take(), pool.take(), pool.take()];
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2]);
        pool.give(1);
        assert_eq!(pool.take(), 1);
        assert!(!pool.reserve(1));
        pool.unreserve(2);
        assert!(pool.reserve(2));
    }

    #[test]
    fn what_is_given_up_is_memory_of_the_system_again() {
        let pool = Pool::new(4, 8192, false).unwrap();
        assert!(pool.reserve(4));
        (0..4).for_each(|slab| assert_eq!(pool.take(), slab));
        let fill = || pool.words().iter().for_each(|word| word.store(7, Relaxed));
        fill();
        let blocks = || rustix::fs::fstat(pool.memory().file()).unwrap().st_blocks;
        let all = blocks();
        pool.give(1);
        assert_eq!(blocks(), all);
        pool.give_up(3);
        assert_eq!((blocks(), pool.take(), pool.take()), (all * 3 / 4, 1, 3), "first one that has its pages");
        fill();
        assert_eq!(blocks(), all, "it is had again when it is touched");
    }

    /// A replica's READ was under way, or is of what no log has: the kernel fills the hole.
    #[test]
    fn holes_that_somebody_reads_are_emptied_again() {
        const SLAB_BYTES: usize = 8192;
        let pool = Pool::new(8, SLAB_BYTES, false).unwrap();
        assert!(pool.reserve(4));
        (0..4).for_each(|slab| assert_eq!(pool.take(), slab));
        pool.words()[..4 * SLAB_BYTES / 8].iter().for_each(|word| word.store(7, Relaxed));
        pool.give(2);
        pool.give_up(1);
        pool.give_up(3);
        let lean_bytes = pool.memory().resident_bytes();
        assert_eq!(lean_bytes, 2 * SLAB_BYTES as u64);
        let bytes = 8 * SLAB_BYTES;
        let mapped = ReadOnlyWords::map(&pool.memory().open_for_reading().unwrap(), bytes).unwrap();
        let read = || {
            let to: Vec<AtomicU64> = (0..bytes / 8).map(|_| AtomicU64::new(1)).collect();
            mapped.copy_to(0, &to);
            to.into_iter().map(AtomicU64::into_inner).collect::<Vec<u64>>()
        };
        let seen = read();
        assert_eq!(pool.memory().resident_bytes(), bytes as u64, "a hole that is read takes memory");
        pool.memory().pin();
        pool.empty_holes(6);
        assert_eq!(pool.memory().resident_bytes(), bytes as u64, "a device holds the pages");
        pool.memory().unpin();
        pool.empty_holes(2);
        assert_eq!(pool.memory().resident_bytes(), 6 * SLAB_BYTES as u64, "as many as it may look at");
        pool.empty_holes(6);
        assert_eq!(pool.memory().resident_bytes(), lean_bytes);
        assert!(seen == read(), "what is used is kept");
        pool.empty_holes(6);
        assert_eq!((pool.memory().resident_bytes(), pool.take(), pool.take()), (lean_bytes, 2, 3));
    }

    #[test]
    #[should_panic(expected = "not reserved")]
    fn taking_more_than_there_is_is_our_bug() {
        let pool = Pool::new(1, 4096, false).unwrap();
        pool.take();
        pool.take();
    }
}
