//! What a server is to do next, for each duty and each state.

use super::super::holdings::Followed;
use super::*;
use crate::cluster::map::{Change as MapChange, Member, Policy, Server, Shard, Stage, Wanted};
use crate::store::StoreConfig;

const SHARDS: usize = 4;

fn server(id: ServerId, is_alive: bool) -> Server {
    Server {
        id,
        name: format!("s{id}"),
        incarnation: is_alive.then(|| incarnation_of([id as u8; 16])),
        missing: None,
        clients: format!("host{id}:1"),
        replication: format!("host{id}:2"),
        host: format!("host{id}"),
        zone: String::new(),
        memory_mib: 64,
        wanted: Wanted::Serving,
    }
}

/// Server 0 is the primary, 1 and 2 are members, 3 has nothing.
fn map(dead: &[ServerId]) -> Map {
    let members = [1, 2].map(|server| Member { server, stage: Stage::Whole }).to_vec();
    let shard = Shard { primary: Some(0), term: 2, reserved: 9, members, ..Shard::default() };
    Map {
        servers: (0..4).map(|id| server(id, !dead.contains(&id))).collect(),
        shards: vec![shard; SHARDS],
        ..Map::born("c".into(), SHARDS, Policy::default())
    }
}

/// Of a store whose gates are closed, and name nobody.
fn store() -> Store {
    let config = StoreConfig {
        memory_bytes: 4 << 20,
        item_bytes_max: 64 << 10,
        shards: Some(SHARDS),
        term: Some(crate::base::term::Term::NONE),
        ..StoreConfig::default()
    };
    Store::new(config).unwrap()
}

fn planned(map: &Map, me: ServerId, here: &Holdings) -> Plan {
    planned_after(map, me, here, &mut GivenUp::none(SHARDS))
}

fn planned_after(map: &Map, me: ServerId, here: &Holdings, given_up: &mut GivenUp) -> Plan {
    let own = incarnation_of([me as u8; 16]);
    let place = Place::of(map, &own);
    let duties: Vec<_> = (0..SHARDS).map(|shard| place.duty(map, shard)).collect();
    plan(map, &duties, here, &store(), given_up)
}

/// As whom an heir knows that server: no other process is meant.
fn peer(id: ServerId) -> Peer {
    Peer { address: format!("host{id}:2"), server: Some([id as u8; 16]) }
}

fn all() -> ShardSet {
    ShardSet::all(SHARDS)
}

fn empty_for(primary: ServerId) -> Change {
    let named =
        Primary { clients: format!("host{primary}:1").into(), replication: Some(format!("host{primary}:2").into()) };
    Change::Empty { primary: Some(named) }
}

fn follow(of: ServerId) -> Change {
    Change::Follow { primary: format!("host{of}:2"), server: [of as u8; 16], clients: format!("host{of}:1") }
}

#[test]
fn who_has_what_the_map_asks_for_does_nothing() {
    let of_zero =
        |primary: &str, server| Followed { primary: primary.into(), server, shards: all(), ..Followed::default() };
    let nothing = ShardSet::default();
    for (me, here) in [
        (0, Holdings::made(SHARDS, all(), vec![])),
        (1, Holdings::made(SHARDS, nothing, vec![of_zero("host0:2", None)])),
        (1, Holdings::made(SHARDS, nothing, vec![of_zero("by-another-name:2", Some([0; 16]))])),
    ] {
        assert_eq!(planned(&map(&[]), me, &here), Plan::default(), "{me}");
    }
    let waits = planned(&map(&[0]), 1, &Holdings::made(SHARDS, nothing, vec![of_zero("host0:2", None)]));
    assert_eq!(waits, Plan::default(), "the primary is dead, and nobody follows it yet");
}

#[test]
fn a_member_follows_and_who_is_none_has_nothing() {
    let nothing = Holdings::made(SHARDS, ShardSet::default(), vec![]);
    let steps = |me, here: &Holdings| planned(&map(&[]), me, here).steps;
    assert_eq!(steps(1, &nothing), [Step { change: follow(0), shards: all() }]);
    let empty = || empty_for(0);
    assert_eq!(steps(3, &nothing), [Step { change: empty(), shards: all() }], "its gates are to name the primary");
    let primary = Holdings::made(SHARDS, "1-2".parse().unwrap(), vec![]);
    assert_eq!(steps(1, &primary), [Step { change: follow(0), shards: all() }], "it was the primary, and is not");
    let foreign =
        Followed { primary: "host0:2".into(), shards: all(), foreign: "3".parse().unwrap(), ..Followed::default() };
    let here = Holdings::made(SHARDS, ShardSet::default(), vec![foreign]);
    assert_eq!(steps(1, &here), [Step { change: empty(), shards: "3".parse().unwrap() }]);
}

#[test]
fn an_heir_begins_the_reserved_term_before_anything_else_and_once() {
    let mut map = map(&[0]);
    let way = Way::Gather;
    map.shards[1].change = Some(MapChange { heir: 1, term: 7, way, least: 0, gone: 0 });
    map.shards[2].change = Some(MapChange { heir: 1, term: 7, way: Way::Unclean, least: 0, gone: 0 });
    map.shards[3].primary = Some(2);
    map.shards[3].members.clear();
    let here = Holdings::made(SHARDS, ShardSet::default(), vec![]);
    let promote = |incomplete| {
        let gather = vec![peer(2)];
        Change::Promote(Promotion { gather, take_over: false, incomplete, term: Some(7) })
    };
    let Plan { steps, failures } = planned(&map, 1, &here);
    let step = |change, shards: &str| Step { change, shards: shards.parse().unwrap() };
    let empty = empty_for(2);
    assert_eq!(steps, [step(promote(false), "1"), step(promote(true), "2"), step(empty.clone(), "3")]);
    assert!(failures.is_empty() && steps[0].term() == 7);
    // The terms of `made` are 2.
    let begun = Holdings::made(SHARDS, "1-2".parse().unwrap(), vec![]);
    assert_eq!(planned(&map, 1, &begun).steps.len(), 3, "an earlier term than the one that is reserved");
    map.shards[1].change = Some(MapChange { heir: 1, term: 2, way, least: 0, gone: 0 });
    let mut map_of_two = map.clone();
    map_of_two.shards[2].change = map.shards[1].change;
    assert_eq!(planned(&map_of_two, 1, &begun).steps, [step(empty, "3")]);
}

#[test]
fn who_takes_over_stops_the_primary_as_well() {
    let mut map = map(&[]);
    map.shards.iter_mut().for_each(|shard| {
        shard.change = Some(MapChange { heir: 1, term: 3, way: Way::HandOver, least: 0, gone: 0 });
    });
    let steps = planned(&map, 1, &Holdings::made(SHARDS, ShardSet::default(), vec![])).steps;
    let gather = vec![peer(2), peer(0)];
    let promotion = Promotion { gather, take_over: true, incomplete: false, term: Some(3) };
    assert_eq!(steps, [Step { change: Change::Promote(promotion), shards: all() }]);
    let old = planned(&map, 0, &Holdings::made(SHARDS, all(), vec![]));
    assert_eq!(old, Plan::default(), "the primary goes on until it is asked to stop");
}

#[test]
fn who_should_wait_takes_no_writes_and_who_is_the_primary_no_more_says_so() {
    let here = Holdings::made(SHARDS, "1".parse().unwrap(), vec![]);
    let steps = planned(&map(&[0]), 1, &here).steps;
    assert_eq!(steps, [Step { change: Change::Close, shards: "1".parse().unwrap() }]);
    let Plan { steps, failures } = planned(&map(&[]), 0, &here);
    assert!(steps.is_empty());
    assert_eq!((&*failures[0].shards, failures[0].term, failures.len()), ("0,2-3", 2, 1));
}

#[test]
fn an_incarnation_is_a_servers_number() {
    for number in [[0; 16], [0xab; 16], std::array::from_fn(|at| at as u8)] {
        assert_eq!(number_of(&incarnation_of(number)), Some(number));
    }
    for wrong in ["", "0", "+0000000000000000000000000000001", &"0".repeat(33), &"g".repeat(32)] {
        assert_eq!(number_of(wrong), None, "{wrong}");
    }
}

/// A process that is taken for dead may have its roles again: it keeps what it has until another
/// one is there, and takes no writes where somebody else is about to.
#[test]
fn who_is_missing_keeps_what_it_has_until_its_place_is_taken() {
    let mut map = map(&[0]);
    map.servers[0].missing = Some(incarnation_of([0; 16]));
    let here = Holdings::made(SHARDS, all(), vec![]);
    assert_eq!(planned(&map, 0, &here), Plan::default());
    map.shards[1].change = Some(MapChange { heir: 1, term: 3, way: Way::Gather, least: 0, gone: 0 });
    let close = Step { change: Change::Close, shards: "1".parse().unwrap() };
    assert_eq!(planned(&map, 0, &here).steps, [close]);
    map.servers[0].missing = Some(incarnation_of([9; 16]));
    let empty = Step { change: Change::Empty { primary: None }, shards: all() };
    assert_eq!(planned(&map, 0, &here).steps, [empty], "another one has been there");
}

/// The locator goes on by what an heir has not done: it does not do it afterwards, whatever else
/// has changed.
#[test]
fn a_term_that_was_not_begun_is_never_begun() {
    let mut map = map(&[0]);
    let gather = |term, least| Some(MapChange { heir: 1, term, way: Way::Gather, least, gone: 0 });
    map.shards.iter_mut().for_each(|shard| shard.change = gather(3, 3));
    let here = Holdings::made(SHARDS, ShardSet::default(), vec![]);
    let mut given_up = GivenUp::none(SHARDS);
    let Plan { steps, failures } = planned_after(&map, 1, &here, &mut given_up);
    assert!(steps.is_empty(), "of three members two are alive: {steps:?}");
    assert_eq!((&*failures[0].shards, failures[0].term, failures.len()), ("0-3", 3, 1));
    map.shards.iter_mut().for_each(|shard| shard.change = gather(3, 2));
    let Plan { steps, failures } = planned_after(&map, 1, &here, &mut given_up);
    assert!(steps.is_empty() && failures[0].words.contains("too few"), "{steps:?} {failures:?}");
    map.shards.iter_mut().for_each(|shard| shard.change = gather(4, 2));
    let plan = planned_after(&map, 1, &here, &mut given_up);
    assert_eq!((plan.steps.len(), plan.failures), (1, vec![]));
    given_up.note("1".parse().unwrap(), 4, "its peer does not answer");
    let Plan { steps, failures } = planned_after(&map, 1, &here, &mut given_up);
    assert_eq!((steps[0].shards.to_string(), &*failures[0].shards), ("0,2-3".into(), "1"));
    map.shards.iter_mut().for_each(|shard| shard.members[0].stage = Stage::Joining);
    map.shards.iter_mut().for_each(|shard| (shard.term, shard.change) = (3, gather(5, 2)));
    let Plan { steps, failures } = planned_after(&map, 1, &here, &mut given_up);
    assert!(steps.is_empty() && failures[0].words.contains("away"), "its log is of term 2: {steps:?} {failures:?}");
}

/// The map says that nobody has anything of the shard: whatever an heir has is of nobody.
#[test]
fn who_begins_empty_is_empty_first() {
    let mut map = map(&[0]);
    let change = MapChange { heir: 1, term: 3, way: Way::Empty, least: 0, gone: 0 };
    map.shards.iter_mut().for_each(|shard| {
        shard.members.clear();
        shard.change = Some(change);
    });
    let old = Followed { primary: "host0:2".into(), shards: "1".parse().unwrap(), ..Followed::default() };
    let steps = planned(&map, 1, &Holdings::made(SHARDS, ShardSet::default(), vec![old])).steps;
    let promotion = Promotion { gather: vec![], take_over: false, incomplete: true, term: Some(3) };
    let step = |change, shards: &str| Step { change, shards: shards.parse().unwrap() };
    assert_eq!(steps, [step(Change::Promote(promotion), "0,2-3"), step(Change::Empty { primary: None }, "1")]);
}

#[test]
fn another_than_the_primary_has_nobody_emptied() {
    let refused_by = |server: ServerId| {
        let (primary, server) = (format!("host{server}:2"), Some([server as u8; 16]));
        let here = Followed { primary, server, shards: all(), foreign: all(), ..Followed::default() };
        planned(&map(&[]), 1, &Holdings::made(SHARDS, ShardSet::default(), vec![here])).steps
    };
    assert_eq!(refused_by(2), [Step { change: follow(0), shards: all() }]);
    let empty = empty_for(0);
    assert_eq!(refused_by(0), [Step { change: empty, shards: all() }]);
}

#[test]
fn a_map_is_settled_once_nothing_is_taken_that_it_gives_to_others() {
    let settled = |map: &Map, me: ServerId, here: &Holdings| {
        let place = Place::of(map, &incarnation_of([me as u8; 16]));
        is_settled(&(0..SHARDS).map(|shard| place.duty(map, shard)).collect::<Vec<_>>(), here)
    };
    let (open, closed) = (Holdings::made(SHARDS, all(), vec![]), Holdings::made(SHARDS, ShardSet::default(), vec![]));
    assert!(settled(&map(&[]), 0, &open), "it is the primary");
    assert!(!settled(&map(&[]), 1, &open) && settled(&map(&[]), 1, &closed), "it was away, and is a replica by now");
    assert!(!settled(&map(&[]), 3, &open), "it has nothing by now");
    let mut later = map(&[]);
    later.shards[2].term = 3;
    assert!(!settled(&later, 0, &open), "of an earlier term");
    later.shards[2].term = 1;
    assert!(settled(&later, 0, &open), "its hand-over has failed, and no map knows of its own term yet");
    later.shards[2].term = 2;
    let begins = |term| Some(MapChange { heir: 0, term, way: Way::Gather, least: 0, gone: 0 });
    later.shards[2].change = begins(7);
    assert!(!settled(&later, 0, &open), "others may have begun a term since");
    later.shards[2].change = begins(2);
    assert!(settled(&later, 0, &open), "it has begun what it was asked for");
    later.shards[2].change = Some(MapChange { heir: 1, term: 7, way: Way::Gather, least: 0, gone: 0 });
    assert!(!settled(&later, 0, &open), "it is passed over");
}
