//! How a log's ends become visible to others.
//!
//! What a writer moves with every append, the head, and with every reclaimed record, the tail, is
//! in [`Ends`], on a cache line that readers from elsewhere never look at. They see `committed` and
//! `tail` of the control line. A turn lists the shards that were written to in it ([`Touched`]). A
//! worker publishes those before any byte leaves for a client, and when the turn ends.
//!
//! Rules, checked by loom:
//!
//! - Two workers publish one shard at a time, and neither may take the other's back: so both words
//!   only grow. (Bytes below a head are complete, whoever appended them.)
//! - `committed` comes before the tail. Reclaim moves a record by appending it again, then moves
//!   the tail; who sees the tail must be able to see the copy.
//! - A tail is published before its era begins ([`crate::sys::quiescence`]), so before anything
//!   below it is overwritten.

use super::line::ControlLine;
use super::sizing::SHARDS_MAX;
use crate::sys::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::cell::Cell;

const WORDS: usize = SHARDS_MAX.div_ceil(64);

/// The ends of a log as its writer knows them. They change under the shard's lock.
#[derive(Debug)]
pub struct Ends {
    head: AtomicU64,
    tail: AtomicU64,
}

impl Ends {
    /// Of an empty log at `position`.
    pub fn new(position: u64) -> Ends {
        Ends { head: AtomicU64::new(position), tail: AtomicU64::new(position) }
    }

    /// Where the next record goes. Exact with the shard's lock held, a little old without.
    #[inline]
    pub fn head(&self) -> u64 {
        self.head.load(Relaxed)
    }

    /// The oldest position still in use. As above.
    #[inline]
    pub fn tail(&self) -> u64 {
        self.tail.load(Relaxed)
    }

    /// All records below `position` are written.
    #[inline]
    pub fn advance_head(&self, position: u64) {
        self.head.store(position, Release);
    }

    /// Everything below `position` is given up. What was moved from there is below the head.
    #[inline]
    pub fn advance_tail(&self, position: u64) {
        self.tail.store(position, Release);
    }

    /// The log begins anew at `position`, which may be lower. While nobody else publishes.
    pub fn restart(&self, position: u64) {
        self.tail.store(position, Release);
        self.head.store(position, Release);
    }

    /// The log ends at `position`, which is lower. While nobody else publishes.
    pub fn cut(&self, position: u64) {
        self.head.store(position, Release);
    }

    /// Let everybody see the ends as they are now. With the lock or without.
    #[inline]
    pub fn publish(&self, line: ControlLine<'_>) {
        // The head is loaded second: then it is no older than what moved the tail.
        let tail = self.tail.load(Acquire);
        let head = self.head.load(Acquire);
        if line.committed() < head {
            line.commit(head);
        }
        if line.tail() < tail {
            line.advance_tail(tail);
        }
    }
}

/// The shards that a thread has written to and not published yet.
#[derive(Default)]
pub struct Touched {
    /// The first one, as a rule the only one.
    first: Cell<Option<u32>>,
    /// The others, a bit for each.
    others: [Cell<u64>; WORDS],
    /// Which words of those have a bit.
    words_used: Cell<u64>,
}

impl Touched {
    /// None.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.get().is_none()
    }

    /// Add one.
    #[inline]
    pub fn add(&self, shard: u32) {
        match self.first.get() {
            None => self.first.set(Some(shard)),
            Some(first) if first == shard => {}
            Some(_) => self.add_another(shard),
        }
    }

    fn add_another(&self, shard: u32) {
        let (word, bit) = (shard as usize / 64, shard % 64);
        self.others[word].set(self.others[word].get() | 1 << bit);
        self.words_used.set(self.words_used.get() | 1 << word);
    }

    /// Call `take` with each, and have none.
    #[inline]
    pub fn drain(&self, mut take: impl FnMut(usize)) {
        if let Some(first) = self.first.take() {
            take(first as usize);
        }
        let mut words_used = self.words_used.take();
        while words_used != 0 {
            let word = words_used.trailing_zeros() as usize;
            words_used &= words_used - 1;
            let mut bits = self.others[word].take();
            while bits != 0 {
                take(word * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::time::UnixSeconds;
    use crate::store::{NewItem, Store, StoreConfig};

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

    fn store() -> Store {
        let config = StoreConfig {
            memory_bytes: 64 << 10,
            item_bytes_max: 512,
            shards: Some(1),
            hash_seed: Some((1, 2)),
            ..StoreConfig::default()
        };
        Store::new(config).unwrap()
    }

    /// What a write has published when it returns, and when its turn has ended, against where the
    /// log ends.
    #[test]
    fn a_turn_publishes_when_it_ends_and_when_it_is_told_to() {
        let store = store();
        let (mut participant, published) = (store.join(), || store.shards()[0].control().committed());
        let born = published();
        let turn = participant.turn();
        let at = store.locate(b"key");
        let draft = store.draft(&at, NewItem { value: b"value", ..NewItem::default() }, NOW);
        let set = || store.lock(&at).unwrap().entry(&turn, NOW).set(&draft).expect("there is room");
        set();
        assert_eq!(published(), born);
        turn.publish();
        let first = published();
        assert_eq!((first > born, first), (true, store.heads(store.reign())[0]));
        set();
        assert_eq!(published(), first);
        drop(turn);
        assert_eq!((published() > first, published()), (true, store.heads(store.reign())[0]));
    }

    /// Within one turn nothing is published for its own sake. But no byte may be reused whose tail
    /// was not, or a replica would take what overwrites it for what was there.
    #[test]
    fn no_era_begins_for_a_tail_that_nobody_was_shown() {
        let store = store();
        let shard = &store.shards()[0];
        let mut awaited = 0;
        for _ in 0..100 {
            let mut participant = store.join();
            let turn = participant.turn();
            for key in 0..20 {
                let key = [b'k', key];
                let at = store.locate(&key);
                let draft = store.draft(&at, NewItem { value: &[7; 100], ..NewItem::default() }, NOW);
                let _ = store.lock(&at).unwrap().entry(&turn, NOW).set(&draft);
                let writer = shard.lock();
                let tail = shard.control().tail();
                assert!(writer.released <= tail && writer.awaited.is_none_or(|(position, _)| position <= tail));
                awaited += usize::from(writer.awaited.is_some());
            }
        }
        assert!(awaited > 0, "the log comes round");
    }

    #[test]
    fn what_was_touched_is_drained_once() {
        let touched = Touched::default();
        assert!(touched.is_empty());
        for shard in [1023, 0, 64, 63, 64, 512] {
            touched.add(shard);
        }
        assert!(!touched.is_empty());
        let mut drained = Vec::new();
        touched.drain(|shard| drained.push(shard));
        assert_eq!(drained, [1023, 0, 63, 64, 512]);
        touched.drain(|shard| panic!("{shard} was drained before"));
        assert!(touched.is_empty());
    }
}
