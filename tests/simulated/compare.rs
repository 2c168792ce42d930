//! Two stores held against each other, word by word and item by item.

use remora::base::time::UnixSeconds;
use remora::store::record::{Kind, Record};
use remora::store::{EpochStart, Store};
use remora::sys::memory::Slab;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The rings, seen through the regions alone.
pub struct Rings<'s> {
    slabs: Vec<&'s Slab>,
    ring_bytes: u64,
    slab_bytes: u64,
}

impl<'s> Rings<'s> {
    pub fn of(store: &'s Store) -> Self {
        let geometry = store.geometry();
        Rings { slabs: store.slabs().collect(), ring_bytes: geometry.ring_bytes, slab_bytes: geometry.slab_bytes }
    }

    /// The word at a position.
    pub fn word(&self, shard: usize, position: u64) -> &'s AtomicU64 {
        let place = position % self.ring_bytes;
        let slabs_per_ring = self.ring_bytes.div_ceil(self.slab_bytes) as usize;
        let slab = self.slabs[shard * slabs_per_ring + (place / self.slab_bytes) as usize];
        &slab.words()[(place % self.slab_bytes) as usize / 8]
    }

    /// A copy of the words from `begin` to `end`.
    pub fn copy(&self, shard: usize, begin: u64, end: u64) -> Vec<AtomicU64> {
        let word = |at| AtomicU64::new(self.word(shard, at).load(Relaxed));
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

/// Both rings hold the same between tail and committed: each record proves itself, and every word
/// but a set's first and a pad's body is equal.
pub fn assert_identical(primary: &Store, replica: &Store) {
    let (theirs, ours, history) = (Rings::of(primary), Rings::of(replica), replica.epochs());
    for (number, (shard, copy)) in primary.shards().iter().zip(replica.shards()).enumerate() {
        let (line, mine) = (shard.control(), copy.control());
        assert_eq!((mine.epoch(), mine.epoch_begin()), (line.epoch(), line.epoch_begin()));
        assert_eq!((mine.tail(), mine.committed()), (line.tail(), line.committed()));
        let (mut walked, mut followed) = (shard.walk(line.tail()), copy.walk(mine.tail()));
        for (position, record) in walked.by_ref() {
            let (at, copied) = followed.next().expect("as many records");
            assert_eq!((at, copied.shape), (position, record.shape));
            let sealed_by = epoch_of(&history, number, at).unwrap_or(mine.epoch());
            assert!(copied.proves_itself(at, sealed_by), "the record at {at}");
            for word in words_that_must_agree(&record) {
                let at = position + word as u64 * 8;
                assert_eq!(ours.word(number, at).load(Relaxed), theirs.word(number, at).load(Relaxed), "at {at}");
            }
        }
        assert!(followed.next().is_none());
    }
}

/// The epoch that a position belongs to, as far back as is remembered.
fn epoch_of(history: &[EpochStart], shard: usize, position: u64) -> Option<u64> {
    history.iter().rev().find(|start| start.begins[shard] <= position).map(|start| start.epoch.0)
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
