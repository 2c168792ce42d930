//! Replicas that are pushed to, over shared memory: the primary writes to an inbox of theirs. What
//! they come to hold, through joining under load, cuts, being overrun and sudden deaths, is what
//! replicas hold that pull; what their primary says of them, too.

use super::cuts::goes_on_after_cuts;
use super::writers::{Traffic, Writers, write_batches};
use crate::node::wait_until;
use crate::node::{
    Node, fixed_port, in_sync, numbered_keys, same_items, wait_for_count, wait_for_full_log, wait_for_row,
};
use std::process::Command;

const KEYS: usize = 2000;
const TRAFFIC: Traffic = Traffic { keys: KEYS, value_bytes_max: 20_000 };
const PUSH: [&str; 4] = ["--fabric", "shm", "--replication-mode", "push"];

fn kill(mut node: Node) {
    node.server.signal("KILL");
    node.server.wait();
}

/// Pushed and pulled side by side, under writes that fill the log again and again: both sides' rows
/// say which is which, and in the end all hold the same.
#[test]
fn they_join_under_load_beside_those_that_pull() {
    let primary = Node::primary(&["-m", "8", "-I", "64k"]);
    let writers = Writers::start(&primary, 2, TRAFFIC);
    wait_for_full_log(&primary);
    let first = Node::replica(primary.port(), &PUSH);
    wait_for_row(&first, "records", |records| records != "0");
    let pulls = Node::replica(primary.port(), &["--fabric", "shm"]);
    let second = Node::replica(primary.port(), &PUSH);
    wait_for_row(&second, "records", |records| records != "0");
    let appended = || primary.rows_of("stats")["log_appended_bytes"].parse::<u64>().expect("a number");
    let enough = appended() + 2 * (8 << 20);
    wait_until("the writers go on", || if appended() < enough { Err(appended()) } else { Ok(()) });
    writers.stop();
    let replicas = [&first, &pulls, &second];
    in_sync(&primary, &replicas);
    assert!(same_items(&primary, &replicas, &numbered_keys(KEYS)) > 0);
    for (replica, mode) in replicas.iter().zip(["push", "pull", "push"]) {
        assert_eq!((replica.text("mode").as_str(), replica.number("bad_records")), (mode, 0));
        assert_eq!(replica.number("shards_diverged"), 0);
    }
    let rows = primary.rows();
    for number in 0..replicas.len() {
        let row = |name: &str| rows[&format!("replica_{number}_{name}")].clone();
        let pushed: u64 = row("pushed_bytes").parse().expect("a number");
        assert_eq!(pushed > 0, row("mode") == "push", "{rows:?}");
        assert_eq!(row("fabric"), "shm");
    }
}

/// Cut off, it goes on as one that pulls does.
#[test]
fn after_a_cut_it_goes_on_from_its_cursor() {
    goes_on_after_cuts(&PUSH);
}

/// A replica that stands still while its primary writes several logs full begins anew at the tail,
/// and the primary serves on meanwhile.
#[test]
fn one_that_stands_still_is_overrun_and_begins_anew() {
    let primary = Node::primary(&["-m", "8", "-I", "64k"]);
    let replica = Node::replica(primary.port(), &PUSH);
    in_sync(&primary, &[&replica]);
    replica.server.signal("STOP");
    let appended = || primary.rows_of("stats")["log_appended_bytes"].parse::<u64>().expect("a number");
    let (mut batch, enough) = (0, appended() + 4 * (8 << 20));
    while appended() < enough {
        batch += 1;
        write_batches(primary.server.tcp[0], batch, 5, TRAFFIC);
    }
    replica.server.signal("CONT");
    wait_for_count(&replica, "shards_overrun", 1);
    in_sync(&primary, &[&replica]);
    assert!(same_items(&primary, &[&replica], &numbered_keys(KEYS)) > 0);
    assert_eq!((replica.number("bad_records"), replica.number("shards_diverged")), (0, 0));
}

/// Of a replica that dies nothing stays at the primary; a primary that dies is followed from its
/// beginning once it is back.
#[test]
fn either_side_may_die() {
    let (client_port, replication_port) = (fixed_port(), fixed_port());
    let primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
    let before = primary.holds();
    for round in 0..4 {
        let replica = Node::replica(primary.port(), &PUSH);
        write_batches(primary.server.tcp[0], round, 5, TRAFFIC);
        in_sync(&primary, &[&replica]);
        kill(replica);
        write_batches(primary.server.tcp[0], round + 100, 5, TRAFFIC);
        wait_for_row(&primary, "replicas", |count| count == "0");
        primary.comes_back_to(before);
    }
    let replica = Node::replica(primary.port(), &[&PUSH[..], &["--replica-discard"]].concat());
    assert_eq!(primary.client().set("old", b"old"), "STORED");
    in_sync(&primary, &[&replica]);
    kill(primary);
    wait_for_row(&replica, "state", |state| state == "connecting");
    assert_eq!(replica.client().get("old").as_deref(), Some(&b"old"[..]), "it serves on");
    let primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
    wait_for_count(&replica, "shards_diverged", 1);
    write_batches(primary.server.tcp[0], 7, 5, TRAFFIC);
    in_sync(&primary, &[&replica]);
    assert_eq!(replica.client().get("old"), None);
    assert!(same_items(&primary, &[&replica], &numbered_keys(KEYS)) > 0);
}

/// TCP has nothing to push with: that is said when it is asked for, and when it is all that the
/// primary offers.
#[test]
fn tcp_is_refused_in_words() {
    let output = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["serve", "-p", "0", "--replica-of", "127.0.0.1:1", "--fabric", "tcp", "--replication-mode", "push"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("tcp has no one-sided WRITE"), "{said}");
    let primary = Node::primary(&["-m", "8", "-I", "64k", "--fabric", "tcp"]);
    let replica = Node::replica(primary.port(), &["--replication-mode", "push"]);
    wait_for_row(&replica, "trouble", |trouble| trouble.contains("no fabric could be used"));
    assert!(replica.text("trouble").contains("shm: another host, or not offered"), "{:?}", replica.rows());
}

/// Acks that the primary reads out of an inbox count as those that replicas write to it: for writes
/// that wait, and for `wait`.
#[test]
fn what_was_answered_is_on_all_that_are_pushed_to() {
    let primary = Node::primary(&["-m", "16", "--ack-replicas", "2", "--ack-timeout", "60000"]);
    let replicas = [Node::replica(primary.port(), &PUSH), Node::replica(primary.port(), &PUSH)];
    in_sync(&primary, &[&replicas[0], &replicas[1]]);
    for number in 0..100 {
        let (key, value) = (format!("key-{}", number % 7), number.to_string());
        assert_eq!(primary.client().set(&key, value.as_bytes()), "STORED");
        for replica in &replicas {
            assert_eq!(replica.client().get(&key).as_deref(), Some(value.as_bytes()), "answered, and not there");
        }
    }
    assert_eq!(primary.client().ask("wait 2 60000"), "REPLICAS 2");
    let [gone, _stays] = replicas;
    kill(gone);
    wait_for_row(&primary, "replicas", |count| count == "1");
    assert_eq!(primary.client().ask("wait 2 50"), "REPLICAS 1");
}

/// In a chain each link is its lower end's choice; under load that fills the log, all come to hold
/// the same.
#[test]
fn a_chain_is_pushed_link_by_link() {
    let primary = Node::primary(&["-m", "8", "-I", "64k"]);
    let middle = Node::middle(primary.port(), 0, &PUSH);
    let writers = Writers::start(&primary, 1, TRAFFIC);
    let lower = Node::middle(middle.port(), 0, &PUSH);
    let pulls = Node::replica(lower.port(), &["--fabric", "shm"]);
    wait_for_full_log(&primary);
    wait_for_row(&pulls, "records", |records| records != "0");
    writers.stop();
    in_sync(&primary, &[&middle]);
    in_sync(&middle, &[&lower]);
    in_sync(&lower, &[&pulls]);
    assert!(same_items(&primary, &[&middle, &lower, &pulls], &numbered_keys(KEYS)) > 0);
    for node in [&middle, &lower, &pulls] {
        assert_eq!(node.number("bad_records"), 0, "{:?}", node.rows());
    }
}
