//! A primary of another lineage: restarted empty, or another cluster's. A replica that holds data
//! refuses it, serves on, and goes on trying; until it is told to discard what it has.

use super::orders::{ctl, ctl_fails};
use super::writers::{Traffic, write_batches};
use crate::node::{
    Node, fixed_port, in_sync, numbered_keys, on_each_fabric, same_items, wait_for_count, wait_for_row, wait_until,
};
use crate::proxy::Proxy;

const KEYS: usize = 200;
const TRAFFIC: Traffic = Traffic { keys: KEYS, value_bytes_max: 2000 };

fn kill(mut node: Node) {
    node.server.signal("KILL");
    node.server.wait();
}

fn wait_for_refusal(node: &Node) {
    wait_for_row(node, "state", |state| state == "refused");
    wait_for_row(node, "trouble", |trouble| trouble.contains("another lineage"));
}

fn value(node: &Node, key: &str) -> Option<String> {
    node.client().get(key).map(|value| String::from_utf8(value).expect("text"))
}

/// The supervisor is faster than the operator: the primary is back at once, and has nothing.
#[test]
fn a_primary_that_restarts_empty_does_not_empty_its_replica() {
    on_each_fabric(|fabric| {
        let (client_port, replication_port) = (fixed_port(), fixed_port());
        let primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
        write_batches(primary.server.tcp[0], 1, 20, TRAFFIC);
        assert_eq!(primary.client().set("old", b"kept"), "STORED");
        let replica = Node::replica(primary.port(), &["--fabric", fabric]);
        in_sync(&primary, &[&replica]);
        let before = replica.items(&numbered_keys(KEYS)).len();
        kill(primary);

        let primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
        assert_eq!(primary.client().set("new", b"1"), "STORED");
        wait_for_refusal(&replica);
        let said = std::iter::from_fn(|| replica.server.next_log_line());
        let line = said.into_iter().find(|line| line.contains("another lineage")).expect("it is in the log");
        assert!(line.contains("--discard"), "the log says what to do: {line}");
        // It goes on trying, and goes on refusing.
        let tries = replica.number("failed_tries");
        wait_for_count(&replica, "failed_tries", tries + 2);
        assert_eq!((value(&replica, "old").as_deref(), value(&replica, "new")), (Some("kept"), None));
        assert!(replica.items(&numbered_keys(KEYS)).len() >= before / 2, "only what has expired is missing");
        let refusal = replica.client().set("own", b"1");
        assert!(refusal.starts_with("SERVER_ERROR read-only"), "{refusal}");
        assert_eq!((replica.number("sessions"), replica.number("shards_diverged")), (1, 0));

        // An order that does not say so changes nothing; one that does is carried out.
        let address = primary.port().to_string();
        ctl_fails(&replica, &["replicate", &address], "another lineage");
        assert_eq!(value(&replica, "old").as_deref(), Some("kept"));
        ctl(&replica, &["replicate", "--discard", &address]);
        write_batches(primary.server.tcp[0], 2, 5, TRAFFIC);
        in_sync(&primary, &[&replica]);
        assert_eq!((value(&replica, "old"), value(&replica, "new").as_deref()), (None, Some("1")));
        assert!(same_items(&primary, &[&replica], &numbered_keys(KEYS)) > 0);
    });
}

/// A replica that refuses its primary goes on trying. The primary counts none of that as an
/// admission, and says once who it is and why.
#[test]
fn a_primary_is_told_why_a_replica_does_not_follow_it() {
    let (client_port, replication_port) = (fixed_port(), fixed_port());
    let primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
    write_batches(primary.server.tcp[0], 1, 10, TRAFFIC);
    let replica = Node::replica(primary.port(), &["--replica-name", "keeper"]);
    in_sync(&primary, &[&replica]);
    kill(primary);
    let primary = Node::primary_at(client_port, replication_port, &["-m", "16", "-v"]);
    wait_for_refusal(&replica);
    let tries = replica.number("failed_tries");
    wait_for_count(&replica, "failed_tries", tries + 3);
    assert_eq!((primary.number("replicas_admitted"), primary.number("replicas_ended")), (0, 0));
    primary.server.signal("TERM");
    let lines: Vec<String> = std::iter::from_fn(|| primary.server.next_log_line()).collect();
    let told: Vec<&String> = lines.iter().filter(|line| line.contains("keeper")).collect();
    assert!(
        told.len() == 1 && told[0].contains("does not follow this server") && told[0].contains("lineage"),
        "{lines:?}"
    );
    assert!(!lines.iter().any(|line| line.contains("the peer closed")), "{lines:?}");
}

/// The order gives up what was held then, for the primary that was there then. A later one that
/// comes back empty is refused again.
#[test]
fn an_order_to_discard_counts_once() {
    let (client_port, replication_port) = (fixed_port(), fixed_port());
    let mut primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
    assert_eq!(primary.client().set("k", b"0"), "STORED");
    let replica = Node::replica(primary.port(), &[]);
    in_sync(&primary, &[&replica]);
    for round in ["1", "2"] {
        kill(primary);
        primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
        assert_eq!(primary.client().set("k", round.as_bytes()), "STORED");
        wait_for_refusal(&replica);
        assert_ne!(value(&replica, "k").as_deref(), Some(round));
        ctl(&replica, &["replicate", "--discard", &primary.port().to_string()]);
        in_sync(&primary, &[&replica]);
        assert_eq!(value(&replica, "k").as_deref(), Some(round));
    }
}

/// A primary of the replica's own lineage that takes the address over is followed again, without a
/// word: here a replica that was promoted.
#[test]
fn its_own_lineage_is_followed_when_it_comes_back() {
    let old = Node::primary(&["-m", "16"]);
    let way = Proxy::to(old.port());
    let next = Node::standby(old.port(), &[]);
    let replica = Node::replica(way.address, &[]);
    write_batches(old.server.tcp[0], 1, 10, TRAFFIC);
    in_sync(&old, &[&next, &replica]);
    let stranger = Node::primary(&["-m", "16"]);
    assert_eq!(stranger.client().set("foreign", b"1"), "STORED");
    way.redirect(stranger.port());
    way.cut();
    wait_for_refusal(&replica);
    ctl(&next, &["promote"]);
    assert_eq!(next.client().set("after", b"1"), "STORED");
    way.redirect(next.port());
    in_sync(&next, &[&replica]);
    assert_eq!(replica.number("shards_diverged") + replica.number("shards_overrun"), 0, "{:?}", replica.rows());
    assert_eq!((value(&replica, "after").as_deref(), value(&replica, "foreign")), (Some("1"), None));
    assert!(same_items(&next, &[&replica], &numbered_keys(KEYS)) > 0);
}

/// The old way, for those who want it: a cache that had better be empty than stale.
#[test]
fn a_replica_that_was_started_to_discard_follows_whoever_comes_back() {
    let (client_port, replication_port) = (fixed_port(), fixed_port());
    let primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
    write_batches(primary.server.tcp[0], 1, 20, TRAFFIC);
    assert_eq!(primary.client().set("old", b"1"), "STORED");
    let replica = Node::replica(primary.port(), &["--replica-discard"]);
    in_sync(&primary, &[&replica]);
    kill(primary);
    wait_for_row(&replica, "state", |state| state == "connecting");
    assert_eq!(value(&replica, "old").as_deref(), Some("1"), "it serves on until then");
    let primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
    assert_eq!(primary.client().set("new", b"1"), "STORED");
    wait_for_count(&replica, "shards_diverged", 1);
    write_batches(primary.server.tcp[0], 2, 3, TRAFFIC);
    in_sync(&primary, &[&replica]);
    assert_eq!((value(&replica, "old"), value(&replica, "new").as_deref()), (None, Some("1")));
    assert!(same_items(&primary, &[&replica], &numbered_keys(KEYS)) > 0);
}

/// A replica that has nothing to lose follows anybody: its primary was as empty as the next one is.
#[test]
fn an_empty_replica_follows_anybody() {
    let (client_port, replication_port) = (fixed_port(), fixed_port());
    let primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
    let replica = Node::replica(primary.port(), &[]);
    in_sync(&primary, &[&replica]);
    kill(primary);
    let primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
    assert_eq!(primary.client().set("new", b"1"), "STORED");
    in_sync(&primary, &[&replica]);
    assert_eq!(value(&replica, "new").as_deref(), Some("1"));
}

/// In a chain each server keeps its own: the one in the middle refuses and keeps those below, and
/// once it is told to discard, they refuse it in turn. Whatever is given up above, a replica gives
/// up nothing before it was told to itself.
#[test]
fn every_replica_of_a_chain_keeps_what_it_has_until_it_is_told() {
    on_each_fabric(|fabric| {
        let (client_port, replication_port) = (fixed_port(), fixed_port());
        let primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
        let way = ["--fabric", fabric, "--pullers", "2"];
        let middle = Node::middle(primary.port(), 0, &way);
        // It spins, so it sees whatever the middle's lines show in between.
        let last = Node::replica(middle.port(), &[&way[..], &["--replica-poll", "0"]].concat());
        write_batches(primary.server.tcp[0], 1, 10, TRAFFIC);
        assert_eq!(primary.client().set("old", b"kept"), "STORED");
        in_sync(&primary, &[&middle]);
        in_sync(&middle, &[&last]);
        kill(primary);
        let primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
        assert_eq!(primary.client().set("new", b"1"), "STORED");
        wait_for_refusal(&middle);
        assert_eq!((last.text("state").as_str(), last.number("sessions")), ("following", 1), "it does not notice");
        assert_eq!(value(&last, "old").as_deref(), Some("kept"));

        ctl(&middle, &["replicate", "--discard", &primary.port().to_string()]);
        wait_until("the middle has what the primary has", || match value(&middle, "new") {
            Some(_) => Ok(()),
            None => Err("it has not"),
        });
        wait_for_refusal(&last);
        let tries = last.number("failed_tries");
        wait_for_count(&last, "failed_tries", tries + 2);
        assert_eq!((value(&last, "old").as_deref(), value(&last, "new")), (Some("kept"), None));
        assert_eq!(last.number("shards_diverged") + last.number("shards_overrun"), 0, "{:?}", last.rows());

        ctl(&last, &["replicate", "--discard", &middle.port().to_string()]);
        in_sync(&middle, &[&last]);
        assert_eq!((value(&last, "old"), value(&last, "new").as_deref()), (None, Some("1")));
    });
}
