//! What local readers hold up, and what they do not: a follower against turns that last.

use super::{NO_EVICTION, SLABS, Setup};
use crate::author::Author;
use crate::compare::{Logs, assert_same, items};
use crate::link::Link;
use crate::pair::{NOW, primary, primary_of, replica_of};
use remora::base::term::Term;
use remora::store::{BadRecord, History, Stop, Store, TermStart};

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
    let begin =
        |follower: &mut remora::store::Follower<'_>| follower.begin_at(64, &History::born(Term(control.term()), 64));
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
        assert!(follower.begin_at(position, &History::born(store.newest_term(), u64::MAX)));
        assert!(matches!(follower.apply(&words, follower.cursor()).stop, Stop::Bad(_)) || follower.cursor() == 64 + 32);
        assert!(follower.give_up_below(u64::MAX, u64::MAX) && follower.cursor() >= 64);
        replica.stats();
    }
    assert_eq!(replica.histories(), [History::born(store.newest_term(), u64::MAX)]);
    assert!(follower.begin_at(64, &History::NONE) && follower.term() == Term::NONE);
    assert_eq!(follower.apply(&words, 64).stop, Stop::Bad(BadRecord::NoRecord));
    assert_eq!(replica.histories(), [History::NONE]);
}

#[test]
fn the_history_is_the_primarys() {
    let store = primary(SLABS);
    let replica = replica_of(&store);
    let born = History::born(Term::of(1, 0xABC), 64);
    assert_eq!(store.histories(), [born.clone(), born.clone()]);
    let mut link = Link::new(&store, &replica);
    assert_eq!(replica.histories(), [History::NONE, History::NONE], "not before its log is followed");
    link.settle();
    assert_eq!(replica.histories(), store.histories());
    let starts = [(1, 64), (2, 640)].map(|(number, begins)| TermStart { term: Term::of(number, 0xABC), begins });
    let next = History::new(born.origin(), starts);
    assert!(link.followers[1].begin_at(640, &next));
    assert_eq!(replica.histories(), [born, next], "each shard has its own");
}

/// A primary that was restarted is empty, and of another lineage: its replica begins anew, at lower
/// positions, and nothing of the old log, no flush either, counts any more.
#[test]
fn a_replica_of_a_restarted_primary_begins_anew() {
    let (first, restarted) = (primary(SLABS), primary_of(SLABS, Term::of(1, 0xDEF)));
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
    assert_eq!(replica.histories(), restarted.histories());
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

/// Who joins at a replica that is not whole lacks what that one lacks, through any number of hops,
/// and knows that: having all that the replica above shows is not enough.
#[test]
fn who_joins_below_a_replica_that_is_not_whole_is_not_whole_either() {
    let store = primary(NO_EVICTION);
    let replicas = [replica_of(&store), replica_of(&store), replica_of(&store)];
    let mut author = Author::new(&store);
    fill(&mut author, 0, 100);
    (0..100).for_each(|_| fill(&mut author, 0, 10));
    let [above, between, last] = &replicas;
    let mut links = [Link::new(&store, above), Link::new(above, between), Link::new(between, last)];
    let (mut lacked, mut pulls) = (0, 0);
    let end = |store: &Store| store.shards()[0].control().committed();
    while end(last) < end(&store) {
        pulls += 1;
        assert!(pulls < 10_000, "they never come up");
        // The first is slow, the others have at once all that they are shown.
        links[0].pull(0, 400);
        for (link, upstream) in links[1..].iter_mut().zip(&replicas) {
            let has_begun = Term(upstream.shards()[0].control().term()).is_valid();
            while has_begun && !link.pull(0, 64 << 10) {}
        }
        for replica in &replicas {
            let has_begun = Term(replica.shards()[0].control().term()).is_valid();
            if has_begun && (0..100).any(|number| !has(replica, number)) {
                lacked += 1;
                assert!(!replica.shards()[0].is_whole(), "whole, though items are missing");
            }
        }
    }
    assert!(lacked > 30 && replicas.iter().all(|replica| replica.shards()[0].is_whole()), "{lacked}");
    links.iter_mut().for_each(Link::settle);
    assert_same(&store, last, NOW);
}
