//! A server does what the map says, whoever writes it, and reports what it has come to.

use super::scripted::Scripted;
use super::server;
use crate::node::{Node, wait_for_row, wait_until};
use crate::support::refused;
use remora::cluster::map::{Change, Map, Member, ServerId, Stage, Way};
use remora::cluster::report::Role;

const SHARDS: usize = 8;
const ALL: &str = "0-7";
const KEYS: usize = 64;

fn start(names: &[&str]) -> (Scripted, Vec<Node>) {
    let locator = Scripted::start(SHARDS);
    let address = locator.address.to_string();
    let nodes = names.iter().map(|name| server(name, &address, SHARDS, &[])).collect();
    (locator, nodes)
}

fn change(map: &mut Map, heir: ServerId, term: u32, way: Way) {
    map.shards.iter_mut().for_each(|shard| shard.change = Some(Change { heir, term, way, least: 0, gone: 0 }));
}

/// The heir of a change is the primary, with these members.
fn settle(map: &mut Map, members: &[(ServerId, Stage)]) {
    for shard in &mut map.shards {
        let change = shard.change.take().expect("a change");
        (shard.primary, shard.term) = (Some(change.heir), change.term);
        shard.members = members.iter().map(|(server, stage)| Member { server: *server, stage: *stage }).collect();
    }
}

fn set_all(node: &Node, value: &str) {
    for number in 0..KEYS {
        let key = format!("key-{number}");
        assert_eq!(node.client().set(&key, value.as_bytes()), "STORED", "{key}");
    }
}

/// Items that the server has itself. Requests tell nothing of that: they are forwarded.
fn held(node: &Node) -> usize {
    node.rows_of("stats")["curr_items"].parse().expect("a number")
}

fn count(node: &Node, value: &str) -> usize {
    let has = |number: &usize| node.client().get(&format!("key-{number}")).as_deref() == Some(value.as_bytes());
    (0..KEYS).filter(has).count()
}

/// Born empty, replicated, failed over, replicated anew, and given up: with acknowledged writes all
/// the way.
#[test]
fn a_server_does_what_the_map_says() {
    let (locator, mut nodes) = start(&["a", "b", "c"]);
    let mut map = locator.born(&["a", "b", "c"]);
    let answer = nodes[0].client().set("key", b"1");
    assert!(answer.starts_with("SERVER_ERROR"), "nobody has said who writes: {answer}");
    let answer = nodes[0].client().ask("get key");
    assert!(answer.starts_with("SERVER_ERROR shard"), "nor who has it: {answer}");
    assert!(nodes[0].order("promote").contains("remora ctl cluster"), "roles are the map's alone");

    change(&mut map, 0, 2, Way::Empty);
    locator.say(&mut map);
    locator.wait_for("a", Role::Primary, 2, ALL);
    settle(&mut map, &[(1, Stage::Joining)]);
    let version = locator.say(&mut map);
    locator.wait_for("b", Role::Current, 2, ALL);
    locator.wait_for_version("a", version);
    set_all(&nodes[0], "one");
    assert_eq!((held(&nodes[1]), held(&nodes[2])), (KEYS, 0));
    wait_until("who has nothing has heard who is the primary, and asks it", || {
        let found = count(&nodes[2], "one");
        if found == KEYS { Ok(()) } else { Err(format!("{found} keys")) }
    });

    // The primary dies; who was in step goes on.
    drop(nodes.remove(0));
    map.servers[0].incarnation = None;
    change(&mut map, 1, 3, Way::Gather);
    locator.say(&mut map);
    locator.wait_for("b", Role::Primary, 3, ALL);
    assert_eq!(count(&nodes[0], "one"), KEYS, "nothing that was acknowledged is lost");
    settle(&mut map, &[(2, Stage::Joining)]);
    locator.say(&mut map);
    locator.wait_for("c", Role::Current, 3, ALL);
    set_all(&nodes[0], "two");
    assert_eq!(count(&nodes[1], "two"), KEYS);

    // A member that is taken out keeps what it has while it is leaving, and nothing afterwards.
    map.shards.iter_mut().for_each(|shard| shard.members[0].stage = Stage::Leaving(map.version + 1));
    let version = locator.say(&mut map);
    locator.wait_for_version("b", version);
    assert_eq!(held(&nodes[1]), KEYS);
    map.shards.iter_mut().for_each(|shard| shard.members.clear());
    locator.say(&mut map);
    locator.wait_for_nothing("c", ALL);
    assert_eq!((held(&nodes[1]), count(&nodes[0], "two")), (0, KEYS));
}

/// Only members are counted where a write waits for replicas, and a map is confirmed once that is
/// so.
#[test]
fn only_members_that_are_not_leaving_are_counted() {
    let (locator, nodes) = start(&["a", "b"]);
    let mut map = locator.born(&["a", "b"]);
    change(&mut map, 0, 2, Way::Empty);
    locator.say(&mut map);
    locator.wait_for("a", Role::Primary, 2, ALL);
    settle(&mut map, &[(1, Stage::Joining)]);
    locator.say(&mut map);
    locator.wait_for("b", Role::Current, 2, ALL);
    set_all(&nodes[0], "one");
    map.shards.iter_mut().for_each(|shard| shard.members[0].stage = Stage::Leaving(map.version + 1));
    let version = locator.say(&mut map);
    locator.wait_for_version("a", version);
    // It still follows: what is written comes there, and is not acknowledged by that.
    let mut client = nodes[0].server.connect();
    assert_eq!(client.ask("ms later 2 A0\r\n12"), "HD");
    wait_until("it comes to the replica that leaves", || {
        if held(&nodes[1]) == KEYS + 1 { Ok(()) } else { Err("not there") }
    });
    assert_eq!(client.ask("wait 1 200"), "REPLICAS 0", "the replica that leaves is not counted");
}

/// A write may rest on the member that leaves alone: it is not to be left out of a failover before
/// the others have that write as well.
#[test]
fn a_map_is_confirmed_once_the_members_that_stay_have_what_was_acknowledged() {
    let (locator, nodes) = start(&["a", "b", "c"]);
    let mut map = locator.born(&["a", "b", "c"]);
    change(&mut map, 0, 2, Way::Empty);
    locator.say(&mut map);
    locator.wait_for("a", Role::Primary, 2, ALL);
    settle(&mut map, &[(1, Stage::Joining), (2, Stage::Joining)]);
    let version = locator.say(&mut map);
    locator.wait_for("b", Role::Current, 2, ALL);
    locator.wait_for("c", Role::Current, 2, ALL);
    locator.wait_for_version("a", version);
    nodes[2].server.signal("STOP");
    set_all(&nodes[0], "one");
    map.shards.iter_mut().for_each(|shard| shard.members[0].stage = Stage::Leaving(map.version + 1));
    let leaving = locator.say(&mut map);
    wait_until("the primary counts as the map says", || {
        let report = locator.report("a");
        if report.map_version == leaving { Ok(()) } else { Err(format!("{report:?}")) }
    });
    let mut client = nodes[0].server.connect();
    assert_eq!(client.ask("wait 1 300"), "REPLICAS 0", "who leaves is not counted, and the other one stands still");
    assert_ne!(locator.report("a").unconfirmed, "", "map {leaving} is heeded, and not all is confirmed");
    nodes[2].server.signal("CONT");
    locator.wait_for_version("a", leaving);
    assert_eq!(count(&nodes[2], "one"), KEYS);
}

/// A process that has come up at a member's address has nothing of what the member had: its word
/// does not count in a failover, though the locator does not know of it yet.
#[test]
fn who_comes_up_at_a_members_address_does_not_stand_in_for_it() {
    let (locator, mut nodes) = start(&["a", "b", "c"]);
    let mut map = locator.born(&["a", "b", "c"]);
    change(&mut map, 0, 2, Way::Empty);
    locator.say(&mut map);
    locator.wait_for("a", Role::Primary, 2, ALL);
    settle(&mut map, &[(1, Stage::Joining), (2, Stage::Joining)]);
    locator.say(&mut map);
    locator.wait_for("b", Role::Current, 2, ALL);
    locator.wait_for("c", Role::Current, 2, ALL);
    drop(nodes.remove(0));
    map.servers[0].incarnation = None;
    // The member is another process than the one that runs there.
    let process = map.servers[2].incarnation.replace("0123456789abcdef".repeat(2));
    change(&mut map, 1, 3, Way::Gather);
    locator.say(&mut map);
    wait_until("the heir cannot begin", || {
        let report = locator.report("b");
        assert!(
            report.holdings.iter().all(|one| one.role != Role::Primary),
            "it has begun without a member: {report:?}"
        );
        let is_why = |words: &str| words.contains("another process");
        if report.failures.iter().any(|one| one.term == 3 && is_why(&one.words)) {
            Ok(())
        } else {
            Err(format!("{report:?}"))
        }
    });
    // Now it is the one that runs there.
    map.servers[2].incarnation = process;
    change(&mut map, 1, 4, Way::Gather);
    locator.say(&mut map);
    locator.wait_for("b", Role::Primary, 4, ALL);
}

/// Two servers take over from each other at the same time: each seals the other while it waits for
/// it.
#[test]
fn two_servers_take_over_from_each_other_at_once() {
    let (locator, nodes) = start(&["a", "b"]);
    let mut map = locator.born(&["a", "b"]);
    let (low, high) = map.shards.split_at_mut(SHARDS / 2);
    low.iter_mut()
        .for_each(|shard| shard.change = Some(Change { heir: 0, term: 2, way: Way::Empty, least: 0, gone: 0 }));
    high.iter_mut()
        .for_each(|shard| shard.change = Some(Change { heir: 1, term: 2, way: Way::Empty, least: 0, gone: 0 }));
    locator.say(&mut map);
    locator.wait_for("a", Role::Primary, 2, "0-3");
    locator.wait_for("b", Role::Primary, 2, "4-7");
    for shard in &mut map.shards {
        let change = shard.change.take().expect("a change");
        (shard.primary, shard.term) = (Some(change.heir), change.term);
        shard.members = vec![Member { server: 1 - change.heir, stage: Stage::Whole }];
    }
    locator.say(&mut map);
    locator.wait_for("a", Role::Current, 2, "4-7");
    locator.wait_for("b", Role::Current, 2, "0-3");
    for round in 3..13 {
        for shard in &mut map.shards {
            let heir = 1 - shard.primary.expect("a primary");
            shard.change = Some(Change { heir, term: round, way: Way::HandOver, least: 0, gone: 0 });
        }
        locator.say(&mut map);
        let (a, b) = if round % 2 == 1 { ("4-7", "0-3") } else { ("0-3", "4-7") };
        locator.wait_for("a", Role::Primary, round, a);
        locator.wait_for("b", Role::Primary, round, b);
        for shard in &mut map.shards {
            let change = shard.change.take().expect("a change");
            (shard.primary, shard.term) = (Some(change.heir), change.term);
            shard.members[0].server = 1 - change.heir;
        }
        locator.say(&mut map);
        locator.wait_for("a", Role::Current, round, b);
        locator.wait_for("b", Role::Current, round, a);
    }
    drop(nodes);
}

/// Another process that has the name of one that is dead has none of its roles, and a locator of
/// before is not heeded.
#[test]
fn roles_belong_to_processes_and_locators_of_before_are_not_heeded() {
    let (locator, nodes) = start(&["a"]);
    let mut map = locator.born(&["a"]);
    change(&mut map, 0, 2, Way::Empty);
    map.generation = 5;
    locator.say(&mut map);
    locator.wait_for("a", Role::Primary, 2, ALL);
    settle(&mut map, &[]);
    let version = locator.say(&mut map);
    locator.wait_for_version("a", version);
    assert_eq!(nodes[0].client().ask("ms key 1 A0\r\n1"), "HD");

    // A locator that has slept would take the shards away.
    let mut old = map.clone();
    (old.generation, old.version) = (4, map.version + 10);
    old.servers[0].incarnation = None;
    locator.say(&mut old);
    let why = wait_for_row(&nodes[0], "cluster_refused", |row| row.contains("generation"));
    assert!(why.contains('4') && why.contains('5'), "{why}");
    assert_eq!(nodes[0].text("cluster_map_version"), version.to_string());
    assert!(nodes[0].client().get("key").is_some());

    // The one in charge has seen another process of that name.
    map.version += 20;
    map.servers[0].incarnation = Some("0123456789abcdef".repeat(2));
    locator.say(&mut map);
    locator.wait_for_nothing("a", ALL);
    assert_eq!(held(&nodes[0]), 0, "it has nothing of what it had");
    assert!(nodes[0].client().ask("get key").starts_with("SERVER_ERROR"));
    assert!(nodes[0].client().ask("ms key 1 A0\r\n1").starts_with("SERVER_ERROR"));
}

#[test]
fn flags_that_make_no_sense_together_are_refused() {
    let locators = ["--locators", "127.0.0.1:7946"];
    for (arguments, words) in [
        (&["--zone", "one"][..], "--zone needs --locators"),
        (&["--host", "one"], "--host needs --locators"),
        (&locators, "--replication"),
        (&["--locators", "localhost", "--replication", "127.0.0.1:0"], "no port"),
        (&[&locators[..], &["--replication", "127.0.0.1:0", "--replica-of", "127.0.0.1:1"]].concat(), "--replica-of"),
    ] {
        let (status, said) = refused(arguments);
        assert!(!status.success() && said.contains(words), "{arguments:?}: {said}");
    }
}
