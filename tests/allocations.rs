//! Handling a request allocates nothing: once buffers have grown, parsing, executing and answering
//! run in what is there. Nor does asking: what `remora load` costs is missing from the server that
//! it measures.

mod support;

use remora::load::drive::{Account, Phase, open};
use remora::load::hand::Hand;
use remora::load::ledger::Ledger;
use remora::load::plan::{Traffic, filler};
use remora::load::question::Protocol;
use remora::load::schedule::Spacing;
use remora::load::stream::Target;
use remora::load::workload::{KeyChoice, Workload};
use remora::load::zipf::Zipf;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Instant;
use support::harness::{self, Client};
use support::packets::Packet;

thread_local! {
    /// Allocations of this thread; others (the test harness's own) are none of our business.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

fn count() {
    // A thread that is being torn down has no counter any more; it measures nothing either.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

#[allow(unsafe_code)]
// SAFETY: every call goes to the system's allocator unchanged; counting touches only a thread-local
// number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the system allocator's own.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; what is freed came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

const ROUNDS: usize = 2000;

/// Rounds of these requests to an engine whose log comes round.
fn allocate_nothing(protocol: remora::protocol::Protocol, requests: &[u8]) {
    // Small enough to wrap while measured: reclaim must not allocate either.
    let engine = harness::engine(1 << 20, 1, 64 << 10, true, 1);
    let mut client = Client::new(&engine, 0, 1_700_000_000);
    client.protocol = protocol;
    let mut answers = Vec::new();
    let mut round = |client: &mut Client<'_>| {
        answers.clear();
        client.send_into(requests, &mut answers);
        answers.len()
    };
    let warm_bytes = round(&mut client);
    assert!(warm_bytes > 500, "{warm_bytes} bytes of answers");
    for _ in 0..10 {
        round(&mut client);
    }
    let before = allocations();
    for _ in 0..ROUNDS {
        round(&mut client);
    }
    assert_eq!(allocations() - before, 0, "allocations in {ROUNDS} rounds of requests");
    let stats = engine.store().stats();
    assert!(stats.counts.appended_bytes > stats.capacity_bytes, "the log has come round: {stats:?}");
}

#[test]
fn requests_allocate_nothing() {
    let value = "v".repeat(100);
    let requests = format!(
        "set a 5 0 100\r\n{value}\r\nget a\r\ngets a missing\r\nset n 0 0 2\r\n10\r\nincr n 5\r\ndecr n 1\r\n\
         mg a v c t f s h l k O1\r\nms b 100 c\r\n{value}\r\nma n v c\r\nmd b I\r\nmg b v\r\nmd b q\r\ntouch a 100\r\n\
         gat 0 a\r\nappend a 0 0 3\r\nabc\r\nprepend a 0 0 3\r\nabc\r\ncas a 0 0 1 5\r\nx\r\nadd a 0 0 1\r\nx\r\n\
         mg Zm9v b v k N30\r\nreplace a 0 0 1\r\nx\r\nme a\r\nmn\r\nversion\r\ndelete a\r\ndelete a\r\n"
    );
    allocate_nothing(remora::protocol::Protocol::Text, requests.as_bytes());
}

#[test]
fn packets_allocate_nothing() {
    let value = [b'v'; 400];
    let mut requests = Vec::new();
    let mut add = |opcode: u8, extras: &[u8], key: &[u8], value: &[u8]| {
        requests.extend(Packet { opcode, extras, key, value, ..Packet::default() }.bytes());
    };
    // set, setq, add, replace; then all that read, with and without a touch, hits and misses.
    for opcode in [0x01, 0x11, 0x02, 0x03] {
        add(opcode, &[0; 8], b"a", &value);
    }
    for (opcode, extras) in
        [(0x00, 0), (0x09, 0), (0x0C, 0), (0x0D, 0), (0x1C, 4), (0x1D, 4), (0x1E, 4), (0x23, 4), (0x24, 4)]
    {
        add(opcode, &vec![0; extras], b"a", b"");
        add(opcode, &vec![0; extras], b"missing", b"");
    }
    // append, prepend, incr that creates, decr, noop, version, delete, of what is gone, too.
    add(0x0E, b"", b"a", b"abc");
    add(0x1A, b"", b"a", b"abc");
    add(0x05, &[0; 20], b"n", b"");
    add(0x16, &[0; 20], b"n", b"");
    add(0x06, &[0; 20], b"a", b"");
    for (opcode, key) in [(0x0A, ""), (0x0B, ""), (0x04, "a"), (0x14, "a"), (0x04, "n")] {
        add(opcode, b"", key.as_bytes(), b"");
    }
    allocate_nothing(remora::protocol::Protocol::Binary, &requests);
}

/// What a run of `remora load` asks, and how.
#[derive(Clone, Copy)]
struct Asking {
    protocol: Protocol,
    verify: bool,
    keys_per_get: u32,
    pipeline: u32,
    rate: Option<f64>,
}

const CONNECTIONS: u32 = 4;

/// Allocations while one thread sends so many commands and takes their answers.
fn allocations_of_load(server: SocketAddr, asking: Asking, commands: u64) -> u64 {
    let Asking { protocol, verify, keys_per_get, pipeline, rate } = asking;
    let choice = KeyChoice::Zipf(Zipf::new(1000, 0.9));
    let value_bytes = "16-200:9,3000:1".parse().expect("lengths");
    let traffic = Traffic {
        workload: Workload { seed: 1, keys: 1000, choice, value_bytes, gets_per_set: 1 },
        protocol,
        sets: 1,
        gets: 1,
        keys_per_get,
        ttl_seconds: 60,
        ledger: verify.then(|| Ledger::new(1000)),
        filler: filler(1, 3000),
    };
    let targets = [Target { name: server.to_string(), addresses: vec![server.into()], trust: None }];
    let phase = Phase {
        traffic: &traffic,
        targets: &targets,
        connections: CONNECTIONS,
        threads: 1,
        pipeline,
        fill: false,
        rate,
        spacing: Spacing::Poisson,
        duration: None,
        commands: Some(commands),
        stop: &AtomicBool::new(false),
    };
    let callers = open(&phase, 0).expect("connections to a server that runs");
    let hand = Hand::new(&phase, Instant::now(), callers, commands).expect("a poller");
    // The tick is raised once: counts are handed over on the way.
    let (account, tick) = (Account::default(), AtomicU32::new(1));
    let before = allocations();
    let farewell = hand.run(&account, &tick);
    assert!(farewell.error.is_none() && farewell.unsent == 0, "{:?}", farewell.error);
    allocations() - before
}

#[test]
fn asking_allocates_nothing() {
    let server = support::Server::start(&["-m", "16", "-t", "1"]);
    let resp = support::peers::resp_server(false);
    let plain = Asking { protocol: Protocol::Text, verify: false, keys_per_get: 1, pipeline: 1, rate: None };
    for (name, asking) in [
        ("text", plain),
        ("text, pipelined, verified", Asking { verify: true, keys_per_get: 3, pipeline: 16, ..plain }),
        ("meta, open loop", Asking { protocol: Protocol::Meta, rate: Some(10_000.0), ..plain }),
        ("RESP, verified", Asking { protocol: Protocol::Resp, verify: true, keys_per_get: 2, pipeline: 4, ..plain }),
    ] {
        let address = if asking.protocol == Protocol::Resp { resp } else { server.tcp[0] };
        let few = allocations_of_load(address, asking, 1000);
        let many = allocations_of_load(address, asking, 11_000);
        // A buffer of a connection may double a few times more in the longer run, as answers happen
        // to be cut.
        let growth_max = u64::from(CONNECTIONS) * 8;
        assert!(many <= few + growth_max, "{name}: {few} allocations for 1000 commands, {many} for 11000");
    }
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert_eq!(allocations() - before, 1);
}
