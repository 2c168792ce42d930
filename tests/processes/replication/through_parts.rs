//! Answers that have parts of several servers, and what becomes of them where one of these has
//! gone, waits, or is not known: each part is told once, and there is one end.

use super::orders::ctl;
use super::roles_by_shard::{SHARDS, each_way};
use super::shards::keys_by_shard;
use super::through::{FORWARD, answers, mixed, three, wait_for_stat};
use crate::node::in_sync;

fn value(key: &String) -> String {
    format!("VALUE {key} 0 {}\r\n{key}\r\n", key.len())
}

/// A detached shard is served here, and its reads are as old as its replica.
#[test]
fn a_get_of_shards_whose_primary_is_not_known_is_answered_once() {
    let [one, two, three] = three();
    let keys = mixed();
    keys.iter().for_each(|key| assert_eq!(three.client().set(key, key.as_bytes()), "STORED"));
    in_sync(&two, &[&one, &three]);
    let line = keys.join(" ");
    let all: String = keys.iter().map(value).collect();
    // The others are this server's in the one, and are forwarded from the other.
    for node in [&one, &three] {
        ctl(node, &["detach", "--shards", "4-7"]);
        let asked = format!("get {line}\r\nget {} {}\r\n", keys[1], keys[3]);
        let expected = format!("{all}END\r\n{}{}END\r\n", value(&keys[1]), value(&keys[3]));
        assert_eq!(answers(&mut node.client(), asked.as_bytes()), expected);
        // A write of them is refused, behind what was done before.
        let answer = answers(&mut node.client(), format!("gat 0 {line}\r\n").as_bytes());
        let end = answer.strip_prefix(&value(&keys[0])).unwrap_or_else(|| panic!("{answer}"));
        assert!(end.starts_with("SERVER_ERROR ") && end.lines().count() == 1, "{answer}");
    }
}

/// As many requests are under way to an owner as may be, so a get waits in the middle.
#[test]
fn a_get_that_waits_in_the_middle_tells_nothing_twice() {
    let [one, two] = each_way(SHARDS, &[FORWARD, &["-t", "1"]].concat());
    let [own, theirs] = [0, SHARDS / 2].map(|shard| keys_by_shard(SHARDS, 1)[shard][0].clone());
    assert_eq!([&own, &theirs].map(|key| one.client().set(key, key.as_bytes())), ["STORED", "STORED"]);
    for command in ["get", "gat 0"] {
        two.server.signal("STOP");
        let before = one.rows_of("stats")["forwarded"].parse::<u64>().unwrap();
        let mut many: Vec<_> = (0..8).map(|_| one.server.connect()).collect();
        many.iter_mut().for_each(|client| client.send(format!("get {theirs}\r\n").repeat(200).as_bytes()));
        wait_for_stat(&one, "forwarded", before + 1024);
        let waits = one.rows_of("stats")["forward_waits"].parse::<u64>().unwrap();
        let mut client = one.server.connect();
        client.send(format!("{command} {own} {theirs} {own}\r\nmn\r\n").as_bytes());
        wait_for_stat(&one, "forward_waits", waits + 1);
        two.server.signal("CONT");
        let expected = format!("{}{}{}END\r\nMN\r\n", value(&own), value(&theirs), value(&own));
        assert_eq!(String::from_utf8(client.exactly(expected.len())).unwrap(), expected);
    }
}

/// Its own part is not acknowledged, and the other one's owner is dead.
#[test]
fn an_answer_whose_parts_all_fail_is_one_error() {
    let [one, two] = each_way(SHARDS, &[FORWARD, &["--ack-replicas", "1"]].concat());
    let [own, theirs] = [0, SHARDS / 2].map(|shard| keys_by_shard(SHARDS, 1)[shard][0].clone());
    assert_eq!([&own, &theirs].map(|key| one.client().set(key, key.as_bytes())), ["STORED", "STORED"]);
    let gat = format!("gat 0 {theirs} {own}\r\n");
    let expected = format!("{}{}END\r\nOK\r\n", value(&theirs), value(&own));
    assert_eq!(answers(&mut one.client(), format!("{gat}flush_all 1000\r\n").as_bytes()), expected);
    two.server.signal("KILL");
    let answer = answers(&mut one.client(), gat.as_bytes());
    let end = answer.strip_prefix(&value(&own)).unwrap_or_else(|| panic!("{answer}"));
    assert!(end.starts_with("SERVER_ERROR ") && end.lines().count() == 1, "{answer}");
    let answer = answers(&mut one.client(), b"flush_all\r\n");
    assert!(answer.starts_with("SERVER_ERROR ") && answer.lines().count() == 1, "{answer}");
}

/// The line of a get is so long that its beginning is executed before its end arrives, and by then
/// all that was answered has been sent.
#[test]
fn a_part_that_fails_before_the_line_ends_is_told_at_its_end() {
    let [one, _two, three] = three();
    let keys = mixed();
    assert_eq!(three.client().set(&keys[1], keys[1].as_bytes()), "STORED");
    one.server.signal("KILL");
    let mut client = three.server.connect();
    // A key of the dead one is the first, and there is no other of it.
    let beginning = format!("get {} {}", keys[0], format!("{} ", keys[1]).repeat(4000));
    client.send(beginning.as_bytes());
    wait_for_stat(&three, "forward_errors", 1);
    let first = format!("VALUE {} 0 ", keys[1]);
    assert!(client.line().starts_with(&first));
    for _ in 0..4 {
        assert_eq!(three.client().ask("mn"), "MN", "others are told nothing of it");
    }
    client.send(format!("{}\r\nmn\r\n", keys[3]).as_bytes());
    let mut last = client.line();
    let mut errors = 0;
    while last != "MN" {
        assert!(last != "END");
        errors += usize::from(last.starts_with("SERVER_ERROR "));
        last = client.line();
    }
    assert_eq!(errors, 1);
}
