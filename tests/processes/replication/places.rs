//! As many replicas as a primary has places for, and one more.

use super::writers::{Traffic, write_batches};
use crate::node::{Node, in_sync, numbered_keys, same_items, wait_for_count, wait_for_row, wait_until};
use remora::replication::REPLICAS_MAX;
use remora::replication::attach::{Identity, join};
use remora::replication::reached::Holder;
use remora::replication::secret::Secret;

const KEYS: usize = 300;
const TRAFFIC: Traffic = Traffic { keys: KEYS, value_bytes_max: 10_000 };
const FULL: &str = "there are 32 replicas already";

/// Replicas that are started at the same time.
const AT_A_TIME: usize = 4;

/// So many replicas, over shared memory and TCP in turn.
fn replicas(primary: &Node, count: usize) -> Vec<Node> {
    let port = primary.port();
    let start = |number: usize| Node::replica(port, &["--fabric", ["shm", "tcp"][number % 2]]);
    let numbers: Vec<usize> = (0..count).collect();
    let together = |numbers: &[usize]| {
        std::thread::scope(|scope| {
            let starting: Vec<_> = numbers.iter().map(|number| scope.spawn(|| start(*number))).collect();
            starting.into_iter().map(|one| one.join().expect("a replica")).collect::<Vec<_>>()
        })
    };
    numbers.chunks(AT_A_TIME).flat_map(together).collect()
}

fn all_have_all(primary: &Node, replicas: &[&Node]) {
    in_sync(primary, replicas);
    assert!(same_items(primary, replicas, &numbered_keys(KEYS)) > 0);
}

/// All places are taken, and all replicas hold the same. Whoever comes then is told why it cannot
/// stay, goes on trying, and has the place of the first that leaves: one that has just started, and
/// one that followed before, lost its place while it stood still, and serves what it has.
#[test]
fn one_more_replica_than_there_are_places_waits_for_one() {
    let primary = Node::primary(&["-m", "2", "-I", "16k", "--replication-timeout", "5"]);
    let mut replicas = replicas(&primary, REPLICAS_MAX);
    write_batches(primary.server.tcp[0], 1, 20, TRAFFIC);
    assert_eq!(primary.client().set("key-0", b"for all"), "STORED");
    all_have_all(&primary, &replicas.iter().collect::<Vec<_>>());
    assert_eq!(primary.number("replicas_refused"), 0);

    let port = primary.port();
    let identity = Identity::new([7; 16], "one more");
    let refusal = join(&port.to_string(), &Secret::none(), &identity, &Holder::new("test"))
        .map(drop)
        .expect_err("no place is free");
    assert!(refusal.to_string().contains(FULL), "{refusal}");
    let silent = &replicas[0];
    let newcomer = std::thread::scope(|scope| {
        let newcomer = scope.spawn(|| Node::replica(port, &["--fabric", "tcp"]));
        // The one above, and several tries of the newcomer's.
        wait_for_count(&primary, "replicas_refused", 1 + 3);
        assert_eq!(primary.number("replicas"), REPLICAS_MAX as u64);
        silent.server.signal("STOP");
        newcomer.join().expect("it is admitted in the end")
    });
    write_batches(primary.server.tcp[0], 2, 20, TRAFFIC);
    assert_eq!(primary.client().set("key-0", b"for those who follow"), "STORED");
    let shown = || newcomer.client().get("key-0");
    wait_until("the newcomer follows", || match shown() {
        Some(value) if value == b"for those who follow" => Ok(()),
        other => Err(format!("key-0 is {other:?}; {:?}", newcomer.rows())),
    });

    silent.server.signal("CONT");
    wait_for_row(silent, "trouble", |trouble| trouble.contains(FULL));
    wait_for_row(silent, "state", |state| state == "connecting");
    assert_eq!(silent.client().get("key-0").as_deref(), Some(&b"for all"[..]));
    let tries = silent.number("failed_tries");
    wait_for_count(silent, "failed_tries", tries + 2);

    drop(replicas.remove(1));
    replicas.push(newcomer);
    all_have_all(&primary, &replicas.iter().collect::<Vec<_>>());
    let back = &replicas[0];
    assert_eq!((back.number("sessions"), back.text("trouble").as_str()), (2, "none"));
    assert_eq!(primary.number("replicas_admitted"), REPLICAS_MAX as u64 + 2);
}
