//! Stores of this process, for tests that need one of no particular shape.

use remora::base::term::Term;
use remora::store::{Store, StoreConfig};

/// A store of a MiB that evicts, for one worker. Without a term it draws a lineage of its own.
pub fn small_store(shards: usize, term: Option<Term>) -> Store {
    let config = StoreConfig {
        memory_bytes: 1 << 20,
        item_bytes_max: 1 << 10,
        shards: Some(shards),
        term,
        ..StoreConfig::default()
    };
    Store::new(config).expect("memory for a small store")
}
