//! Dumps of all items, and what they must not do to others.

use crate::node::{Node, in_sync};
use crate::support::wait::{expect_eq, wait_until};
use crate::support::{Client, Server};
use remora::base::limits::DUMP_IDLE_SECONDS;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Store the items `numbers`, without waiting for an answer to each.
fn fill(client: &mut Client, numbers: std::ops::Range<u32>) {
    let mut request = Vec::new();
    for number in numbers {
        request.extend_from_slice(format!("set key:{number} {number} 0 5 noreply\r\nvalue\r\n").as_bytes());
    }
    client.send(&request);
    assert_eq!(client.ask("mn"), "MN");
}

/// The lines of a dump up to `end`, without the `OK` before them.
fn dump(client: &mut Client, line: &str, end: &str) -> Vec<String> {
    assert_eq!(client.ask(line), "OK", "{line}");
    lines_upto(client, end)
}

fn lines_upto(client: &mut Client, end: &str) -> Vec<String> {
    std::iter::from_fn(|| Some(client.line()).filter(|line| line != end)).take(1_000_000).collect()
}

/// Each item once, whatever the form and the number of shards.
#[test]
fn a_dump_shows_each_item_once() {
    let server = Server::start(&["-t", "2", "--shards", "8"]);
    let mut client = server.connect();
    assert_eq!(dump(&mut client, "lru_crawler metadump all", "END"), Vec::<String>::new(), "nothing is there yet");
    fill(&mut client, 0..20_000);
    client.send(b"set gone 0 -1 1 noreply\r\nx\r\ndelete key:7\r\ndelete key:19999\r\n");
    assert_eq!((client.line(), client.line()), ("DELETED".into(), "DELETED".into()));
    let expected: BTreeSet<String> =
        (0..19_999).filter(|number| *number != 7).map(|number| format!("key:{number}")).collect();
    let check = |what: &str, keys: Vec<String>| {
        assert_eq!(keys.len(), expected.len(), "{what}");
        assert!(keys.into_iter().collect::<BTreeSet<_>>() == expected, "{what}: other keys than are there");
    };
    for classes in ["all", "hash", "1", "2,1"] {
        let lines = dump(&mut client, &format!("lru_crawler metadump {classes}"), "END");
        let key = |line: &String| {
            let (key, rest) = line.strip_prefix("key=").and_then(|rest| rest.split_once(' ')).expect("a key");
            assert!(rest.starts_with("exp=-1 la=") && rest.contains(" fetch=no cls=1 size="), "{line}");
            let number = key.strip_prefix("key%3A").unwrap_or_else(|| panic!("{line}"));
            assert!(rest.ends_with(&format!(" flags={number} ")), "{line}");
            format!("key:{number}")
        };
        check(classes, lines.iter().map(key).collect());
        let lines = dump(&mut client, &format!("lru_crawler mgdump {classes}"), "EN");
        check(classes, lines.iter().map(|line| line.strip_prefix("mg ").expect("a request").to_string()).collect());
    }
    client.send(b"stats cachedump 1 0\r\n");
    let lines = lines_upto(&mut client, "END");
    let key = |line: &String| {
        line.strip_prefix("ITEM ").and_then(|rest| rest.strip_suffix(" [5 b; 0 s]")).expect("an item").to_string()
    };
    check("cachedump", lines.iter().map(key).collect());
    client.send(b"stats cachedump 1 123\r\n");
    assert_eq!(lines_upto(&mut client, "END").len(), 123);
    assert_eq!(server.stat("lru_crawler_starts").as_deref(), Some("11"));
}

#[test]
fn classes_are_judged_as_in_memcached() {
    let server = Server::start(&["-t", "1"]);
    let mut client = server.connect();
    fill(&mut client, 0..10);
    for verb in ["metadump", "mgdump", "m"] {
        for (classes, answer) in [
            ("foo", "BADCLASS invalid class id"),
            ("0", "BADCLASS invalid class id"),
            ("64", "BADCLASS invalid class id"),
            ("1,x", "BADCLASS invalid class id"),
            (",", "NOTSTARTED no items to crawl"),
        ] {
            assert_eq!(client.ask(&format!("lru_crawler {verb} {classes}")), answer, "{verb} {classes}");
        }
        assert_eq!(client.ask(&format!("lru_crawler {verb}")), "ERROR");
        assert_eq!(client.ask(&format!("lru_crawler {verb} all 1")), "ERROR");
    }
    assert_eq!(dump(&mut client, "lru_crawler metadump 2,63", "END"), Vec::<String>::new());
    assert_eq!(client.ask("lru_crawler mgdump all noreply\r\nmn"), "MN");
    for (line, answer) in [
        ("stats cachedump", "CLIENT_ERROR bad command line"),
        ("stats cachedump 1", "CLIENT_ERROR bad command line"),
        ("stats cachedump a 1", "CLIENT_ERROR bad command line format"),
        ("stats cachedump 1 -1", "CLIENT_ERROR bad command line format"),
        ("stats cachedump 64 0", "CLIENT_ERROR Illegal slab id"),
        ("stats cachedump 0 0", "END"),
        ("stats cachedump 63 0", "END"),
    ] {
        assert_eq!(client.ask(line), answer, "{line}");
    }
}

/// A client that takes its dump slowly holds up nobody, and sees each item that was there all the
/// time once, though the index grows meanwhile.
#[test]
fn items_written_meanwhile_neither_hide_nor_double_others() {
    let server = Server::start(&["-t", "1"]);
    let mut writer = server.connect();
    fill(&mut writer, 0..30_000);
    let mut reader = Client::tcp_with_little_room(server.tcp[0]);
    assert_eq!(reader.ask("lru_crawler metadump all"), "OK");
    fill(&mut writer, 30_000..120_000);
    let lines = lines_upto(&mut reader, "END");
    let mut seen = BTreeSet::new();
    for line in &lines {
        let number = line.strip_prefix("key=key%3A").and_then(|rest| rest.split(' ').next()).expect("a key");
        assert!(seen.insert(number.parse::<u32>().expect("a number")), "{line} comes twice");
    }
    assert!((0..30_000).all(|number| seen.contains(&number)), "{} of the items", seen.len());
    assert_eq!(reader.ask("mn"), "MN", "the connection goes on");
}

#[test]
fn there_are_only_so_many_dumps_at_a_time() {
    let server = Server::start(&["-t", "1"]);
    let mut client = server.connect();
    fill(&mut client, 0..30_000);
    let before_bytes = server.heap_bytes();
    let mut begun: Vec<Client> = (0..16).map(|_| Client::tcp_with_little_room(server.tcp[0])).collect();
    for reader in &mut begun {
        assert_eq!(reader.ask("lru_crawler metadump all"), "OK");
    }
    let grown_bytes = server.heap_bytes().saturating_sub(before_bytes);
    assert!(grown_bytes < 16 << 20, "{grown_bytes} bytes for 16 dumps of 3 MiB each, which are full at 256 KiB");
    assert_eq!(server.stat("lru_crawler_running").as_deref(), Some("1"));
    for line in ["lru_crawler metadump all", "lru_crawler mgdump hash", "stats cachedump 1 0"] {
        assert_eq!(client.ask(line), "BUSY currently processing crawler request", "{line}");
    }
    assert_eq!(client.get("key:5").as_deref(), Some(&b"value"[..]));
    assert_eq!(lines_upto(&mut begun[0], "END").len(), 30_000);
    assert_eq!(dump(&mut client, "lru_crawler mgdump all", "EN").len(), 30_000);
}

/// The places of clients that leave in the middle are free at once.
#[test]
fn whoever_leaves_gives_up_its_dump() {
    let server = Server::start(&["-t", "2"]);
    let mut client = server.connect();
    fill(&mut client, 0..30_000);
    for _ in 0..3 {
        let mut begun: Vec<Client> = (0..16).map(|_| Client::tcp_with_little_room(server.tcp[0])).collect();
        begun.iter_mut().for_each(|reader| assert_eq!(reader.ask("lru_crawler metadump all"), "OK"));
        assert_eq!(client.ask("lru_crawler metadump all"), "BUSY currently processing crawler request");
        drop(begun);
        let left = Instant::now();
        wait_until("the dumps of those who left have ended", || {
            expect_eq("lru_crawler_running", server.stat("lru_crawler_running").as_deref(), Some("0"))
        });
        let sooner = Duration::from_secs(u64::from(DUMP_IDLE_SECONDS) / 2);
        assert!(left.elapsed() < sooner, "not before they give way to others for standing still");
    }
}

/// What a replica shows in a dump is what its primary shows there, line for line.
#[test]
fn a_replica_has_the_same_dump() {
    let primary = Node::primary(&["-m", "64", "--shards", "4"]);
    fill(&mut primary.client(), 0..5_000);
    let replica = Node::replica(primary.port(), &[]);
    {
        let mut client = primary.client();
        client.send(b"delete key:17\r\ntouch key:18 5000\r\n");
        assert_eq!((client.line(), client.line()), ("DELETED".into(), "TOUCHED".into()));
    }
    in_sync(&primary, &[&replica]);
    let shown = [&primary, &replica].map(|node| {
        let mut client = node.client();
        let lines = dump(&mut client, "lru_crawler metadump all", "END");
        // Whether and when an item was last used is told to no replica.
        let is_use = |word: &&str| word.starts_with("la=") || word.starts_with("fetch=");
        let without_use = |line: &String| line.split(' ').filter(|word| !is_use(word)).collect::<String>();
        lines.iter().map(without_use).collect::<BTreeSet<_>>()
    });
    assert_eq!(shown[0].len(), 4_999);
    assert!(shown[0] == shown[1], "{:?}", shown[0].symmetric_difference(&shown[1]).take(3).collect::<Vec<_>>());
}
