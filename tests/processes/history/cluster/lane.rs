//! One client of one shard: it alone writes the shard's keys, each value once, and reads them. It
//! writes at one server and reads at another one, whichever they are: any server takes any key.
//!
//! So each answer is known beforehand. A key's numbers rise by one. A write of unknown outcome
//! is the last one of its key: it may be done at any later time, and both numbers are right from
//! then on. Counters are counted up by the server, so a request that is executed twice shows.

use super::super::by_shard::shard_of_name;
use super::field::{Field, Round};
use fastrand::Rng;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Keys that are written at a time; every third is a counter.
const KEYS: usize = 6;
/// Keys of one get, at most.
const KEYS_AT_A_TIME: usize = 50;
/// Requests of a connection before another server is chosen, at most.
const REQUESTS_MAX: usize = 200;
const CONNECT_WAIT_MAX: Duration = Duration::from_millis(300);
const ANSWER_WAIT_MAX: Duration = Duration::from_millis(1000);
/// Between two requests, at most.
const PAUSE_MAX: Duration = Duration::from_millis(10);
/// Longest time for a look at all keys.
const ROUND_WAIT_MAX: Duration = Duration::from_secs(40);

struct Connection {
    stream: BufReader<TcpStream>,
    server: usize,
    requests_left: usize,
}

impl Connection {
    fn open(field: &Field, server: usize, random: &mut Rng) -> Option<Connection> {
        let stream = TcpStream::connect_timeout(&field.servers[server], CONNECT_WAIT_MAX).ok()?;
        stream.set_read_timeout(Some(ANSWER_WAIT_MAX)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Connection { stream: BufReader::new(stream), server, requests_left: random.usize(1..REQUESTS_MAX) })
    }

    /// The first line of the answer. None: nobody knows.
    fn ask(&mut self, request: &str) -> Option<String> {
        self.stream.get_mut().write_all(request.as_bytes()).ok()?;
        self.line()
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).ok().filter(|_| line.ends_with("\r\n"))?;
        Some(line.trim_end().into())
    }

    /// What the server has of these keys. None: it does not say.
    fn get(&mut self, keys: &[&Key]) -> Option<Vec<Option<String>>> {
        let names: Vec<&str> = keys.iter().map(|key| &*key.name).collect();
        let mut line = self.ask(&format!("get {}\r\n", names.join(" ")))?;
        let mut values = vec![None; keys.len()];
        while line != "END" {
            let mut words = line.strip_prefix("VALUE ")?.split(' ');
            let (name, bytes) = (words.next()?, words.nth(1)?.parse::<usize>().ok()?);
            let at = names.iter().position(|asked| *asked == name)?;
            let mut value = vec![0; bytes + 2];
            self.stream.read_exact(&mut value).ok()?;
            value.truncate(bytes);
            values[at] = Some(String::from_utf8_lossy(&value).into_owned());
            line = self.line()?;
        }
        Some(values)
    }
}

struct Key {
    name: String,
    is_counter: bool,
    /// The number of the last acknowledged write.
    acknowledged: Option<u64>,
    /// The number of the last write.
    sent: Option<u64>,
}

impl Key {
    /// As the value with this number is.
    fn value(&self, number: u64) -> String {
        if self.is_counter { number.to_string() } else { format!("{}={number}", self.name) }
    }

    /// What is wrong with this, as the key's value.
    fn complaint(&self, value: Option<&String>) -> Option<String> {
        let may_be = [self.acknowledged, self.sent].map(|number| number.map(|number| self.value(number)));
        let is_right = may_be.iter().any(|right| right.as_ref() == value);
        (!is_right)
            .then(|| format!("{} is {value:?}: acknowledged was {:?}, sent {:?}", self.name, may_be[0], may_be[1]))
    }
}

/// See the module.
pub struct Lane<'f> {
    field: &'f Field,
    shard: usize,
    random: Rng,
    /// Those that are written.
    keys: Vec<Key>,
    /// Those whose last write is of unknown outcome.
    retired: Vec<Key>,
    names: u64,
    writes_at: Option<Connection>,
    reads_at: Option<Connection>,
    looked: Round,
}

impl<'f> Lane<'f> {
    pub fn new(field: &'f Field, shard: usize, seed: u64) -> Lane<'f> {
        let random = Rng::with_seed(seed << 16 | shard as u64);
        let (keys, retired) = (Vec::new(), Vec::new());
        let mut lane = Lane {
            field,
            shard,
            random,
            keys,
            retired,
            names: 0,
            writes_at: None,
            reads_at: None,
            looked: Round::default(),
        };
        lane.keys = (0..KEYS).map(|number| lane.fresh(number % 3 == 2)).collect();
        lane
    }

    /// A key of this shard that was never used.
    fn fresh(&mut self, is_counter: bool) -> Key {
        loop {
            self.names += 1;
            let name = format!("key-{}-{}", self.shard, self.names);
            if shard_of_name(&name, self.field.shards()) == self.shard {
                return Key { name, is_counter, acknowledged: None, sent: None };
            }
        }
    }

    /// Until all is over.
    pub fn run(mut self) {
        while !self.field.is_stopping() {
            let round = self.field.round();
            if round != self.looked {
                self.look(round);
            }
            let at = self.random.usize(..self.keys.len());
            let is_done = if self.random.u8(0..3) == 0 { self.read(at) } else { self.write(at) };
            // Who was refused may be refused again for a while.
            let pause = if is_done { PAUSE_MAX } else { 2 * PAUSE_MAX };
            std::thread::sleep(pause.mul_f64(self.random.f64()));
        }
    }

    /// A connection with some requests left, or a new one to some server.
    fn connection(&mut self, connection: Option<Connection>) -> Option<Connection> {
        let server = self.random.usize(..self.field.servers.len());
        let mut connection = match connection.filter(|connection| connection.requests_left > 0) {
            Some(connection) => connection,
            None => Connection::open(self.field, server, &mut self.random)?,
        };
        connection.requests_left -= 1;
        Some(connection)
    }

    /// Write a key's next number. False: it was not acknowledged.
    fn write(&mut self, at: usize) -> bool {
        let connection = self.writes_at.take();
        let Some(mut connection) = self.connection(connection) else { return false };
        let key = &mut self.keys[at];
        let number = key.sent.map_or(0, |sent| sent + 1);
        let value = key.value(number);
        let counts = key.is_counter && number > 0;
        let request = match counts {
            true => format!("incr {} 1\r\n", key.name),
            false => format!("set {} 0 0 {}\r\n{value}\r\n", key.name, value.len()),
        };
        key.sent = Some(number);
        let (invoked, is_away) = (self.field.now(), self.field.is_away(self.shard));
        let answer = connection.ask(&request);
        let expected = if counts { &value } else { "STORED" };
        if answer.as_deref() == Some(expected) {
            key.acknowledged = Some(number);
            self.field.acknowledged(self.shard, invoked);
            self.writes_at = Some(connection);
            return true;
        }
        // Where nothing is there, nothing is counted up, and no replica is asked.
        let is_allowed = |answer: &String| answer.starts_with("SERVER_ERROR ") || is_away && answer == "NOT_FOUND";
        if let Some(answer) = answer.filter(|answer| !is_allowed(answer)) {
            let words = format!(
                "{} at server {}: {} was answered {answer}, not {expected}",
                key.name,
                connection.server,
                request.trim_end()
            );
            self.field.complain(&self.field.counts.stale, words);
        } else {
            self.field.counts.unknown.fetch_add(1, SeqCst);
        }
        let is_counter = key.is_counter;
        let fresh = self.fresh(is_counter);
        self.retired.push(std::mem::replace(&mut self.keys[at], fresh));
        false
    }

    /// Read a key, and look whether it is as it was written. False: there was no answer.
    fn read(&mut self, at: usize) -> bool {
        let connection = self.reads_at.take();
        let Some(mut connection) = self.connection(connection) else { return false };
        let is_away = self.field.is_away(self.shard);
        let Some(values) = connection.get(&[&self.keys[at]]) else { return false };
        self.field.counts.reads.fetch_add(1, SeqCst);
        let complaint = self.keys[at].complaint(values[0].as_ref());
        if is_away && complaint.is_some() {
            self.field.counts.without_lease.fetch_add(1, SeqCst);
        } else if let Some(words) = complaint {
            self.field.complain(&self.field.counts.stale, format!("at server {}: {words}", connection.server));
            let fresh = self.fresh(self.keys[at].is_counter);
            self.keys[at] = fresh;
        }
        self.reads_at = Some(connection);
        true
    }

    /// Look for all that was written.
    fn look(&mut self, round: Round) {
        let keys: Vec<&Key> = self.keys.iter().chain(&self.retired).collect();
        let until = Instant::now() + ROUND_WAIT_MAX;
        let mut connection = None;
        for keys in keys.chunks(KEYS_AT_A_TIME) {
            let values = loop {
                if self.field.is_stopping() {
                    return;
                }
                let server = round.server.unwrap_or_else(|| self.random.usize(..self.field.servers.len()));
                connection = connection.or_else(|| Connection::open(self.field, server, &mut self.random));
                match connection.as_mut().and_then(|open| open.get(keys)) {
                    Some(values) => break values,
                    None if Instant::now() < until => connection = None,
                    None => {
                        let words = format!("shard {}: no answer at server {server}", self.shard);
                        return self.field.complain(&self.field.counts.lost, words);
                    }
                }
            };
            for (key, value) in keys.iter().zip(values) {
                if let Some(words) = key.complaint(value.as_ref()) {
                    self.field.complain(&self.field.counts.lost, words);
                }
            }
        }
        self.looked = round;
        self.field.looked.fetch_add(1, SeqCst);
    }
}
