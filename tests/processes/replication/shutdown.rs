//! The orderly end of a primary: nothing that it has answered is lost while a replica is there to
//! take it.

use crate::node::{LONG, Node, on_each_fabric, same_items, wait_until};
use crate::proxy::Proxy;
use crate::support::Server;
use std::time::Instant;

const SETS: usize = 20_000;

fn keys() -> Vec<String> {
    (0..SETS).map(|number| format!("key-{number}")).collect()
}

/// Set all keys to `value`, pipelined, and take every answer.
fn set_all(primary: &Node, value: &str) {
    let mut client = primary.client();
    for batch in keys().chunks(500) {
        let requests: String =
            batch.iter().map(|key| format!("set {key} 0 0 {}\r\n{value}\r\n", value.len())).collect();
        client.send(requests.as_bytes());
        batch.iter().for_each(|key| assert_eq!(client.line(), "STORED", "{key}"));
    }
}

fn follows(replica: &Node) {
    wait_until("it follows", || {
        let state = replica.text("state");
        if state == "following" { Ok(()) } else { Err(state) }
    });
}

/// The first line of the log that has these words.
fn said(server: &Server, words: &str) -> String {
    let mut lines = std::iter::from_fn(|| server.next_log_line());
    lines.find(|line| line.contains(words)).unwrap_or_else(|| panic!("nothing in the log about \"{words}\""))
}

/// How many of the keys have this value.
fn holding(replica: &Node, value: &str) -> usize {
    let items = replica.items(&keys());
    items.values().filter(|shown| shown.value == value.as_bytes()).count()
}

#[test]
fn what_was_answered_before_sigterm_reaches_a_replica_that_is_late() {
    on_each_fabric(|fabric| {
        for (signal, mode) in [("TERM", "pull"), ("INT", "pull"), ("USR1", "pull"), ("TERM", "push")] {
            if (fabric, mode) == ("tcp", "push") {
                continue;
            }
            let mut primary = Node::primary(&["-v"]);
            let replica = Node::replica(primary.port(), &["--fabric", fabric, "--replication-mode", mode]);
            follows(&replica);
            replica.server.signal("STOP");
            set_all(&primary, signal);
            primary.server.signal(signal);
            // It closes listeners and clients before it waits for replicas.
            assert_eq!(primary.client().until_closed(), b"");
            said(&primary.server, "waiting until 1 replicas have the last");
            replica.server.signal("CONT");
            assert!(primary.server.wait().success());
            assert_eq!(holding(&replica, signal), SETS, "{signal} over {fabric}, {mode}");
        }
    });
}

#[test]
fn a_replica_that_stands_still_is_waited_for_no_longer_than_said() {
    let mut primary = Node::primary(&["--shutdown-timeout", "1"]);
    let replica = Node::replica(primary.port(), &["--replica-name", "sleeper"]);
    follows(&replica);
    replica.server.signal("STOP");
    set_all(&primary, "lost");
    let lag = wait_until("the lag is seen", || {
        let lag = primary.number("replica_0_lag_bytes");
        if lag > 20 * SETS as u64 { Ok(lag) } else { Err(lag) }
    });
    primary.server.signal("TERM");
    assert!(primary.server.wait().success());
    let line = said(&primary.server, "--shutdown-timeout");
    assert!(line.contains("replica sleeper (127.0.0.1:") && line.contains(&format!("lacks {lag} bytes")), "{line}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (second, status) in [("TERM", 143), ("INT", 130)] {
        let mut primary = Node::primary(&["-v", "--shutdown-timeout", "3600"]);
        let replica = Node::replica(primary.port(), &[]);
        follows(&replica);
        replica.server.signal("STOP");
        set_all(&primary, "lost");
        primary.server.signal("TERM");
        said(&primary.server, "waiting until 1 replicas have the last");
        primary.server.signal(second);
        assert_eq!(primary.server.wait().code(), Some(status));
        said(&primary.server, &format!("SIG{second} while the end is under way"));
    }
}

#[test]
fn a_replica_that_has_gone_is_not_waited_for_and_told_of() {
    let mut primary = Node::primary(&["-v", "--shutdown-timeout", "3600"]);
    let proxy = Proxy::to(primary.port());
    let replica = Node::replica(proxy.address, &["--fabric", "shm", "--replica-name", "leaver"]);
    follows(&replica);
    replica.server.signal("STOP");
    set_all(&primary, "lost");
    primary.server.signal("TERM");
    said(&primary.server, "waiting until 1 replicas have the last");
    proxy.cut();
    assert!(primary.server.wait().success());
    let line = said(&primary.server, "has gone while it lacked");
    assert!(line.contains("replica leaver ("), "{line}");
}

#[test]
fn a_replica_that_has_just_gone_has_a_moment_to_come_back_and_is_told_of() {
    let mut primary = Node::primary(&["--shutdown-timeout", "3600"]);
    let replica = Node::replica(primary.port(), &["--replica-name", "lost"]);
    follows(&replica);
    replica.server.signal("KILL");
    wait_until("the primary sees it", || {
        let attached = primary.number("replicas");
        if attached == 0 { Ok(()) } else { Err(attached) }
    });
    primary.server.signal("TERM");
    assert!(primary.server.wait().success());
    said(&primary.server, "replica lost is not attached");
}

#[test]
fn without_anything_to_wait_for_the_end_comes_at_once() {
    let begun_at = Instant::now();
    // No replica; a replica that has everything; a replica itself, which has one below it that
    // stands still.
    let mut alone = Node::primary(&["--shutdown-timeout", "3600"]);
    assert_eq!(alone.client().set("key", b"value"), "STORED");
    alone.server.signal("TERM");
    assert!(alone.server.wait().success());
    let mut primary = Node::primary(&["--shutdown-timeout", "3600"]);
    let mut middle = Node::middle(primary.port(), 0, &["--shutdown-timeout", "3600"]);
    let last = Node::replica(middle.port(), &[]);
    follows(&last);
    last.server.signal("STOP");
    set_all(&primary, "value");
    let keys = keys();
    assert_eq!(same_items(&primary, &[&middle], &keys), SETS);
    primary.server.signal("TERM");
    assert!(primary.server.wait().success());
    middle.server.signal("TERM");
    assert!(middle.server.wait().success());
    assert!(begun_at.elapsed() < 2 * LONG, "an hour was waited for nobody");
    last.server.signal("CONT");
}

#[test]
fn with_a_timeout_of_none_it_says_what_is_lacking_and_does_not_wait() {
    let mut primary = Node::primary(&["--shutdown-timeout", "0"]);
    let replica = Node::replica(primary.port(), &[]);
    follows(&replica);
    replica.server.signal("STOP");
    set_all(&primary, "lost");
    primary.server.signal("TERM");
    assert!(primary.server.wait().success());
    said(&primary.server, "bytes of what was answered");
}
