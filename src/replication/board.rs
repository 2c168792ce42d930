//! Who has applied what: the ack slots of all replicas that follow now, and who of them is counted.
//! A slot is memory that its replica WRITEs to, so a question costs a few loads.
//!
//! A replica writes a position only once it has applied this store's log up to there. So a position
//! that was read from a slot stays true, until the replica begins anew.
//!
//! **Counted** in a shard, where a write waits for replicas, is who is not let go
//! ([`super::retain`]) and has acknowledged at least up to where reclaim is *allowed*: the tail has
//! not passed its cursor, and will not while it is counted. Once somebody has waited for replicas,
//! a replica that was counted is passed only after it was let go: it is not counted from then on,
//! so what it has kept until then is what was counted, and that it is let go is seen.
//!
//! **Members.** In a cluster the map lists who may hold a replica of a shard, and a replica that it
//! does not list is not counted there. Whoever is not counted any more may have been counted a
//! moment ago, by a worker that had looked before: see [`Board::set_members`].
//!
//! A worker counts while reclaim, in another thread, moves on. It loads what a replica has
//! acknowledged, then whether it is let go, then what reclaim is allowed ([`Allowed`] has the
//! fences). Reclaim lets go, then allows, then moves the tail. So a replica that was counted was
//! not let go at that time, and nothing had been given up that it lacked: it had the write. What
//! happens to it afterwards happens after the answer. And reclaim, which finds what was counted
//! once it has said what it is allowed, waits for that replica, or has let it go.

use super::REPLICAS_MAX;
use super::ack::AckSlots;
use super::retain::{Retain, WhyLetGo};
use super::standing::ServerNumber;
use crate::base::shards::ShardSet;
use crate::store::Allowed;
use crate::store::sizing::SHARDS_MAX;
use arrayvec::ArrayVec;
use std::sync::atomic::{
    AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst,
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

/// All log that there is room for is kept; see [`Board::retain_bytes`].
pub(super) const ALL_BYTES: u64 = u64::MAX;

/// See the module. One per store. The offer puts up the slots of each replica that it admits, and
/// takes them down.
pub struct Board {
    replicas: Mutex<Replicas>,
    /// Grows with each change of `replicas`.
    version: AtomicU64,
    /// The log is kept for replicas that are at most so many bytes behind.
    retain_bytes: AtomicU64,
    /// It is kept as soon as somebody waits for replicas.
    retains_once_asked: AtomicBool,
    pub(super) retain: OnceLock<Weak<Retain>>,
    /// How often a replica was let go: its log was not kept any longer.
    let_go: AtomicU64,
    /// For each shard how far its tail may go.
    allowed: Box<[Allowed]>,
    /// In which shards each replica is counted that is counted anywhere; None: every replica, in
    /// all shards. Taken after `replicas`.
    members: Mutex<Option<Members>>,
}

/// In which shards replicas are counted, by their numbers.
pub type Members = Vec<(ServerNumber, ShardSet)>;

type Replicas = ArrayVec<Arc<Kept>, REPLICAS_MAX>;

/// One replica's ack slots, and whether log is kept for it: see [`super::retain`].
pub struct Kept {
    /// Of its session.
    pub session: u64,
    /// Its ack slots.
    pub acks: Arc<AckSlots>,
    replica: ServerNumber,
    /// The shards in which it is counted, a bit each.
    member_of: [AtomicU64; SHARDS_MAX / 64],
    let_go: Mutex<LetGo>,
    /// Whether `let_go` has a place; written under its lock.
    is_let_go: AtomicBool,
}

/// Whether the log is not kept for a replica, and how that came about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LetGo {
    /// While it is not kept: the shard and the position that the replica lacked when it was let go.
    pub place: Option<(usize, u64)>,
    /// Why it was let go the last time.
    pub why: Option<WhyLetGo>,
    /// How often it was let go.
    pub times: u64,
}

impl Kept {
    /// Whether the log is not kept for it.
    pub(super) fn let_go(&self) -> LetGo {
        *self.of_let_go()
    }

    /// The replica is close again: keep the log for it, and count it.
    pub(super) fn take_back(&self) {
        let mut let_go = self.of_let_go();
        let_go.place = None;
        self.is_let_go.store(false, Release);
    }

    fn of_let_go(&self) -> MutexGuard<'_, LetGo> {
        self.let_go.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The position below which it has all of a shard; None while it is let go, or where it is no
    /// member. In this order: see the module.
    fn acknowledged(&self, shard: usize) -> Option<u64> {
        let position = self.acks.acknowledged(shard);
        (!self.is_let_go.load(Acquire) && self.is_member(shard)).then_some(position)
    }

    fn is_member(&self, shard: usize) -> bool {
        self.member_of[shard / 64].load(Acquire) >> (shard % 64) & 1 == 1
    }

    /// Whether there is nothing by the map why it should not be counted in each of its shards.
    fn is_member_of_its_shards(&self) -> bool {
        self.acks.shards().iter().all(|shard| self.is_member(shard))
    }

    fn set_member_of(&self, shards: ShardSet) {
        for (at, word) in self.member_of.iter().enumerate() {
            let bits = (0..64).filter(|bit| shards.has(at * 64 + bit)).fold(0, |bits, bit| bits | 1 << bit);
            word.swap(bits, SeqCst);
        }
    }
}

impl Default for Board {
    fn default() -> Board {
        Board {
            replicas: Mutex::default(),
            version: AtomicU64::new(0),
            retain_bytes: AtomicU64::new(0),
            retains_once_asked: AtomicBool::new(false),
            retain: OnceLock::new(),
            let_go: AtomicU64::new(0),
            allowed: (0..SHARDS_MAX).map(|_| Allowed::nothing()).collect(),
            members: Mutex::new(None),
        }
    }
}

impl Board {
    /// The slots of session `session` of this replica, from now on; in place of earlier ones of the
    /// same session.
    pub fn put_up(&self, session: u64, replica: ServerNumber, acks: Arc<AckSlots>) {
        let mut replicas = self.replicas();
        replicas.retain(|kept| kept.session != session);
        let kept = Kept {
            session,
            acks,
            replica,
            member_of: std::array::from_fn(|_| AtomicU64::new(0)),
            let_go: Mutex::default(),
            is_let_go: AtomicBool::new(false),
        };
        kept.set_member_of(self.shards_of(&replica));
        let kept = Arc::new(kept);
        replicas.try_push(kept).unwrap_or_else(|_| panic!("more sessions than there may be replicas"));
        self.version.fetch_add(1, Release);
    }

    /// Take the slots of this session down.
    pub fn take_down(&self, session: u64) {
        self.replicas().retain(|kept| kept.session != session);
        self.version.fetch_add(1, Release);
    }

    /// From now on replicas are counted in these shards alone. A worker that had looked before may
    /// still count one that is not counted any more, up to what is committed after this returns.
    pub fn set_members(&self, members: Members) {
        let replicas = self.replicas();
        *self.members() = Some(members);
        replicas.iter().for_each(|kept| kept.set_member_of(self.shards_of(&kept.replica)));
    }

    /// In which shards the replica of that number is counted.
    fn shards_of(&self, replica: &ServerNumber) -> ShardSet {
        match &*self.members() {
            None => ShardSet::all(SHARDS_MAX),
            Some(members) => {
                let its = members.iter().filter(|(number, _)| number == replica);
                its.fold(ShardSet::default(), |all, (_, shards)| all.with(*shards))
            }
        }
    }

    fn members(&self) -> MutexGuard<'_, Option<Members>> {
        self.members.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Keep the log for replicas that are at most so many bytes behind. None: all that there is
    /// room for, as soon as somebody waits for replicas.
    pub(super) fn retain(&self, retain: &Arc<Retain>, bytes: Option<u64>) {
        let _ = self.retain.set(Arc::downgrade(retain));
        self.retain_bytes.store(bytes.unwrap_or(0), Relaxed);
        self.retains_once_asked.store(bytes.is_none(), Relaxed);
    }

    /// Somebody waits for replicas.
    fn ask(&self) {
        // Order: who finds that it was done finds what is kept since, before it counts.
        if self.retains_once_asked.load(Acquire) {
            self.retain_bytes.store(ALL_BYTES, Release);
            self.retains_once_asked.store(false, Release);
        }
    }

    /// See [`Board::retain`]; 0 if it is not kept.
    pub fn retain_bytes(&self) -> u64 {
        self.retain_bytes.load(Relaxed)
    }

    /// The same, for people.
    pub fn retain_words(&self) -> String {
        match self.retain_bytes() {
            ALL_BYTES => "all".into(),
            bytes => bytes.to_string(),
        }
    }

    /// How often a replica was let go.
    pub fn let_go_count(&self) -> u64 {
        self.let_go.load(Relaxed)
    }

    /// Whether the log is not kept for the replica of this session; None if it has no slot here.
    pub fn is_let_go(&self, session: u64) -> Option<bool> {
        self.let_go_of(session).map(|let_go| let_go.place.is_some())
    }

    /// Whether the replica of this session is counted in each shard that it subscribes to.
    pub fn is_counted(&self, session: u64) -> bool {
        self.replicas()
            .iter()
            .find(|kept| kept.session == session)
            .is_some_and(|kept| !kept.is_let_go.load(Acquire) && self.is_whole(kept) && kept.is_member_of_its_shards())
    }

    /// Whether a replica has begun, and has acknowledged what it must to be counted, in each shard
    /// that it subscribes to.
    pub(super) fn is_whole(&self, kept: &Kept) -> bool {
        let mut shards = kept.acks.shards().iter().peekable();
        shards.peek().is_some() && shards.all(|shard| kept.acks.acknowledged(shard) >= self.allowed(shard).max(1))
    }

    /// The same with how it came about.
    pub(super) fn let_go_of(&self, session: u64) -> Option<LetGo> {
        self.replicas().iter().find(|kept| kept.session == session).map(|kept| kept.let_go())
    }

    /// All replicas, copied: for callers that ask seldom.
    pub(super) fn kept(&self) -> Replicas {
        self.replicas().clone()
    }

    /// No replica's position in this shard counts any more, until it has subscribed again. With the
    /// shard's lock held: see [`super::ack`].
    pub(super) fn take_back(&self, shard: usize) {
        self.replicas().iter().for_each(|kept| kept.acks.take_back(shard));
    }

    /// Who is close again is counted again.
    pub(super) fn look(&self) {
        if let Some(retain) = self.retain.get().and_then(Weak::upgrade) {
            retain.look();
        }
    }

    /// Do not keep the log for this replica until it has passed `position` of a shard, nor count
    /// it.
    pub(super) fn let_go(&self, kept: &Kept, shard: usize, position: u64, why: WhyLetGo) {
        let mut let_go = kept.of_let_go();
        if let_go.place.replace((shard, position)).is_none() {
            kept.is_let_go.store(true, Release);
            self.let_go.fetch_add(1, Relaxed);
            let_go.times += 1;
            let_go.why = Some(why);
        }
    }

    /// How far a shard's tail may go.
    fn allowed(&self, shard: usize) -> u64 {
        self.allowed[shard].position()
    }

    /// A shard's tail may go up to `floor`, or less far, if somebody is counted below that: see the
    /// module. With the shard's lock held. Returns how far.
    pub(super) fn allow(&self, shard: usize, floor: u64) -> u64 {
        self.allowed[shard].raise(floor, |added| {
            if self.retain_bytes() == 0 {
                return None;
            }
            let replicas = self.replicas();
            let acknowledged = replicas.iter().filter_map(|kept| kept.acknowledged(shard));
            acknowledged.filter(|position| *position > 0 && added.contains(position)).min()
        })
    }

    /// A shard's log has begun anew, at whatever position. With the shard's lock held.
    pub(super) fn begins_anew(&self, shard: usize) {
        self.allowed[shard].begin_anew();
    }

    fn replicas(&self) -> MutexGuard<'_, Replicas> {
        self.replicas.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One thread's view of a board: no lock while the replicas stay the same.
pub struct BoardView {
    board: Arc<Board>,
    version: u64,
    replicas: Replicas,
}

impl BoardView {
    /// Of `board`.
    pub fn new(board: Arc<Board>) -> BoardView {
        BoardView { board, version: u64::MAX, replicas: ArrayVec::new() }
    }

    /// Take over the replicas of now, for somebody waits for them. Call it before asking, as often
    /// as a change matters.
    pub fn refresh(&mut self) {
        self.board.ask();
        let version = self.board.version.load(Acquire);
        if version != self.version {
            self.replicas = self.board.kept();
            self.version = version;
        }
    }

    /// How many replicas there are that are not let go.
    pub fn replicas(&self) -> usize {
        self.replicas.iter().filter(|kept| !kept.is_let_go.load(Acquire)).count()
    }

    /// How many that are counted have acknowledged everything below `position` of a shard.
    pub fn holders(&self, shard: usize, position: u64) -> usize {
        let acknowledged = self.replicas.iter().filter_map(|kept| kept.acknowledged(shard));
        let acknowledged: ArrayVec<u64, REPLICAS_MAX> = acknowledged.filter(|below| *below >= position).collect();
        Allowed::order_loads();
        let allowed = self.board.allowed(shard);
        acknowledged.iter().filter(|below| **below >= allowed).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::ACK_BYTES;
    use crate::replication::ack::SUMMARY_WORDS;
    use crate::replication::shares::Shares;
    use crate::sys::memory::Memfd;

    fn slot(positions: &[u64]) -> Arc<AckSlots> {
        let memfd = Memfd::new("test-ack", ACK_BYTES, false).unwrap();
        let memfd = Arc::new(memfd);
        let slots = AckSlots::new([memfd.clone()], positions.len());
        for (wanted, position) in Shares::new(positions.len(), 1).wanted().into_iter().zip(positions) {
            let tag = slots.subscribe(wanted).unwrap();
            memfd.words()[SUMMARY_WORDS + wanted.shard()].store(tag.word(*position, true), Release);
        }
        Arc::new(slots)
    }

    #[test]
    fn it_counts_the_replicas_of_now() {
        let board = Arc::new(Board::default());
        let mut view = BoardView::new(board.clone());
        view.refresh();
        assert_eq!((view.replicas(), view.holders(0, 0)), (0, 0));
        board.put_up(1, [1; 16], slot(&[104, 304]));
        board.put_up(2, [2; 16], slot(&[200, 200]));
        view.refresh();
        assert_eq!([104, 105, 200, 201].map(|position| view.holders(0, position)), [2, 1, 1, 0]);
        assert_eq!([200, 201, 304, 305].map(|position| view.holders(1, position)), [2, 1, 1, 0]);
        board.put_up(2, [2; 16], slot(&[0, 0]));
        board.take_down(1);
        view.refresh();
        assert_eq!((view.replicas(), view.holders(0, 1)), (1, 0), "another channel of the same session begins anew");
    }

    #[test]
    fn who_is_let_go_is_not_counted_until_it_is_taken_back() {
        let board = Arc::new(Board::default());
        let mut view = BoardView::new(board.clone());
        board.put_up(1, [1; 16], slot(&[200, 200]));
        board.put_up(2, [2; 16], slot(&[304, 304]));
        view.refresh();
        let counts = |view: &BoardView| (view.replicas(), view.holders(0, 200), view.holders(1, 200));
        assert_eq!((counts(&view), board.is_counted(1)), ((2, 2, 2), true));
        board.let_go(&board.kept()[0], 1, 208, WhyLetGo::HoldsUp);
        assert_eq!((counts(&view), board.is_counted(1)), ((1, 1, 1), false), "in no shard, and at once");
        assert_eq!((board.is_let_go(1), board.is_let_go(2), board.let_go_count()), (Some(true), Some(false), 1));
        board.kept()[0].take_back();
        assert_eq!((counts(&view), board.is_counted(1)), ((2, 2, 2), true));
    }

    /// Whoever comes while reclaim goes on may stand below what it has been allowed before.
    #[test]
    fn who_stands_below_what_reclaim_is_allowed_is_not_counted() {
        let board = Arc::new(Board::default());
        let mut view = BoardView::new(board.clone());
        assert_eq!(board.allow(1, 304), 304, "nobody is there");
        board.put_up(1, [1; 16], slot(&[200, 200]));
        board.put_up(2, [2; 16], slot(&[304, 304]));
        view.refresh();
        assert_eq!([0, 1].map(|shard| view.holders(shard, 104)), [2, 1]);
        assert_eq!([1, 2, 3].map(|session| board.is_counted(session)), [false, true, false]);
        board.begins_anew(1);
        assert_eq!(view.holders(1, 104), 2, "another log");
    }

    #[test]
    fn with_a_map_only_its_members_are_counted_each_in_its_own_shards() {
        let board = Arc::new(Board::default());
        let mut view = BoardView::new(board.clone());
        board.put_up(1, [1; 16], slot(&[200, 200]));
        let counts = |view: &mut BoardView| {
            view.refresh();
            [0, 1].map(|shard| view.holders(shard, 200))
        };
        assert_eq!((counts(&mut view), board.is_counted(1)), ([1, 1], true), "there is no map");
        board.set_members(vec![([1; 16], ShardSet::one(1)), ([2; 16], ShardSet::all(2))]);
        assert_eq!((counts(&mut view), board.is_counted(1)), ([0, 1], false));
        board.put_up(2, [2; 16], slot(&[200, 200]));
        board.put_up(3, [3; 16], slot(&[200, 200]));
        assert_eq!(counts(&mut view), [1, 2], "who comes later is judged by the same map");
        board.set_members(vec![([1; 16], ShardSet::all(2))]);
        assert_eq!((counts(&mut view), board.is_counted(1)), ([1, 1], true));
    }

    #[test]
    fn reclaim_is_allowed_no_more_than_who_is_counted_has_once_somebody_waits_for_replicas() {
        let board = Arc::new(Board::default());
        board.retains_once_asked.store(true, Relaxed);
        board.put_up(1, [1; 16], slot(&[200]));
        assert_eq!(board.allow(0, 104), 104);
        assert_eq!(board.allow(0, 208), 208, "nobody waits for replicas");
        board.put_up(1, [1; 16], slot(&[304]));
        let mut view = BoardView::new(board.clone());
        view.refresh();
        assert_eq!((board.retain_words().as_str(), view.holders(0, 304)), ("all", 1));
        assert_eq!((board.allow(0, 400), view.holders(0, 304)), (304, 1), "it is counted, so it is not passed");
        board.let_go(&board.kept()[0], 0, 400, WhyLetGo::HoldsUp);
        assert_eq!((board.allow(0, 400), view.holders(0, 304)), (400, 0));
        // What is not whole is not counted.
        board.put_up(2, [2; 16], slot(&[0]));
        assert_eq!(board.allow(0, 504), 504);
    }
}
