//! A log that has parted from the one that counts goes back to where the two part. What stands
//! beyond is dropped, and what it did to items below is undone.
//!
//! A record that is dropped may have replaced or deleted an item below, moved it, or flushed it. So
//! the index is emptied and built again from the records between the tail and that position, a
//! piece at a time. Until all of it is there, every get misses: half an index would show items that
//! a later record ends.
//!
//! A touch changes the item's record in place, and nobody knows what stood there. So a log that has
//! a touch beyond that position cannot go back ([`Follower::can_go_back_to`]).
//!
//! Order: the index is emptied, then built; then an era begins, and once every reader has left the
//! turn in which it could have loaded an older slot, the log is cut and items are shown. The bytes
//! beyond stay as they are until then. The slabs that they stand in stay mapped: the log goes on in
//! them.

use super::follower::{Checked, Follower};
use super::history::{History, TermStart};
use super::record::Kind;
use super::shard::Shard;
use super::writer::{Goal, Wanted, Writer};
use crate::base::time::UnixSeconds;
use crate::sys::quiescence::Era;
use crate::sys::sync::Ordering::Relaxed;

/// Log bytes replayed while the lock is held, or one record.
const HELD_BYTES: u64 = 64 << 10;
/// So often is the lock taken in one step.
const HELD_MAX: usize = 16;

/// A log on its way back.
pub(super) struct Truncation {
    to: u64,
    /// Records below are in the index.
    replayed: u64,
    /// The index is built: this era must pass.
    built: Option<Era>,
}

/// How far a step of [`Follower::go_back`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoingBack {
    /// There is more to do.
    Moved,
    /// Local readers may still hold old slots.
    Waits,
    /// The log ends where it was to end.
    Done,
    /// No record ends there: whoever said the position was wrong.
    NoEnd,
}

impl Follower<'_> {
    /// Whether nothing beyond `position` has changed a record below it.
    pub fn can_go_back_to(&self, position: u64) -> bool {
        let (shard, mut at) = (self.shard, position);
        let is_within = shard.tail() < position && position < shard.head();
        while is_within && at < shard.head() {
            match super::record::Record::read(shard.log.words_at(at)) {
                Some(record) if record.shape.kind() != Kind::Touch => {
                    at = shard.log.settle(at + record.shape.record_bytes() as u64);
                }
                _ => return false,
            }
        }
        is_within
    }

    /// The log is to go back to `position`, which lies above the tail. From now on every get
    /// misses, and nobody is to go on from what is here. [`Follower::go_back`] does it.
    pub fn begin_to_go_back(&mut self, position: u64) {
        let mut writer = self.shard.lock();
        self.shard.prove(false);
        self.shard.flushed_below.store(u64::MAX, Relaxed);
        self.shard.index.clear();
        writer.live.clear();
        (writer.flushed_below, writer.pending_flush, writer.victim) = (0, None, None);
        let replayed = self.shard.log.settle(self.shard.tail());
        self.truncation = Some(Truncation { to: position, replayed, built: None });
    }

    /// A step of that, outside any turn. At its end the log goes on as one of this history, and is
    /// whole once it is here up to `owed`.
    pub fn go_back(&mut self, history: &History, owed: u64) -> GoingBack {
        let (shard, truncation) = (self.shard, self.truncation.as_mut().expect("it has begun to go back"));
        for _ in 0..HELD_MAX {
            if truncation.replayed < truncation.to {
                shard.replay_part(&mut shard.lock(), truncation);
            }
        }
        if truncation.replayed < truncation.to {
            return GoingBack::Moved;
        }
        let Some(last) =
            shard.history().before_position(truncation.to).filter(|_| truncation.replayed == truncation.to)
        else {
            return GoingBack::NoEnd;
        };
        let built = *truncation.built.get_or_insert_with(|| shard.domain.advance());
        if !shard.domain.all_passed(built) {
            return GoingBack::Waits;
        }
        shard.cut(&mut shard.lock(), truncation.to, last, (history, owed));
        self.truncation = None;
        self.room = self.room_until();
        GoingBack::Done
    }
}

impl Shard {
    fn replay_part(&self, writer: &mut Writer, truncation: &mut Truncation) {
        // As when records are applied.
        writer.live.advance(UnixSeconds::now());
        // Nothing is written or moved now that was not before.
        let counts = writer.counts.clone();
        let until = truncation.to.min(truncation.replayed + HELD_BYTES);
        while truncation.replayed < until {
            let position = truncation.replayed;
            let record = self.record(position);
            match record.shape.kind() {
                // The history tells the terms.
                Kind::Term | Kind::Pad => {}
                kind => {
                    if kind == Kind::Set {
                        record.mark_alive();
                    }
                    let hash = self.hash_of(&record);
                    self.replay(writer, &Checked { record, position, hash });
                }
            }
            let end = position + record.shape.record_bytes() as u64;
            truncation.replayed = if end == truncation.to { end } else { self.log.settle(end) };
        }
        writer.counts = counts;
    }

    /// The log ends at `position`, in the term `last`. Nobody holds a slot of what is dropped.
    fn cut(&self, writer: &mut Writer, position: u64, last: TermStart, (history, owed): (&History, u64)) {
        writer.wanted = Wanted::default();
        writer.goal = Goal::default();
        writer.paced_head = position;
        writer.floor = 0;
        self.control().begin_term(last.term.0, last.begins);
        self.cut_at(position, owed);
        self.adopt_history(history);
        self.prove(true);
        self.flushed_below.store(writer.flushed_below, Relaxed);
        if let Some(guard) = self.guard.get() {
            guard.begins_anew(self.number as usize);
        }
    }
}
