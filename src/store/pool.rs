//! The memory of all logs: one memfd, cut into slabs of one length. Logs take slabs as they grow
//! and give them back.
//!
//! A slab is known by its number, its place in the memfd. Slabs are **reserved** before they are
//! taken: a shard's capacity is what it has reserved, so a log below its capacity always finds a
//! slab.

use crate::sys::memory::{HUGEPAGE_BYTES, Memfd, PAGE_BYTES, Part};
use crate::sys::sync::Mutex;
use std::io;
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
    /// Slabs from this one on were never taken: their pages need not be there yet.
    untouched: u32,
    /// Those that were given back.
    returned: Vec<u32>,
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
        let state = Mutex::new(State { untouched: 0, returned: Vec::with_capacity(slabs as usize), reserved: 0 });
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
        state.returned.pop().unwrap_or_else(|| {
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
        let begin = (slab as usize) << self.slab_shift;
        // Before anybody can take it: what is written to it then must stay.
        self.memory.give_back(begin..begin + (1 << self.slab_shift));
        self.give(slab);
    }

    /// Held for a few instructions, once for each slab that a log takes or gives.
    fn lock(&self) -> crate::sys::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the pool")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

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
        let fill = || pool.words().iter().for_each(|word| word.store(7, crate::sys::sync::Ordering::Relaxed));
        fill();
        let blocks = || rustix::fs::fstat(pool.memory().file()).unwrap().st_blocks;
        let all = blocks();
        pool.give(1);
        assert_eq!(blocks(), all);
        pool.give_up(3);
        assert_eq!((blocks(), pool.take()), (all * 3 / 4, 3));
        fill();
        assert_eq!(blocks(), all, "it is had again when it is touched");
    }

    #[test]
    #[should_panic(expected = "not reserved")]
    fn taking_more_than_there_is_is_our_bug() {
        let pool = Pool::new(1, 4096, false).unwrap();
        pool.take();
        pool.take();
    }
}
