//! A log that has parted from the one that counts goes back, and local readers look on.

use super::{SLABS, Setup};
use crate::author::Author;
use crate::compare::{assert_same, items};
use crate::link::Link;
use crate::pair::{NOW, primary, replica_of};
use remora::base::shards::ShardSet;
use remora::base::time::{Expiry, UnixSeconds};
use remora::store::{Follower, GoingBack, History, MetaChange, Store};

const ONE: Setup = Setup { shards: 1, ..SLABS };
const KEYS: usize = 45;

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn fill(author: &mut Author<'_>, from: usize, count: usize, value: u8) {
    (from..from + count).for_each(|number| {
        author.set_value(key(number).as_bytes(), &[value; 100]).expect("there is room");
    });
}

/// What a reader in a turn of its own finds.
fn get(store: &Store, number: usize) -> Option<Vec<u8>> {
    let mut participant = store.join();
    let turn = participant.turn();
    let mut value = Vec::new();
    store.get(&turn, &store.locate(key(number).as_bytes()), NOW)?.value().copy_to(&mut value);
    Some(value)
}

fn finds_nothing(store: &Store) -> bool {
    (0..2 * KEYS).all(|number| get(store, number).is_none())
}

fn promote(store: &Store) {
    assert_eq!(store.make_room_for_term(ShardSet::all(1), NOW), Ok(()));
    store.begin_term(ShardSet::all(1), store.newest_term().succeed().expect("a term follows"), &|_| {});
    store.open_gates(0..1);
}

/// A primary and its replica that has been promoted, with the same items so far.
fn parted() -> (Store, Store, History, u64) {
    let old = primary(ONE);
    let new = replica_of(&old);
    fill(&mut Author::new(&old), 0, KEYS, 1);
    Link::new(&old, &new).settle();
    promote(&new);
    let history = new.shards()[0].history();
    let at = history.starts()[1].begins;
    assert_eq!(at, old.heads(old.reign())[0]);
    (old, new, history, at)
}

/// Until it waits or is over.
fn go_back(follower: &mut Follower<'_>, history: &History) -> GoingBack {
    let mut steps = (0..1000).map(|_| follower.go_back(history, 0));
    steps.find(|step| *step != GoingBack::Moved).expect("it comes to an end")
}

#[test]
fn who_is_inside_keeps_what_it_has_and_others_miss_until_all_is_there() {
    for flushes in [false, true] {
        let (old, new, history, at) = parted();
        let before = items(&new, NOW);
        let mut author = Author::new(&old);
        author.delete(key(4).as_bytes());
        if flushes {
            author.flush();
        }
        fill(&mut author, 3, 1, 2);
        fill(&mut author, KEYS, KEYS, 2);
        let written = old.stats().counts;
        let mut reader = old.join();
        let turn = reader.turn();
        let dropped = key(KEYS + 1);
        let dropped = old.get(&turn, &old.locate(dropped.as_bytes()), NOW).expect("it was written");
        let mut follower = old.follower(0).expect("it is alone");
        assert!(follower.can_go_back_to(at));
        follower.begin_to_go_back(at);
        assert!(finds_nothing(&old) && !follower.is_proven());
        assert_eq!(go_back(&mut follower, &history), GoingBack::Waits);
        assert!(finds_nothing(&old), "somebody may hold a slot of what is dropped");
        assert!(dropped.value().equals(&[2; 100]) && follower.cursor() > at);
        drop(turn);
        assert_eq!(go_back(&mut follower, &history), GoingBack::Done);
        assert_eq!((follower.cursor(), follower.is_proven()), (at, true));
        assert_eq!(items(&old, NOW), before);
        let after = old.stats();
        assert_eq!((after.items, after.counts.total_items), (KEYS as u64, written.total_items));
        assert_eq!(after.counts.reinserted_items, written.reinserted_items);
        drop(follower);
        fill(&mut Author::new(&new), KEYS - 5, 20, 3);
        Link::new(&new, &old).settle();
        assert_same(&new, &old, NOW);
        assert_eq!(get(&old, KEYS), Some(vec![3; 100]));
    }
}

#[test]
fn one_that_ends_in_the_middle_shows_nothing_and_begins_anew() {
    let (old, new, history, at) = parted();
    fill(&mut Author::new(&old), 0, 2 * KEYS, 2);
    let mut reader = old.join();
    let turn = reader.turn();
    let mut follower = old.follower(0).expect("it is alone");
    follower.begin_to_go_back(at);
    assert_eq!(go_back(&mut follower, &history), GoingBack::Waits);
    drop(follower);
    assert!(finds_nothing(&old));
    let mut next = old.follower(0).expect("it is alone");
    assert_eq!((next.tail(), next.is_proven(), next.is_whole()), (next.cursor(), false, false));
    let tail = new.shards()[0].control().tail();
    assert!(!next.begin_at(tail, &history), "a reader is still inside");
    drop(turn);
    assert!(next.begin_at(tail, &history));
    assert!(finds_nothing(&old));
    drop(next);
    Link::new(&new, &old).settle();
    assert_same(&new, &old, NOW);
}

#[test]
fn a_position_within_a_record_is_none_to_go_back_to() {
    let (old, new, history, at) = parted();
    fill(&mut Author::new(&old), KEYS, 10, 2);
    let mut follower = old.follower(0).expect("it is alone");
    follower.begin_to_go_back(at - 16);
    assert_eq!(go_back(&mut follower, &history), GoingBack::NoEnd);
    assert!(finds_nothing(&old) && !follower.is_proven());
    follower.forget();
    assert!(follower.begin_at(new.shards()[0].control().tail(), &history));
    drop(follower);
    Link::new(&new, &old).settle();
    assert_same(&new, &old, NOW);
}

/// Nobody has read the log of the second one, which is promoted as well.
#[test]
fn a_touch_of_a_promoted_server_that_nobody_follows_is_in_the_log() {
    let store = primary(ONE);
    let (first, second) = (replica_of(&store), replica_of(&store));
    fill(&mut Author::new(&store), 0, KEYS, 1);
    [&first, &second].into_iter().for_each(|replica| Link::new(&store, replica).settle());
    [&first, &second].into_iter().for_each(promote);
    let at = first.shards()[0].history().starts()[1].begins;
    assert!(second.follower(0).expect("it is alone").can_go_back_to(at));
    let mut participant = second.join();
    let turn = participant.turn();
    let place = second.locate(b"key-1");
    let change = MetaChange { expiry: Some(Expiry::at(UnixSeconds(NOW.0 + 9))), ..MetaChange::default() };
    assert_eq!(second.lock(&place).expect("it is open").entry(&turn, NOW).change_meta(change), Ok(true));
    drop(turn);
    assert!(!second.follower(0).expect("it is alone").can_go_back_to(at));
}

#[test]
fn what_a_new_primary_writes_never_has_a_cas_that_the_old_one_gave() {
    let (old, new, ..) = parted();
    let cas = |store: &Store, number: usize| {
        let mut participant = store.join();
        let turn = participant.turn();
        store.get(&turn, &store.locate(key(number).as_bytes()), NOW).expect("it was written").cas()
    };
    assert!((0..KEYS).all(|number| cas(&old, number) == cas(&new, number)), "what both have stays as it is");
    // Whatever the old one writes that nobody else has, a terabyte of it, clients were told of.
    let told_max = cas(&old, KEYS - 1) + ((1 << 40) << 7);
    fill(&mut Author::new(&new), 0, KEYS, 2);
    assert!((0..KEYS).all(|number| cas(&new, number) > told_max));
    // Its own replica says the same.
    let third = replica_of(&new);
    Link::new(&new, &third).settle();
    assert!((0..KEYS).all(|number| cas(&third, number) == cas(&new, number)));
}
