//! A locator under crowds: of strangers, of observers, and of servers and shards.

use super::life::{Locator, folder, operator};
use crate::node::wait_until;
use crate::support::wait::LONG;
use remora::cluster::client::{self, Question};
use remora::cluster::decide::Status;
use remora::cluster::map::{Change, Map, Member, Policy, Server, Shard, Stage, Wanted, Way};
use remora::cluster::observer::{Heard, watch};
use remora::cluster::store::{Embedded, MapStore};
use remora::cluster::wire::Message;
use remora::replication::attach::meet;
use remora::replication::link::Link;
use remora::replication::secret::Secret;
use remora::replication::wire::CLUSTER_BYTES_MAX;
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// More than a locator has places for connections that have proved nothing.
const CROWD: usize = remora::cluster::locator::peer::STRANGERS_MAX + 100;
const OBSERVERS: usize = 100;

fn soon() -> Instant {
    Instant::now() + LONG
}

fn connected(locator: &Locator) -> Link {
    meet(&locator.address, &Secret::none(), soon()).expect("the locator is there").0
}

/// An observer's question; the version of the map that it was told before the answer, if any.
fn asked(link: &mut Link) -> Option<u64> {
    Message::Watch.send(link, soon()).expect("it goes out");
    let mut told = None;
    loop {
        match Message::receive(link, soon()).expect("it is answered") {
            Message::Map(text) => told = Some(Map::of_text(text.as_bytes()).expect("a map").version),
            Message::Current(_) => return told,
            other => panic!("an observer is told {other:?}"),
        }
    }
}

fn born(locator: &Locator) {
    operator(locator, &["init", "--shards", "8", "--empty"]).expect("it is born");
}

/// The map changes each time.
fn change(locator: &Locator, replicas: u8) {
    let policy = Policy { replicas, ..Policy::default() };
    let command = remora::cluster::decide::Command::Policy(policy);
    let asking = std::slice::from_ref(&locator.address);
    client::ask(asking, &Secret::none(), &Question::Change { command, dry_run: false }, soon()).expect("it is done");
}

/// They make room for one another. Whoever has proved itself stays, and comes in.
#[test]
fn a_crowd_of_strangers_keeps_nobody_out_and_ends_nobody_who_is_known() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    born(&locator);
    let mut known = connected(&locator);
    asked(&mut known);
    let crowd: Vec<TcpStream> = (0..CROWD).map(|_| TcpStream::connect(&locator.address).expect("it listens")).collect();
    asked(&mut known);
    asked(&mut connected(&locator));
    drop(crowd);
}

/// Each is told each map, and while there is nothing to tell their threads sleep.
#[test]
fn observers_are_told_every_map_and_cost_nothing_while_there_is_none() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    born(&locator);
    let mut observers: Vec<Link> = (0..OBSERVERS).map(|_| connected(&locator)).collect();
    let versions: Vec<Option<u64>> = observers.iter_mut().map(asked).collect();
    assert!(versions.iter().all(|version| *version == versions[0] && version.is_some()), "{versions:?}");

    let woken = switches(&locator);
    std::thread::sleep(Duration::from_secs(1));
    let woken = switches(&locator) - woken;
    assert!(woken < 10 * OBSERVERS as u64, "{OBSERVERS} idle connections have woken {woken} times in a second");

    for round in 0..3 {
        change(&locator, 2 + round % 2);
        for observer in &mut observers {
            let told = Message::receive(observer, soon()).expect("it is told");
            assert!(matches!(told, Message::Map(_)), "{told:?}");
        }
    }
}

/// How often the threads of connections have given up their processor so far.
fn switches(locator: &Locator) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", locator.child.id())).expect("our child");
    let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
    let count = |status: String| {
        let row =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_string()));
        let is_peer = row("Name:").is_some_and(|name| name == "locator-peer");
        row("voluntary_ctxt_switches:").filter(|_| is_peer).map_or(0, |count| count.parse().expect("a number"))
    };
    tasks.map_while(Result::ok).map(status).map(count).sum()
}

/// A map that takes nearly as much as one may. As a text within a text it would be longer than any
/// message.
fn large() -> Map {
    let mut map = Map::born("0123456789abcdef0123456789abcdef".into(), 1024, Policy::default());
    let server = |id: u16| Server {
        id,
        name: format!("cache-server-{id}.rack-17.example.org"),
        incarnation: Some(format!("{id:032x}")),
        missing: None,
        clients: format!("cache-server-{id}.rack-17.example.org:11211"),
        replication: format!("cache-server-{id}.rack-17.example.org:11212"),
        host: format!("{id:032x}"),
        zone: "\"zone 17\" ".repeat(160),
        memory_mib: 1 << 20,
        wanted: Wanted::Serving,
    };
    map.servers = (1..=300).map(server).collect();
    map.next_server = 301;
    for (number, shard) in map.shards.iter_mut().enumerate() {
        let id = |at: usize| ((number + at) % 300 + 1) as u16;
        *shard = Shard {
            primary: Some(id(0)),
            term: 1 << 20,
            reserved: (1 << 20) + 1,
            ended: false,
            members: [1, 2, 3].map(|at| Member { server: id(at), stage: Stage::Whole }).to_vec(),
            change: Some(Change { heir: id(1), term: (1 << 20) + 1, way: Way::HandOver, least: 1, gone: 0 }),
            target: [1, 0, 2, 3].map(id).to_vec(),
            unclean_term: 0,
        };
    }
    map
}

/// What is stored can be told: to observers, and to operators.
#[test]
fn the_map_of_a_large_cluster_is_told_whole() {
    let (_folder, store) = folder();
    let map = large();
    let mut kept = Embedded::open(Path::new(&store)).expect("a folder");
    kept.lead("before").expect("in charge");
    kept.swap(None, map.to_text().as_bytes()).expect("it is kept");
    drop(kept);

    let locator = Locator::start("127.0.0.1:0", &store);
    let asking = [locator.address.clone()];
    let ask = |question: &Question| client::ask(&asking, &Secret::none(), question, soon());
    let told = ask(&Question::Map).expect("a map");
    let escaped = serde_json::to_string(&told).expect("a text").len();
    assert!(escaped > CLUSTER_BYTES_MAX, "{escaped} bytes, {} as it is", told.len());
    assert_eq!(Map::of_text(told.as_bytes()).expect("a map").servers, map.servers);
    let status: Status = serde_json::from_str(&ask(&Question::Status).expect("a status")).expect("a status");
    assert_eq!((status.servers.len(), status.shards.all), (300, 1024));

    let mut seen = None;
    watch(&asking, &Secret::none(), &mut |heard| match heard {
        Heard::Map(map) => {
            seen = Some((map.servers.len(), map.shards.len()));
            ControlFlow::Break(())
        }
        Heard::Current => ControlFlow::Continue(()),
        Heard::Lost(lost) => panic!("{lost}"),
    });
    assert_eq!(seen, Some((300, 1024)));
}

#[test]
fn an_operator_watches_the_map() {
    let (_folder, store) = folder();
    let mut locator = Locator::start("127.0.0.1:0", &store);
    born(&locator);
    let one = operator(&locator, &["watch", "--count", "1"]).expect("a line");
    assert!(one.starts_with("map ") && one.contains("shards 8, without a primary 8"), "{one}");
    let two = std::thread::scope(|scope| {
        let watching = scope.spawn(|| operator(&locator, &["watch", "--count", "2", "--json"]));
        let mut replicas = 1;
        wait_until("it has seen two", || {
            replicas = 3 - replicas;
            change(&locator, replicas);
            if watching.is_finished() { Ok(()) } else { Err("it waits") }
        });
        watching.join().expect("a thread").expect("two lines")
    });
    let maps: Vec<Map> = two.lines().map(|line| Map::of_text(line.as_bytes()).expect("a map")).collect();
    assert!(maps.len() == 2 && maps[0].version < maps[1].version, "{two}");
    locator.child.kill().expect("our child");
    let nobody = operator(&locator, &["watch", "--wait", "1"]).unwrap_err();
    assert!(nobody.contains("no locator tells the map"), "{nobody}");
}
