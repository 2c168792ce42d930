//! The log-structured cache: shards of one index and one ring each. See docs/ARCHITECTURE.md and docs/FORMATS.md.

use crate::base::time::{Expiry, UnixSeconds};
pub use crate::sys::words::WordSpan;
use std::marker::PhantomData;

/// What a store is made from.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Bytes for all rings together (`-m`).
    pub memory_bytes: usize,
    /// Largest item: key, value and header (`-I`).
    pub item_bytes_max: usize,
    /// False for `-M`: refuse instead of evicting.
    pub evict: bool,
    /// How many threads will read and write (workers); decides the number of shards, too.
    pub workers: usize,
    /// Number of shards, a power of two; None to choose.
    pub shards: Option<usize>,
    /// Try huge pages first.
    pub hugepages: bool,
    /// Key of the index's hash; None for a random one.
    pub hash_seed: Option<(u64, u64)>,
}

/// Why a store could not be made; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A configuration that makes no sense.
    #[error("{0}")]
    Config(String),
    /// The system did not give the memory.
    #[error("{0}")]
    Memory(String),
}

/// Why nothing was appended. Nothing has changed in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// Space is being reclaimed: try again in the next turn, after this worker's own quiescence.
    Now,
    /// `-M`, and live items fill the memory.
    Full,
    /// The item can never fit.
    TooLarge,
}

/// The store. Shared by all workers.
pub struct Store {}

/// A thread's membership: needed to read. One per worker.
pub struct Participant<'s> {
    _store: PhantomData<&'s Store>,
}

/// One turn of a worker's loop: while it lives, nothing that its holder can see is overwritten. Dropping it announces
/// quiescence and takes the worker offline.
pub struct Turn<'p> {
    _participant: PhantomData<&'p ()>,
}

impl Participant<'_> {
    /// Begin a turn.
    pub fn turn(&mut self) -> Turn<'_> {
        Turn { _participant: PhantomData }
    }
}

/// A key and where it belongs: both hashes, computed once.
#[derive(Clone, Copy)]
pub struct Located<'k> {
    /// The key.
    pub key: &'k [u8],
}

/// A record about to be written: everything that can be done before the lock is taken has been done (its checksum).
pub struct Draft<'a> {
    _bytes: PhantomData<&'a ()>,
}

/// What a new item is.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewItem<'a> {
    /// The value.
    pub value: &'a [u8],
    /// The client's own flags.
    pub client_flags: u32,
    /// When it expires.
    pub expiry: Expiry,
    /// An explicit CAS (the E flag); None for its position.
    pub cas: Option<u64>,
    /// Stale from birth (ms with I).
    pub stale: bool,
    /// The win token is given out from birth (a vivified item).
    pub token_sent: bool,
}

/// An item as found; valid for the turn.
#[derive(Clone, Copy)]
pub struct Item<'t> {
    _turn: PhantomData<&'t ()>,
}

impl<'t> Item<'t> {
    /// The value's bytes, in the ring.
    pub fn value(&self) -> WordSpan<'t> {
        unreachable!()
    }
    /// The value, as something to lend to an output.
    pub fn loan(&self) -> ValueLoan {
        unreachable!()
    }
    /// Length of the value.
    pub fn value_bytes(&self) -> usize {
        unreachable!()
    }
    /// The whole record in the ring: header, key, value, padding.
    pub fn record_bytes(&self) -> usize {
        unreachable!()
    }
    /// The client's own flags.
    pub fn client_flags(&self) -> u32 {
        unreachable!()
    }
    /// CAS: the record's position, or the explicit one.
    pub fn cas(&self) -> u64 {
        unreachable!()
    }
    /// When it expires.
    pub fn expiry(&self) -> Expiry {
        unreachable!()
    }
    /// Marked stale (md I, ms I).
    pub fn stale(&self) -> bool {
        unreachable!()
    }
    /// A client has won the right to refill it.
    pub fn token_sent(&self) -> bool {
        unreachable!()
    }
    /// It was fetched since it was written.
    pub fn hit_before(&self) -> bool {
        unreachable!()
    }
    /// Seconds since the last access.
    pub fn idle_seconds(&self, _now: UnixSeconds) -> u32 {
        unreachable!()
    }
    /// Count a use: the slot's counter for reclaim, last access and the fetched bit. Never waits, may give up.
    pub fn note_use(&self, _now: UnixSeconds) {}
}

/// A value in a ring, for the rest of the turn in which it was made.
#[derive(Debug, Clone, Copy)]
pub struct ValueLoan {
    pub(crate) shard: u32,
    pub(crate) word: u64,
    pub(crate) start_byte: u32,
    pub(crate) bytes: u32,
}

impl ValueLoan {
    /// Length in bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.bytes as usize
    }
}

/// A change of an item's metadata word; None leaves a part as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct MetaChange {
    /// New expiry.
    pub expiry: Option<Expiry>,
    /// Stale or not.
    pub stale: Option<bool>,
    /// Win token given out or not.
    pub token_sent: Option<bool>,
}

/// One key's place with its shard locked: read, decide, write, in one. Held briefly; nothing waits while it is held.
pub struct Entry<'t> {
    _turn: PhantomData<&'t ()>,
}

impl<'t> Entry<'t> {
    /// The item now; None if there is none, or it has expired or been flushed.
    pub fn item(&self) -> Option<Item<'t>> {
        None
    }
    /// Write the item; returns its CAS.
    pub fn set(&mut self, _draft: &Draft<'_>) -> Result<u64, NoRoom> {
        Err(NoRoom::Full)
    }
    /// Remove the item; false if there was none.
    pub fn delete(&mut self) -> Result<bool, NoRoom> {
        Ok(false)
    }
    /// Change the metadata word in place and log the change; false if there is no item.
    pub fn change_meta(&mut self, _change: MetaChange) -> Result<bool, NoRoom> {
        Ok(false)
    }
}

impl Store {
    /// Make an empty store.
    pub fn new(_config: StoreConfig) -> Result<Store, StoreError> {
        Ok(Store {})
    }
    /// Register a thread.
    pub fn join(&self) -> Participant<'_> {
        Participant { _store: PhantomData }
    }
    /// Hash a key once.
    pub fn locate<'k>(&self, key: &'k [u8]) -> Located<'k> {
        Located { key }
    }
    /// Prepare a record of `key` (checksum) before the lock is taken.
    pub fn draft<'a>(&self, _at: &Located<'a>, _item: NewItem<'a>, _now: UnixSeconds) -> Draft<'a> {
        Draft { _bytes: PhantomData }
    }
    /// The item under a key; no lock.
    pub fn get<'t>(&'t self, _turn: &'t Turn<'_>, _at: &Located<'_>, _now: UnixSeconds) -> Option<Item<'t>> {
        None
    }
    /// Lock the key's shard.
    pub fn entry<'t>(&'t self, _turn: &'t Turn<'_>, _at: &'t Located<'t>, _now: UnixSeconds) -> Entry<'t> {
        Entry { _turn: PhantomData }
    }
    /// The bytes of a loan made in this turn.
    pub fn loaned<'t>(&'t self, _turn: &'t Turn<'_>, _loan: &ValueLoan) -> WordSpan<'t> {
        unreachable!()
    }
    /// flush_all, now: every item written before this is gone. Err(Now): try again next turn.
    pub fn flush(&self, _turn: &Turn<'_>) -> Result<(), NoRoom> {
        Ok(())
    }
    /// Reclaim ahead, in bounded steps: once a turn by each worker, for its share of the shards. True if there is more
    /// to do soon (do not sleep long).
    pub fn maintain(&self, _turn: &Turn<'_>, _worker: usize, _now: UnixSeconds) -> bool {
        false
    }
    /// Sums over all shards.
    pub fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}

/// What a store knows of itself, summed over shards. Counters grow; the others are of now.
#[derive(Debug, Clone, Default)]
pub struct StoreStats {
    /// Shards.
    pub shards: u64,
    /// Bytes of all rings.
    pub ring_bytes: u64,
    /// Items present (those expired or flushed but not yet reclaimed included).
    pub items: u64,
    /// Bytes of the records of those items.
    pub item_bytes: u64,
    /// Items ever written.
    pub total_items: u64,
    /// Items reclaimed while still alive.
    pub evictions: u64,
    /// Of those, never fetched.
    pub evicted_unfetched: u64,
    /// Items reclaimed after they had expired.
    pub reclaimed: u64,
    /// Of those, never fetched.
    pub expired_unfetched: u64,
    /// Bytes appended, by commands and by reclaim.
    pub appended_bytes: u64,
    /// Bytes the tail has passed.
    pub reclaimed_bytes: u64,
    /// Bytes appended again by reclaim (second chance): the write amplification.
    pub reinserted_bytes: u64,
    /// Records appended again.
    pub reinserted_items: u64,
    /// Appends that found no room and had to be tried again.
    pub parked: u64,
    /// Lock acquisitions that had to wait.
    pub lock_waits: u64,
    /// Index: primary buckets, overflow buckets, bytes resident.
    pub index_buckets: u64,
    /// Overflow buckets.
    pub index_overflow_buckets: u64,
    /// Bytes of the index in use.
    pub index_bytes: u64,
    /// Slabs backed by MAP_HUGETLB pages.
    pub slabs_hugetlb: u64,
    /// Slabs with transparent huge pages asked for.
    pub slabs_transparent: u64,
    /// Slabs of plain pages.
    pub slabs_plain: u64,
}
