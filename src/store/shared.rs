//! What all shards of a store have in common, and who is told of evictions.

use crate::sys::memory::Memfd;
use crate::sys::sync::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// See the module.
#[derive(Clone)]
pub(super) struct Shared {
    pub lines: Arc<Memfd>,
    pub takes_writes: bool,
    pub attention_wanted: Arc<AtomicU64>,
    pub touches_logged: Arc<AtomicU64>,
    pub evictions: Arc<EvictionWatch>,
}

/// An item that has to go.
#[derive(Debug, Clone, Copy)]
pub struct Evicted<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// It was read once.
    pub fetched: bool,
    /// Seconds that it still had; None for ever.
    pub ttl_seconds: Option<u32>,
    /// Seconds since its last use.
    pub idle_seconds: u32,
    /// Bytes of its value.
    pub value_bytes: usize,
}

/// Called with each item that has to go, with its shard's lock held: it must not wait.
type Tell = Box<dyn Fn(&Evicted<'_>) + Send + Sync>;

/// Whether, and whom, evictions are told.
pub(super) struct EvictionWatch {
    wanted: AtomicU64,
    tell: OnceLock<Tell>,
}

impl EvictionWatch {
    pub(super) fn new() -> EvictionWatch {
        EvictionWatch { wanted: AtomicU64::new(0), tell: OnceLock::new() }
    }

    /// Tell `tell` of evictions, or do so no more. The first one that is given stays.
    pub(super) fn set(&self, wanted: bool, tell: impl Fn(&Evicted<'_>) + Send + Sync + 'static) {
        if wanted {
            let _ = self.tell.set(Box::new(tell));
        }
        self.wanted.store(wanted.into(), Relaxed);
    }

    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Relaxed) != 0
    }

    pub(super) fn tell(&self, evicted: &Evicted<'_>) {
        if let Some(tell) = self.tell.get() {
            tell(evicted);
        }
    }
}
