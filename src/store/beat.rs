//! The beat of the control lines ([`super::line`]): moved while clients are served here, may write
//! to the shard, and this server is sure of its roles, by a thread that has nothing to wait for. A
//! follower copies that of whom it follows instead, and knows by it how far behind it may be.

use super::shard::Shard;
use super::{Follower, Store};
use crate::base::time::boot_milliseconds;
use crate::sys::sync::Ordering::{Acquire, Relaxed, Release};

impl Shard {
    /// By how many milliseconds what a follower has here may be behind its primary, at most, at
    /// this time of [`boot_milliseconds`]; None where that is not known.
    pub fn behind_milliseconds(&self, now: u64) -> Option<u32> {
        let fresh_at = self.fresh_at.load(Acquire);
        // Both are cut to whole milliseconds.
        let behind = now.saturating_sub(fresh_at).saturating_add(1);
        (fresh_at > 0).then(|| behind.try_into().unwrap_or(u32::MAX))
    }
}

impl Follower<'_> {
    /// All that the primary had at this time is here, in milliseconds of
    /// [`boot_milliseconds`]; None: no such time is known.
    pub fn note_fresh(&mut self, at: Option<u64>) {
        self.shard.fresh_at.store(at.unwrap_or(0), Release);
    }
}

impl Store {
    /// From now on clients are served here, or are not any more: the lines of the shards that take
    /// writes say so at once.
    pub fn serve(&self, serves: bool) {
        self.serves.store(serves.into(), Release);
        if serves {
            self.beat();
        } else {
            let open = self.shards.iter().filter(|shard| shard.gate.is_open());
            open.for_each(|shard| shard.control().end_serving());
        }
    }

    /// This server is sure of its roles until this time of [`boot_milliseconds`]; without an end
    /// before this is said. Beyond it another server may have them, so no beat moves.
    pub fn be_sure_until(&self, milliseconds: u64) {
        self.sure_until.store(milliseconds, Relaxed);
    }

    /// Move on the beat of the shards that take writes, if clients are served. One store for each.
    pub fn beat(&self) {
        let is_sure = || boot_milliseconds() < self.sure_until.load(Relaxed);
        for shard in &self.shards {
            shard.control().move_beat(|| self.serves.load(Relaxed) != 0 && is_sure() && shard.gate.is_open());
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::line::SERVES;
    use super::*;
    use crate::store::StoreConfig;

    #[test]
    fn a_beat_moves_while_clients_are_served() {
        let config =
            StoreConfig { memory_bytes: 128 << 10, item_bytes_max: 512, shards: Some(2), ..StoreConfig::default() };
        let store = Store::new(config).unwrap();
        let beats = || [0, 1].map(|shard| store.shards[shard].control().beat());
        store.beat();
        assert_eq!(beats(), [0, 0], "nobody is served here");
        store.serve(true);
        let first = beats();
        store.beat();
        assert!(beats().iter().zip(first).all(|(now, first)| *now > first && now & first & SERVES == 1));
        store.close_gates([1], None);
        let closed = beats();
        store.beat();
        assert_eq!(closed.map(|beat| beat & SERVES), [1, 0]);
        assert_eq!((beats()[0] > closed[0], beats()[1]), (true, closed[1]), "another one may move it now");
        let before = beats();
        store.be_sure_until(boot_milliseconds());
        store.beat();
        assert_eq!(beats(), before, "its lease has ended: another server may be the primary");
        store.be_sure_until(u64::MAX);
        store.beat();
        assert!(beats()[0] > before[0]);
        store.serve(false);
        assert_eq!(beats()[1], closed[1]);
        let ended = beats();
        assert!(ended.iter().all(|beat| beat & SERVES == 0));
        store.beat();
        assert_eq!(beats(), ended);
    }

    /// Rounded to what is further behind.
    #[test]
    fn what_is_here_is_as_far_behind_as_it_may_be() {
        let store = Store::new(StoreConfig { shards: Some(1), ..StoreConfig::default() }).unwrap();
        let (shard, mut follower) = (&store.shards[0], store.follower(0).unwrap());
        assert_eq!(shard.behind_milliseconds(500), None);
        follower.note_fresh(Some(500));
        assert_eq!([500, 501, 1500].map(|now| shard.behind_milliseconds(now)), [Some(1), Some(2), Some(1001)]);
        assert_eq!(shard.behind_milliseconds(u64::MAX), Some(u32::MAX));
        follower.note_fresh(None);
        assert_eq!(shard.behind_milliseconds(501), None);
    }

    /// Whoever has begun to move the beat finds it changed, whatever it showed.
    #[test]
    fn a_beat_that_was_under_way_does_not_outlive_the_serving() {
        let store = Store::new(StoreConfig { shards: Some(1), ..StoreConfig::default() }).unwrap();
        let line = store.shards[0].control();
        for before in [0, 4, 5] {
            line.set_beat(before);
            line.move_beat(|| {
                line.end_serving();
                true
            });
            assert_eq!(line.beat() & SERVES, 0, "from {before}");
            line.move_beat(|| {
                line.set_beat(9);
                true
            });
            assert_eq!(line.beat(), 9, "a follower has shown what it sees");
        }
    }
}
