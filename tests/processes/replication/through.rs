//! Every key at every server (`--forward`): what clients see who ask a server for what is another
//! one's.

use super::orders::ctl;
use super::roles_by_shard::{SHARDS, each_way, port};
use super::shards::keys_by_shard;
use crate::node::{Node, in_sync, wait_until};
use crate::support::Client;
use crate::support::packets::Packet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub const FORWARD: &[&str] = &["--fabric", "tcp", "--forward"];

/// Two servers that are the primaries of one half of the shards each, and one that is a replica in
/// all of them.
pub fn three() -> [Node; 3] {
    let [one, two] = each_way(SHARDS, FORWARD);
    let three = Node::standby(one.port(), FORWARD);
    ctl(&three, &["replicate", "--shards", "4-7", &port(&two)]);
    in_sync(&one, &[&two, &three]);
    in_sync(&two, &[&one, &three]);
    [one, two, three]
}

/// A key of each shard.
fn keys() -> Vec<String> {
    keys_by_shard(SHARDS, 1).concat()
}

/// Keys of shards of the first server and of the second one, in turn.
pub fn mixed() -> Vec<String> {
    let keys = keys_by_shard(SHARDS, 4);
    (0..4)
        .flat_map(|at| (0..SHARDS / 2).flat_map(move |shard| [(shard, at), (shard + SHARDS / 2, at)]))
        .map(|(shard, at)| keys[shard][at].clone())
        .collect()
}

/// The same but for CAS numbers, which count what a server has written.
fn without_cas(answer: &str) -> String {
    let of_line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let is_cas = |at: usize, word: &str| {
            let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            at == 4 && words[0] == "VALUE" && is_number(word)
                || ["HD", "VA"].contains(&words[0]) && word.strip_prefix('c').is_some_and(is_number)
        };
        let kept = words.iter().enumerate().map(|(at, word)| if is_cas(at, word) { "CAS" } else { word });
        kept.collect::<Vec<_>>().join(" ")
    };
    answer.split("\r\n").map(of_line).collect::<Vec<_>>().join("\r\n")
}

/// All that is answered to these requests; they are followed by one whose answer is known.
pub fn answers(client: &mut Client, requests: &[u8]) -> String {
    client.send(requests);
    client.send(b"mn\r\n");
    let mut all = String::new();
    loop {
        let line = client.line();
        if line == "MN" {
            return all;
        }
        assert!(!line.is_empty() || !all.is_empty(), "the server has closed the connection after {all:?}");
        all += &line;
        all += "\r\n";
    }
}

/// What each request is that has a key: K.
const REQUESTS: &[&str] = &[
    "get K",
    "add K 5 0 1\r\n1",
    "get K",
    "gets K",
    "set K 7 0 2 noreply\r\n10",
    "incr K 5",
    "decr K 3",
    "incr K 1 noreply",
    "append K 0 0 1\r\n9",
    "prepend K 0 0 1\r\n8",
    "gat 100 K",
    "gats 0 K",
    "touch K 0",
    "replace K 1 0 3\r\nxyz",
    "cas K 1 0 3 1\r\nabc",
    "incr K 1",
    "mg K v f s t",
    "mg K k O77 v",
    "mg K q v",
    "ms K 2 T0 F3\r\nhi",
    "ms K 2 q\r\nho",
    "ms K 2 MA\r\nno",
    "ms K 1 ME\r\nx",
    "ma K",
    "ms K 1\r\n5",
    "ma K N0 J13 v",
    "ma K MD D2 v q",
    "me K",
    "md K q",
    "mg K v",
    "mg K q v",
    "mg K N30 v t",
    "md K I T30",
    "delete K",
    "delete K noreply",
    "delete K",
    "touch K 1",
    "incr K 1",
    "set K 0 0 3\r\nabcd",
    "set K a 0 1\r\nx",
    "set K 0 -1 1\r\nx",
    "get K",
    "set K 0 0 1\r\nx",
    "set K 0 0 4000\r\nLARGE",
    "get K",
];

/// Sent one by one, and all at once.
#[test]
fn every_command_is_answered_as_by_the_primary_itself() {
    let direct = Node::primary(&["-m", "32", "-I", "2k", "--shards", "8"]);
    let [_one, _two, three] = three();
    for key in keys() {
        let large = "x".repeat(4000);
        let request = |request: &&str| format!("{}\r\n", request.replace("LARGE", &large).replace('K', &key));
        let requests: Vec<String> = REQUESTS.iter().map(request).collect();
        for request in &requests {
            let [expected, got] =
                [&direct, &three].map(|node| without_cas(&answers(&mut node.client(), request.as_bytes())));
            // What `me` shows of a record's age and bytes is of the server.
            assert!(got == expected || request.starts_with("me "), "{request:?}: {got:?} instead of {expected:?}");
        }
        let all: String = requests.iter().filter(|request| !request.starts_with("me ")).map(String::as_str).collect();
        let [expected, got] = [&direct, &three].map(|node| without_cas(&answers(&mut node.client(), all.as_bytes())));
        assert_eq!(got, expected, "at once, of {key}");
    }
    let rows = three.rows_of("stats");
    assert_eq!((&*rows["forward_errors"], &*rows["forward_links_out"]), ("0", "2"), "{rows:?}");
    assert!(rows["forwarded"].parse::<usize>().unwrap() > REQUESTS.len() * SHARDS, "{rows:?}");
    assert_eq!(rows["read_only_refused"], "0");
}

/// A number that was read by way of one server is good by way of another.
#[test]
fn a_cas_number_is_good_at_every_server() {
    let nodes = three();
    for key in keys() {
        let [one, two, three] = &nodes;
        assert_eq!(one.client().set(&key, b"1"), "STORED");
        let line = three.client().ask(&format!("gets {key}"));
        let cas = line.rsplit(' ').next().expect("a number").to_string();
        assert_eq!([(); 2].map(|()| three.client().line()), ["1", "END"]);
        assert_eq!(two.client().ask(&format!("cas {key} 0 0 1 {cas}\r\n2")), "STORED", "{key} {line}");
        assert_eq!(three.client().ask(&format!("cas {key} 0 0 1 {cas}\r\n3")), "EXISTS");
        assert_eq!(three.client().get(&key).as_deref(), Some(&b"2"[..]));
    }
}

/// A get of several keys is one answer in their order, whoever has them, and END comes once.
#[test]
fn a_get_of_keys_of_several_servers_is_one_answer() {
    let nodes = three();
    let keys = mixed();
    for key in keys.iter().step_by(3) {
        assert_eq!(nodes[2].client().set(key, key.as_bytes()), "STORED");
    }
    let found: String = keys.iter().step_by(3).map(|key| format!("VALUE {key} 0 {}\r\n{key}\r\n", key.len())).collect();
    for node in &nodes {
        let line = keys.join(" ");
        let asked = format!("get {line}\r\ngat 0 {line}\r\n");
        assert_eq!(answers(&mut node.client(), asked.as_bytes()), format!("{found}END\r\n").repeat(2));
        // Longer than what is executed at a time, and than what a turn looks up.
        let long = format!("gets {}\r\n", format!("{line} ").repeat(100));
        let got = without_cas(&answers(&mut node.client(), long.as_bytes()));
        let value = |key: &String| format!("VALUE {key} 0 {} CAS\r\n{key}\r\n", key.len());
        let expected: String = keys.iter().step_by(3).map(value).collect();
        assert_eq!(got, format!("{}END\r\n", expected.repeat(100)));
        let bad = format!("get {line} {}\r\nget {}\r\n", "k".repeat(251), keys[0]);
        let (first, rest) = (answers(&mut node.client(), bad.as_bytes()), "CLIENT_ERROR bad command line format\r\n");
        assert_eq!(first, format!("{rest}VALUE {0} 0 {1}\r\n{0}\r\nEND\r\n", keys[0], keys[0].len()));
    }
}

/// Answers of what is done here and of what is done elsewhere come in the order of the requests.
/// Those about one key are done in that order.
#[test]
fn a_pipeline_keeps_its_order_whoever_executes_it() {
    let [one, two, three] = three();
    for node in [&one, &three] {
        let (mut requests, mut expected) = (Vec::new(), String::new());
        for round in 0..100 {
            for key in mixed() {
                requests.extend_from_slice(format!("set {key} 0 0 3 noreply\r\n{round:03}\r\n").as_bytes());
                requests.extend_from_slice(format!("incr {key} 1000\r\nget {key}\r\nmn\r\n").as_bytes());
                let number = round + 1000;
                expected += &format!("{number}\r\nVALUE {key} 0 4\r\n{number}\r\nEND\r\nMN\r\n");
            }
        }
        let mut client = node.server.connect();
        client.send(&requests);
        let got = String::from_utf8(client.exactly(expected.len())).expect("text");
        assert!(
            got == expected,
            "the first that differs: {:?}",
            got.lines().zip(expected.lines()).find(|(got, expected)| got != expected)
        );
    }
    drop(two);
}

/// Packets: quiet ones, opaque numbers, errors.
#[test]
fn packets_are_answered_as_by_the_primary_itself() {
    let direct = Node::primary(&["-m", "32", "-I", "2k", "--shards", "8"]);
    let [_one, _two, three] = three();
    let (extras, arithmetic) = ([0, 0, 0, 5, 0, 0, 0, 0], [[0; 7].as_slice(), &[1], &[0; 7], &[9], &[0; 4]].concat());
    let mut requests = Vec::new();
    for (number, key) in keys().iter().enumerate() {
        let packet = |opcode, extras, value| Packet {
            opcode,
            opaque: number as u32,
            extras,
            key: key.as_bytes(),
            value,
            ..Packet::default()
        };
        for (opcode, extras, value) in [
            (0x09, &[][..], &b""[..]),
            (0x02, &extras, b"12"),
            (0x02, &extras, b"13"),
            (0x11, &extras, b"14"),
            (0x0c, &[], b""),
            (0x0d, &[], b""),
            (0x05, &arithmetic, b""),
            (0x15, &arithmetic, b""),
            (0x0e, &[], b"5"),
            (0x1d, &[0; 4], b""),
            (0x1c, &[0; 4], b""),
            (0x14, &[], b""),
            (0x04, &[], b""),
            (0x0d, &[], b""),
            (0x00, &[], b""),
        ] {
            requests.extend(packet(opcode, extras, value).bytes());
        }
    }
    requests.extend(Packet { opcode: 0x0a, opaque: 0xffff, ..Packet::default() }.bytes());
    let [expected, got] = [&direct, &three].map(|node| {
        let mut client = node.server.connect();
        client.send(&requests);
        let mut all = Vec::new();
        loop {
            let answer = client.packet();
            if answer.opaque == 0xffff {
                return all;
            }
            all.push((answer.opcode, answer.status, answer.opaque, answer.extras, answer.key, answer.value));
        }
    });
    assert_eq!(got, expected);
}

/// It is done by all, or the answer says by whom it was not.
#[test]
fn flush_all_at_one_server_is_done_by_all() {
    let [one, two, three] = three();
    let keys = mixed();
    let store =
        |value: &str| keys.iter().for_each(|key| assert_eq!(three.client().set(key, value.as_bytes()), "STORED"));
    for (node, flush) in [(&one, "flush_all\r\n"), (&three, "flush_all 0\r\n"), (&three, "flush_all noreply\r\n")] {
        store("gone");
        // What comes behind it is not flushed.
        let asked = format!("{flush}set {} 0 0 4 noreply\r\nstay\r\n", keys[0]);
        let answer = if flush.contains("noreply") { "" } else { "OK\r\n" };
        assert_eq!(answers(&mut node.client(), asked.as_bytes()), answer);
        let all = answers(&mut node.client(), format!("get {}\r\n", keys.join(" ")).as_bytes());
        assert_eq!(all, format!("VALUE {} 0 4\r\nstay\r\nEND\r\n", keys[0]));
    }
    two.server.signal("KILL");
    let answer = three.client().ask("flush_all");
    assert!(answer.starts_with("SERVER_ERROR ") && answer.contains(&two.server.tcp[0].to_string()), "{answer}");
}

/// Values that fill outputs, and a client that takes its time.
#[test]
fn large_values_reach_a_slow_client_whole() {
    let layout = ["-m", "64", "-I", "1m", "--shards", "2", "--fabric", "tcp", "--forward"];
    let one = Node::primary(&layout);
    let two = Node::standby(one.port(), FORWARD);
    let value = vec![b'v'; 900_000];
    for number in 0..4 {
        assert_eq!(two.client().set(&format!("large-{number}"), &value), "STORED");
    }
    let mut slow = Client::tcp_with_little_room(two.server.tcp[0]);
    let count = 60;
    for number in 0..count {
        slow.send(format!("get large-{}\r\n", number % 4).as_bytes());
    }
    std::thread::sleep(Duration::from_millis(300));
    for number in 0..count {
        assert_eq!(slow.line(), format!("VALUE large-{} 0 900000", number % 4));
        assert!(slow.exactly(900_002).starts_with(b"vvvv"), "{number}");
        assert_eq!(slow.line(), "END");
    }
}

/// What is under way when its owner dies is in doubt, and its client told so; what comes later is
/// not sent to anybody. A promoted server takes it.
#[test]
fn a_dead_owner_is_told_of_and_the_promoted_one_takes_over() {
    let [one, two, three] = three();
    let keys = keys();
    assert_eq!(three.client().set(&keys[0], b"before"), "STORED");
    in_sync(&one, &[&two, &three]);
    one.server.signal("KILL");
    let answer = three.client().set(&keys[0], b"lost");
    assert!(answer.starts_with("SERVER_ERROR ") && answer.contains(&one.server.tcp[0].to_string()), "{answer}");
    assert_eq!(three.client().set(&keys[4], b"goes on"), "STORED", "the other owner lives");
    let answer = answers(&mut three.client(), format!("get {} {}\r\nget {}\r\n", keys[4], keys[0], keys[4]).as_bytes());
    let found = format!("VALUE {} 0 7\r\ngoes on\r\n", keys[4]);
    assert!(answer.starts_with(&format!("{found}SERVER_ERROR ")), "{answer}");
    assert!(answer.ends_with(&format!("\r\n{found}END\r\n")), "{answer}");
    ctl(&two, &["promote", "--shards", "0-3", "--gather", &port(&three)]);
    ctl(&three, &["replicate", "--shards", "0-3", &port(&two)]);
    assert_eq!(three.client().get(&keys[0]).as_deref(), Some(&b"before"[..]));
    assert_eq!(three.client().set(&keys[0], b"after"), "STORED");
    assert_eq!(two.client().get(&keys[0]).as_deref(), Some(&b"after"[..]));
}

/// A client waits for an owner that stands still, but not for ever, and then it is told that it is
/// not known what became of its request.
#[test]
fn an_owner_that_stands_still_is_not_waited_for_for_ever() {
    let [one, _two, three] = three();
    let keys = keys();
    assert_eq!([&keys[0], &keys[4]].map(|key| three.client().set(key, b"before")), ["STORED", "STORED"]);
    one.server.signal("STOP");
    let began = Instant::now();
    let mut waiting = three.server.connect();
    waiting.send(format!("set {} 0 0 1\r\nx\r\nget {}\r\n", keys[0], keys[4]).as_bytes());
    assert_eq!(three.client().ask(&format!("touch {} 0", keys[4])), "TOUCHED", "others are served");
    let answer = waiting.line();
    assert!(answer.contains("no answer within") && answer.contains("whether it was done is not known"), "{answer}");
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(waiting.line(), format!("VALUE {} 0 6", keys[4]));
    one.server.signal("CONT");
    assert_eq!(three.client().set(&keys[1], b"again"), "STORED");
}

/// Threads of a test end where it fails.
struct Over<'s>(&'s AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A client that writes through a server while shards change hands is never told of an error, and
/// each of its writes is done once: a counter that it has increased says so.
#[test]
fn a_hand_over_is_not_seen_by_clients_of_other_servers() {
    let nodes = three();
    let keys = keys();
    let stop = AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        let counting = nodes.iter().map(|node| {
            let (keys, stop) = (&keys, &stop);
            let mut client = node.server.connect();
            scope.spawn(move || {
                let mut rounds = 0;
                while !stop.load(Relaxed) {
                    // Two at once: the second must not overtake the first.
                    let requests: String =
                        keys.iter().map(|key| format!("ma {key} N0 J1 v\r\nma {key} v\r\n")).collect();
                    let got = answers(&mut client, requests.as_bytes());
                    assert!(!got.contains("ERROR"), "{got}");
                    let numbers: Vec<u64> = got.lines().filter_map(|line| line.parse().ok()).collect();
                    assert!(numbers.chunks(2).all(|pair| pair[0] < pair[1]), "{got}");
                    rounds += 1;
                }
                rounds
            })
        });
        let counting: Vec<_> = counting.collect();
        let over = Over(&stop);
        for round in 0..6 {
            let heir = 2 - round % 3;
            ctl(&nodes[heir], &["promote", "--take-over", "--shards", "2-5"]);
            for (number, other) in nodes.iter().enumerate() {
                if number != heir {
                    ctl(other, &["replicate", "--shards", "2-5", &port(&nodes[heir])]);
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        drop(over);
        counting.into_iter().map(|thread| thread.join().expect("no error")).sum::<u64>()
    });
    assert!(counts > 0);
    for key in keys {
        assert_eq!(nodes[0].client().get(&key), Some((2 * counts).to_string().into_bytes()), "{key}");
    }
}

/// What has become of the increments of one client: done, in doubt, and certainly not done.
#[derive(Debug, Default, Clone, Copy)]
struct Increments {
    done: u64,
    in_doubt: u64,
    not_done: u64,
}

impl Increments {
    fn count(&mut self, answer: &str) {
        let is_said =
            |words: &[&str]| answer.starts_with("SERVER_ERROR ") && words.iter().any(|word| answer.contains(word));
        match answer {
            _ if answer.parse::<u64>().is_ok() => self.done += 1,
            _ if is_said(&["is not known", "not acknowledged"]) => self.in_doubt += 1,
            _ if is_said(&["nothing was done", "write to the primary at"]) => self.not_done += 1,
            _ => panic!("{answer}"),
        }
    }
}

/// Clients of two servers count while the third one, to which they are forwarded, is killed, and
/// another one is promoted. What was acknowledged is there, and nothing twice.
#[test]
fn what_was_forwarded_to_a_killed_owner_is_there_once_if_it_was_acknowledged() {
    let arguments = ["--fabric", "tcp", "--forward", "--ack-replicas", "2", "--ack-timeout", "2000"];
    let [one, two] = each_way(SHARDS, &arguments);
    let three = Node::standby(one.port(), &arguments);
    ctl(&three, &["replicate", "--shards", "4-7", &port(&two)]);
    in_sync(&one, &[&two, &three]);
    let key = &keys()[1];
    assert_eq!(one.client().set(key, b"0"), "STORED");
    let stop = AtomicBool::new(false);
    let all = std::thread::scope(|scope| {
        let counting = [&two, &three].map(|node| {
            let (mut client, stop) = (node.server.connect(), &stop);
            scope.spawn(move || {
                let mut counted = Increments::default();
                while !stop.load(Relaxed) {
                    answers(&mut client, format!("incr {key} 1\r\n").repeat(20).as_bytes())
                        .lines()
                        .for_each(|answer| counted.count(answer));
                }
                counted
            })
        });
        let over = Over(&stop);
        wait_for_stat(&three, "forwarded", 200);
        one.server.signal("KILL");
        ctl(&two, &["promote", "--shards", "0-3", "--gather", &port(&three)]);
        ctl(&three, &["replicate", "--shards", "0-3", &port(&two)]);
        let before = three.rows_of("stats")["forwarded"].parse::<u64>().expect("a number");
        wait_for_stat(&three, "forwarded", before + 40);
        drop(over);
        counting.map(|thread| thread.join().expect("each answer is one of those"))
    });
    let value: u64 = String::from_utf8(three.client().get(key).expect("it is there")).unwrap().parse().unwrap();
    let [done, in_doubt] =
        [|one: &Increments| one.done, |one: &Increments| one.in_doubt].map(|of| all.iter().map(of).sum::<u64>());
    assert!((done..=done + in_doubt).contains(&value), "{value} after {all:?}");
    assert!(done > 0);
}

/// Without the flag everything is as it was; with it UDP is, and a server that follows nobody.
#[test]
fn what_is_not_forwarded_is_served_as_before() {
    let one = Node::primary(&["-m", "32", "--fabric", "tcp"]);
    let without = Node::standby(one.port(), &["--fabric", "tcp"]);
    assert_eq!(one.client().set("a", b"1"), "STORED");
    in_sync(&one, &[&without]);
    assert!(without.client().set("a", b"2").contains("write to the primary at"));
    assert_eq!(without.client().get("a").as_deref(), Some(&b"1"[..]));
    let with = Node::replica(without.port(), FORWARD);
    wait_until("the chain is known", || match with.rows()["depth"].as_str() {
        "2" => Ok(()),
        other => Err(format!("depth {other}")),
    });
    assert!(with.client().set("a", b"2").contains("has no primary now"), "it asks whom it follows");
    assert!(with.client().set("a", b"2").contains("write to the primary at"), "not by way of a replica");
    wait_until("it has it", || match with.client().get("a").as_deref() {
        Some(b"1") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    ctl(&with, &["detach"]);
    assert!(with.client().set("a", b"2").contains("follows nobody"));
    assert_eq!(with.client().get("a").as_deref(), Some(&b"1"[..]));
    assert_eq!(with.rows_of("stats")["forwarded"], "1", "once is enough to know");
}

/// Whoever goes away leaves nothing behind.
#[test]
fn clients_that_go_away_leave_their_answers_behind() {
    let [one, _two, three] = three();
    let keys = keys();
    assert_eq!(three.client().set(&keys[0], b"before"), "STORED");
    one.server.signal("STOP");
    for _ in 0..20 {
        let mut client = three.server.connect();
        client.send(format!("get {}\r\n", keys[0]).repeat(100).as_bytes());
        wait_for_stat(&three, "forwarded", 1);
    }
    one.server.signal("CONT");
    let mut left = three.server.connect();
    wait_until("others are served", || match left.get(&keys[0]).as_deref() {
        Some(b"before") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    wait_until("they are closed", || match three.rows_of("stats")["curr_connections"].parse::<u64>() {
        Ok(..=4) => Ok(()),
        other => Err(format!("{other:?} connections")),
    });
}

pub fn wait_for_stat(node: &Node, name: &str, least: u64) {
    wait_until(name, || match node.rows_of("stats")[name].parse::<u64>() {
        Ok(number) if number >= least => Ok(()),
        other => Err(format!("{name} {other:?}")),
    });
}
