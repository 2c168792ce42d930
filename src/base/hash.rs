//! The two hashes of a key. They must not be one: the first is a public contract, the second a
//! secret.

use siphasher::sip::SipHasher13;

/// Hash that picks a key's shard: XXH3-64 with seed 0. **Frozen**: replicas and, later, clients
/// compute it too.
pub fn shard_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// Keyed hash of the index (SipHash-1-3). The key is random in each process, so that nobody outside
/// can choose keys that fall into one bucket.
#[derive(Clone, Copy)]
pub struct IndexHash {
    seed: (u64, u64),
}

impl IndexHash {
    /// With a given key: tests that must repeat.
    pub fn with_seed(first: u64, second: u64) -> Self {
        IndexHash { seed: (first, second) }
    }

    /// With a key from the operating system's random source (std's own per-process keys).
    pub fn random() -> Self {
        use std::hash::BuildHasher;
        let state = std::hash::RandomState::new();
        IndexHash { seed: (state.hash_one(1u64), state.hash_one(2u64)) }
    }

    /// The hash of `key`.
    pub fn of(&self, key: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.seed.0, self.seed.1).hash(key)
    }
}
