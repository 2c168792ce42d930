//! Clients that behave badly, and the others meanwhile: those must get every answer. Counted, not timed.

mod support;

use support::{Client, Server};

/// Another client's sets and gets, all of which must be answered.
fn others_are_served(server: &Server) {
    for _ in 0..4 {
        let mut client = server.connect();
        for number in 0..100 {
            let key = format!("other{number}");
            assert_eq!(client.set(&key, key.as_bytes()), "STORED");
            assert_eq!(client.get(&key).as_deref(), Some(key.as_bytes()));
        }
    }
}

#[test]
fn clients_that_never_read_hold_little_and_hold_nobody_up() {
    let server = Server::start(&["-m", "64", "-t", "2"]);
    let value = vec![b'x'; 900_000];
    assert_eq!(server.connect().set("large", &value), "STORED");
    let before = server.resident_bytes();
    let mut greedy: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut greedy {
        // More than a gigabyte of answers for each, if they were made.
        client.send("get large\r\n".repeat(2000).as_bytes());
    }
    others_are_served(&server);
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 20 * (3 << 20) + (64 << 20), "grown by {grown} bytes for 20 clients");
    // What was asked for is still to be had.
    let mut first = greedy.remove(0);
    for _ in 0..5 {
        assert_eq!(first.line(), "VALUE large 0 900000");
        assert!(first.exactly(value.len() + 2).starts_with(&value));
        assert_eq!(first.line(), "END");
    }
}

#[test]
fn a_byte_at_a_time_is_as_good_as_any() {
    let server = Server::start(&["-t", "1"]);
    let mut slow = server.connect();
    for byte in b"set slow 5 0 11\r\nhello\r\nslow\r\nget slow\r\nbogus\r\nmn\r\n" {
        slow.send(&[*byte]);
    }
    for expected in ["STORED", "VALUE slow 5 11", "hello", "slow", "END", "ERROR", "MN"] {
        assert_eq!(slow.line(), expected);
    }
    others_are_served(&server);
}

#[test]
fn a_gigabyte_announced_is_refused_or_dropped_without_being_held() {
    let server = Server::start(&["-t", "1"]);
    let mut client = server.connect();
    client.send(b"set big 0 0 1073741824\r\n");
    assert_eq!(client.line(), "SERVER_ERROR object too large for cache");
    let before = server.resident_bytes();
    let block = vec![b'x'; 1 << 20];
    for _ in 0..64 {
        client.send(&block);
    }
    others_are_served(&server);
    assert!(server.resident_bytes() < before + (16 << 20));
}

#[test]
fn many_announcements_hold_no_memory_for_what_has_not_come() {
    let server = Server::start(&["-t", "2", "-m", "64"]);
    others_are_served(&server);
    let before = server.resident_bytes();
    let mut liars: Vec<_> = (0..200).map(|_| server.connect()).collect();
    for client in &mut liars {
        client.send(b"set liar 0 0 1000000\r\nx");
    }
    others_are_served(&server);
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "grown by {grown} bytes for 200 announcements of a megabyte");
}

#[test]
fn unfinished_requests_of_all_together_are_bounded() {
    let server = Server::start(&["-t", "2", "-m", "64"]);
    let mut hoarders: Vec<_> = (0..150).map(|_| server.connect()).collect();
    let mut part = b"set hoard 0 0 1000000\r\n".to_vec();
    part.resize(900_000, b'x');
    let mut refused = 0;
    for client in &mut hoarders {
        // The server may close while it is being written to: that is what this is about.
        if client.try_send(&part).is_err() {
            refused += 1;
        }
    }
    others_are_served(&server);
    let counted = || server.stat("input_refused").unwrap().parse::<u64>().unwrap();
    // What was sent lies in the kernel's buffers until the server has come to it.
    let some = (0..2000).any(|_| counted() > refused.max(1) - 1);
    assert!(some, "{} counted, {refused} seen while sending", counted());
    assert!(server.resident_bytes() < 300 << 20);
    drop(hoarders);
    // Their memory is given back: a large request is taken again, once the server has seen them go.
    let taken = (0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        let mut client = server.connect();
        let mut request = format!("set large 0 0 {}\r\n", part.len()).into_bytes();
        request.extend_from_slice(&part);
        request.extend_from_slice(b"\r\n");
        client.try_send(&request).is_ok() && client.until_closed_or_line() == "STORED"
    });
    assert!(taken);
}

#[test]
fn a_client_that_half_closes_gets_its_answers() {
    let server = Server::start(&["-t", "1"]);
    let mut client = Client::tcp_half_closing(server.tcp[0], b"set half 0 0 2\r\nok\r\nget half\r\nget unfinis");
    assert_eq!(client.until_closed(), b"STORED\r\nVALUE half 0 2\r\nok\r\nEND\r\n");
    others_are_served(&server);
}

#[test]
fn a_line_without_end_closes_the_connection_and_costs_no_answer_before_it() {
    let server = Server::start(&["-t", "1"]);
    let mut client = server.connect();
    let garbage = vec![b'g'; 1 << 20];
    let _ = client.try_send(&[b"mn\r\n", &garbage[..]].concat());
    let _ = client.try_send(&garbage);
    assert_eq!(client.until_closed(), b"MN\r\n");
    others_are_served(&server);
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let server = Server::start(&["-t", "2", "-c", "64"]);
    for _ in 0..500 {
        let mut client = server.connect();
        client.send(b"set gone 0 0 50\r\nunfinished");
    }
    let left = (0..2000).any(|_| {
        let mut client = server.connect();
        let _ = client.try_send(b"mn\r\n");
        client.until_closed_or_line() == "MN" && server.stat("curr_connections").is_some_and(|count| count == "2")
    });
    assert!(left, "{:?} connections are still counted", server.stat("curr_connections"));
}
