//! Two stores held against each other, word by word and item by item.

use remora::base::time::UnixSeconds;
use remora::store::Store;
use remora::store::log::Cell;
use remora::store::record::{Kind, Record};
use remora::sys::memory::Memfd;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The logs as one who was only given regions sees them.
pub struct Logs<'s> {
    tables: &'s Memfd,
    pool: &'s Memfd,
    slab_bytes: u64,
    cells: u64,
}

impl<'s> Logs<'s> {
    pub fn of(store: &'s Store) -> Self {
        let (slab_bytes, cells) = (store.geometry().slab_bytes, store.memory().table_cells.into());
        Logs { tables: store.tables(), pool: store.pool().memory(), slab_bytes, cells }
    }

    /// Which word of the pool is at a position; None where the table does not say.
    pub fn place(&self, shard: usize, position: u64) -> Option<usize> {
        let (virtual_slab, within) = (position / self.slab_bytes, position % self.slab_bytes);
        let at = shard as u64 * self.cells + virtual_slab % self.cells;
        let cell = Cell::from_bits(self.tables.words()[at as usize].load(Relaxed));
        let place = (u64::from(cell.physical) * self.slab_bytes + within) / 8;
        (cell.virtual_slab == virtual_slab).then_some(place as usize)
    }

    /// The word at a position between tail and committed.
    pub fn word(&self, shard: usize, position: u64) -> &'s AtomicU64 {
        &self.pool.words()[self.place(shard, position).expect("a cell for each position of the log")]
    }

    /// A copy of the words from `begin` to `end`; zeroes where the log has come further meanwhile.
    pub fn copy(&self, shard: usize, begin: u64, end: u64) -> Vec<AtomicU64> {
        let load = |place: usize| self.pool.words()[place].load(Relaxed);
        let word = |at| AtomicU64::new(self.place(shard, at).map_or(0, load));
        (begin..end).step_by(8).map(word).collect()
    }
}

/// An item as a client would see it. The last access and whether it was fetched are each process's
/// own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub value: Vec<u8>,
    pub flags: u32,
    pub cas: u64,
    pub expiry: u32,
    pub stale: bool,
    pub token_sent: bool,
}

/// Every item that a get finds, by key: all keys in the log are asked for.
pub fn items(store: &Store, now: UnixSeconds) -> BTreeMap<Vec<u8>, Seen> {
    let mut participant = store.join();
    let turn = participant.turn();
    let mut found = BTreeMap::new();
    for shard in store.shards() {
        for (_, record) in shard.walk(shard.control().tail()) {
            let (mut key, mut value) = (Vec::new(), Vec::new());
            record.key().copy_to(&mut key);
            let Some(item) = store.get(&turn, &store.locate(&key), now) else { continue };
            item.value().copy_to(&mut value);
            let (flags, cas, expiry) = (item.client_flags(), item.cas(), item.expiry().to_bits());
            let seen = Seen { value, flags, cas, expiry, stale: item.stale(), token_sent: item.token_sent() };
            found.insert(key, seen);
        }
    }
    found
}

/// Both logs hold the same between tail and committed: each record proves itself, and every word
/// but a set's first and a pad's body is equal.
pub fn assert_identical(primary: &Store, replica: &Store) {
    let (theirs, ours) = (Logs::of(primary), Logs::of(replica));
    for (number, (shard, copy)) in primary.shards().iter().zip(replica.shards()).enumerate() {
        let (line, mine, history) = (shard.control(), copy.control(), copy.history());
        assert_eq!((mine.term(), mine.term_begin()), (line.term(), line.term_begin()));
        assert_eq!((mine.tail(), mine.committed()), (line.tail(), line.committed()));
        let (mut walked, mut followed) = (shard.walk(line.tail()), copy.walk(mine.tail()));
        for (position, record) in walked.by_ref() {
            let (at, copied) = followed.next().expect("as many records");
            assert_eq!((at, copied.shape), (position, record.shape));
            let start = history.start_at(at).expect("a log has a term");
            assert!(copy.proves(at, &copied, start.term), "the record at {at}");
            for word in words_that_must_agree(&record) {
                let at = position + word as u64 * 8;
                assert_eq!(ours.word(number, at).load(Relaxed), theirs.word(number, at).load(Relaxed), "at {at}");
            }
        }
        assert!(followed.next().is_none());
    }
}

/// The words of a record that are the same on every replica.
fn words_that_must_agree(record: &Record<'_>) -> std::ops::Range<usize> {
    match record.shape.kind() {
        Kind::Set => 1..record.shape.record_bytes() / 8,
        Kind::Pad => 0..2,
        _ => 0..record.shape.record_bytes() / 8,
    }
}

/// Everything that a settled replica shares with its primary.
pub fn assert_same(primary: &Store, replica: &Store, now: UnixSeconds) {
    assert_identical(primary, replica);
    assert_eq!(items(replica, now), items(primary, now));
    if !primary.geometry().evict {
        return; // a write that was refused may have had expired items looked for, of which the log says nothing
    }
    let (theirs, ours) = (primary.stats(), replica.stats());
    assert_eq!((ours.items, ours.item_bytes), (theirs.items, theirs.item_bytes), "{ours:?} against {theirs:?}");
}
