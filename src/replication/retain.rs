//! `--replica-retain BYTES`: keep the log that a slow replica has not read yet. While a replica is
//! at most so many bytes behind, reclaim does not give up log that it lacks; writers that find no
//! room wait. The replica is *let go* as soon as it is further behind, or reclaim of a shard has
//! waited for it for too long, so that no write fails because of it. From then on it is not
//! counted where writes wait for replicas ([`super::board`]). Once it has come close again, and is
//! whole, its log is kept again, and it is counted.
//!
//! Asked by [`crate::store::retain`], with a shard's lock held, only where a tail is about to pass
//! what was allowed before. Nothing is logged there: the replica's session tells it afterwards
//! ([`Teller`]), and looks once a second who is close again.

use super::board::{Board, Kept, LetGo};
use crate::base::limits::PARK_MILLISECONDS_MAX;
use crate::store::{Store, TailGuard};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Reclaim of a shard waits at most so long for a replica while the tail moves by less than two of
/// the largest records. A parked write sees two such spans at most.
const HOLD_MICROSECONDS_MAX: u64 = 2_000_000;
const _: () = assert!(2 * HOLD_MICROSECONDS_MAX < PARK_MILLISECONDS_MAX * 1000);
/// At most so much of the time between two questions counts as waiting. Workers ask in each turn
/// while a writer waits for room.
const QUESTION_MICROSECONDS_MAX: u64 = 100_000;
/// Where no replica needs the tail, reclaim is allowed so many bytes more, so that it asks less
/// often.
const STRIDE_BYTES: u64 = 64 << 10;

/// See the module.
pub struct Retain {
    board: Arc<Board>,
    store: Weak<Store>,
    /// A replica for which the tail moves by so much within the time is slow, but not stuck.
    progress_bytes: u64,
    begun_at: Instant,
}

/// What one replica does to one shard's reclaim; written under that shard's lock.
#[derive(Default)]
pub struct Hold {
    /// The tail when the span began.
    begin: AtomicU64,
    /// Time within the span in which reclaim waited.
    waited: AtomicU64,
    /// When it was last found to wait; 0: it was not, when last asked.
    asked_at: AtomicU64,
}

impl Retain {
    /// Have reclaim of `store` wait for replicas on `board` that are at most `bytes` behind. None:
    /// for all that are not stuck, from the time on that somebody waits for replicas.
    pub fn install(store: &Arc<Store>, board: &Arc<Board>, bytes: Option<u64>) {
        let progress_bytes = 2 * store.geometry().log_record_bytes_max();
        let (board, store_of) = (board.clone(), Arc::downgrade(store));
        let retain = Arc::new(Retain { board, store: store_of, progress_bytes, begun_at: Instant::now() });
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
    fn keeps(&self, store: &Store, kept: &Kept, shard: usize, wanted: u64, now: u64) -> bool {
        if kept.let_go().place.is_some() {
            return false;
        }
        let bytes_max = self.board.retain_bytes();
        let why = match Retain::behind_bytes(store, kept) {
            // It joins, but it may be counted in this shard already.
            None if kept.acks.acknowledged(shard) == 0 => return false,
            Some(bytes) if bytes > bytes_max => WhyLetGo::Behind { bytes, bytes_max },
            _ if kept.hold(shard).is_too_long(wanted, now, self.progress_bytes) => WhyLetGo::Stuck,
            _ => return true,
        };
        self.board.let_go(kept, shard, wanted, why);
        false
    }

    /// How far the replicas let a shard's tail go, at most `free`.
    fn floor_of_replicas(&self, store: &Store, shard: usize, wanted: u64, free: u64) -> u64 {
        let now = self.begun_at.elapsed().as_micros() as u64 + 1;
        let mut floor = free;
        for kept in self.board.kept().iter().filter(|kept| kept.acks.has(shard)) {
            let position = kept.acks.applied(shard);
            self.take_back(store, kept);
            if position >= wanted {
                kept.hold(shard).rest();
                floor = floor.min(position);
            } else if self.keeps(store, kept, shard, wanted, now) {
                floor = floor.min(position);
            }
        }
        floor
    }
}

impl TailGuard for Retain {
    fn floor(&self, shard: usize, wanted: u64) -> u64 {
        let Some(store) = self.store.upgrade() else { return wanted + STRIDE_BYTES };
        // Not beyond what replicas can have: who has it all is counted.
        let free = store.shards()[shard].control().committed().clamp(wanted, wanted + STRIDE_BYTES);
        let retains = self.board.retain_bytes() > 0;
        let floor = if retains { self.floor_of_replicas(&store, shard, wanted, free) } else { free };
        self.board.allow(shard, floor)
    }

    fn begins_anew(&self, shard: usize) {
        self.board.begins_anew(shard);
    }
}

impl Hold {
    /// Reclaim does not wait for this replica.
    fn rest(&self) {
        self.asked_at.store(0, Relaxed);
    }

    /// Reclaim waits to give up the log below `wanted`. Whether it has waited for too long.
    fn is_too_long(&self, wanted: u64, now: u64, progress_bytes: u64) -> bool {
        let begin = self.begin.load(Relaxed);
        if wanted < begin || wanted >= begin.saturating_add(progress_bytes) {
            self.begin.store(wanted, Relaxed);
            self.waited.store(0, Relaxed);
        }
        let asked_at = self.asked_at.swap(now, Relaxed);
        let since = if asked_at == 0 { 0 } else { now.saturating_sub(asked_at).min(QUESTION_MICROSECONDS_MAX) };
        self.waited.fetch_add(since, Relaxed) + since > HOLD_MICROSECONDS_MAX
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
    /// Writers have waited for it for too long.
    Stuck,
}

impl fmt::Display for WhyLetGo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyLetGo::Behind { bytes, bytes_max } => {
                write!(f, "it is {bytes} bytes behind, more than --replica-retain {bytes_max}")
            }
            WhyLetGo::Stuck => write!(f, "writers have waited {HOLD_MICROSECONDS_MAX} us for it"),
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
            let ack = Arc::new(Memfd::new("test-ack", ACK_BYTES, false).expect("a page"));
            let slots = Arc::new(AckSlots::new([ack.clone()], 2));
            board.put_up(1, slots.clone());
            Scene { store, board, retain, heads, slots, ack }
        }

        fn subscribe(&self) -> Tag {
            let [tag, _] = [0, 1].map(|shard| self.slots.subscribe(Wanted::new(shard, 0)).expect("it is there"));
            tag
        }

        fn tell(&self, tag: Tag, shard: usize, position: u64, is_whole: bool) {
            self.ack.words()[SUMMARY_WORDS + shard].store(tag.word(position, is_whole), Release);
        }
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
        let Scene { store, board, retain, heads, .. } = &scene;
        let (wanted, position) = (heads[0] - 2048, heads[0] - 4096);
        scene.tell(scene.subscribe(), 0, position, true);
        assert_eq!(retain.floor(0, wanted), position);
        let (kept, second) = (board.kept()[0].clone(), 1_000_000);
        let waits =
            (1..100u64).take_while(|tenths| retain.keeps(store, &kept, 0, wanted, second + tenths * second / 10));
        assert!((20..30).contains(&waits.count()), "some two seconds");
        assert!((kept.let_go().place, kept.let_go().why) == (Some((0, wanted)), Some(WhyLetGo::Stuck)));
        assert!(retain.floor(0, wanted) > wanted);
    }

    #[test]
    fn who_was_let_go_is_counted_again_once_it_is_close_and_whole_in_all_shards() {
        let scene = Scene::new();
        let Scene { board, retain, heads, .. } = &scene;
        let tag = scene.subscribe();
        (0..2).for_each(|shard| scene.tell(tag, shard, heads[shard], true));
        board.let_go(&board.kept()[0], 0, heads[0] - 2048, WhyLetGo::Stuck);
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

    #[test]
    fn who_is_stuck_is_told_from_who_is_slow() {
        let hold = Hold::default();
        let mut now = 1;
        // Stuck: the same tail, asked again and again.
        let asked = (0..1000).take_while(|_| {
            now += 10_000;
            !hold.is_too_long(5000, now, 400)
        });
        assert_eq!(asked.count(), 201, "two seconds and a question");
        // Slow: a little more each time.
        let hold = Hold::default();
        let slow = (0..1000).all(|step| {
            now += 10_000;
            !hold.is_too_long(5000 + step * 8, now, 400)
        });
        assert!(slow);
        // By less than a record in two seconds: a write would wait too long.
        let hold = Hold::default();
        let crawls = (0..1000).all(|step| {
            now += 10_000;
            !hold.is_too_long(5000 + step, now, 400)
        });
        assert!(!crawls);
    }

    #[test]
    fn time_in_which_nobody_waits_does_not_count() {
        let hold = Hold::default();
        let mut now = 1;
        for _ in 0..1000 {
            now += 10_000;
            assert!(!hold.is_too_long(5000, now, 400));
            now += 90_000_000;
            hold.rest();
        }
        // Nor does a long pause between two questions, which has some other reason.
        assert!(!hold.is_too_long(5000, now + 10, 400));
        assert!(!hold.is_too_long(5000, now + 90_000_000, 400));
    }
}
