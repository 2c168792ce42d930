//! The life of a cluster, with a locator that decides: born, failed over, grown, drained; and
//! locators that come and go. Writers go on all the while, at whoever has each shard.

use super::etcd::Etcd;
use super::server;
use crate::node::{Node, wait_until};
use crate::support::Client;
use crate::support::wait::Ends;
use remora::cluster::client::{self, Question};
use remora::cluster::decide::{Command as Order, ServerStatus, Status};
use remora::cluster::map::{Map, Policy};
use remora::replication::secret::Secret;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub(super) const SHARDS: usize = 8;
const LEASE_MILLISECONDS: u64 = 1000;
const WRITERS: usize = 2;
const KEYS: usize = 400;
/// Acknowledged writes before and after something happens.
const ENOUGH: u64 = 300;

/// A running `remora locator`.
pub(super) struct Locator {
    pub(super) child: Child,
    pub(super) address: String,
}

impl Locator {
    pub(super) fn start(listen: &str, store: &str) -> Locator {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.args(["locator", "-v", "--listen", listen, "--store", store]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the remora binary starts");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let mut said = Vec::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("the locator did not come up: {said:?}")).expect("text");
            if let Some(address) = line.strip_prefix("remora: locator on tcp ") {
                break address.to_string();
            }
            said.push(line);
        };
        // Its log is part of what a failed test shows.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| println!("locator: {line}")));
        Locator { child, address }
    }

    /// STOP or CONT, for example.
    pub(super) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill(1) runs").success());
    }

    pub(super) fn terminate(&mut self) {
        self.signal("TERM");
        wait_until("the locator ends", || self.child.try_wait().expect("our own child").ok_or("it runs"));
    }
}

impl Drop for Locator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cluster of so many servers, and an operator.
pub(super) struct Site {
    locators: Vec<String>,
    pub(super) nodes: BTreeMap<String, Node>,
}

impl Site {
    /// Nobody yet.
    pub(super) fn of(locators: &[&Locator]) -> Site {
        Site { locators: locators.iter().map(|one| one.address.clone()).collect(), nodes: BTreeMap::new() }
    }

    pub(super) fn born(locators: &[&Locator], names: &[&str]) -> Site {
        Site::born_with(locators, names, Policy::default())
    }

    /// With this policy, but for the times.
    pub(super) fn born_with(locators: &[&Locator], names: &[&str], policy: Policy) -> Site {
        let mut site = Site::of(locators);
        names.iter().for_each(|name| site.start(name));
        let policy = Policy { lease_ms: LEASE_MILLISECONDS, heal_delay_ms: 500, ..policy };
        site.ask(&Question::Init { shards: SHARDS, policy }).expect("it is born");
        wait_until("all have found the locator", || {
            let found = site.status().servers.len();
            if found == names.len() { Ok(()) } else { Err(format!("{found} have")) }
        });
        site.order(Order::Add { server: None });
        site.settle(names.len());
        site
    }

    pub(super) fn start(&mut self, name: &str) {
        self.nodes.insert(name.into(), server(name, &self.locators.join(","), SHARDS, &[]));
    }

    pub(super) fn ask(&self, question: &Question) -> Result<String, String> {
        let until = Instant::now() + Duration::from_secs(20);
        client::ask(&self.locators, &Secret::none(), question, until).map_err(|error| error.to_string())
    }

    pub(super) fn order(&self, command: Order) -> String {
        self.ask(&Question::Change { command, dry_run: false }).expect("it is done")
    }

    pub(super) fn status(&self) -> Status {
        serde_json::from_str(&self.ask(&Question::Status).expect("a status")).expect("a status")
    }

    pub(super) fn map(&self) -> Map {
        Map::of_text(self.ask(&Question::Map).expect("a map").as_bytes()).expect("a map")
    }

    /// Whether a server of that name has found the locator.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.status().servers.iter().any(|one| one.name == name)
    }

    pub(super) fn server(&self, name: &str) -> ServerStatus {
        let servers = self.status().servers;
        servers.into_iter().find(|one| one.name == name).unwrap_or_else(|| panic!("{name} is not known"))
    }

    /// Wait until every shard is where it is to be, at so many servers.
    pub(super) fn settle(&self, servers: usize) {
        wait_until("the cluster settles", || {
            let status = self.status();
            let holding = status.servers.iter().filter(|one| one.alive && one.primary + one.replica > 0).count();
            if status.shards.are_settled() && holding == servers {
                return Ok(());
            }
            let events = self.ask(&Question::Events).unwrap_or_default();
            let late = events.chars().rev().take(4000).collect::<Vec<_>>().into_iter().rev().collect::<String>();
            Err(format!("{status:?}; of late: {late}"))
        });
    }
}

/// Writers, each with keys of its own, at whoever the map or a refusal names. What was acknowledged
/// is remembered: it is there in the end, or something later is.
pub(super) struct Writers {
    acknowledged: AtomicU64,
    stop: AtomicBool,
    /// Where the map says that servers are.
    addresses: Mutex<Vec<SocketAddr>>,
}

impl Writers {
    fn new(site: &Site) -> Writers {
        let writers =
            Writers { acknowledged: AtomicU64::new(0), stop: AtomicBool::new(false), addresses: Mutex::default() };
        writers.know(site);
        writers
    }

    pub(super) fn know(&self, site: &Site) {
        *self.addresses.lock().expect("no writer panics with it") =
            site.nodes.values().map(|node| node.server.tcp[0]).collect();
    }

    /// Wait for so many more acknowledged writes.
    pub(super) fn go_on(&self) {
        let before = self.acknowledged.load(Relaxed);
        wait_until("writes are acknowledged", || {
            let more = self.acknowledged.load(Relaxed) - before;
            if more >= ENOUGH { Ok(()) } else { Err(format!("{more} so far")) }
        });
    }

    /// Write until it is to stop; of each key the last value that was acknowledged, and the last
    /// that was sent.
    fn write(&self, writer: usize) -> BTreeMap<String, (u64, u64)> {
        let mut written: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut connections: BTreeMap<SocketAddr, Connection> = BTreeMap::new();
        let mut guess: BTreeMap<String, SocketAddr> = BTreeMap::new();
        for value in 1.. {
            if self.stop.load(Relaxed) {
                break;
            }
            let key = format!("w{writer}-{}", value % KEYS as u64);
            written.entry(key.clone()).or_default().1 = value;
            while !self.stop.load(Relaxed) {
                let addresses = self.addresses.lock().expect("no writer panics with it").clone();
                let known = guess.get(&key).copied().filter(|address| addresses.contains(address));
                let address = known.unwrap_or(addresses[fastrand::usize(..addresses.len())]);
                let answer =
                    ask(&mut connections, address, &format!("set {key} 0 0 {}\r\n{value}", value.to_string().len()));
                match answer.as_deref() {
                    Some("STORED") => {
                        written.entry(key.clone()).or_default().0 = value;
                        guess.insert(key, address);
                        self.acknowledged.fetch_add(1, Relaxed);
                        break;
                    }
                    Some(refusal) => {
                        let named = refusal.split_ascii_whitespace().find_map(|word| {
                            word.trim_matches(|c: char| !c.is_ascii_digit()).parse::<SocketAddr>().ok()
                        });
                        match named {
                            Some(named) => drop(guess.insert(key.clone(), named)),
                            None => drop(guess.remove(&key)),
                        }
                    }
                    None => drop(guess.remove(&key)),
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        written
    }
}

type Connection = BufReader<TcpStream>;

/// None: nobody answers there.
fn ask(connections: &mut BTreeMap<SocketAddr, Connection>, address: SocketAddr, line: &str) -> Option<String> {
    use std::io::Write;
    let connect = || {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(15))).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(BufReader::new(stream))
    };
    let mut connection = connections.remove(&address).or_else(connect)?;
    connection.get_mut().write_all(format!("{line}\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    connection.read_line(&mut answer).ok().filter(|bytes| *bytes > 0)?;
    connections.insert(address, connection);
    Some(answer.trim_end().to_string())
}

/// Let something happen under writes; afterwards nothing that was acknowledged is lost.
pub(super) fn under_writes(site: &mut Site, happen: impl FnOnce(&mut Site, &Writers)) {
    let writers = Writers::new(site);
    let written = std::thread::scope(|scope| {
        let _ends = Ends(&writers.stop);
        let writing: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn({
                    let writers = &writers;
                    move || writers.write(writer)
                })
            })
            .collect();
        writers.go_on();
        happen(site, &writers);
        writers.go_on();
        writers.stop.store(true, Relaxed);
        writing.into_iter().map(|one| one.join().expect("a writer")).collect::<Vec<_>>()
    });
    let map = site.map();
    let mut clients: BTreeMap<String, Client> =
        site.nodes.iter().map(|(name, node)| (name.clone(), node.server.connect())).collect();
    let mut checked = 0;
    for (key, (acknowledged, sent)) in written.into_iter().flatten().filter(|(_, (acknowledged, _))| *acknowledged > 0)
    {
        let shard = shard_of(&key, SHARDS);
        let primary = map.shards[shard].primary.expect("a primary");
        let name = &map.server(primary).expect("a server").name;
        let found = clients.get_mut(name).unwrap_or_else(|| panic!("{name} runs")).get(&key);
        let value: Option<u64> = found.and_then(|value| String::from_utf8(value).ok()?.parse().ok());
        assert!(
            value.is_some_and(|value| (acknowledged..=sent).contains(&value)),
            "{key} of shard {shard} at {name}: {value:?}, but {acknowledged} was acknowledged (and {sent} sent)"
        );
        checked += 1;
    }
    assert!(checked > 0);
}

pub(super) fn shard_of(key: &str, shards: usize) -> usize {
    ((u128::from(remora::base::hash::shard_hash(key.as_bytes())) * shards as u128) >> 64) as usize
}

pub(super) fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path().join("store").to_str().expect("UTF-8").to_string();
    (folder, store)
}

#[test]
fn a_server_that_is_killed_is_failed_over_and_comes_back_as_a_replica() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let mut site = Site::born(&[&locator], &["a", "b", "c"]);
    under_writes(&mut site, |site, writers| {
        drop(site.nodes.remove("b"));
        writers.know(site);
        wait_until("its shards have another primary", || {
            let shards = site.status().shards;
            if shards.without_primary == 0 && !site.server("b").alive { Ok(()) } else { Err(format!("{shards:?}")) }
        });
        writers.go_on();
        site.start("b");
        writers.know(site);
        site.settle(3);
    });
    assert!(site.server("b").alive);
}

#[test]
fn a_server_that_is_added_gets_its_part_and_one_that_is_drained_gives_it_all() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let mut site = Site::born(&[&locator], &["a", "b"]);
    under_writes(&mut site, |site, writers| {
        site.start("c");
        writers.know(site);
        wait_until("it has found the locator", || site.knows("c").then_some(()).ok_or("not yet"));
        site.order(Order::Add { server: Some("c".into()) });
        site.settle(3);
        assert!(site.server("c").primary > 0, "{:?}", site.status());
        writers.go_on();
        site.order(Order::Drain { server: "a".into() });
        site.settle(2);
        let drained = site.server("a");
        assert_eq!((drained.primary, drained.replica), (0, 0));
        drop(site.nodes.remove("a"));
        writers.know(site);
    });
    site.order(Order::Remove { server: "a".into() });
    wait_until("it is forgotten", || if site.knows("a") { Err("it is known") } else { Ok(()) });
}

/// Another process takes the locator's place, in order or after a kill; servers go on without it.
#[test]
fn a_locator_that_ends_is_replaced_and_nothing_is_lost() {
    let (_folder, store) = folder();
    let mut locator = Locator::start("127.0.0.1:0", &store);
    let address = locator.address.clone();
    let mut site = Site::born(&[&locator], &["a", "b", "c"]);
    let before = site.status();
    under_writes(&mut site, |site, writers| {
        locator.terminate();
        writers.go_on();
        drop(site.nodes.remove("a"));
        writers.know(site);
        locator = Locator::start(&address, &store);
        wait_until("the one that died meanwhile is failed over", || {
            let status = site.status();
            if status.shards.without_primary == 0 && !site.server("a").alive {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        });
        writers.go_on();
        drop(std::mem::replace(&mut locator, Locator::start("127.0.0.1:0", &format!("{store}-other"))));
        locator = Locator::start(&address, &store);
        site.settle(2);
    });
    let after = site.status();
    assert_eq!(after.cluster, before.cluster);
    assert!(after.version > before.version && after.generation > before.generation, "{before:?} {after:?}");
}

/// Two locators over one etcd: the one in charge is killed, and the other one goes on, with a
/// higher generation.
#[test]
fn of_two_locators_the_other_one_takes_charge() {
    let Some(etcd) = Etcd::start() else { return };
    let store = format!("etcd://{}", etcd.address);
    let (one, other) = (Locator::start("127.0.0.1:0", &store), Locator::start("127.0.0.1:0", &store));
    let mut site = Site::born(&[&one, &other], &["a", "b", "c"]);
    let mut locators = [Some(one), Some(other)];
    let before = site.status();
    under_writes(&mut site, |site, writers| {
        let in_charge = |locator: &Locator| {
            let asked =
                client::ask(std::slice::from_ref(&locator.address), &Secret::none(), &Question::Status, Instant::now());
            asked.is_ok()
        };
        let at = locators.iter().position(|one| one.as_ref().is_some_and(in_charge)).expect("one is in charge");
        drop(locators[at].take());
        drop(site.nodes.remove("a"));
        writers.know(site);
        wait_until("the other one fails over who has died", || {
            let status = site.ask(&Question::Status)?;
            let status: Status = serde_json::from_str(&status).map_err(|error| error.to_string())?;
            let is_dead = status.servers.iter().any(|one| one.name == "a" && !one.alive);
            if status.shards.without_primary == 0 && is_dead { Ok(()) } else { Err(format!("{status:?}")) }
        });
    });
    let after = site.status();
    assert_eq!(after.cluster, before.cluster);
    assert!(after.version > before.version && after.generation > before.generation, "{before:?} {after:?}");
}

/// `remora ctl cluster`; what it prints, on standard output or, where it fails, on standard error.
pub(super) fn operator(locator: &Locator, words: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.args(["ctl", "cluster", "--locators", &locator.address, "--wait", "20"]).args(words);
    let output = command.stdin(Stdio::null()).output().expect("the remora binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn operators_are_answered_in_words_and_in_json() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    assert!(operator(&locator, &["status"]).unwrap_err().contains("remora ctl cluster init"));
    assert!(operator(&locator, &["init", "--shards", "7"]).unwrap_err().contains("power of two"));
    let wrong = operator(&locator, &["init", "--replicas", "1", "--acks", "2"]).unwrap_err();
    assert!(wrong.contains("acknowledge"), "{wrong}");
    let weak = operator(&locator, &["init", "--acks", "0", "--consistency", "strong"]).unwrap_err();
    assert!(weak.contains("strong mode"), "{weak}");
    let born = operator(&locator, &["init", "--shards", "8", "--empty"]).expect("it is born");
    assert!(born.contains("8 shards"), "{born}");
    assert!(operator(&locator, &["init", "--shards", "8"]).unwrap_err().contains("already"));

    let server = server("one", &locator.address, SHARDS, &["--zone", "rack"]);
    wait_until("it has found the locator", || {
        let text = operator(&locator, &["status"])?;
        let row = text.lines().find(|line| line.starts_with("one ")).map(str::to_string).ok_or_else(|| text.clone())?;
        let address = server.server.tcp[0].to_string();
        assert!(row.contains("rack") && row.contains(&address) && row.contains("waits to be added"), "{text}");
        Ok::<_, String>(())
    });
    let dry = operator(&locator, &["add", "one", "--dry-run"]).expect("it would be done");
    assert!(dry.contains("one"), "{dry}");
    let status = operator(&locator, &["status", "--json"]).expect("a status");
    let status: Status = serde_json::from_str(&status).expect("JSON");
    assert_eq!((status.servers[0].wanted, status.shards.without_primary), (None, SHARDS), "nothing was done");
    operator(&locator, &["add", "one"]).expect("it is done");
    wait_until("it has all shards", || {
        let status = operator(&locator, &["status", "--json"])?;
        let status: Status = serde_json::from_str(&status).map_err(|error| error.to_string())?;
        if status.shards.without_primary == 0 { Ok(()) } else { Err(format!("{status:?}")) }
    });
    let events = operator(&locator, &["events"]).expect("events");
    assert!(events.contains("shards 0-7: "), "{events}");
    assert!(operator(&locator, &["drain", "two"]).unwrap_err().contains("two"));
    let map = operator(&locator, &["map"]).expect("a map");
    assert_eq!(Map::of_text(map.trim().as_bytes()).expect("a map").servers[0].name, "one");
}

/// Whoever has not the secret commands nothing, and is told nothing.
#[test]
fn a_locator_beyond_loopback_needs_a_secret() {
    let (_folder, store) = folder();
    let output = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["locator", "--listen", "0.0.0.0:0", "--store", &store])
        .output()
        .expect("the remora binary starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("--secret-file"), "{said}");

    let locator = Locator::start("127.0.0.1:0", &store);
    let other = Secret::new(b"a secret of some length").expect("it is long enough");
    let answer = client::ask(std::slice::from_ref(&locator.address), &other, &Question::Status, Instant::now());
    let words = answer.unwrap_err().to_string();
    assert!(words.contains("secret"), "{words}");
}
