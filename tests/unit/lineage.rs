//! Whose data a store holds, and for whom it may be given up.

use crate::support::stores::small_store;
use remora::base::term::Term;
use remora::base::time::UnixSeconds;
use remora::replication::lineage::{Discard, holds_data};
use remora::store::{History, NewItem, Store};

fn set(store: &Store, key: &[u8]) {
    let mut worker = store.join();
    let (turn, at, now) = (worker.turn(), store.locate(key), UnixSeconds(1_700_000_000));
    let item = NewItem { value: b"value", ..NewItem::default() };
    store.lock(&at).unwrap().entry(&turn, now).set(&store.draft(&at, item, now)).unwrap();
}

#[test]
fn a_shard_holds_data_from_its_first_item_on() {
    let primary = small_store(2, Some(Term::of(1, 7)));
    assert!(!primary.shards().iter().any(holds_data), "it was born, and no more");
    set(&primary, b"key");
    assert_eq!(primary.shards().iter().filter(|shard| holds_data(shard)).count(), 1);
}

/// A log that was given up to its end has nothing that could be lost, wherever it ends.
#[test]
fn a_log_that_was_given_up_holds_nothing() {
    let primary = small_store(2, Some(Term::of(1, 7)));
    (0..100).for_each(|number: u32| set(&primary, &number.to_le_bytes()));
    assert!(primary.shards().iter().all(holds_data));
    (0..2).for_each(|shard| primary.follower(shard).expect("nobody follows").forget());
    assert!(!primary.shards().iter().any(holds_data));
}

#[test]
fn an_order_allows_the_lineages_that_it_was_given_for() {
    let [one, other, third] = [7, 8, 9].map(|nonce| Term::of(1, nonce));
    let of = |origin| History::born(origin, 64);
    let two = Discard::For([(0, one), (1, other)].into());
    assert!(two.allows(0, &of(one)) && two.allows(1, &of(other)) && !two.allows(0, &of(third)));
    assert!(!two.allows(2, &of(one)) && !two.allows(1, &of(one)), "each shard by itself");
    assert!(Discard::Always.allows(9, &of(third)) && !Discard::Never.allows(0, &of(one)));
}
