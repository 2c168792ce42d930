//! The hot paths, for `tools/instructions` to count: a real server with one worker, and a client
//! that sends it numbered requests over a unix socket and checks every answer.
//!
//!     hotpath [PART OF A NAME]          the shorter run of every such scenario: is it still what its name says?
//!     hotpath --list                    their names, and the requests of the shorter run
//!     hotpath --run SCENARIO REQUESTS   so many requests of one
//!
//! The worker is the one thread that is started here, so what that thread does is what is counted:
//! poll, read, parse, execute, write. The client, and what it puts into the store beforehand, run
//! on the main thread. Each write of the client's is one read of the worker's: one request, or
//! those of a pipelining client (`-x32`). A run of n requests is the beginning of one of 2 n, so
//! their difference is n requests and nothing of what starting costs. Nothing is left to chance:
//! keys are numbered and the hash has a fixed key. Only the clock goes on.

#[path = "hotpath/scenarios.rs"]
mod scenarios;

use remora::base::limits::KEY_BYTES_MAX;
use remora::base::time::UnixSeconds;
use remora::engine::{Engine, Settings};
use remora::protocol::request::NextKey;
use remora::protocol::{ParseLimits, Parsed, Request, parse};
use remora::server::listen::ListenConfig;
use remora::server::{Server, ServerConfig, Sockets};
use remora::store::{NewItem, Store, StoreConfig};
use scenarios::{PARSED, PIPELINED, REQUESTS, SERVED, Scenario, key};
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ITEM_BYTES_MAX: usize = 64 << 10;
/// Behind the name of a scenario whose requests come many at once.
const PIPELINED_SUFFIX: &str = "-x32";
/// valgrind is slow, and the machine may be busy.
const ANSWER_SECONDS_MAX: u64 = 60;
/// Turns that an item may wait for room before the run.
const TURNS_MAX: usize = 1000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => names().iter().for_each(|(name, requests)| println!("{name} {requests}")),
        ["--run", name, requests] => run(name, requests.parse().expect("a number of requests")),
        // As cargo bench runs it: beside its own flags there may be a part of the wanted names.
        _ => {
            let parts: Vec<_> = words.iter().filter(|word| !word.starts_with("--")).collect();
            let wanted = |name: &str| parts.iter().all(|part| name.contains(part.as_str()));
            names().iter().filter(|(name, _)| wanted(name)).for_each(|(name, requests)| run(name, *requests));
        }
    }
}

fn names() -> Vec<(String, u64)> {
    let mut names: Vec<_> = PARSED.iter().map(|(name, _)| (name.to_string(), REQUESTS)).collect();
    for scenario in &SERVED {
        names.push((scenario.name.to_string(), scenario.requests));
        if scenario.pipelined {
            names.push((format!("{}{PIPELINED_SUFFIX}", scenario.name), scenario.requests));
        }
    }
    names
}

fn run(name: &str, requests: u64) {
    if let Some((_, line)) = PARSED.iter().find(|(known, _)| *known == name) {
        let line = line();
        let parser = std::thread::Builder::new().name("parser".into());
        let thread = parser.spawn(move || (0..requests).for_each(|_| parse_whole(line.as_bytes())));
        return thread.expect("a thread").join().expect("every request is taken");
    }
    let (name, at_once) = name.strip_suffix(PIPELINED_SUFFIX).map_or((name, 1), |name| (name, PIPELINED));
    let scenario = SERVED.iter().find(|scenario| scenario.name == name);
    serve(scenario.unwrap_or_else(|| panic!("no scenario {name}: hotpath --list names them")), requests, at_once);
}

/// Parse, and walk the keys of a get as the engine would: they are checked nowhere else.
fn parse_whole(input: &[u8]) {
    let mut scratch = [0; KEY_BYTES_MAX];
    match parse(black_box(input), ParseLimits { value_bytes_max: ITEM_BYTES_MAX }, &mut scratch) {
        Parsed::Request(request, taken) => {
            assert_eq!(taken, input.len());
            if let Request::Get(get) = &request {
                let mut offset = 0;
                while let NextKey::Key(key, next) = get.keys.next(offset) {
                    black_box(key);
                    offset = next;
                }
            }
            black_box(&request);
        }
        other => panic!("{:?} was not taken: {other:?}", String::from_utf8_lossy(input)),
    }
}

fn serve(scenario: &Scenario, requests: u64, at_once: u64) {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let path = directory.path().join("socket");
    let store = store(scenario.memory_bytes);
    fill(&store, scenario);
    let before = store.stats();
    let settings = Settings { item_bytes_max: ITEM_BYTES_MAX, workers: 1, rows: Vec::new() };
    let engine = Arc::new(Engine::new(store, settings));
    let server = server(&path, engine.clone());
    let mut socket = UnixStream::connect(&path).expect("the server listens");
    socket.set_read_timeout(Some(Duration::from_secs(ANSWER_SECONDS_MAX))).expect("a time limit");
    for first in (0..requests).step_by(at_once as usize) {
        let exchanges = (first..first + at_once).map(scenario.exchange);
        let (input, expected): (String, String) = exchanges.unzip();
        socket.write_all(input.as_bytes()).expect("the server reads");
        let mut answers = vec![0; expected.len()];
        socket.read_exact(&mut answers).expect("the server answers");
        assert_eq!(String::from_utf8_lossy(&answers), expected, "{} answers {input:?}", scenario.name);
    }
    drop(socket);
    server.stopper().stop();
    server.join();
    let after = engine.store().stats();
    assert!((scenario.holds)(&before, &after), "{} was not that: {before:?}, then {after:?}", scenario.name);
}

fn store(memory_bytes: usize) -> Store {
    Store::new(StoreConfig {
        memory_bytes,
        item_bytes_max: ITEM_BYTES_MAX,
        hash_seed: Some((1, 2)),
        ..StoreConfig::default()
    })
    .expect("memory for the store")
}

/// What is there before.
fn fill(store: &Store, scenario: &Scenario) {
    let (mut seat, now, value) = (store.join(), UnixSeconds::now(), (scenario.value)());
    for number in 0..scenario.items {
        let key = key(number % scenario.keys);
        // As a worker does it: what finds no room is tried again in the next turn.
        let written = (0..TURNS_MAX).any(|_| {
            let turn = seat.turn();
            store.maintain(&turn, 0, now);
            let at = store.locate(key.as_bytes());
            let draft = store.draft(&at, NewItem { value: value.as_bytes(), ..NewItem::default() }, now);
            let written = store.lock(&at).unwrap().entry(&turn, now).set(&draft).is_ok();
            if written && scenario.used {
                store.get(&turn, &at, now).expect("it was just written").note_use(now);
            }
            written
        });
        assert!(written, "no room for {key} after {TURNS_MAX} turns: {:?}", store.stats());
    }
}

fn server(path: &Path, engine: Arc<Engine>) -> Server {
    let unix = Some(path.to_path_buf());
    let sockets = Sockets::bind(&ListenConfig { unix, unix_mode: 0o700, backlog: 1, ..ListenConfig::default() }, 1);
    let config = ServerConfig { connections_max: 1, ..ServerConfig::default() };
    Server::start(config, sockets.expect("a unix socket"), engine, Arc::default()).expect("a worker")
}
