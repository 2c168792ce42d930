//! `--replica-retain`: writers wait for a replica that is slow, and not for one that stands still;
//! no write fails for it.

use super::writers::{Traffic, write_batches};
use crate::node::{Node, in_sync, numbered_keys, same_items, side_by_side, wait_for_count, wait_for_row, wait_until};
use crate::support::Client;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const KEYS: usize = 3000;
const TRAFFIC: Traffic = Traffic { keys: KEYS, value_bytes_max: 20_000 };
const LOG_BYTES: u64 = 4 << 20;

fn pair(retain: &str, fabric: &str) -> (Node, Node) {
    let primary = Node::primary(&["-m", "4", "-I", "64k", "--replication-timeout", "60", "--replica-retain", retain]);
    let replica = Node::replica(primary.port(), &["--fabric", fabric, "--replication-timeout", "60"]);
    write_batches(primary.server.tcp[0], 1, 5, TRAFFIC);
    in_sync(&primary, &[&replica]);
    (primary, replica)
}

/// Sets, one by one, until so many bytes were sent; each must be stored. Returns the longest that
/// one took.
fn set_all(address: SocketAddr, bytes: u64) -> Duration {
    let (mut client, value) = (Client::tcp(address), vec![b'v'; 4000]);
    let mut longest = Duration::ZERO;
    for number in 0..bytes / 4000 {
        let begun_at = Instant::now();
        assert_eq!(client.set(&format!("key-{}", number % KEYS as u64), &value), "STORED", "set {number}");
        longest = longest.max(begun_at.elapsed());
    }
    longest
}

/// Without it the tail does not wait; with it, for as long as writers can bear it, and then it says
/// so.
#[test]
fn a_replica_that_stands_still_is_let_go_and_no_write_fails() {
    side_by_side(&["0", "4m"], |retain| {
        let (primary, replica) = pair(retain, "shm");
        replica.server.signal("STOP");
        let longest = set_all(primary.server.tcp[0], 3 * LOG_BYTES);
        let rows = primary.rows();
        replica.server.signal("CONT");
        if retain == "0" {
            assert!(!rows.contains_key("replicas_let_go") && !rows.contains_key("replica_0_retain"), "{rows:?}");
        } else {
            assert_eq!((rows["replicas_let_go"].as_str(), rows["replica_0_retain"].as_str()), ("1", "let_go"));
            assert_eq!(rows["replica_retain_bytes"], (4 << 20).to_string());
            assert!(longest >= Duration::from_secs(1), "a write has waited for it, but {longest:?} is all");
            let said = std::iter::from_fn(|| primary.server.next_log_line()).find(|line| line.contains("is let go"));
            assert!(said.as_ref().is_some_and(|line| line.contains("for it")), "its session says why: {said:?}");
        }
        wait_for_count(&replica, "shards_overrun", 1);
        in_sync(&primary, &[&replica]);
        assert!(same_items(&primary, &[&replica], &numbered_keys(KEYS)) > 0);
        if retain != "0" {
            // Close again, it counts again: that is found out when the tail is about to pass it.
            set_all(primary.server.tcp[0], 2 * LOG_BYTES);
            in_sync(&primary, &[&replica]);
            replica.server.signal("STOP");
            set_all(primary.server.tcp[0], 2 * LOG_BYTES);
            replica.server.signal("CONT");
            wait_for_row(&primary, "replicas_let_go", |count| count == "2");
        }
    });
}

/// It stops and goes on, in turns: each time for less than writers can bear, and then until it has
/// come up with them. Behind by a log now and then, it is overrun only where nobody waits.
#[test]
fn a_slow_replica_is_waited_for() {
    side_by_side(&["0", "4m"], stop_and_go);
}

fn stop_and_go(retain: &str) {
    let (primary, replica) = pair(retain, "shm");
    let address = primary.server.tcp[0];
    let writer = std::thread::spawn(move || (0..6).map(|_| set_all(address, LOG_BYTES)).max());
    while !writer.is_finished() {
        replica.server.signal("STOP");
        if retain == "0" {
            let goal = primary.appended_bytes() + LOG_BYTES;
            wait_until("a log is written over", || {
                let appended = primary.appended_bytes();
                if appended > goal || writer.is_finished() { Ok(()) } else { Err(format!("{appended} of {goal}")) }
            });
        } else {
            std::thread::sleep(Duration::from_millis(200));
        }
        replica.server.signal("CONT");
        wait_until("it has come up", || {
            let behind = primary.number("replica_0_lag_bytes");
            if behind < LOG_BYTES / 4 || writer.is_finished() { Ok(()) } else { Err(format!("{behind} behind")) }
        });
    }
    writer.join().expect("every write was stored");
    in_sync(&primary, &[&replica]);
    if retain == "0" {
        wait_for_count(&replica, "shards_overrun", 1);
    } else {
        assert_eq!((primary.number("replicas_let_go"), replica.number("shards_overrun")), (0, 0));
    }
    assert!(same_items(&primary, &[&replica], &numbered_keys(KEYS)) > 0);
}
