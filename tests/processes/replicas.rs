//! A primary and its replicas over verbs, as whole processes: several at once, joining under load
//! that evicts, killed, and their primary killed. The like over the other fabrics is in
//! replication.
//!
//! Ignored by default: they need an RDMA device, whose address is in REMORA_TEST_VERBS, and
//! tools/soft-roce runs them in a guest that has one. All is `--fabric verbs`, so no other fabric
//! can take its place.

use crate::node::{
    Node, in_sync, numbered_keys, same_items, same_shown, wait_for_count, wait_for_full_log, wait_for_row,
};
use crate::replication::writers::{Traffic, Writers};
use crate::rxe::{Rxe, ended};
use crate::support::Client;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// Several times as much as fits into the memory.
const TRAFFIC: Traffic = Traffic { keys: 8_000, value_bytes_max: 40_000 };
/// Clients that write.
const WRITERS: usize = 4;

/// The device's address, and a secret.
struct Site {
    address: String,
    secret: String,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        let address = std::env::var("REMORA_TEST_VERBS").expect("REMORA_TEST_VERBS is the address of an RDMA device");
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("secret").to_str().expect("text").to_string();
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&secret).expect("a new file");
        file.write_all(b"between the lines of a test").expect("written");
        Site { address, secret, _folder: folder }
    }

    fn common(&self) -> [&str; 4] {
        ["--fabric", "verbs", "--secret-file", &self.secret]
    }

    /// A small primary of several shards, with this replication port.
    fn primary(&self, port: u16) -> Node {
        let own = ["-m", "8", "-I", "64k", "--shards", "4"];
        Node::primary_on(&format!("{}:{port}", self.address), &[&own, &self.common()[..]].concat())
    }

    /// A replica of it that has been admitted.
    fn replica(&self, primary: &Node, name: &str, mode: &str) -> Node {
        // It follows a primary that comes back empty.
        // Of those that pull, the second one does so by several queue pairs.
        let pullers = if name == "second" && mode == "pull" { "3" } else { "1" };
        let own = ["--replica-name", name, "--replication-mode", mode, "--replica-discard", "--pullers", pullers];
        Node::replica(primary.port(), &[&own, &self.common()[..]].concat())
    }
}

/// Once nobody writes any more: each has what the primary has, by everybody's account, and came by
/// it over verbs.
fn all_have_all(primary: &Node, replicas: &[Node]) -> usize {
    let replicas: Vec<&Node> = replicas.iter().collect();
    in_sync(primary, &replicas);
    let same = same_items(primary, &replicas, &numbered_keys(TRAFFIC.keys));
    for replica in replicas {
        let rows = replica.rows();
        assert!(rows["fabric"].starts_with("verbs ") && rows["bad_records"] == "0", "{rows:?}");
    }
    same
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn three_replicas_of_a_primary_whose_log_is_full() {
    let site = Site::new();
    let primary = site.primary(0);
    let mut replicas = vec![site.replica(&primary, "first", "pull"), site.replica(&primary, "second", "pull")];
    let writers = Writers::start(&primary, WRITERS, TRAFFIC);
    wait_for_full_log(&primary);
    // In the middle of the writing.
    replicas.push(site.replica(&primary, "third", "pull"));
    wait_for_count(&replicas[2], "records", 1);
    writers.stop();
    let same = all_have_all(&primary, &replicas);
    assert_eq!([0, 1, 2].map(|number: usize| replicas[number].text("pullers")), ["1", "3", "1"]);
    assert!(same > 0, "the load left something");
    println!("three replicas: {same} of {} keys are there, the same on all", TRAFFIC.keys);

    // kill -9: what it was given goes away, and another can have its place.
    drop(replicas.remove(1));
    wait_for_row(&primary, "replicas", |count| count == "2");
    replicas.push(site.replica(&primary, "fourth", "pull"));
    let writers = Writers::start(&primary, WRITERS, TRAFFIC);
    wait_for_count(&replicas[2], "records", 1);
    writers.stop();
    all_have_all(&primary, &replicas);
    assert_eq!((primary.number("replicas_admitted"), primary.number("replicas_refused")), (4, 0));
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_killed_primary_that_comes_back_empty() {
    let site = Site::new();
    let primary = site.primary(0);
    let replicas = ["first", "second"].map(|name| site.replica(&primary, name, "pull"));
    assert_eq!(primary.client().set("before", b"the kill"), "STORED");
    all_have_all(&primary, &replicas);
    let port = primary.port().port();
    drop(primary);
    for replica in &replicas {
        wait_for_row(replica, "state", |state| state == "connecting");
        assert_eq!(replica.client().get("before").as_deref(), Some(&b"the kill"[..]), "served all the same");
    }

    let primary = site.primary(port);
    assert_eq!(primary.client().set("after", b"it"), "STORED");
    all_have_all(&primary, &replicas);
    for replica in &replicas {
        assert_eq!(replica.client().get("before"), None, "the new primary never had it");
        assert_eq!(replica.client().get("after").as_deref(), Some(&b"it"[..]));
        assert_eq!((replica.number("sessions"), replica.number("bad_records")), (2, 0));
    }
}

/// Joining before and under load, one killed, its primary killed. Two, not three: each has a thread
/// of the primary's as well, and guests are slow.
#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn replicas_that_are_pushed_to() {
    let site = Site::new();
    let primary = site.primary(0);
    let mut replicas = vec![site.replica(&primary, "first", "push")];
    let writers = Writers::start(&primary, WRITERS, TRAFFIC);
    wait_for_full_log(&primary);
    replicas.push(site.replica(&primary, "second", "push"));
    wait_for_count(&replicas[1], "records", 1);
    writers.stop();
    assert!(all_have_all(&primary, &replicas) > 0, "the load left something");
    assert!(replicas.iter().all(|replica| replica.text("mode") == "push"));

    drop(replicas.remove(0));
    wait_for_row(&primary, "replicas", |count| count == "1");
    assert_eq!(primary.client().set("after-the-kill", b"it"), "STORED");
    all_have_all(&primary, &replicas);
    let port = primary.port().port();
    drop(primary);
    wait_for_row(&replicas[0], "state", |state| state == "connecting");
    let primary = site.primary(port);
    assert_eq!(primary.client().set("after", b"it"), "STORED");
    all_have_all(&primary, &replicas);
    assert_eq!(replicas[0].client().get("after").as_deref(), Some(&b"it"[..]));
}

/// Less than the smallest server registers.
const LOCKED_BYTES_MAX: u64 = 64 << 10;

/// A primary that may lock too little memory for verbs is followed over TCP, and over verbs once
/// its limit was raised: nothing is restarted.
#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_primary_that_may_lock_too_little_memory() {
    let site = Site::new();
    let either = ["--fabric", "verbs,tcp", "--secret-file", &site.secret];
    let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    let ours = getrlimit(Resource::Memlock);
    // The primary inherits it, and as another user than root it is bound by it.
    setrlimit(Resource::Memlock, limit(LOCKED_BYTES_MAX)).expect("lower is always granted");
    let primary =
        Node::primary_on(&format!("{}:0", site.address), &[&["-m", "8", "-u", "nobody"], &either[..]].concat());
    setrlimit(Resource::Memlock, ours).expect("to root");
    let state = wait_for_row(&primary, "replication_fabric_verbs", |state| state.starts_with("failed"));
    assert!(state.contains("ulimit -l"), "{state}");

    let replica = Node::replica(primary.port(), &either);
    assert_eq!(primary.client().set("key", b"over TCP"), "STORED");
    in_sync(&primary, &[&replica]);
    let rows = replica.rows();
    assert!(rows["fabric"].starts_with("tcp ") && rows["fabric"].contains("ulimit -l"), "{rows:?}");
    assert_eq!(rows["penalty_verbs_failures"], "1", "{rows:?}");
    assert!(rows["penalty_verbs_reason"].contains("ulimit -l"), "{rows:?}");

    let pid = Pid::from_raw(primary.server.pid() as i32).expect("a process");
    prlimit(Some(pid), Resource::Memlock, limit(64 << 20)).expect("to root");
    wait_for_row(&primary, "replication_fabric_verbs", |state| state == "ready");
    wait_for_row(&replica, "fabric", |fabric| fabric.starts_with("verbs "));
    assert_eq!(primary.client().set("key", b"over verbs"), "STORED");
    in_sync(&primary, &[&replica]);
    assert_eq!(replica.client().get("key").as_deref(), Some(&b"over verbs"[..]));
    assert_eq!(replica.number("failed_tries"), 0, "no session has failed");
}

/// The device goes away while both run: the replica follows over TCP, and over verbs once it is
/// back.
#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_device_that_goes_away_and_comes_back() {
    let (site, Some(rxe)) = (Site::new(), Rxe::find()) else { return };
    rxe.add_other();
    let either = ["--fabric", "verbs,tcp", "--secret-file", &site.secret];
    let primary = Node::primary_on(&format!("{}:0", site.address), &[&["-m", "8"], &either[..]].concat());
    let replica = Node::replica(primary.port(), &either);
    wait_for_row(&replica, "fabric", |fabric| fabric.starts_with("verbs "));

    let taken = rxe.delete();
    let state = wait_for_row(&primary, "replication_fabric_verbs", |state| state.starts_with("failed"));
    println!("{state}");
    wait_for_row(&replica, "fabric", |fabric| fabric.starts_with("tcp "));
    assert_eq!(primary.client().set("key", b"over TCP"), "STORED");
    in_sync(&primary, &[&replica]);
    ended(taken, || ());

    rxe.add();
    wait_for_row(&primary, "replication_fabric_verbs", |state| state == "ready");
    wait_for_row(&replica, "fabric", |fabric| fabric.starts_with("verbs "));
    assert_eq!(primary.client().set("key", b"over verbs"), "STORED");
    in_sync(&primary, &[&replica]);
    assert_eq!(replica.client().get("key").as_deref(), Some(&b"over verbs"[..]));
    drop((replica, primary));
    rxe.delete_other(|| ());
}

/// Not a test: for two hosts, where no test can start both servers. REMORA_TEST_COMPARE has their
/// addresses and the number of `remora load`'s keys.
#[test]
#[ignore = "run by the scenario hosts of tools/soft-roce"]
fn two_servers_have_the_same() {
    let words = std::env::var("REMORA_TEST_COMPARE").expect("REMORA_TEST_COMPARE is `PRIMARY REPLICA KEYS`");
    let words: Vec<&str> = words.split(' ').collect();
    let [mut primary, mut replica] = [0, 1].map(|at| Client::tcp(words[at].parse().expect("an address")));
    let count: u32 = words[2].parse().expect("a number");
    let text = |number| String::from_utf8(remora::load::workload::key_text(number).to_vec()).expect("text");
    let keys: Vec<String> = (0..count).map(text).collect();
    println!("{} keys are the same on both", same_shown(&mut primary, &mut replica, &keys));
}
