//! From a slot to a position; chains of buckets, and their splits.

use super::bucket::{OVERFLOW_SLOTS, SLOTS};
use super::*;

#[test]
fn a_place_is_the_nearest_position_before_or_behind_the_reference() {
    for reference in [1 << 30, 1 << 32, (1 << 38) - 8, 1 << 39, (1 << 39) + 4096, (1 << 55) + 24] {
        for away in [0, 8, 4096, 1 << 31, 1 << 33, LOG_BYTES_MAX - 8] {
            for position in [reference + away, u64::saturating_sub(reference, away)] {
                assert_eq!(Slot::new(u64::MAX, position).position(reference), position, "{away} from {reference}");
            }
        }
    }
}

const REFERENCE: u64 = 1 << 20;
/// More than two buckets and their first overflow buckets hold.
const NUMBERS: u64 = 40;

/// The lowest bits choose the bucket; no two numbers have one tag.
fn hash(number: u64) -> u64 {
    number << TAG_FROM_BIT | number & 3
}

fn position(number: u64) -> u64 {
    (number + 8) * 8
}

fn find(index: &Index, number: u64) -> Option<SlotRef<'_>> {
    let is_it = |slot: Slot| (slot.position(REFERENCE) == position(number)).then_some(());
    index.find_locked(hash(number), is_it).map(|(slot, ())| slot)
}

fn overflow_of(entries: usize) -> u64 {
    entries.saturating_sub(SLOTS).div_ceil(OVERFLOW_SLOTS) as u64
}

#[test]
fn a_chain_is_no_longer_than_its_entries_need() {
    let index = Index::new(1 << 20).unwrap();
    let mut random = fastrand::Rng::with_seed(4);
    let mut there = std::collections::BTreeSet::new();
    for _ in 0..5000 {
        let number = random.u64(0..NUMBERS);
        match find(&index, number) {
            Some(slot) => index.remove(&slot, hash(number)),
            None => drop(index.insert(hash(number), position(number)).unwrap()),
        }
        if !there.remove(&number) {
            there.insert(number);
        }
        assert!((0..NUMBERS).all(|number| find(&index, number).is_some() == there.contains(&number)));
        assert_eq!((index.entries(), index.overflow_count()), (there.len() as u64, overflow_of(there.len())));
    }
}

/// The hash is made from the record's key: that is most of what a split of a small index costs.
#[test]
fn a_split_hashes_each_entry_once_and_loses_none() {
    let index = Index::new(1 << 20).unwrap();
    for number in 0..NUMBERS {
        index.insert(hash(number), position(number)).unwrap();
    }
    for (split, entries) in [(1, NUMBERS), (2, NUMBERS / 2), (3, NUMBERS / 2)] {
        let hashed = std::cell::Cell::new(0);
        let has_grown = index.grow(|entry| {
            hashed.set(hashed.get() + 1);
            hash(entry.position(REFERENCE) / 8 - 8)
        });
        assert!(has_grown);
        assert_eq!((index.bucket_count(), hashed.get()), (split + 1, entries));
        assert!((0..NUMBERS).all(|number| find(&index, number).is_some()));
    }
    assert_eq!(index.overflow_count(), 4 * overflow_of(NUMBERS as usize / 4));
}

#[test]
fn a_split_that_would_move_too_much_changes_nothing_and_is_tried_again() {
    let index = Index::new(1 << 20).unwrap();
    // All of them are to move.
    let (numbers, hash_of) = (0..MOVED_MAX as u64 + 2, |number: u64| number << TAG_FROM_BIT | 1);
    let find = |number| {
        let is_it = |slot: Slot| (slot.position(REFERENCE) == position(number)).then_some(());
        index.find_locked(hash_of(number), is_it).map(|(slot, ())| slot)
    };
    for number in numbers.clone() {
        index.insert(hash_of(number), position(number)).unwrap();
    }
    let grow = || index.grow(|slot| hash_of(slot.position(REFERENCE) / 8 - 8));
    let overflow = index.overflow_count();
    assert!(!grow());
    assert_eq!((index.bucket_count(), index.overflow_count()), (1, overflow));
    assert!(numbers.clone().all(|number| find(number).is_some()));
    for number in [0, 1] {
        index.remove(&find(number).expect("it is there"), hash_of(number));
    }
    assert!(grow());
    assert_eq!(index.bucket_count(), 2);
    assert!(numbers.skip(2).all(|number| find(number).is_some()));
}
