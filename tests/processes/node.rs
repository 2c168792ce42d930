//! Primaries and replicas as processes: starting them, asking them how they are, and holding what
//! they have against each other.

pub use crate::support::wait::{LONG, expect_eq, wait_until};
use crate::support::{Client, Server};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Keys asked for at a time.
const KEYS_AT_A_TIME: usize = 250;

/// A primary or a replica.
pub struct Node {
    pub server: Server,
    /// The replication port of a primary.
    pub replication: Option<SocketAddr>,
    /// One connection for all questions, so that what is counted of the process does not depend on
    /// them.
    client: Mutex<Client>,
}

/// An item as meta get shows it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Flags, CAS, staleness.
    pub words: String,
    pub value: Vec<u8>,
    /// The seconds since 1970 between which it is due. More than one, for the time to live was told
    /// at some moment of the asking.
    due: Option<(u64, u64)>,
}

impl Shown {
    /// What a client can tell of both is the same.
    pub fn is_like(&self, other: &Shown) -> bool {
        let due_together = match (self.due, other.due) {
            (Some((from, to)), Some((others_from, others_to))) => from <= others_to && others_from <= to,
            (due, others) => due == others,
        };
        due_together && self.words == other.words && self.value == other.value
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set").as_secs()
}

impl Node {
    /// A primary on ports of the kernel's choice.
    pub fn primary(arguments: &[&str]) -> Node {
        Node::primary_on("127.0.0.1:0", arguments)
    }

    /// A primary with its replication port at this address.
    pub fn primary_on(replication: &str, arguments: &[&str]) -> Node {
        let mut all = vec!["--replication", replication, "-t", "1"];
        all.extend(arguments);
        Node::of(Server::start(&all), "remora: replication on tcp ")
    }

    /// A primary on given ports, so that another can take its place.
    pub fn primary_at(client_port: u16, replication_port: u16, arguments: &[&str]) -> Node {
        let (client, replication) = (format!("127.0.0.1:{client_port}"), format!("127.0.0.1:{replication_port}"));
        let mut all = vec!["-l", &client, "--replication", &replication, "-t", "1"];
        all.extend(arguments);
        Node::of(Server::start_listening(&all, 1), "remora: replication on tcp ")
    }

    /// A replica of whoever listens at `primary`.
    pub fn replica(primary: SocketAddr, arguments: &[&str]) -> Node {
        let primary = primary.to_string();
        let mut all = vec!["--replica-of", &primary, "-t", "1"];
        all.extend(arguments);
        Node::of(Server::start(&all), "remora: read-only replica of ")
    }

    /// A replica that can be followed itself, at `port` of this host, 0 for any.
    pub fn middle(upstream: SocketAddr, port: u16, arguments: &[&str]) -> Node {
        let (upstream, port) = (upstream.to_string(), format!("127.0.0.1:{port}"));
        let mut all = vec!["--replica-of", &upstream, "--replication", &port, "-t", "1"];
        all.extend(arguments);
        Node::of(Server::start(&all), "remora: replication on tcp ")
    }

    /// A server that knows nothing of replication.
    pub fn plain(arguments: &[&str]) -> Node {
        let mut all = vec!["-t", "1"];
        all.extend(arguments);
        let server = Server::start(&all);
        let client = Mutex::new(server.connect());
        Node { server, replication: None, client }
    }

    /// A replica that others can follow: one that may be promoted.
    pub fn standby(primary: SocketAddr, arguments: &[&str]) -> Node {
        Node::middle(primary, 0, arguments)
    }

    /// A node for a server that was started. Waits until it has logged `announcement`.
    pub fn of(server: Server, announcement: &str) -> Node {
        let mut said = Vec::new();
        let announced = loop {
            let line = server.next_log_line().unwrap_or_else(|| panic!("no \"{announcement}\", but {said:?}"));
            if let Some(rest) = line.strip_prefix(announcement) {
                break rest.to_string();
            }
            said.push(line);
        };
        let replication = announced.split(" over ").next().and_then(|address| address.parse().ok());
        let mut client = server.connect();
        // Answered: so it was accepted, and whatever a worker has, it has.
        assert!(client.ask("version").starts_with("VERSION"));
        let client = Mutex::new(client);
        Node { server, replication, client }
    }

    /// The replication port.
    pub fn port(&self) -> SocketAddr {
        self.replication.expect("a primary")
    }

    /// The connection for questions.
    pub fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Give an order, over the control socket; what is said to it.
    pub fn order(&self, order: &str) -> String {
        Client::control(self.server.tcp[0]).ask(&format!("replication {order}"))
    }

    /// `stats replication`.
    pub fn rows(&self) -> BTreeMap<String, String> {
        self.rows_of("stats replication")
    }

    /// Any stats.
    pub fn rows_of(&self, question: &str) -> BTreeMap<String, String> {
        let rows = self.client().rows(question);
        let row = |row: &String| {
            let (name, value) = row.strip_prefix("STAT ")?.split_once(' ')?;
            Some((name.to_string(), value.to_string()))
        };
        rows.iter().map(|line| row(line).unwrap_or_else(|| panic!("{line} in {question}"))).collect()
    }

    /// One row of `stats replication`.
    pub fn text(&self, name: &str) -> String {
        self.rows().remove(name).unwrap_or_else(|| panic!("no row {name}"))
    }

    /// One row of `stats replication` that is a number.
    pub fn number(&self, name: &str) -> u64 {
        self.text(name).parse().expect("a number")
    }

    /// Bytes written to its log so far.
    pub fn appended_bytes(&self) -> u64 {
        self.rows_of("stats")["log_appended_bytes"].parse().expect("a number")
    }

    /// Open files, threads: what must not grow.
    pub fn holds(&self) -> Holds {
        let count = |what: &str| {
            let entries = std::fs::read_dir(format!("/proc/{}/{what}", self.server.pid())).expect("the process lives");
            entries.count()
        };
        Holds { files: count("fd"), threads: count("task") }
    }

    /// Mappings.
    pub fn mappings(&self) -> usize {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.server.pid()));
        maps.expect("the process lives").lines().count()
    }

    /// Wait until it holds no more than `before`.
    pub fn comes_back_to(&self, before: Holds) {
        wait_until("files and threads are given back", || {
            let files = || std::fs::read_dir(format!("/proc/{}/fd", self.server.pid())).into_iter().flatten().flatten();
            let open = || files().filter_map(|file| std::fs::read_link(file.path()).ok()).collect::<Vec<_>>();
            let held = self.holds();
            let is_less = held.files <= before.files && held.threads <= before.threads;
            // What it held before may have been in the middle of something.
            if is_less { Ok(()) } else { Err(format!("held is {held:?}, not {before:?}; open: {:?}", open())) }
        });
    }

    /// What the server shows of `keys`.
    pub fn items(&self, keys: &[String]) -> BTreeMap<String, Shown> {
        items(&mut self.client(), keys)
    }
}

/// What a server shows of `keys`.
fn items(client: &mut Client, keys: &[String]) -> BTreeMap<String, Shown> {
    let mut items = BTreeMap::new();
    for keys in keys.chunks(KEYS_AT_A_TIME) {
        let request: String = keys.iter().map(|key| format!("mg {key} v f c t\r\n")).collect();
        // A server's second may be older than the clock's by as much as it does at a time.
        let begun = now() - 1;
        let mut shown = Vec::new();
        client.send(request.as_bytes());
        for key in keys {
            let head = client.line();
            if head == "EN" {
                continue;
            }
            let mut words = head.split(' ');
            let bytes = (words.next() == Some("VA")).then(|| words.next()?.parse::<usize>().ok()).flatten();
            let mut value = client.exactly(2 + bytes.unwrap_or_else(|| panic!("mg {key}: {head}")));
            value.truncate(value.len() - 2);
            // Who may recache a stale item is between a primary and its clients.
            let mut words: Vec<&str> = words.filter(|word| !["W", "Z"].contains(word)).collect();
            let at = words.iter().position(|word| word.starts_with('t')).unwrap_or_else(|| panic!("mg {key}: {head}"));
            let seconds: Option<u64> = words.remove(at)[1..].parse().ok(); // -1: never
            shown.push((key, words.join(" "), value, seconds));
        }
        let ended = now();
        items.extend(shown.into_iter().map(|(key, words, value, seconds)| {
            let due = seconds.map(|seconds| (begun + seconds, ended + seconds));
            (key.clone(), Shown { words, value, due })
        }));
    }
    items
}

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holds {
    pub files: usize,
    pub threads: usize,
}

/// Wait until `name` of `stats replication` is what `wanted` says.
pub fn wait_for_row(node: &Node, name: &str, wanted: impl Fn(&str) -> bool) -> String {
    wait_until(name, || {
        let value = node.text(name);
        if wanted(&value) { Ok(value) } else { Err(format!("{value}; all: {:?}", node.rows())) }
    })
}

/// Wait until `name` is at least `least`.
pub fn wait_for_count(node: &Node, name: &str, least: u64) {
    wait_for_row(node, name, |value| value.parse::<u64>().is_ok_and(|count| count >= least));
}

/// Wait until the primary's log has been full, which shows in its tail.
pub fn wait_for_full_log(primary: &Node) {
    wait_until("the log is full", || match primary.rows_of("stats")["log_reclaimed_bytes"].as_str() {
        "0" => Err("it has room yet"),
        _ => Ok(()),
    });
}

/// Once nobody writes any more: wait until the primary has just these replicas and each of them, by
/// the primary's and by its own account, holds all.
pub fn in_sync(primary: &Node, replicas: &[&Node]) {
    wait_until("every replica holds all", || {
        let rows = primary.rows();
        expect_eq("replicas", rows["replicas"].clone(), replicas.len().to_string()).map_err(|complaint| {
            format!("{complaint}; {:?}", replicas.iter().map(|replica| replica.rows()).collect::<Vec<_>>())
        })?;
        for number in 0..replicas.len() {
            let row = |name: &str| rows[&format!("replica_{number}_{name}")].clone();
            expect_eq("its state there", (row("state").as_str(), row("lag_bytes").as_str()), ("following", "0"))
                .map_err(|complaint| format!("{complaint}; {rows:?}"))?;
        }
        for replica in replicas {
            let rows = replica.rows();
            expect_eq("its state", (rows["state"].as_str(), rows["lag_bytes"].as_str()), ("following", "0"))
                .map_err(|complaint| format!("{complaint}; {rows:?}"))?;
        }
        Ok::<_, String>(())
    });
}

/// Wait until each of them shows what the primary shows of `keys`; a replica may for a moment still
/// hold what the primary has just given up. Returns how many items there are.
pub fn same_items(primary: &Node, replicas: &[&Node], keys: &[String]) -> usize {
    replicas.iter().map(|replica| same_shown(&mut primary.client(), &mut replica.client(), keys)).max().unwrap_or(0)
}

/// The same of two servers that are known by connections alone. Keys that differ are asked for
/// again, and at the end all at once.
pub fn same_shown(primary: &mut Client, replica: &mut Client, keys: &[String]) -> usize {
    let mut asked = keys.to_vec();
    wait_until("both hold the same", || {
        let (expected, shown) = (items(primary, &asked), items(replica, &asked));
        let alike = |key: &String| match (shown.get(key), expected.get(key)) {
            (Some(item), Some(expected)) => item.is_like(expected),
            (item, expected) => item.is_none() && expected.is_none(),
        };
        let all = asked.len() == keys.len();
        asked.retain(|key| !alike(key));
        let Some(key) = asked.first() else {
            asked = keys.to_vec();
            return if all { Ok(expected.len()) } else { Err("one key after the other they were the same".into()) };
        };
        let head = |items: &BTreeMap<String, Shown>| {
            items.get(key).map(|item| format!("{}, due {:?}, {} bytes", item.words, item.due, item.value.len()))
        };
        Err(format!("{} keys differ: {key} is {:?}, not {:?}", asked.len(), head(&shown), head(&expected)))
    })
}

/// Run a test over shared memory and over TCP, side by side.
pub fn on_each_fabric(test: impl Fn(&'static str) + Sync) {
    side_by_side(&["shm", "tcp"], test);
}

/// Run something for each of `cases` at the same time; what is under test mostly waits.
pub fn side_by_side<T: Copy + Send + Sync + std::fmt::Debug>(cases: &[T], test: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        let test = &test;
        let running: Vec<_> = cases.iter().map(|case| (*case, scope.spawn(move || test(*case)))).collect();
        let failed: Vec<_> = running.into_iter().filter_map(|(case, one)| one.join().err().map(|_| case)).collect();
        assert!(failed.is_empty(), "failed: {failed:?}");
    });
}

/// A port that is free now, outside of the range from which the kernel gives ports to others, so
/// that it is still free after its user has died.
pub fn fixed_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 100) as u16 * 100;
    let free = (0..100).map(|_| first + NEXT.fetch_add(1, Relaxed) % 100);
    free.into_iter().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

/// The keys that [`crate::replication::writers::Writers`] use, and some that nobody does.
pub fn numbered_keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key-{number}")).collect()
}
