//! Clients that write to shards whose primary changes, for tools/hand-over.
//!
//! One thread writes over several connections to each of two servers. It sends a key to the server
//! that took the key's shard last. A server that does not take it names another: the write goes
//! there at once, and after a pause of [`REFUSED_PAUSE`] where that one refuses as well. No write
//! waits for another one's answer, but for those before it on its connection. A write's latency
//! counts from when it was due, or in a closed loop from its first sending, to the answer that it
//! is stored, with all refusals between.
//!
//!     cargo bench --bench writers -- --servers A,B --shards 256 --only 0-99 --rate 20000 --into FILE
//!
//! Without `--rate` each shard has `--pipeline` writes under way. Every key is written once first;
//! then it says `ready`. It ends when its standard input does, and puts into FILE, for each write,
//! five words of eight bytes: when it was due and when it was stored, both by CLOCK_MONOTONIC in
//! nanoseconds, its shard, how many servers refused it, and the last who did (0: nobody, 1: the
//! first server).

use anyhow::{Context, bail, ensure};
use memchr::memchr;
use remora::base::hash::shard_hash;
use remora::base::shards::ShardSet;
use remora::sys::poll::{Interest, Poller};
use remora::sys::receive::receive;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Pause of a write that both servers have refused one after the other.
const REFUSED_PAUSE: Duration = Duration::from_micros(100);
/// Longest that a write may take.
const WRITE_NS_MAX: u64 = 60_000_000_000;
const NAP: Duration = Duration::from_millis(10);
const INPUT_BYTES: usize = 16 << 10;
const SERVERS: usize = 2;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if !words.iter().any(|word| word == "--servers") {
        println!("writers measure nothing by themselves: tools/hand-over does");
        return Ok(());
    }
    let setup = Setup::parse(&words)?;
    let ending: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ending.store(true, Relaxed);
    })?;
    Writers::new(&setup)?.run(ending)
}

struct Setup {
    servers: Vec<SocketAddr>,
    /// Of the store.
    shards: usize,
    /// Those that are written to.
    only: ShardSet,
    /// Writes a second; 0 in a closed loop.
    rate: u64,
    pipeline: usize,
    /// To each server.
    connections: usize,
    keys_per_shard: usize,
    value_bytes: usize,
    into: PathBuf,
}

impl Setup {
    fn parse(words: &[String]) -> anyhow::Result<Setup> {
        let mut setup = Setup {
            servers: Vec::new(),
            shards: 0,
            only: ShardSet::default(),
            rate: 0,
            pipeline: 16,
            connections: 8,
            keys_per_shard: 100,
            value_bytes: 100,
            into: PathBuf::new(),
        };
        for pair in words.chunks(2) {
            let [name, value] = pair else { bail!("{} wants a value", pair[0]) };
            let number = || value.parse::<usize>().with_context(|| format!("{name} wants a number"));
            match name.as_str() {
                "--servers" => setup.servers = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--shards" => setup.shards = number()?,
                "--only" => setup.only = value.parse()?,
                "--rate" => setup.rate = number()? as u64,
                "--pipeline" => setup.pipeline = number()?,
                "--connections" => setup.connections = number()?,
                "--keys" => setup.keys_per_shard = number()?,
                "--value-bytes" => setup.value_bytes = number()?,
                "--into" => setup.into = value.into(),
                other => bail!("there is no {other}"),
            }
        }
        ensure!(setup.servers.len() == SERVERS, "--servers names two");
        ensure!(setup.only.last().is_some_and(|last| last < setup.shards), "--only names some of --shards");
        Ok(setup)
    }

    /// So many keys of each shard that is written to, by shard.
    fn keys(&self) -> Vec<Vec<String>> {
        let mut keys = vec![Vec::new(); self.shards];
        let mut lacking = self.only.count();
        for number in 0u64.. {
            if lacking == 0 {
                break;
            }
            let key = format!("writers:{number:012}");
            let shard = ((u128::from(shard_hash(key.as_bytes())) * self.shards as u128) >> 64) as usize;
            if self.only.has(shard) && keys[shard].len() < self.keys_per_shard {
                keys[shard].push(key);
                lacking -= usize::from(keys[shard].len() == self.keys_per_shard);
            }
        }
        keys
    }
}

/// A write that is under way.
#[derive(Clone, Copy)]
struct Asked {
    shard: usize,
    key: usize,
    due_ns: u64,
    refusals: u64,
    /// Who has refused it last: the server's number and one.
    refused_by: u64,
}

struct Connection {
    socket: TcpStream,
    server: usize,
    output: Vec<u8>,
    /// What was asked and is not answered, in order.
    asked: VecDeque<Asked>,
    /// The beginning of a line.
    rest: Vec<u8>,
}

struct Writers<'a> {
    setup: &'a Setup,
    keys: Vec<Vec<String>>,
    value: String,
    poller: Poller,
    /// By server, then in turn.
    connections: Vec<Connection>,
    turn: usize,
    /// The server that takes a shard's writes, as far as is known.
    homes: Vec<usize>,
    /// Writes that are to be tried again, and when.
    refused: VecDeque<(u64, Asked)>,
    stored: Vec<[u64; 5]>,
    under_way: usize,
    random: fastrand::Rng,
}

impl<'a> Writers<'a> {
    fn new(setup: &'a Setup) -> anyhow::Result<Writers<'a>> {
        let poller = Poller::new()?;
        let mut connections = Vec::new();
        for (server, address) in setup.servers.iter().enumerate() {
            for _ in 0..setup.connections {
                let socket = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
                socket.set_nodelay(true)?;
                poller.add(&socket, connections.len() as u64, Interest::Read)?;
                let (output, asked, rest) = (Vec::new(), VecDeque::new(), Vec::new());
                connections.push(Connection { socket, server, output, asked, rest });
            }
        }
        Ok(Writers {
            setup,
            keys: setup.keys(),
            value: "v".repeat(setup.value_bytes),
            poller,
            connections,
            turn: 0,
            homes: vec![0; setup.shards],
            refused: VecDeque::new(),
            stored: Vec::new(),
            under_way: 0,
            random: fastrand::Rng::with_seed(1),
        })
    }

    fn run(mut self, ending: &AtomicBool) -> anyhow::Result<()> {
        self.fill()?;
        self.stored.clear();
        println!("ready");
        if self.setup.rate > 0 {
            self.open_loop(ending)?
        } else {
            self.closed_loop(ending)?
        }
        while self.under_way > 0 {
            self.step(NAP)?;
        }
        let mut file = std::io::BufWriter::new(std::fs::File::create(&self.setup.into)?);
        for word in self.stored.iter().flatten() {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(file.flush()?)
    }

    /// Each key once.
    fn fill(&mut self) -> anyhow::Result<()> {
        for shard in self.setup.only.iter() {
            for key in 0..self.setup.keys_per_shard {
                self.ask(Asked { shard, key, due_ns: now_ns(), refusals: 0, refused_by: 0 });
                while self.under_way >= self.setup.connections * self.setup.pipeline {
                    self.step(NAP)?;
                }
            }
        }
        while self.under_way > 0 {
            self.step(NAP)?;
        }
        Ok(())
    }

    /// Writes are due at even intervals, each to a random shard.
    fn open_loop(&mut self, ending: &AtomicBool) -> anyhow::Result<()> {
        let shards: Vec<usize> = self.setup.only.iter().collect();
        let every_ns = 1_000_000_000 / self.setup.rate;
        let mut due_ns = now_ns();
        while !ending.load(Relaxed) {
            while due_ns <= now_ns() {
                let shard = shards[self.random.usize(..shards.len())];
                self.ask_any(shard, due_ns);
                due_ns += every_ns;
            }
            let wait_ns = due_ns.saturating_sub(now_ns());
            self.step(Duration::from_nanos(wait_ns))?;
        }
        Ok(())
    }

    /// Each shard has so many writes under way, whatever becomes of those of others.
    fn closed_loop(&mut self, ending: &AtomicBool) -> anyhow::Result<()> {
        for shard in self.setup.only.iter() {
            (0..self.setup.pipeline).for_each(|_| self.ask_any(shard, now_ns()));
        }
        while !ending.load(Relaxed) {
            let known = self.stored.len();
            self.step(NAP)?;
            for at in known..self.stored.len() {
                self.ask_any(self.stored[at][2] as usize, now_ns());
            }
        }
        Ok(())
    }

    fn ask_any(&mut self, shard: usize, due_ns: u64) {
        let key = self.random.usize(..self.setup.keys_per_shard);
        self.ask(Asked { shard, key, due_ns, refusals: 0, refused_by: 0 });
    }

    fn ask(&mut self, asked: Asked) {
        self.under_way += 1;
        self.send(asked);
    }

    fn send(&mut self, asked: Asked) {
        self.turn = (self.turn + 1) % self.setup.connections;
        let connection = &mut self.connections[self.homes[asked.shard] * self.setup.connections + self.turn];
        let (key, value) = (&self.keys[asked.shard][asked.key], &self.value);
        write!(connection.output, "set {key} 0 0 {}\r\n{value}\r\n", value.len()).expect("memory takes it");
        connection.asked.push_back(asked);
    }

    /// Send what there is, wait for at most so long, take what has come.
    fn step(&mut self, wait_max: Duration) -> anyhow::Result<()> {
        let mut wait = wait_max;
        while let Some((at_ns, asked)) = self.refused.front().copied() {
            let now = now_ns();
            if at_ns > now {
                wait = wait.min(Duration::from_nanos(at_ns - now));
                break;
            }
            self.refused.pop_front();
            self.send(asked);
        }
        for connection in &mut self.connections {
            connection.write()?;
        }
        self.poller.wait(wait)?;
        let ready: Vec<usize> = (0..self.poller.ready()).map(|event| self.poller.token(event) as usize).collect();
        ready.into_iter().try_for_each(|number| self.read(number))
    }

    fn read(&mut self, number: usize) -> anyhow::Result<()> {
        let mut input = [0; INPUT_BYTES];
        let connection = &mut self.connections[number];
        let held = connection.rest.len();
        input[..held].copy_from_slice(&connection.rest);
        let arrived = match receive(&connection.socket, &mut input[held..])? {
            None => return Ok(()),
            Some(0) => bail!("server {} has closed a connection", connection.server),
            Some(bytes) => held + bytes,
        };
        let mut at = 0;
        let now = now_ns();
        while let Some(end) = memchr(b'\n', &input[at..arrived]) {
            self.take(number, &input[at..at + end], now)?;
            at += end + 1;
        }
        let rest = &mut self.connections[number].rest;
        rest.clear();
        rest.extend_from_slice(&input[at..arrived]);
        ensure!(rest.len() < INPUT_BYTES / 2, "a line without an end");
        Ok(())
    }

    /// One answer.
    fn take(&mut self, number: usize, line: &[u8], now: u64) -> anyhow::Result<()> {
        let connection = &mut self.connections[number];
        let server = connection.server;
        let mut asked = connection.asked.pop_front().context("an answer to nothing")?;
        if line == b"STORED\r" {
            let Asked { shard, due_ns, refusals, refused_by, .. } = asked;
            self.stored.push([due_ns, now, shard as u64, refusals, refused_by]);
            self.homes[shard] = server;
            self.under_way -= 1;
            return Ok(());
        }
        ensure!(
            line.starts_with(b"SERVER_ERROR read-only replica"),
            "the server said {:?}",
            String::from_utf8_lossy(line)
        );
        ensure!(now - asked.due_ns < WRITE_NS_MAX, "shard {} takes no writes", asked.shard);
        asked.refusals += 1;
        let is_again = asked.refused_by > 0;
        asked.refused_by = server as u64 + 1;
        // The other one: that is whom it names, once it knows.
        if self.homes[asked.shard] == server {
            self.homes[asked.shard] = 1 - server;
        }
        if is_again {
            self.refused.push_back((now + REFUSED_PAUSE.as_nanos() as u64, asked));
        } else {
            self.send(asked);
        }
        Ok(())
    }
}

impl Connection {
    fn write(&mut self) -> anyhow::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        match send(&self.socket, &self.output, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(bytes) => drop(self.output.drain(..bytes)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error).with_context(|| format!("writing to server {}", self.server)),
        }
        Ok(())
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
