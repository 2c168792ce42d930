//! One shard: an index and a ring, and the lock that writers take. Readers take none.
//!
//! What the lock guards is [`Writer`]: the head, and how far the tail's bytes have been released
//! for reuse. Appending publishes: record, then
//! `committed`, then the index's slot. Invariant: `tail <= head`, `head - released <=
//! ring`, and `released` only passes what every thread has stopped looking at.

use super::NoRoom;
use super::crawl::Crawl;
use super::index::{Entry as Slot, Index, Look, SlotRef};
use super::item::Item;
use super::live::Live;
use super::promotion::with_epoch_record;
use super::record::{Draft, HEADER_BYTES, Kind, Record};
use super::retain::TailGuard;
use super::ring::{BIRTH, ControlLine, Ring};
use crate::base::epoch::Epoch;
use crate::base::hash::IndexHash;
use crate::base::limits::KEY_BYTES_MAX;
use crate::base::time::UnixSeconds;
use crate::sys::memory::Slab;
use crate::sys::prefetch::prefetch;
use crate::sys::quiescence::{Domain, Era};
use crate::sys::sync::{AtomicU64, Mutex, MutexGuard, Ordering::Relaxed};
use crossbeam::utils::CachePadded;
use std::io;
use std::sync::{Arc, OnceLock};

/// How a shard treats its memory; the same for all of a store.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Evict when full (false: `-M`).
    pub evict: bool,
    /// Largest record in bytes.
    pub record_bytes_max: usize,
    /// While no more than this is alive, no live item is evicted.
    pub kept_bytes_max: u64,
    /// Bytes that reclaim keeps free ahead of the head, at least.
    pub ahead_bytes: u64,
    /// Bytes that only reclaim may use, so that it can move the record at the tail: with `-M`
    /// always, else nearly always.
    pub reserve_bytes: u64,
    /// Most bytes of live records (`-M`).
    pub live_bytes_max: u64,
}

/// See the module.
pub struct Shard {
    pub(super) number: u32,
    pub(super) ring: Ring,
    pub(super) index: Index,
    pub(super) hash: IndexHash,
    pub(super) policy: Policy,
    pub(super) domain: Arc<Domain>,
    lines: Arc<Slab>,
    /// Items below this position were flushed.
    pub(super) flushed_below: AtomicU64,
    /// On a replica: what its primary had moved further on may be missing until the log is here up
    /// to this position. See [`Shard::is_whole`].
    pub(super) owes_until: AtomicU64,
    /// Not zero when reclaim has something to do that no append has done.
    attention: AtomicU64,
    /// How many shards of the store want it; so that who looks once a turn looks at one word.
    attention_wanted: Arc<AtomicU64>,
    /// Not zero once a change of an item's metadata must be logged: somebody else reads the logs of
    /// this store.
    pub(super) touches_logged: Arc<AtomicU64>,
    lock_waits: AtomicU64,
    /// Asked before the tail moves, if there is one.
    pub(super) guard: OnceLock<Arc<dyn TailGuard>>,
    /// On a cache line of its own: readers need what stands before it, and nothing of this.
    writer: CachePadded<Mutex<Writer>>,
}

/// What the shard's lock guards.
pub struct Writer {
    pub(super) head: u64,
    /// Bytes below may be overwritten.
    pub(super) released: u64,
    /// A tail that was given up, and when its bytes may be reused.
    pub(super) awaited: Option<(u64, Era)>,
    /// The largest append that found no room.
    pub(super) wanted: Wanted,
    /// `-M`: an item was refused; expired ones are looked for.
    pub(super) crawl: Option<Crawl>,
    /// The record that reclaim will look at next, if it knows.
    pub(super) victim: Option<Victim>,
    /// Bytes that reclaim may still append again, where it may evict.
    pub(super) credit: u64,
    /// What of the log is alive.
    pub(super) live: Live,
    /// What reclaim keeps free.
    pub(super) goal: Goal,
    /// The head when reclaim last looked: what was appended since, it owes.
    pub(super) paced_head: u64,
    pub(super) counts: Counts,
    /// The guard lets everything below go; see [`super::retain`].
    pub(super) floor: u64,
    /// What the tail has passed is counted from here: where the log was born, or (modulo 2^64) as
    /// if it had been when a replica jumps.
    pub(super) counted_from: u64,
}

/// So much is to be free ahead of the head.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Goal {
    pub bytes: u64,
    /// Computed anew when the head has come here.
    pub until: u64,
}

/// An append that waits for room.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    /// 0: none waits.
    pub bytes: u64,
    /// For how many more rounds of maintenance it counts.
    pub rounds: u32,
    /// The head when there was no room for it any more: once the tail has come to it, a lap has
    /// gained nothing.
    pub since: u64,
}

/// A record at the tail, and its key's hash, computed ahead.
#[derive(Clone, Copy)]
pub struct Victim {
    pub(super) position: u64,
    pub(super) hash: u64,
}

/// What all shards of a store have in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub lines: Arc<Slab>,
    pub attention_wanted: Arc<AtomicU64>,
    pub touches_logged: Arc<AtomicU64>,
}

/// Counters of one shard; see [`super::StoreStats`].
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Counts {
    pub total_items: u64,
    pub evictions: u64,
    pub evicted_unfetched: u64,
    pub reclaimed: u64,
    pub expired_unfetched: u64,
    pub appended_bytes: u64,
    pub reinserted_bytes: u64,
    pub reinserted_items: u64,
    pub parked: u64,
}

impl Shard {
    pub(super) fn new(
        number: u32,
        ring: Ring,
        policy: Policy,
        hash: IndexHash,
        domain: Arc<Domain>,
        Shared { lines, attention_wanted, touches_logged }: Shared,
    ) -> io::Result<Shard> {
        let index = Index::new(ring.bytes())?;
        ControlLine::of(lines.words(), number as usize).begin(Epoch::NONE.0, ring.bytes());
        let writer = Writer {
            head: BIRTH,
            released: BIRTH,
            awaited: None,
            wanted: Wanted::default(),
            crawl: None,
            victim: None,
            credit: ring.bytes() / CREDIT_SHARE_MAX,
            live: Live::new(),
            goal: Goal::default(),
            paced_head: BIRTH,
            counts: Counts::default(),
            floor: 0,
            counted_from: BIRTH,
        };
        Ok(Shard {
            number,
            ring,
            index,
            hash,
            policy,
            domain,
            lines,
            flushed_below: AtomicU64::new(0),
            owes_until: AtomicU64::new(0),
            attention: AtomicU64::new(0),
            attention_wanted,
            touches_logged,
            lock_waits: AtomicU64::new(0),
            guard: OnceLock::new(),
            writer: CachePadded::new(Mutex::new(writer)),
        })
    }

    /// The first record of every ring says which epoch began.
    pub(super) fn be_born(&self, epoch: Epoch) {
        self.control().begin_epoch(epoch.0, BIRTH);
        with_epoch_record(epoch, BIRTH, |draft| {
            self.append(&mut self.lock(), draft, 0).expect("an empty ring has room for its first record");
        });
    }

    /// The published state.
    pub fn control(&self) -> ControlLine<'_> {
        ControlLine::of(self.lines.words(), self.number as usize)
    }

    /// All that the primary had at this log's end is here. Not so in a replica that has begun at
    /// the tail, and has not yet come by what had been moved from before it.
    pub fn is_whole(&self) -> bool {
        self.control().committed() >= self.owes_until.load(Relaxed)
    }

    /// Take the lock; counts when that had to wait.
    pub fn lock(&self) -> MutexGuard<'_, Writer> {
        if let Ok(guard) = self.writer.try_lock() {
            return guard;
        }
        self.lock_waits.fetch_add(1, Relaxed);
        self.writer.lock().expect("no thread panics while it holds a shard")
    }

    /// Take the lock if nobody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, Writer>> {
        self.writer.try_lock().ok()
    }

    /// How often the lock had to be waited for.
    pub fn lock_waits(&self) -> u64 {
        self.lock_waits.load(Relaxed)
    }

    /// Fetch the memory of the record that a key with this hash probably has; its bucket has been
    /// fetched before.
    pub(super) fn prefetch_record(&self, hash: u64) {
        if let Some(slot) = self.index.guess(hash) {
            prefetch(self.ring.words_at(self.position(slot)), RECORD_LINES_AHEAD);
        }
    }

    /// The item under a key, alive or not. Without the lock, but for the rare case that its bucket
    /// keeps being split.
    #[inline]
    pub fn find(&self, key: &[u8], hash: u64) -> Option<Item<'_>> {
        match self.index.find(hash, |slot| self.record_of(slot, key)) {
            Look::Found(found) => Some(self.item(found)),
            Look::Absent => None,
            Look::Unsettled => {
                let _writer = self.lock();
                self.find_locked(key, hash)
            }
        }
    }

    /// The same while holding the lock.
    pub fn find_locked(&self, key: &[u8], hash: u64) -> Option<Item<'_>> {
        self.index.find_locked(hash, |slot| self.record_of(slot, key)).map(|found| self.item(found))
    }

    pub(super) fn item<'t>(&'t self, (slot, (position, record)): (SlotRef<'t>, (u64, Record<'t>))) -> Item<'t> {
        Item { record, slot, position, shard: self.number }
    }

    fn position(&self, slot: Slot) -> u64 {
        slot.position(self.control().committed())
    }

    /// The record at a position that holds one. Anything else there is a broken log: our bug, and
    /// no state to go on from.
    pub(super) fn record(&self, position: u64) -> Record<'_> {
        self.record_in(self.ring.words_at(position), position)
    }

    #[inline]
    fn record_in<'w>(&self, words: &'w [AtomicU64], position: u64) -> Record<'w> {
        Record::read(words).unwrap_or_else(|| panic!("shard {}: no record at position {position}", self.number))
    }

    /// The record at a position, or at the start of the next slab where not even a header fits
    /// there; and where it is.
    #[inline]
    pub(super) fn settled_record(&self, position: u64) -> (u64, Record<'_>) {
        let words = self.ring.words_at(position);
        if words.len() * 8 < HEADER_BYTES {
            let position = position + words.len() as u64 * 8;
            return (position, self.record(position));
        }
        (position, self.record_in(words, position))
    }

    /// The record behind `slot`, and where it is, if it has this key. A slot seen by a reader
    /// without the lock may be outdated, but within a turn its record is still there.
    #[inline]
    fn record_of(&self, slot: Slot, key: &[u8]) -> Option<(u64, Record<'_>)> {
        let position = self.position(slot);
        let record = Record::read(self.ring.words_at(position))?;
        record.key().equals(key).then_some((position, record))
    }

    /// The index's hash of a record's key.
    pub(super) fn hash_of(&self, record: &Record<'_>) -> u64 {
        let mut key = [0; KEY_BYTES_MAX];
        let key = &mut key[..record.shape.key_bytes()];
        record.key().copy_to_slice(key);
        self.hash.of(key)
    }

    /// Neither expired nor flushed.
    pub(super) fn is_alive(&self, item: &Item<'_>, now: UnixSeconds) -> bool {
        !item.expiry().has_passed(now) && item.position >= self.flushed_below.load(Relaxed)
    }

    /// The item is none any more: count that, and mark its record. With the lock held, once what
    /// ended it stands in the log.
    #[inline]
    pub(super) fn bury(&self, writer: &mut Writer, item: &Item<'_>) {
        // A flushed item was taken off the count when it was flushed.
        if item.position >= self.flushed_below.load(Relaxed) {
            writer.live.remove(item.record.shape, item.expiry());
        }
        item.record.mark_dead();
    }

    /// Everything below `position` is gone.
    pub(super) fn note_flush(&self, writer: &mut Writer, position: u64) {
        self.flushed_below.store(position, Relaxed);
        writer.live.clear();
    }

    /// Everything written so far is gone.
    pub(super) fn flush(&self, writer: &mut Writer) -> Result<(), NoRoom> {
        let draft = Draft::of_key(Kind::Flush, b"", Default::default());
        let (position, _) = self.append(writer, &draft, 0)?;
        self.note_flush(writer, position);
        Ok(())
    }

    /// Where a record of `record_bytes` would begin that leaves `reserve_bytes` free behind it, and
    /// the words there. Nothing changes on failure, but that the want is remembered.
    #[inline]
    pub(super) fn find_room(
        &self,
        writer: &mut Writer,
        record_bytes: usize,
        reserve_bytes: u64,
    ) -> Result<(u64, &[AtomicU64]), NoRoom> {
        let mut begin = writer.head;
        let mut words = self.ring.words_at(begin);
        while words.len() * 8 < record_bytes {
            begin += words.len() as u64 * 8;
            words = self.ring.words_at(begin);
        }
        let end = begin + record_bytes as u64;
        if end + reserve_bytes > writer.released + self.ring.bytes() {
            self.release(writer);
            if end + reserve_bytes > writer.released + self.ring.bytes() {
                let missing = end - writer.head + reserve_bytes;
                let since = if writer.wanted.bytes == 0 { writer.head } else { writer.wanted.since };
                writer.wanted = Wanted { bytes: missing.max(writer.wanted.bytes), rounds: WANTED_ROUNDS, since };
                writer.counts.parked += 1;
                self.want_attention(true);
                return Err(NoRoom::Now);
            }
        }
        Ok((begin, words))
    }

    /// What an append for a client leaves free, so that reclaim can move the record at the tail.
    /// Where live items must not be evicted that is room for the longest one twice: one that does
    /// not fit before a slab's end pads up to its own size.
    #[inline]
    pub(super) fn reserve_bytes(&self, writer: &Writer) -> u64 {
        let needed_bytes = 2 * writer.live.longest_bytes();
        if needed_bytes <= self.policy.reserve_bytes || self.may_evict(writer) {
            return self.policy.reserve_bytes;
        }
        // Of large items so much may not be left.
        needed_bytes.min(self.policy.reserve_bytes.max((self.ring.bytes() - self.policy.kept_bytes_max) / 2))
    }

    /// Append a record, leaving `reserve_bytes` free behind it. Nothing changes on failure, but
    /// that the want is remembered.
    pub(super) fn append(
        &self,
        writer: &mut Writer,
        draft: &Draft<'_>,
        reserve_bytes: u64,
    ) -> Result<(u64, Record<'_>), NoRoom> {
        let record_bytes = draft.record_bytes();
        let (begin, words) = self.find_room(writer, record_bytes, reserve_bytes)?;
        let end = begin + record_bytes as u64;
        let control = self.control();
        let epoch = control.epoch();
        self.pad(writer.head, begin, epoch);
        let record = draft.write(words, begin, epoch);
        // Where the next one goes was last touched a lap ago.
        prefetch(&words[record_bytes / 8..], RECORD_LINES_AHEAD);
        let appended_bytes = end - writer.head;
        writer.counts.appended_bytes += appended_bytes;
        writer.head = end;
        if appended_bytes + reserve_bytes >= writer.wanted.bytes {
            writer.wanted = Wanted::default();
        }
        control.commit(end);
        Ok((begin, record))
    }

    /// Pads from `from` up to `to`, a slab's end each.
    pub(super) fn pad(&self, from: u64, to: u64, epoch: u64) {
        let mut at = from;
        while at < to {
            let pad_bytes = self.ring.bytes_to_slab_end(at);
            if pad_bytes >= HEADER_BYTES {
                Draft::pad(pad_bytes).write(self.ring.words_at(at), at, epoch);
            }
            at += pad_bytes as u64;
        }
    }

    /// Let appends reuse what every thread has stopped looking at, and begin to wait for the rest.
    /// Waits for nobody.
    pub(super) fn release(&self, writer: &mut Writer) {
        if let Some((position, era)) = writer.awaited {
            if !self.domain.all_passed(era) {
                return;
            }
            writer.released = position;
            writer.awaited = None;
        }
        let tail = self.control().tail();
        if tail > writer.released {
            writer.awaited = Some((tail, self.domain.advance()));
        }
    }

    /// Say whether maintenance has something to do here. With the lock held.
    pub(super) fn want_attention(&self, wanted: bool) {
        if self.wants_attention() != wanted {
            self.attention.store(wanted.into(), Relaxed);
            let change = if wanted { 1 } else { u64::MAX };
            self.attention_wanted.fetch_add(change, Relaxed);
        }
    }

    /// Whether maintenance has something to do here.
    pub(super) fn wants_attention(&self) -> bool {
        self.attention.load(Relaxed) != 0
    }

    /// Bytes that could be appended now.
    pub(super) fn usable_bytes(&self, writer: &Writer) -> u64 {
        writer.released + self.ring.bytes() - writer.head
    }

    /// Walk the log from `from` (a record's position, the tail for one) to the head: what a replay
    /// sees.
    pub fn walk<'s>(&'s self, from: u64) -> impl Iterator<Item = (u64, Record<'s>)> {
        let committed = self.control().committed();
        let mut at = self.ring.settle(from);
        std::iter::from_fn(move || {
            if at >= committed {
                return None;
            }
            let (position, record) = (at, self.record(at));
            at = self.ring.settle(at + record.shape.record_bytes() as u64);
            Some((position, record))
        })
    }
}

/// The credit for second chances that can be saved up: one part in so many of the ring.
pub(super) const CREDIT_SHARE_MAX: u64 = 16;
/// Cache lines of a record that are fetched ahead: one of 136 bytes lies in three. What is longer,
/// the processor notices itself.
const RECORD_LINES_AHEAD: usize = 3;
/// Rounds of maintenance for which an append that found no room counts.
const WANTED_ROUNDS: u32 = 1000;
