//! Which virtual slabs of a log have memory, and how far the head may go. Kept under the shard's
//! lock.
//!
//! ```text
//! virtual slabs:   ... | base | base + 1 | ... | end - 1 |
//!                        ^ released is here       ^ no byte at or beyond the limit may be written
//! ```
//!
//! - A fresh slab of the pool always serves the *next* virtual slab, up to the log's capacity.
//! - Once all are taken, the next virtual slab **shares** the physical one of `base`, where only
//!   what lies below the released position may be overwritten: so a log of one slab is a ring of
//!   one slab. No others ever share.
//! - A slab whose bytes are all released serves the next virtual slab. Where the log has more than
//!   it is to have, and the others can hold it, it goes back to the pool instead. So a log shrinks
//!   as its tail moves, by a slab after at most two slabs of tail, and nothing is copied for it.
//! - Slabs above all that is written go back at once.
//! - A log that shares and is to have more cannot take it at once: the shared slab has no room
//!   behind it. It takes more once the tail has left that slab.
//!
//! Invariants: `owned <= capacity`, `goal <= capacity`, as much as `capacity` is reserved of the
//! pool; `end - base` is `owned`, or one more while base and top share.

use super::log::Log;

/// See the module. All in slabs, but for the limit.
#[derive(Debug)]
pub(super) struct Mapped {
    base: u64,
    end: u64,
    owned: u32,
    /// What it may have, and has reserved.
    capacity: u32,
    /// What it is to have.
    goal: u32,
    limit: u64,
}

impl Mapped {
    /// Nothing has memory yet. `capacity` slabs are reserved; the log begins at `position`.
    pub(super) fn new(log: &Log, position: u64, capacity: u32) -> Mapped {
        let base = position >> log.slab_shift();
        Mapped { base, end: base, owned: 0, capacity, goal: capacity, limit: base << log.slab_shift() }
    }

    /// No byte at or beyond this position may be written.
    #[inline]
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// How many it may have now.
    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// What it is to have.
    pub(super) fn goal(&self) -> u32 {
        self.goal
    }

    /// What its log is to make do with: what it is to have, or less, while that is not in reach.
    pub(super) fn usable(&self) -> u32 {
        self.goal.min(self.in_reach())
    }

    /// It has more than it is to have.
    pub(super) fn shrinks(&self) -> bool {
        self.goal < self.capacity
    }

    /// It may have more than it has, and takes it once its tail has left the shared slab.
    pub(super) fn is_held_up(&self) -> bool {
        self.shares() && self.owned < self.capacity
    }

    /// It is to have `slabs`. More are reserved at once; less are had as the tail moves. False, and
    /// nothing is changed, if the pool has not so many.
    pub(super) fn set_goal(&mut self, log: &Log, slabs: u32) -> bool {
        if slabs > self.capacity {
            if !log.pool().reserve(slabs - self.capacity) {
                return false;
            }
            self.capacity = slabs;
        }
        self.goal = slabs;
        self.lower_capacity(log);
        true
    }

    fn lower_capacity(&mut self, log: &Log) {
        let lower = self.goal.max(self.owned);
        log.pool().unreserve(self.capacity - lower);
        self.capacity = lower;
    }

    /// How many it has.
    pub(super) fn owned(&self) -> u32 {
        self.owned
    }

    /// So many slabs of log can lie between what is released and the head. While base and top
    /// share, none can be added.
    pub(super) fn in_reach(&self) -> u32 {
        if self.shares() { self.owned } else { self.capacity }
    }

    /// Up to where the limit can be moved while `released` stays where it is.
    pub(super) fn reach(&self, log: &Log, released: u64) -> u64 {
        released + (u64::from(self.in_reach()) << log.slab_shift())
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

    /// All bytes below `released` may be overwritten. Slabs go back to the pool only while the
    /// others can hold the log up to `needed`.
    pub(super) fn release(&mut self, log: &Log, released: u64, needed: u64) {
        while self.base < released >> log.slab_shift() {
            let (physical, shared) = (log.physical(self.base), self.shares());
            self.base += 1;
            if shared {
                continue;
            }
            let others_bytes = u64::from(self.owned.saturating_sub(1)) << log.slab_shift();
            if self.owned > self.goal && needed <= released + others_bytes {
                self.owned -= 1;
                log.pool().give_up(physical);
                self.lower_capacity(log);
            } else {
                log.map(self.end, physical);
                self.end += 1;
            }
        }
        self.set_limit(log, released);
    }

    /// Give back slabs at the top, where there are more than there are to be: those that the log up
    /// to `needed` does not come to. Nothing of them is committed. (Who has looked at their
    /// cells before the log was cut back sees that its end went back.) At most `slabs_max` of them.
    pub(super) fn trim(&mut self, log: &Log, needed: u64, slabs_max: u32) {
        for _ in 0..slabs_max {
            let top = self.end.saturating_sub(1);
            if self.owned <= self.goal || self.shares() || top << log.slab_shift() < needed {
                break;
            }
            self.end = top;
            self.owned -= 1;
            self.limit = top << log.slab_shift();
            log.pool().give_up(log.physical(top));
            self.lower_capacity(log);
        }
    }

    /// The log begins anew at `position`, and nobody can see anything of the old one.
    pub(super) fn restart(&mut self, log: &Log, position: u64) {
        for slab in 0..self.owned {
            let physical = log.physical(self.base + u64::from(slab));
            if slab < self.goal { log.pool().give(physical) } else { log.pool().give_up(physical) }
        }
        log.pool().unreserve(self.capacity - self.goal);
        *self = Mapped::new(log, position, self.goal);
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
    use crate::sys::memory::Memfd;
    use crate::sys::sync::Ordering::Relaxed;
    use std::collections::VecDeque;
    use std::sync::Arc;

    const SLAB_BYTES: usize = 512;
    const WORDS_MAX: u64 = 100;
    const SPARE_BYTES: u64 = 400;

    fn logs(capacities: &[u32], slabs: u32) -> Vec<Log> {
        let pool = Arc::new(Pool::new(slabs, SLAB_BYTES, false).unwrap());
        assert!(pool.reserve(capacities.iter().sum()));
        let cells = table_cells(slabs);
        let tables = Arc::new(Memfd::new("test", capacities.len() * cells as usize * 8, false).unwrap());
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
            self.mapped.release(log, self.released, self.head + SPARE_BYTES);
        }

        fn check(&self, log: &Log) {
            for position in &self.written {
                let word = log.words_at(*position)[0].load(Relaxed);
                assert_eq!(word, position << 7 | self.shard as u64, "what was written at {position}");
            }
            let capacity_bytes = u64::from(self.mapped.capacity()) << log.slab_shift();
            assert!(self.head - self.released <= capacity_bytes && self.mapped.owned() <= self.mapped.capacity());
        }
    }

    /// Several logs of one pool: what a log holds is never overwritten, by itself or by others, and
    /// it always holds as much as its capacity.
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
        let (mut grown, mut shrunk, mut refused, mut trimmed) = (0, 0, 0, 0);
        for _ in 0..40_000 {
            let run = &mut runs[random.usize(0..3)];
            let log = &logs[run.shard];
            let before = run.mapped.capacity();
            match random.u32(0..200) {
                0 => {
                    let slabs = random.u32(1..=6);
                    refused += u32::from(!run.mapped.set_goal(log, slabs));
                    let owned = run.mapped.owned();
                    run.mapped.trim(log, run.head + SPARE_BYTES, 2);
                    trimmed += owned - run.mapped.owned();
                    assert!(run.mapped.capacity() >= run.mapped.owned());
                }
                1..100 => drop(run.append(log, random.u64(1..WORDS_MAX))),
                _ => run.release(log, random.u64(1..WORDS_MAX)),
            }
            grown += u32::from(run.mapped.capacity() > before);
            shrunk += u32::from(run.mapped.capacity() < before);
            runs.iter().for_each(|run| run.check(&logs[run.shard]));
            let reserved: u32 = runs.iter().map(|run| run.mapped.capacity()).sum();
            assert!(reserved <= 8, "{reserved} slabs of eight");
        }
        assert!(grown > 10 && shrunk > 10 && refused > 10 && trimmed > 10, "{grown} {shrunk} {refused} {trimmed}");
        let run = &mut runs[2];
        run.mapped.set_goal(&logs[2], 1);
        run.mapped.restart(&logs[2], 1 << 30);
        (run.released, run.head) = (1 << 30, 1 << 30);
        run.written.clear();
        assert!(run.append(&logs[2], SLAB_BYTES as u64 / 8), "what it had came back");
        assert_eq!((run.mapped.capacity(), run.mapped.shrinks()), (1, false));
    }

    /// A log that is to have less has it once its tail has passed as many slabs, and two more; what
    /// it gave back others may have.
    #[test]
    fn a_log_shrinks_from_its_tail_and_another_grows() {
        let logs = logs(&[6, 2], 8);
        let begin = |shard: usize, slabs| Run {
            shard,
            mapped: Mapped::new(&logs[shard], 64, slabs),
            released: 64,
            head: 64,
            written: VecDeque::new(),
        };
        let (mut one, mut two) = (begin(0, 6), begin(1, 2));
        let slab_words = SLAB_BYTES as u64 / 8;
        assert!(one.append(&logs[0], 6 * slab_words) && one.mapped.owned() == 6);
        assert!(one.mapped.set_goal(&logs[0], 3) && one.mapped.capacity() == 6, "nothing was released yet");
        assert!(!two.mapped.set_goal(&logs[1], 4));
        let mut passed = 0;
        while one.mapped.shrinks() {
            one.release(&logs[0], slab_words);
            passed += 1;
            assert!(one.append(&logs[0], slab_words / 4), "and it goes on meanwhile");
            one.check(&logs[0]);
        }
        assert!(passed <= 3 + 2, "{passed} slabs of tail");
        assert_eq!((one.mapped.capacity(), one.mapped.owned()), (3, 3));
        assert!(two.mapped.set_goal(&logs[1], 5) && two.append(&logs[1], 5 * slab_words));
        one.check(&logs[0]);
        two.check(&logs[1]);
    }
}
