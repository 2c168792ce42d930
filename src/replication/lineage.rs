//! Whether a primary's log is of this store's lineage, and what is done where it is not.
//!
//! A process that starts empty begins a lineage of its own. To follow a primary of another lineage is to give up everything that is here. A store
//! that holds data therefore refuses such a primary, until somebody says that the data may go: an order (`replicate --discard`) or a flag
//! (`--replica-discard`). Without this rule a supervisor that restarts a dead primary would empty all its replicas within milliseconds.

use crate::base::epoch::Epoch;
use crate::store::Store;

/// For which primaries the data of this store may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discard {
    /// For none.
    #[default]
    Never,
    /// For one of this lineage: it was there when the order was given.
    For(u64),
    /// For any, at any time.
    Always,
}

impl Discard {
    /// May the data be given up for a primary of epoch `theirs`?
    pub fn allows(self, theirs: Epoch) -> bool {
        match self {
            Discard::Never => false,
            Discard::For(lineage) => lineage == theirs.lineage(),
            Discard::Always => true,
        }
    }
}

/// Whether `theirs` is of another lineage than the store's own. A replica's store that was never told of an epoch has none.
pub fn is_foreign(theirs: Epoch, store: &Store) -> bool {
    let ours = store.newest_epoch();
    ours.is_valid() && theirs.lineage() != ours.lineage()
}

/// Whether the store has any log, and so perhaps an item.
pub fn holds_data(store: &Store) -> bool {
    store.shards().iter().any(|shard| {
        let line = shard.control();
        line.committed() > line.tail()
    })
}

/// Show to whoever reads this store's control lines that its log is over, before anything of it is given up. Otherwise a replica that follows this
/// store would see a tail that moves to the end, and would give up all that it has as well.
pub fn leave(store: &Store) {
    for shard in store.shards() {
        let _writer = shard.lock();
        shard.control().begin_epoch(Epoch::NONE.0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::UnixSeconds;
    use crate::store::{Geometry, NewItem, StoreConfig};

    fn store(epoch: Epoch) -> Store {
        let config = StoreConfig {
            memory_bytes: 1 << 20,
            memory_bytes_max: None,
            item_bytes_max: 1 << 10,
            evict: true,
            workers: 1,
            shards: Some(2),
            hugepages: false,
            hash_seed: None,
            epoch: Some(epoch),
        };
        Store::new(config).unwrap()
    }

    fn set(store: &Store, key: &[u8]) {
        let mut worker = store.join();
        let (turn, at, now) = (worker.turn(), store.locate(key), UnixSeconds(1_700_000_000));
        let item = NewItem { value: b"value", ..NewItem::default() };
        store.entry(&turn, &at, now).set(&store.draft(&at, item, now)).unwrap();
    }

    #[test]
    fn a_store_holds_data_from_its_first_item_on() {
        let primary = store(Epoch::of(7, 1));
        assert!(!holds_data(&primary), "it was born, and no more");
        set(&primary, b"key");
        assert!(holds_data(&primary));
    }

    #[test]
    fn a_replica_without_a_lineage_is_foreign_to_nobody() {
        let geometry: Geometry = store(Epoch::of(7, 1)).geometry();
        let replica = Store::with_geometry(geometry, 32, 1, false, None).unwrap();
        assert!(!is_foreign(Epoch::of(8, 1), &replica) && !holds_data(&replica));
        let primary = store(Epoch::of(7, 1));
        assert!(is_foreign(Epoch::of(8, 1), &primary) && !is_foreign(Epoch::of(7, 9), &primary));
    }

    /// A log that was given up to its end has nothing that could be lost, wherever it ends.
    #[test]
    fn a_log_that_was_given_up_holds_nothing() {
        let primary = store(Epoch::of(7, 1));
        (0..100).for_each(|number: u32| set(&primary, &number.to_le_bytes()));
        assert!(holds_data(&primary));
        primary.followers().iter_mut().for_each(|follower| follower.forget());
        assert!(!holds_data(&primary));
    }

    #[test]
    fn an_order_allows_the_lineage_that_it_was_given_for() {
        let (one, other) = (Epoch::of(7, 3), Epoch::of(8, 1));
        assert!(Discard::For(7).allows(one) && !Discard::For(7).allows(other));
        assert!(Discard::Always.allows(other) && !Discard::Never.allows(one));
    }
}
