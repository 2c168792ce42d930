//! The log-structured cache: shards of one index and one log each.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`record`] | one entry of a log, byte by byte, with its checksum |
//! | [`shape`] | kind and lengths of a record, in one word |
//! | [`pool`] | the memory of all logs, cut into slabs |
//! | [`mod@log`] | a shard's log: from a position to the slab that it is in |
//! | `mapped` | which of a log has memory, and how far its head may go |
//! | [`mod@line`] | the control line: what a shard publishes |
//! | `beat` | the sign of life in the control lines |
//! | [`publication`] | when: once a turn, and before any answer leaves |
//! | [`seed`] | the number of a place, which a record proves, and which is its CAS |
//! | [`value`] | a value where it lies, in one run or several |
//! | `spread` | writing and copying a record that lies in several slabs |
//! | [`index`] | from a key's hash to the position of its record; grows while it serves |
//! | [`shard`] | an index, a log and the writers' lock; appending and finding |
//! | [`writer`] | what that lock guards |
//! | [`entry`] | one key under the lock: what commands write through |
//! | [`item`] | what readers see |
//! | [`follower`] | a replica's side of a shard: the primary's bytes, checked, copied and indexed |
//! | [`truncation`] | a replica's log goes back to where it parted from the primary's |
//! | [`check`] | is this a record of this place and term? |
//! | [`geometry`] | what two stores must share to hold the same logs |
//! | [`history`] | which terms a log has been through, and where each began |
//! | [`promotion`] | a store changes hands: a replica's begins a term of its own |
//! | [`reclaim`] | the tail: what is kept, what is evicted, growing the index |
//! | `live`, `expiries` | how many bytes of a log are alive, and how many may have expired |
//! | `crawl` | with `-M`: finding what has expired |
//! | `flush` | flush_all, now and at a second to come |
//! | [`reign`] | who may write to a shard, and since when |
//! | [`retain`] | who else needs the tail |
//! | [`capacity`] | how much memory the shards may have, changed while they serve |
//! | `browse` | all items, a few at a time |
//! | `walk` | a log from a position on, for tests and tools |
//! | [`sizing`] | how `-m`, `-I` and `-t` become shards and slabs |
//!
//! In goes a key; out come [`Item`]s that stay for the [`Turn`]. The invariant kept: the store is a
//! function of the bytes between tail and head of each shard (replaying them gives the same
//! items).

mod beat;
mod browse;
pub mod capacity;
mod cas;
pub(crate) mod check;
mod crawl;
pub mod entry;
mod expiries;
mod flush;
pub mod follower;
pub mod geometry;
pub mod history;
pub mod index;
pub mod item;
pub mod line;
mod live;
pub mod log;
mod mapped;
pub mod pool;
pub mod promotion;
pub mod publication;
pub mod reclaim;
pub mod record;
pub mod reign;
pub mod retain;
pub mod seed;
pub mod shape;
pub mod shard;
mod shared;
pub mod sizing;
mod spread;
pub mod stats;
pub mod truncation;
pub mod value;
mod walk;
pub mod writer;

use crate::base::hash::{IndexHash, shard_hash};
use crate::base::term::Term;
use crate::base::time::UnixSeconds;
use crate::sys::memory::{Memfd, PAGE_BYTES};
use crate::sys::quiescence::{Domain, Inside, Seat};
use crate::sys::sync::{AtomicU64, Mutex, Ordering::Relaxed};
pub use browse::Browse;
pub use capacity::CannotResize;
pub use check::BadRecord;
use entry::Note;
pub use entry::{Appended, Entry, Locked};
pub use flush::Flushed;
use flush::Flushes;
pub use follower::{Applied, Follower, Stop};
pub use geometry::{Geometry, Memory};
pub use history::{History, Standing, TermStart};
pub use item::{Item, MetaChange, NewItem, ValueLoan};
use line::CONTROL_LINE_BYTES;
use log::{Log, table_cells};
use pool::Pool;
pub use promotion::Extent;
pub use record::Draft;
use record::{Kind, Meta, Source};
use reign::Gates;
pub use reign::{Closed, Fate, Primary, Reign, Unwritten};
pub use retain::{Allowed, TailGuard};
use shape::Shape;
use shard::Shard;
pub use shared::Evicted;
use shared::{EvictionWatch, Shared};
pub use sizing::{StoreConfig, StoreError};
pub use stats::StoreStats;
use std::io;
use std::sync::Arc;
pub use truncation::GoingBack;
pub use value::Value;

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

/// Why there is no item under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// There is no trace of one.
    Unknown,
    /// It has expired, and its log has not given it up yet.
    Expired,
    /// The same, flushed.
    Flushed,
}

/// The store. Shared by all workers.
pub struct Store {
    shards: Box<[Shard]>,
    /// All shards' control lines.
    lines: Arc<Memfd>,
    /// All shards' tables of slabs.
    tables: Arc<Memfd>,
    pool: Arc<Pool>,
    /// Held while the shards' capacities are set.
    resizing: Mutex<()>,
    gates: Gates,
    flushes: Flushes,
    domain: Arc<Domain>,
    hash: IndexHash,
    workers: usize,
    /// Shards that want maintenance.
    attention_wanted: Arc<AtomicU64>,
    /// See [`Store::log_touches`].
    touches_logged: Arc<AtomicU64>,
    /// See [`Store::watch_evictions`].
    evictions: Arc<EvictionWatch>,
    /// Not zero while clients are served here ([`Store::serve`]).
    serves: AtomicU64,
    /// See [`Store::be_sure_until`].
    sure_until: AtomicU64,
}

/// What a store is made from beside its plan.
struct Making {
    workers: usize,
    hugepages: bool,
    hash_seed: Option<(u64, u64)>,
    /// [`Term::NONE`] for a replica's, which takes no writes before its gates are opened.
    term: Term,
}

/// A thread's membership: needed to read. One per worker.
pub struct Participant<'s> {
    seat: Seat<'s>,
    shards: &'s [Shard],
    /// Of its turn; kept for the next one, which then need not clear it.
    note: Note,
}

/// One turn of a worker's loop: while it lives, nothing that its holder can see is overwritten.
/// What is written in it becomes visible to replicas at [`Turn::publish`], and when it is dropped.
/// Dropping it announces quiescence and takes the worker offline.
///
/// What was found in a turn cannot outlive it:
///
/// ```compile_fail,E0505
/// # fn look(store: &remora::store::Store) {
/// let mut participant = store.join();
/// let turn = participant.turn();
/// let found = store.get(&turn, &store.locate(b"key"), remora::base::time::UnixSeconds::now());
/// drop(turn);
/// println!("{}", found.is_some_and(|item| item.stale()));
/// # }
/// ```
///
/// and a worker is in one turn at a time:
///
/// ```compile_fail,E0499
/// # fn turns(store: &remora::store::Store) {
/// let mut participant = store.join();
/// let first = participant.turn();
/// let second = participant.turn();
/// drop(first);
/// # }
/// ```
pub struct Turn<'p> {
    _inside: Inside<'p>,
    shards: &'p [Shard],
    note: &'p Note,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.publish();
    }
}

impl Turn<'_> {
    /// Let replicas see what was written in this turn so far. Before any answer to it leaves: no
    /// client is told that its write is done before replicas can see it.
    #[inline]
    pub fn publish(&self) {
        let touched = &self.note.touched;
        if !touched.is_empty() {
            touched.drain(|shard| self.shards[shard].publish());
        }
    }

    /// What commands have appended since [`Turn::forget_appended`], or in the turn so far.
    pub fn appended(&self) -> Appended {
        self.note.get()
    }

    /// What comes now is another command, or this one has failed.
    pub fn forget_appended(&self) {
        self.note.set(Appended::Nothing);
    }

    /// This command has appended before, in an earlier turn, and goes on in this one.
    pub fn resume_appended(&self) {
        self.note.set(Appended::Widely);
    }
}

impl Participant<'_> {
    /// Begin a turn.
    pub fn turn(&mut self) -> Turn<'_> {
        let Participant { seat, shards, note } = self;
        note.set(Appended::Nothing);
        Turn { _inside: seat.enter(), shards, note }
    }
}

/// A key and where it belongs: both hashes, computed once.
#[derive(Clone, Copy)]
pub struct Located<'k> {
    /// The key.
    pub key: &'k [u8],
    /// Where it belongs.
    pub place: Place,
}

/// Where a key belongs.
#[derive(Clone, Copy)]
pub struct Place {
    shard: u32,
    hash: u64,
}

impl Place {
    /// Number of the shard.
    pub fn shard(self) -> u32 {
        self.shard
    }
}

impl Store {
    /// Make an empty store.
    pub fn new(config: StoreConfig) -> Result<Store, StoreError> {
        Store::with_slabs(config, pool::SLAB_BYTES_MAX)
    }

    /// The same, of slabs of at most `slab_bytes_max`, a power of two: tests that must cross many
    /// of them.
    pub fn with_slabs(config: StoreConfig, slab_bytes_max: usize) -> Result<Store, StoreError> {
        let plan = sizing::plan(&config, slab_bytes_max)?;
        let StoreConfig { workers, hugepages, hash_seed, .. } = config;
        let term = config.term.unwrap_or_else(Term::birth);
        Store::make(&plan, Making { workers, hugepages, hash_seed, term })
            .map_err(|error| StoreError::no_memory(config.memory_bytes, error))
    }

    fn make(plan: &sizing::Plan, making: Making) -> io::Result<Store> {
        let seeded = |(first, second)| IndexHash::with_seed(first, second);
        let hash = making.hash_seed.map_or_else(IndexHash::random, seeded);
        let domain = Arc::new(Domain::new(making.workers + SEATS_SPARE));
        let pool = Arc::new(Pool::new(plan.slabs, plan.slab_bytes, making.hugepages)?);
        assert!(pool.reserve(plan.slabs_used), "a new pool has all of its slabs");
        let cells = table_cells(sizing::capacity_max(plan.slabs, plan.shards as u32));
        let pages = |words: usize| (words * 8).next_multiple_of(PAGE_BYTES);
        let tables = Arc::new(Memfd::new("remora-tables", pages(plan.shards * cells as usize), false)?);
        let lines = Arc::new(Memfd::new("remora-control", pages(plan.shards * CONTROL_LINE_BYTES / 8), false)?);
        let shared = Shared {
            lines: lines.clone(),
            takes_writes: making.term.is_valid(),
            attention_wanted: Arc::new(AtomicU64::new(0)),
            touches_logged: Arc::new(AtomicU64::new(0)),
            evictions: Arc::new(EvictionWatch::new()),
        };
        let shard = |number: usize| {
            let number = number as u32;
            let log = Log::new(number, pool.clone(), &tables, cells);
            Shard::new(number, log, plan.capacity(number), plan.policy, hash, domain.clone(), shared.clone())
        };
        let shards: Box<[Shard]> = (0..plan.shards).map(shard).collect::<io::Result<_>>()?;
        if making.term.is_valid() {
            shards.iter().for_each(|shard| shard.be_born(making.term));
        }
        let Shared { attention_wanted, touches_logged, evictions, .. } = shared;
        let workers = making.workers.max(1);
        let resizing = Mutex::new(());
        Ok(Store {
            shards,
            lines,
            tables,
            pool,
            resizing,
            gates: Gates::new(),
            flushes: Flushes::new(),
            domain,
            hash,
            workers,
            attention_wanted,
            touches_logged,
            evictions,
            serves: AtomicU64::new(0),
            sure_until: AtomicU64::new(u64::MAX),
        })
    }

    /// Register a thread. Panics when more threads take part than the store was made for: a bug of
    /// ours.
    pub fn join(&self) -> Participant<'_> {
        let seat = self.domain.sit().expect("a seat for each worker");
        Participant { seat, shards: &self.shards, note: Note::default() }
    }

    /// Hash a key once.
    pub fn locate<'k>(&self, key: &'k [u8]) -> Located<'k> {
        let shard = (u128::from(shard_hash(key)) * self.shards.len() as u128) >> 64;
        Located { key, place: Place { shard: shard as u32, hash: self.hash.of(key) } }
    }

    fn shard(&self, place: Place) -> &Shard {
        &self.shards[place.shard as usize]
    }

    /// Have the key's place in the index fetched, while something else is done.
    pub fn prefetch_bucket(&self, place: Place) {
        self.shard(place).index.prefetch(place.hash);
    }

    /// Have the key's record fetched, if there seems to be one; some time after
    /// [`Store::prefetch_bucket`].
    pub fn prefetch_record(&self, turn: &Turn<'_>, place: Place) {
        let _ = turn;
        self.shard(place).prefetch_record(place.hash);
    }

    /// Prepare a record of `key` (checksum) before the lock is taken.
    pub fn draft<'a>(&self, at: &Located<'a>, item: NewItem<'a>, now: UnixSeconds) -> Draft<'a> {
        let meta = Meta::new(item.expiry, now).with_stale(item.stale).with_token_sent(item.token_sent);
        Draft::new(Kind::Set, at.key, meta, item.client_flags, item.cas, Source::Bytes(item.value))
    }

    /// Whether there is room for a record of `key` now. Reclaims a step, and remembers the want, as
    /// an append does: for a request that has found no room before, and would make its record ready
    /// in vain.
    pub fn find_room(
        &self,
        turn: &Turn<'_>,
        at: &Located<'_>,
        item: &NewItem<'_>,
        now: UnixSeconds,
    ) -> Result<(), Unwritten> {
        let has_flags = item.client_flags != 0;
        let shape = Shape::new(Kind::Set, at.key.len(), item.value.len(), has_flags, item.cas.is_some());
        Ok(self.lock(at)?.entry(turn, now).find_room(shape)?)
    }

    /// The item under a key; no lock.
    pub fn get<'t>(&'t self, turn: &'t Turn<'_>, at: &Located<'_>, now: UnixSeconds) -> Option<Item<'t>> {
        self.look(turn, at, now).ok()
    }

    /// The same, with why there is none.
    #[inline]
    pub fn look<'t>(&'t self, turn: &'t Turn<'_>, at: &Located<'_>, now: UnixSeconds) -> Result<Item<'t>, Absence> {
        let _ = turn;
        let shard = self.shard(at.place);
        match shard.find(at.key, at.place.hash) {
            Some(item) if shard.is_alive(&item, now) => Ok(item),
            Some(item) if item.expiry().has_passed(now) => Err(Absence::Expired),
            Some(_) => Err(Absence::Flushed),
            None => Err(Absence::Unknown),
        }
    }

    /// Lock the key's shard, to write there.
    #[inline]
    pub fn lock<'t>(&'t self, at: &'t Located<'t>) -> Result<Locked<'t>, Closed> {
        Locked::of(self.shard(at.place), at)
    }

    /// The bytes of a loan made in this turn.
    pub fn loaned<'t>(&'t self, turn: &'t Turn<'_>, loan: &ValueLoan) -> Value<'t> {
        let _ = turn;
        let shard = &self.shards[loan.shard as usize];
        shard.value(loan.position, &shard.record(loan.position))
    }

    /// From now on the log holds every change of an item's metadata: somebody is going to read it.
    /// What was changed before stands in the records themselves. Turns that began earlier may still
    /// change some without logging it, so a log is not read before they have ended.
    pub fn log_touches(&self) {
        if self.touches_logged.load(Relaxed) == 0 {
            self.touches_logged.store(1, Relaxed);
        }
    }

    /// Tell `tell` of each item that is evicted, or do so no more. It is called with a shard's lock
    /// held, so it must not wait; the first one that is given stays.
    pub fn watch_evictions(&self, wanted: bool, tell: impl Fn(&Evicted<'_>) + Send + Sync + 'static) {
        self.evictions.set(wanted, tell);
    }

    /// Up to where each shard is written now that takes writes here, or has taken some since the
    /// store's reign was `since`: whoever has applied that much has all that was written before.
    /// What is not published yet will be when its turn ends. 0 for each other shard.
    pub fn heads(&self, since: Reign) -> Box<[u64]> {
        let counts = |shard: &Shard| shard.gate.is_open() || shard.gate.reign() > since;
        self.shards.iter().map(|shard| if counts(shard) { shard.head() } else { 0 }).collect()
    }

    /// Reclaim where appends found no room or memory is to change: once a turn by each worker, for
    /// its share of the shards. True while there is something left to do: do not sleep long.
    pub fn maintain(&self, turn: &Turn<'_>, worker: usize, now: UnixSeconds) -> bool {
        let _ = turn;
        if self.attention_wanted.load(Relaxed) == 0 {
            return false;
        }
        let own = self.shards.iter().skip(worker).step_by(self.workers);
        own.filter(|shard| shard.maintain(now)).count() > 0
    }

    /// All control lines. Shard n's is at byte 64 n.
    pub fn control_lines(&self) -> &Memfd {
        &self.lines
    }

    /// All shards' tables of slabs, one behind the other ([`Memory::table_cells`]).
    pub fn tables(&self) -> &Memfd {
        &self.tables
    }

    /// The memory of all logs.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The shards, to walk their logs.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }
}

/// What a record has beside its value, at least: a header and a key of one byte. A larger value
/// than leaves room for it fits under no key.
pub const RECORD_OVERHEAD_BYTES_MIN: usize = record::HEADER_BYTES + 1;
/// Seats beyond the workers': administration and tests.
const SEATS_SPARE: usize = 8;
