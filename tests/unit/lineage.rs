//! Whose data a store holds, and for whom it may be given up.

use crate::support::stores::small_store;
use remora::base::term::Term;
use remora::base::time::UnixSeconds;
use remora::replication::lineage::{Discard, foreign, holds_data};
use remora::store::{Geometry, History, NewItem, Store, TermStart};

fn set(store: &Store, key: &[u8]) {
    let mut worker = store.join();
    let (turn, at, now) = (worker.turn(), store.locate(key), UnixSeconds(1_700_000_000));
    let item = NewItem { value: b"value", ..NewItem::default() };
    store.lock(&at).unwrap().entry(&turn, now).set(&store.draft(&at, item, now)).unwrap();
}

#[test]
fn a_store_holds_data_from_its_first_item_on() {
    let primary = small_store(2, Some(Term::of(1, 7)));
    assert!(!holds_data(&primary), "it was born, and no more");
    set(&primary, b"key");
    assert!(holds_data(&primary));
}

#[test]
fn a_replica_without_a_lineage_is_foreign_to_nobody() {
    let geometry: Geometry = small_store(2, Some(Term::of(1, 7))).geometry();
    let replica = Store::with_geometry(geometry, 256, 1, false, None).unwrap();
    let (ours, other) = (Term::of(1, 7), Term::of(1, 8));
    let born = |first, second| [first, second].map(|origin| History::born(origin, 64));
    assert!(foreign(&born(other, other), &replica).is_none() && !holds_data(&replica));
    let primary = small_store(2, Some(ours));
    assert_eq!(foreign(&born(other, other), &primary), Some((other, ours)));
    assert_eq!(foreign(&born(ours, other), &primary), Some((other, ours)), "in one shard");
    let later = History::new(ours, [TermStart { term: Term::of(9, 3), begins: 640 }]);
    assert_eq!(foreign(&[later, History::NONE], &primary), None);
}

/// A log that was given up to its end has nothing that could be lost, wherever it ends.
#[test]
fn a_log_that_was_given_up_holds_nothing() {
    let primary = small_store(2, Some(Term::of(1, 7)));
    (0..100).for_each(|number: u32| set(&primary, &number.to_le_bytes()));
    assert!(holds_data(&primary));
    (0..2).for_each(|shard| primary.follower(shard).expect("nobody follows").forget());
    assert!(!holds_data(&primary));
}

#[test]
fn an_order_allows_the_lineage_that_it_was_given_for() {
    let [one, other] = [7, 8].map(|nonce| Term::of(1, nonce));
    let of = |origins: [Term; 2]| origins.map(|origin| History::born(origin, 64));
    assert!(Discard::For(one).allows(&of([one, one])) && Discard::For(one).allows(&of([one, Term::NONE])));
    assert!(!Discard::For(one).allows(&of([one, other])), "in every shard");
    assert!(Discard::Always.allows(&of([other, one])) && !Discard::Never.allows(&of([one, one])));
}
