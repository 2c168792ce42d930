//! Requests that other servers forward to the owner of their shards: the forwarder is this test.

use super::roles_by_shard::{SHARDS, each_way};
use super::shards::keys_by_shard;
use crate::node::{LONG, Node, in_sync, wait_for_row, wait_until};
use crate::support::Client;
use crate::support::forwarder::Forwarder;
use crate::support::packets::{self, Packet};
use remora::protocol::Protocol;
use remora::protocol::forward::Fate;
use remora::replication::forwarding::connect;
use remora::replication::link::{Link, LinkError};
use remora::replication::secret::Secret;
use remora::replication::wire::{Message, Refusal};
use std::net::TcpStream;
use std::time::Instant;

const ONE: [&str; 2] = ["-m", "16"];

/// A time limit that no test lives to see.
const NEVER: &str = "60000";

fn stat(node: &Node, name: &str) -> u64 {
    node.rows_of("stats")[name].parse().expect("a number")
}

/// As lines: CAS numbers follow from where a record stands, so they are left out.
const CONVERSATION: [(&str, &str); 26] = [
    ("get a\r\n", "END\r\n"),
    ("set a 5 0 3\r\none\r\n", "STORED\r\n"),
    ("get a\r\n", "VALUE a 5 3\r\none\r\nEND\r\n"),
    ("gat 100 a\r\n", "VALUE a 5 3\r\none\r\nEND\r\n"),
    ("add a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
    ("replace a 0 0 1\r\nx\r\n", "STORED\r\n"),
    ("append a 0 0 1\r\ny\r\n", "STORED\r\n"),
    ("prepend a 0 0 1\r\nw\r\n", "STORED\r\n"),
    ("cas a 0 0 1 1\r\nz\r\n", "EXISTS\r\n"),
    ("get a\r\n", "VALUE a 0 3\r\nwxy\r\nEND\r\n"),
    ("set a 0 0 1 noreply\r\nq\r\n", ""),
    ("incr a 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
    ("touch a 0\r\n", "TOUCHED\r\n"),
    ("delete a\r\n", "DELETED\r\n"),
    ("delete a\r\n", "NOT_FOUND\r\n"),
    ("ms n 1 T0\r\n7\r\n", "HD\r\n"),
    ("incr n 5\r\n", "12\r\n"),
    ("ma n v\r\n", "VA 2\r\n13\r\n"),
    ("mg n v k Oabc\r\n", "VA 2 kn Oabc\r\n13\r\n"),
    ("mg n q\r\n", "HD\r\n"),
    ("mg nothing q\r\n", ""),
    ("md n q\r\n", ""),
    ("mg n\r\n", "EN\r\n"),
    ("me n\r\n", "EN\r\n"),
    ("set b 0 0 1\r\nb\r\n", "STORED\r\n"),
    ("flush_all\r\n", "OK\r\n"),
];

/// What a client would have been told, to each request; and the same as a direct client is told.
#[test]
fn an_owner_answers_as_it_answers_clients() {
    let owner = Node::primary(&ONE);
    let mut forwarder = Forwarder::connect(owner.port());
    for (request, expected) in CONVERSATION {
        assert_eq!(forwarder.ask(request).done(), expected, "{request:?}");
    }
    assert!(owner.client().get("b").is_none(), "it was flushed");
    let requests: Vec<&str> = CONVERSATION.iter().map(|(request, _)| *request).collect();
    let first = forwarder.send_text(&requests);
    for (number, (request, expected)) in (first..).zip(CONVERSATION) {
        let answer = forwarder.answer();
        assert_eq!((answer.tag, answer.done().as_str()), (number, expected), "{request:?}, of many at once");
    }
    let mut client = owner.server.connect();
    client.send(requests.concat().as_bytes());
    let expected: String = CONVERSATION.iter().map(|(_, answer)| *answer).collect();
    let direct = String::from_utf8(client.exactly(expected.len())).expect("text");
    assert_eq!(direct, expected, "so is a client of its own");
    assert_eq!(stat(&owner, "forwarded_in"), 2 * CONVERSATION.len() as u64);
    assert_eq!((stat(&owner, "forward_links"), stat(&owner, "forwarded_in_not_mine")), (1, 0));
    drop(forwarder);
    wait_until("its place is given back", || match stat(&owner, "forward_links") {
        0 => Ok(()),
        more => Err(more),
    });
}

#[test]
fn packets_are_forwarded_and_values_of_any_length() {
    let owner = Node::primary(&["-m", "64"]);
    let mut forwarder = Forwarder::connect(owner.port());
    let value = vec![b'v'; 900_000];
    let set = Packet { opcode: 0x01, opaque: 7, extras: &[0; 8], key: b"key", value: &value, ..Packet::default() };
    let get = Packet { opcode: 0x00, opaque: 8, key: b"key", ..Packet::default() };
    let quiet_miss = Packet { opcode: 0x09, opaque: 9, key: b"nothing", ..Packet::default() };
    let requests = [set.bytes(), get.bytes(), quiet_miss.bytes()];
    let requests: Vec<&[u8]> = requests.iter().map(|request| &request[..]).collect();
    forwarder.send(Protocol::Binary, 5000, &requests);
    let [set, get, miss] = [(); 3].map(|()| forwarder.answer());
    let parts = |bytes: &[u8]| packets::read(bytes).0;
    assert_eq!((parts(&set.bytes).status, parts(&set.bytes).opaque), (0, 7));
    assert!(parts(&get.bytes).value == value && parts(&get.bytes).opaque == 8);
    assert_eq!((miss.fate, miss.bytes.len()), (Fate::Done, 0), "a quiet miss is silent");
    let expected = [b"VALUE key 0 900000\r\n", &value[..], b"\r\nEND\r\n"].concat();
    assert!(forwarder.ask("get key\r\n").bytes == expected);
}

/// Nothing is done there, reads included, and the answer says who does it. flush_all is about what
/// the owner takes writes of.
#[test]
fn what_is_not_the_owners_is_given_back() {
    let [one, two] = each_way(SHARDS, &[]);
    let keys = keys_by_shard(SHARDS, 1).concat();
    let (of_one, of_two) = keys.split_at(SHARDS / 2);
    let mut forwarder = Forwarder::connect(one.port());
    for key in of_one {
        assert_eq!(forwarder.ask(&format!("set {key} 0 0 1\r\n1\r\n")).done(), "STORED\r\n");
    }
    for key in of_two {
        assert_eq!(two.client().set(key, b"2"), "STORED");
        for request in [format!("set {key} 0 0 1\r\nx\r\n"), format!("get {key}\r\n"), format!("md {key} q\r\n")] {
            let answer = forwarder.ask(&request);
            assert_eq!((answer.fate, answer.text()), (Fate::NotMine, two.server.tcp[0].to_string()), "{request:?}");
        }
    }
    assert_eq!(stat(&one, "forwarded_in_not_mine"), 3 * of_two.len() as u64);
    assert_eq!(forwarder.ask("flush_all\r\n").done(), "OK\r\n");
    assert_eq!(one.client().get(&of_one[0]), None);
    assert_eq!(two.client().get(&of_two[0]).as_deref(), Some(&b"2"[..]), "that is the other one's to flush");
    assert!(one.client().ask("flush_all").starts_with("SERVER_ERROR read-only replica"), "a client is refused");
    let replica = Node::middle(one.port(), 0, &[]);
    let mut forwarder = Forwarder::connect(replica.port());
    assert_eq!(forwarder.ask("flush_all\r\n").fate, Fate::NotMine, "it takes no writes at all");
}

#[test]
fn what_is_not_forwarded_is_refused_and_the_link_goes_on() {
    let owner = Node::primary(&ONE);
    let mut forwarder = Forwarder::connect(owner.port());
    for request in ["get a b\r\n", "stats\r\n", "mn\r\n", "quit\r\n", "cache_memlimit 64\r\n", "nonsense\r\n"] {
        let answer = forwarder.ask(request);
        assert_eq!(answer.fate, Fate::Refused, "{request:?}: {answer:?}");
    }
    assert_eq!(forwarder.ask("get a\r\n").done(), "END\r\n");
    // The forwarder's -I may be larger.
    let large = format!("set a 0 0 {}\r\n{}\r\n", 3 << 20, "x".repeat(3 << 20));
    let tag = forwarder.send_text(&[&large, "get a\r\n"]);
    let refused = forwarder.answer();
    assert_eq!((refused.tag, refused.fate, &*refused.text()), (tag, Fate::Refused, "object too large for cache"));
    let next = forwarder.answer();
    assert_eq!((next.tag, next.done()), (tag + 1, "END\r\n".into()));
}

#[test]
fn what_is_no_frame_ends_the_link_and_nothing_else() {
    let owner = Node::primary(&ONE);
    let mut other = Forwarder::connect(owner.port());
    let frame = |request: &[u8]| {
        let mut bytes = (8 + request.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]);
        [bytes, request.to_vec()].concat()
    };
    let mut flagged = frame(b"get a\r\n");
    flagged[9] = 1;
    for (what, bytes) in [
        ("too long", u32::MAX.to_le_bytes().to_vec()),
        ("too short", 3u32.to_le_bytes().to_vec()),
        ("a flag", flagged),
        ("half a request", frame(b"get a")),
        ("two requests", frame(b"get a\r\nget b\r\n")),
        ("nothing", frame(b"")),
    ] {
        let mut broken = Forwarder::connect(owner.port());
        assert_eq!(broken.ask("get a\r\n").done(), "END\r\n");
        broken.send_bytes(&bytes);
        assert_eq!(broken.next(), None, "{what}");
        assert_eq!(other.ask("get a\r\n").done(), "END\r\n", "{what}");
    }
    let told = std::iter::from_fn(|| owner.server.next_log_line()).find(|line| line.contains("is ended: a frame"));
    assert!(told.is_some());
}

/// Who has not proved itself is told nothing, and says nothing.
#[test]
fn a_stranger_has_no_link() {
    let owner = Node::primary(&ONE);
    let soon = || Instant::now() + LONG;
    let stream = TcpStream::connect(owner.port()).expect("the port takes connections");
    let mut link = Link::connected(stream, soon()).expect("TLS");
    link.send(&Message::Forward, soon()).expect("sent");
    let end = link.receive(soon()).expect_err("it is refused");
    assert!(matches!(&end, LinkError::Refused(Refusal::Protocol, words) if words.contains("Forward")), "{end}");
    assert_eq!(stat(&owner, "forward_links"), 0);
}

/// A primary whose one replica stands still, and a link to it: writes there wait for the replica.
fn waiting(arguments: &[&str]) -> (Node, Node, Forwarder) {
    let all = ["-m", "16", "--ack-replicas", "1", "--replication-timeout", "60"];
    let owner = Node::primary(&[&all[..], arguments].concat());
    let replica = Node::replica(owner.port(), &["--fabric", "tcp", "--replication-timeout", "60"]);
    in_sync(&owner, &[&replica]);
    replica.server.signal("STOP");
    let forwarder = Forwarder::connect(owner.port());
    (owner, replica, forwarder)
}

#[test]
fn an_answer_that_waits_for_replicas_holds_up_no_other() {
    let (owner, replica, mut forwarder) = waiting(&["--ack-timeout", NEVER]);
    let first =
        forwarder.send_text(&["set a 0 0 1\r\n1\r\n", "get a\r\n", "ms b 1 A0\r\n2\r\n", "set c 0 0 1\r\n3\r\n"]);
    assert_eq!((forwarder.answer().tag, forwarder.answer().tag), (first + 1, first + 2));
    wait_for_row(&owner, "acks_pending", |pending| pending == "2");
    replica.server.signal("CONT");
    let mut rest = [forwarder.answer(), forwarder.answer()];
    rest.sort_by_key(|answer| answer.tag);
    let [a, c] = rest;
    assert_eq!((a.tag, c.tag), (first, first + 3));
    assert_eq!((a.done(), c.done()), ("STORED\r\n".into(), "STORED\r\n".into()));
    assert_eq!(owner.text("acks_pending"), "0");
}

/// As many as a connection of a client's may have; the others are begun once some are answered.
#[test]
fn answers_that_wait_for_replicas_have_a_bound() {
    let (owner, replica, mut forwarder) = waiting(&["--ack-timeout", NEVER]);
    let requests: Vec<String> = (0..1500).map(|number| format!("set key-{number} 0 0 1\r\n1\r\n")).collect();
    let first = forwarder.send_text(&requests.iter().map(String::as_str).collect::<Vec<_>>());
    wait_for_row(&owner, "acks_pending", |pending| pending == "1024");
    assert_eq!(owner.client().get("key-1023").as_deref(), Some(&b"1"[..]));
    assert_eq!((stat(&owner, "forwarded_in"), owner.client().get("key-1024")), (1024, None));
    replica.server.signal("CONT");
    let mut tags: Vec<u32> = (0..1500)
        .map(|_| forwarder.answer())
        .map(|answer| {
            assert_eq!(answer.bytes, b"STORED\r\n");
            answer.tag
        })
        .collect();
    tags.sort_unstable();
    assert!(tags.into_iter().eq(first..first + 1500), "each once");
}

/// The forwarder waits for less than the owner would: then it is told what is known.
#[test]
fn a_held_answer_is_given_within_what_the_forwarder_waits_for() {
    let (owner, _replica, mut forwarder) = waiting(&["--ack-timeout", "10000"]);
    forwarder.send(Protocol::Text, 50, &[b"set a 0 0 1\r\n1\r\n", b"set b 0 0 1 noreply\r\n1\r\n"]);
    assert_eq!(forwarder.answer().done(), "", "with noreply nothing is held");
    let told = forwarder.answer().done();
    let waited = told.strip_prefix("SERVER_ERROR not acknowledged: 0 of 1 replicas have it after ");
    let waited: Option<u64> = waited.and_then(|rest| rest.split(' ').next()?.parse().ok());
    assert!(waited.is_some_and(|milliseconds| (50..10_000).contains(&milliseconds)), "{told}");
    assert_eq!(owner.client().get("a").as_deref(), Some(&b"1"[..]), "it is stored there");
}

/// Those that are gone are no longer counted, nor is their memory.
#[test]
fn a_forwarder_that_goes_away_leaves_nothing_behind() {
    let (owner, _replica, mut forwarder) = waiting(&["--ack-timeout", NEVER]);
    let before = stat(&owner, "output_held_bytes");
    let requests: Vec<String> = (0..100).map(|number| format!("set key-{number} 0 0 1\r\n1\r\n")).collect();
    forwarder.send_text(&requests.iter().map(String::as_str).collect::<Vec<_>>());
    wait_for_row(&owner, "acks_pending", |pending| pending == "100");
    assert!(stat(&owner, "output_held_bytes") > before);
    drop(forwarder);
    wait_for_row(&owner, "acks_pending", |pending| pending == "0");
    wait_until("all is given back", || match (stat(&owner, "forward_links"), stat(&owner, "output_held_bytes")) {
        (0, held) if held == before => Ok(()),
        left => Err(format!("{left:?}")),
    });
}

/// What was begun is answered; what was not is refused, and the forwarder may ask somebody else.
#[test]
fn a_server_that_ends_answers_what_it_has_begun() {
    let (mut owner, _replica, mut forwarder) = waiting(&["--ack-timeout", NEVER]);
    let first = forwarder.send_text(&["set a 0 0 1\r\n1\r\n"]);
    wait_for_row(&owner, "acks_pending", |pending| pending == "1");
    owner.server.signal("TERM");
    let answer = forwarder.answer();
    assert_eq!(answer.tag, first);
    assert!(answer.done().starts_with("SERVER_ERROR not acknowledged: 0 of 1"));
    assert_eq!(forwarder.next(), None);
    assert!(owner.server.wait().success());
}

/// A link is one of so many, and places come back.
#[test]
fn links_have_a_bound() {
    let owner = Node::primary(&ONE);
    let mut links: Vec<Forwarder> = (0..256).map(|_| Forwarder::connect(owner.port())).collect();
    let refused = connect(&owner.port().to_string(), &Secret::none()).err();
    let words = refused.expect("one too many").to_string();
    assert!(words.contains("there are 256 links to this server already"), "{words}");
    assert_eq!(links[255].ask("get a\r\n").done(), "END\r\n");
    drop(links.pop());
    wait_until("a place is free", || match stat(&owner, "forward_links") {
        255 => Ok(()),
        more => Err(more),
    });
    assert_eq!(Forwarder::connect(owner.port()).ask("get a\r\n").done(), "END\r\n");
}

/// Nothing more is read of a forwarder that does not take its answers, so they cost little.
#[test]
fn answers_that_are_not_taken_stop_a_link() {
    let owner = Node::primary(&["-m", "64"]);
    let value = vec![b'v'; 500_000];
    assert_eq!(owner.client().set("key", &value), "STORED");
    let mut forwarder = Forwarder::connect(owner.port());
    const GETS: usize = 400;
    forwarder.send_text(&["get key\r\n"; GETS]);
    wait_until("some are answered", || match stat(&owner, "forwarded_in") {
        0 => Err("none"),
        _ => Ok(()),
    });
    let mut client: Client = owner.server.connect();
    assert_eq!(client.get("key").map(|value| value.len()), Some(500_000), "others are served");
    let held = stat(&owner, "output_held_bytes");
    assert!(held < 4 << 20, "{held} bytes of answers are held");
    assert!(stat(&owner, "forwarded_in") < GETS as u64, "all were begun though none was taken");
    for _ in 0..GETS {
        assert!(forwarder.answer().bytes.len() > value.len());
    }
}
