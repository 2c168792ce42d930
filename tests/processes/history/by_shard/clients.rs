//! Clients of servers each of which is the primary of some shards: they learn from refusals who
//! takes a key's writes.

use super::super::clients::{Traffic, key, operation};
use super::super::connection::{Connection, End};
use super::super::site::Site;
use super::shard_of;
use crate::node::LONG;
use crate::support::history::event::Place;
use fastrand::Rng;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// One batch in so many goes to any server, whatever was learned.
const STRAY: u32 = 12;
/// Before the next look where nobody is to write.
const PAUSE: Duration = Duration::from_millis(1);

/// What writers and the conductor share.
pub struct Field {
    /// The clock, the numbers and the record. What is noted there is noted under the number of the
    /// process that was asked.
    pub site: Site,
    /// The processes that live, by number, and where they serve.
    servers: Mutex<HashMap<usize, SocketAddr>>,
    is_open: AtomicBool,
    /// How many batches each writer has begun.
    turns: Vec<AtomicU64>,
}

impl Field {
    /// Nobody writes yet.
    pub fn new(writers: usize) -> Field {
        Field {
            site: Site::new(0),
            servers: Mutex::default(),
            is_open: AtomicBool::new(false),
            turns: (0..writers).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub fn change_servers(&self, change: impl FnOnce(&mut HashMap<usize, SocketAddr>)) {
        change(&mut self.servers.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn servers(&self) -> HashMap<usize, SocketAddr> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether clients are to ask anything.
    pub fn open(&self, is_open: bool) {
        self.is_open.store(is_open, SeqCst);
    }

    /// Wait until each writer has recorded the batch that it is in the middle of.
    pub fn pass_batches(&self) {
        let begun: Vec<u64> = self.turns.iter().map(|turn| turn.load(SeqCst)).collect();
        let passed = || self.turns.iter().zip(&begun).all(|(turn, begun)| turn.load(SeqCst) > *begun);
        assert!(self.site.wait_for(LONG, |_| passed()), "a writer is stuck");
    }

    pub fn start_writers(self: &Arc<Field>, seed: u64, traffic: Traffic) -> Vec<JoinHandle<()>> {
        let start = |number: usize| {
            let field = self.clone();
            let writer = Writer {
                random: Rng::with_seed(seed << 8 | number as u64),
                traffic,
                known: HashMap::new(),
                connections: HashMap::new(),
            };
            let thread = std::thread::Builder::new().name(format!("writer-{number}"));
            thread.spawn(move || writer.run(&field, number)).expect("a thread")
        };
        (0..self.turns.len()).map(start).collect()
    }
}

struct Writer {
    random: Rng,
    traffic: Traffic,
    /// Which process takes a shard's writes, by what was answered.
    known: HashMap<usize, usize>,
    connections: HashMap<usize, (u32, Connection)>,
}

impl Writer {
    fn run(mut self, field: &Field, number: usize) {
        while !field.site.is_stopping() {
            field.turns[number].fetch_add(1, SeqCst);
            if !field.is_open.load(SeqCst) {
                std::thread::sleep(PAUSE);
                continue;
            }
            let servers = field.servers();
            self.connections.retain(|process, _| servers.contains_key(process));
            self.known.retain(|_, process| servers.contains_key(process));
            self.batch(field, &servers);
            std::thread::sleep(self.traffic.pause_max.mul_f64(self.random.f64()));
        }
        field.turns[number].store(u64::MAX, SeqCst);
    }

    /// A batch to one server, of keys that it is known for, or of any.
    fn batch(&mut self, field: &Field, servers: &HashMap<usize, SocketAddr>) {
        let first = key(&mut self.random, self.traffic);
        let strays = self.random.u32(0..STRAY) == 0;
        let known = self.known.get(&shard_of(first)).copied().filter(|_| !strays);
        let mut processes: Vec<usize> = servers.keys().copied().collect();
        processes.sort_unstable();
        let process = known.unwrap_or_else(|| processes[self.random.usize(0..processes.len())]);
        if !self.connections.contains_key(&process) {
            let Ok(connection) = Connection::open(servers[&process], self.traffic.acks) else { return };
            self.connections.insert(process, (field.site.number(), connection));
        }
        let (session, connection) = self.connections.get_mut(&process).expect("it is open");
        let mut compared = HashSet::new();
        let keys = (0..self.random.usize(1..=self.traffic.batch_max)).map(|_| key(&mut self.random, self.traffic));
        let mut keys: Vec<u32> = keys.collect();
        keys.retain(|key| known.is_none() || self.known.get(&shard_of(*key)) == Some(&process));
        let all = std::iter::once(first).chain(keys);
        let asked: Vec<_> =
            all.map(|key| (key, operation(&field.site, connection, &mut self.random, &mut compared, key))).collect();
        let (events, end) = connection.ask(*session, Place::Primary, &asked, || field.site.now());
        for event in events.iter().filter(|event| event.has_changed()) {
            self.known.insert(shard_of(event.key), process);
        }
        for (key, named) in connection.redirected.drain(..) {
            let named = servers.iter().find(|(_, address)| named == Some(**address));
            match named {
                Some((other, _)) => self.known.insert(shard_of(key), *other),
                None => self.known.remove(&shard_of(key)),
            };
        }
        field.site.note(process, events);
        if end == End::Broken {
            self.connections.remove(&process);
            self.known.retain(|_, known| *known != process);
        }
    }
}
