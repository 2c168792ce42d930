//! The cluster demo's clients. Each has the same list of servers from beginning to end, as a client
//! library is configured: it speaks to one of them, whichever server has a key, and goes on with
//! the next one in the list when that one fails.
//!
//! A write that was answered with an error, or not at all, may be done or not, now or a moment
//! later. Its key is read from then on, and not written again: so of every key it is known which
//! versions may be there.

use super::super::phases::WAIT_MAX;
use super::timeline::Counted;
use crate::load::client::{ClientError, Connection};
use crate::load::ledger::Ledger;
use crate::load::workload::{Fault, Operation, Workload, key_text};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How many clients.
pub const CLIENTS: u32 = 4;
/// Pause after a failure.
const PAUSE: Duration = Duration::from_millis(5);

/// What the clients share.
pub struct Shared<'a> {
    /// What they do.
    pub workload: &'a Workload,
    /// What they have written.
    pub ledger: Ledger,
    /// Their list of servers.
    pub servers: Vec<SocketAddr>,
    /// They are to stop.
    pub stopping: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
    writes: AtomicU64,
    errors: AtomicU64,
    wrong: AtomicU64,
    /// What was wrong the first time.
    first_wrong: Mutex<Option<String>>,
    longest_ms: AtomicU64,
}

impl<'a> Shared<'a> {
    /// Before anything was done.
    pub fn new(workload: &'a Workload, servers: Vec<SocketAddr>) -> Shared<'a> {
        Shared {
            workload,
            ledger: Ledger::new(workload.keys),
            servers,
            stopping: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            first_wrong: Mutex::new(None),
            longest_ms: AtomicU64::new(0),
        }
    }

    /// Until now.
    pub fn counted(&self) -> Counted {
        Counted {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            writes: self.writes.load(Relaxed),
            errors: self.errors.load(Relaxed),
            wrong: self.wrong.load(Relaxed),
        }
    }

    /// The longest time that a client had no answer but errors.
    pub fn longest(&self) -> Duration {
        Duration::from_millis(self.longest_ms.load(Relaxed))
    }

    /// What was wrong the first time, if anything was.
    pub fn first_wrong(&self) -> Option<String> {
        self.first_wrong.lock().expect("nobody panics with it").clone()
    }

    fn note_wrong(&self, key: u32, fault: Fault) {
        self.wrong.fetch_add(1, Relaxed);
        self.first_wrong.lock().expect("nobody panics with it").get_or_insert_with(|| format!("key {key}: {fault}"));
    }
}

/// One client.
pub struct Client<'a> {
    shared: &'a Shared<'a>,
    number: u32,
    rng: fastrand::Rng,
    /// Which of the servers it speaks to.
    at: usize,
    connection: Option<Connection>,
    /// Keys of its own in which a write is in doubt.
    in_doubt: Vec<bool>,
    answered_at: Instant,
    value: Vec<u8>,
}

impl<'a> Client<'a> {
    /// The client of that number; it alone writes the keys whose numbers leave this rest.
    pub fn new(shared: &'a Shared<'a>, number: u32) -> Client<'a> {
        Client {
            shared,
            number,
            rng: fastrand::Rng::with_seed(shared.workload.seed ^ (u64::from(number) << 32)),
            at: number as usize % shared.servers.len(),
            connection: None,
            in_doubt: vec![false; shared.workload.keys as usize],
            answered_at: Instant::now(),
            value: Vec::new(),
        }
    }

    /// Write each key of its own once. Err: one was refused.
    pub fn fill(&mut self) -> Result<(), ClientError> {
        (self.number..self.shared.workload.keys).step_by(CLIENTS as usize).try_for_each(|key| self.set(key))
    }

    /// Read and write until it is to stop.
    pub fn run(&mut self) {
        self.answered_at = Instant::now();
        while !self.shared.stopping.load(Relaxed) {
            let done = match self.shared.workload.next(&mut self.rng) {
                Operation::Set(key) if self.own(key).is_some_and(|own| !self.in_doubt[own as usize]) => {
                    let own = self.own(key).expect("looked at just now");
                    self.set(own)
                }
                Operation::Set(key) | Operation::Get(key) => self.get(key),
            };
            match done {
                Ok(()) => {
                    let waited = self.answered_at.elapsed().as_millis() as u64;
                    self.shared.longest_ms.fetch_max(waited, Relaxed);
                    self.answered_at = Instant::now();
                }
                Err(_) => self.fail(),
            }
        }
    }

    /// The next one in the list.
    fn fail(&mut self) {
        self.shared.errors.fetch_add(1, Relaxed);
        self.connection = None;
        self.at = (self.at + 1) % self.shared.servers.len();
        std::thread::sleep(PAUSE);
    }

    /// The key nearest to this one that this client writes.
    fn own(&self, key: u32) -> Option<u32> {
        let own = key - key % CLIENTS + self.number;
        (own < self.shared.workload.keys).then_some(own)
    }

    fn set(&mut self, key: u32) -> Result<(), ClientError> {
        let version = self.shared.ledger.issue(key);
        self.in_doubt[key as usize] = true;
        let mut value = std::mem::take(&mut self.value);
        self.shared.workload.value(key, version, &mut value);
        let stored = self.connection().and_then(|connection| {
            let requests = connection.requests();
            requests.extend_from_slice(b"set ");
            requests.extend_from_slice(&key_text(key));
            requests.extend_from_slice(format!(" 0 0 {}\r\n", value.len()).as_bytes());
            requests.extend_from_slice(&value);
            requests.extend_from_slice(b"\r\n");
            connection.send()?;
            connection.expect("STORED")
        });
        self.value = value;
        stored?;
        self.shared.ledger.acknowledge(key, version);
        self.in_doubt[key as usize] = false;
        self.shared.writes.fetch_add(1, Relaxed);
        Ok(())
    }

    fn get(&mut self, key: u32) -> Result<(), ClientError> {
        let shared = self.shared;
        let low = shared.ledger.acknowledged(key);
        let Some(value) = self.read(key)? else {
            shared.misses.fetch_add(1, Relaxed);
            return Ok(());
        };
        match shared.workload.verify(key, low..=shared.ledger.issued(key), value) {
            Ok(_) => _ = shared.hits.fetch_add(1, Relaxed),
            Err(fault) => shared.note_wrong(key, fault),
        }
        Ok(())
    }

    fn read(&mut self, key: u32) -> Result<Option<&[u8]>, ClientError> {
        let text = key_text(key);
        let connection = self.connection()?;
        let requests = connection.requests();
        requests.extend_from_slice(b"get ");
        requests.extend_from_slice(&text);
        requests.extend_from_slice(b"\r\n");
        connection.send()?;
        connection.get_answer(&text)
    }

    fn connection(&mut self) -> Result<&mut Connection, ClientError> {
        if self.connection.is_none() {
            self.connection = Some(Connection::open(self.shared.servers[self.at], WAIT_MAX)?);
        }
        Ok(self.connection.as_mut().expect("opened just now"))
    }

    /// Read back every key, whoever has written it: how many were acknowledged, and how many of
    /// these are not there, or older than that. Err: a key cannot be read.
    pub fn read_back(&mut self) -> Result<(u64, u64), ClientError> {
        let (mut acknowledged, mut lost) = (0, 0);
        for key in 0..self.shared.workload.keys {
            if self.shared.ledger.acknowledged(key) > 0 {
                acknowledged += 1;
                lost += u64::from(!self.is_there(key)?);
            }
        }
        Ok((acknowledged, lost))
    }

    /// Whether what was acknowledged of a key is there, or something later. A wrong answer is
    /// counted as that.
    fn is_there(&mut self, key: u32) -> Result<bool, ClientError> {
        let shared = self.shared;
        let versions = shared.ledger.acknowledged(key)..=shared.ledger.issued(key);
        let judge = |value: Option<&[u8]>| value.map(|value| shared.workload.verify(key, versions.clone(), value));
        let judged = self.read(key).map(judge);
        let judged = match judged {
            Ok(judged) => judged,
            Err(_) => {
                self.fail();
                self.read(key).map(judge)?
            }
        };
        Ok(match judged {
            None => false,
            Some(Err(Fault::Version { came, low, .. })) if came < low => false,
            Some(Err(fault)) => {
                shared.note_wrong(key, fault);
                true
            }
            Some(Ok(_)) => true,
        })
    }
}
