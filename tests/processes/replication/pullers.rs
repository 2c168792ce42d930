//! Replicas that pull with several threads, each with its share of the shards: they come to hold
//! what a replica with one thread holds, as one replica of their primary, and whatever ends one
//! thread ends all.

use super::cuts::goes_on_after_cuts;
use super::impostor::{Impostor, Lie};
use super::orders::ctl;
use super::writers::{Traffic, Writers, write_batches};
use crate::node::{
    Node, expect_eq, in_sync, numbered_keys, on_each_fabric, same_items, side_by_side, wait_for_count,
    wait_for_full_log, wait_for_row, wait_until,
};
use crate::proxy::Proxy;
use crate::support::forged::GEOMETRY;
use crate::support::{Client, refused};
use remora::store::line::BIRTH;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

const KEYS: usize = 2000;
const TRAFFIC: Traffic = Traffic { keys: KEYS, value_bytes_max: 5000 };
const PRIMARY: [&str; 6] = ["-m", "16", "-I", "64k", "--shards", "8"];

/// Names of the threads that pull.
fn threads(node: &Node) -> BTreeSet<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", node.server.pid())).expect("the process lives");
    let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim_end().to_string()).filter(|name| name.starts_with("replica-pull")).collect()
}

fn threads_become(node: &Node, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|name| name.to_string()).collect();
    wait_until("threads that pull", || expect_eq("names", threads(node), expected.clone()));
}

/// Beside a replica with one thread, and joining while the log is overwritten again and again. A
/// primary counts one replica, whatever the number of its threads.
#[test]
fn they_come_to_hold_what_one_does() {
    on_each_fabric(|fabric| {
        let primary = Node::primary(&PRIMARY);
        let replica = |pullers| Node::replica(primary.port(), &["--fabric", fabric, "--pullers", pullers]);
        let one = replica("1");
        let writers = Writers::start(&primary, 2, TRAFFIC);
        wait_for_full_log(&primary);
        let (three, most) = (replica("3"), replica("16"));
        wait_for_count(&three, "records", 1000);
        wait_for_count(&most, "records", 1000);
        writers.stop();
        in_sync(&primary, &[&one, &three, &most]);
        assert!(same_items(&primary, &[&one, &three, &most], &numbered_keys(KEYS)) > 0);
        assert_eq!([&one, &three, &most].map(|replica| replica.number("bad_records")), [0; 3]);
        // There are eight shards.
        assert_eq!([&one, &three, &most].map(|replica| replica.text("pullers")), ["1", "3", "8"]);
        let rows = primary.rows();
        assert_eq!([0, 1, 2].map(|number| &rows[&format!("replica_{number}_pullers")][..]), ["1", "3", "8"]);
        threads_become(&three, &["replica-pull", "replica-pull-1", "replica-pull-2"]);
        // What a primary is told by all of them together, each in its own time.
        wait_until("the primary is told all", || {
            let rows = primary.rows();
            let told = |name: &str| rows[&format!("replica_1_{name}")].parse::<u64>().expect("a number");
            expect_eq("records and lag", (told("records"), told("lag_bytes")), (three.number("records"), 0))
        });
    });
}

#[test]
fn after_a_cut_they_go_on_from_their_cursors() {
    on_each_fabric(|fabric| goes_on_after_cuts(&["--fabric", fabric, "--pullers", "3"]));
}

/// Acknowledged, so each position was read from the slot of the puller that has the shard: the
/// primary is killed, the replica promoted, and nothing is missing.
#[test]
fn a_killed_primary_leaves_what_was_acknowledged() {
    on_each_fabric(|fabric| {
        let acks = ["--ack-replicas", "1", "--ack-timeout", "60000"];
        let mut primary = Node::primary(&[&PRIMARY[..], &acks].concat());
        let replica = Node::standby(primary.port(), &["--fabric", fabric, "--pullers", "3"]);
        in_sync(&primary, &[&replica]);
        let writer = std::thread::spawn({
            let address = primary.server.tcp[0];
            move || {
                let (mut client, mut stored) = (Client::tcp(address), 0);
                // Until the primary is gone, in the middle of whatever it does.
                while client.try_send(format!("set key-{stored} 0 0 5\r\nvalue\r\n").as_bytes()).is_ok()
                    && client.until_closed_or_line() == "STORED"
                {
                    stored += 1;
                }
                stored
            }
        });
        wait_for_count(&replica, "records", 500);
        primary.server.signal("KILL");
        primary.server.wait();
        let stored: usize = writer.join().expect("a writer");
        wait_for_row(&replica, "state", |state| state == "connecting");
        threads_become(&replica, &["replica-pull"]);
        ctl(&replica, &["promote"]);
        threads_become(&replica, &[]);
        let keys: Vec<String> = (0..stored).map(|number| format!("key-{number}")).collect();
        assert_eq!(replica.items(&keys).len(), stored, "acknowledged, and not there");
        assert_eq!(replica.client().set("after", b"it"), "STORED");
    });
}

/// Orders end all threads, and begin as many anew.
#[test]
fn roles_change_with_all_threads() {
    let primary = Node::primary(&PRIMARY);
    let replica = Node::standby(primary.port(), &["--pullers", "3"]);
    let pull = ["replica-pull", "replica-pull-1", "replica-pull-2"];
    write_batches(primary.server.tcp[0], 1, 20, TRAFFIC);
    in_sync(&primary, &[&replica]);
    threads_become(&replica, &pull);
    let held = replica.holds();
    for round in 2..5 {
        ctl(&replica, &["detach"]);
        threads_become(&replica, &[]);
        write_batches(primary.server.tcp[0], round, 20, TRAFFIC);
        ctl(&replica, &["replicate", &primary.port().to_string()]);
        in_sync(&primary, &[&replica]);
        threads_become(&replica, &pull);
    }
    assert!(same_items(&primary, &[&replica], &numbered_keys(KEYS)) > 0);
    assert_eq!(["shards_diverged", "bad_records"].map(|name| replica.number(name)), [0; 2]);
    replica.comes_back_to(held);
    ctl(&replica, &["promote"]);
    threads_become(&replica, &[]);
    // The other way round: the primary has one puller, as it was started.
    ctl(&primary, &["replicate", &replica.port().to_string()]);
    write_batches(replica.server.tcp[0], 9, 20, TRAFFIC);
    in_sync(&replica, &[&primary]);
    assert!(same_items(&replica, &[&primary], &numbered_keys(KEYS)) > 0);
}

/// The channel of one thread alone breaks, the first one's or another's: the session ends for that
/// reason, and the next one goes on from where each was.
#[test]
fn one_channel_that_breaks_ends_the_session() {
    side_by_side(&[0, 1], |broken| {
        let proxy: Arc<OnceLock<Proxy>> = Arc::default();
        let (between, invited) = (proxy.clone(), AtomicUsize::new(0));
        let lie = Lie {
            invitation: Arc::new(move |invitation| {
                let exporter = invitation.address.parse().expect("an address");
                if invited.fetch_add(1, Relaxed) % 2 == broken {
                    invitation.address = between.get_or_init(|| Proxy::to(exporter)).address.to_string();
                }
            }),
            ..Lie::none()
        };
        let memory = lie.memory.clone();
        let impostor = Impostor::start(lie);
        let replica = Node::replica(impostor.address, &["--fabric", "tcp", "--pullers", "2"]);
        for round in 1..=3 {
            for shard in 0..GEOMETRY.shards as usize {
                memory.show(shard, memory.line(BIRTH, memory.write_records(shard, 10 * round, None)));
            }
            wait_for_count(&replica, "records", 20 * round as u64);
            wait_for_row(&replica, "state", |state| state == "following");
            assert_eq!((replica.number("sessions"), replica.text("pullers").as_str()), (round as u64, "2"));
            if round < 3 {
                proxy.get().expect("it follows").cut();
                wait_for_count(&replica, "sessions", round as u64 + 1);
            }
        }
        let counts = ["shards_joined", "shards_continued", "records", "bad_records"];
        assert_eq!(counts.map(|name| replica.number(name)), [2, 4, 60, 0], "each record once");
    });
}

#[test]
fn too_many_and_pushed_to_are_refused_in_words() {
    for (more, words) in [
        (&["--pullers", "17"][..], "1..=16"),
        (&["--pullers", "2", "--replication-mode", "push"], "one thread applies"),
    ] {
        let (status, said) = refused(&[&["-l", "127.0.0.1:0", "--replica-of", "127.0.0.1:1"], more].concat());
        assert!(!status.success() && said.contains(words), "{said}");
    }
}
