//! What a client is told that says hello: of new maps, and of who has what is another server's. The
//! test writes the maps, so it is known when what is to be told.

use super::scripted::Scripted;
use super::server;
use crate::node::{Node, wait_until};
use crate::support::Client;
use remora::base::hash::shard_hash;
use remora::cluster::map::{Change, Map, Member, Stage, Way};
use remora::cluster::report::Role;

const SHARDS: usize = 8;
/// Of the first server; the others are the second one's.
const FIRST: &str = "0-3";
const SECOND: &str = "4-7";

/// Two servers, which have one half of the shards each, and a replica of the other half.
struct Site {
    locator: Scripted,
    map: Map,
    nodes: Vec<Node>,
}

impl Site {
    fn start(arguments: &[&str]) -> Site {
        let locator = Scripted::start(SHARDS);
        let address = locator.address.to_string();
        let nodes: Vec<Node> = ["a", "b"].iter().map(|name| server(name, &address, SHARDS, arguments)).collect();
        let mut map = locator.born(&["a", "b"]);
        for (number, shard) in map.shards.iter_mut().enumerate() {
            let heir = u16::from(number >= SHARDS / 2);
            shard.change = Some(Change { heir, term: 2, way: Way::Empty, least: 0, gone: 0 });
        }
        locator.say(&mut map);
        for (name, shards) in [("a", FIRST), ("b", SECOND)] {
            locator.wait_for(name, Role::Primary, 2, shards);
        }
        for shard in &mut map.shards {
            let change = shard.change.take().expect("a change");
            (shard.primary, shard.term) = (Some(change.heir), change.term);
            shard.members = vec![Member { server: 1 - change.heir, stage: Stage::Whole }];
        }
        let mut site = Site { locator, map, nodes };
        site.say();
        for (name, shards) in [("b", FIRST), ("a", SECOND)] {
            site.locator.wait_for(name, Role::Current, 2, shards);
        }
        site
    }

    /// Say the map, with another version, and wait until every server knows it.
    fn say(&mut self) {
        let version = self.locator.say(&mut self.map);
        for node in &self.nodes {
            wait_until("it knows the map", || {
                let known = node.rows_of("stats replication")["cluster_map_version"].clone();
                if known == version.to_string() { Ok(()) } else { Err(known) }
            });
        }
    }

    /// The second server dies, and the map says so.
    fn kill_the_second(&mut self) {
        drop(self.nodes.pop());
        self.map.servers[1].incarnation = None;
        self.say();
    }

    /// The first server is the primary of all shards from now on.
    fn fail_over(&mut self) {
        for shard in &mut self.map.shards[SHARDS / 2..] {
            shard.change = Some(Change { heir: 0, term: 3, way: Way::Gather, least: 0, gone: 0 });
        }
        self.say();
        self.locator.wait_for("a", Role::Primary, 3, SECOND);
        for shard in &mut self.map.shards[SHARDS / 2..] {
            shard.change = None;
            (shard.primary, shard.term) = (Some(0), 3);
            shard.members.clear();
        }
        self.say();
    }

    /// A client of the first server that has said this.
    fn greeted(&self, words: &str) -> Client {
        let mut client = self.nodes[0].server.connect();
        let hello = client.ask(&format!("hello {words}"));
        let version = self.map.version;
        assert_eq!(hello, format!("HELLO remora 1 cluster=c0ffee map={version} server=a shards={SHARDS}"));
        client
    }

    /// What is answered for a key of the second server's.
    fn moved(&self, key: &str) -> String {
        let (version, clients) = (self.map.version, &self.map.servers[1].clients);
        format!("MOVED {version} {} 2 b {clients}", shard_of(key))
    }
}

fn shard_of(key: &str) -> usize {
    (shard_hash(key.as_bytes()) >> (64 - SHARDS.ilog2())) as usize
}

/// So many keys of the first server's, or of the second one's.
fn keys(second: bool, count: usize) -> Vec<String> {
    let all = (0..).map(|number| format!("key-{number}"));
    all.filter(|key| (shard_of(key) >= SHARDS / 2) == second).take(count).collect()
}

/// The answers to these requests, up to that to a mn behind them.
fn answers(client: &mut Client, requests: &str) -> Vec<String> {
    client.send(requests.as_bytes());
    client.send(b"mn\r\n");
    std::iter::repeat_with(|| client.line()).take_while(|line| line != "MN").collect()
}

#[test]
fn a_notice_comes_once_before_the_next_answer_to_who_asked() {
    let mut site = Site::start(&[]);
    let (mut asked, mut silent) = (site.greeted("notices moved"), site.greeted("moved"));
    let mut plain = site.nodes[0].server.connect();
    let key = &keys(false, 1)[0];
    assert_eq!(asked.set(key, b"1"), "STORED", "it knows this map");
    site.say();
    site.say();
    let notice = format!("NOTICE map {}", site.map.version);
    let (get, value) = (format!("get {key} none {key}\r\n"), format!("VALUE {key} 0 1"));
    let found = [&value[..], "1", &value, "1", "END"];
    let requests = format!("{get}nonsense\r\n{get}");
    let expected = [&[&notice[..]], &found[..], &["ERROR"], &found].concat();
    assert_eq!(answers(&mut asked, &requests), expected, "of the last map alone, and once");
    for client in [&mut silent, &mut plain] {
        assert_eq!(answers(client, &get), found, "nobody is told who did not ask");
    }
    let map = plain.rows("config get map");
    assert_eq!(map[0], format!("CONFIG map 0 {}", map[1].len() + 1));
    let known = Map::of_text(map[1].as_bytes()).expect("a map");
    assert_eq!((known.version, &known.servers), (site.map.version, &site.map.servers));

    // What is refused, and what has no answer: the notice comes before it all the same.
    site.say();
    let notice = format!("NOTICE map {}", site.map.version);
    assert_eq!(answers(&mut asked, "nonsense\r\n"), [&notice[..], "ERROR"]);
    site.say();
    let notice = format!("NOTICE map {}", site.map.version);
    assert_eq!(answers(&mut asked, &format!("set {key} 0 0 1 noreply\r\n2\r\nmg none q v\r\n")), [notice]);
    // Another hello takes the place of the one before it, and has told of the map itself.
    site.say();
    let hello = format!("HELLO remora 1 cluster=c0ffee map={} server=a shards={SHARDS}", site.map.version);
    let before = format!("NOTICE map {}", site.map.version);
    assert_eq!(answers(&mut asked, "hello notices\r\nmg none v\r\n"), [&before[..], &hello, "EN"]);
    assert_eq!(answers(&mut asked, "hello\r\n"), [hello]);
    site.say();
    assert_eq!(answers(&mut asked, "mg none v\r\n"), ["EN"]);
}

/// More than a client's system takes that reads nothing: the answer is made in several turns.
#[test]
fn a_notice_never_stands_within_an_answer() {
    const TIMES: usize = 40;
    let mut site = Site::start(&[]);
    let key = &keys(false, 1)[0];
    let value = "v".repeat(500_000);
    assert_eq!(site.nodes[0].client().set(key, value.as_bytes()), "STORED");
    let mut client = site.greeted("notices");
    client.send(format!("get{}\r\nmg none v\r\nmn\r\n", format!(" {key}").repeat(TIMES)).as_bytes());
    let head = format!("VALUE {key} 0 {}", value.len());
    assert_eq!(client.line(), head, "it has begun");
    site.say();
    let notice = format!("NOTICE map {}", site.map.version);
    for number in 0..TIMES {
        if number > 0 {
            assert_eq!(client.line(), head, "value {number}");
        }
        assert_eq!(client.line(), value);
    }
    let behind: Vec<String> = (0..4).map(|_| client.line()).collect();
    assert_eq!(behind, ["END", &notice, "EN", "MN"]);
}

#[test]
fn what_has_moved_is_answered_with_who_has_it_and_going_there_works() {
    let site = Site::start(&[]);
    let (here, there) = (keys(false, 3), keys(true, 3));
    let mut client = site.greeted("moved");
    let (mine, theirs) = (&here[0], &there[0]);
    assert_eq!(client.set(mine, b"1"), "STORED");
    let moved = site.moved(theirs);
    for request in [
        format!("set {theirs} 0 0 1\r\n1\r\n"),
        format!("set {theirs} 0 0 1 noreply\r\n1\r\n"),
        format!("get {theirs}\r\n"),
        format!("gat 10 {theirs}\r\n"),
        format!("mg {theirs} v\r\n"),
        format!("mg {theirs} v q\r\n"),
        format!("ms {theirs} 1 q A1\r\n1\r\n"),
        format!("incr {theirs} 1\r\n"),
        format!("touch {theirs} 1 noreply\r\n"),
        format!("delete {theirs}\r\n"),
    ] {
        assert_eq!(answers(&mut client, &request), [&moved[..]], "{request:?}");
    }
    assert_eq!(answers(&mut client, &format!("md {theirs} q k Oab\r\n")), [format!("{moved} k{theirs} Oab")]);
    let address = moved.rsplit(' ').next().expect("an address").parse().expect("an address");
    let mut other = Client::tcp(address);
    assert_eq!(other.get(theirs), None, "nothing was done");
    let hello = other.ask("hello moved");
    assert!(hello.contains(" server=b "), "{hello}");
    assert_eq!(other.set(theirs, b"1"), "STORED");

    // Of several keys each of that server's has its line, in its place; END ends as ever.
    let value = |key: &str| [format!("VALUE {key} 0 1"), "1".into()];
    let elsewhere = |key: &str| vec![format!("{} {key}", site.moved(key))];
    let request = format!("get {theirs} {mine} none-{mine} {} {mine} {theirs}\r\n", there[1]);
    let lines = [elsewhere(theirs), value(mine).to_vec(), missing(&site, mine), elsewhere(&there[1])];
    let expected = [&lines.concat()[..], &value(mine), &elsewhere(theirs), &["END".to_string()]].concat();
    assert_eq!(answers(&mut client, &request), expected);
    let gat = request.replacen("get", "gat 100", 1);
    assert_eq!(answers(&mut client, &gat), expected, "held for replicas, as writes are here");
    // So long that it comes in parts.
    const TIMES: usize = 2000;
    let repeated = format!(" {theirs} {mine}").repeat(TIMES);
    let lines = answers(&mut client, &format!("get{repeated}\r\nmg {mine} v\r\n"));
    let one = [elsewhere(theirs), value(mine).to_vec()].concat();
    let mut expected: Vec<String> = (0..TIMES).flat_map(|_| one.clone()).collect();
    expected.extend(["END", "VA 1", "1"].map(String::from));
    assert!(lines == expected, "{} lines instead of {}", lines.len(), expected.len());
    assert_eq!(site.nodes[0].rows_of("stats")["forwarded"], "0", "nothing was forwarded");
    assert_eq!(
        answers(&mut client, &format!("hello\r\nget {theirs}\r\n"))[1..],
        [&value(theirs)[..], &["END".into()]].concat()
    );
}

/// What is told of a key that nobody has stored and that begins with `none-`.
fn missing(site: &Site, mine: &str) -> Vec<String> {
    let key = format!("none-{mine}");
    if shard_of(&key) < SHARDS / 2 { Vec::new() } else { vec![format!("{} {key}", site.moved(&key))] }
}

/// While the map names nobody who is alive a request waits. What is done then is done once, in
/// order, by the heir.
#[test]
fn what_was_sent_between_two_primaries_is_done_once_and_in_order() {
    const REQUESTS: usize = 200;
    let mut site = Site::start(&["--ack-replicas", "0"]);
    let mut client = site.greeted("notices moved");
    let key = &keys(true, 1)[0];
    assert_eq!(Client::tcp(site.map.servers[1].clients.parse().expect("an address")).set(key, b"1000"), "STORED");
    let moved = site.moved(key);
    assert_eq!(client.ask(&format!("incr {key} 1")), moved);
    site.kill_the_second();
    let dead = format!("NOTICE map {}", site.map.version);
    client.send(format!("incr {key} 1\r\n").repeat(REQUESTS).as_bytes());
    assert_eq!(client.line(), dead, "it has begun, and waits");
    site.fail_over();
    let (mut counted, mut refused) = (Vec::new(), 0);
    for _ in 0..REQUESTS {
        let line = loop {
            let line = client.line();
            if !line.starts_with("NOTICE map ") {
                break line;
            }
        };
        match line.parse::<usize>() {
            Ok(number) => counted.push(number),
            Err(_) => {
                assert!(line.starts_with("SERVER_ERROR no primary of shard ") && line.ends_with("; nothing was done"));
                refused += 1;
            }
        }
    }
    let expected: Vec<usize> = (1001..=1000 + REQUESTS - refused).collect();
    assert_eq!(counted, expected, "{refused} were refused");
}

/// Where no other map comes, one request waits as long as it may, and those behind it are refused
/// at once: otherwise they would wait one after the other.
#[test]
fn who_waits_in_vain_waits_once() {
    const REQUESTS: usize = 5;
    let mut site = Site::start(&["--ack-replicas", "0"]);
    let mut client = site.greeted("moved");
    let theirs = keys(true, REQUESTS);
    site.kill_the_second();
    let requests: String = theirs.iter().map(|key| format!("get {key}\r\n")).collect();
    for line in answers(&mut client, &requests) {
        assert!(
            line.starts_with("SERVER_ERROR no primary of shard ") && line.ends_with("; nothing was done"),
            "{line}"
        );
    }
    let (mine, several) = (&keys(false, 1)[0], theirs.join(" "));
    let lines = answers(&mut client, &format!("get {mine} {several}\r\nmg {mine} v\r\n"));
    assert_eq!((lines.len(), &lines[1][..]), (2, "EN"), "a get ends with the error: {lines:?}");
    assert_eq!(site.nodes[0].rows_of("stats")["forward_waits"], "1", "requests that waited");
    site.fail_over();
    assert_eq!(client.set(&theirs[0], b"1"), "STORED");
}

/// The conversation of the page for people who write clients, as it is shown there.
#[test]
fn the_page_shows_what_is_said() {
    const PAGE: &str = include_str!("../../../docs/CLIENTS.md");
    let (_, behind) = PAGE.split_once("### A worked transcript\n").expect("its heading");
    let (shown, _) = behind.split_once("\n## ").expect("the next one");
    let mut site = Site::start(&["--ack-replicas", "0"]);
    let mut client = site.nodes[0].server.connect();
    let first = site.map.version;
    let (mut asked, mut checked, mut is_dead) = (String::new(), 0, false);
    for line in shown.lines() {
        if line.starts_with("`b` dies") {
            site.kill_the_second();
            site.fail_over();
            is_dead = true;
        } else if let Some(request) = line.strip_prefix("    > ") {
            asked += &format!("{request}\r\n");
        } else if let Some(answer) = line.strip_prefix("    < ") {
            client.send(std::mem::take(&mut asked).as_bytes());
            assert_eq!(client.line(), as_here(answer, first, &site.map.servers[1].clients), "{line}");
            checked += 1;
        }
    }
    assert!(is_dead && asked.is_empty() && checked > 15, "{checked} lines were checked");
}

/// What stands on the page, with this site's address of the second server and version of the first
/// map, which is 12 there.
fn as_here(line: &str, first: u64, second: &str) -> String {
    let version = |number: &str| (number.parse::<u64>().expect("a version") - 12 + first).to_string();
    let line = line.replace("10.0.0.2:11211", second);
    let mut words: Vec<String> = line.split(' ').map(String::from).collect();
    match &words[0][..] {
        "MOVED" => words[1] = version(&words[1]),
        "NOTICE" => words[2] = version(&words[2]),
        "HELLO" => words[4] = format!("map={}", version(words[4].strip_prefix("map=").expect("a version"))),
        _ => {}
    }
    words.join(" ")
}
