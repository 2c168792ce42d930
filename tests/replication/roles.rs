//! Roles that change while everything runs: a replica is promoted, the others follow it from where they are, the old primary comes back.

use crate::node::{Node, in_sync, numbered_keys, on_each_fabric, same_items, wait_for_row};
use crate::orders::{command, ctl, ctl_fails};
use crate::writers::{Traffic, write_batches};
use std::process::Stdio;
use std::time::Instant;

const KEYS: usize = 500;
const TRAFFIC: Traffic = Traffic { keys: KEYS, value_bytes_max: 5000 };

fn address(node: &Node) -> String {
    node.port().to_string()
}

/// The first write that is taken, tried as fast as they are refused.
fn first_write(node: &Node, key: &str) {
    let mut client = node.server.connect();
    let mut answer = client.set(key, b"first");
    while answer.starts_with("SERVER_ERROR read-only") {
        answer = client.set(key, b"first");
    }
    assert_eq!(answer, "STORED");
}

/// Nothing that both had is pulled again.
#[test]
fn a_promoted_replica_is_followed_by_the_others_from_where_they_are() {
    on_each_fabric(|fabric| {
        let primary = Node::primary(&["-m", "16"]);
        let next = Node::standby(primary.port(), &["--fabric", fabric]);
        let other = Node::standby(primary.port(), &["--fabric", fabric]);
        write_batches(primary.server.tcp[0], 1, 60, TRAFFIC);
        in_sync(&primary, &[&next, &other]);
        let (before, old_epoch) = (same_items(&primary, &[&next, &other], &numbered_keys(KEYS)), next.text("epoch"));

        let begun_at = Instant::now();
        let ordered = command(&next, &["promote"]).stdout(Stdio::piped()).spawn().expect("it runs");
        first_write(&next, "first");
        println!("{fabric}: the first write {:?} after the order", begun_at.elapsed());
        let words = String::from_utf8(ordered.wait_with_output().expect("it ends").stdout).expect("text");
        let epoch = next.text("epoch");
        assert!(epoch != old_epoch && words.contains(&epoch), "{words}");
        assert_eq!((next.text("role").as_str(), next.text("order").as_str()), ("primary", "promote done"));

        let moved_at = Instant::now();
        let words = ctl(&other, &["replicate", &address(&next)]);
        println!("{fabric}: the other follows {:?} after its order: {}", moved_at.elapsed(), words.trim_end());
        write_batches(next.server.tcp[0], 2, 20, TRAFFIC);
        in_sync(&next, &[&other]);
        assert!(same_items(&next, &[&other], &numbered_keys(KEYS)) >= before / 2);
        assert_eq!(other.client().get("first").as_deref(), Some(&b"first"[..]));
        let rows = other.rows();
        let count = |name: &str| rows[name].parse::<u64>().expect("a number");
        let anew = count("shards_joined") + count("shards_overrun") + count("shards_diverged");
        assert!(count("shards_continued") > 0 && anew == 0, "{rows:?}");
        assert_eq!(rows["epoch"], epoch);
        let written = next.rows_of("stats")["log_appended_bytes"].parse::<u64>().expect("a number");
        assert!(count("pulled_bytes") < written, "only what is new was pulled: {rows:?}, {written}");
        let refusal = other.server.connect().set("k", b"x");
        assert!(refusal.contains(&next.server.tcp[0].to_string()), "{refusal}");
        ctl_fails(&next, &["promote"], "this is the primary already");
        wait_for_row(&primary, "replicas", |count| count == "0");
    });
}
