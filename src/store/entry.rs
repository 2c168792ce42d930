//! One key's place with its shard locked: read, decide, write, as one step. Held briefly; nothing
//! waits while it is held.

use super::item::{Item, MetaChange};
use super::live::charge;
use super::publication::Touched;
use super::record::{Draft, Kind, Record};
use super::reign::Closed;
use super::shape::Shape;
use super::shard::Shard;
use super::writer::Writer;
use super::{Located, NoRoom, Place, Turn};
use crate::base::time::UnixSeconds;
use crate::sys::sync::{MutexGuard, Ordering::Relaxed};
use std::cell::Cell;

/// What commands have appended in a turn. What reclaim appends again is not counted: no client
/// waits for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Appended {
    /// Nothing.
    #[default]
    Nothing,
    /// Records of one shard.
    Below {
        /// Which.
        shard: u32,
        /// Where the last of them ends.
        position: u64,
    },
    /// Records of several shards.
    Widely,
}

/// A turn's note of what was written in it.
#[derive(Default)]
pub(super) struct Note {
    appended: Cell<Appended>,
    /// What is to be published.
    pub(super) touched: Touched,
}

impl Note {
    /// Commands have appended to a shard, up to `position`.
    #[inline]
    pub(super) fn one(&self, shard: u32, position: u64) {
        self.touched.add(shard);
        self.appended.set(match self.appended.get() {
            Appended::Below { shard: before, .. } if before != shard => Appended::Widely,
            Appended::Widely => Appended::Widely,
            Appended::Nothing | Appended::Below { .. } => Appended::Below { shard, position },
        });
    }

    pub(super) fn set(&self, appended: Appended) {
        self.appended.set(appended);
    }

    pub(super) fn get(&self) -> Appended {
        self.appended.get()
    }
}

/// The lock of the shard to which a key belongs, held to write there.
pub struct Locked<'t> {
    shard: &'t Shard,
    writer: MutexGuard<'t, Writer>,
    at: &'t Located<'t>,
}

impl<'t> Locked<'t> {
    /// Err where the shard takes no writes here.
    #[inline]
    pub(super) fn of(shard: &'t Shard, at: &'t Located<'t>) -> Result<Self, Closed> {
        Ok(Locked { shard, writer: shard.lock_open()?, at })
    }

    /// What stands under the key. (A step of its own: so much is not moved through a Result.)
    #[inline(always)]
    pub fn entry(self, turn: &'t Turn<'_>, now: UnixSeconds) -> Entry<'t> {
        let Locked { shard, mut writer, at } = self;
        let Located { key, place: Place { hash, .. } } = *at;
        // First, since it may move or evict the very item; after it, slots stay where they are
        // while the lock is held.
        if shard.prepare(&mut writer, now) {
            turn.note.touched.add(shard.number);
        }
        let found = shard.find_locked(key, hash);
        Entry { note: turn.note, shard, writer, key, hash, now, found }
    }
}

/// See the module.
pub struct Entry<'t> {
    note: &'t Note,
    shard: &'t Shard,
    writer: MutexGuard<'t, Writer>,
    key: &'t [u8],
    hash: u64,
    now: UnixSeconds,
    /// What the index has under the key, alive or not.
    found: Option<Item<'t>>,
}

impl<'t> Entry<'t> {
    /// The item now; None if there is none, or it has expired or been flushed.
    pub fn item(&self) -> Option<Item<'t>> {
        self.found.filter(|item| self.shard.is_alive(item, self.now))
    }

    /// Write the item; returns its CAS.
    pub fn set(&mut self, draft: &Draft<'_>) -> Result<u64, NoRoom> {
        let policy = &self.shard.policy;
        if draft.record_bytes() > policy.record_bytes_max {
            return Err(NoRoom::TooLarge);
        }
        if !policy.evict {
            self.fit_into_limit(draft)?;
        }
        let index = &self.shard.index;
        if self.found.is_none() && index.is_full() {
            return Err(NoRoom::Now); // sized so that the log is full before
        }
        let (position, record) = self.append(draft)?;
        let slot = match self.found {
            Some(item) => {
                let slot = index.replace(&item.slot, self.hash, position, 0);
                self.shard.bury(&mut self.writer, &item);
                slot
            }
            None => index.insert(self.hash, position).expect("an index that is not full takes an entry"),
        };
        self.writer.live.add(draft.shape(), draft.expiry());
        self.writer.counts.total_items += 1;
        let item = self.shard.item((slot, (position, record)));
        self.found = Some(item);
        Ok(item.cas())
    }

    /// `-M`: Err if live items and this one are more than the memory may hold. What has expired is
    /// looked for, if it could be enough.
    fn fit_into_limit(&mut self, draft: &Draft<'_>) -> Result<(), NoRoom> {
        let (shard, max) = (self.shard, self.writer.budget.live_bytes_max);
        let counted = self.found.filter(|item| item.position >= shard.flushed_below.load(Relaxed));
        let old_bytes = counted.map_or(0, |item| charge(item.record.shape));
        let live_bytes = self.writer.live.bytes() - old_bytes + charge(draft.shape());
        match live_bytes.checked_sub(max) {
            None | Some(0) => Ok(()),
            Some(missing) if shard.look_for_expired(&mut self.writer, missing, self.now) => Err(NoRoom::Now),
            Some(_) if self.writer.mapped.is_held_up() => {
                shard.want_attention(true); // so that there is more soon
                Err(NoRoom::Now)
            }
            Some(_) => Err(NoRoom::Full),
        }
    }

    /// Append what a client wants.
    #[inline(always)]
    fn append(&mut self, draft: &Draft<'_>) -> Result<(u64, Record<'t>), NoRoom> {
        let reserve_bytes = self.shard.reserve_bytes(&self.writer);
        let appended = self.shard.append(&mut self.writer, draft, reserve_bytes)?;
        self.note.one(self.shard.number, self.shard.head());
        Ok(appended)
    }

    /// Whether a record of this shape can be appended now; the want is remembered otherwise.
    pub(super) fn find_room(&mut self, shape: Shape) -> Result<(), NoRoom> {
        // A record that is too large is refused as such when it is written.
        if shape.record_bytes() > self.shard.policy.record_bytes_max {
            return Ok(());
        }
        let reserve_bytes = self.shard.reserve_bytes(&self.writer);
        self.shard.find_room(&mut self.writer, shape, reserve_bytes).map(|_place| ())
    }

    /// Remove the item; false if there was none.
    pub fn delete(&mut self) -> Result<bool, NoRoom> {
        let Some(item) = self.item() else {
            return Ok(false);
        };
        let draft = Draft::of_key(Kind::Delete, self.key, Default::default());
        self.append(&draft)?;
        self.shard.index.remove(&item.slot, self.hash);
        self.shard.bury(&mut self.writer, &item);
        self.found = None;
        Ok(true)
    }

    /// Log a change of the item's metadata, if there is an item. Out of line, so that a server
    /// without replicas does not pay for it.
    #[inline(never)]
    fn log_touch(&mut self, change: &MetaChange) -> Result<(), NoRoom> {
        let Some(item) = self.item() else { return Ok(()) };
        let draft = Draft::of_key(Kind::Touch, self.key, change.apply(item.record.meta()));
        self.append(&draft).map(drop)
    }

    /// Change the metadata word in place, and log the change where somebody reads the log; false if
    /// there is no item.
    #[inline(always)]
    pub fn change_meta(&mut self, change: MetaChange) -> Result<bool, NoRoom> {
        if self.shard.touches_logged.load(Relaxed) != 0 {
            self.log_touch(&change)?;
        }
        let Some(item) = self.item() else {
            return Ok(false);
        };
        let before = item.record.meta();
        if let Some(expiry) = change.expiry {
            self.writer.live.touch(item.record.shape, before.expiry(), expiry);
        }
        // Readers may note a use in the same word meanwhile, which concerns other bits. These
        // change only with the lock held.
        let differing = before.to_bits() ^ change.apply(before).to_bits();
        item.record.meta_word().fetch_xor(differing, Relaxed);
        Ok(true)
    }
}
