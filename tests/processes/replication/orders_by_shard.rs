//! Orders about some of the shards: what they change, what goes on meanwhile, what is refused.

use super::orders::{ctl, ctl_fails};
use super::roles_by_shard::{SHARDS, each_way, in_sync_each_way, port, shows, write};
use super::shards::keys_by_shard;
use crate::node::{Node, expect_eq, in_sync, side_by_side, wait_for_row, wait_until};

/// A key of each shard.
fn keys() -> Vec<String> {
    keys_by_shard(SHARDS, 1).concat()
}

/// Wait until it shows this value under this key.
fn comes_to(node: &Node, key: &str, value: &str) {
    wait_until("the value is there", || {
        let found = node.client().get(key);
        let should = Some(value.as_bytes().to_vec());
        expect_eq(key, found, should).map_err(|complaint| format!("{complaint}; {:?}", node.rows()))
    });
}

/// After each refusal all is as it was.
#[test]
fn what_is_refused_changes_nothing() {
    let [one, two] = each_way(SHARDS, &["--fabric", "tcp"]);
    let keys = keys();
    let beyond = "this server has 8 shards: 0-7";
    for order in [&["promote"][..], &["detach"], &["replicate", "127.0.0.1:1"]] {
        ctl_fails(&two, &[order, &["--shards", "7-8"]].concat(), beyond);
        ctl_fails(&two, &[order, &["--shards", "three"]].concat(), "\"three\" names no shards");
    }
    let answer = two.order("promote shards=5-4");
    assert!(answer.starts_with("CLIENT_ERROR") && answer.contains("\"5-4\" names no shards"), "{answer}");
    ctl_fails(&two, &["promote", "--shards", "4-7"], "this is the primary already");
    ctl_fails(&two, &["detach", "--shards", "4"], "this is the primary: it follows nobody");
    ctl_fails(&two, &["replicate", "--shards", "4", &port(&two)], "it cannot follow its own log");
    ctl_fails(&two, &["replicate", "--shards", "4", "127.0.0.1:1"], "cannot connect to 127.0.0.1:1");
    ctl_fails(&two, &["promote", "--shards", "0-1", "--gather", "127.0.0.1:1"], "leave that replica out");
    for (round, node) in [&one, &two].into_iter().enumerate() {
        let (own, followed) = [("0-3", "4-7"), ("4-7", "0-3")][round];
        wait_for_row(node, "state", |state| state == "following");
        shows(node, &[("role", "mixed"), ("shards_primary", own), ("shards", followed), ("sessions", "1")]);
    }
    for (shard, key) in keys.iter().enumerate() {
        let (owner, other) = if shard < 4 { (&one, &two) } else { (&two, &one) };
        write(owner, &[other], key, key);
        comes_to(other, key, key);
    }
}

/// Some shards are let go and taken up again; the session goes on, and with it the others.
#[test]
fn some_shards_are_detached_and_followed_again() {
    side_by_side(&["1", "3"], |pullers| {
        let way = &["--pullers", pullers];
        let one = Node::primary(&["-m", "32", "--shards", "8"]);
        let two = Node::standby(one.port(), way);
        let keys = keys();
        in_sync(&one, &[&two]);
        let words = ctl(&two, &["detach", "--shards", "0-1,5"]);
        assert!(words.contains("follows nobody in shards 0-1,5"), "{words}");
        wait_for_row(&one, "replica_0_shards", |shards| shards == "2-4,6-7");
        shows(&two, &[("role", "replica"), ("state", "following"), ("shards", "2-4,6-7"), ("sessions", "1")]);
        for (shard, key) in keys.iter().enumerate() {
            write(&one, &[], key, "meanwhile");
            if ![0, 1, 5].contains(&shard) {
                comes_to(&two, key, "meanwhile");
            }
        }
        for shard in [0, 1, 5] {
            assert_eq!(two.client().get(&keys[shard]), None, "shard {shard}");
            let refusal = two.client().set(&keys[shard], b"x");
            assert!(refusal.starts_with("SERVER_ERROR read-only replica that follows nobody"), "{refusal}");
        }
        let words = ctl(&two, &["replicate", "--shards", "0-1,5", &port(&one)]);
        assert!(words.contains("follows") && words.contains("0 began anew"), "{words}");
        in_sync(&one, &[&two]);
        keys.iter().for_each(|key| comes_to(&two, key, "meanwhile"));
        shows(&two, &[("shards", "0-7"), ("role", "replica")]);
        let words = ctl(&two, &["replicate", "--shards", "0-1,5", &port(&one)]);
        assert!(words.contains("already"), "{words}");
    });
}

/// Some shards change hands there and back, while the session for the others goes on.
#[test]
fn some_shards_are_promoted_there_and_back() {
    side_by_side(&["tcp", "shm"], |fabric| {
        let [one, two] = each_way(SHARDS, &["--fabric", fabric]);
        let keys = keys();
        for round in 0..3 {
            let value = format!("round {round}");
            // Planned: first no more writes, then the rest comes over, then the other takes them.
            ctl(&one, &["replicate", "--shards", "2-3", &port(&two)]);
            ctl(&two, &["promote", "--shards", "2-3", "--gather", &port(&one)]);
            in_sync_each_way(&one, &two);
            shows(&one, &[("shards_primary", "0-1"), ("shards", "2-7")]);
            shows(&two, &[("shards_primary", "2-7"), ("shards", "0-1"), ("sessions", "1")]);
            write(&two, &[&one], &keys[2], &value);
            ctl(&two, &["replicate", "--shards", "2-3", &port(&one)]);
            ctl(&one, &["promote", "--shards", "2-3", "--gather", &port(&two)]);
            in_sync_each_way(&one, &two);
            assert_eq!(one.client().get(&keys[2]).as_deref(), Some(value.as_bytes()));
            write(&one, &[&two], &keys[2], "back");
            comes_to(&two, &keys[2], "back");
        }
        for node in [&one, &two] {
            shows(node, &[("shards_diverged", "0"), ("diverged_records", "0"), ("bad_records", "0")]);
        }
    });
}

/// A shard is followed at another server from now on, which has it from the first: the session with
/// the first goes on.
#[test]
fn some_shards_are_followed_at_a_second_server() {
    let one = Node::primary(&["-m", "32", "--shards", "8"]);
    let two = Node::standby(one.port(), &["--fabric", "tcp"]);
    let three = Node::standby(one.port(), &["--fabric", "tcp"]);
    in_sync(&one, &[&two, &three]);
    let keys = keys();
    ctl(&two, &["promote", "--shards", "6-7"]);
    ctl(&three, &["replicate", "--shards", "6-7", &port(&two)]);
    in_sync(&two, &[&three]);
    shows(&three, &[("role", "replica"), ("sessions", "2"), ("shards", "0-7")]);
    shows(&three, &[("primary_0_shards", "0-5"), ("primary_0_state", "following")]);
    shows(&three, &[("primary_1_shards", "6-7"), ("primary_1_state", "following")]);
    for (shard, key) in keys.iter().enumerate() {
        let owner = if shard < 6 { &one } else { &two };
        write(owner, &[&three], key, key);
        comes_to(&three, key, key);
    }
    // The last shard that is followed there goes, and the session with it.
    ctl(&three, &["promote", "--shards", "6-7"]);
    wait_for_row(&two, "replicas", |count| count == "0");
    shows(&three, &[("role", "mixed"), ("shards_primary", "6-7"), ("shards", "0-5"), ("sessions", "1")]);
    write(&three, &[], &keys[7], "mine");
    write(&one, &[&three], &keys[0], "theirs");
    comes_to(&three, &keys[0], "theirs");
}

/// A server in the middle becomes the primary of some shards, then of the others. Who follows it
/// keeps its session, and follows the new terms.
#[test]
fn a_replica_keeps_its_session_while_terms_begin_above_it() {
    side_by_side(&[&["--fabric", "tcp"], &["--fabric", "shm"]], |way| {
        let one = Node::primary(&["-m", "32", "--shards", "8"]);
        let middle = Node::standby(one.port(), way);
        let below = Node::replica(middle.port(), &[&way[..], &["--pullers", "2"]].concat());
        let keys = keys();
        in_sync(&one, &[&middle]);
        in_sync(&middle, &[&below]);
        keys.iter().for_each(|key| write(&one, &[], key, "first"));
        keys.iter().for_each(|key| comes_to(&below, key, "first"));
        assert_eq!(below.number("terms_known"), 1);
        for (shards, own, owned) in [("4-7", "4-7", 4..8), ("0-2", "0-2,4-7", 0..3)] {
            ctl(&middle, &["promote", "--shards", shards]);
            shows(&middle, &[("shards_primary", own), ("role", "mixed")]);
            in_sync(&middle, &[&below]);
            for key in &keys[owned] {
                write(&middle, &[], key, shards);
                comes_to(&below, key, shards);
            }
            write(&one, &[], &keys[3], shards);
            comes_to(&below, &keys[3], shards);
            assert_eq!(below.text("terms_known"), middle.text("terms_known"));
        }
        ctl(&middle, &["promote"]);
        write(&middle, &[], &keys[3], "last");
        comes_to(&below, &keys[3], "last");
        in_sync(&middle, &[&below]);
        shows(
            &below,
            &[
                ("sessions", "1"),
                ("terms_known", "4"),
                ("shards_diverged", "0"),
                ("shards_overrun", "0"),
                ("bad_records", "0"),
            ],
        );
    });
}

/// A server of another lineage is refused in shards that hold data, and followed in those that hold
/// none. What is given up is what the order names.
#[test]
fn data_is_given_up_shard_by_shard() {
    let theirs = Node::primary(&["-m", "32", "--shards", "8"]);
    let ours = Node::primary(&["-m", "32", "--shards", "8", "--fabric", "tcp"]);
    let keys = keys();
    keys.iter().for_each(|key| write(&theirs, &[], key, "theirs"));
    [2, 5].iter().for_each(|shard: &usize| write(&ours, &[], &keys[*shard], "ours"));
    for shards in ["0-3", "2", "0-7"] {
        ctl_fails(&ours, &["replicate", "--shards", shards, &port(&theirs)], "another lineage");
    }
    shows(&ours, &[("role", "primary"), ("shards_primary", "0-7")]);
    write(&ours, &[], &keys[2], "ours");
    ctl(&ours, &["replicate", "--shards", "0-1,3", &port(&theirs)]);
    in_sync(&theirs, &[&ours]);
    shows(&ours, &[("shards_primary", "2,4-7"), ("shards", "0-1,3"), ("shards_discarded", "0")]);
    ctl_fails(&ours, &["replicate", "--shards", "2", &port(&theirs)], "another lineage");
    in_sync(&theirs, &[&ours]);
    shows(&ours, &[("shards_primary", "2,4-7"), ("shards", "0-1,3")]);
    write(&ours, &[], &keys[2], "ours");
    ctl(&ours, &["replicate", "--discard", "--shards", "2", &port(&theirs)]);
    in_sync(&theirs, &[&ours]);
    shows(&ours, &[("shards_primary", "4-7"), ("shards", "0-3"), ("shards_discarded", "1")]);
    for (shard, key) in keys.iter().enumerate() {
        let expected = ["theirs", "theirs", "theirs", "theirs", "", "ours", "", ""][shard];
        let found = ours.client().get(key).unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(&found), expected, "{key} in shard {shard}");
    }
    write(&ours, &[], &keys[5], "still ours");
}
