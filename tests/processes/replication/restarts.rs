//! Processes that die without a word, and come back as they may.

use super::writers::{Traffic, write_batches};
use crate::node::{Node, fixed_port, in_sync, numbered_keys, on_each_fabric, same_items, wait_for_row};

const KEYS: usize = 500;
const TRAFFIC: Traffic = Traffic { keys: KEYS, value_bytes_max: 5000 };

fn kill(mut node: Node) {
    node.server.signal("KILL");
    node.server.wait();
}

/// Another amount of memory means other logs: that takes a restart of the replica, which says so,
/// and serves what it has until then.
#[test]
fn a_primary_with_other_slabs_is_not_followed() {
    let (client_port, replication_port) = (fixed_port(), fixed_port());
    let primary = Node::primary_at(client_port, replication_port, &["-m", "16"]);
    assert_eq!(primary.client().set("old", b"old"), "STORED");
    let replica = Node::replica(primary.port(), &[]);
    in_sync(&primary, &[&replica]);
    kill(primary);
    let primary = Node::primary_at(client_port, replication_port, &["-m", "32"]);
    wait_for_row(&replica, "state", |state| state == "refused");
    wait_for_row(&replica, "trouble", |trouble| trouble.contains("restart the replica"));
    assert_eq!(replica.client().get("old").as_deref(), Some(&b"old"[..]));
    wait_for_row(&primary, "replicas", |count| count == "0");
    let again = Node::replica(primary.port(), &[]);
    assert_eq!(primary.client().set("new", b"new"), "STORED");
    wait_for_row(&again, "state", |state| state == "following");
    wait_for_row(&again, "records", |_| again.client().get("new").is_some());
    assert_eq!(again.client().get("old"), None);
}

/// Of a replica that dies nothing stays, and the others do not notice.
#[test]
fn a_replica_that_dies_is_forgotten() {
    on_each_fabric(|fabric| {
        let primary = Node::primary(&["-m", "16"]);
        let staying = Node::replica(primary.port(), &["--fabric", fabric]);
        in_sync(&primary, &[&staying]);
        let before = primary.holds();
        let dying = Node::replica(primary.port(), &["--fabric", fabric]);
        in_sync(&primary, &[&staying, &dying]);
        kill(dying);
        write_batches(primary.server.tcp[0], 3, 5, TRAFFIC);
        in_sync(&primary, &[&staying]);
        primary.comes_back_to(before);
        assert!(same_items(&primary, &[&staying], &numbered_keys(KEYS)) > 0);
        assert_eq!((staying.number("sessions"), primary.number("replicas_ended")), (1, 1));
    });
}
