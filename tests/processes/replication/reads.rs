//! Reads from replicas: tokens of positions, and how far behind a replica may be.

use super::orders::ctl;
use super::through::{FORWARD, answers};
use crate::node::{Node, in_sync, wait_for_row, wait_until};
use crate::support::Client;
use std::time::Instant;

const TCP: &[&str] = &["--fabric", "tcp"];

/// The token in an answer, which stands at its end.
pub fn token(answer: &str) -> String {
    answer.rsplit_once(" p").unwrap_or_else(|| panic!("no token in {answer:?}")).1.trim_end().to_string()
}

/// The token of a write.
fn write(client: &mut Client, key: &str, value: &str) -> String {
    let answer = answers(client, format!("ms {key} {} p\r\n{value}\r\n", value.len()).as_bytes());
    assert!(answer.starts_with("HD p"), "{answer}");
    token(&answer)
}

fn ask(client: &mut Client, line: &str) -> String {
    answers(client, format!("{line}\r\n").as_bytes())
}

/// What d tells of a key that is there.
fn behind(client: &mut Client, line: &str) -> Option<u64> {
    let answer = ask(client, line);
    let told = answer.strip_prefix("HD d").unwrap_or_else(|| panic!("{answer:?} tells nothing")).trim_end();
    if told == "-1" { None } else { Some(told.parse().unwrap_or_else(|_| panic!("{answer:?} is no number"))) }
}

/// Every thread of a process stands still.
fn has_stopped(node: &Node) {
    node.server.signal("STOP");
    wait_until("all its threads have stopped", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", node.server.pid())).expect("it lives").flatten();
        let state = |task: &std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        tasks.into_iter().all(|task| state(&task)).then_some(()).ok_or("some run")
    });
}

/// The one in the middle stands still, so the last one is behind, and answers.
#[test]
fn a_replica_that_is_behind_says_so_to_who_has_written_since() {
    let primary = Node::primary(&["-m", "16"]);
    let middle = Node::middle(primary.port(), 0, TCP);
    let last = Node::replica(middle.port(), TCP);
    let (mut writer, mut reader) = (primary.server.connect(), last.server.connect());
    let old = write(&mut writer, "key", "old");
    assert_eq!(ask(&mut reader, &format!("mg key v y{old} Yw5000")), "VA 3\r\nold\r\n");
    has_stopped(&middle);
    let new = write(&mut writer, "key", "new");
    let with_new = |reader: &mut Client, flags: &str| ask(reader, &format!("mg key v y{new} {flags}"));
    assert_eq!(ask(&mut reader, &format!("mg key v y{old}")), "VA 3\r\nold\r\n");
    assert_eq!(with_new(&mut reader, "Ym k"), "EN kkey y\r\n");
    assert_eq!(with_new(&mut reader, "Yw20 q"), "EN y\r\n");
    let error = with_new(&mut reader, "");
    assert!(error.starts_with("SERVER_ERROR not here yet: ask the primary at 127.0.0.1:"), "{error}");
    // It is waited for while others are served, and what is behind it waits as well.
    reader.send(format!("mg key v y{new} Yw5000\r\nmg key v\r\nmn\r\n").as_bytes());
    assert_eq!(ask(&mut last.server.connect(), "mg key v"), "VA 3\r\nold\r\n");
    middle.server.signal("CONT");
    let lines: Vec<String> = (0..5).map(|_| reader.line()).collect();
    assert_eq!(lines, ["VA 3", "new", "VA 3", "new", "MN"]);
    let read = token(&ask(&mut reader, "mg key p"));
    assert_eq!(ask(&mut writer, &format!("mg key v y{read}")), "VA 3\r\nnew\r\n", "what a replica has seen");
}

/// The heir has not got the last writes of its primary, which were not acknowledged.
#[test]
fn what_was_lost_with_a_primary_is_told_as_lost() {
    let primary = Node::primary(&["-m", "16", "--shards", "4"]);
    let (heir, other) = (Node::standby(primary.port(), TCP), Node::standby(primary.port(), TCP));
    let mut writer = primary.server.connect();
    let kept = write(&mut writer, "key", "kept");
    in_sync(&primary, &[&heir, &other]);
    has_stopped(&heir);
    let lost = write(&mut writer, "key", "lost");
    in_sync_but_one(&other, &lost);
    drop(primary);
    heir.server.signal("CONT");
    wait_for_row(&heir, "state", |state| state == "connecting");
    ctl(&heir, &["promote"]);
    let mut client = heir.server.connect();
    assert_eq!(ask(&mut client, &format!("mg key v y{kept}")), "VA 4\r\nkept\r\n");
    for late in ["Yw5000", "Ym", "Yp"] {
        let answer = ask(&mut client, &format!("mg key v y{lost} {late}"));
        assert!(answer.starts_with("SERVER_ERROR lost: "), "{answer}");
    }
    let new = write(&mut client, "key", "new");
    assert_eq!(ask(&mut client, &format!("mg key v y{new}")), "VA 3\r\nnew\r\n");

    // The one that has the lost write goes back, and says the same then.
    ctl(&other, &["replicate", &heir.port().to_string()]);
    in_sync(&heir, &[&other]);
    let mut client = other.server.connect();
    assert_eq!(ask(&mut client, &format!("mg key v y{new} Yw5000")), "VA 3\r\nnew\r\n");
    let answer = ask(&mut client, &format!("mg key v y{lost} Yw5000"));
    assert!(answer.starts_with("SERVER_ERROR lost: "), "{answer}");
}

/// Wait until a replica has what the token tells of.
fn in_sync_but_one(replica: &Node, token: &str) {
    let answer = ask(&mut replica.server.connect(), &format!("mg key y{token} Yw5000"));
    assert_eq!(answer, "HD\r\n");
}

#[test]
fn writes_are_read_from_a_replica_that_forwards_the_others() {
    let primary = Node::primary(&["-m", "16", "--forward", "--fabric", "tcp"]);
    let replica = Node::standby(primary.port(), FORWARD);
    let mut client = replica.server.connect();
    write(&mut client, "key", "first");
    in_sync(&primary, &[&replica]);
    wait_until("it answers by itself", || match behind(&mut client, "mg key r d") {
        Some(1..) => Ok(()),
        told => Err(format!("{told:?}")),
    });
    let forwarded = || -> u64 { replica.rows_of("stats")["forwarded"].parse().expect("a number") };
    for number in 0..200 {
        let value = number.to_string();
        let token = write(&mut client, "key", &value);
        let (before, late) = (forwarded(), ["Yw5000", "Yp"][number % 2]);
        let answer = ask(&mut client, &format!("mg key v r y{token} {late}"));
        assert_eq!(answer, format!("VA {}\r\n{value}\r\n", value.len()), "a write that was forwarded");
        assert!(late == "Yp" || forwarded() == before, "it is answered here");
    }
    let before = forwarded();
    assert_eq!(ask(&mut client, "mg key v"), "VA 3\r\n199\r\n");
    assert_eq!(forwarded(), before + 1, "a read that does not allow it is the primary's");
    assert_eq!(ask(&mut client, "mg key v D0 d"), "VA 3 d0\r\n199\r\n", "no replica is so near");
    // Behind a write that is under way to the primary no read is answered here.
    client.send(b"ms key 4 q\r\nlast\r\nmg key v r\r\n");
    assert_eq!([client.line(), client.line()], ["VA 4", "last"]);
}

/// The bound is never below the truth: what a primary writes after it has stood still is unknown
/// here, whatever else is.
#[test]
fn how_far_behind_a_replica_may_be_counts_from_before_its_primary_stood_still() {
    let primary = Node::primary(&["-m", "16", "--fabric", "tcp,shm"]);
    for fabric in ["tcp", "shm"] {
        let replica = Node::standby(primary.port(), &["--fabric", fabric, "--forward"]);
        assert_eq!(primary.client().set("key", b"value"), "STORED");
        in_sync(&primary, &[&replica]);
        let mut client = replica.server.connect();
        wait_until("it answers by itself", || match behind(&mut client, "mg key r d") {
            Some(1..) => Ok(()),
            told => Err(format!("{told:?}")),
        });
        has_stopped(&primary);
        let stopped_at = Instant::now();
        let told = wait_until("the bound grows", || {
            let least = stopped_at.elapsed().as_millis() as u64;
            let told = behind(&mut client, "mg key r d").expect("it has seen its primary live");
            assert!(told >= least, "it stands still for {least} ms, and {told} ms are told");
            if told > 1000 { Ok(told) } else { Err(format!("{told} ms")) }
        });
        println!("{fabric}: {told} ms after {:?}", stopped_at.elapsed());
        // The replica stands still as well; what it sees first afterwards is as old as before.
        has_stopped(&replica);
        let before = Instant::now();
        primary.server.signal("CONT");
        replica.server.signal("CONT");
        let least = before.elapsed().as_millis() as u64;
        assert!(behind(&mut client, "mg key r d").is_none_or(|told| told == 0 || told >= least));
        wait_until("it sees its primary live", || match behind(&mut client, "mg key r d") {
            Some(told @ 1..1000) => Ok(told),
            told => Err(format!("{told:?}")),
        });
    }
}

/// Of a replica of a replica nobody knows, nor of one that is pushed to.
#[test]
fn where_a_beat_is_passed_on_nothing_is_told_of_how_old_it_is() {
    let primary = Node::primary(&["-m", "16"]);
    let middle = Node::middle(primary.port(), 0, TCP);
    let last = Node::replica(middle.port(), TCP);
    let pushed = Node::replica(primary.port(), &["--fabric", "shm", "--replication-mode", "push"]);
    assert_eq!(primary.client().set("key", b"value"), "STORED");
    in_sync(&primary, &[&middle, &pushed]);
    in_sync(&middle, &[&last]);
    wait_until("the nearest one knows", || behind(&mut middle.client(), "mg key d").ok_or("it does not"));
    for replica in [&last, &pushed] {
        wait_for_row(replica, "staleness_ms", |staleness| staleness != "unknown");
        assert_eq!(behind(&mut replica.client(), "mg key d"), None);
        let answer = ask(&mut replica.client(), "mg key D3600000");
        assert!(answer.starts_with("SERVER_ERROR what is here may be too old: ask the primary at "), "{answer}");
    }
    // It is the primary of those below from now on.
    ctl(&middle, &["promote"]);
    wait_until("the last one follows a primary now", || behind(&mut last.client(), "mg key d").ok_or("unknown"));
}
