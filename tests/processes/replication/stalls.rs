//! Processes that stand still for a while: each side notices, says so, and goes on afterwards.

use super::writers::{Traffic, write_batches};
use crate::node::{Node, in_sync, numbered_keys, on_each_fabric, same_items, wait_for_count, wait_for_row};

const KEYS: usize = 3000;
const TRAFFIC: Traffic = Traffic { keys: KEYS, value_bytes_max: 40_000 };

/// While the replica stands still, the primary's log goes round several times: what comes next is
/// gone, and it goes on at the tail.
#[test]
fn a_replica_that_was_overrun_goes_on_at_the_tail() {
    on_each_fabric(|fabric| {
        let primary = Node::primary(&["-m", "4", "-I", "64k", "--replication-timeout", "60"]);
        let replica = Node::replica(primary.port(), &["--fabric", fabric, "--replication-timeout", "60"]);
        write_batches(primary.server.tcp[0], 1, 20, TRAFFIC);
        in_sync(&primary, &[&replica]);
        assert_eq!(replica.number("shards_overrun"), 0);
        replica.server.signal("STOP");
        let appended = || primary.rows_of("stats")["log_appended_bytes"].parse::<u64>().expect("a number");
        let until = appended() + 4 * (4 << 20);
        for seed in 2.. {
            write_batches(primary.server.tcp[0], seed, 50, TRAFFIC);
            if appended() > until {
                break;
            }
        }
        replica.server.signal("CONT");
        wait_for_count(&replica, "shards_overrun", 1);
        in_sync(&primary, &[&replica]);
        assert!(same_items(&primary, &[&replica], &numbered_keys(KEYS)) > 0);
        assert_eq!((replica.number("sessions"), replica.number("shards_diverged")), (1, 0));
        assert!(primary.number("replica_0_resyncs") >= 1);
    });
}

/// It loses its place after the time that was set, with all that it held, and comes back when it
/// goes on.
#[test]
fn a_replica_that_is_silent_loses_its_place_and_comes_back() {
    on_each_fabric(|fabric| {
        let primary = Node::primary(&["-m", "16", "--replication-timeout", "3"]);
        let before = primary.holds();
        let replica = Node::replica(primary.port(), &["--fabric", fabric]);
        in_sync(&primary, &[&replica]);
        replica.server.signal("STOP");
        wait_for_row(&primary, "replicas", |count| count == "0");
        primary.comes_back_to(before);
        assert_eq!(primary.client().set("key-0", b"meanwhile"), "STORED");
        replica.server.signal("CONT");
        wait_for_count(&replica, "sessions", 2);
        in_sync(&primary, &[&replica]);
        assert_eq!(replica.client().get("key-0").as_deref(), Some(&b"meanwhile"[..]));
        assert_eq!(replica.number("shards_joined"), replica.number("shards_continued"), "{:?}", replica.rows());
    });
}

/// The replica serves what it has, says why it does not follow, and follows again by itself.
#[test]
fn a_replica_serves_on_while_its_primary_stands_still() {
    on_each_fabric(|fabric| {
        let primary = Node::primary(&["-m", "16"]);
        let replica = Node::replica(primary.port(), &["--fabric", fabric, "--replication-timeout", "3"]);
        assert_eq!(primary.client().set("key-0", b"before"), "STORED");
        in_sync(&primary, &[&replica]);
        let joined = replica.number("shards_joined");
        primary.server.signal("STOP");
        wait_for_row(&replica, "state", |state| state == "connecting");
        wait_for_row(&replica, "trouble", |trouble| {
            trouble.contains("said nothing") || trouble.contains("not answered")
        });
        assert_eq!(replica.client().get("key-0").as_deref(), Some(&b"before"[..]));
        assert!(replica.client().set("key-0", b"mine").starts_with("SERVER_ERROR read-only replica"));
        primary.server.signal("CONT");
        assert_eq!(primary.client().set("key-0", b"after"), "STORED");
        wait_for_count(&replica, "sessions", 2);
        in_sync(&primary, &[&replica]);
        assert_eq!(replica.client().get("key-0").as_deref(), Some(&b"after"[..]));
        assert_eq!((replica.text("trouble").as_str(), replica.number("shards_joined")), ("none", joined));
    });
}

/// Neither side's end waits for the other, whatever state that is in.
#[test]
fn a_process_ends_though_the_other_stands_still() {
    for stopped in ["primary", "replica"] {
        let mut primary = Node::primary(&["-m", "16"]);
        let mut replica = Node::replica(primary.port(), &["--fabric", "tcp", "--replication-timeout", "3"]);
        in_sync(&primary, &[&replica]);
        let (still, ending) = if stopped == "primary" { (&primary, &mut replica) } else { (&replica, &mut primary) };
        still.server.signal("STOP");
        if stopped == "primary" {
            // Then it is in the next handshake, or about to begin it.
            wait_for_count(ending, "failed_tries", 2);
        }
        ending.server.signal("TERM");
        let status = ending.server.wait();
        assert!(status.success(), "the {stopped} stands still: {status}");
    }
}

/// A primary that stands still shows its lines over shared memory as if nothing were wrong. That
/// what they show is not of now is seen by its beat, also further down the chain.
#[test]
fn a_primary_that_stands_still_is_told_by_its_beat() {
    on_each_fabric(|fabric| beat_is_followed(&["--fabric", fabric]));
}

#[test]
fn a_beat_is_pushed_as_well() {
    beat_is_followed(&["--fabric", "shm", "--replication-mode", "push"]);
}

fn beat_is_followed(how: &[&str]) {
    let primary = Node::primary(&[]);
    let middle = Node::middle(primary.port(), 0, how);
    let last = Node::replica(middle.port(), how);
    assert_eq!(primary.client().set("key", b"value"), "STORED");
    in_sync(&primary, &[&middle]);
    in_sync(&middle, &[&last]);
    let staleness = |bound: fn(u64) -> bool| {
        for node in [&middle, &last] {
            wait_for_row(node, "staleness_ms", |row| row.parse().is_ok_and(bound));
        }
    };
    staleness(|milliseconds| milliseconds < 1000);
    primary.server.signal("STOP");
    staleness(|milliseconds| milliseconds > 1000);
    for node in [&middle, &last] {
        let rows = node.rows();
        let row = |name: &str| rows[name].as_str();
        assert_eq!((row("state"), row("lag_bytes"), row("primary_serves")), ("following", "0", "yes"));
    }
    primary.server.signal("CONT");
    staleness(|milliseconds| milliseconds < 1000);
    // The middle takes over, and with it the beat.
    assert_eq!(middle.order("promote"), "OK");
    wait_for_row(&middle, "order", |row| row == "promote done");
    assert!(!middle.rows().contains_key("staleness_ms"), "its own writes are of now");
    wait_for_row(&last, "staleness_ms", |row| row.parse().is_ok_and(|milliseconds: u64| milliseconds < 500));
    middle.server.signal("STOP");
    wait_for_row(&last, "staleness_ms", |row| row.parse().is_ok_and(|milliseconds: u64| milliseconds > 1000));
    middle.server.signal("CONT");
}
