//! Which virtual slabs of a log have memory, and how far the head may go. Kept under the shard's lock.
//!
//! ```text
//! virtual slabs:   ... | base | base + 1 | ... | end - 1 |
//!                        ^ released is here       ^ no byte at or beyond the limit may be written
//! ```
//!
//! - A fresh slab of the pool always serves the *next* virtual slab, up to the log's capacity.
//! - Once all are taken, the next virtual slab **shares** the physical one of `base`, where only what lies below the released position may be
//!   overwritten: so a log of one slab is a ring of one slab. No others ever share.
//! - A slab whose bytes are all released serves the next virtual slab, or goes back to the pool where the log has more than it is to have.
//!
//! Invariants: `owned <= capacity`, as much is reserved of the pool; `end - base` is `owned`, or one more while base and top share.

use super::log::Log;

/// See the module. All in slabs, but for the limit.
#[derive(Debug)]
pub(super) struct Mapped {
    base: u64,
    end: u64,
    owned: u32,
    capacity: u32,
    limit: u64,
}

impl Mapped {
    /// Nothing has memory yet. `capacity` slabs are reserved; the log begins at `position`.
    pub(super) fn new(log: &Log, position: u64, capacity: u32) -> Mapped {
        let base = position >> log.slab_shift();
        Mapped { base, end: base, owned: 0, capacity, limit: base << log.slab_shift() }
    }

    /// No byte at or beyond this position may be written.
    #[inline]
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// How many it has.
    pub(super) fn owned(&self) -> u32 {
        self.owned
    }

    /// Up to where the limit can be moved while `released` stays where it is.
    pub(super) fn reach(&self, log: &Log, released: u64) -> u64 {
        if self.shares() && self.owned < self.capacity {
            self.limit
        } else {
            released + (u64::from(self.capacity) << log.slab_shift())
        }
    }

    /// Base and top are on one physical slab.
    fn shares(&self) -> bool {
        self.end - self.base > u64::from(self.owned)
    }

    /// Move the limit to `wanted` or beyond, if that is possible.
    pub(super) fn extend(&mut self, log: &Log, released: u64, wanted: u64) -> bool {
        while self.limit < wanted && !self.shares() && self.capacity > 0 {
            let physical = if self.owned < self.capacity {
                self.owned += 1;
                log.pool().take()
            } else {
                log.physical(self.base)
            };
            log.map(self.end, physical);
            self.end += 1;
            self.set_limit(log, released);
        }
        self.limit >= wanted
    }

    /// All bytes below `released` may be overwritten.
    pub(super) fn release(&mut self, log: &Log, released: u64) {
        while self.base < released >> log.slab_shift() {
            let (physical, shared) = (log.physical(self.base), self.shares());
            self.base += 1;
            if !shared {
                log.map(self.end, physical);
                self.end += 1;
            }
        }
        self.set_limit(log, released);
    }

    /// The log begins anew at `position`, and nobody can see anything of the old one.
    pub(super) fn restart(&mut self, log: &Log, position: u64) {
        (0..u64::from(self.owned)).for_each(|slab| log.pool().give(log.physical(self.base + slab)));
        *self = Mapped::new(log, position, self.capacity);
    }

    fn set_limit(&mut self, log: &Log, released: u64) {
        let shift = log.slab_shift();
        self.limit =
            if self.shares() { ((self.end - 1) << shift) + (released & ((1 << shift) - 1)) } else { self.end << shift };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::log::table_cells;
    use crate::store::pool::Pool;
    use crate::sys::memory::Slab;
    use crate::sys::sync::Ordering::Relaxed;
    use std::collections::VecDeque;
    use std::sync::Arc;

    const SLAB_BYTES: usize = 512;
    const WORDS_MAX: u64 = 100;

    fn logs(capacities: &[u32], slabs: u32) -> Vec<Log> {
        let pool = Arc::new(Pool::new(slabs, SLAB_BYTES, false).unwrap());
        assert!(pool.reserve(capacities.iter().sum()));
        let cells = table_cells(slabs);
        let tables = Arc::new(Slab::new("test", capacities.len() * cells as usize * 8, false).unwrap());
        let log = |shard| Log::new(shard, pool.clone(), &tables, cells);
        (0..capacities.len() as u32).map(log).collect()
    }

    /// A log that writes each word's own position, and reads it back when it is released.
    struct Run {
        shard: usize,
        mapped: Mapped,
        released: u64,
        head: u64,
        written: VecDeque<u64>,
    }

    impl Run {
        fn append(&mut self, log: &Log, words: u64) -> bool {
            let wanted = self.head + words * 8;
            let reach = self.mapped.reach(log, self.released);
            let could = self.mapped.extend(log, self.released, wanted);
            assert_eq!(could, wanted <= reach, "to {wanted} of {reach}");
            while could && self.head < wanted {
                log.words_at(self.head)[0].store(self.head << 7 | self.shard as u64, Relaxed);
                self.written.push_back(self.head);
                self.head += 8;
            }
            could
        }

        fn release(&mut self, log: &Log, words: u64) {
            for _ in 0..words.min(self.written.len() as u64) {
                self.released = self.written.pop_front().expect("counted") + 8;
            }
            self.mapped.release(log, self.released);
        }

        fn check(&self, log: &Log) {
            for position in &self.written {
                let word = log.words_at(*position)[0].load(Relaxed);
                assert_eq!(word, position << 7 | self.shard as u64, "what was written at {position}");
            }
            let capacity_bytes = u64::from(self.mapped.capacity) << log.slab_shift();
            assert!(self.head - self.released <= capacity_bytes && self.mapped.owned() <= self.mapped.capacity);
        }
    }

    /// Several logs of one pool: what a log holds is never overwritten, by itself or by others, and it always holds as much as its capacity.
    #[test]
    fn nothing_that_is_not_released_is_ever_overwritten() {
        let mut random = fastrand::Rng::with_seed(3);
        let capacities = [1, 2, 5];
        let logs = logs(&capacities, 8);
        let begin = |shard: usize| {
            let position = [64, 1 << 40, 24 << 9][shard];
            let mapped = Mapped::new(&logs[shard], position, capacities[shard]);
            Run { shard, mapped, released: position, head: position, written: VecDeque::new() }
        };
        let mut runs: Vec<Run> = (0..3).map(begin).collect();
        assert!(runs.iter().all(|run| run.mapped.owned() == 0), "an empty log has no memory");
        for _ in 0..20_000 {
            let run = &mut runs[random.usize(0..3)];
            let log = &logs[run.shard];
            if random.bool() {
                let words = random.u64(1..WORDS_MAX);
                if !run.append(log, words) {
                    let capacity_bytes = u64::from(capacities[run.shard]) << log.slab_shift();
                    assert!(run.head + words * 8 - run.released > capacity_bytes, "there was room");
                }
            } else {
                run.release(log, random.u64(1..WORDS_MAX));
            }
            runs.iter().for_each(|run| run.check(&logs[run.shard]));
        }
        let run = &mut runs[2];
        run.mapped.restart(&logs[2], 1 << 30);
        (run.released, run.head) = (1 << 30, 1 << 30);
        run.written.clear();
        assert!(run.append(&logs[2], 5 * SLAB_BYTES as u64 / 8), "what it had came back");
        runs.iter().for_each(|run| run.check(&logs[run.shard]));
    }
}
