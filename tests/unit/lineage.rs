//! Whose data a store holds, and for whom it may be given up.

use crate::support::stores::small_store;
use remora::base::term::Term;
use remora::base::time::UnixSeconds;
use remora::replication::lineage::{Discard, holds_data, is_foreign};
use remora::store::{Geometry, NewItem, Store};

fn set(store: &Store, key: &[u8]) {
    let mut worker = store.join();
    let (turn, at, now) = (worker.turn(), store.locate(key), UnixSeconds(1_700_000_000));
    let item = NewItem { value: b"value", ..NewItem::default() };
    store.lock(&at).unwrap().entry(&turn, now).set(&store.draft(&at, item, now)).unwrap();
}

#[test]
fn a_store_holds_data_from_its_first_item_on() {
    let primary = small_store(2, Some(Term::of(7, 1)));
    assert!(!holds_data(&primary), "it was born, and no more");
    set(&primary, b"key");
    assert!(holds_data(&primary));
}

#[test]
fn a_replica_without_a_lineage_is_foreign_to_nobody() {
    let geometry: Geometry = small_store(2, Some(Term::of(7, 1))).geometry();
    let replica = Store::with_geometry(geometry, 256, 1, false, None).unwrap();
    assert!(!is_foreign(Term::of(8, 1), &replica) && !holds_data(&replica));
    let primary = small_store(2, Some(Term::of(7, 1)));
    assert!(is_foreign(Term::of(8, 1), &primary) && !is_foreign(Term::of(7, 9), &primary));
}

/// A log that was given up to its end has nothing that could be lost, wherever it ends.
#[test]
fn a_log_that_was_given_up_holds_nothing() {
    let primary = small_store(2, Some(Term::of(7, 1)));
    (0..100).for_each(|number: u32| set(&primary, &number.to_le_bytes()));
    assert!(holds_data(&primary));
    primary.followers().iter_mut().for_each(|follower| follower.forget());
    assert!(!holds_data(&primary));
}

#[test]
fn an_order_allows_the_lineage_that_it_was_given_for() {
    let (one, other) = (Term::of(7, 3), Term::of(8, 1));
    assert!(Discard::For(7).allows(one) && !Discard::For(7).allows(other));
    assert!(Discard::Always.allows(other) && !Discard::Never.allows(one));
}
