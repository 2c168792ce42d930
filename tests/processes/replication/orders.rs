//! What is refused of an order, in which words, and that then nothing has changed.

use super::strangers::come;
use crate::node::{Node, in_sync, wait_for_row};
use crate::proxy::{ALL, Fate, Proxy};
use std::net::TcpListener;
use std::process::{Command, Output};

/// `remora ctl` for a server, not yet run.
pub fn command(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.args(["ctl", "-s", &node.server.tcp[0].to_string()]).args(arguments);
    command
}

fn run(node: &Node, arguments: &[&str]) -> Output {
    command(node, arguments).output().expect("it runs")
}

/// `remora ctl`, which must succeed; what it says.
pub fn ctl(node: &Node, arguments: &[&str]) -> String {
    let output = run(node, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The same, but it must fail, with these words among what it says.
pub fn ctl_fails(node: &Node, arguments: &[&str], words: &str) {
    let output = run(node, arguments);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && said.contains(words), "{arguments:?}: {said} instead of {words}");
}

/// After each refusal the server is a primary as before, with its data.
#[test]
fn a_primary_that_cannot_follow_stays_a_primary() {
    let primary = Node::primary(&["-m", "16"]);
    assert_eq!(primary.client().set("mine", b"1"), "STORED");
    let larger = Node::primary(&["-m", "32"]);
    ctl_fails(&primary, &["replicate", "127.0.0.1:1"], "cannot connect to 127.0.0.1:1");
    ctl_fails(&primary, &["replicate", &larger.port().to_string()], "without -m and --shards");
    ctl_fails(&primary, &["replicate", &primary.port().to_string()], "it cannot follow its own log");
    ctl_fails(&primary, &["detach"], "this is the primary: it follows nobody");
    ctl_fails(&primary, &["promote"], "this is the primary already");
    ctl_fails(&primary, &["replicate", "nowhere"], "has no port");
    let rows = primary.rows();
    assert_eq!(
        (rows["role"].as_str(), rows["order"].as_str()),
        ("primary", "promote failed: this is the primary already")
    );
    assert_eq!(primary.client().set("mine", b"2"), "STORED");
    assert_eq!(primary.client().get("mine").as_deref(), Some(&b"2"[..]));
}

/// A server that was started without a word of replication follows whom it is told; what it had it
/// gives up only if it is told that, too.
#[test]
fn any_server_laid_out_alike_becomes_a_replica() {
    let primary = Node::primary(&["-m", "16"]);
    assert_eq!(primary.client().set("theirs", b"1"), "STORED");
    let plain = Node::plain(&["-m", "16"]);
    assert_eq!(plain.client().set("own", b"1"), "STORED");
    ctl_fails(&plain, &["replicate", &primary.port().to_string()], "another lineage");
    assert_eq!((plain.text("role").as_str(), plain.client().set("own", b"2").as_str()), ("primary", "STORED"));
    ctl(&plain, &["replicate", "--discard", &primary.port().to_string()]);
    in_sync(&primary, &[&plain]);
    assert_eq!(plain.client().get("own"), None);
    assert!(plain.client().get("theirs").is_some());
    assert_eq!(plain.number("diverged_records"), 2, "one item set twice");
}

/// A replica that follows nobody serves what it has, says so, and goes on where it was.
#[test]
fn a_detached_replica_goes_on_where_it_was() {
    let primary = Node::primary(&["-m", "16"]);
    let replica = Node::replica(primary.port(), &["--fabric", "shm"]);
    assert_eq!(primary.client().set("before", b"1"), "STORED");
    in_sync(&primary, &[&replica]);
    ctl(&replica, &["detach"]);
    ctl(&replica, &["detach"]);
    assert_eq!(replica.text("state"), "detached");
    wait_for_row(&primary, "replicas", |count| count == "0");
    assert_eq!(primary.client().set("meanwhile", b"1"), "STORED");
    assert_eq!(replica.client().get("meanwhile"), None);
    assert!(replica.client().get("before").is_some());
    let refusal = replica.client().set("own", b"1");
    assert!(refusal.starts_with("SERVER_ERROR read-only replica that follows nobody"), "{refusal}");
    let words = ctl(&replica, &["replicate", &primary.port().to_string()]);
    assert!(words.contains("2 shards went on from where they were, 0 began anew"), "{words}");
    in_sync(&primary, &[&replica]);
    assert!(replica.client().get("meanwhile").is_some());
    let words = ctl(&replica, &["replicate", &primary.port().to_string()]);
    assert!(words.contains("already"), "{words}");
}

/// A replica that was let in there, and has nothing yet: its first connections stall, so many, as
/// soon as it has joined.
pub fn let_in(primary: &Node, stalls: usize) -> (Proxy, Node) {
    let way = Proxy::to(primary.port());
    drop(come(way.address, "late", 2));
    let [up, _] = way.passed();
    way.expect(vec![Fate::Stalls { up, down: ALL }; stalls]);
    let replica = Node::standby(way.address, &["--replica-name", "late", "--fabric", "tcp"]);
    (way, replica)
}

/// Who has been let in and has nothing yet is no primary.
#[test]
fn a_replica_that_has_nothing_yet_is_not_promoted() {
    let primary = Node::primary(&["-m", "16"]);
    // The first time, and again once the order that failed has it follow again.
    let (way, replica) = let_in(&primary, 2);
    ctl_fails(&replica, &["promote"], "shard 0 has nothing yet");
    ctl_fails(&replica, &["promote", "--incomplete"], "it has nothing at all");
    assert_eq!(
        (replica.text("role").as_str(), replica.client().set("k", b"1").contains("read-only")),
        ("replica", true)
    );
    way.cut();
    in_sync(&primary, &[&replica]);
}

/// One at a time; and what a peer that says nothing costs has a bound.
#[test]
fn a_second_order_is_turned_away() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let primary = Node::primary(&["-m", "16"]);
    let first = command(&primary, &["replicate", &address]).output();
    let ask = |order: &str| primary.order(order);
    assert_eq!(ask(&format!("replicate {address}")), "OK");
    assert_eq!(ask("promote"), "SERVER_ERROR busy: replicate is under way");
    let usage = ask("abdicate");
    assert!(usage.starts_with("CLIENT_ERROR usage: replication promote"), "{usage}");
    let first = first.expect("it ran");
    assert!(!first.status.success() && String::from_utf8_lossy(&first.stderr).contains("said nothing"), "{first:?}");
    wait_for_row(&primary, "order", |order| order.starts_with("replicate failed"));
    assert_eq!((primary.text("role").as_str(), primary.client().set("k", b"1").as_str()), ("primary", "STORED"));
}
