//! Acknowledged writes: what was answered is on the replicas; what cannot be acknowledged is told
//! as it is, holds up nobody else, and ends.

use crate::node::{Node, in_sync, on_each_fabric, side_by_side, wait_for_row, wait_until};
use crate::support::{self, Client, refused};
use std::net::SocketAddr;

/// A time limit that no test lives to see.
const NEVER: &str = "60000";

/// A primary with one replica that has all. The primary has one worker: if held answers held it,
/// nobody else would be answered.
fn pair(fabric: &str, arguments: &[&str]) -> (Node, Node) {
    let mut all = vec!["-m", "16", "--replication-timeout", "60"];
    all.extend(arguments);
    let primary = Node::primary(&all);
    let replica = Node::replica(primary.port(), &["--fabric", fabric, "--replication-timeout", "60"]);
    in_sync(&primary, &[&replica]);
    (primary, replica)
}

/// "SERVER_ERROR not acknowledged: N of K replicas have it after T ms; it is stored here": N, K and
/// T.
fn unacknowledged(line: &str) -> (u32, u32, u64) {
    let parse = || {
        let rest = line.strip_prefix("SERVER_ERROR not acknowledged: ")?;
        let (count, rest) = rest.split_once(" of ")?;
        let (wanted, rest) = rest.split_once(" replicas have it after ")?;
        let milliseconds = rest.strip_suffix(" ms; it is stored here")?;
        Some((count.parse().ok()?, wanted.parse().ok()?, milliseconds.parse().ok()?))
    };
    parse().unwrap_or_else(|| panic!("{line:?} is no such error"))
}

/// Times to live as they were given: whole hundreds of seconds, of which some have passed.
fn settled(answer: &str) -> String {
    let word = |word: &str| match word.strip_prefix('t').and_then(|seconds| seconds.parse::<u64>().ok()) {
        Some(seconds) => format!("t{}", seconds.next_multiple_of(100)),
        None => word.to_string(),
    };
    answer.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn pending_becomes(primary: &Node, count: &str) {
    wait_for_row(primary, "acks_pending", |pending| pending == count);
}

/// A connection that has sent `request`, of which so many answers are held.
fn holding(primary: &Node, request: &str, pending: &str) -> Client {
    let mut client = primary.server.connect();
    client.send(request.as_bytes());
    pending_becomes(primary, pending);
    client
}

#[test]
fn what_was_answered_is_on_the_replica() {
    on_each_fabric(|fabric| {
        let (primary, replica) = pair(fabric, &["--ack-replicas", "1", "--ack-timeout", NEVER]);
        let (mut writer, mut reader) = (primary.server.connect(), replica.server.connect());
        for number in 0..300 {
            let (key, value) = (format!("key-{}", number % 7), number.to_string());
            assert_eq!(writer.set(&key, value.as_bytes()), "STORED");
            assert_eq!(reader.get(&key).as_deref(), Some(value.as_bytes()), "after STORED {number}");
        }
        for (command, answer, look, seen) in [
            ("ms n 2\r\n10", "HD", "mg n v", "VA 2"),
            ("incr n 5", "15", "get n", "VALUE n 0 2"),
            ("ma n", "HD", "mg n v", "VA 2"),
            ("touch n 100", "TOUCHED", "mg n t", "HD t100"),
            ("mg n T500 t", "HD t500", "mg n t", "HD t500"),
            ("md n I", "HD", "mg n t", "HD t500 Z X"),
            ("mg n t", "HD t500 X W", "mg n t", "HD t500 Z X"),
            ("append n 0 0 1\r\n3", "STORED", "mg n s", "HD s3"),
            ("md n", "HD", "mg n", "EN"),
            ("mg n N60 v", "VA 0 W", "mg n s", "HD s0 Z"),
            ("delete n", "DELETED", "get n", "END"),
        ] {
            assert_eq!(settled(&writer.ask(command)), answer, "{command}");
            if answer.starts_with("VA") {
                assert_eq!(writer.line(), "");
            }
            // A replica answers as if another client had won the token.
            let shown = settled(&reader.ask(look));
            assert_eq!(shown, seen, "{look} after {command}");
            if shown.starts_with('V') {
                reader.line();
            }
            if shown.starts_with("VALUE") {
                reader.line();
            }
        }
    });
}

#[test]
fn a_write_that_too_few_replicas_have_is_told_so_and_all_goes_on() {
    let (primary, _replica) = pair("shm", &["--ack-replicas", "2", "--ack-timeout", "200"]);
    let mut client = primary.server.connect();
    let (count, wanted, milliseconds) = unacknowledged(&client.set("a", b"1"));
    assert_eq!((count, wanted), (1, 2));
    assert!(milliseconds >= 200, "{milliseconds}");
    client.send(
        b"get a\r\nset b 0 0 1\r\n2\r\nget b\r\nms c 1 A1\r\n3\r\nms d 1 A0 k\r\n4\r\nadd a 0 0 1\r\n5\r\nms e 1 q\r\n6\r\n\
          ms f 1 q A1\r\n7\r\nset g 0 0 1 noreply\r\n8\r\nmg nothing\r\nmd nothing\r\nmn\r\nget g\r\n",
    );
    let lines: Vec<String> = (0..15).map(|_| client.line()).collect();
    assert_eq!(unacknowledged(&lines[3]).0, 1);
    assert_eq!(unacknowledged(&lines[10]).0, 1, "the quiet one: {lines:?}");
    let mut rest = lines.clone();
    rest.remove(10);
    rest.remove(3);
    let expected = [
        "VALUE a 0 1",
        "1",
        "END",
        "VALUE b 0 1",
        "2",
        "END",
        "HD",
        "HD kd",
        "NOT_STORED",
        "EN",
        "NF",
        "MN",
        "VALUE g 0 1",
    ];
    assert_eq!(rest, expected);
    assert_eq!((client.line(), client.line()), ("8".to_string(), "END".to_string()));
    let rows = primary.rows();
    let row = |name: &str| rows[name].parse::<u64>().expect("a number");
    // a, b, e with two replicas, c and f with one; neither what wrote nothing, nor what was not to
    // be answered.
    assert_eq!((row("acks_waited"), row("acks_timed_out"), row("acks_pending")), (5, 3, 0), "{rows:?}");
}

#[test]
fn a_thousand_pipelined_requests_are_answered_in_order() {
    on_each_fabric(|fabric| {
        let (primary, replica) = pair(fabric, &["--ack-replicas", "1", "--ack-timeout", NEVER]);
        let mut client = primary.server.connect();
        let set = |number: usize| {
            let value = number.to_string().repeat(1 + number % 50);
            format!("set k{number} 0 0 {}\r\n{value}\r\nget k{number}\r\nget k{}\r\n", value.len(), number / 2)
        };
        // One write of more than the server reads at a time, and three times as many answers as may
        // be held.
        let request: String = (0..3000).map(set).chain(["mn\r\n".to_string()]).collect();
        client.send(request.as_bytes());
        let mut answers = Vec::new();
        loop {
            match client.line().as_str() {
                "MN" => break,
                line => answers.push(line.to_string()),
            }
        }
        let mut lines = answers.iter();
        for number in 0..3000 {
            assert_eq!(lines.next().map(String::as_str), Some("STORED"), "{number}");
            for key in [number, number / 2] {
                let value = key.to_string().repeat(1 + key % 50);
                let expected = [format!("VALUE k{key} 0 {}", value.len()), value, "END".to_string()];
                assert_eq!(lines.by_ref().take(3).cloned().collect::<Vec<_>>(), expected);
            }
        }
        assert_eq!(lines.next(), None);
        let last = 2999.to_string().repeat(1 + 2999 % 50);
        assert_eq!(replica.client().get("k2999"), Some(last.into_bytes()));
    });
}

/// No worker is held: the one that there is serves everybody else, and this very client's reads are
/// executed, though not answered yet.
#[test]
fn while_a_replica_stands_still_others_go_on() {
    on_each_fabric(|fabric| {
        let (primary, replica) = pair(fabric, &["--ack-replicas", "1", "--ack-timeout", NEVER]);
        assert_eq!(primary.client().set("before", b"1"), "STORED");
        replica.server.signal("STOP");
        let mut held = holding(&primary, "set a 0 0 1\r\n1\r\n", "1");
        held.send(b"get before\r\nms b 1 q\r\n2\r\nget a\r\n");
        let gets = |primary: &Node| primary.rows_of("stats")["cmd_get"].parse::<u64>().expect("a number");
        wait_until("its reads are executed", || if gets(&primary) >= 2 { Ok(()) } else { Err(gets(&primary)) });
        let states = primary.client().rows("stats conns").join("\n");
        assert!(states.contains("state conn_ack_wait"), "{states}");
        let mut other = primary.server.connect();
        for number in 0..500 {
            let value = number.to_string();
            assert_eq!(other.ask(&format!("ms other {} A0\r\n{value}", value.len())), "HD");
            assert_eq!(other.get("other"), Some(value.into_bytes()));
            assert_eq!(other.get("a").as_deref(), Some(&b"1"[..]), "reads see what is not acknowledged");
        }
        pending_becomes(&primary, "2");
        replica.server.signal("CONT");
        let lines: Vec<String> = (0..7).map(|_| held.line()).collect();
        assert_eq!(lines, ["STORED", "VALUE before 0 1", "1", "END", "VALUE a 0 1", "1", "END"]);
        pending_becomes(&primary, "0");
        assert_eq!(replica.client().get("b").as_deref(), Some(&b"2"[..]));
        assert_eq!(primary.number("acks_timed_out"), 0);
    });
}

#[test]
fn a_replica_that_dies_acknowledges_nothing_more() {
    on_each_fabric(|fabric| {
        let (primary, mut replica) = pair(fabric, &["--ack-replicas", "1", "--ack-timeout", "1500"]);
        replica.server.signal("STOP");
        let mut client = holding(&primary, "set a 0 0 1\r\n1\r\n", "1");
        replica.server.signal("KILL");
        replica.server.wait();
        let (count, wanted, milliseconds) = unacknowledged(&client.line());
        assert_eq!((count, wanted), (0, 1));
        assert!(milliseconds >= 1500, "{milliseconds}");
        let again = Node::replica(primary.port(), &["--fabric", fabric]);
        in_sync(&primary, &[&again]);
        assert_eq!(client.set("a", b"2"), "STORED");
        assert_eq!(again.client().get("a").as_deref(), Some(&b"2"[..]));
    });
}

#[test]
fn wait_answers_with_the_number_of_replicas_that_have_it_all() {
    let (primary, replica) = pair("shm", &[]);
    let mut client = primary.server.connect();
    for number in 0..200 {
        client.send(format!("set k{number} 0 0 1 noreply\r\nx\r\nwait 1 {NEVER}\r\n").as_bytes());
        assert_eq!(client.line(), "REPLICAS 1");
        assert_eq!(replica.client().get(&format!("k{number}")).as_deref(), Some(&b"x"[..]));
    }
    client.send(
        b"wait 2 100\r\nwait 0 0\r\nwait 1 0\r\nwait\r\nwait 1\r\nwait 33 1\r\nwait 1 60001\r\nwait 1 1 1\r\nmn\r\n",
    );
    assert_eq!(client.line(), "REPLICAS 1");
    let settled = ["REPLICAS 0", "REPLICAS 1"];
    assert!(settled.contains(&client.line().as_str()) && settled.contains(&client.line().as_str()));
    let bad = "CLIENT_ERROR bad command line format";
    let lines: Vec<String> = (0..6).map(|_| client.line()).collect();
    assert_eq!(lines, [bad, bad, bad, bad, bad, "MN"]);
    replica.server.signal("STOP");
    client.send(format!("set a 0 0 1\r\n1\r\nwait 1 {NEVER}\r\nget a\r\n").as_bytes());
    assert_eq!(client.line(), "STORED", "it is not held itself");
    pending_becomes(&primary, "1");
    replica.server.signal("CONT");
    assert_eq!((client.line(), client.line()), ("REPLICAS 1".to_string(), "VALUE a 0 1".to_string()));
    assert_eq!(primary.number("waits"), 200 + 3 + 1);
    // Nothing is written at a replica that others could have; a server without a replication port
    // has none.
    let alone = support::Server::start(&["-t", "1"]);
    assert_eq!(alone.connect().ask("wait 0 60000"), "REPLICAS 0");
    assert_eq!(alone.connect().ask("wait 1 100"), "REPLICAS 0");
    let refused = replica.server.connect().ask("wait 0 60000");
    assert!(refused.starts_with("SERVER_ERROR read-only replica: write to the primary at"), "{refused}");
    assert_eq!(unacknowledged(&alone.connect().ask("ms a 1 A1\r\n1")).0, 0);
}

/// The flag of a request, on a server that holds nothing by itself.
#[test]
fn a_meta_command_says_for_itself_how_many_replicas_it_waits_for() {
    let (primary, replica) = pair("shm", &["--ack-timeout", NEVER]);
    let mut client = primary.server.connect();
    assert_eq!(client.ask("ms a 1 A1 k\r\n1"), "HD ka");
    assert_eq!(client.ask("mg a A1 v"), "VA 1", "a read is not held");
    assert_eq!(client.line(), "1");
    assert_eq!(client.ask("ms a 1 A33\r\n1"), "CLIENT_ERROR bad token in command line format");
    assert_eq!(client.ask("md a A"), "CLIENT_ERROR bad token in command line format");
    assert_eq!(client.ask("ma a Ax"), "CLIENT_ERROR invalid or duplicate flag");
    replica.server.signal("STOP");
    let count = primary.number("acks_waited");
    assert_eq!(client.ask("ms a 1\r\n2"), "HD");
    assert_eq!(client.ask("ms a 1 A0\r\n3"), "HD");
    let requests =
        ["ms a 1 A1\r\n4\r\n", "ma a A1\r\n", "mg a T100 A1\r\n", "md a I A1\r\n", "md a A1\r\n", "mg a N9 A1 s\r\n"];
    let mut held: Vec<Client> = requests
        .iter()
        .enumerate()
        .map(|(before, request)| holding(&primary, request, &(before + 1).to_string()))
        .collect();
    assert_eq!(primary.number("acks_waited") - count, requests.len() as u64);
    replica.server.signal("CONT");
    let answers: Vec<String> = held.iter_mut().map(Client::line).collect();
    assert_eq!(answers, ["HD", "HD", "HD", "HD", "HD", "HD s0 W"]);
    pending_becomes(&primary, "0");
}

#[test]
fn what_concerns_several_shards_waits_for_all_of_them() {
    let (primary, replica) = pair("shm", &["--ack-replicas", "1", "--ack-timeout", NEVER]);
    let shards: u64 = primary.rows_of("stats")["shards"].parse().expect("a number");
    assert!(shards > 1);
    let mut client = primary.server.connect();
    let keys: String = (0..20).map(|number| format!(" key-{number}")).collect();
    for key in keys.split_whitespace() {
        assert_eq!(client.set(key, b"x"), "STORED");
    }
    let count = primary.number("acks_waited");
    client.send(format!("gat 100{keys}\r\n").as_bytes());
    (0..40).for_each(|_| drop(client.line()));
    assert_eq!((client.line().as_str(), primary.number("acks_waited") - count), ("END", 1));
    for key in keys.split_whitespace() {
        assert_eq!(settled(&replica.client().ask(&format!("mg {key} t"))), "HD t100", "{key}");
    }
    assert_eq!(client.ask("flush_all"), "OK");
    for key in keys.split_whitespace() {
        assert_eq!(replica.client().ask(&format!("mg {key}")), "EN");
    }
    assert_eq!(client.ask("flush_all 1000"), "OK", "what is pending is written as well");
    assert_eq!(primary.number("acks_waited") - count, 3);
}

#[test]
fn many_connections_wait_at_once() {
    let (primary, replica) = pair("shm", &["--ack-replicas", "1", "--ack-timeout", NEVER]);
    let address: SocketAddr = primary.server.tcp[0];
    let threads: Vec<usize> = (0..8).collect();
    side_by_side(&threads, |thread| {
        let mut clients: Vec<Client> = (0..8).map(|_| Client::tcp(address)).collect();
        for round in 0..20 {
            for (number, client) in clients.iter_mut().enumerate() {
                let set = |at: usize| format!("set k-{thread}-{number}-{at} 0 0 2\r\n{round:02}\r\n");
                client.send((0..10).map(set).collect::<String>().as_bytes());
            }
            for client in &mut clients {
                (0..10).for_each(|_| assert_eq!(client.line(), "STORED"));
            }
        }
    });
    assert_eq!(replica.client().get("k-7-7-9").as_deref(), Some(&b"19"[..]));
    let rows = primary.rows();
    assert_eq!((rows["acks_waited"].as_str(), rows["acks_pending"].as_str()), ("12800", "0"));
}

#[test]
fn clients_that_go_leave_nothing_behind() {
    let (primary, replica) = pair("tcp", &["--ack-replicas", "1", "--ack-timeout", "2000"]);
    let before = primary.holds();
    replica.server.signal("STOP");
    drop(holding(&primary, "set a 0 0 1\r\n1\r\n", "1"));
    // One whose output is full of held answers, so that its socket is not even looked at.
    let many: String = (0..2000).map(|number| format!("set k{number} 0 0 1\r\n1\r\n")).collect();
    let mut full = primary.server.connect();
    full.send(many.as_bytes());
    wait_for_row(&primary, "acks_pending", |pending| pending.parse::<u64>().is_ok_and(|pending| pending >= 1024));
    drop(full);
    // A client that closes only its sending side is still answered.
    let mut half = Client::tcp_half_closing(primary.server.tcp[0], b"set b 0 0 1\r\n1\r\nquit\r\n");
    let answered = half.until_closed();
    assert_eq!(unacknowledged(String::from_utf8_lossy(&answered).trim_end()).1, 1);
    pending_becomes(&primary, "0");
    primary.comes_back_to(before);
}

#[test]
fn a_server_that_ends_says_what_it_knows() {
    let (mut primary, replica) = pair("shm", &["--ack-replicas", "1", "--ack-timeout", NEVER]);
    replica.server.signal("STOP");
    let mut client = holding(&primary, "set a 0 0 1\r\n1\r\nget a\r\nset b 0 0 1\r\n1\r\n", "2");
    primary.server.signal("TERM");
    assert_eq!(unacknowledged(&client.line()).0, 0);
    assert_eq!([client.line(), client.line(), client.line()], ["VALUE a 0 1", "1", "END"]);
    assert_eq!(unacknowledged(&client.line()).0, 0);
    assert!(primary.server.wait().success());
}

#[test]
fn what_cannot_be_is_refused_at_the_start() {
    for (arguments, words) in [
        (&["--ack-replicas", "1"][..], "--ack-replicas 1 needs --replication"),
        (&["--ack-replicas", "33", "--replication", "127.0.0.1:0"], "33"),
        (&["--ack-timeout", "0"], "--ack-timeout"),
        (&["--ack-timeout", "60001"], "--ack-timeout"),
    ] {
        let (status, said) = refused(arguments);
        assert!(!status.success() && said.contains(words), "{arguments:?}: {said}");
    }
    let (primary, _replica) = pair("shm", &["--ack-replicas", "1", "--ack-timeout", "777"]);
    let rows = primary.rows_of("stats settings");
    assert_eq!((rows["ack_replicas"].as_str(), rows["ack_timeout"].as_str()), ("1", "777"));
}
