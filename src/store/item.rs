//! An item as a reader sees it, and what a writer makes one from.

use super::index::SlotRef;
use super::log::Log;
use super::record::{Meta, Record};
use super::value::Value;
use crate::base::limits::KEY_BYTES_MAX;
use crate::base::time::{Expiry, UnixSeconds};
use crate::sys::sync::Ordering::Relaxed;

/// What a new item is.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewItem<'a> {
    /// The value.
    pub value: &'a [u8],
    /// The client's own flags.
    pub client_flags: u32,
    /// When it expires.
    pub expiry: Expiry,
    /// An explicit CAS (the E flag); None for one made of its position.
    pub cas: Option<u64>,
    /// Stale from birth (ms with I).
    pub stale: bool,
    /// The win token is given out from birth (a vivified item).
    pub token_sent: bool,
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

impl MetaChange {
    pub(super) fn apply(&self, mut meta: Meta) -> Meta {
        if let Some(expiry) = self.expiry {
            meta = meta.with_expiry(expiry);
        }
        if let Some(stale) = self.stale {
            meta = meta.with_stale(stale);
        }
        if let Some(sent) = self.token_sent {
            meta = meta.with_token_sent(sent);
        }
        meta
    }
}

/// An item as found; its bytes stay for the turn.
#[derive(Clone, Copy)]
pub struct Item<'t> {
    pub(super) record: Record<'t>,
    pub(super) slot: SlotRef<'t>,
    pub(super) position: u64,
    pub(super) log: &'t Log,
}

impl<'t> Item<'t> {
    /// The value, where it lies in the log.
    #[inline]
    pub fn value(&self) -> Value<'t> {
        Value::of(self.log, self.position, &self.record)
    }

    /// The value, as something to lend to an output.
    pub fn loan(&self) -> ValueLoan {
        ValueLoan { shard: self.log.shard(), bytes: self.value_bytes() as u32, position: self.position }
    }

    /// The key, copied to `buffer`.
    pub fn copy_key<'k>(&self, buffer: &'k mut [u8; KEY_BYTES_MAX]) -> &'k [u8] {
        let key = &mut buffer[..self.record.shape.key_bytes()];
        self.record.key().copy_to_slice(key);
        key
    }

    /// Length of the value.
    pub fn value_bytes(&self) -> usize {
        self.record.shape.value_bytes()
    }

    /// The whole record in the log: header, key, value, padding.
    pub fn record_bytes(&self) -> usize {
        self.record.shape.record_bytes()
    }

    /// The client's own flags.
    pub fn client_flags(&self) -> u32 {
        self.record.client_flags()
    }

    /// CAS: the explicit one, or what follows from the record's place and term ([`super::cas`]),
    /// which no two items ever have in common.
    pub fn cas(&self) -> u64 {
        self.record.explicit_cas().unwrap_or_else(|| self.log.cas_terms().cas(self.log.shard(), self.position))
    }

    /// When it expires.
    pub fn expiry(&self) -> Expiry {
        self.record.meta().expiry()
    }

    /// Marked stale (md I, ms I).
    pub fn stale(&self) -> bool {
        self.record.meta().stale()
    }

    /// A client has won the right to refill it.
    pub fn token_sent(&self) -> bool {
        self.record.meta().token_sent()
    }

    /// It was fetched since it was written.
    pub fn hit_before(&self) -> bool {
        self.record.meta().fetched()
    }

    /// Seconds since the last access.
    pub fn idle_seconds(&self, now: UnixSeconds) -> u32 {
        self.record.meta().idle_seconds(now)
    }

    /// Count a use where it concerns nobody but this process: in the slot alone. What a replica's
    /// readers do, who write nothing to a log.
    pub fn note_use_in_index(&self) {
        self.slot.note_use();
    }

    /// Count a use: the slot's counter for reclaim, last access and the fetched bit. Never waits;
    /// gives up when another thread changes the same word.
    pub fn note_use(&self, now: UnixSeconds) {
        self.slot.note_use();
        let seen = self.record.meta();
        let used = seen.accessed(now).with_fetched();
        if used != seen {
            let word = self.record.meta_word();
            let _ = word.compare_exchange(seen.to_bits(), used.to_bits(), Relaxed, Relaxed);
        }
    }
}

/// A value in a log, for the rest of the turn in which it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueLoan {
    pub(super) shard: u32,
    bytes: u32,
    pub(super) position: u64,
}

impl ValueLoan {
    /// Length in bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.bytes as usize
    }
}
