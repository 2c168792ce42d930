//! A shard's log from a position on, as a replay sees it: for tests and tools.

use super::record::Record;
use super::shard::Shard;
use crate::base::term::Term;
use crate::sys::sync::{AtomicU64, Ordering::Acquire, fence};

impl Shard {
    /// Does the record at `position` prove itself to be of this place and of `term`? Slow: for
    /// tests and tools.
    pub fn proves(&self, position: u64, record: &Record<'_>, term: Term) -> bool {
        let copy: Vec<AtomicU64> = (0..record.shape.record_bytes() / 8).map(|_| AtomicU64::new(0)).collect();
        self.log.copy_to(position, &copy);
        Record::read(&copy).is_some_and(|record| record.proves_itself(self.seed(position, term)))
    }

    /// Walk the log from `from` (a record's position, the tail for one) to the head: what a replay
    /// sees.
    pub fn walk<'s>(&'s self, from: u64) -> impl Iterator<Item = (u64, Record<'s>)> {
        let head = self.head();
        fence(Acquire); // all bytes below it are seen as well
        let mut at = self.log.settle(from);
        std::iter::from_fn(move || {
            if at >= head {
                return None;
            }
            let (position, record) = (at, self.record(at));
            at = self.log.settle(at + record.shape.record_bytes() as u64);
            Some((position, record))
        })
    }
}
