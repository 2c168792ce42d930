//! Who else needs the tail. Reclaim gives up the oldest log when it must; a guard, if one was set,
//! is asked before, and may have it wait. Writers that find no room then park as they always do,
//! and are answered with an error when that takes too long: a guard must let go before.

use super::Store;
use super::shard::Shard;
use super::writer::Writer;
use crate::sys::sync::{AtomicU64, Ordering, fence};
use std::ops::Range;
use std::sync::Arc;

/// Says how far the tail may go.
pub trait TailGuard: Send + Sync {
    /// Reclaim wants to give up shard `shard`'s log below `wanted`. Returns up to where it may:
    /// less than `wanted` if somebody needs what lies there, else `wanted` or more, and it is not
    /// asked again before that. Called with the shard's lock held, so it must not wait.
    fn floor(&self, shard: usize, wanted: u64) -> u64;

    /// The log of shard `shard` begins anew, at whatever position, or goes back: what was said of
    /// it before is void. Called with the shard's lock held.
    fn begins_anew(&self, shard: usize);
}

/// How far a shard's tail may go, for a guard and for those who count who still needs what lies
/// above: nobody is passed by the tail after it was counted. loom checks it.
///
/// ```text
/// who counts                          the guard
/// 1. load how far somebody is         1. store up to where the tail may go
/// 2. fence                            2. fence
/// 3. load up to where the tail may    3. load how far everybody is
///    go; who is below is not counted  4. store less, if somebody is below
/// ```
///
/// One of the two fences is the first. If it is the guard's, who counts sees how far the tail may
/// go. If it is the other one, the guard sees who was counted.
pub struct Allowed(AtomicU64);

impl Allowed {
    /// Nothing so far.
    pub fn nothing() -> Allowed {
        Allowed(AtomicU64::new(0))
    }

    /// For who counts: between the loads of how far somebody is, and [`Allowed::position`].
    pub fn order_loads() {
        fence(Ordering::SeqCst);
    }

    /// Up to where the tail may go.
    pub fn position(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The tail may go up to `floor`, or up to what `lowest` finds in the range that this adds: how
    /// far the lowest one is that may have been counted there. Returns up to where. With the
    /// shard's lock held, before the tail moves.
    pub fn raise(&self, floor: u64, lowest: impl FnOnce(Range<u64>) -> Option<u64>) -> u64 {
        let before = self.0.load(Ordering::Relaxed);
        if floor <= before {
            return floor;
        }
        self.0.store(floor, Ordering::Release);
        fence(Ordering::SeqCst);
        let Some(lowest) = lowest(before..floor) else { return floor };
        self.0.store(lowest, Ordering::Release);
        lowest
    }

    /// The log begins anew. With the shard's lock held.
    pub fn begin_anew(&self) {
        self.0.store(0, Ordering::Release);
    }
}

impl Store {
    /// Ask `guard` from now on. Once in the store's life; a second one is not taken, and false
    /// comes back.
    pub fn set_tail_guard(&self, guard: &Arc<dyn TailGuard>) -> bool {
        self.shards.iter().all(|shard| shard.guard.set(guard.clone()).is_ok())
    }
}

impl Shard {
    /// May everything below `end` be given up? One branch where no guard was set.
    #[inline]
    pub(super) fn may_give_up(&self, writer: &mut Writer, end: u64) -> bool {
        let Some(guard) = self.guard.get() else { return true };
        if end > writer.floor {
            writer.floor = guard.floor(self.number as usize, end);
        }
        end <= writer.floor
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::time::UnixSeconds;
    use crate::store::line::BIRTH;
    use crate::store::{History, NewItem, NoRoom, StoreConfig};
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

    /// Holds everything from a position on; counts how often it was asked.
    struct Held {
        from: AtomicU64,
        asked: AtomicU64,
        begun_anew: AtomicU64,
    }

    impl Held {
        fn all() -> Arc<Held> {
            let nothing = || AtomicU64::new(0);
            Arc::new(Held { from: nothing(), asked: nothing(), begun_anew: nothing() })
        }
    }

    impl TailGuard for Held {
        fn floor(&self, _shard: usize, _wanted: u64) -> u64 {
            self.asked.fetch_add(1, Relaxed);
            self.from.load(Relaxed)
        }

        fn begins_anew(&self, _shard: usize) {
            self.begun_anew.fetch_add(1, Relaxed);
        }
    }

    fn store(evict: bool) -> Store {
        let config = StoreConfig {
            memory_bytes: 64 << 10,
            item_bytes_max: 512,
            evict,
            shards: Some(1),
            hash_seed: Some((1, 2)),
            ..StoreConfig::default()
        };
        Store::new(config).unwrap()
    }

    fn set(store: &Store, key: usize) -> Result<u64, NoRoom> {
        let (mut participant, key) = (store.join(), format!("key-{key}"));
        let turn = participant.turn();
        store.maintain(&turn, 0, NOW);
        let at = store.locate(key.as_bytes());
        let draft = store.draft(&at, NewItem { value: &[7; 100], ..NewItem::default() }, NOW);
        store.lock(&at).unwrap().entry(&turn, NOW).set(&draft)
    }

    fn is_there(store: &Store, key: usize) -> bool {
        let (mut participant, key) = (store.join(), format!("key-{key}"));
        let turn = participant.turn();
        store.get(&turn, &store.locate(key.as_bytes()), NOW).is_some()
    }

    #[test]
    fn what_is_held_stays_and_writes_find_no_room_until_it_is_let_go() {
        let store = store(true);
        let held = Held::all();
        let guard: Arc<dyn TailGuard> = held.clone();
        assert!(store.set_tail_guard(&guard));
        assert!(!store.set_tail_guard(&guard), "one is enough");
        let first_refused = (0..2000).find(|key| set(&store, *key).is_err()).expect("the log is full at last");
        let tail = store.shards()[0].control().tail();
        for _ in 0..50 {
            assert_eq!(set(&store, first_refused), Err(NoRoom::Now), "it may come yet");
        }
        assert_eq!(store.shards()[0].control().tail(), tail);
        assert!((0..first_refused).all(|key| is_there(&store, key)), "nothing was evicted meanwhile");

        // A part is let go, and no more than that is given up.
        let middle = store.shards()[0].walk(tail).nth(200).expect("many records").0;
        held.from.store(middle, Relaxed);
        assert!((0..50).any(|_| set(&store, first_refused).is_ok()));
        (0..2000).for_each(|key| {
            let _ = set(&store, 10_000 + key);
        });
        assert!(store.shards()[0].control().tail() > tail && store.shards()[0].control().tail() <= middle);

        held.from.store(u64::MAX, Relaxed);
        let asked = held.asked.load(Relaxed);
        let stored = (0..2000).filter(|key| set(&store, 20_000 + key).is_ok()).count();
        assert!(stored > 1900, "{stored}");
        assert_eq!(held.asked.load(Relaxed), asked + 1, "it is not asked about what it has let go");
    }

    /// Without eviction, live items move from the tail to the head: that waits as well.
    #[test]
    fn without_eviction_it_is_the_same() {
        let store = store(false);
        let held = Held::all();
        let guard: Arc<dyn TailGuard> = held.clone();
        assert!(store.set_tail_guard(&guard));
        // The same few keys: there are gaps to gain, and nobody may have them.
        let stored = (0..2000).filter(|number| set(&store, number % 10).is_ok()).count();
        let tail = store.shards()[0].control().tail();
        assert!(stored < 600, "{stored}");
        held.from.store(u64::MAX, Relaxed);
        let stored = (0..2000).filter(|number| set(&store, number % 10).is_ok()).count();
        assert!(stored > 1500 && store.shards()[0].control().tail() > tail, "{stored}");
        assert!((0..10).all(|key| is_there(&store, key)));
    }

    /// Positions go back where a server follows another one.
    #[test]
    fn what_was_allowed_of_a_log_is_void_once_another_begins() {
        let (store, held) = (store(true), Held::all());
        let guard: Arc<dyn TailGuard> = held.clone();
        assert!(store.set_tail_guard(&guard));
        let mut follower = store.follower(0).expect("nobody follows");
        assert!(follower.begin_at(BIRTH, &History::NONE));
        assert_eq!(held.begun_anew.load(Relaxed), 1);
    }
}
