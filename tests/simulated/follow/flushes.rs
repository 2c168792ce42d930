//! Flushes that are pending: who executes them, and what becomes of their records.

use super::{NO_EVICTION, SLABS, Setup};
use crate::author::{Author, flush};
use crate::compare::{assert_same, items};
use crate::link::Link;
use crate::pair::{NOW, primary, replica_of};
use remora::base::shards::ShardSet;
use remora::base::time::UnixSeconds;
use remora::store::record::Kind;
use remora::store::{Flushed, NoRoom, Store, Turn, Unwritten};

const SHARDS: usize = 2;
/// Takes what it has no room for by evicting, or by moving all of it on.
const SETUPS: [Setup; 2] = [SLABS, Setup { shards: SHARDS, ..NO_EVICTION }];
/// Keys that are written over and over: they fit, with or without eviction.
const KEYS: usize = 100;
/// Writes that take the tails of both logs well beyond what stood there.
const WRITES: usize = 4000;

fn at(seconds: u32) -> UnixSeconds {
    UnixSeconds(NOW.0 + seconds)
}

/// Try turn by turn, until there is room.
fn insist(store: &Store, what: impl Fn(&Turn<'_>) -> Result<(), Unwritten>) {
    let mut seat = store.join();
    let done = (0..10_000).any(|_| {
        let turn = seat.turn();
        let done = what(&turn);
        assert!(matches!(done, Ok(()) | Err(Unwritten::NoRoom(NoRoom::Now))), "{done:?}");
        for worker in 0..2 {
            store.maintain(&turn, worker, NOW);
        }
        done.is_ok()
    });
    assert!(done, "no room: {:?}", store.stats());
}

fn flush_at(store: &Store, due: UnixSeconds) {
    insist(store, |turn| store.flush_at(turn, due, Flushed::All));
}

/// What the first command at a second does.
fn execute(store: &Store, now: UnixSeconds) {
    if store.is_flush_due(now) {
        insist(store, |turn| Ok(store.flush_what_is_due(turn, now)?));
    }
}

fn write(store: &Store, count: usize) {
    let mut author = Author::new(store);
    for number in 0..count {
        let key = format!("key-{}", number % KEYS);
        author.set_value(key.as_bytes(), &[number as u8; 100]).expect("room, after eviction");
    }
}

fn promote(replica: &Store) {
    let all = ShardSet::all(replica.shards().len());
    assert!((0..1000).any(|_| replica.make_room_for_term(all, NOW).is_ok()));
    replica.begin_term(all, replica.newest_term().succeed().expect("few promotions"), &|_| {});
    replica.open_gates(0..replica.shards().len());
}

/// Due seconds that stand in the log of a shard, the oldest first.
fn pending_in_log(store: &Store, shard: usize) -> Vec<u32> {
    let shard = &store.shards()[shard];
    let flushes = shard.walk(shard.control().tail()).filter(|(_, record)| record.shape.kind() == Kind::Flush);
    flushes.filter_map(|(_, record)| record.flush_due()).map(|due| due.0).collect()
}

fn count(store: &Store) -> usize {
    items(store, NOW).len()
}

#[test]
fn who_is_promoted_executes_what_is_pending_and_nobody_before() {
    for setup in SETUPS {
        let store = primary(setup);
        let replica = replica_of(&store);
        write(&store, KEYS);
        flush_at(&store, at(10));
        Link::new(&store, &replica).settle();
        assert!(store.is_flush_due(at(10)) && !store.is_flush_due(at(9)));
        assert!(!replica.is_flush_due(at(99)), "no command of a replica stops for it");
        insist(&replica, |turn| Ok(replica.flush_what_is_due(turn, at(99))?));
        assert_eq!(count(&replica), KEYS, "nor does it go by its own clock");
        promote(&replica);
        assert!(replica.is_flush_due(at(10)) && !replica.is_flush_due(at(9)));
        execute(&replica, at(9));
        assert_eq!(count(&replica), KEYS);
        execute(&replica, at(10));
        assert_eq!((count(&replica), replica.is_flush_due(at(99))), (0, false));
        write(&replica, KEYS);
        execute(&replica, at(99));
        assert_eq!(count(&replica), KEYS, "once");
    }
}

/// What the primary has executed, or replaced, is pending nowhere.
#[test]
fn a_replica_has_pending_what_its_primary_has() {
    let store = primary(SLABS);
    for (what, due) in [("executed", None), ("flushed at once", None), ("asked for anew", Some(20))] {
        let replica = replica_of(&store);
        let mut link = Link::new(&store, &replica);
        write(&store, KEYS);
        flush_at(&store, at(10));
        link.settle();
        match what {
            "executed" => execute(&store, at(10)),
            "flushed at once" => insist(&store, |turn| Ok(flush(&store, turn)?)),
            _ => flush_at(&store, at(20)),
        }
        link.settle();
        assert_same(&store, &replica, NOW);
        promote(&replica);
        for second in [10, 19, 20, 99] {
            let is_due = due.is_some_and(|due| due <= second);
            assert_eq!([&store, &replica].map(|one| one.is_flush_due(at(second))), [is_due; 2], "{what}: {second}");
        }
    }
}

/// One that was asked for in a shard which is closed meanwhile waits, and stops no command.
#[test]
fn it_waits_where_its_shard_takes_no_writes() {
    let store = primary(SLABS);
    write(&store, KEYS);
    flush_at(&store, at(10));
    store.close_gates([1], None);
    execute(&store, at(10));
    let left = count(&store);
    assert!(0 < left && left < KEYS && !store.is_flush_due(at(99)), "{left} are left");
    store.open_gates([1]);
    assert!(store.is_flush_due(at(10)));
    execute(&store, at(10));
    assert_eq!(count(&store), 0);
}

#[test]
fn what_is_pending_goes_round_with_the_log() {
    for setup in SETUPS {
        let store = primary(setup);
        flush_at(&store, at(5));
        flush_at(&store, at(10));
        let tails = || store.shards().iter().map(|shard| shard.control().tail()).min().expect("a shard");
        for _ in 0..3 {
            let ends = store.shards().iter().map(|shard| shard.control().committed()).max().expect("a shard");
            write(&store, WRITES);
            assert!(tails() > ends, "too little was written");
            (0..SHARDS).for_each(|shard| assert_eq!(pending_in_log(&store, shard), [at(10).0]));
        }
        // Who joins now has it from there.
        let replica = replica_of(&store);
        Link::new(&store, &replica).settle();
        assert_same(&store, &replica, NOW);
        promote(&replica);
        assert!(!replica.is_flush_due(at(9)) && replica.is_flush_due(at(10)));
        execute(&replica, at(10));
        assert_eq!(count(&replica), 0);
        write(&replica, WRITES);
        (0..SHARDS).for_each(|shard| assert_eq!(pending_in_log(&replica, shard), [0; 0], "what was executed is dead"));
    }
}

/// The tail has passed its record, and the one that the primary had appended again never came.
#[test]
fn who_begins_a_term_has_it_in_the_log() {
    for setup in SETUPS {
        let store = primary(setup);
        let (replica, other) = (replica_of(&store), replica_of(&store));
        write(&store, KEYS);
        flush_at(&store, at(10));
        let mut link = Link::new(&store, &replica);
        link.settle();
        assert!(link.followers.iter_mut().all(|follower| follower.give_up_below(u64::MAX, u64::MAX)));
        drop(link);
        assert_eq!((0..SHARDS).flat_map(|shard| pending_in_log(&replica, shard)).count(), 0);
        promote(&replica);
        (0..SHARDS).for_each(|shard| assert_eq!(pending_in_log(&replica, shard), [at(10).0]));
        Link::new(&replica, &other).settle();
        promote(&other);
        assert!(other.is_flush_due(at(10)));
    }
}

/// What was pending in the log before is not in the one that it follows now.
#[test]
fn who_begins_anew_forgets_it() {
    let (before, now) = (primary(SLABS), primary(SLABS));
    let replica = replica_of(&before);
    flush_at(&before, at(10));
    Link::new(&before, &replica).settle();
    write(&now, KEYS);
    let mut link = Link::new(&now, &replica);
    link.followers.iter_mut().for_each(|follower| follower.forget());
    for (shard, follower) in now.shards().iter().zip(&mut link.followers) {
        assert!(follower.begin_at(shard.control().tail(), &shard.history()));
    }
    link.settle();
    drop(link);
    promote(&replica);
    execute(&replica, at(99));
    assert_eq!(count(&replica), KEYS);
}
