//! The real parser, engine and store, driven like a worker drives them, but without sockets and
//! with a clock under control.

use remora::base::limits::{KEY_BYTES_MAX, KEYS_PER_TURN_MAX};
use remora::base::time::UnixSeconds;
use remora::engine::{Attempt, Context, Engine, Host, Origin, Outcome, Output, Settings, WorkerStats};
use remora::protocol::{KeyScratch, Parsed, Protocol};
use remora::store::{Item, Participant, Store, StoreConfig};
use std::sync::Arc;
use std::time::Duration;

/// Turns that a request may wait for room; the logs are tiny, so a handful is plenty.
const TURNS_MAX: usize = 10_000;

/// A store of `shards` logs of `log_bytes` each.
pub fn engine(log_bytes: usize, shards: usize, item_bytes_max: usize, evict: bool, workers: usize) -> Engine {
    let config = StoreConfig {
        memory_bytes: log_bytes * shards,
        item_bytes_max,
        evict,
        workers,
        shards: Some(shards),
        hash_seed: Some((1, 2)),
        ..StoreConfig::default()
    };
    over(Store::new(config).expect("a store of a few hundred KiB"), item_bytes_max, workers)
}

/// An engine over a store.
pub fn over(store: Store, item_bytes_max: usize, workers: usize) -> Engine {
    Engine::new(store, Settings { item_bytes_max, workers, rows: vec![("maxconns", "77".to_string())] })
}

struct Counters(Vec<Arc<WorkerStats>>, Origin);

impl Host for Counters {
    fn connections(&self, emit: &mut dyn FnMut(u64, &str, &str)) {
        emit(9, "addr", "tcp:127.0.0.1:1");
        emit(9, "state", "conn_read");
    }

    fn worker_stats(&self) -> Vec<Arc<WorkerStats>> {
        self.0.clone()
    }
}

/// Clients come from another host, unless a test says otherwise.
impl remora::engine::Client for Counters {
    fn origin(&self) -> Origin {
        self.1
    }
}

/// A worker with one connection.
pub struct Client<'e> {
    pub engine: &'e Engine,
    pub now: UnixSeconds,
    /// What it speaks.
    pub protocol: Protocol,
    /// Requests that had to wait for room.
    pub parked: u64,
    /// Seconds that pass each time that one has to.
    pub parked_seconds: u32,
    /// Times an output became full.
    pub resumed: u64,
    /// What happens once the next request is planned, before it is executed.
    pub planned: Option<Box<dyn FnOnce() + 'e>>,
    worker: usize,
    participant: Participant<'e>,
    host: Counters,
    scratch: Vec<u8>,
    key_scratch: KeyScratch,
    out: Output,
}

impl<'e> Client<'e> {
    /// The same from there.
    #[must_use]
    pub fn coming_from(mut self, origin: Origin) -> Client<'e> {
        self.host.1 = origin;
        self
    }

    pub fn new(engine: &'e Engine, worker: usize, now: u32) -> Self {
        Client {
            engine,
            now: UnixSeconds(now),
            protocol: Protocol::Text,
            parked: 0,
            parked_seconds: 0,
            resumed: 0,
            planned: None,
            worker,
            participant: engine.store().join(),
            host: Counters(vec![Arc::default()], Origin::Elsewhere),
            scratch: Vec::new(),
            key_scratch: [0; KEY_BYTES_MAX],
            out: Output::default(),
        }
    }

    /// Send whole requests; returns all answers.
    pub fn send(&mut self, input: &[u8]) -> Vec<u8> {
        let mut answers = Vec::new();
        self.send_into(input, &mut answers);
        answers
    }

    /// The same, into a buffer that the caller keeps.
    pub fn send_into(&mut self, input: &[u8], answers: &mut Vec<u8>) {
        let mut rest = input;
        while !rest.is_empty() {
            let taken = self.request(rest, answers);
            rest = &rest[taken..];
        }
    }

    /// The first request of `input`, turn by turn until it is done; returns its length.
    fn request(&mut self, input: &[u8], answers: &mut Vec<u8>) -> usize {
        let mut attempt = Attempt::default();
        for waited in 0..TURNS_MAX {
            let (outcome, taken) = self.turn(input, attempt, answers);
            match outcome {
                Outcome::Done | Outcome::Close | Outcome::Watch(_) | Outcome::Hello => return taken,
                Outcome::Part | Outcome::DropLine => panic!("whole requests are sent"),
                Outcome::Elsewhere(_) | Outcome::Forward(_) => panic!("nothing is forwarded"),
                Outcome::Resume(offset) | Outcome::Dump(offset) => {
                    assert!(offset > 0, "a resumed get has come forward");
                    self.resumed += 1;
                    attempt = Attempt { resume: offset, ..Attempt::default() };
                }
                Outcome::Park(offset) => {
                    self.parked += 1;
                    self.now.0 += self.parked_seconds;
                    attempt = Attempt { resume: offset, retried: true, last_try: false };
                    let turn = self.participant.turn();
                    self.engine.store().maintain(&turn, self.worker, self.now);
                    drop(turn);
                    // Another thread may have been interrupted within its turn; nothing is freed
                    // before it goes on.
                    std::thread::sleep(Duration::from_micros(if waited < 100 { 0 } else { 1000 }));
                }
            }
        }
        let request = String::from_utf8_lossy(&input[..input.len().min(80)]).into_owned();
        panic!("no room after {TURNS_MAX} turns for {request:?}: {:?}", self.engine.store().stats());
    }

    /// One turn of a worker: tick, parse, execute, and take the answers out before the turn ends.
    fn turn(&mut self, input: &[u8], attempt: Attempt, answers: &mut Vec<u8>) -> (Outcome, usize) {
        let turn = self.participant.turn();
        let mut context = Context {
            turn: &turn,
            now: self.now,
            stats: &self.host.0[0],
            scratch: &mut self.scratch,
            keys_left: KEYS_PER_TURN_MAX,
            host: &self.host,
            client: &self.host,
        };
        self.engine.tick(&mut context);
        let out = &mut self.out;
        let ended = match self.protocol.parse(input, self.engine.parse_limits(), &mut self.key_scratch) {
            Parsed::Request(request, taken) => (
                {
                    let target = self.engine.target(&request);
                    if let Some(happen) = self.planned.take() {
                        happen();
                    }
                    self.engine.execute(&mut context, &request, target, attempt, out)
                },
                taken,
            ),
            Parsed::Rejected(rejection) => {
                let taken = usize::try_from(rejection.skip_bytes).unwrap().min(input.len());
                (self.engine.reject(&mut context, &rejection, false, out), taken)
            }
            Parsed::Incomplete { .. } => panic!("incomplete: {:?}", String::from_utf8_lossy(input)),
        };
        if out.pending_bytes() > out.bytes().len() {
            out.detach(self.engine.store(), &turn);
        }
        // What is left is all bytes, and unsent: emptying it empties the output.
        answers.extend_from_slice(out.bytes());
        out.bytes().clear();
        ended
    }

    /// What the store has under `key`, changing nothing: `seen` is called with the item.
    pub fn look<R>(&mut self, key: &[u8], seen: impl FnOnce(&Item<'_>) -> R) -> Option<R> {
        let turn = self.participant.turn();
        let store = self.engine.store();
        store.get(&turn, &store.locate(key), self.now).map(|item| seen(&item))
    }

    /// Send text, get text.
    pub fn ask(&mut self, input: &str) -> String {
        String::from_utf8(self.send(input.as_bytes())).expect("answers to text are text")
    }
}
