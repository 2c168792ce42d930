//! For every key the last version that was issued and the last that was acknowledged, shared by all
//! sessions.
//!
//! Each key has one writer at a time, so versions of a key are acknowledged in order. A reader
//! notes the acknowledged version before it asks and the issued one after the answer came: what
//! comes back must lie between. An older one would be a lost update, or an evicted value that came
//! back.

use std::sync::atomic::{AtomicU32, Ordering};

/// See the module. Versions begin at 1; 0 is "never written".
pub struct Ledger {
    keys: Box<[Versions]>,
}

#[derive(Default)]
struct Versions {
    issued: AtomicU32,
    acknowledged: AtomicU32,
}

impl Ledger {
    /// Memory that it takes.
    pub const BYTES_PER_KEY: u64 = size_of::<Versions>() as u64;

    /// For keys numbered below `keys`.
    pub fn new(keys: u32) -> Ledger {
        Ledger { keys: (0..keys).map(|_| Versions::default()).collect() }
    }

    /// How many keys.
    pub fn keys(&self) -> u32 {
        self.keys.len() as u32
    }

    /// A new version, about to be sent. Only by the key's writer.
    pub fn issue(&self, key: u32) -> u32 {
        self.of(key).issued.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The server said it has stored this version. Only by the key's writer.
    pub fn acknowledge(&self, key: u32, version: u32) {
        self.of(key).acknowledged.store(version, Ordering::SeqCst);
    }

    /// The last version issued.
    pub fn issued(&self, key: u32) -> u32 {
        self.of(key).issued.load(Ordering::SeqCst)
    }

    /// The last version acknowledged.
    pub fn acknowledged(&self, key: u32) -> u32 {
        self.of(key).acknowledged.load(Ordering::SeqCst)
    }

    fn of(&self, key: u32) -> &Versions {
        &self.keys[key as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_issued_before_they_are_acknowledged() {
        let ledger = Ledger::new(2);
        assert_eq!((ledger.issued(1), ledger.acknowledged(1)), (0, 0));
        assert_eq!((ledger.issue(1), ledger.issue(1)), (1, 2));
        ledger.acknowledge(1, 1);
        assert_eq!((ledger.issued(1), ledger.acknowledged(1)), (2, 1));
        assert_eq!((ledger.issued(0), ledger.acknowledged(0), ledger.keys()), (0, 0, 2));
    }
}
