//! A replica's side of one shard. In go words that another process wrote, and the tail that the
//! primary tells; they are checked, copied to the same positions of this log, published, and
//! indexed. Local readers look on without a lock, as on a primary.
//!
//! The primary alone decides what goes: a follower gives up what it is told, and waits where local
//! readers still look at bytes to be overwritten. Nothing else writes to a shard that is followed.
//!
//! Order, as on a primary: words, head (release), then the index's slots (release), record by
//! record. So who finds a slot finds the record complete. Each batch is published at once: other
//! replicas may follow this one.
//!
//! **Beginning elsewhere.** A slot keeps only the low bits of a position; a reader completes them
//! with a reference ([`super::index::Slot`]). If the reference jumped while a reader has a slot in
//! hand, the slot would name another position, perhaps none. So there are two steps:
//! [`Follower::forget`] empties the index and opens an era, and [`Follower::begin_at`] moves the
//! log only when every reader has left the turn in which it could have loaded a slot. Who enters
//! later finds an empty index, and has no slot to complete.

use super::Store;
use super::check::{BadRecord, Site, Unusable, check};
use super::history::{History, TermStart};
use super::line::{BIRTH, COPIED, OWES_NOT_KNOWN, POSITION_MAX};
use super::promotion::Extent;
use super::record::{HEADER_BYTES, Kind, Meta, Record};
use super::shard::Shard;
use super::sizing::capacity_max;
use super::spread::copy_spread;
use super::truncation::Truncation;
use super::writer::{Goal, Wanted, Writer};
use crate::base::limits::KEY_BYTES_MAX;
use crate::base::term::Term;
use crate::base::time::UnixSeconds;
use crate::sys::quiescence::Era;
use crate::sys::sync::{AtomicU64, Ordering::AcqRel, Ordering::Relaxed, Ordering::Release};
use arrayvec::ArrayVec;

/// Records and bytes (or one record) applied while the lock is held, at most.
const BATCH_RECORDS: usize = 64;
const BATCH_BYTES: usize = 64 << 10;

/// See the module. One thread uses it, and a shard has one at a time: two would make a broken log.
pub struct Follower<'s> {
    store: &'s Store,
    pub(super) shard: &'s Shard,
    record_bytes_max: usize,
    /// Everything was forgotten: this era must pass before the log may begin elsewhere.
    forgotten: Option<Era>,
    /// Bytes up to here may be written, when it was asked last; 0 where that may have changed.
    pub(super) room: u64,
    /// It goes back: see [`super::truncation`].
    pub(super) truncation: Option<Truncation>,
}

/// How far [`Follower::apply`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Bytes from the start of the words.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// Why it went no further.
    pub stop: Stop,
}

/// Why nothing more was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// All was used.
    End,
    /// The last record is cut.
    Cut {
        /// Bytes that are needed from the cursor on: a lower bound while the record's length is not
        /// known. At most [`super::Geometry::wanted_bytes_max`].
        wanted_bytes: usize,
    },
    /// Local readers may still look at the bytes that the next record would overwrite, or the tail
    /// is where it was.
    NoRoom {
        /// Where that record ends. When the primary appended it, it had given up everything a log
        /// before this; perhaps not more.
        end: u64,
    },
    /// What stands at the cursor is no record of this place and term.
    Bad(BadRecord),
}

/// Records that were checked and stand one after another.
struct Batch<'w> {
    records: ArrayVec<Checked<'w>, BATCH_RECORDS>,
    /// Bytes that they take, what is skipped before them included.
    bytes: usize,
    stop: Option<Stop>,
}

pub(super) struct Checked<'w> {
    pub record: Record<'w>,
    pub position: u64,
    pub hash: u64,
}

impl Store {
    /// That of a shard; None while there is another one of this shard.
    pub fn follower(&self, shard: usize) -> Option<Follower<'_>> {
        let record_bytes_max = self.geometry().log_record_bytes_max() as usize;
        let shard = &self.shards[shard];
        // Order: what the one before had begun to do is done.
        let is_free = shard.followed.swap(1, AcqRel) == 0;
        is_free.then(|| Follower { store: self, shard, record_bytes_max, forgotten: None, room: 0, truncation: None })
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        if self.truncation.is_some() {
            self.forget();
        }
        self.shard.followed.store(0, Release);
    }
}

impl Follower<'_> {
    /// The position up to which the log is here.
    pub fn cursor(&self) -> u64 {
        self.shard.head()
    }

    /// See [`Shard::is_whole`].
    pub fn is_whole(&self) -> bool {
        self.shard.is_whole()
    }

    /// See [`Shard::is_proven`].
    pub fn is_proven(&self) -> bool {
        self.shard.is_proven()
    }

    /// All of this log is here, though no record shows it.
    pub fn prove(&mut self) {
        self.shard.prove(true);
    }

    /// What is here may not be what its control line says: nobody is to go on from it.
    pub fn doubt(&mut self) {
        self.shard.prove(false);
    }

    /// Whether what is here began under another origin than a log of this history.
    pub fn is_foreign_to(&self, history: &History) -> bool {
        history.is_foreign_to(&self.shard.history())
    }

    /// Show to whoever reads this log that it is over, before anything of it is given up. Otherwise
    /// a replica that follows it would see a tail that moves to the end, and would give up all that
    /// it has as well.
    pub fn leave_history(&mut self) {
        self.shard.leave_history();
    }

    /// The oldest position still valid here.
    pub fn tail(&self) -> u64 {
        self.shard.tail()
    }

    /// The term at the cursor; [`Term::NONE`] before the first beginning.
    pub fn term(&self) -> Term {
        Term(self.shard.control().term())
    }

    /// The terms of what is here; none where there is nothing.
    pub fn past(&self) -> Vec<TermStart> {
        self.shard.history().up_to(self.term()).to_vec()
    }

    /// The log goes on as one of this history, whose records below the cursor are the same.
    pub fn adopt(&mut self, history: &History) {
        let _writer = self.shard.lock();
        self.shard.adopt_history(history);
    }

    /// The primary's shard is to have so much: have it, too. More is reserved at once; less is had
    /// as the tail moves. False if this store has not so much now.
    pub fn follow_capacity(&mut self, capacity_bytes: u64) -> bool {
        self.room = 0;
        let (pool, shards) = (&self.store.pool, self.store.shards.len() as u32);
        let Ok(slabs) = u32::try_from(capacity_bytes / pool.slab_bytes()) else { return false };
        let fits = slabs <= capacity_max(pool.slabs(), shards);
        let follows = fits && self.shard.set_capacity(&mut self.shard.lock(), slabs);
        self.release_given_up();
        follows
    }

    /// Most bytes of log that this shard can hold now.
    pub fn reach_bytes(&self) -> u64 {
        u64::from(self.shard.lock().mapped.in_reach()) * self.store.pool.slab_bytes()
    }

    /// What this log holds from `position` on.
    pub fn extent_from(&self, position: u64) -> Extent {
        self.shard.extent_from(position)
    }

    /// Forget every item: the first of two steps to begin elsewhere. From now on every get misses.
    pub fn forget(&mut self) {
        let mut writer = self.shard.lock();
        self.truncation = None;
        self.shard.set_flushed_below(&mut writer, self.shard.head());
        self.shard.prove(false);
        self.shard.index.clear();
        writer.live.clear();
        writer.pending_flush = None;
        writer.victim = None;
        // First: whoever sees the empty log sees that it says nothing of what is missing.
        self.shard.control().set_owes_until(OWES_NOT_KNOWN);
        self.shard.advance_tail(self.shard.head());
        self.shard.publish();
        self.forgotten = Some(self.shard.domain.advance());
    }

    /// The second step (does the first where it was left out): begin at `position` of a log of this
    /// history, which is this shard's from now on. False while local readers may still look at old
    /// bytes or hold old slots: call again later, from outside any turn. A position that no log has
    /// (the primary said it) is taken as the nearest one below; no record will be found there.
    pub fn begin_at(&mut self, position: u64, history: &History) -> bool {
        if self.forgotten.is_none() {
            self.forget();
        }
        if self.forgotten.is_some_and(|era| !self.shard.domain.all_passed(era)) {
            return false;
        }
        let position = position.clamp(BIRTH, POSITION_MAX) / 8 * 8;
        self.shard.restart(&mut self.shard.lock(), position, history);
        self.forgotten = None;
        self.room = self.room_until();
        true
    }

    /// A look shows how far the giver's log goes, and until where the giver itself owes. What had
    /// been moved from below `tail` stands below both. So it is all that is owed here, if this log
    /// did not begin above that tail; a look that was taken before this log began may show one
    /// below it, and says nothing. The lowest that a look has shown counts; as long as the giver
    /// does not know, this log does not.
    pub fn note_owed(&mut self, tail: u64, committed: u64, givers: u64) {
        let line = self.shard.control();
        let owed = committed.max(givers);
        if tail >= line.tail() && owed < line.owes_until() {
            line.set_owes_until(owed);
        }
    }

    /// A look has shown this beat: those who follow this replica are to see it, too.
    pub fn follow_beat(&mut self, beat: u64) {
        self.shard.control().set_beat(beat | COPIED);
    }

    /// Items below `tail` are gone at the primary: unlink them, publish the tail, let go of their
    /// bytes. At most `budget_bytes` of log are walked, or one record. True when `tail` (the
    /// cursor, if that is less) is reached, or the record that it cuts: no primary's does.
    pub fn give_up_below(&mut self, tail: u64, budget_bytes: u64) -> bool {
        self.room = 0;
        let mut writer = self.shard.lock();
        let goal = tail.min(self.shard.head());
        // The clock only tells evicted from expired, for the counters.
        self.shard.give_up(&mut writer, goal, budget_bytes, UnixSeconds::now())
    }

    /// Let go of what was given up, where local readers have left it, and of slabs above the log
    /// that are too many. True when no bytes wait for that any more.
    pub fn release_given_up(&self) -> bool {
        let (mut writer, mut before) = (self.shard.lock(), u32::MAX);
        while writer.mapped.owned() < before {
            before = writer.mapped.owned();
            self.shard.release(&mut writer);
        }
        writer.awaited.is_none()
    }

    /// Records that end at or below this position may be applied now. It grows after
    /// [`Follower::give_up_below`], as local readers end their turns.
    pub fn room_until(&mut self) -> u64 {
        let mut writer = self.shard.lock();
        self.shard.release(&mut writer);
        if writer.awaited.is_some() {
            // Nobody may be inside at all: then what was asked for just now has passed already.
            self.shard.release(&mut writer);
        }
        self.room = writer.mapped.reach(&self.shard.log, writer.released);
        self.room
    }

    /// Apply whole records from `words`, whose first word stands at position `at`, the cursor,
    /// while they last and there is room. Nobody may write to `words` meanwhile. No byte of a
    /// record reaches the log before all of it was checked.
    pub fn apply(&mut self, words: &[AtomicU64], at: u64) -> Applied {
        assert_eq!(at, self.cursor(), "words are applied where the last ones ended");
        let mut applied = Applied { bytes: 0, records: 0, stop: Stop::End };
        if !self.term().is_valid() {
            return Applied { stop: Stop::Bad(BadRecord::NoRecord), ..applied };
        }
        loop {
            let (rest, from) = (&words[applied.bytes as usize / 8..], at + applied.bytes);
            let batch = self.gather(rest, from);
            if batch.bytes > 0 {
                // There are items again.
                self.forgotten = None;
                self.take_over(&rest[..batch.bytes / 8], from, &batch);
                applied.bytes += batch.bytes as u64;
                applied.records += batch.records.len() as u64;
            }
            if let Some(stop) = batch.stop {
                return Applied { stop, ..applied };
            }
        }
    }

    /// Check the next records, and have their keys' places in the index fetched. Without the lock.
    fn gather<'w>(&mut self, words: &'w [AtomicU64], from: u64) -> Batch<'w> {
        let control = self.shard.control();
        let mut term = (self.term(), control.term_begin());
        let mut batch = Batch { records: ArrayVec::new(), bytes: 0, stop: None };
        while !batch.records.is_full() && batch.bytes < BATCH_BYTES {
            match self.next(&words[batch.bytes / 8..], from + batch.bytes as u64, term, batch.bytes == 0) {
                Ok(checked) => {
                    let shape = checked.record.shape;
                    if shape.kind() == Kind::Term {
                        term = (Term(checked.record.term_value().0), checked.position);
                    }
                    batch.bytes = (checked.position - from) as usize + shape.record_bytes();
                    batch.records.push(checked);
                }
                // Those before it are applied first: asking for room may cost some.
                Err(Stop::NoRoom { .. }) if batch.bytes > 0 => break,
                Err(stop) => {
                    batch.stop = Some(stop);
                    break;
                }
            }
        }
        batch
    }

    /// The record at or, where a slab's end is skipped, shortly after position `at`, where `words`
    /// begins.
    fn next<'w>(
        &mut self,
        words: &'w [AtomicU64],
        at: u64,
        term: (Term, u64),
        is_first: bool,
    ) -> Result<Checked<'w>, Stop> {
        if words.is_empty() {
            return Err(Stop::End);
        }
        let position = self.shard.log.settle(at);
        let skipped = (position - at) as usize;
        let Some(words) = words.get(skipped / 8..).filter(|words| !words.is_empty()) else {
            return Err(Stop::Cut { wanted_bytes: skipped + HEADER_BYTES });
        };
        let slab_bytes_left = self.shard.log.bytes_to_slab_end(position);
        let site =
            Site { shard: self.shard.number, position, term, slab_bytes_left, record_bytes_max: self.record_bytes_max };
        let record = check(words, &site).map_err(|refusal| match refusal {
            Unusable::Cut(bytes) => Stop::Cut { wanted_bytes: skipped + bytes },
            Unusable::Bad(bad) => Stop::Bad(bad),
        })?;
        let end = position + record.shape.record_bytes() as u64;
        if end > self.room && (!is_first || end > self.room_until()) {
            return Err(Stop::NoRoom { end });
        }
        let hash = self.shard.hash_of(&record);
        if record.shape.key_bytes() > 0 {
            self.shard.index.prefetch(hash);
        }
        Ok(Checked { record, position, hash })
    }

    /// Copy, publish, index: the one place where a follower writes to its log.
    fn take_over(&self, words: &[AtomicU64], from: u64, batch: &Batch<'_>) {
        let shard = self.shard;
        let mut writer = shard.lock();
        // Only so that a promotion finds expiries counted: nothing is decided by the clock here.
        writer.live.advance(UnixSeconds::now());
        let end = from + batch.bytes as u64;
        assert!(shard.make_reach(&mut writer, end), "records are applied where there is room");
        shard.copy_log(words, from, batch);
        shard.advance_head(end);
        shard.publish();
        writer.counts.appended_bytes += batch.bytes as u64;
        batch.records.iter().for_each(|checked| shard.replay(&mut writer, checked));
        shard.prove(true);
    }
}

impl Shard {
    /// An empty log at `position`, without memory so far. Nobody may be able to see anything of the
    /// old one.
    fn restart(&self, writer: &mut Writer, position: u64, history: &History) {
        let passed = self.tail().wrapping_sub(writer.counted_from);
        writer.counted_from = position.wrapping_sub(passed);
        writer.released = position;
        writer.floor = 0;
        writer.mapped.restart(&self.log, position);
        writer.awaited = None;
        writer.wanted = Wanted::default();
        writer.paced_head = position;
        writer.goal = Goal::default();
        self.settle_budget(writer);
        // Flushes of the old log concern nobody; those of the new one that count are still to come.
        self.set_flushed_below(writer, 0);
        let TermStart { term, begins } =
            history.start_at(position).unwrap_or(TermStart { term: Term::NONE, begins: position });
        self.set_history(history.clone());
        self.control().begin_term(term.0, begins);
        self.restart_at(position);
        if let Some(guard) = self.guard.get() {
            guard.begins_anew(self.number as usize);
        }
    }

    /// Copy the batch's words, which begin at position `from`. Of a pad only the header: what it
    /// skips means nothing.
    fn copy_log(&self, words: &[AtomicU64], from: u64, batch: &Batch<'_>) {
        for checked in &batch.records {
            self.prefetch_record(checked.hash);
            let begin = (checked.position - from) as usize / 8;
            let bytes = match checked.record.shape.kind() {
                Kind::Pad => HEADER_BYTES,
                _ => checked.record.shape.record_bytes(),
            };
            let words = &words[begin..][..bytes / 8];
            copy_spread(&self.log, checked.position, words);
            if checked.record.shape.kind() == Kind::Set {
                // What ended the item may stand further on in the log: this store comes by it, and
                // marks the record, in its own time.
                let meta = &self.log.words_at(checked.position)[0];
                meta.store(Meta::from_bits(meta.load(Relaxed)).alive().to_bits(), Relaxed);
            }
        }
    }

    /// What a record means to the index. It stands in the log, and is published.
    pub(super) fn replay(&self, writer: &mut Writer, checked: &Checked<'_>) {
        let record = &checked.record;
        let mut key = [0; KEY_BYTES_MAX];
        let key = &mut key[..record.shape.key_bytes()];
        record.key().copy_to_slice(key);
        match record.shape.kind() {
            Kind::Set => self.replay_set(writer, key, checked),
            Kind::Delete => {
                if let Some(item) = self.find_locked(key, checked.hash) {
                    self.index.remove(&item.slot, checked.hash);
                    self.bury(writer, &item);
                }
            }
            Kind::Touch => {
                if let Some(item) = self.find_locked(key, checked.hash) {
                    if item.position >= writer.flushed_below {
                        writer.live.touch(item.record.shape, item.expiry(), record.meta().expiry());
                    }
                    let touched = |bits| Some(Meta::from_bits(bits).touched_by(record.meta()).to_bits());
                    let _ = item.record.meta_word().fetch_update(Relaxed, Relaxed, touched);
                }
            }
            Kind::Flush => self.replay_flush(writer, record, checked.position),
            Kind::Term => {
                let (term, begins) = record.term_value();
                self.note_term(TermStart { term: Term(term), begins });
                self.control().begin_term(term, begins);
            }
            Kind::Pad => {}
        }
    }

    fn replay_set(&self, writer: &mut Writer, key: &[u8], checked: &Checked<'_>) {
        self.grow_index(writer);
        let Checked { record, position, hash } = checked;
        let found = self.find_locked(key, *hash);
        // Reclaim appends an item again with the CAS that it had; nothing else does, but emptying
        // one (md x), which changes its length.
        let again = found
            .filter(|old| record.explicit_cas() == Some(old.cas()) && record.shape.value_bytes() == old.value_bytes());
        let uses = again.map_or(0, |old| old.slot.seen.uses().saturating_sub(1));
        match found {
            Some(old) => {
                self.index.replace(&old.slot, *hash, *position, uses);
                self.bury(writer, &old);
            }
            // The index is sized so that the log is full before it is. If it were full, this key
            // would be a miss here, until it is set again.
            None if self.index.insert(*hash, *position).is_err() => return,
            None => {}
        }
        writer.live.add(record.shape, self.record(*position).meta().expiry());
        if again.is_some() {
            writer.counts.reinserted_items += 1;
            writer.counts.reinserted_bytes += record.shape.record_bytes() as u64;
        } else {
            writer.counts.total_items += 1;
        }
    }
}
