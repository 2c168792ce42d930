//! Strong mode as processes: clients read, set and compare-and-swap a few keys through different
//! servers, while a primary dies, or stands still for longer than its lease and goes on. What they
//! saw of each key is linearizable ([`super::linear`]).

use super::life::{Locator, SHARDS, Site, folder, shard_of};
use super::linear::{Action, Operation, Value, is_linearizable};
use crate::node::wait_until;
use crate::support::wait::Ends;
use remora::cluster::map::{Consistency, Policy, WithoutLease};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const KEYS: usize = 4;
const CLIENTS: usize = 6;
/// Operations whose outcome is known, before and after something happens.
const ENOUGH: u64 = 300;
/// Operations of each key that are worth judging.
const JUDGED_MIN: usize = 50;
/// Connections to a server that stands still, for each key.
const PROBES: usize = 4;
/// Longer than a server takes to refuse what it cannot answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(15);
/// So soon a client gives up, and asks another server.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two requests of a client, so that histories stay short enough to be judged.
const PAUSE: Duration = Duration::from_millis(5);

type Connection = BufReader<TcpStream>;

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// What a get came to.
enum Got {
    /// The value, and its number.
    Item(Value, u64),
    Nothing,
    /// An error, in words.
    Refused(String),
}

/// All that was seen, by key.
struct History {
    since: Instant,
    operations: Mutex<Vec<Vec<Operation>>>,
    known: AtomicU64,
    values: AtomicU64,
    stop: AtomicBool,
    /// Clients ask for nothing.
    paused: AtomicBool,
    /// So many heed that.
    idle: AtomicUsize,
    servers: Mutex<Vec<SocketAddr>>,
}

impl History {
    fn new(site: &Site) -> History {
        let history = History {
            since: Instant::now(),
            operations: Mutex::new(vec![Vec::new(); KEYS]),
            known: AtomicU64::new(0),
            values: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            idle: AtomicUsize::new(0),
            servers: Mutex::default(),
        };
        history.know(site, "");
        history
    }

    /// Clients ask the servers of this site, but for one.
    fn know(&self, site: &Site, but: &str) {
        let others = site.nodes.iter().filter(|(name, _)| *name != but);
        *self.servers.lock().expect("nobody panics with it") = others.map(|(_, node)| node.server.tcp[0]).collect();
    }

    /// Wait until no request is under way.
    fn pause(&self) {
        self.paused.store(true, Relaxed);
        wait_until("clients are idle", || {
            let idle = self.idle.load(Relaxed);
            if idle == CLIENTS { Ok(()) } else { Err(format!("{idle} are")) }
        });
    }

    fn wait_while_paused(&self) {
        self.idle.fetch_add(1, Relaxed);
        while self.paused.load(Relaxed) && !self.stop.load(Relaxed) {
            std::thread::sleep(PAUSE);
        }
        self.idle.fetch_sub(1, Relaxed);
    }

    fn now(&self) -> u64 {
        self.since.elapsed().as_nanos() as u64
    }

    fn note(&self, key: usize, begin: u64, is_known: bool, action: Action) {
        let end = is_known.then(|| self.now());
        self.operations.lock().expect("nobody panics with it")[key].push(Operation { begin, end, action });
        self.known.fetch_add(u64::from(is_known), Relaxed);
    }

    /// Wait for so many more operations whose outcome is known.
    fn go_on(&self) {
        let before = self.known.load(Relaxed);
        wait_until("clients are answered", || {
            let more = self.known.load(Relaxed) - before;
            if more >= ENOUGH { Ok(()) } else { Err(format!("{more} so far")) }
        });
    }

    fn connect(&self) -> Option<Connection> {
        let servers = self.servers.lock().expect("nobody panics with it").clone();
        connect(servers[fastrand::usize(..servers.len())], PATIENCE)
    }

    /// A client, until it is to stop.
    fn client(&self) {
        let mut connection = None;
        while !self.stop.load(Relaxed) {
            std::thread::sleep(PAUSE);
            let is_paused = self.paused.load(Relaxed);
            // Now and then by another server.
            if is_paused || fastrand::u8(..20) == 0 {
                connection = None;
            }
            if is_paused {
                self.wait_while_paused();
            }
            let Some(mut open) = connection.take().or_else(|| self.connect()) else { continue };
            if self.request(&mut open, fastrand::usize(..KEYS)).is_some() {
                connection = Some(open);
            }
        }
    }

    /// One request, or two; None where the connection is of no use any more.
    fn request(&self, connection: &mut Connection, number: usize) -> Option<()> {
        let new = self.values.fetch_add(1, Relaxed);
        if fastrand::u8(..3) == 0 {
            let begin = self.now();
            let answer = store(connection, &format!("set {} 0 0 {}", key(number), digits(new)), new);
            self.note(number, begin, answer.as_deref() == Some("STORED"), Action::Write(new));
            return answer.map(drop);
        }
        let begin = self.now();
        send(connection, &format!("gets {}\r\n", key(number)))?;
        let got = get(connection)?;
        let (shown, cas) = match got {
            Got::Item(value, cas) => (Some(value), Some(cas)),
            Got::Nothing => (None, None),
            Got::Refused(_) => return Some(()),
        };
        self.note(number, begin, true, Action::Read(shown));
        let (Some(expected), Some(cas), true) = (shown, cas, fastrand::bool()) else { return Some(()) };
        let begin = self.now();
        let answer = store(connection, &format!("cas {} 0 0 {} {cas}", key(number), digits(new)), new);
        let swap = |swapped| Action::Swap { expected, new, swapped };
        match answer.as_deref() {
            Some("STORED") => self.note(number, begin, true, swap(true)),
            Some("EXISTS") => self.note(number, begin, true, swap(false)),
            Some("NOT_FOUND") => self.note(number, begin, true, Action::Read(None)),
            _ => self.note(number, begin, false, swap(true)),
        }
        answer.map(drop)
    }
}

fn digits(value: Value) -> usize {
    value.to_string().len()
}

fn connect(address: SocketAddr, patience: Duration) -> Option<Connection> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.set_nodelay(true).ok()?;
    Some(BufReader::new(stream))
}

fn send(connection: &mut Connection, text: &str) -> Option<()> {
    connection.get_mut().write_all(text.as_bytes()).ok()
}

fn line(connection: &mut Connection) -> Option<String> {
    let mut line = String::new();
    connection.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
    line.ends_with('\n').then(|| line.trim_end().to_string())
}

fn store(connection: &mut Connection, head: &str, value: Value) -> Option<String> {
    send(connection, &format!("{head}\r\n{value}\r\n"))?;
    line(connection)
}

/// The answer to a gets of one key.
fn get(connection: &mut Connection) -> Option<Got> {
    let head = line(connection)?;
    if head == "END" {
        return Some(Got::Nothing);
    }
    if head.starts_with("SERVER_ERROR ") {
        return Some(Got::Refused(head));
    }
    let cas = head.strip_prefix("VALUE ").and_then(|rest| rest.rsplit(' ').next()?.parse().ok());
    let cas = cas.unwrap_or_else(|| panic!("no answer to gets: {head:?}"));
    let value = line(connection)?.parse().expect("a number");
    // An error here stands for the whole answer.
    match line(connection)?.as_str() {
        "END" => Some(Got::Item(value, cas)),
        error if error.starts_with("SERVER_ERROR ") => Some(Got::Refused(error.into())),
        other => panic!("no end of an answer to gets: {other:?}"),
    }
}

/// Let something happen to a site, and judge what clients saw meanwhile.
fn judged(happen: impl FnOnce(&mut Site, &History)) {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let policy = Policy {
        replicas: 2,
        acks: 1,
        consistency: Consistency::Strong,
        without_lease: WithoutLease::Refuse,
        ..Policy::default()
    };
    let mut site = Site::born_with(&[&locator], &["a", "b", "c"], policy);
    let history = History::new(&site);
    std::thread::scope(|scope| {
        let _ends = Ends(&history.stop);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| history.client())).collect();
        history.go_on();
        happen(&mut site, &history);
        history.go_on();
        history.stop.store(true, Relaxed);
        clients.into_iter().for_each(|client| client.join().expect("a client"));
    });
    for (number, operations) in history.operations.into_inner().expect("all have ended").into_iter().enumerate() {
        let unknown = operations.iter().filter(|operation| operation.end.is_none()).count();
        println!("{}: {} operations, of {unknown} the outcome is not known", key(number), operations.len());
        assert!(operations.len() >= JUDGED_MIN, "too little to judge");
        assert!(is_linearizable(operations.clone()), "{} is not linearizable: {operations:?}", key(number));
    }
}

/// The name of the server that is the primary of a key.
fn primary_of(site: &Site, number: usize) -> String {
    let map = site.map();
    let primary = map.shards[shard_of(&key(number), SHARDS)].primary.expect("a primary");
    map.server(primary).expect("a server").name.clone()
}

fn wait_for_another(site: &Site, before: &str) {
    wait_until("another server is the primary", || {
        let primary = primary_of(site, 0);
        if primary == before { Err(format!("{primary} is it")) } else { Ok(()) }
    });
}

#[test]
fn each_key_is_linearizable_while_a_primary_dies() {
    judged(|site, history| {
        let primary = primary_of(site, 0);
        drop(site.nodes.remove(&primary));
        history.know(site, "");
        wait_for_another(site, &primary);
    });
}

/// Requests lie in the sockets of a primary that stands still, which were sent after its successor
/// had written. When it goes on, it finds them before it hears of anything. Nothing was under way
/// when it was stopped, and so all that it has is acknowledged.
#[test]
fn each_key_is_linearizable_while_a_primary_stands_still_and_goes_on() {
    judged(|site, history| {
        let primary = primary_of(site, 0);
        let stopped = &site.nodes[&primary].server;
        let mut probes: Vec<_> = (0..KEYS)
            .flat_map(|number| (0..PROBES).map(move |_| number))
            .map(|number| (number, connect(stopped.tcp[0], ANSWER_WAIT_MAX).expect("it listens")))
            .collect();
        for (_, connection) in &mut probes {
            send(connection, "version\r\n").and_then(|()| line(connection)).expect("it has been let in");
        }
        history.pause();
        stopped.signal("STOP");
        wait_for_another(site, &primary);
        history.know(site, &primary);
        history.paused.store(false, Relaxed);
        history.go_on();
        let begin = history.now();
        for (number, connection) in &mut probes {
            send(connection, &format!("gets {}\r\n", key(*number))).expect("the kernel takes it");
        }
        stopped.signal("CONT");
        let mut refused = Vec::new();
        for (number, connection) in &mut probes {
            match get(connection).expect("it is answered") {
                Got::Item(value, _) => history.note(*number, begin, true, Action::Read(Some(value))),
                Got::Nothing => history.note(*number, begin, true, Action::Read(None)),
                Got::Refused(words) => refused.push(words),
            }
        }
        println!("{} of {} were refused: {refused:?}", refused.len(), KEYS * PROBES);
        history.know(site, "");
        wait_until("it has a lease again", || {
            let left = site.nodes[&primary].number("cluster_lease_ms");
            if left > 0 { Ok(()) } else { Err("not yet") }
        });
    });
}
