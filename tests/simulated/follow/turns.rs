//! What local readers hold up, and what they do not: a follower against turns that last.

use super::{NO_EVICTION, SLABS, Setup};
use crate::author::Author;
use crate::compare::{Logs, assert_same, items};
use crate::link::Link;
use crate::pair::{NOW, primary, primary_of, replica_of};
use remora::base::term::Term;
use remora::store::{BadRecord, NOT_BEGUN, Stop, Store, TermStart};

const ONE: Setup = Setup { shards: 1, ..SLABS };

fn fill(author: &mut Author<'_>, from: usize, count: usize) {
    for number in from..from + count {
        author.set_value(format!("key-{number}").as_bytes(), &[number as u8; 100]).expect("room, after eviction");
    }
}

fn has(store: &Store, number: usize) -> bool {
    let mut participant = store.join();
    let turn = participant.turn();
    store.get(&turn, &store.locate(format!("key-{number}").as_bytes()), NOW).is_some()
}

#[test]
fn a_follower_begins_elsewhere_only_when_every_reader_has_left() {
    let store = primary(ONE);
    let replica = replica_of(&store);
    let (mut author, mut link) = (Author::new(&store), Link::new(&store, &replica));
    fill(&mut author, 0, 50);
    link.settle();
    let mut reader = replica.join();
    let turn = reader.turn();
    let item = replica.get(&turn, &replica.locate(b"key-7"), NOW).expect("it was followed");
    let follower = &mut link.followers[0];
    follower.forget();
    assert!(replica.get(&turn, &replica.locate(b"key-7"), NOW).is_none() && !has(&replica, 8));
    assert_eq!((replica.stats().items, replica.stats().item_bytes), (0, 0));
    let control = store.shards()[0].control();
    let begin = |follower: &mut remora::store::Follower<'_>| follower.begin_at(64, Term(control.term()), 64);
    assert!(!begin(follower), "a reader is still inside");
    assert!(item.value().equals(&[7; 100]), "and still sees what it found");
    drop(turn);
    let late = reader.turn();
    assert!(begin(follower), "who entered later holds nobody up");
    assert_eq!((follower.cursor(), follower.tail(), follower.room_until()), (64, 64, 64 + (64 << 10)));
    drop(late);
    link.settle();
    assert_same(&store, &replica, NOW);
}

#[test]
fn there_is_no_room_while_a_reader_may_look_at_it() {
    let store = primary(ONE);
    let replica = replica_of(&store);
    let (mut author, mut link) = (Author::new(&store), Link::new(&store, &replica));
    fill(&mut author, 0, 380);
    link.settle();
    let mut reader = replica.join();
    let turn = reader.turn();
    let oldest = (0..380).find(|number| has(&replica, *number)).expect("some are left");
    let key = format!("key-{oldest}");
    let item = replica.get(&turn, &replica.locate(key.as_bytes()), NOW).unwrap();
    fill(&mut author, 380, 200);
    let (cursor, line) = (link.followers[0].cursor(), store.shards()[0].control());
    let words = Logs::of(&store).copy(0, cursor, line.committed());
    let follower = &mut link.followers[0];
    let applied = follower.apply(&words, cursor);
    assert!(matches!(applied.stop, Stop::NoRoom { end } if end > follower.room_until()), "{applied:?}");
    assert!(follower.give_up_below(cursor.min(line.tail()), u64::MAX));
    let rest = &words[applied.bytes as usize / 8..];
    let next = follower.cursor();
    let stop = follower.apply(rest, next).stop;
    assert!(matches!(stop, Stop::NoRoom { .. }), "given up, but looked at: {stop:?}");
    assert!(!has(&replica, oldest) && item.value().equals(&[oldest as u8; 100]));
    drop(turn);
    let again = follower.apply(rest, follower.cursor());
    assert_eq!(again.stop, Stop::End);
    assert!(follower.cursor() <= follower.room_until());
    link.settle();
    assert_same(&store, &replica, NOW);
}

#[test]
fn giving_up_goes_by_the_budget_and_ends_at_the_cursor() {
    let store = primary(NO_EVICTION);
    let replica = replica_of(&store);
    let (mut author, mut link) = (Author::new(&store), Link::new(&store, &replica));
    fill(&mut author, 0, 20);
    link.settle();
    let follower = &mut link.followers[0];
    let mut looks = 0;
    while !follower.give_up_below(u64::MAX, 1) {
        looks += 1;
    }
    assert_eq!((looks, follower.tail()), (19, follower.cursor()), "20 records, one at a time");
    assert_eq!((replica.stats().counts.evictions, replica.stats().items), (20, 0));
    let tail = follower.tail();
    assert!(follower.give_up_below(0, 1) && follower.tail() == tail, "a tail that lies behind changes nothing");
    assert!(items(&replica, NOW).is_empty());
}

#[test]
fn nonsense_from_a_primary_is_refused_or_taken_as_far_as_it_makes_sense() {
    let store = primary(ONE);
    let replica = replica_of(&store);
    let mut follower = replica.follower(0).expect("it is alone");
    let words = Logs::of(&store).copy(0, 64, 96);
    assert_eq!(follower.apply(&words, follower.cursor()).stop, Stop::Bad(BadRecord::NoRecord), "nothing has begun");
    for position in [0, 1, 63, 77, u64::MAX, 1 << 63] {
        assert!(follower.begin_at(position, Term(store.shards()[0].control().term()), u64::MAX));
        assert!(matches!(follower.apply(&words, follower.cursor()).stop, Stop::Bad(_)) || follower.cursor() == 64 + 32);
        assert!(follower.give_up_below(u64::MAX, u64::MAX) && follower.cursor() >= 64);
        replica.stats();
    }
    assert_eq!(replica.terms().len(), 1);
    assert!(follower.begin_at(64, Term::NONE, 64) && follower.term() == Term::NONE);
    assert_eq!(follower.apply(&words, 64).stop, Stop::Bad(BadRecord::NoRecord));
    assert_eq!(replica.terms().len(), 1, "no term is none to remember");
    let past = |term, begins| TermStart { term, begins };
    let (old, now) = (Term::of(5, 1), Term::of(5, 2));
    replica.adopt_terms(vec![
        past(now, vec![9]),
        past(Term::of(6, 1), vec![1]),
        past(old, vec![8]),
        past(now, vec![9, 9]),
    ]);
    // Of its own lineage, with a position for each shard, in order, each once.
    assert_eq!(replica.terms(), [past(old, vec![8]), past(now, vec![9])]);
}

#[test]
fn the_history_is_the_primarys() {
    let store = primary(SLABS);
    let replica = replica_of(&store);
    assert_eq!(store.terms(), [TermStart { term: Term::of(0xABC, 1), begins: vec![64, 64] }]);
    let mut link = Link::new(&store, &replica);
    assert_eq!(replica.terms(), store.terms());
    link.settle();
    assert_eq!(replica.terms(), store.terms());
    let next = Term::of(0xABC, 2);
    let follower = &mut link.followers[1];
    assert!(follower.begin_at(640, next, 640));
    assert_eq!(replica.terms()[1], TermStart { term: next, begins: vec![NOT_BEGUN, 640] });
}

/// A primary that was restarted is empty, and of another lineage: its replica begins anew, at lower
/// positions, and nothing of the old log, no flush either, counts any more.
#[test]
fn a_replica_of_a_restarted_primary_begins_anew() {
    let (first, restarted) = (primary(SLABS), primary_of(SLABS, Term::of(0xDEF, 1)));
    let replica = replica_of(&first);
    let (mut author, mut link) = (Author::new(&first), Link::new(&first, &replica));
    fill(&mut author, 0, 2000);
    author.flush();
    link.settle();
    assert_same(&first, &replica, NOW);
    let before = replica.stats().reclaimed_bytes;
    let mut author = Author::new(&restarted);
    fill(&mut author, 5000, 30);
    drop(link);
    let mut link = Link::new(&restarted, &replica);
    link.settle();
    assert_eq!((link.jumps, items(&replica, NOW).len()), (2, 30));
    assert_same(&restarted, &replica, NOW);
    assert!(replica.stats().reclaimed_bytes >= before, "a counter that grows");
    assert_eq!(replica.terms(), restarted.terms());
}

/// A replica that joins lacks what had been moved from before its beginning, until it comes by it,
/// and knows that.
#[test]
fn who_joins_is_not_whole_before_all_that_was_moved_is_here() {
    let store = primary(NO_EVICTION);
    let replica = replica_of(&store);
    let (mut author, mut link) = (Author::new(&store), Link::new(&store, &replica));
    fill(&mut author, 0, 100);
    // Laps of a few keys: the others are moved, again and again.
    (0..100).for_each(|_| fill(&mut author, 0, 10));
    assert!(store.stats().counts.reinserted_items > 100);
    let (mut lacked, mut pulls) = (0, 0);
    while !link.pull(0, 400) {
        pulls += 1;
        assert!(pulls < 10_000, "it never comes up");
        let has_begun = link.followers[0].term().is_valid();
        if has_begun && (0..100).any(|number| !has(&replica, number)) {
            lacked += 1;
            assert!(!replica.shards()[0].is_whole(), "whole, though items are missing");
        }
    }
    assert!(lacked > 10 && store.shards()[0].is_whole() && replica.shards()[0].is_whole(), "{lacked}");
    assert_same(&store, &replica, NOW);
}
