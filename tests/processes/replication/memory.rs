//! The memory of a primary that changes while it serves and is followed.

use crate::node::{Node, in_sync, numbered_keys, on_each_fabric, same_items, wait_for_row, wait_until};
use crate::support::Client;

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
    });
}
