//! The binary as an operator meets it: starting, listening, limits, ending. Counted answers, no
//! timing.

mod answers;
mod binary;
mod clocks;
mod commandline;
mod config;
mod daemon;
mod dumps;
mod fairness;
mod forwarded;
mod hoards;
mod parking;
mod readers;
mod returned;
mod sasl;
mod stats;
mod tls;
mod udp;
mod users;
mod watch;
mod within;

use crate::support::wait::{expect_eq, wait_until};
use crate::support::{Client, Server, refused};
use std::os::unix::fs::PermissionsExt;

#[test]
fn it_answers_on_every_listener() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("remora.socket");
    let path = path.to_str().unwrap();
    let server = Server::start_listening(&["-l", "127.0.0.1:0,127.0.0.1:0", "-l", "[::1]:0", "-s", path, "-t", "2"], 4);
    assert_eq!((server.tcp.len(), server.unix.len()), (3, 1));
    let mut first = Client::tcp(server.tcp[0]);
    assert_eq!(first.set("key", b"value"), "STORED");
    for address in &server.tcp {
        assert_eq!(Client::tcp(*address).get("key").unwrap(), b"value", "{address}");
    }
    assert_eq!(Client::unix(&server.unix[0]).get("key").unwrap(), b"value");
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_are_cut() {
    let server = Server::start(&["-t", "1", "-R", "3"]);
    let mut request = Vec::new();
    let mut expected = Vec::new();
    for number in 0..2000 {
        let value = "v".repeat(number % 97);
        request
            .extend_from_slice(format!("set k{number} 0 0 {}\r\n{value}\r\nget k{number}\r\n", value.len()).as_bytes());
        expected
            .extend_from_slice(format!("STORED\r\nVALUE k{number} 0 {}\r\n{value}\r\nEND\r\n", value.len()).as_bytes());
    }
    for piece_bytes in [7, 1000, 65_536, request.len()] {
        let mut client = server.connect();
        let (request, expected) = (&request, &expected);
        for piece in request.chunks(piece_bytes) {
            client.send(piece);
        }
        assert!(client.exactly(expected.len()) == *expected, "cut into pieces of {piece_bytes}");
    }
    assert!(server.stat("conn_yields").is_some_and(|count| count.parse::<u64>().unwrap() > 0));
}

#[test]
fn connections_that_are_ready_at_once_keep_apart() {
    let server = Server::start(&["-t", "1"]);
    for round in 0..4 {
        let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.ask("mn"), "MN"));
        // Half of the requests of every third client now, so that it holds something unfinished;
        // the rest while the server sleeps, so that it finds all of them at once.
        let requests: Vec<String> = (0..40)
            .map(|at| {
                let value = format!("{at:03}").repeat(1 + at * at * round);
                let last = if at % 7 == 3 { "quit\r\n" } else { "nonsense\r\nmn\r\n" };
                format!("set k{at} {at} 0 {}\r\n{value}\r\nget k{at} none\r\n{last}", value.len())
            })
            .collect();
        let early = |at: usize| if at.is_multiple_of(3) { requests[at].len() / 2 } else { 0 };
        (0..40).for_each(|at| clients[at].send(&requests[at].as_bytes()[..early(at)]));
        assert_eq!(server.connect().ask("mn"), "MN", "what was sent has been read");
        server.signal("STOP");
        (0..40).for_each(|at| clients[at].send(&requests[at].as_bytes()[early(at)..]));
        server.signal("CONT");
        for (at, mut client) in clients.into_iter().enumerate() {
            let value = format!("{at:03}").repeat(1 + at * at * round);
            let end = if at % 7 == 3 { "" } else { "ERROR\r\nMN\r\n" };
            let expected = format!("STORED\r\nVALUE k{at} {at} {}\r\n{value}\r\nEND\r\n{end}", value.len());
            assert!(client.exactly(expected.len()) == expected.as_bytes(), "client {at} of round {round}");
            if at % 7 == 3 {
                assert_eq!(client.until_closed(), b"", "it quit");
            }
        }
    }
}

#[test]
fn values_up_to_the_limit_come_back_whole() {
    let server = Server::start(&["-m", "128", "-I", "2m"]);
    let mut client = server.connect();
    for bytes in [0, 1, 16_383, 16_384, 65_536, 100_001, 1 << 20, (1 << 20) + 70_001] {
        let value: Vec<u8> = (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect();
        assert_eq!(client.set("large", &value), "STORED", "{bytes} bytes");
        assert!(client.get("large").unwrap() == value, "{bytes} bytes");
    }
    let too_large = vec![b'x'; 3 << 20];
    assert_eq!(client.set("large", &too_large), "SERVER_ERROR object too large for cache");
    assert_eq!(client.get("large"), None);
    assert_eq!(client.set("small", b"after"), "STORED");
}

#[test]
fn several_times_the_memory_is_written_and_every_store_is_answered() {
    let server = Server::start(&["-m", "16", "-I", "256k", "-t", "2"]);
    let writers: Vec<_> = (0..4).map(|writer| (writer, server.connect())).collect();
    std::thread::scope(|scope| {
        for (writer, mut client) in writers {
            scope.spawn(move || {
                for round in 0..40 {
                    let mut batch = Vec::new();
                    for number in 0..20 {
                        let bytes = 1000 * (1 + (number * 7 + round) % 60);
                        batch.extend_from_slice(format!("set w{writer}-{round}-{number} 0 0 {bytes}\r\n").as_bytes());
                        batch.resize(batch.len() + bytes, b'a' + number as u8);
                        batch.extend_from_slice(b"\r\n");
                    }
                    client.send(&batch);
                    for _ in 0..20 {
                        assert_eq!(client.line(), "STORED");
                    }
                }
            });
        }
    });
    assert!(server.stat("evictions").unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(server.connect().set("last", b"one"), "STORED");
}

#[test]
fn a_long_multi_get_is_resumed_until_it_is_whole() {
    let server = Server::start(&["-m", "128"]);
    let mut client = server.connect();
    let value = vec![b'z'; 40_000];
    let mut line = "get".to_string();
    for number in 0..100 {
        assert_eq!(client.set(&format!("k{number}"), &value), "STORED");
        line.push_str(&format!(" k{number}"));
    }
    client.send(format!("{line}\r\nmn\r\n").as_bytes());
    for number in 0..100 {
        assert_eq!(client.line(), format!("VALUE k{number} 0 40000"));
        assert!(client.exactly(value.len() + 2).starts_with(&value));
    }
    assert_eq!((client.line(), client.line()), ("END".to_string(), "MN".to_string()));
}

#[test]
fn one_connection_too_many_is_told_so_and_the_others_stay() {
    let server = Server::start(&["-c", "3", "-t", "2"]);
    let mut three: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut three {
        assert!(client.ask("version").starts_with("VERSION "));
    }
    assert_eq!(server.connect().until_closed(), b"ERROR Too many open connections\r\n");
    assert_eq!(three[0].ask("mn"), "MN");
    three.pop().unwrap().ask("quit");
    // The one that left makes room for one, as soon as the server has seen it leave.
    wait_until("one more is accepted", || {
        let mut client = server.connect();
        let answer = client.try_send(b"mn\r\n").map(|()| client.until_closed_or_line());
        answer.map_err(|error| error.to_string()).and_then(|answer| expect_eq("the answer", answer.as_str(), "MN"))
    });
    let rejected: u64 = {
        three[0].send(b"stats\r\n");
        let mut rejected = 0;
        loop {
            let line = three[0].line();
            if line == "END" {
                break rejected;
            }
            if let Some(count) = line.strip_prefix("STAT rejected_connections ") {
                rejected = count.parse().unwrap();
            }
        }
    };
    assert!(rejected >= 1);
}

#[test]
fn operators_take_no_place_of_a_client_and_get_in_when_all_are_taken() {
    let server = Server::start(&["-c", "2", "-t", "2"]);
    let mut operators: Vec<_> = (0..16).map(|_| Client::control(server.tcp[0])).collect();
    operators.iter_mut().for_each(|operator| assert_eq!(operator.ask("mn"), "MN"));
    assert_eq!(Client::control(server.tcp[0]).until_closed(), b"ERROR Too many open connections\r\n");
    let mut clients = [server.connect(), server.connect()];
    clients.iter_mut().for_each(|client| assert_eq!(client.ask("mn"), "MN"));
    assert_eq!(server.connect().until_closed(), b"ERROR Too many open connections\r\n");
    let told = operators[0].rows("stats");
    assert!(told.iter().any(|row| row == "STAT curr_connections 18"), "{told:?}");
    operators.pop().unwrap().ask("quit");
    wait_until("one more operator is let in", || {
        let mut operator = Client::control(server.tcp[0]);
        let answer = operator.try_send(b"mn\r\n").map(|()| operator.until_closed_or_line());
        answer.map_err(|error| error.to_string()).and_then(|answer| expect_eq("the answer", answer.as_str(), "MN"))
    });
}

#[test]
fn an_idle_connection_is_closed_and_counted() {
    let server = Server::start(&["-o", "idle_timeout=1"]);
    let mut client = server.connect();
    assert_eq!(client.ask("mn"), "MN");
    assert_eq!(client.until_closed(), b"");
    assert_eq!(server.stat("idle_kicks").unwrap(), "1");
}

#[test]
fn sigterm_ends_it_in_order_and_removes_the_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let mut server = Server::start_listening(&["-l", "127.0.0.1:0", "-s", path.to_str().unwrap()], 2);
    let mut client = server.connect();
    assert_eq!(client.set("a", b"b"), "STORED");
    server.signal("TERM");
    assert!(server.wait().success());
    assert_eq!(client.until_closed(), b"");
    assert!(!path.exists());
}

#[test]
fn a_client_that_never_reads_does_not_hold_up_the_end() {
    let mut server = Server::start(&["-m", "128"]);
    let mut client = server.connect();
    assert_eq!(client.set("large", &vec![b'x'; 1_000_000]), "STORED");
    client.send("get large\r\n".repeat(50).as_bytes());
    server.signal("INT");
    assert!(server.wait().success());
}

#[test]
fn a_socket_left_by_a_killed_server_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let arguments = ["-s", path.to_str().unwrap()];
    let mut first = Server::start_listening(&arguments, 1);
    let (status, said) = refused(&arguments);
    assert!(!status.success() && said.contains("is in use"), "{said}");
    first.signal("KILL");
    assert!(!first.wait().success());
    assert!(path.exists());
    let second = Server::start_listening(&arguments, 1);
    assert_eq!(Client::unix(&second.unix[0]).ask("mn"), "MN");
}

#[test]
fn what_cannot_be_is_refused_with_a_remedy() {
    let server = Server::start(&["-t", "1"]);
    let taken = server.tcp[0].to_string();
    for (arguments, words) in [
        (&["-l", taken.as_str()][..], &["is in use", "-p"][..]),
        (&["-l", "192.0.2.1:0"], &["not an address of this host"]),
        (&["-l", "127.0.0.1:port"], &["127.0.0.1:port", "host:port"]),
        (&["-l", "127.0.0.1:0", "-u", "no-such-user-here"], &["no-such-user-here", "getent"]),
        (&["-l", "127.0.0.1:0", "-m", "1"], &["-m"]),
        (&["-l", "127.0.0.1:0", "-t", "0"], &["-t 0"]),
        (&["-l", "127.0.0.1:0", "-I", "lots"], &["-I", "1m"]),
        (&["-l", "127.0.0.1:0", "-o", "nonsense"], &["nonsense"]),
        (&["-l", "127.0.0.1:0", "-s", "/no/such/directory/socket"], &["/no/such/directory/socket"]),
        (&["-p", "0"], &["nowhere to listen"]),
    ] {
        let (status, said) = refused(arguments);
        assert!(!status.success(), "{arguments:?}");
        for word in words {
            assert!(said.contains(word), "{arguments:?} should say {word:?}, said: {said}");
        }
    }
}

#[test]
fn connections_and_settings_are_told() {
    let server = Server::start(&["-t", "2", "-c", "77", "-R", "11"]);
    let mut waiting = server.connect();
    waiting.send(b"set half 0 0 100\r\nhalf");
    let mut client = server.connect();
    // The other connection's worker may not have read yet; what it has read it has noted.
    let rows = wait_until("both states are told", || {
        let rows = client.rows("stats conns");
        let told = |state: &str| rows.iter().any(|row| row.ends_with(state));
        if told("state conn_nread") && told("conn_parse_cmd") { Ok(rows) } else { Err(rows.join("; ")) }
    });
    let listening = format!("addr tcp:{}", server.tcp[0]);
    assert!(rows.iter().any(|row| row.ends_with(&listening)), "{rows:?}");
    let settings = client.rows("stats settings");
    let port = format!("STAT tcpport {}", server.tcp[0].port());
    for row in ["STAT maxconns 77", "STAT num_threads 2", "STAT reqs_per_event 11", "STAT item_size_max 1048576", &port]
    {
        assert_eq!(settings.iter().filter(|told| *told == row).count(), 1, "{row} in {settings:?}");
    }
}

#[test]
fn the_port_is_written_where_memcacheds_tests_look_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ports");
    let server = Server::start_with(&["-l", "127.0.0.1:0"], 1, &[("MEMCACHED_PORT_FILENAME", path.to_str().unwrap())]);
    let expected = format!("TCP INET: {}\n", server.tcp[0].port());
    // Written after the listening line, by which we know of the port.
    wait_until("the port is written", || {
        let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
        expect_eq("the file", text, expected.clone())
    });
}

/// tools/test runs this on reserved huge pages as well.
#[test]
fn stats_say_what_the_slabs_stand_on() {
    let server = Server::start(&["-m", "64", "-t", "1"]);
    let slabs =
        |backing: &str| server.stat(&format!("slabs_{backing}")).expect("a number").parse::<u64>().expect("a number");
    if std::env::var_os("REMORA_TEST_HUGEPAGES").is_some() {
        assert!(slabs("hugetlb") > 0, "huge pages are reserved, and none is used");
    } else {
        assert_eq!((slabs("hugetlb"), slabs("transparent")), (0, 0));
        assert!(slabs("plain") > 0);
    }
}
