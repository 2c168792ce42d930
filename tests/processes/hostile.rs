//! Clients that behave badly, and the others meanwhile: those must get every answer. Counted, not
//! timed.

use crate::support::wait::{expect_eq, wait_until};
use crate::support::{Client, Server};

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
    let before = server.heap_bytes();
    let mut greedy: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut greedy {
        // More than a gigabyte of answers for each, if they were made.
        client.send("get large\r\n".repeat(2000).as_bytes());
    }
    wait_until("all of them are waited for", || {
        let rows = server.connect().rows("stats conns");
        let waiting = rows.iter().filter(|row| row.ends_with("state conn_mwrite")).count();
        expect_eq("connections that take no answers", waiting, greedy.len())
    });
    others_are_served(&server);
    let grown = server.heap_bytes().saturating_sub(before);
    // What a connection may have unsent: 256 KiB, and the one value that goes beyond. Two more for
    // all that is not theirs.
    let most = 20 * ((256 << 10) + value.len() as u64) + (2 << 20);
    assert!(grown < most, "grown by {grown} bytes for 20 clients, more than {most}");
    // The answers that the first connection asked for can still be read.
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
    let before = server.heap_bytes();
    let block = vec![b'x'; 1 << 20];
    for _ in 0..64 {
        client.send(&block);
    }
    others_are_served(&server);
    let grown = server.heap_bytes().saturating_sub(before);
    assert!(grown < block.len() as u64, "grown by {grown} bytes, more than is sent at a time");
}

#[test]
fn many_announcements_hold_no_memory_for_what_has_not_come() {
    let server = Server::start(&["-t", "2", "-m", "64"]);
    others_are_served(&server);
    let before = server.heap_bytes();
    let mut liars: Vec<_> = (0..200).map(|_| server.connect()).collect();
    for client in &mut liars {
        client.send(b"set liar 0 0 1000000\r\nx");
    }
    others_are_served(&server);
    let grown = server.heap_bytes().saturating_sub(before);
    assert!(grown < 200 * (8 << 10), "grown by {grown} bytes for 200 announcements of a megabyte");
}

#[test]
fn unfinished_requests_of_all_together_are_bounded() {
    let server = Server::start(&["-t", "2", "-m", "64"]);
    others_are_served(&server);
    let before = server.heap_bytes();
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
    wait_until("refusals are counted", || {
        let counted = counted();
        if counted >= refused.max(1) { Ok(()) } else { Err(format!("{counted} counted, {refused} seen while sending")) }
    });
    // What may be unfinished in all, a large request of each worker, what workers keep spare, and
    // what the allocator keeps of what was dropped.
    let grown = server.heap_bytes().saturating_sub(before);
    assert!(grown < (64 << 20) + 2 * (6 << 20) + (16 << 20), "grown by {grown} bytes of {}", 150 * part.len());
    drop(hoarders);
    // Their memory is given back: a large request is taken again, once the server has seen them go.
    wait_until("a large request is taken again", || {
        let mut client = server.connect();
        let mut request = format!("set large 0 0 {}\r\n", part.len()).into_bytes();
        request.extend_from_slice(&part);
        request.extend_from_slice(b"\r\n");
        let answer = client.try_send(&request).map(|()| client.until_closed_or_line());
        answer.map_err(|error| error.to_string()).and_then(|answer| expect_eq("the answer", answer.as_str(), "STORED"))
    });
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
    wait_until("all are gone", || {
        let mut client = server.connect();
        let _ = client.try_send(b"mn\r\n");
        expect_eq("an answer", client.until_closed_or_line().as_str(), "MN")?;
        expect_eq("connections", server.stat("curr_connections").as_deref(), Some("2"))
    });
}
