//! One shard: an index and a log, and the lock that writers take. Readers take none.
//!
//! What the lock guards is [`Writer`], and the log's ends ([`super::publication`]): head, and tail.
//! Order: record, then head, then the index's slot. Invariant: `tail <= head`, `head` is at most
//! the limit of what has memory ([`super::mapped`]), and `released` only passes what every thread
//! has stopped looking at, and whoever reads from elsewhere has been told of.

use super::NoRoom;
use super::history::History;
use super::index::{Index, Look, Slot, SlotRef};
use super::item::Item;
use super::line::{BIRTH, ControlLine};
use super::log::Log;
use super::publication::Ends;
use super::record::{Draft, HEADER_BYTES, PAD_BYTES_MAX, Record};
use super::reign::{Gate, Known};
use super::retain::TailGuard;
use super::seed::Seed;
use super::shape::Shape;
use super::shared::{EvictionWatch, Shared};
use super::sizing::Budget;
use super::value::Value;
use super::writer::{Wanted, Writer};
use crate::base::hash::IndexHash;
use crate::base::limits::KEY_BYTES_MAX;
use crate::base::term::Term;
use crate::base::time::UnixSeconds;
use crate::sys::memory::Memfd;
use crate::sys::prefetch::prefetch;
use crate::sys::quiescence::Domain;
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
}

/// See the module.
pub struct Shard {
    pub(super) number: u32,
    pub(super) log: Log,
    pub(super) index: Index,
    pub(super) hash: IndexHash,
    pub(super) policy: Policy,
    pub(super) domain: Arc<Domain>,
    lines: Arc<Memfd>,
    /// Whether clients may write.
    pub(super) gate: Gate,
    /// What has become of what was written before its gate was closed.
    pub(super) known: Known,
    /// Items below this position were flushed, or are not to be seen.
    pub(super) flushed_below: AtomicU64,
    /// Not zero when reclaim has something to do that no append has done.
    attention: AtomicU64,
    /// How many shards of the store want it; so that who looks once a turn looks at one word.
    attention_wanted: Arc<AtomicU64>,
    /// Not zero once a change of an item's metadata must be logged: somebody else reads the logs of
    /// this store.
    pub(super) touches_logged: Arc<AtomicU64>,
    pub(super) evictions: Arc<EvictionWatch>,
    lock_waits: AtomicU64,
    /// Changed with the log, under the lock of its writer; read without.
    pub(super) history: Mutex<History>,
    /// Asked before the tail moves, if there is one.
    pub(super) guard: OnceLock<Arc<dyn TailGuard>>,
    /// A position near the head: what an index's slot says is completed to the position nearest to
    /// it. It moves with the slabs, not with the records, so that readers seldom miss it.
    reference: AtomicU64,
    /// Not zero while there is a follower. See [`super::Store::follower`].
    pub(super) followed: AtomicU64,
    /// Not zero where the log can be gone on from. See [`Shard::is_proven`].
    proven: AtomicU64,
    /// See [`super::Follower::note_fresh`]. 0: not known.
    pub(super) fresh_at: AtomicU64,
    hot: CachePadded<Hot>,
}

/// What changes with every write, on cache lines of its own: readers need what stands before it,
/// and nothing of this.
struct Hot {
    ends: Ends,
    writer: Mutex<Writer>,
}

impl Shard {
    pub(super) fn new(
        number: u32,
        log: Log,
        (capacity, capacity_max): (u32, u32),
        policy: Policy,
        hash: IndexHash,
        domain: Arc<Domain>,
        Shared { lines, takes_writes, attention_wanted, touches_logged, evictions }: Shared,
    ) -> io::Result<Shard> {
        let capacity_bytes = u64::from(capacity) * log.pool().slab_bytes();
        let index = Index::new(u64::from(capacity_max) * log.pool().slab_bytes())?;
        ControlLine::of(lines.words(), number as usize).begin(Term::NONE.0, capacity_bytes);
        let writer = Writer::new(&log, capacity, Budget::of(&policy, capacity_bytes));
        Ok(Shard {
            number,
            log,
            index,
            hash,
            policy,
            domain,
            lines,
            gate: Gate::new(takes_writes),
            known: Known::default(),
            flushed_below: AtomicU64::new(0),
            attention: AtomicU64::new(0),
            attention_wanted,
            touches_logged,
            evictions,
            lock_waits: AtomicU64::new(0),
            history: Mutex::new(History::NONE),
            guard: OnceLock::new(),
            reference: AtomicU64::new(BIRTH),
            followed: AtomicU64::new(0),
            proven: AtomicU64::new(0),
            fresh_at: AtomicU64::new(0),
            hot: CachePadded::new(Hot { ends: Ends::new(BIRTH), writer: Mutex::new(writer) }),
        })
    }

    /// The log begins in `term`. No record says so, for an empty log has no memory to keep one in.
    pub(super) fn be_born(&self, term: Term) {
        self.set_history(History::born(term, BIRTH));
        self.control().begin_term(term.0, BIRTH);
        self.prove(true);
    }

    /// Whether this log is one that can be gone on from: by a follower, or by whoever is promoted.
    /// It is where clients have written, and where a record has shown that it is the log of the
    /// term which its control line says. It is not where a replica has only begun.
    pub fn is_proven(&self) -> bool {
        self.proven.load(Relaxed) != 0
    }

    /// The position below which this log can be gone on from; 0 where it cannot.
    pub fn proven_until(&self) -> u64 {
        if self.is_proven() { self.control().committed() } else { 0 }
    }

    /// With the shard's lock held, or by the one follower.
    pub(super) fn prove(&self, is_proven: bool) {
        self.proven.store(is_proven.into(), Relaxed);
    }

    /// The published state.
    pub fn control(&self) -> ControlLine<'_> {
        ControlLine::of(self.lines.words(), self.number as usize)
    }

    /// Where the next record goes. Exact with the lock held.
    #[inline]
    pub fn head(&self) -> u64 {
        self.hot.ends.head()
    }

    /// The oldest position in use. Exact with the lock held; who has no lock is told by the control
    /// line.
    #[inline]
    pub(super) fn tail(&self) -> u64 {
        self.hot.ends.tail()
    }

    /// All records below `position` are written. With the lock held.
    #[inline]
    pub(super) fn advance_head(&self, position: u64) {
        self.hot.ends.advance_head(position);
    }

    /// Everything below `position` is given up. With the lock held.
    #[inline]
    pub(super) fn advance_tail(&self, position: u64) {
        self.hot.ends.advance_tail(position);
    }

    /// Let everybody see how far the log goes.
    #[inline]
    pub(super) fn publish(&self) {
        self.hot.ends.publish(self.control());
    }

    /// An empty log at `position`. With the lock held, while nobody else publishes.
    pub(super) fn restart_at(&self, position: u64) {
        self.hot.ends.restart(position);
        self.reference.store(position, Relaxed);
        self.control().restart(position);
    }

    /// The log ends at `position` again, and owes up to `owed`. As above.
    pub(super) fn cut_at(&self, position: u64, owed: u64) {
        self.hot.ends.cut(position);
        self.reference.store(position, Relaxed);
        self.control().cut(position, owed);
    }

    /// All that the primary had at this log's end is here. Not so in a replica that has begun at
    /// the tail, and has not yet come by what had been moved from before it; nor below such a one.
    pub fn is_whole(&self) -> bool {
        let line = self.control();
        line.committed() >= line.owes_until()
    }

    /// Take the lock; counts when that had to wait.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, Writer> {
        self.try_lock().unwrap_or_else(|| self.wait_for_lock())
    }

    #[cold]
    fn wait_for_lock(&self) -> MutexGuard<'_, Writer> {
        self.lock_waits.fetch_add(1, Relaxed);
        self.hot.writer.lock().expect("no thread panics while it holds a shard")
    }

    /// Take the lock if nobody has it.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, Writer>> {
        self.hot.writer.try_lock().ok()
    }

    /// How often the lock had to be waited for.
    pub fn lock_waits(&self) -> u64 {
        self.lock_waits.load(Relaxed)
    }

    /// Fetch the memory of the record that a key with this hash probably has; its bucket has been
    /// fetched before.
    pub(super) fn prefetch_record(&self, hash: u64) {
        if let Some(slot) = self.index.guess(hash) {
            prefetch(self.log.words_at(self.position(slot)), RECORD_LINES_AHEAD);
        }
    }

    /// The item under a key, alive or not. Without the lock, but for the rare case that its bucket
    /// keeps being split.
    #[inline]
    pub fn find(&self, key: &[u8], hash: u64) -> Option<Item<'_>> {
        match self.index.find(hash, |slot| self.record_of(slot, key)) {
            Look::Found(found) => Some(self.item(found)),
            Look::Absent => None,
            Look::Unsettled => self.lock_and_find(key, hash),
        }
    }

    #[cold]
    fn lock_and_find(&self, key: &[u8], hash: u64) -> Option<Item<'_>> {
        let _writer = self.lock();
        self.find_locked(key, hash)
    }

    /// The same while holding the lock.
    #[inline]
    pub fn find_locked(&self, key: &[u8], hash: u64) -> Option<Item<'_>> {
        self.index.find_locked(hash, |slot| self.record_of(slot, key)).map(|found| self.item(found))
    }

    pub(super) fn item<'t>(&'t self, (slot, (position, record)): (SlotRef<'t>, (u64, Record<'t>))) -> Item<'t> {
        Item { record, slot, position, log: &self.log }
    }

    pub(super) fn position(&self, slot: Slot) -> u64 {
        slot.position(self.reference.load(Relaxed))
    }

    /// What the checksum of a record at `position` is bound to.
    #[inline]
    pub fn seed(&self, position: u64, term: Term) -> Seed {
        Seed::of(self.number, position, term)
    }

    /// The record at a position that holds one. Anything else there is a broken log: our bug, and
    /// no state to go on from.
    pub(super) fn record(&self, position: u64) -> Record<'_> {
        self.record_in(self.log.words_at(position), position)
    }

    #[inline]
    fn record_in<'w>(&self, words: &'w [AtomicU64], position: u64) -> Record<'w> {
        Record::read(words).unwrap_or_else(|| panic!("shard {}: no record at position {position}", self.number))
    }

    /// The record at a position, or at the start of the next slab where not even a header fits
    /// there; and where it is.
    #[inline]
    pub(super) fn settled_record(&self, position: u64) -> (u64, Record<'_>) {
        let words = self.log.words_at(position);
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
        let record = Record::read(self.log.words_at(position))?;
        record.key().equals(key).then_some((position, record))
    }

    /// The value of the record at `position`.
    #[inline]
    pub fn value<'s>(&'s self, position: u64, record: &Record<'s>) -> Value<'s> {
        Value::of(&self.log, position, record)
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
        if item.position >= writer.flushed_below {
            writer.live.remove(item.record.shape, item.expiry());
        }
        item.record.mark_dead();
    }

    /// Where a record of this shape would begin that leaves `reserve_bytes` free behind it, and the
    /// words there. Nothing changes on failure, but that the want is remembered.
    #[inline(always)]
    pub(super) fn find_room(
        &self,
        writer: &mut Writer,
        shape: Shape,
        reserve_bytes: u64,
    ) -> Result<(u64, &[AtomicU64]), NoRoom> {
        let mut begin = self.head();
        let left_bytes = self.log.bytes_to_slab_end(begin);
        if left_bytes < shape.value_at() {
            begin += left_bytes as u64;
        }
        let end = begin + shape.record_bytes() as u64;
        let needed = end + reserve_bytes;
        if needed > writer.mapped.limit() && !self.make_reach(writer, needed) {
            self.want_room(writer, needed - self.head());
            return Err(NoRoom::Now);
        }
        Ok((begin, self.log.words_at(begin)))
    }

    /// An append waits for so many bytes: reclaim is to go on until there is room for it.
    #[cold]
    fn want_room(&self, writer: &mut Writer, missing_bytes: u64) {
        let since = if writer.wanted.bytes == 0 { self.head() } else { writer.wanted.since };
        writer.wanted = Wanted { bytes: missing_bytes.max(writer.wanted.bytes), rounds: WANTED_ROUNDS, since };
        writer.counts.parked += 1;
        self.want_attention(true);
    }

    /// See that the log has memory up to `wanted`, if it can be had now.
    #[inline(never)]
    pub(super) fn make_reach(&self, writer: &mut Writer, wanted: u64) -> bool {
        self.reference.store(self.head(), Relaxed);
        let Writer { mapped, released, .. } = writer;
        if mapped.extend(&self.log, *released, wanted) {
            return true;
        }
        self.release(writer);
        let Writer { mapped, released, .. } = writer;
        mapped.extend(&self.log, *released, wanted)
    }

    /// What an append for a client leaves free, so that reclaim can move the record at the tail.
    /// Where live items must not be evicted that is room for the longest one, and a pad before it.
    #[inline]
    pub(super) fn reserve_bytes(&self, writer: &Writer) -> u64 {
        let needed_bytes = writer.live.longest_bytes() + PAD_BYTES_MAX as u64;
        let Budget { reserve_bytes, capacity_bytes, kept_bytes_max, .. } = writer.budget;
        if needed_bytes <= reserve_bytes || self.may_evict(writer) {
            return reserve_bytes;
        }
        // Of large items so much may not be left.
        needed_bytes.min(reserve_bytes.max((capacity_bytes - kept_bytes_max) / 2))
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
        let (begin, words) = self.find_room(writer, draft.shape(), reserve_bytes)?;
        let end = begin + record_bytes as u64;
        let term = Term(self.control().term());
        self.pad(self.head(), begin, term);
        let record = if record_bytes <= words.len() * 8 {
            // Where the next one goes was last touched a lap ago.
            prefetch(&words[record_bytes / 8..], RECORD_LINES_AHEAD);
            draft.write(words, self.seed(begin, term))
        } else {
            draft.write_spread(&self.log, begin, self.seed(begin, term))
        };
        let appended_bytes = end - self.head();
        writer.counts.appended_bytes += appended_bytes;
        self.advance_head(end);
        if appended_bytes + reserve_bytes >= writer.wanted.bytes {
            writer.wanted = Wanted::default();
        }
        Ok((begin, record))
    }

    /// A pad from `from` up to `to`, the end of its slab; nothing where they are the same, or not
    /// even a header fits.
    #[inline]
    pub(super) fn pad(&self, from: u64, to: u64, term: Term) {
        let pad_bytes = (to - from) as usize;
        if pad_bytes >= HEADER_BYTES {
            self.write_pad(from, pad_bytes, term);
        }
    }

    #[cold]
    fn write_pad(&self, from: u64, pad_bytes: usize, term: Term) {
        Draft::pad(pad_bytes).write(self.log.words_at(from), self.seed(from, term));
    }

    /// Let appends reuse what every thread has stopped looking at, give back what the log is not to
    /// have any more, and begin to wait for the rest. Waits for no thread.
    pub(super) fn release(&self, writer: &mut Writer) {
        if let Some((position, era)) = writer.awaited {
            if !self.domain.all_passed(era) {
                return;
            }
            writer.released = position;
            writer.awaited = None;
            self.reference.store(self.head(), Relaxed);
            let needed = self.head() + writer.budget.reserve_bytes;
            writer.mapped.release(&self.log, position, needed);
            self.settle_budget(writer);
        }
        if writer.mapped.shrinks() {
            let needed = self.head() + writer.budget.reserve_bytes;
            writer.mapped.trim(&self.log, needed, TRIMMED_SLABS_MAX);
            self.settle_budget(writer);
        }
        let tail = self.tail();
        if tail > writer.released {
            self.publish();
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
        writer.mapped.reach(&self.log, writer.released) - self.head()
    }
}

/// Cache lines of a record that are fetched ahead: one of 136 bytes lies in three. What is longer,
/// the processor notices itself.
const RECORD_LINES_AHEAD: usize = 3;
/// Slabs at the top that are given back in one go: each takes some hundred microseconds where
/// replicas have mapped it.
const TRIMMED_SLABS_MAX: u32 = 2;
/// Rounds of maintenance for which an append that found no room counts.
const WANTED_ROUNDS: u32 = 1000;
