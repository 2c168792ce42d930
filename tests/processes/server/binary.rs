//! The binary protocol over sockets: every command in order, what makes no sense, clients that do
//! not read, and which protocol a connection may speak.

use crate::node::Node;
use crate::support::packets::{Answer, Packet};
use crate::support::wait::{expect_eq, wait_until};
use crate::support::{Client, Server};

const NOOP: Packet<'_> = Packet { opcode: 0x0A, opaque: 99, cas: 0, extras: b"", key: b"", value: b"", lengths: None };
/// Flags 9, no expiry.
const ITEM: [u8; 8] = [0, 0, 0, 9, 0, 0, 0, 0];
const FLAGS: [u8; 4] = [0, 0, 0, 9];

fn with_key(opcode: u8, key: &'static str) -> Packet<'static> {
    Packet { opcode, key: key.as_bytes(), ..Packet::default() }
}

fn set<'a>(key: &'a str, value: &'a [u8]) -> Packet<'a> {
    Packet { opcode: 0x01, extras: &ITEM, key: key.as_bytes(), value, ..Packet::default() }
}

/// Of an answer: status, extras, key, value.
type Told<'a> = (u16, &'a [u8], &'a [u8], Vec<u8>);

/// Send it, and a noop behind it; what came before the answer to that.
fn ask(client: &mut Client, packet: &Packet<'_>) -> Vec<Answer> {
    client.send(&[packet.bytes(), NOOP.bytes()].concat());
    let mut answers = Vec::new();
    loop {
        let answer = client.packet();
        if answer.opaque == NOOP.opaque {
            assert_eq!((answer.opcode, answer.status), (NOOP.opcode, 0));
            return answers;
        }
        answers.push(answer);
    }
}

/// The same, of a request that has one answer.
fn one(client: &mut Client, packet: &Packet<'_>) -> Answer {
    let mut answers = ask(client, packet);
    assert_eq!(answers.len(), 1, "{packet:?}: {answers:?}");
    answers.remove(0)
}

#[test]
fn every_command_is_answered() {
    let server = Server::start(&["-t", "1"]);
    let client = &mut server.connect();
    let count = [&2u64.to_be_bytes()[..], &40u64.to_be_bytes(), &[0; 4]].concat();
    let never = [&2u64.to_be_bytes()[..], &40u64.to_be_bytes(), &[0xFF; 4]].concat();
    let counting = |opcode, key: &'static str, extras| Packet { extras, ..with_key(opcode, key) };
    let number = |number: u64| number.to_be_bytes().to_vec();
    let table: Vec<(Packet<'_>, Option<Told<'_>>)> = vec![
        (with_key(0x00, "k"), Some((1, b"", b"", b"Not found".to_vec()))),
        (with_key(0x09, "k"), None),
        (with_key(0x0C, "k"), Some((1, b"", b"k", vec![]))),
        (with_key(0x0D, "k"), None),
        (set("k", b"value"), Some((0, b"", b"", vec![]))),
        (with_key(0x00, "k"), Some((0, &FLAGS, b"", b"value".to_vec()))),
        (with_key(0x09, "k"), Some((0, &FLAGS, b"", b"value".to_vec()))),
        (with_key(0x0C, "k"), Some((0, &FLAGS, b"k", b"value".to_vec()))),
        (with_key(0x0D, "k"), Some((0, &FLAGS, b"k", b"value".to_vec()))),
        (Packet { opcode: 0x11, ..set("k", b"v2") }, None),
        (Packet { opcode: 0x02, ..set("k", b"v3") }, Some((2, b"", b"", b"Data exists for key.".to_vec()))),
        (Packet { opcode: 0x12, ..set("k", b"v3") }, Some((2, b"", b"", b"Data exists for key.".to_vec()))),
        (Packet { opcode: 0x12, ..set("new", b"v") }, None),
        (Packet { opcode: 0x03, ..set("no", b"v") }, Some((1, b"", b"", b"Not found".to_vec()))),
        (Packet { opcode: 0x13, ..set("k", b"v4") }, None),
        (Packet { value: b"+", ..with_key(0x0E, "k") }, Some((0, b"", b"", vec![]))),
        (Packet { value: b"-", ..with_key(0x1A, "k") }, None),
        (Packet { value: b"-", ..with_key(0x19, "no") }, Some((5, b"", b"", b"Not stored.".to_vec()))),
        (with_key(0x00, "k"), Some((0, &FLAGS, b"", b"-v4+".to_vec()))),
        (counting(0x05, "n", &never), Some((1, b"", b"", b"Not found".to_vec()))),
        (counting(0x05, "n", &count), Some((0, b"", b"", number(40)))),
        (counting(0x05, "n", &never), Some((0, b"", b"", number(42)))),
        (counting(0x16, "n", &count), None),
        (counting(0x06, "n", &count), Some((0, b"", b"", number(38)))),
        (counting(0x15, "k", &count), Some((6, b"", b"", b"Non-numeric server-side value for incr or decr".to_vec()))),
        (Packet { extras: &[0, 0, 1, 0], ..with_key(0x1C, "k") }, Some((0, &FLAGS, b"", vec![]))),
        (Packet { extras: &[0, 0, 1, 0], ..with_key(0x1D, "k") }, Some((0, &FLAGS, b"", b"-v4+".to_vec()))),
        (Packet { extras: &[0, 0, 1, 0], ..with_key(0x24, "k") }, Some((0, &FLAGS, b"k", b"-v4+".to_vec()))),
        (Packet { extras: &[0, 0, 1, 0], ..with_key(0x1E, "no") }, None),
        (Packet { extras: &[0, 0, 1, 0], ..with_key(0x23, "no") }, Some((1, b"", b"no", vec![]))),
        (with_key(0x14, "k"), None),
        (with_key(0x04, "k"), Some((1, b"", b"", b"Not found".to_vec()))),
        (Packet { opcode: 0x18, ..Packet::default() }, None),
        (with_key(0x04, "n"), Some((1, b"", b"", b"Not found".to_vec()))),
        (Packet { opcode: 0x08, extras: &[0; 4], ..Packet::default() }, Some((0, b"", b"", vec![]))),
        (Packet { opcode: 0x1B, extras: &[0; 4], ..Packet::default() }, Some((0, b"", b"", vec![]))),
        (with_key(0x10, "no such"), Some((1, b"", b"", b"Not found".to_vec()))),
        (Packet { opcode: 0x20, ..Packet::default() }, Some((0x81, b"", b"", b"Unknown command".to_vec()))),
        (Packet { value: b"\0a\0b", ..with_key(0x21, "PLAIN") }, Some((0x81, b"", b"", b"Unknown command".to_vec()))),
        (Packet { value: b"body", ..with_key(0x55, "k") }, Some((0x81, b"", b"", b"Unknown command".to_vec()))),
    ];
    for (packet, expected) in table {
        let packet = Packet { opaque: 7, ..packet };
        let answers = ask(client, &packet);
        let told =
            answers.first().map(|answer| (answer.status, &answer.extras[..], &answer.key[..], answer.value.clone()));
        assert_eq!(told, expected, "{packet:?}");
        assert!(answers.iter().all(|answer| (answer.opcode, answer.opaque) == (packet.opcode, 7)));
    }
    let rows = ask(client, &Packet { opcode: 0x10, ..Packet::default() });
    let (end, rows) = rows.split_last().expect("an end");
    assert!(end.key.is_empty() && end.value.is_empty());
    assert!(rows.iter().any(|row| row.key == b"cmd_flush" && row.value == b"2"), "{} rows", rows.len());
    assert!(one(client, &Packet { opcode: 0x0B, ..Packet::default() }).value.starts_with(b"1.6.45"));
    client.send(&Packet { opcode: 0x07, ..Packet::default() }.bytes());
    assert_eq!(client.packet().opcode, 0x07);
    assert_eq!(client.until_closed(), b"");
    let mut quiet = server.connect();
    quiet.send(&[with_key(0x04, "k").bytes(), Packet { opcode: 0x17, ..Packet::default() }.bytes()].concat());
    assert_eq!((quiet.packet().status, quiet.until_closed()), (1, vec![]));
}

#[test]
fn a_cas_is_told_and_honoured() {
    let server = Server::start(&["-t", "1"]);
    let client = &mut server.connect();
    let first = one(client, &set("k", b"1")).cas;
    assert!(first > 0);
    assert_eq!(one(client, &with_key(0x00, "k")).cas, first);
    let count = [&1u64.to_be_bytes()[..], &[0; 12]].concat();
    for packet in [
        set("k", b"2"),
        Packet { opcode: 0x13, ..set("k", b"2") },
        Packet { value: b"2", ..with_key(0x0E, "k") },
        Packet { extras: &count, ..with_key(0x15, "k") },
        with_key(0x04, "k"),
    ] {
        let wrong = one(client, &Packet { cas: first + 1, ..packet });
        assert_eq!((wrong.status, wrong.cas), (2, 0), "{packet:?}");
    }
    assert_eq!(one(client, &Packet { cas: 1, ..set("no", b"1") }).status, 1, "nothing has this CAS");
    let second = one(client, &Packet { cas: first, ..set("k", b"2") }).cas;
    let third = one(client, &Packet { cas: second, extras: &count, ..with_key(0x05, "k") });
    assert_eq!(third.value, 3u64.to_be_bytes());
    assert_eq!(one(client, &Packet { cas: third.cas, ..with_key(0x04, "k") }).status, 0);
}

#[test]
fn both_protocols_see_the_same_items() {
    let server = Server::start(&["-t", "2"]);
    let (mut text, mut binary) = (server.connect(), server.connect());
    assert_eq!(text.set("key", b"text"), "STORED");
    assert_eq!(one(&mut binary, &with_key(0x00, "key")).value, b"text");
    assert_eq!(one(&mut binary, &set("key", b"binary")).status, 0);
    assert_eq!(text.get("key").as_deref(), Some(&b"binary"[..]));
    // Any byte may be in a key: in text it is base64.
    assert_eq!(one(&mut binary, &set("a b\n", b"blank")).status, 0);
    assert_eq!(text.ask("mg YSBiCg== b v"), "VA 5");
    assert_eq!(text.line(), "blank");
    // A later byte that would open a binary connection is part of a line that means nothing.
    text.send(b"\x80\x04value\r\n");
    assert_eq!(text.line(), "ERROR");
}

/// Where the next request begins cannot be known; the others are served.
#[test]
fn lengths_that_make_no_sense_end_the_connection() {
    let server = Server::start(&["-t", "1"]);
    let before = server.heap_bytes();
    for (opcode, lengths, status) in [
        (0x00, (5, 0, 4), 0x81),
        (0x01, (u16::MAX, u8::MAX, 0), 0x81),
        (0x01, (1, 8, u32::MAX), 4),
        (0x0E, (1, 0, u32::MAX), 4),
        (0x1A, (250, 0, u32::MAX - 1), 4),
        (0x0F, (1, 0, 1 << 31), 4),
        (0x00, (251, 0, 251), 4),
        (0x05, (1, 4, 5), 4),
    ] {
        let mut client = server.connect();
        client.send(&Packet { opcode, lengths: Some(lengths), ..Packet::default() }.bytes());
        let answer = client.packet();
        assert_eq!((answer.opcode, answer.status), (opcode, status), "{lengths:?}");
        assert_eq!(client.until_closed(), b"", "{lengths:?}");
    }
    // A later packet without the magic of a request.
    let mut client = server.connect();
    client.send(&[NOOP.bytes(), vec![0x81, 0x0A]].concat());
    assert_eq!((client.packet().opaque, client.until_closed()), (NOOP.opaque, vec![]));
    assert_eq!(one(&mut server.connect(), &set("k", b"v")).status, 0);
    let grown = server.heap_bytes().saturating_sub(before);
    assert!(grown < 1 << 20, "grown by {grown} bytes");
}

#[test]
fn a_value_that_is_too_large_is_swallowed_and_the_old_one_goes() {
    let server = Server::start(&["-t", "1", "-I", "100k"]);
    let client = &mut server.connect();
    let large = vec![b'x'; 150_000];
    for (opcode, stays) in [(0x01, false), (0x11, false), (0x02, true), (0x0E, true)] {
        assert_eq!(one(client, &set("k", b"old")).status, 0);
        let extras: &[u8] = if opcode == 0x0E { b"" } else { &ITEM };
        let answer = one(client, &Packet { opcode, extras, ..set("k", &large) });
        assert_eq!((answer.status, &answer.value[..]), (3, &b"Too large."[..]));
        assert_eq!(one(client, &with_key(0x00, "k")).status == 0, stays, "{opcode:#x}");
    }
    // Each fits alone.
    let half = vec![b'x'; 60_000];
    assert_eq!(one(client, &set("k", &half)).status, 0);
    for opcode in [0x0E, 0x0F, 0x19, 0x1A] {
        assert_eq!(one(client, &Packet { value: &half, ..with_key(opcode, "k") }).status, 5);
    }
    assert_eq!(one(client, &with_key(0x00, "k")).value, half);
}

#[test]
fn packets_are_answered_in_order_however_they_are_cut() {
    let server = Server::start(&["-t", "1", "-R", "3"]);
    let keys: Vec<String> = (0..300).map(|number| format!("k{number}")).collect();
    let mut requests = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let value = vec![b'v'; number % 97];
        requests.extend(Packet { opcode: 0x11, ..set(key, &value) }.bytes());
        requests.extend(Packet { opcode: 0x0D, key: key.as_bytes(), ..Packet::default() }.bytes());
        requests.extend(with_key(0x09, "no").bytes());
    }
    requests.extend(NOOP.bytes());
    for piece_bytes in [7, 25, 1000, requests.len()] {
        let mut client = server.connect();
        requests.chunks(piece_bytes).for_each(|piece| client.send(piece));
        for (number, key) in keys.iter().enumerate() {
            let answer = client.packet();
            assert_eq!((answer.key, answer.value.len()), (key.clone().into_bytes(), number % 97));
        }
        assert_eq!(client.packet().opaque, NOOP.opaque, "cut into pieces of {piece_bytes}");
    }
}

#[test]
fn clients_that_never_read_hold_little() {
    let server = Server::start(&["-m", "64", "-t", "1"]);
    let value = vec![b'x'; 900_000];
    let mut others = server.connect();
    assert_eq!(one(&mut others, &set("large", &value)).status, 0);
    let before = server.heap_bytes();
    let mut greedy: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for client in &mut greedy {
        client.send(&with_key(0x0D, "large").bytes().repeat(2000));
    }
    wait_until("all of them are waited for", || {
        let rows = server.connect().rows("stats conns");
        let waiting = rows.iter().filter(|row| row.ends_with("state conn_mwrite")).count();
        expect_eq("connections that take no answers", waiting, greedy.len())
    });
    for number in 0..100u32 {
        assert_eq!(one(&mut others, &set("other", &number.to_be_bytes())).status, 0);
    }
    let grown = server.heap_bytes().saturating_sub(before);
    let most = 8 * ((256 << 10) + value.len() as u64) + (2 << 20);
    assert!(grown < most, "grown by {grown} bytes, more than {most}");
    assert_eq!(greedy[0].packet().value, value);
}

#[test]
fn a_connection_speaks_what_it_may() {
    let ascii = Server::start(&["-B", "ascii"]);
    for _ in 0..2 {
        let mut stranger = ascii.connect();
        stranger.send(&NOOP.bytes());
        assert_eq!(stranger.until_closed(), b"", "it is told to go at once");
    }
    assert!(ascii.next_log_line().is_some_and(|line| line.contains("a server with -B ascii")));
    assert_eq!(ascii.connect().set("key", b"1"), "STORED");
    for arguments in [&["-l", "127.0.0.1:0", "-B", "binary"][..], &["-l", "proto[binary]:127.0.0.1:0"]] {
        let binary = Server::start_listening(arguments, 1);
        let mut stranger = binary.connect();
        stranger.send(b"version\r\n");
        assert_eq!(stranger.until_closed(), b"");
        assert_eq!(one(&mut binary.connect(), &set("key", b"1")).status, 0);
        // Operators are not asked what they speak.
        assert!(Client::control(binary.tcp[0]).ask("version").starts_with("VERSION"));
    }
}

/// A write that is refused, or not acknowledged, is told with a status and words.
#[test]
fn refusals_of_a_pair_are_told() {
    let primary = Node::primary(&["--ack-replicas", "2", "--ack-timeout", "50"]);
    let replica = Node::replica(primary.replication.expect("a port"), &[]);
    let told = |server: &Server, packet: &Packet<'_>| {
        let answer = one(&mut server.connect(), packet);
        (answer.status, String::from_utf8(answer.value).expect("words"))
    };
    for packet in [set("key", b"1"), Packet { opcode: 0x11, ..set("key", b"1") }] {
        let (status, words) = told(&primary.server, &packet);
        assert!(status == 0x86 && words.starts_with("not acknowledged: "), "{status:#x} {words}");
        let (status, words) = told(&replica.server, &packet);
        let to = format!("read-only replica: write to the primary at {}", primary.server.tcp[0]);
        assert_eq!((status, words), (0x86, to));
    }
    wait_until("the replica has it", || {
        expect_eq("status of a get", told(&replica.server, &with_key(0x00, "key")).0, 0)
    });
    let gat = Packet { extras: &[0; 4], ..with_key(0x1E, "key") };
    assert_eq!(told(&replica.server, &gat).0, 0x86, "gat writes");
}
