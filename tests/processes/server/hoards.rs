//! Clients that hold memory and do not go on: they give it up, so that nobody else is refused for
//! it.

use super::within::Within;
use crate::support::Client;
use crate::support::packets::Packet;
use remora::server::ServerConfig;

const VALUE_BYTES: usize = 200_000;

fn head(key: &str) -> Vec<u8> {
    format!("set {key} 0 0 {VALUE_BYTES}\r\n").into_bytes()
}

fn half() -> Vec<u8> {
    vec![b'h'; VALUE_BYTES / 2]
}

#[test]
fn newcomers_are_not_refused_for_what_hoarders_hold() {
    const INPUT_BYTES_MAX: u64 = 4 << 20;
    for workers in [1, 2] {
        let input_bytes_total_max = INPUT_BYTES_MAX as usize;
        let server =
            Within::start(ServerConfig { workers, input_bytes_total_max, ..ServerConfig::default() }, 128 << 20);
        let mut hoarders: Vec<_> = (0..100).map(|_| server.connect()).collect();
        for (at, client) in hoarders.iter_mut().enumerate() {
            assert_eq!(client.set(&format!("hoard{at}"), b"old"), "STORED");
            client.send(&[head(&format!("hoard{at}")), half()].concat());
        }
        server.pass_two_seconds();
        // Two together, so that something is unfinished in both while both go on.
        for at in 0..20 {
            let mut pair = [server.connect(), server.connect()];
            for (side, client) in pair.iter_mut().enumerate() {
                client.send(&[head(&format!("new{at}-{side}")), half()].concat());
                server.stat("uptime");
            }
            for client in &mut pair {
                client.send(&[half(), b"\r\n".to_vec()].concat());
                assert_eq!(client.line(), "STORED", "newcomer {at}, {workers} workers");
            }
            let held = server.stat("input_held_bytes");
            assert!(held <= INPUT_BYTES_MAX + (1 << 20), "{held} bytes held");
        }
        assert!(server.stat("input_refused") > 50);
        assert_eq!(server.stat("hoard_kicks"), 0);
        let mut refused = 0;
        for (at, client) in hoarders.iter_mut().enumerate() {
            // The rest is swallowed, so that the connection is as good as ever.
            client.send(&[half(), b"\r\n".to_vec()].concat());
            let (answer, key) = (client.line(), format!("hoard{at}"));
            let expected = match answer.as_str() {
                "STORED" => Some([half(), half()].concat()),
                "SERVER_ERROR out of memory storing object" => None,
                other => panic!("{other}"),
            };
            refused += u32::from(expected.is_none());
            assert!(client.get(&key) == expected, "no old value is read for the new: {key} {answer}");
        }
        assert!((1..100).contains(&refused), "{refused}");
        drop(hoarders);
    }
}

#[test]
fn a_request_that_is_dropped_may_want_no_answer() {
    let server = Within::start(ServerConfig { input_bytes_total_max: 1 << 20, ..ServerConfig::default() }, 128 << 20);
    let mut quiet = server.connect();
    let request = format!("set quiet 0 0 {VALUE_BYTES} noreply\r\n").into_bytes();
    quiet.send(&[request, half()].concat());
    server.pass_two_seconds();
    let mut others: Vec<_> = (0..15).map(|_| server.connect()).collect();
    others.iter_mut().for_each(|client| client.send(&[head("other"), half()].concat()));
    server.wait_for(|| server.stat("input_refused") > 0);
    quiet.send(&[half(), b"\r\nmn\r\n".to_vec()].concat());
    assert_eq!(quiet.line(), "MN");
    assert_eq!(quiet.get("quiet"), None);
}

#[test]
fn a_packet_that_is_dropped_is_told_so_and_the_next_is_served() {
    let server = Within::start(ServerConfig { input_bytes_total_max: 1 << 20, ..ServerConfig::default() }, 128 << 20);
    let mut client = server.connect();
    let value = [half(), half()].concat();
    let set = |value| Packet { opcode: 0x11, opaque: 7, extras: &[0; 8], key: b"packet", value, ..Packet::default() };
    let get = Packet { key: b"packet", ..Packet::default() }.bytes();
    client.send(&[set(b"old").bytes(), get.clone()].concat());
    assert_eq!(client.packet().value, b"old");
    let long = set(&value).bytes();
    let (arrived, rest) = long.split_at(VALUE_BYTES / 2);
    client.send(arrived);
    server.pass_two_seconds();
    let mut others: Vec<_> = (0..15).map(|_| server.connect()).collect();
    others.iter_mut().for_each(|client| client.send(&[head("other"), half()].concat()));
    server.wait_for(|| server.stat("input_refused") > 0);
    client.send(&[rest, &get].concat());
    let refused = client.packet();
    assert_eq!((refused.opcode, refused.status, refused.opaque), (0x11, 0x82, 7), "quiet or not: {refused:?}");
    let missed = client.packet();
    assert_eq!((missed.opcode, missed.status), (0, 1), "no old value is read for the new");
}

#[test]
fn a_dropped_request_counts_as_one_for_which_there_was_no_memory() {
    let server = Within::start(ServerConfig { input_bytes_total_max: 1 << 20, ..ServerConfig::default() }, 128 << 20);
    let mut clients: Vec<_> = (0..16).map(|_| server.connect()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        let noreply = if at % 2 == 0 { " noreply" } else { "" };
        client.send(format!("set key{at} 0 0 {VALUE_BYTES}{noreply}\r\n").as_bytes());
        client.send(&half());
    }
    server.wait_for(|| server.stat("input_refused") > 1);
    let before = server.stat("store_no_memory");
    assert!(before >= 2 && before <= server.stat("input_refused"), "{before}");
    assert_eq!(server.stat("store_too_large"), 0);
}

#[test]
fn an_upload_that_goes_on_is_not_dropped_for_being_larger_than_what_all_may_hold() {
    let server = Within::start(ServerConfig { input_bytes_total_max: 256 << 10, ..ServerConfig::default() }, 128 << 20);
    let mut client = server.connect();
    let value = vec![b'v'; 900_000];
    client.send(format!("set large 0 0 {}\r\n", value.len()).as_bytes());
    for part in value.chunks(100_000) {
        client.send(part);
        // Others are served meanwhile, and hold nothing.
        server.stat("uptime");
    }
    client.send(b"\r\n");
    assert_eq!(client.line(), "STORED");
    assert_eq!(server.stat("input_refused"), 0);
}

#[test]
fn who_waits_for_replicas_is_closed_after_those_who_do_not_read() {
    const READERS: usize = 32;
    let server = Within::start(ServerConfig { output_bytes_total_max: 2 << 20, ..ServerConfig::default() }, 128 << 20);
    let mut first = server.connect();
    assert_eq!(first.set("value", &half()), "STORED");
    // No replica follows: the answers behind `wait` are held, and have stood still for longest.
    let mut waiting: Vec<_> = (0..4).map(|_| server.connect()).collect();
    waiting.iter_mut().for_each(|client| client.send(b"wait 1 60000\r\nget value\r\n"));
    server.wait_for(|| server.stat("acks_pending") == 4);
    server.pass_two_seconds();
    // A kernel takes some MB of the answers to each. What it leaves of the last one differs from
    // reader to reader, because their values do; together it is too much.
    let mut readers: Vec<_> = (0..READERS).map(|_| Client::tcp_with_little_room(server.address)).collect();
    for (number, client) in readers.iter_mut().enumerate() {
        assert_eq!(first.set(&format!("large-{number}"), &vec![b'l'; 150_000 + 5_003 * number]), "STORED");
        client.send(format!("get large-{number}\r\n").repeat(100).as_bytes());
    }
    server.wait_for(|| server.stat("hoard_kicks") > 2);
    assert_eq!(server.stat("acks_pending"), 4, "they are there, and wait");
}
