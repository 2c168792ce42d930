//! A primary of many shards, most of which nobody writes to.

use crate::node::{Node, expect_eq, in_sync, same_items, side_by_side, wait_for_count, wait_until};
use remora::base::hash::shard_hash;

/// Looks of a replica after which it has long begun to pause between them.
const STILL_LOOKS: u64 = 500;
/// Milliseconds in which a write must be applied by a replica that sleeps, far more than any pause.
const APPLIED_WITHIN: u64 = 20_000;
/// Shards that are woken, one after the other.
const WOKEN: usize = 6;

/// So many keys of each shard.
pub fn keys_by_shard(shards: usize, each: usize) -> Vec<Vec<String>> {
    let mut keys = vec![Vec::new(); shards];
    let (mut missing, mut number) = (shards * each, 0);
    while missing > 0 {
        let key = format!("key-{number}");
        let shard = (u128::from(shard_hash(key.as_bytes())) * shards as u128) >> 64;
        let keys = &mut keys[shard as usize];
        if keys.len() < each {
            keys.push(key);
            missing -= 1;
        }
        number += 1;
    }
    keys
}

/// Wait until nothing has moved for so long that the replica sleeps between its looks.
fn fall_asleep(replica: &Node) {
    wait_for_count(replica, "looks", replica.number("looks") + STILL_LOOKS);
}

/// Written where nobody has written for a while: the replica is told to have applied it, and shows
/// it.
fn write_and_see(primary: &Node, replica: &Node, key: &str, value: &str) {
    assert_eq!(primary.client().set(key, value.as_bytes()), "STORED");
    assert_eq!(primary.client().ask(&format!("wait 1 {APPLIED_WITHIN}")), "REPLICAS 1", "{key}: {:?}", replica.rows());
    assert_eq!(replica.client().get(key).as_deref(), Some(value.as_bytes()), "{key}");
}

/// Empty shards own nothing on either side. A write into one of them, or into one that was written
/// to long ago, reaches a replica that sleeps, also while another shard keeps it busy.
#[test]
fn a_write_into_a_shard_that_slept_is_applied() {
    side_by_side(&[("512", "shm"), ("512", "tcp"), ("1024", "shm")], |(shards, fabric)| {
        let primary = Node::primary(&["-m", "32", "-I", "2k", "--shards", shards]);
        let replica = Node::replica(primary.port(), &["--fabric", fabric]);
        in_sync(&primary, &[&replica]);
        let owned = |node: &Node| node.rows_of("stats")["log_owned_bytes"].parse::<u64>().expect("a number");
        assert_eq!((owned(&primary), owned(&replica)), (0, 0));

        let keys = keys_by_shard(shards.parse().expect("a number"), 1).concat();
        let step = keys.len() / WOKEN;
        let woken: Vec<String> = keys.iter().step_by(step).take(WOKEN).cloned().collect();
        for key in &woken {
            fall_asleep(&replica);
            write_and_see(&primary, &replica, key, "first");
        }
        let slab_bytes = owned(&primary) / WOKEN as u64;
        assert!(slab_bytes >= 4096 && owned(&primary) == slab_bytes * WOKEN as u64);
        wait_until("the replica has a slab of each", || expect_eq("owned", owned(&replica), owned(&primary)));

        // One shard is written to all the time, and goes round; the others sleep.
        let busy = &keys[1];
        let applied = replica.number("records") + 300;
        let mut number = 0;
        wait_until("the replica is busy", || {
            number += 1;
            let stored = primary.client().set(busy, format!("{number:01000}").as_bytes());
            assert_eq!(stored, "STORED");
            if replica.number("records") < applied { Err("not yet") } else { Ok(()) }
        });
        for key in &woken {
            write_and_see(&primary, &replica, key, "again");
        }
        in_sync(&primary, &[&replica]);
        assert_eq!(same_items(&primary, &[&replica], &keys), WOKEN + 1);
        assert_eq!((replica.number("sessions"), replica.number("bad_records")), (1, 0));
    });
}
