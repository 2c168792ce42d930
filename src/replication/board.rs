//! Who has applied what: the ack slots of all replicas that follow now. A slot is memory that its
//! replica WRITEs to, so a question costs a few loads.
//!
//! A replica writes a position only once it has applied this store's log up to there. So a position
//! that was read from a slot stays true.

use super::REPLICAS_MAX;
use super::ack::AckSlots;
use super::retain::{Hold, WhyLetGo};
use crate::store::sizing::SHARDS_MAX;
use arrayvec::ArrayVec;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard};

/// See the module. One per store. The offer puts up the slots of each replica that it admits, and
/// takes them down.
#[derive(Default)]
pub struct Board {
    replicas: Mutex<Replicas>,
    /// Grows with each change of `replicas`.
    version: AtomicU64,
    /// The log is kept for replicas that are at most so many bytes behind.
    retain_bytes: AtomicU64,
    /// How often a replica was let go: its log was not kept any longer.
    let_go: AtomicU64,
}

type Replicas = ArrayVec<Arc<Kept>, REPLICAS_MAX>;

/// One replica's ack slots, and whether log is kept for it: see [`super::retain`].
pub struct Kept {
    /// Of its session.
    pub session: u64,
    /// Its ack slots.
    pub acks: Arc<AckSlots>,
    holds: Box<[Hold]>,
    let_go: Mutex<LetGo>,
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
    /// How it holds up a shard's reclaim.
    pub(super) fn hold(&self, shard: usize) -> &Hold {
        &self.holds[shard]
    }

    /// Whether the log is not kept for it.
    pub(super) fn let_go(&self) -> LetGo {
        *self.of_let_go()
    }

    /// The replica is close again: keep the log for it.
    pub(super) fn take_back(&self) {
        self.of_let_go().place = None;
    }

    fn of_let_go(&self) -> MutexGuard<'_, LetGo> {
        self.let_go.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Board {
    /// The slots of session `session`, from now on; in place of earlier ones of the same session.
    pub fn put_up(&self, session: u64, acks: Arc<AckSlots>) {
        let mut replicas = self.replicas();
        replicas.retain(|kept| kept.session != session);
        let holds = (0..SHARDS_MAX).map(|_| Hold::default()).collect();
        let kept = Arc::new(Kept { session, acks, holds, let_go: Mutex::default() });
        replicas.try_push(kept).unwrap_or_else(|_| panic!("more sessions than there may be replicas"));
        self.version.fetch_add(1, Release);
    }

    /// Take the slots of this session down.
    pub fn take_down(&self, session: u64) {
        self.replicas().retain(|kept| kept.session != session);
        self.version.fetch_add(1, Release);
    }

    /// Keep the log for replicas that are at most so many bytes behind.
    pub(super) fn retain(&self, bytes: u64) {
        self.retain_bytes.store(bytes, Relaxed);
    }

    /// See [`Board::retain`]; 0 if it is not kept.
    pub fn retain_bytes(&self) -> u64 {
        self.retain_bytes.load(Relaxed)
    }

    /// How often a replica was let go.
    pub fn let_go_count(&self) -> u64 {
        self.let_go.load(Relaxed)
    }

    /// Whether the log is not kept for the replica of this session; None if it has no slot here.
    pub fn is_let_go(&self, session: u64) -> Option<bool> {
        self.let_go_of(session).map(|let_go| let_go.place.is_some())
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

    /// Do not keep the log for this replica until it has passed `position` of a shard.
    pub(super) fn let_go(&self, kept: &Kept, shard: usize, position: u64, why: WhyLetGo) {
        let mut let_go = kept.of_let_go();
        if let_go.place.replace((shard, position)).is_none() {
            self.let_go.fetch_add(1, Relaxed);
            let_go.times += 1;
            let_go.why = Some(why);
        }
    }

    fn replicas(&self) -> MutexGuard<'_, Replicas> {
        self.replicas.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One thread's view of a board: no lock while the replicas stay the same.
pub struct BoardView {
    board: Arc<Board>,
    version: u64,
    replicas: ArrayVec<Arc<AckSlots>, REPLICAS_MAX>,
}

impl BoardView {
    /// Of `board`.
    pub fn new(board: Arc<Board>) -> BoardView {
        BoardView { board, version: u64::MAX, replicas: ArrayVec::new() }
    }

    /// Take over the replicas of now. Call it before asking, as often as a change matters.
    pub fn refresh(&mut self) {
        let version = self.board.version.load(Acquire);
        if version != self.version {
            self.replicas = self.board.replicas().iter().map(|kept| kept.acks.clone()).collect();
            self.version = version;
        }
    }

    /// How many replicas there are.
    pub fn replicas(&self) -> usize {
        self.replicas.len()
    }

    /// How many have acknowledged everything below `position` of a shard.
    pub fn holders(&self, shard: usize, position: u64) -> usize {
        self.replicas.iter().filter(|acks| acks.acknowledged(shard) >= position).count()
    }

    /// How many have acknowledged everything below `positions[n]` of each shard n.
    pub fn holders_of_all(&self, positions: &[u64]) -> usize {
        let has_all = |acks: &&Arc<AckSlots>| {
            positions.iter().enumerate().all(|(shard, position)| acks.acknowledged(shard) >= *position)
        };
        self.replicas.iter().filter(has_all).count()
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
        board.put_up(1, slot(&[104, 304]));
        board.put_up(2, slot(&[200, 200]));
        view.refresh();
        assert_eq!([104, 105, 200, 201].map(|position| view.holders(0, position)), [2, 1, 1, 0]);
        assert_eq!(view.holders_of_all(&[104, 200]), 2);
        assert_eq!(view.holders_of_all(&[200, 304]), 0, "each lacks something");
        board.put_up(2, slot(&[0, 0]));
        board.take_down(1);
        view.refresh();
        assert_eq!((view.replicas(), view.holders(0, 1)), (1, 0), "another channel of the same session begins anew");
    }
}
