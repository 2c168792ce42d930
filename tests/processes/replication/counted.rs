//! Acknowledged writes and replicas that are slow: reclaim passes none that is counted. Who stands
//! still stops being counted, is seen to, and is counted again once it has come back.

use super::orders::ctl;
use crate::node::{Node, in_sync, on_each_fabric, wait_for_row, wait_until};
use crate::support::wait::Ends;
use crate::support::{Client, refused};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const LOG_BYTES: u64 = 4 << 20;
/// Of the values that are written over and over.
const VALUE_BYTES: usize = 4000;
const NOT_ACKNOWLEDGED: &str = "SERVER_ERROR not acknowledged: 0 of 1 replicas have it";

fn pair(fabric: &str, arguments: &[&str]) -> (Node, Node) {
    let mut all = vec!["-m", "4", "-I", "64k", "--replication-timeout", "60", "--ack-replicas", "1"];
    all.extend(arguments);
    let primary = Node::primary(&all);
    let replica = Node::standby(primary.port(), &["--fabric", fabric, "--replication-timeout", "60"]);
    in_sync(&primary, &[&replica]);
    wait_for_row(&primary, "replica_0_counted", |counted| counted == "yes");
    (primary, replica)
}

/// Writes that wait for no replica, over the same few keys, until they are to end or the server
/// does: reclaim has to move all else.
fn churn(address: SocketAddr, ends: &AtomicBool) {
    let (mut client, value) = (Client::tcp(address), "v".repeat(VALUE_BYTES));
    for number in 0.. {
        let key = number % 300;
        let sent = client.try_send(format!("ms churn-{key} {VALUE_BYTES} A0\r\n{value}\r\n").as_bytes());
        if ends.load(Relaxed) || sent.is_err() || client.until_closed_or_line() != "HD" {
            return;
        }
    }
}

/// Writes of single keys, each once, until they are to end or the server does. The number of those
/// that were acknowledged, which `taken` counts.
fn write_acknowledged(address: SocketAddr, ends: &AtomicBool, taken: &AtomicU64) -> Vec<String> {
    let (mut client, mut acknowledged) = (Client::tcp(address), Vec::new());
    for number in 0..2000 {
        let key = format!("key-{number}");
        let sent = client.try_send(format!("set {key} 0 0 100\r\n{number:0100}\r\n").as_bytes());
        if ends.load(Relaxed) || sent.is_err() {
            break;
        }
        match client.until_closed_or_line().as_str() {
            "STORED" => {
                acknowledged.push(key);
                taken.fetch_add(1, Relaxed);
            }
            line if line.starts_with(NOT_ACKNOWLEDGED) => {}
            _ => break,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    acknowledged
}

fn appends(primary: &Node, bytes: u64) {
    let goal = primary.appended_bytes() + bytes;
    wait_until("a log is written over", || {
        let appended = primary.appended_bytes();
        if appended > goal { Ok(()) } else { Err(format!("{appended} of {goal}")) }
    });
}

/// The replica is slow, and what it has acknowledged is moved by reclaim, again and again. Then the
/// primary dies. (Nothing is evicted here. Where it is, a replica that is promoted in the middle of
/// what it was catching up with may lack some of what had been moved: `Sink::make_room`.)
#[test]
fn what_was_acknowledged_outlives_the_primary_though_the_replica_is_slow() {
    on_each_fabric(|fabric| {
        let (mut primary, replica) = pair(fabric, &["-M"]);
        assert_eq!(primary.client().set("first", b"1"), "STORED");
        assert_eq!(primary.text("replica_retain_bytes"), "all");
        let (address, ends, taken) = (primary.server.tcp[0], AtomicBool::new(false), AtomicU64::new(0));
        let acknowledged = std::thread::scope(|scope| {
            let over = Ends(&ends);
            scope.spawn(|| churn(address, &ends));
            let writer = scope.spawn(|| write_acknowledged(address, &ends, &taken));
            for _ in 0..4 {
                appends(&primary, LOG_BYTES);
                replica.server.signal("STOP");
                std::thread::sleep(Duration::from_millis(300));
                replica.server.signal("CONT");
            }
            wait_until("enough is acknowledged", || {
                let taken = taken.load(Relaxed);
                if taken > 50 { Ok(()) } else { Err(format!("{taken} so far")) }
            });
            assert_eq!((primary.number("replicas_let_go"), replica.number("shards_overrun")), (0, 0));
            assert_eq!(primary.text("replica_0_counted"), "yes");
            replica.server.signal("STOP");
            std::thread::sleep(Duration::from_millis(300));
            primary.server.signal("KILL");
            primary.server.wait();
            drop(over);
            replica.server.signal("CONT");
            writer.join().expect("it ends with the primary")
        });
        ctl(&replica, &["promote"]);
        let mut client = replica.server.connect();
        let lost = acknowledged.iter().filter(|key| client.get(key).is_none());
        assert_eq!(lost.collect::<Vec<_>>(), Vec::<&String>::new());
        assert_eq!(client.get("first").as_deref(), Some(&b"1"[..]));
    });
}

#[test]
fn who_stands_still_stops_being_counted_and_is_counted_again_once_it_goes_on() {
    let (primary, replica) = pair("shm", &["--ack-timeout", "300"]);
    let address = primary.server.tcp[0];
    let mut client = primary.server.connect();
    assert_eq!(client.set("a", b"1"), "STORED");
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = Ends(&ends);
        scope.spawn(|| churn(address, &ends));
        replica.server.signal("STOP");
        let begun_at = Instant::now();
        wait_until("it is not counted", || {
            let asked_at = Instant::now();
            let answer = client.set("b", b"2");
            assert!(answer.starts_with(NOT_ACKNOWLEDGED) || answer == "STORED" && begun_at.elapsed().as_secs() < 1);
            assert!(asked_at.elapsed() < Duration::from_secs(10), "a write hangs");
            let rows = primary.rows();
            if rows["replica_0_counted"] == "no" { Ok(()) } else { Err(format!("{rows:?}")) }
        });
        assert_eq!((primary.number("replicas_let_go"), primary.text("replica_0_retain").as_str()), (1, "let_go"));
        let said = std::iter::from_fn(|| primary.server.next_log_line()).find(|line| line.contains("is let go"));
        assert!(said.as_ref().is_some_and(|line| line.contains("it is not counted where writes wait")), "{said:?}");
        assert!(client.set("b", b"3").starts_with(NOT_ACKNOWLEDGED));
        appends(&primary, LOG_BYTES);
        drop(over);
        replica.server.signal("CONT");
    });
    // Nothing is written, so reclaim does not ask: its session looks who is close again.
    wait_for_row(&primary, "replica_0_counted", |counted| counted == "yes");
    assert_eq!(primary.text("replica_0_retain"), "held");
    assert_eq!(client.set("b", b"4"), "STORED");
    assert_eq!(replica.client().get("b").as_deref(), Some(&b"4"[..]));
}

/// It reads on in between, and never stands still for as long as writers would wait for one that
/// does.
#[test]
fn who_makes_writers_wait_most_of_the_time_is_let_go_though_it_reads_on() {
    let (primary, replica) = pair("shm", &["--ack-timeout", "300"]);
    assert_eq!(primary.client().set("a", b"1"), "STORED");
    let (address, ends) = (primary.server.tcp[0], AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _ends = Ends(&ends);
        scope.spawn(|| churn(address, &ends));
        wait_until("it is let go", || {
            replica.server.signal("STOP");
            let mut before = u64::MAX;
            wait_until("writers wait", || {
                let appended = primary.appended_bytes();
                std::thread::sleep(Duration::from_millis(20));
                if std::mem::replace(&mut before, appended) == appended { Ok(()) } else { Err(format!("{appended}")) }
            });
            std::thread::sleep(Duration::from_millis(300));
            replica.server.signal("CONT");
            std::thread::sleep(Duration::from_millis(10));
            let let_go = primary.number("replicas_let_go");
            if let_go > 0 { Ok(()) } else { Err("it is kept".to_string()) }
        });
    });
    wait_for_row(&primary, "replica_0_counted", |counted| counted == "yes");
}

/// A server that holds nothing by itself begins to keep log for replicas with the first answer that
/// waits for them; not where it was told not to.
#[test]
fn log_is_kept_once_a_request_waits_for_replicas() {
    for retain in [None, Some("0")] {
        let arguments: Vec<&str> = retain.iter().flat_map(|bytes| ["--replica-retain", *bytes]).collect();
        let primary = Node::primary(&arguments);
        let replica = Node::replica(primary.port(), &[]);
        in_sync(&primary, &[&replica]);
        let mut client = primary.server.connect();
        assert_eq!(client.set("a", b"1"), "STORED");
        assert!(!primary.rows().contains_key("replica_retain_bytes"), "nobody waits for replicas");
        assert_eq!(client.ask("ms a 1 A1\r\n2"), "HD");
        let retains = primary.rows().get("replica_retain_bytes").cloned();
        assert_eq!(retains.as_deref(), retain.is_none().then_some("all"), "{retain:?}");
    }
    let (status, said) = refused(&["--replication", "127.0.0.1:0", "--ack-replicas", "1", "--replica-retain", "0"]);
    assert!(!status.success() && said.contains("--replica-retain 0 overruns replicas"), "{said}");
}
