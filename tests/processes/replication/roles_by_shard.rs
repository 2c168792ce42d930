//! Servers that are the primary of some shards, and replicas in others.

use super::orders::ctl;
use super::shards::keys_by_shard;
use crate::node::{Holds, Node, expect_eq, in_sync, same_items, side_by_side, wait_until};

/// Keys of each shard.
const EACH: usize = 5;
/// Shards of most tests.
pub const SHARDS: usize = 8;

pub fn port(node: &Node) -> String {
    node.port().to_string()
}

/// Two servers, each the primary of one half of the shards, in which the other is its replica.
pub fn each_way(shards: usize, arguments: &[&str]) -> [Node; 2] {
    let count = shards.to_string();
    let layout = ["-m", "32", "-I", "2k", "--shards", &count];
    let one = Node::primary(&[&layout[..], arguments].concat());
    let two = Node::standby(one.port(), arguments);
    in_sync(&one, &[&two]);
    let half = format!("{}-{}", shards / 2, shards - 1);
    ctl(&two, &["promote", "--shards", &half]);
    ctl(&one, &["replicate", "--shards", &half, &port(&two)]);
    in_sync_each_way(&one, &two);
    [one, two]
}

pub fn in_sync_each_way(one: &Node, two: &Node) {
    in_sync(one, &[two]);
    in_sync(two, &[one]);
}

/// Write under this key where it belongs. The others refuse it, and name the owner.
pub fn write(owner: &Node, others: &[&Node], key: &str, value: &str) {
    let stored = owner.client().set(key, value.as_bytes());
    assert_eq!(stored, "STORED", "{key}: {:?}", owner.rows());
    for other in others {
        let refusal = other.client().set(key, b"elsewhere");
        assert!(refusal.ends_with(&format!("write to the primary at {}", owner.server.tcp[0])), "{key}: {refusal}");
    }
}

/// These rows are so.
pub fn shows(node: &Node, expected: &[(&str, &str)]) {
    let rows = node.rows();
    expected.iter().for_each(|(name, value)| assert_eq!(rows[*name], *value, "{name} of {rows:?}"));
}

/// It takes writes of all of these keys, whether replicas have them or not.
fn takes_all(node: &Node, keys: &[Vec<String>]) {
    for key in keys.iter().flatten() {
        assert_eq!(node.client().ask(&format!("ms {key} 1 A0\r\n2")), "HD", "{key}");
    }
}

/// Each has what the other has written, and who is left of both goes on alone.
#[test]
fn two_servers_are_each_the_primary_of_one_half() {
    let ways: [&[&str]; 4] = [
        &["--fabric", "tcp"],
        &["--fabric", "shm"],
        &["--fabric", "tcp", "--pullers", "2"],
        &["--fabric", "shm", "--pullers", "2", "--ack-replicas", "1", "--ack-timeout", "60000"],
    ];
    side_by_side(&ways, |way| {
        let nodes = each_way(SHARDS, way);
        let acknowledges = way.contains(&"--ack-replicas");
        let keys = keys_by_shard(SHARDS, EACH);
        for (shard, keys) in keys.iter().enumerate() {
            let owner = shard / (SHARDS / 2);
            for key in keys {
                write(&nodes[owner], &[&nodes[1 - owner]], key, key);
                if acknowledges {
                    assert_eq!(nodes[1 - owner].client().get(key).as_deref(), Some(key.as_bytes()), "{key}");
                }
            }
        }
        let [one, two] = nodes;
        in_sync_each_way(&one, &two);
        let (low, high) = ("0-3", "4-7");
        for (node, own, followed) in [(&one, low, high), (&two, high, low)] {
            shows(node, &[("role", "mixed"), ("shards_primary", own), ("shards", followed)]);
            shows(node, &[("replica_0_shards", own), ("sessions", "1"), ("bad_records", "0")]);
        }
        assert_eq!(same_items(&one, &[&two], &keys.concat()), SHARDS * EACH);

        one.server.signal("KILL");
        let words = ctl(&two, &["promote"]);
        assert!(words.contains("in shards 0-3"), "{words}");
        shows(&two, &[("role", "primary"), ("shards_primary", "0-7")]);
        for key in keys.iter().flatten() {
            assert_eq!(two.client().get(key).as_deref(), Some(key.as_bytes()), "{key}");
        }
        takes_all(&two, &keys);
    });
}

/// A session has all shards that it follows, and so its threads and its connections: more shards
/// cost none of either.
#[test]
fn threads_and_descriptors_do_not_grow_with_the_shards() {
    let ways: [&[&str]; 3] = [&["--fabric", "shm"], &["--fabric", "tcp"], &["--fabric", "tcp", "--pullers", "2"]];
    side_by_side(&ways, |way| {
        let [few, many] = [SHARDS, 256].map(|shards| {
            let nodes = each_way(shards, way);
            for (shard, key) in keys_by_shard(shards, 1).concat().iter().enumerate() {
                write(&nodes[shard / (shards / 2)], &[], key, key);
            }
            in_sync_each_way(&nodes[0], &nodes[1]);
            nodes
        });
        wait_until("256 shards hold no more than 8", || {
            let held = |nodes: &[Node; 2]| -> [Holds; 2] { [nodes[0].holds(), nodes[1].holds()] };
            expect_eq("held", held(&many), held(&few))
        });
    });
}

/// Three servers, each the primary of some shards, in which the others are its replicas. One dies,
/// and one of the others lacks what it wrote last: that is gathered from the third.
#[test]
fn what_a_dead_server_has_written_is_gathered_from_the_third() {
    side_by_side(&["tcp", "shm"], |fabric| {
        let way = ["--fabric", fabric];
        let one = Node::primary(&[&["-m", "32", "--shards", "8"][..], &way].concat());
        let [two, three] = [(); 2].map(|()| Node::standby(one.port(), &way));
        in_sync(&one, &[&two, &three]);
        ctl(&two, &["promote", "--shards", "2-3"]);
        ctl(&three, &["promote", "--shards", "4-7"]);
        for (node, shards, primary) in
            [(&one, "2-3", &two), (&three, "2-3", &two), (&one, "4-7", &three), (&two, "4-7", &three)]
        {
            ctl(node, &["replicate", "--shards", shards, &port(primary)]);
        }
        let nodes = [&one, &two, &three];
        let keys = keys_by_shard(SHARDS, 2 * EACH);
        let write_some = |range: std::ops::Range<usize>, others: bool| {
            for (shard, keys) in keys.iter().enumerate() {
                let owner = nodes[(shard / 2).min(2)];
                let others: Vec<&Node> = nodes.into_iter().filter(|one| others && one.port() != owner.port()).collect();
                keys[range.clone()].iter().for_each(|key| write(owner, &others, key, key));
            }
        };
        write_some(0..EACH, true);
        in_sync(&one, &[&two, &three]);
        in_sync(&two, &[&one, &three]);
        in_sync(&three, &[&one, &two]);
        shows(&two, &[("role", "mixed"), ("shards_primary", "2-3"), ("shards", "0-1,4-7"), ("sessions", "2")]);
        shows(&two, &[("primary_0_shards", "0-1"), ("primary_0_address", &port(&one))]);
        shows(&two, &[("primary_1_shards", "4-7"), ("primary_1_address", &port(&three))]);

        ctl(&two, &["detach", "--shards", "0-1"]);
        write_some(EACH..2 * EACH, false);
        in_sync(&one, &[&three]);
        in_sync(&two, &[&one, &three]);
        in_sync(&three, &[&one, &two]);
        assert_eq!(two.client().get(&keys[0][EACH]), None, "it follows nobody there");
        shows(&two, &[("terms_known", "3")]);
        one.server.signal("KILL");
        ctl(&two, &["promote", "--shards", "0-1", "--gather", &port(&three)]);
        shows(&two, &[("role", "mixed"), ("shards_primary", "0-3"), ("shards", "4-7")]);
        shows(&two, &[("terms_known", "4")]);
        ctl(&three, &["replicate", "--shards", "0-1", &port(&two)]);
        in_sync_each_way(&two, &three);
        for node in [&two, &three] {
            for key in keys.iter().flatten() {
                assert_eq!(node.client().get(key).as_deref(), Some(key.as_bytes()), "{key}");
            }
            shows(node, &[("shards_diverged", "0"), ("shards_overrun", "0")]);
        }
        for (shard, keys) in keys.iter().enumerate() {
            let (owner, other) = if shard < 4 { (&two, &three) } else { (&three, &two) };
            write(owner, &[other], &keys[0], "after");
        }
        in_sync_each_way(&two, &three);
        assert_eq!(same_items(&two, &[&three], &keys.concat()), keys.concat().len());
    });
}
