//! The memory of a primary that changes while it serves and is followed.

use super::writers::{Traffic, Writers};
use crate::node::{Node, in_sync, numbered_keys, on_each_fabric, same_items, wait_for_row, wait_until};
use crate::support::Client;
use remora::fabric::READ_BYTES_MAX;
use remora::sys::foreign::ReadOnlyWords;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

const VALUE_BYTES: usize = 20_000;
/// So many items of that length take some 32 MiB: more than is there at first, less than three
/// quarters of what there is later.
const KEYS: usize = 1600;

fn fill(client: &mut Client) {
    for (number, key) in numbered_keys(KEYS).iter().enumerate() {
        let value: Vec<u8> = (0..VALUE_BYTES).map(|at| (at * 31 + number) as u8).collect();
        assert_eq!(client.set(key, &value), "STORED");
    }
}

fn ask(client: &mut Client, request: &str) -> String {
    client.send(format!("{request}\r\n").as_bytes());
    client.line()
}

/// More holds more, on the replica as well; then less again, and both hold the same. What cannot be
/// had is refused, and a replica has no say in it.
#[test]
fn memory_is_raised_and_lowered_under_a_replica() {
    on_each_fabric(|fabric| {
        let primary = Node::primary(&["-m", "16", "--memory-max", "64"]);
        let replica = Node::replica(primary.port(), &["--fabric", fabric]);
        in_sync(&primary, &[&replica]);
        assert_eq!(
            ask(&mut primary.client(), "cache_memlimit 65"),
            "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust"
        );
        assert!(ask(&mut replica.client(), "cache_memlimit 16").starts_with("SERVER_ERROR read-only replica"));
        assert_eq!(ask(&mut primary.client(), "cache_memlimit 64"), "OK");
        fill(&mut primary.client());
        in_sync(&primary, &[&replica]);
        assert_eq!(same_items(&primary, &[&replica], &numbered_keys(KEYS)), KEYS, "nothing was evicted");
        let rows = primary.rows_of("stats");
        assert_eq!((&rows["evictions"][..], &rows["limit_maxbytes"][..]), ("0", &(64 << 20).to_string()[..]));

        assert_eq!(ask(&mut primary.client(), "cache_memlimit 16"), "OK");
        wait_until("the memory is given back", || {
            let owned = primary.rows_of("stats")["log_owned_bytes"].clone();
            if owned.parse::<u64>().is_ok_and(|bytes| bytes <= 16 << 20) { Ok(()) } else { Err(owned) }
        });
        // What the replica holds, it holds until its tail has come as far.
        wait_for_row(&replica, "state", |state| state == "following");
        assert_eq!(primary.client().set("last", b"1"), "STORED");
        in_sync(&primary, &[&replica]);
        let held = same_items(&primary, &[&replica], &numbered_keys(KEYS));
        assert!((300..KEYS).contains(&held), "{held} are left");
        for node in [&primary, &replica] {
            wait_until("the system has the memory again", || is_lean(node, 16 << 20));
        }
        // A replica that comes later does not fill what was given back.
        let later = Node::replica(primary.port(), &["--fabric", fabric]);
        in_sync(&primary, &[&replica, &later]);
        wait_until("the system still has it", || is_lean(&primary, 16 << 20));
    });
}

/// A READ that was under way when its slab was given up fills the hole, and so does one of what no
/// log has: the memory comes back.
#[test]
fn what_is_read_beside_the_logs_takes_no_memory_for_long() {
    const POOL_BYTES: usize = 64 << 20;
    let primary = Node::primary(&["-m", "16", "--memory-max", "64", "--fabric", "shm,tcp"]);
    assert_eq!(primary.client().set("key", b"value"), "STORED");
    let [pool] = &pools(&primary)[..] else { panic!("a server has its slabs open once") };
    let file = File::open(pool).expect("a server of the same user");
    // As a replica over shared memory does it.
    let mapped = ReadOnlyWords::map(&file, POOL_BYTES).expect("a mapping");
    let words: Vec<AtomicU64> = (0..READ_BYTES_MAX / 8).map(|_| AtomicU64::new(0)).collect();
    (0..POOL_BYTES / 8).step_by(words.len()).for_each(|at| mapped.copy_to(at, &words));
    assert!(is_lean(&primary, 16 << 20).is_err(), "all of it was read");
    wait_until("the system has the memory again", || is_lean(&primary, 1 << 20));
    assert_eq!(primary.client().get("key").as_deref(), Some(&b"value"[..]), "what is used stays");
}

/// The memfds of slabs that a process has open.
fn pools(node: &Node) -> Vec<PathBuf> {
    let files = std::fs::read_dir(format!("/proc/{}/fd", node.server.pid())).expect("the server lives");
    let is_pool =
        |path: &PathBuf| std::fs::read_link(path).is_ok_and(|name| name.starts_with("/memfd:remora-pool (deleted)"));
    files.map(|file| file.expect("an entry").path()).filter(is_pool).collect()
}

/// Whether no memfd of slabs that a process has open takes more memory than that; a few pages may
/// be touched beside.
fn is_lean(node: &Node, bytes_max: u64) -> Result<(), String> {
    if node.rows_of("stats")["slabs_plain"] == "0" {
        return Ok(()); // reserved pages are never given back, and merged ones may be filled again
    }
    let pools: Vec<u64> =
        pools(node).iter().filter_map(|path| std::fs::metadata(path).ok()).map(|pool| pool.blocks() * 512).collect();
    assert!(!pools.is_empty(), "a server has its slabs open");
    let too_much = pools.iter().find(|bytes| **bytes > bytes_max + (1 << 20));
    let owned = || node.rows_of("stats")["log_owned_bytes"].clone();
    let role = || node.text("role");
    too_much.map_or(Ok(()), |bytes| {
        Err(format!("{bytes} bytes of a pool, of at most {bytes_max}; {}, whose logs own {}", role(), owned()))
    })
}

/// Under load: no request fails, and the replica holds the same afterwards.
#[test]
fn nobody_is_refused_while_memory_changes() {
    on_each_fabric(|fabric| {
        let primary = Node::primary(&["-m", "16", "--memory-max", "64"]);
        let replica = Node::replica(primary.port(), &["--fabric", fabric]);
        in_sync(&primary, &[&replica]);
        // They panic when they are told of an error.
        let writers = Writers::start(&primary, 2, Traffic { keys: 20_000, value_bytes_max: 5000 });
        let owned = || primary.rows_of("stats")["log_owned_bytes"].parse::<u64>().expect("a number");
        for _ in 0..3 {
            for (mebibytes, is_there) in [(64, (48 << 20)..=(64 << 20)), (16, 0..=(16 << 20))] {
                assert_eq!(ask(&mut primary.client(), &format!("cache_memlimit {mebibytes}")), "OK");
                wait_until("the logs have as much as they are to have", || {
                    let owned = owned();
                    if is_there.contains(&owned) { Ok(()) } else { Err(owned.to_string()) }
                });
            }
        }
        assert!(writers.stop() > 1000);
        in_sync(&primary, &[&replica]);
        assert!(same_items(&primary, &[&replica], &numbered_keys(20_000)) > 1000);
    });
}
