//! The hot paths: what the client sends, what must come back, and what must be there before.
//!
//! Each is a function from a request's number to the request and its answer, so that any two runs
//! begin alike.

use remora::store::StoreStats;

/// Requests of the shorter run; the longer one has twice as many.
pub const REQUESTS: u64 = 2048;
/// Requests that a pipelining client sends at once.
pub const PIPELINED: u64 = 32;
const MULTIGET_KEYS: u64 = 50;
/// Keys that are asked for again and again. Few: the clock changes each once a second, by its time
/// of last access.
const HOT_KEYS: u64 = 64;
/// Hot ones and others, so that the index has seen growth.
const ITEMS: u64 = 4096;
/// A cache that nothing is evicted from.
const ROOMY_BYTES: usize = 64 << 20;
/// A cache that has wrapped with so many items.
const TIGHT_BYTES: usize = 2 << 20;
const TIGHT_ITEMS: u64 = 20_000;
const FITTING_ITEMS: u64 = 14_000;
const VALUE_BYTES: usize = 100;
/// A counter whose number of digits stays.
const COUNTER: u64 = 1_000_000_000;

/// One hot path.
pub struct Scenario {
    pub name: &'static str,
    pub memory_bytes: usize,
    /// Items that are written before, under keys 0 and up.
    pub items: u64,
    /// So many different keys; then they are written again.
    pub keys: u64,
    /// Their value.
    pub value: fn() -> String,
    /// Whether they have been read.
    pub used: bool,
    /// Requests of the shorter run.
    pub requests: u64,
    /// Whether a pipelining client sends this, too.
    pub pipelined: bool,
    /// The request with a number, and its answer.
    pub exchange: fn(u64) -> (String, String),
    /// Whether the run was what the name says, given what the store counted before and after.
    pub holds: fn(&StoreStats, &StoreStats) -> bool,
}

impl Scenario {
    const fn new(name: &'static str, exchange: fn(u64) -> (String, String)) -> Scenario {
        Scenario {
            name,
            memory_bytes: ROOMY_BYTES,
            items: ITEMS,
            keys: u64::MAX,
            value,
            used: false,
            requests: REQUESTS,
            pipelined: true,
            exchange,
            holds: |_, after| after.counts.evictions == 0,
        }
    }
}

/// All that go through a server.
pub const SERVED: [Scenario; 13] = [
    Scenario::new("get-hit", |n| (format!("get {}\r\n", hot(n)), value_answer(&hot(n)) + "END\r\n")),
    Scenario::new("get-miss", |n| (format!("get no{}\r\n", &hot(n)[2..]), "END\r\n".into())),
    Scenario {
        requests: REQUESTS / MULTIGET_KEYS,
        pipelined: false,
        ..Scenario::new("get-50-keys", |n| {
            let keys: Vec<_> = (0..MULTIGET_KEYS).map(|at| hot(n * MULTIGET_KEYS + at)).collect();
            let answers: String = keys.iter().map(|key| value_answer(key)).collect();
            (format!("get {}\r\n", keys.join(" ")), answers + "END\r\n")
        })
    },
    Scenario::new("mg-hit", |n| (mg(&hot(n)), format!("VA 100 s100 f0 t-1 k{}\r\n{}\r\n", hot(n), value()))),
    Scenario::new("set-overwrite", |n| set(&hot(n))),
    // The log is full of what was overwritten before, which reclaim passes by.
    Scenario {
        memory_bytes: TIGHT_BYTES,
        items: TIGHT_ITEMS,
        keys: ITEMS,
        holds: |before, after| after.reclaimed_bytes > before.reclaimed_bytes && after.counts.reinserted_items == 0,
        ..Scenario::new("set-overwrite-full", |n| set(&key((TIGHT_ITEMS + n) % ITEMS)))
    },
    Scenario::new("ms-overwrite", |n| (ms(&hot(n)), "HD\r\n".into())),
    Scenario {
        holds: |before, after| after.index_buckets > before.index_buckets * 5 / 4 && after.counts.evictions == 0,
        ..Scenario::new("set-new", |n| set(&key(ITEMS + n)))
    },
    Scenario {
        memory_bytes: TIGHT_BYTES,
        items: TIGHT_ITEMS,
        holds: |before, after| after.counts.evictions > before.counts.evictions && after.counts.reinserted_items == 0,
        ..Scenario::new("set-evicting", |n| set(&key(TIGHT_ITEMS + n)))
    },
    Scenario {
        memory_bytes: TIGHT_BYTES,
        // As many as fit: none of them has had its second chance yet.
        items: FITTING_ITEMS,
        used: true,
        holds: |before, after| after.counts.reinserted_items > before.counts.reinserted_items,
        ..Scenario::new("set-second-chances", |n| set(&key(TIGHT_ITEMS + n)))
    },
    Scenario {
        items: 2 * REQUESTS,
        ..Scenario::new("delete", |n| (format!("delete {}\r\n", key(n)), "DELETED\r\n".into()))
    },
    Scenario {
        value: || COUNTER.to_string(),
        ..Scenario::new("incr", |n| (format!("incr {} 1\r\n", hot(n)), format!("{}\r\n", COUNTER + n / HOT_KEYS + 1)))
    },
    Scenario::new("touch", |n| (format!("touch {} 0\r\n", hot(n)), "TOUCHED\r\n".into())),
];

/// A name, and the request.
pub type Line = (&'static str, fn() -> String);

/// What goes through the parser alone.
pub const PARSED: [Line; 4] = [
    ("parse-get", || format!("get {}\r\n", key(0))),
    ("parse-set", || set(&key(0)).0),
    ("parse-mg", || mg(&key(0))),
    ("parse-ms", || ms(&key(0))),
];

/// 20 bytes.
pub fn key(number: u64) -> String {
    format!("key-{number:016}")
}

fn hot(number: u64) -> String {
    key(number % HOT_KEYS)
}

fn value() -> String {
    "v".repeat(VALUE_BYTES)
}

fn value_answer(key: &str) -> String {
    format!("VALUE {key} 0 {VALUE_BYTES}\r\n{}\r\n", value())
}

fn set(key: &str) -> (String, String) {
    (format!("set {key} 0 0 {VALUE_BYTES}\r\n{}\r\n", value()), "STORED\r\n".into())
}

fn mg(key: &str) -> String {
    format!("mg {key} s v f t k\r\n")
}

fn ms(key: &str) -> String {
    format!("ms {key} {VALUE_BYTES} T0 F0\r\n{}\r\n", value())
}
