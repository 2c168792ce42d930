//! Replicas that join and leave while clients write as fast as they can, and what a primary keeps
//! of those that are gone: nothing.

use super::writers::{Traffic, Writers};
use crate::node::{Node, in_sync, numbered_keys, same_items, wait_for_full_log, wait_for_row, wait_until};

const KEYS: usize = 4000;
const TRAFFIC: Traffic = Traffic { keys: KEYS, value_bytes_max: 20_000 };

/// Three at once, one more later, one leaves in between: the primary serves on, and in the end all
/// that stay hold what it holds.
#[test]
fn replicas_join_and_leave_under_full_load() {
    let primary = Node::primary(&["-m", "8", "-I", "64k"]);
    let writers = Writers::start(&primary, 2, TRAFFIC);
    wait_for_full_log(&primary);
    let mut joined = std::thread::scope(|scope| {
        let port = primary.port();
        let join = |fabric| scope.spawn(move || Node::replica(port, &["--fabric", fabric]));
        let joining = ["shm", "tcp", "shm"].map(join);
        joining.map(|one| one.join().expect("a replica")).into_iter().collect::<Vec<_>>()
    });
    for replica in &joined {
        wait_for_row(replica, "records", |records| records != "0");
    }
    drop(joined.remove(0));
    joined.push(Node::replica(primary.port(), &["--fabric", "tcp"]));
    wait_for_row(&joined[2], "records", |records| records != "0");
    // On for a while with all of them: another two logs full.
    let appended = || primary.rows_of("stats")["log_appended_bytes"].parse::<u64>().expect("a number");
    let enough = appended() + 2 * (8 << 20);
    wait_until("the writers go on", || if appended() < enough { Err(appended()) } else { Ok(()) });
    let written = writers.stop();
    let replicas: Vec<&Node> = joined.iter().collect();
    in_sync(&primary, &replicas);
    let items = same_items(&primary, &replicas, &numbered_keys(KEYS));
    println!("{written} commands, {items} items");
    assert!(items > 0);
    assert_eq!(replicas.iter().map(|replica| replica.number("shards_diverged")).sum::<u64>(), 0);
}

/// Rounds of joining and leaving, in every way to leave.
#[test]
fn a_replica_that_is_gone_leaves_nothing_behind() {
    const ROUNDS: usize = 30;
    /// Rounds before mappings are counted: threads' stacks and heaps are kept for the next thread.
    const FIRST: usize = 8;
    let primary = Node::primary(&["-m", "8", "-I", "64k"]);
    assert_eq!(primary.client().set("key-0", b"there"), "STORED");
    let before = primary.holds();
    let mut mappings = 0;
    for round in 0..ROUNDS {
        let fabric = ["shm", "tcp"][round % 2];
        let mut replica = Node::replica(primary.port(), &["--fabric", fabric]);
        in_sync(&primary, &[&replica]);
        assert_eq!(replica.client().get("key-0").as_deref(), Some(&b"there"[..]));
        replica.server.signal(["TERM", "KILL", "INT"][round % 3]);
        replica.server.wait();
        wait_for_row(&primary, "replicas", |count| count == "0");
        primary.comes_back_to(before);
        if round == FIRST {
            mappings = primary.mappings();
        }
    }
    assert_eq!((primary.number("replicas_admitted"), primary.number("replicas_ended")), (ROUNDS as u64, ROUNDS as u64));
    let after = primary.mappings();
    assert!(after <= mappings + 2, "{after} mappings after {ROUNDS} rounds, {mappings} after {FIRST}");
}
