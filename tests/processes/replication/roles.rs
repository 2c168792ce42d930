//! Roles that change while everything runs: a replica is promoted, the others follow it from where
//! they are, the old primary comes back.

use super::orders::{command, ctl, ctl_fails};
use super::writers::{Traffic, Writers, write_batches};
use crate::node::{Node, in_sync, numbered_keys, on_each_fabric, same_items, side_by_side, wait_for_row};
use crate::proxy::Proxy;
use crate::support::wait::go_on_until;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Instant;

const KEYS: usize = 500;
const TRAFFIC: Traffic = Traffic { keys: KEYS, value_bytes_max: 5000 };

fn address(node: &Node) -> String {
    node.port().to_string()
}

/// A replica's ways to pull, and to be pushed to.
const WAYS: [&[&str]; 4] = [
    &["--fabric", "shm"],
    &["--fabric", "tcp"],
    &["--fabric", "shm", "--pullers", "3"],
    &["--fabric", "shm", "--replication-mode", "push"],
];

/// The first write that is taken, tried as fast as they are refused.
fn first_write(node: &Node, key: &str) {
    let mut client = node.server.connect();
    go_on_until("a write is taken", || match client.set(key, b"first").as_str() {
        "STORED" => true,
        refused => {
            assert!(refused.starts_with("SERVER_ERROR read-only"), "{refused}");
            false
        }
    });
}

/// What was told of the log before counts no more, by who cannot hear of the promotion either: an
/// acknowledgement would rest on what was given up since.
#[test]
fn what_those_below_acknowledged_before_a_promotion_counts_no_more() {
    let primary = Node::primary(&["-m", "16"]);
    let next = Node::middle(primary.port(), 0, &[]);
    let below = Node::replica(next.port(), &[]);
    write_batches(primary.server.tcp[0], 1, 10, TRAFFIC);
    in_sync(&primary, &[&next]);
    in_sync(&next, &[&below]);
    below.server.signal("STOP");
    ctl(&next, &["promote"]);
    let rows = next.rows();
    assert_eq!(rows["replicas"], "1", "its session goes on: {rows:?}");
    let lag_bytes: u64 = rows["replica_0_lag_bytes"].parse().expect("a number");
    assert!(lag_bytes > 1000, "only what was written since the promotion lags behind: {rows:?}");
    let of_replica = ["shards", "state"].map(|name| rows[&format!("replica_0_{name}")].as_str());
    assert_eq!(of_replica, ["none", "joining"], "it has to subscribe again: {rows:?}");
    below.server.signal("CONT");
    in_sync(&next, &[&below]);
}

/// Nothing that both had is pulled again.
#[test]
fn a_promoted_replica_is_followed_by_the_others_from_where_they_are() {
    side_by_side(&WAYS, |way| {
        let primary = Node::primary(&["-m", "16"]);
        let next = Node::standby(primary.port(), way);
        let other = Node::standby(primary.port(), way);
        write_batches(primary.server.tcp[0], 1, 60, TRAFFIC);
        in_sync(&primary, &[&next, &other]);
        let (before, old_term) = (same_items(&primary, &[&next, &other], &numbered_keys(KEYS)), next.text("term"));

        let begun_at = Instant::now();
        let ordered = command(&next, &["promote"]).stdout(Stdio::piped()).spawn().expect("it runs");
        first_write(&next, "first");
        println!("{way:?}: the first write {:?} after the order", begun_at.elapsed());
        let words = String::from_utf8(ordered.wait_with_output().expect("it ends").stdout).expect("text");
        let term = next.text("term");
        assert!(term != old_term && words.contains(&term), "{words}");
        assert_eq!((next.text("role").as_str(), next.text("order").as_str()), ("primary", "promote done"));

        let moved_at = Instant::now();
        let words = ctl(&other, &["replicate", &address(&next)]);
        println!("{way:?}: the other follows {:?} after its order: {}", moved_at.elapsed(), words.trim_end());
        write_batches(next.server.tcp[0], 2, 20, TRAFFIC);
        in_sync(&next, &[&other]);
        assert!(same_items(&next, &[&other], &numbered_keys(KEYS)) >= before / 2);
        assert_eq!(other.client().get("first").as_deref(), Some(&b"first"[..]));
        let rows = other.rows();
        let count = |name: &str| rows[name].parse::<u64>().expect("a number");
        let anew = count("shards_joined") + count("shards_overrun") + count("shards_diverged");
        assert!(count("shards_continued") > 0 && anew == 0, "{rows:?}");
        assert_eq!(rows["term"], term);
        let written = next.rows_of("stats")["log_appended_bytes"].parse::<u64>().expect("a number");
        assert!(count("pulled_bytes") < written, "only what is new was pulled: {rows:?}, {written}");
        let refusal = other.server.connect().set("k", b"x");
        assert!(refusal.contains(&next.server.tcp[0].to_string()), "{refusal}");
        ctl_fails(&next, &["promote"], "this is the primary already");
        wait_for_row(&primary, "replicas", |count| count == "0");
    });
}

/// A primary that stood still while another was promoted is told by who knows better, and joins as
/// a replica: what it alone had is gone, and nothing else is copied again.
#[test]
fn a_replaced_primary_passes_for_none_and_joins_again() {
    let old = Node::primary(&["-m", "16"]);
    let next = Node::standby(old.port(), &[]);
    let other = Node::standby(old.port(), &["--fabric", "tcp"]);
    write_batches(old.server.tcp[0], 3, 30, TRAFFIC);
    in_sync(&old, &[&next, &other]);
    let whole_bytes = old.appended_bytes();
    for replica in [&next, &other] {
        ctl(replica, &["detach"]);
    }
    let lost: Vec<String> = (0..40).map(|number| format!("lost-{number}")).collect();
    lost.iter().for_each(|key| assert_eq!(old.client().set(key, b"never seen elsewhere"), "STORED"));
    old.server.signal("STOP");
    ctl(&next, &["promote"]);
    ctl(&other, &["replicate", &address(&next)]);
    write_batches(next.server.tcp[0], 4, 10, TRAFFIC);
    in_sync(&next, &[&other]);

    old.server.signal("CONT");
    assert_eq!(
        (old.text("role").as_str(), old.client().get("lost-7").is_some()),
        ("primary", true),
        "alone, it goes on"
    );
    ctl_fails(&other, &["replicate", &address(&old)], "it was replaced");
    assert_eq!(other.text("state"), "following", "of the one that counts, still");

    let words = ctl(&old, &["replicate", &address(&next)]);
    assert!(words.contains(" went back to where their logs part; dropped"), "{words}");
    assert!(words.contains("never had it: 40 records, "), "{words}");
    in_sync(&next, &[&other, &old]);
    let rows = old.rows();
    assert_eq!((rows["role"].as_str(), rows["diverged_records"].as_str()), ("replica", "40"), "{rows:?}");
    assert!(rows["shards_truncated"].parse::<u64>().is_ok_and(|count| count > 0), "{rows:?}");
    assert_eq!(["shards_diverged", "shards_joined", "shards_overrun"].map(|name| old.number(name)), [0; 3]);
    assert!(old.number("pulled_bytes") < whole_bytes, "{} of {whole_bytes}", old.number("pulled_bytes"));
    assert!(rows["diverged_bytes"].parse::<u64>().is_ok_and(|bytes| bytes >= 40 * 40), "{rows:?}");
    assert!(old.items(&lost).is_empty() && next.items(&lost).is_empty());
    assert!(same_items(&next, &[&other, &old], &numbered_keys(KEYS)) > 0);
}

/// An address that the old primary takes back is not followed there, and is again once the new one
/// has it.
#[test]
fn a_replica_that_comes_back_to_a_replaced_primary_refuses_it() {
    let old = Node::primary(&["-m", "16"]);
    let next = Node::standby(old.port(), &[]);
    let way = Proxy::to(old.port());
    let other = Node::replica(way.address, &["--fabric", "shm"]);
    write_batches(old.server.tcp[0], 5, 5, TRAFFIC);
    in_sync(&old, &[&next, &other]);
    ctl(&next, &["promote"]);
    way.redirect(next.port());
    way.cut();
    in_sync(&next, &[&other]);
    assert_eq!((other.number("shards_diverged"), other.number("shards_overrun")), (0, 0));

    way.redirect(old.port());
    way.cut();
    wait_for_row(&other, "state", |state| state == "refused");
    wait_for_row(&other, "trouble", |trouble| trouble.contains("it was replaced"));
    assert_eq!(next.client().set("later", b"1"), "STORED");
    way.redirect(next.port());
    way.cut();
    in_sync(&next, &[&other]);
    assert_eq!(other.client().get("later").as_deref(), Some(&b"1"[..]));
}

/// A flush that is asked for and not due yet outlives the primary that was asked.
#[test]
fn a_delayed_flush_is_executed_by_who_is_promoted() {
    let primary = Node::primary(&["-m", "16"]);
    let next = Node::standby(primary.port(), &[]);
    let mut client = primary.server.connect();
    assert_eq!(client.set("before", b"1"), "STORED");
    assert_eq!(client.ask("flush_all 2"), "OK");
    in_sync(&primary, &[&next]);
    primary.server.signal("KILL");
    ctl(&next, &["promote"]);
    let mut client = next.server.connect();
    go_on_until("the flush is executed", || client.get("before").is_none());
    assert_eq!(client.set("after", b"2"), "STORED");
    for _ in 0..10 {
        assert_eq!(next.server.connect().get("after").as_deref(), Some(&b"2"[..]));
    }
    assert_eq!(client.get("before"), None);
}

/// There and back: each is the primary once, and loses nothing of what was in sync.
#[test]
fn roles_go_there_and_back() {
    let one = Node::primary(&["-m", "16"]);
    let two = Node::standby(one.port(), &["--fabric", "shm"]);
    let mut nodes = [&one, &two];
    for round in 0..6 {
        let [primary, replica] = nodes;
        let key = format!("round-{round}");
        assert_eq!(primary.client().set(&key, key.as_bytes()), "STORED");
        write_batches(primary.server.tcp[0], round, 5, TRAFFIC);
        in_sync(primary, &[replica]);
        // Planned: first no more writes, then the rest comes over, then the other takes them.
        ctl(primary, &["replicate", &address(replica)]);
        ctl(replica, &["promote", "--gather", &address(primary)]);
        nodes = [replica, primary];
    }
    in_sync(nodes[0], &[nodes[1]]);
    let keys: Vec<String> = (0..6).map(|round| format!("round-{round}")).chain(numbered_keys(KEYS)).collect();
    assert!(same_items(nodes[0], &[nodes[1]], &keys) > 6);
    (0..6).for_each(|round| assert!(nodes[0].client().get(&format!("round-{round}")).is_some(), "round {round}"));
    assert_eq!((nodes[1].number("diverged_records"), nodes[1].text("terms_known").as_str()), (0, "7"));
}

/// What one replica has and the promoted one lacks comes over first; then nobody has anything to
/// drop.
#[test]
fn a_promotion_gathers_what_the_others_have() {
    side_by_side(&WAYS, |way| {
        let primary = Node::primary(&["-m", "16"]);
        let next = Node::standby(primary.port(), way);
        let (behind, ahead) = (Node::standby(primary.port(), way), Node::standby(primary.port(), way));
        write_batches(primary.server.tcp[0], 6, 10, TRAFFIC);
        in_sync(&primary, &[&next, &behind, &ahead]);
        ctl(&next, &["detach"]);
        ctl(&behind, &["detach"]);
        write_batches(primary.server.tcp[0], 7, 10, TRAFFIC);
        assert_eq!(primary.client().set("late", b"late"), "STORED");
        in_sync(&primary, &[&ahead]);
        // Only values are compared, because times to live go by.
        let values = |node: &Node| -> BTreeMap<String, Vec<u8>> {
            node.items(&numbered_keys(KEYS)).into_iter().map(|(key, item)| (key, item.value)).collect()
        };
        let expected = values(&primary);
        drop(primary);
        assert_eq!(next.client().get("late"), None);
        let in_vain = ["promote", "--gather", &address(&ahead), "--gather", "127.0.0.1:1"];
        ctl_fails(&next, &in_vain, "leave that replica out");
        assert_eq!(next.text("role"), "replica");
        // Who has most of a shard may stand anywhere in the order.
        ctl(&next, &["promote", "--gather", &address(&behind), "--gather", &address(&ahead)]);
        assert_eq!(next.client().get("late").as_deref(), Some(&b"late"[..]));
        assert!(values(&next) == expected, "all that was acknowledged to one replica");
        ctl(&ahead, &["replicate", &address(&next)]);
        write_batches(next.server.tcp[0], 8, 10, TRAFFIC);
        in_sync(&next, &[&ahead]);
        assert_eq!((ahead.number("shards_diverged"), ahead.number("shards_overrun")), (0, 0));
        assert!(same_items(&next, &[&ahead], &numbered_keys(KEYS)) > 0);
    });
}

/// The log of a replica is as full as its primary's. While writers wait, and readers look on.
#[test]
fn a_full_replica_is_promoted_under_load() {
    on_each_fabric(|fabric| {
        let primary = Node::primary(&["-m", "4", "-I", "64k"]);
        let next = Node::standby(primary.port(), &["--fabric", fabric]);
        let traffic = Traffic { keys: 20_000, value_bytes_max: 20_000 };
        write_batches(primary.server.tcp[0], 9, 400, traffic);
        assert_ne!(primary.rows_of("stats")["log_reclaimed_bytes"], "0", "the logs are full");
        let writers = Writers::start(&primary, 2, traffic);
        wait_for_row(&next, "records", |count| count.parse::<u64>().is_ok_and(|count| count > 1000));
        // So small a log is overrun now and then, and then a shard has nothing for a moment.
        println!("{fabric}: {}", ctl(&next, &["promote", "--incomplete"]));
        writers.stop();
        write_batches(next.server.tcp[0], 10, 100, traffic);
        let words = ctl(&primary, &["replicate", &address(&next)]);
        in_sync(&next, &[&primary]);
        assert!(same_items(&next, &[&primary], &numbered_keys(traffic.keys)) > 0, "{words}");
        assert_eq!(primary.number("bad_records"), 0);
    });
}
