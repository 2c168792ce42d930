//! `--replica-retain BYTES`: keep the log that a slow replica has not read yet. While a replica is
//! at most so many bytes behind, reclaim does not give up log that it lacks; writers that find no
//! room wait. The replica is *let go* as soon as it is further behind, or reclaim of a shard is
//! held up for too long ([`super::patience`]), so that no write fails because of it: then all
//! replicas that hold this shard up are let go together. From then on they are not counted where
//! writes wait for replicas ([`super::board`]). Once a replica has come close again, and is whole,
//! its log is kept again, and it is counted.
//!
//! Where BYTES was not asked for, log is kept so that what was acknowledged lasts. So nobody waits
//! for a replica that acknowledges nothing yet.
//!
//! Asked by [`crate::store::retain`], with a shard's lock held, only where a tail is about to pass
//! what was allowed before. Nothing is logged there: the replica's session tells it afterwards
//! ([`Teller`]), and looks once a second who is close again.

use super::REPLICAS_MAX;
use super::board::{ALL_BYTES, Board, Kept, LetGo};
use super::patience::{FULL_MICROSECONDS, Patience};
use crate::store::{Store, TailGuard};
use arrayvec::ArrayVec;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

/// Where no replica needs the tail, reclaim is allowed so many bytes more, so that it asks less
/// often.
const STRIDE_BYTES: u64 = 64 << 10;

/// See the module.
pub struct Retain {
    board: Arc<Board>,
    store: Weak<Store>,
    /// Of each shard; taken with that shard's lock held, so nobody waits for one.
    patience: Box<[Mutex<Patience>]>,
    begun_at: Instant,
}

impl Retain {
    /// Have reclaim of `store` wait for replicas on `board` that are at most `bytes` behind. None:
    /// for all that acknowledge what they have, from the time on that somebody waits for replicas.
    pub fn install(store: &Arc<Store>, board: &Arc<Board>, bytes: Option<u64>) {
        let patience = store.shards().iter().map(|_| Mutex::default()).collect();
        let (board, store_of) = (board.clone(), Arc::downgrade(store));
        let retain = Arc::new(Retain { board, store: store_of, patience, begun_at: Instant::now() });
        retain.board.retain(&retain, bytes);
        let guard: Arc<dyn TailGuard> = retain;
        assert!(store.set_tail_guard(&guard), "a store is retained once");
    }

    /// Bytes that a replica lacks, over all shards that it subscribes to. None while it joins: it
    /// has told no position of one of them yet, and begins wherever the tail is by then.
    fn behind_bytes(store: &Store, kept: &Kept) -> Option<u64> {
        let missing = |(shard, line): (usize, &crate::store::shard::Shard)| {
            let (line, position) = (line.control(), kept.acks.applied(shard));
            (position != 0).then(|| line.committed().saturating_sub(position.max(line.tail())))
        };
        store.shards().iter().enumerate().filter(|(shard, _)| kept.acks.has(*shard)).map(missing).sum()
    }

    /// Replicas that were let go, and are whole and close now, are counted again.
    pub(super) fn look(&self) {
        let Some(store) = self.store.upgrade() else { return };
        self.board.kept().iter().for_each(|kept| self.take_back(&store, kept));
    }

    fn take_back(&self, store: &Store, kept: &Kept) {
        if kept.let_go().place.is_none() {
            return;
        }
        let capacity_bytes = store.shards().iter().map(|shard| shard.control().capacity_bytes()).sum();
        let close_bytes = self.board.retain_bytes().min(capacity_bytes) / 2;
        let is_close = || Retain::behind_bytes(store, kept).is_some_and(|bytes| bytes <= close_bytes);
        if self.board.is_whole(kept) && is_close() {
            kept.take_back();
        }
    }

    /// Whether a replica that lacks log below `wanted` of a shard may keep it.
    fn keeps(&self, store: &Store, kept: &Kept, shard: usize, wanted: u64) -> bool {
        if kept.let_go().place.is_some() {
            return false;
        }
        let (bytes_max, acknowledges) = (self.board.retain_bytes(), kept.acks.acknowledged(shard) > 0);
        match Retain::behind_bytes(store, kept) {
            // It joins, but it may be counted in this shard already.
            None => acknowledges,
            Some(bytes) if bytes > bytes_max => {
                self.board.let_go(kept, shard, wanted, WhyLetGo::Behind { bytes, bytes_max });
                false
            }
            // What it has was acknowledged by nobody. It is waited for where that was asked for.
            Some(_) => acknowledges || bytes_max != ALL_BYTES,
        }
    }

    /// How far the replicas let a shard's tail go at `now`, at most `free`.
    fn floor_of_replicas(&self, store: &Store, shard: usize, (wanted, free): (u64, u64), now: u64) -> u64 {
        let (replicas, mut floor, mut lowest) = (self.board.kept(), free, u64::MAX);
        let mut held_up_by = ArrayVec::<&Kept, REPLICAS_MAX>::new();
        for kept in replicas.iter().filter(|kept| kept.acks.has(shard)) {
            let position = kept.acks.applied(shard);
            self.take_back(store, kept);
            if position >= wanted {
                floor = floor.min(position);
            } else if self.keeps(store, kept, shard, wanted) {
                lowest = lowest.min(position);
                held_up_by.push(kept);
            }
        }
        let mut patience = self.patience[shard].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if patience.is_over(!held_up_by.is_empty(), now) {
            held_up_by.iter().for_each(|kept| self.board.let_go(kept, shard, wanted, WhyLetGo::HoldsUp));
            return floor;
        }
        floor.min(lowest)
    }
}

impl TailGuard for Retain {
    fn floor(&self, shard: usize, wanted: u64) -> u64 {
        let Some(store) = self.store.upgrade() else { return wanted + STRIDE_BYTES };
        // Not beyond what replicas can have: who has it all is counted.
        let free = store.shards()[shard].control().committed().clamp(wanted, wanted + STRIDE_BYTES);
        let retains = self.board.retain_bytes() > 0;
        let now = || self.begun_at.elapsed().as_micros() as u64 + 1;
        let floor = if retains { self.floor_of_replicas(&store, shard, (wanted, free), now()) } else { free };
        self.board.allow(shard, floor)
    }

    fn begins_anew(&self, shard: usize) {
        self.board.begins_anew(shard);
    }
}

/// Why the log is not kept for a replica any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhyLetGo {
    /// It is too far behind.
    Behind {
        /// By so much.
        bytes: u64,
        /// More than this.
        bytes_max: u64,
    },
    /// It has held up reclaim of a shard for too long, alone or with others.
    HoldsUp,
}

impl fmt::Display for WhyLetGo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyLetGo::Behind { bytes, bytes_max } => {
                write!(f, "it is {bytes} bytes behind, more than --replica-retain {bytes_max}")
            }
            WhyLetGo::HoldsUp => {
                let seconds = FULL_MICROSECONDS / 1_000_000;
                write!(
                    f,
                    "reclaim has waited for it, or for others before it, for {seconds} s, or most of a longer time"
                )
            }
        }
    }
}

/// Tells in the log what has become of the log that is kept for one replica. Its session's thread
/// looks once a second, and holds no lock.
#[derive(Default)]
pub(super) struct Teller {
    times: u64,
    is_let_go: bool,
}

impl Teller {
    /// See who is close again, and tell what has changed since the last look.
    pub fn look(&mut self, board: &Board, session: u64) {
        board.look();
        let Some(LetGo { place, why, times }) = board.let_go_of(session) else { return };
        if let (true, Some(why)) = (times > self.times, why) {
            log::warn!(
                "replica of session {session} is let go: it is not counted where writes wait for replicas, and will be \
                 overrun if it stays there; {why}"
            );
        }
        if place.is_none() && (self.is_let_go || times > self.times) {
            log::info!("replica of session {session} is close again: its log is kept, and it is counted");
        }
        (self.times, self.is_let_go) = (times, place.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::UnixSeconds;
    use crate::fabric::ACK_BYTES;
    use crate::replication::ack::{AckSlots, SUMMARY_WORDS, Tag};
    use crate::replication::board::BoardView;
    use crate::replication::wire::Wanted;
    use crate::store::{NewItem, StoreConfig};
    use crate::sys::memory::Memfd;
    use std::sync::atomic::Ordering::Release;

    /// A store of two shards with some items, and a replica with its ack slot on the board.
    struct Scene {
        store: Arc<Store>,
        board: Arc<Board>,
        retain: Arc<Retain>,
        heads: Box<[u64]>,
        slots: Arc<AckSlots>,
        ack: Arc<Memfd>,
    }

    impl Scene {
        fn new() -> Scene {
            let config = StoreConfig {
                memory_bytes: 16 << 20,
                item_bytes_max: 1 << 16,
                shards: Some(2),
                hash_seed: Some((1, 2)),
                ..StoreConfig::default()
            };
            let (store, board) = (Arc::new(Store::new(config).expect("memory")), Arc::new(Board::default()));
            let mut worker = store.join();
            for number in 0..1000u32 {
                let (turn, now) = (worker.turn(), UnixSeconds::now());
                let key = number.to_le_bytes();
                let at = store.locate(&key);
                let draft = store.draft(&at, NewItem { value: &[7; 200], ..NewItem::default() }, now);
                let _ = store.lock(&at).unwrap().entry(&turn, now).set(&draft);
            }
            drop(worker);
            let heads = store.heads(store.reign());
            assert!(heads.iter().all(|position| *position > 64 << 10), "{heads:?}");
            Retain::install(&store, &board, Some(32 << 10));
            let retain = board.retain.get().and_then(Weak::upgrade).expect("it was installed");
            let (slots, ack) = put_up(&board, 1);
            Scene { store, board, retain, heads, slots, ack }
        }

        fn subscribe(&self) -> Tag {
            let [tag, _] = [0, 1].map(|shard| self.slots.subscribe(Wanted::new(shard, 0)).expect("it is there"));
            tag
        }

        fn tell(&self, tag: Tag, shard: usize, position: u64, is_whole: bool) {
            tell(&self.ack, tag, shard, position, is_whole);
        }

        /// How far the tail of shard 0 may go, where reclaim wants to go up to `wanted`.
        fn floor_at(&self, wanted: u64, now: u64) -> u64 {
            self.retain.floor_of_replicas(&self.store, 0, (wanted, self.heads[0]), now)
        }

        /// Reclaim of shard 0 asks each tenth of a second from `now` on. When nobody holds it up.
        fn held_up_until(&self, wanted: impl Fn(u64) -> u64, now: u64) -> u64 {
            let asks = (0..1000).map(|tenths| now + tenths * SECOND / 10);
            asks.take_while(|at| self.floor_at(wanted(*at), *at) < wanted(*at)).last().expect("it is held up")
        }
    }

    const SECOND: u64 = 1_000_000;

    /// The ack slot of another replica on the board, and its memory.
    fn put_up(board: &Board, session: u64) -> (Arc<AckSlots>, Arc<Memfd>) {
        let ack = Arc::new(Memfd::new("test-ack", ACK_BYTES, false).expect("a page"));
        let slots = Arc::new(AckSlots::new([ack.clone()], 2));
        board.put_up(session, [session as u8; 16], slots.clone());
        (slots, ack)
    }

    fn tell(ack: &Memfd, tag: Tag, shard: usize, position: u64, is_whole: bool) {
        ack.words()[SUMMARY_WORDS + shard].store(tag.word(position, is_whole), Release);
    }

    /// Words of one ack are placed in any order: a look may find positions of some shards and not
    /// of others.
    #[test]
    fn a_replica_whose_first_ack_is_half_there_joins_and_is_not_let_go() {
        let scene = Scene::new();
        let Scene { board, retain, heads, .. } = &scene;
        let tag = scene.subscribe();
        let (wanted, position) = (heads[0] - 2048, heads[0] - 4096);
        scene.tell(tag, 0, position, false);
        assert!(retain.floor(0, wanted) > wanted, "nobody waits for a replica that joins");
        assert_eq!(board.let_go_count(), 0, "it has not told how far it is");
        scene.tell(tag, 1, heads[1], true);
        assert_eq!(retain.floor(0, wanted), position, "it is close, and its log is kept");
        [0, 1].iter().for_each(|shard| scene.slots.take_back(*shard));
        assert!(retain.floor(0, wanted) > wanted, "nobody waits for a replica that does not subscribe");
        let tag = scene.subscribe();
        scene.tell(tag, 0, position, true);
        scene.tell(tag, 1, heads[1] - (40 << 10), true);
        assert!(retain.floor(0, wanted) > wanted);
        assert_eq!(board.let_go_count(), 1, "it is too far behind");
    }

    #[test]
    fn a_replica_that_joins_is_waited_for_where_it_is_counted_but_not_for_ever() {
        let scene = Scene::new();
        let (wanted, position) = (scene.heads[0] - 2048, scene.heads[0] - 4096);
        scene.tell(scene.subscribe(), 0, position, true);
        let kept = scene.board.kept()[0].clone();
        assert_eq!(scene.floor_at(wanted, SECOND), position);
        let until = scene.held_up_until(|_| wanted, 2 * SECOND);
        assert!((4 * SECOND..5 * SECOND).contains(&until), "some two seconds: {until}");
        assert!((kept.let_go().place, kept.let_go().why) == (Some((0, wanted)), Some(WhyLetGo::HoldsUp)));
        assert!(scene.floor_at(wanted, 6 * SECOND) > wanted);
    }

    /// It reads on, and each time reclaim comes up to it at once.
    #[test]
    fn a_replica_that_is_slower_than_writers_is_let_go_in_the_end() {
        let scene = Scene::new();
        let (tag, begin) = (scene.subscribe(), scene.heads[0] - (30 << 10));
        scene.tell(tag, 1, scene.heads[1], true);
        let position_at = |now: u64| begin + now / SECOND * 1024;
        let reads_on = |now| {
            scene.tell(tag, 0, position_at(now), true);
            position_at(now) + 64
        };
        let until = scene.held_up_until(reads_on, SECOND);
        assert!((2 * SECOND..4 * SECOND).contains(&until), "{until}");
        assert_eq!(scene.board.is_let_go(1), Some(true));
    }

    #[test]
    fn those_who_hold_a_shard_up_are_let_go_together() {
        let scene = Scene::new();
        let wanted = scene.heads[0] - 8192;
        // The third stands a little further on than reclaim wants to go at first.
        for (session, position) in [(1, wanted - 16), (2, wanted - 8), (3, wanted + 8)] {
            let (slots, ack) = put_up(&scene.board, session);
            let tags = [0, 1].map(|shard| slots.subscribe(Wanted::new(shard, 0)).expect("it is there"));
            tell(&ack, tags[0], 0, position, true);
            tell(&ack, tags[1], 1, scene.heads[1], true);
        }
        let are_let_go = || [1, 2, 3].map(|session| scene.board.is_let_go(session) == Some(true));
        let until = scene.held_up_until(|_| wanted, SECOND);
        assert_eq!(are_let_go(), [true, true, false], "it holds nothing up yet");
        assert_eq!(scene.floor_at(wanted + 16, until + SECOND / 5), scene.heads[0], "nobody waits once more");
        assert_eq!(are_let_go(), [true; 3]);
    }

    /// For who is not counted, the tail protects nothing; but log may be kept for what has been
    /// asked for.
    #[test]
    fn who_acknowledges_nothing_is_waited_for_only_where_bytes_were_asked_for() {
        let scene = Scene::new();
        let (tag, wanted, position) = (scene.subscribe(), scene.heads[0] - 2048, scene.heads[0] - 4096);
        (0..2).for_each(|shard| scene.tell(tag, shard, [position, scene.heads[1]][shard], false));
        assert_eq!(scene.floor_at(wanted, SECOND), position);
        scene.board.retain(&scene.retain, None);
        BoardView::new(scene.board.clone()).refresh();
        assert_eq!(scene.floor_at(wanted, SECOND), scene.heads[0]);
        assert_eq!(scene.board.let_go_count(), 0, "it is passed, as if nobody kept log");
        scene.tell(tag, 0, position, true);
        assert_eq!(scene.floor_at(wanted, SECOND), position);
    }

    #[test]
    fn who_was_let_go_is_counted_again_once_it_is_close_and_whole_in_all_shards() {
        let scene = Scene::new();
        let Scene { board, retain, heads, .. } = &scene;
        let tag = scene.subscribe();
        (0..2).for_each(|shard| scene.tell(tag, shard, heads[shard], true));
        board.let_go(&board.kept()[0], 0, heads[0] - 2048, WhyLetGo::HoldsUp);
        for (positions, is_whole, counted) in [
            ([heads[0], heads[1]], false, false),
            ([heads[0], heads[1] - (20 << 10)], true, false),
            ([heads[0], heads[1] - (10 << 10)], true, true),
        ] {
            (0..2).for_each(|shard| scene.tell(tag, shard, positions[shard], is_whole || shard == 0));
            retain.look();
            assert_eq!((board.is_let_go(1), board.is_counted(1)), (Some(!counted), counted), "{positions:?}");
        }
    }
}
