//! `watch`: clients that are told of what others do.

use super::udp::Peer;
use crate::memcached;
use crate::support::packets::Packet;
use crate::support::wait::{expect_eq, wait_until};
use crate::support::{Client, Server};
use std::net::SocketAddr;

fn watching(address: SocketAddr, words: &str) -> Client {
    let mut watcher = Client::tcp(address);
    assert_eq!(watcher.ask(&format!("watch {words}")), "OK", "{words}");
    watcher
}

/// A line without what differs from run to run: the time, its number, sockets and ports.
fn without_numbers(line: &str) -> String {
    let fields = line.split(' ').map(|field| match field.split_once('=') {
        Some((name @ ("ts" | "gid" | "cfd" | "rport"), value)) => {
            assert!(value.parse::<f64>().is_ok_and(|number| number > 0.0), "{line}");
            name.to_string()
        }
        _ => field.to_string(),
    });
    fields.collect::<Vec<_>>().join(" ")
}

/// Lines up to the one about this key, without numbers; they have their numbers in order.
fn lines_upto(watcher: &mut Client, key: &str) -> Vec<String> {
    let (mut lines, mut before) = (Vec::new(), 0);
    loop {
        let line = watcher.line();
        assert!(line.starts_with("ts="), "{line:?}");
        let number = field(&line, "gid").parse::<u64>().expect("a number");
        assert!(number > before, "{line} behind {before}");
        before = number;
        if field(&line, "key") == key {
            return lines;
        }
        lines.push(without_numbers(&line));
    }
}

fn field<'l>(line: &'l str, name: &str) -> &'l str {
    line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
}

/// What both are asked. Each gets as many lines as it has answers.
const ASKED: &[(&str, usize)] = &[
    ("get a", 1),
    ("set a 0 0 3\r\nabc", 1),
    ("get a b,c", 3),
    ("set a 5 1000 3\r\nabd", 1),
    ("set a 0 0 1\r\n1", 1),
    ("incr a 1", 1),
    ("decr none 1", 1),
    ("add a 0 0 1\r\nx", 1),
    ("replace a 0 0 1\r\n7", 1),
    ("replace zz 0 0 1\r\n7", 1),
    ("append a 0 0 3\r\nxyz", 1),
    ("prepend q 0 0 3\r\nxyz", 1),
    ("cas a 0 0 1 1\r\nx", 1),
    ("cas no 0 0 1 1\r\nx", 1),
    ("touch a 0", 1),
    ("touch no 0", 1),
    ("gat 1000 a", 3),
    ("mg a s v", 2),
    ("mg no v", 1),
    ("mg new v N30", 2),
    ("ms m 2\r\nab", 1),
    ("ms m 2 MA\r\nab", 1),
    ("ms m 2 C1\r\nab", 1),
    ("ms ap 2 MP N1000\r\nab", 1),
    ("ma cnt", 1),
    ("me m", 1),
    ("md m I", 1),
    ("md m", 1),
    ("md m", 1),
    ("delete a", 1),
    ("delete a", 1),
    ("ms YSBi 1 b\r\nq", 1),
    ("mg YSBi b v", 2),
    ("set a,b%#c~ 0 0 1\r\n1", 1),
    ("set quiet 0 0 2 noreply\r\nab", 0),
    ("get end", 1),
];

/// What a watcher of all is told while another client does that.
fn told(address: SocketAddr) -> Vec<String> {
    let mut watcher = watching(address, "fetchers mutations deletions evictions");
    let mut client = Client::tcp(address);
    for (asked, answers) in ASKED {
        client.send(format!("{asked}\r\n").as_bytes());
        (0..*answers).for_each(|_| drop(client.line()));
    }
    lines_upto(&mut watcher, "end")
}

#[test]
fn lines_are_those_of_memcached() {
    let server = Server::start(&["-t", "1", "-m", "64"]);
    let own = told(server.tcp[0]);
    assert!(own.len() > ASKED.len(), "{own:#?}");
    let first = "ts gid type=item_get key=a status=not_found clsid=0 cfd size=0";
    assert_eq!((own[0].as_str(), own[1].as_str()), (first, first), "a get, and what a set looks at");
    assert_eq!(own[2], "ts gid type=item_store key=a status=stored cmd=set ttl=0 clsid=1 cfd size=3");
    if memcached::version().is_none() {
        assert!(std::env::var_os("CI").is_none(), "in CI memcached must be there: {}", memcached::REMEDY);
        println!("skipped: there is no memcached ({})", memcached::REMEDY);
        return;
    }
    let peer = memcached::Memcached::start(&["-m", "64", "-t", "1"]);
    for (at, (own, theirs)) in own.iter().zip(told(peer.address)).enumerate() {
        assert_eq!(*own, theirs, "line {at}");
    }
}

#[test]
fn connections_are_told_of_with_the_reason_of_their_end() {
    let server = Server::start(&["-t", "2", "--idle-timeout", "1"]);
    let mut watcher = watching(server.tcp[0], "connevents");
    let mut leaves = |client: Client, then: &dyn Fn(Client), reason: &str| {
        let id = field(&watcher.line(), "cfd").to_string();
        then(client);
        let line = watcher.line();
        assert_eq!(
            without_numbers(&line),
            format!("ts gid type=conn_close rip=127.0.0.1 rport transport=tcp reason={reason} cfd")
        );
        assert_eq!(field(&line, "cfd"), id);
    };
    let quits = |mut client: Client| client.send(b"quit\r\n");
    leaves(server.connect(), &quits, "normal");
    leaves(server.connect(), &|client| drop(client), "normal");
    leaves(server.connect(), &|mut client| client.send(b"GET / HTTP/1.1\r\n"), "error");
    let waits = |mut client: Client| assert_eq!(client.until_closed(), b"");
    leaves(server.connect(), &waits, "idle_timeout");
}

#[test]
fn whoever_does_it_by_whichever_way_it_is_told() {
    let server = Server::start_listening(&["-l", "127.0.0.1:0", "-p", "-1", "-U", "-1", "-t", "2"], 2);
    let mut watcher = watching(server.tcp[0], "fetchers mutations deletions");
    let mut sender = Peer::of(&server);
    assert_eq!(sender.ask("set by_udp 0 0 1\r\nx\r\n"), "STORED\r\n");
    let mut binary = server.connect();
    let packet = |opcode, extras, value| Packet { opcode, extras, key: b"by_packet", value, ..Packet::default() };
    for asked in
        [packet(0x01, &[0; 8], b"value"), packet(0x00, b"", b""), packet(0x04, b"", b""), packet(0x00, b"", b"")]
    {
        binary.send(&asked.bytes());
        binary.packet();
    }
    let line = |rest: &str| format!("ts gid type={rest}");
    let get = |key: &str, status: &str, class: u32, bytes: u32| {
        line(&format!("item_get key={key} status={status} clsid={class} cfd size={bytes}"))
    };
    let set = |key: &str, bytes: u32| {
        line(&format!("item_store key={key} status=stored cmd=set ttl=0 clsid=1 cfd size={bytes}"))
    };
    let mut lines: Vec<String> = (0..8).map(|_| watcher.line()).collect();
    lines.sort_by_key(|line| field(line, "gid").parse::<u64>().expect("a number"));
    let lines: Vec<String> = lines.iter().map(|line| without_numbers(line)).collect();
    let deleted = line("deleted key=by_packet cmd=delete clsid=1 size=5");
    let expected = [
        get("by_udp", "not_found", 0, 0),
        set("by_udp", 1),
        get("by_packet", "not_found", 0, 0),
        set("by_packet", 5),
        get("by_packet", "found", 1, 5),
        get("by_packet", "found", 1, 5),
        deleted,
        get("by_packet", "not_found", 0, 0),
    ];
    assert_eq!(lines, expected);
    sender.send(b"watch\r\n");
    assert_eq!(sender.answer().0, b"SERVER_ERROR too much for UDP: ask for less at a time, or over TCP\r\n");
}

#[test]
fn refused_stores_are_told_of() {
    let server = Server::start(&["-t", "1", "-I", "4k"]);
    let mut watcher = watching(server.tcp[0], "mutations");
    let mut client = server.connect();
    assert_eq!(client.set("big", &[b'x'; 5000]), "SERVER_ERROR object too large for cache");
    assert_eq!(
        without_numbers(&watcher.line()),
        "ts gid type=item_store key=big status=too_large cmd=set ttl=0 clsid=1 cfd size=0"
    );
}

/// Evictions are told with what was evicted, and nobody else is.
#[test]
fn evictions_are_told_of() {
    let server = Server::start(&["-t", "1", "-m", "8", "--shards", "1", "-o", "worker_logbuf_size=8192"]);
    let mut client = server.connect();
    let mut both = watching(server.tcp[0], "evictions");
    let mut fetchers = watching(server.tcp[0], "fetchers");
    let value = vec![b'v'; 20_000];
    let mut number = 0;
    while server.stat("evictions").as_deref() == Some("0") {
        (0..100).for_each(|_| {
            number += 1;
            assert_eq!(client.set(&format!("key{number}"), &value), "STORED");
        });
        assert!(number < 10_000, "8 MiB are full by then");
    }
    let line = both.line();
    assert!(field(&line, "type") == "eviction" && field(&line, "key").starts_with("key"), "{line}");
    assert_eq!((field(&line, "fetch"), field(&line, "ttl"), field(&line, "size")), ("no", "-1", "20000"), "{line}");
    assert_eq!(field(&fetchers.line(), "type"), "item_get");
}

/// A watcher that takes nothing holds up nobody, costs a bounded amount of memory, and is told how
/// much it has missed.
#[test]
fn a_watcher_that_stands_still_holds_up_nobody() {
    const WRITES: usize = 100_000;
    let server = Server::start(&["-t", "2", "-o", "watcher_logbuf_size=64,worker_logbuf_size=1024"]);
    let mut still = Client::tcp_with_little_room(server.tcp[0]);
    assert_eq!(still.ask("watch mutations"), "OK");
    let before_bytes = server.heap_bytes();
    let mut client = server.connect();
    for first in (0..WRITES).step_by(100) {
        let sets: String = (first..first + 100).map(|number| format!("set key{number} 0 0 1\r\nx\r\n")).collect();
        client.send(sets.as_bytes());
        (0..100).for_each(|_| assert_eq!(client.line(), "STORED"));
    }
    let number = |name: &str| server.stat(name).expect("a row").parse::<u64>().expect("a number");
    wait_until("each entry is written or dropped, each line sent or skipped", || {
        let (written, dropped) = (number("log_worker_written"), number("log_worker_dropped"));
        expect_eq("written and dropped", written + dropped, WRITES as u64)?;
        expect_eq("sent and skipped", number("log_watcher_sent") + number("log_watcher_skipped"), written)
    });
    let items_bytes = server.heap_bytes().saturating_sub(before_bytes);
    assert!(items_bytes < 16 << 20, "{items_bytes} bytes");
    let (sent, skipped) = (number("log_watcher_sent"), number("log_watcher_skipped"));
    // It goes on: once there is room it is told how many lines it was not told, and then the next.
    let (mut lines, mut missed) = (0, 0);
    loop {
        let line = still.line();
        if let Some(skipped) = line.strip_prefix("skipped=") {
            missed += skipped.parse::<u64>().expect("a number");
        } else if field(&line, "key") == "more" {
            break;
        } else {
            assert!(field(&line, "key").starts_with("key"), "{line}");
            lines += 1;
        }
        if lines % 100 == 0 {
            assert_eq!(client.set("more", b"x"), "STORED");
        }
    }
    assert!(skipped > 0 && sent > 0, "{sent} sent, {skipped} skipped");
    assert_eq!(lines, sent, "all that was sent");
    assert!(missed >= skipped, "told of {missed} of {skipped}");
}

#[test]
fn only_so_many_watch_and_their_places_are_free_once_they_end() {
    let mut server = Server::start(&["-t", "2"]);
    let mut watchers: Vec<Client> = (0..20).map(|_| watching(server.tcp[0], "fetchers")).collect();
    let mut late = server.connect();
    assert_eq!(late.ask("watch"), "WATCHER_TOO_MANY log watcher limit reached");
    assert_eq!(server.stat("log_watchers").as_deref(), Some("20"));
    watchers[0].send(b"quit\r\n");
    assert_eq!(watchers[0].until_closed(), b"");
    drop(watchers.split_off(2));
    wait_until("those that have gone watch no more", || {
        expect_eq("log_watchers", server.stat("log_watchers").as_deref(), Some("1"))
    });
    // What a watcher asks for is answered, between its lines.
    let watcher = &mut watchers[1];
    assert_eq!(watcher.ask("get key"), "END");
    assert_eq!(field(&watcher.line(), "key"), "key");
    assert_eq!(watcher.ask("watch deletions"), "OK", "another word, another watch");
    assert_eq!(server.stat("log_watchers").as_deref(), Some("1"));
    assert_eq!(late.ask("watch mutations"), "OK");
    server.signal("TERM");
    assert!(server.wait().success(), "watchers do not keep it");
    assert_eq!((watcher.until_closed(), late.until_closed()), (Vec::new(), Vec::new()));
}

#[test]
fn counters_are_reset_and_sizes_are_shown() {
    let server = Server::start(&["-t", "1", "-o", "watcher_logbuf_size=8,worker_logbuf_size=16"]);
    let mut watcher = watching(server.tcp[0], "fetchers");
    let mut client = server.connect();
    assert_eq!(client.ask("get key"), "END");
    assert_eq!(field(&watcher.line(), "key"), "key");
    let expect = |counted: &str| {
        for (name, expected) in [
            ("log_worker_dropped", "0"),
            ("log_worker_written", counted),
            ("log_watcher_skipped", "0"),
            ("log_watcher_sent", counted),
            ("log_watchers", "1"),
        ] {
            assert_eq!(server.stat(name).as_deref(), Some(expected), "{name}");
        }
    };
    expect("1");
    assert_eq!(client.ask("stats reset"), "RESET");
    expect("0");
    let settings = client.rows("stats settings");
    for row in ["STAT watcher_logbuf_size 8192", "STAT worker_logbuf_size 16384"] {
        assert!(settings.iter().any(|shown| shown == row), "{row} in {settings:?}");
    }
}
