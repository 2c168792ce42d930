//! `watch`: which events a client wants to be told of, and their lines, as memcached writes them:
//! `ts=<second>.<microsecond> gid=<number> type=..`, then what the type has, ended by a newline
//! alone.

use super::super::{Parsed, Refusal, Request};
use super::CLASS;
use super::dump::push_url_encoded;
use super::line::Line;
use super::tokens::Tokens;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// A set of kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streams(u8);

impl Streams {
    /// Of none.
    pub const NONE: Streams = Streams(0);
    /// Keys that were looked up.
    pub const FETCHERS: Streams = Streams(1);
    /// Stores, done or refused.
    pub const MUTATIONS: Streams = Streams(1 << 1);
    /// Items that had to go.
    pub const EVICTIONS: Streams = Streams(1 << 2);
    /// Connections that came and went.
    pub const CONNECTIONS: Streams = Streams(1 << 3);
    /// Items that clients deleted.
    pub const DELETIONS: Streams = Streams(1 << 4);

    /// What is in one of both.
    pub const fn and(self, other: Streams) -> Streams {
        Streams(self.0 | other.0)
    }

    /// Whether both have something in common.
    pub const fn meets(self, other: Streams) -> bool {
        self.0 & other.0 != 0
    }

    /// The set as a number.
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// The set of a number.
    pub const fn from_bits(bits: u8) -> Streams {
        Streams(bits)
    }
}

/// memcached's words, in the order in which it looks for them, and what each asks for here. Of the
/// others nothing ever happens: neither in memcached, nor without crawler, slab mover and proxy.
const WORDS: [(&str, Streams); 10] = [
    ("rawcmds", Streams::NONE),
    ("evictions", Streams::EVICTIONS),
    ("fetchers", Streams::FETCHERS),
    ("mutations", Streams::MUTATIONS),
    ("sysevents", Streams::NONE),
    ("connevents", Streams::CONNECTIONS),
    ("proxyreqs", Streams::NONE),
    ("proxyevents", Streams::NONE),
    ("proxyuser", Streams::NONE),
    ("deletions", Streams::DELETIONS),
];

/// watch. The start of a word is taken for the whole of it, and there is no noreply, as in
/// memcached.
pub fn command(line: Line<'_>) -> Parsed<'_> {
    let mut words = Tokens::of(line.text).skip(1).peekable();
    if words.peek().is_none() {
        return line.accept(Request::Watch(Streams::FETCHERS));
    }
    let known = |word: &[u8]| WORDS.iter().find(|(name, _)| name.as_bytes().starts_with(word));
    match words.try_fold(Streams::NONE, |all, word| Some(all.and(known(word)?.1))) {
        Some(streams) => line.accept(Request::Watch(streams)),
        None => line.refuse(Refusal::WatchUnknown),
    }
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A key was looked up.
    Fetched {
        /// With which luck.
        status: FetchStatus,
        /// Bytes of the value.
        value_bytes: u32,
        /// Whose request it is: the number of its socket.
        descriptor: i32,
    },
    /// A store was tried.
    Stored {
        /// With which luck.
        status: StoreStatus,
        /// The command, in memcached's words.
        command: &'static str,
        /// Seconds that the item has; 0 for ever. A time that has passed wraps.
        ttl_seconds: u32,
        /// Bytes of the value.
        value_bytes: u32,
        /// Whose request it is: the number of its socket.
        descriptor: i32,
    },
    /// A client has deleted an item.
    Deleted {
        /// By md.
        by_meta: bool,
        /// Bytes of the value.
        value_bytes: u32,
    },
    /// An item had to go.
    Evicted {
        /// It was read once.
        fetched: bool,
        /// Seconds that it still had; None for ever.
        ttl_seconds: Option<u32>,
        /// Seconds since its last use.
        idle_seconds: u32,
        /// Bytes of the value.
        value_bytes: u32,
    },
    /// A connection has come.
    Opened(Peer),
    /// A connection has gone.
    Closed(Peer, CloseReason),
}

/// What a fetch has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchStatus {
    /// There is none.
    NotFound,
    /// There it is.
    Found,
    /// It was flushed.
    Flushed,
    /// It has expired.
    Expired,
}

/// What a store has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreStatus {
    /// The condition of add, replace, append or prepend did not hold.
    NotStored,
    /// The value is in the cache.
    Stored,
    /// Someone else changed the item.
    Exists,
    /// No such item.
    NotFound,
    /// The value can never fit.
    TooLarge,
    /// There is no room.
    NoMemory,
}

/// The client's end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// None by a unix socket.
    pub address: Option<SocketAddr>,
    /// The number of the socket.
    pub descriptor: i32,
}

/// Why a connection has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// It failed, or its client was not to be served further.
    Error,
    /// The client wanted it so.
    Normal,
    /// Nothing came for too long.
    IdleTimeout,
    /// The server ends.
    Shutdown,
}

impl Event {
    /// Who wants to be told of it.
    pub const fn stream(&self) -> Streams {
        match self {
            Event::Fetched { .. } => Streams::FETCHERS,
            Event::Stored { .. } => Streams::MUTATIONS,
            Event::Deleted { .. } => Streams::DELETIONS,
            Event::Evicted { .. } => Streams::EVICTIONS,
            Event::Opened(_) | Event::Closed(..) => Streams::CONNECTIONS,
        }
    }

    /// Append its line: the `number`th, at a time since the Unix epoch. The key is encoded as in a
    /// URL; that of a connection is not looked at.
    pub fn line(&self, out: &mut Vec<u8>, at: Duration, number: u64, key: &[u8]) {
        push(out, format_args!("ts={}.{:06} gid={number} type=", at.as_secs(), at.subsec_micros()));
        match *self {
            Event::Fetched { status, value_bytes, descriptor } => {
                push_key(out, "item_get", key);
                let class = if status == FetchStatus::Found { CLASS } else { 0 };
                let status = fetch_word(status);
                push(out, format_args!("status={status} clsid={class} cfd={descriptor} size={value_bytes}\n"));
            }
            Event::Stored { status, command, ttl_seconds: ttl, value_bytes, descriptor } => {
                push_key(out, "item_store", key);
                let status = store_word(status);
                push(out, format_args!("status={status} cmd={command} ttl={ttl} clsid={CLASS} "));
                push(out, format_args!("cfd={descriptor} size={value_bytes}\n"));
            }
            Event::Deleted { by_meta, value_bytes } => {
                push_key(out, "deleted", key);
                let command = if by_meta { "md" } else { "delete" };
                push(out, format_args!("cmd={command} clsid={CLASS} size={value_bytes}\n"));
            }
            Event::Evicted { fetched, ttl_seconds, idle_seconds, value_bytes } => {
                push_key(out, "eviction", key);
                let fetched = if fetched { "yes" } else { "no" };
                let ttl = ttl_seconds.map_or(-1, i64::from);
                push(
                    out,
                    format_args!("fetch={fetched} ttl={ttl} la={idle_seconds} clsid={CLASS} size={value_bytes}\n"),
                );
            }
            Event::Opened(peer) => {
                push_peer(out, "conn_new", peer);
                push(out, format_args!("cfd={}\n", peer.descriptor));
            }
            Event::Closed(peer, reason) => {
                push_peer(out, "conn_close", peer);
                push(out, format_args!("reason={} cfd={}\n", close_word(reason), peer.descriptor));
            }
        }
    }
}

/// The line before those that follow so many that a watcher was not told.
pub fn skipped_line(out: &mut Vec<u8>, lines: u64) {
    push(out, format_args!("skipped={lines}\n"));
}

fn push(out: &mut Vec<u8>, words: std::fmt::Arguments<'_>) {
    out.write_fmt(words).expect("a vector takes whatever is written");
}

fn push_key(out: &mut Vec<u8>, kind: &str, key: &[u8]) {
    push(out, format_args!("{kind} key="));
    push_url_encoded(out, key);
    out.push(b' ');
}

fn push_peer(out: &mut Vec<u8>, kind: &str, peer: Peer) {
    match peer.address {
        Some(address) => {
            push(out, format_args!("{kind} rip={} rport={} transport=tcp ", address.ip(), address.port()));
        }
        None => push(out, format_args!("{kind} rip=unix rport=0 transport=local ")),
    }
}

fn fetch_word(status: FetchStatus) -> &'static str {
    match status {
        FetchStatus::NotFound => "not_found",
        FetchStatus::Found => "found",
        FetchStatus::Flushed => "flushed",
        FetchStatus::Expired => "expired",
    }
}

fn store_word(status: StoreStatus) -> &'static str {
    match status {
        StoreStatus::NotStored => "not_stored",
        StoreStatus::Stored => "stored",
        StoreStatus::Exists => "exists",
        StoreStatus::NotFound => "not_found",
        StoreStatus::TooLarge => "too_large",
        StoreStatus::NoMemory => "no_memory",
    }
}

fn close_word(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Error => "error",
        CloseReason::Normal => "normal",
        CloseReason::IdleTimeout => "idle_timeout",
        CloseReason::Shutdown => "shutdown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: Event) -> String {
        let mut out = Vec::new();
        event.line(&mut out, Duration::from_micros(1_700_000_000_000_042), 7, b"a,b \xFF~");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_memcacheds() {
        let begin = "ts=1700000000.000042 gid=7";
        let key = "key=a%2Cb%20%FF~";
        let fetched = |status| Event::Fetched { status, value_bytes: 3, descriptor: 12 };
        let peer = Peer { address: Some("[::1]:9".parse().unwrap()), descriptor: 12 };
        let of_unix = Peer { address: None, descriptor: 5 };
        let stored = Event::Stored {
            status: StoreStatus::Exists,
            command: "cas",
            ttl_seconds: 30,
            value_bytes: 4,
            descriptor: 12,
        };
        let evicted = |ttl_seconds: Option<u32>| Event::Evicted {
            fetched: ttl_seconds.is_some(),
            ttl_seconds,
            idle_seconds: 8,
            value_bytes: 2,
        };
        for (event, expected) in [
            (fetched(FetchStatus::Found), format!("item_get {key} status=found clsid=1 cfd=12 size=3")),
            (fetched(FetchStatus::Expired), format!("item_get {key} status=expired clsid=0 cfd=12 size=3")),
            (stored, format!("item_store {key} status=exists cmd=cas ttl=30 clsid=1 cfd=12 size=4")),
            (Event::Deleted { by_meta: true, value_bytes: 2 }, format!("deleted {key} cmd=md clsid=1 size=2")),
            (evicted(None), format!("eviction {key} fetch=no ttl=-1 la=8 clsid=1 size=2")),
            (evicted(Some(9)), format!("eviction {key} fetch=yes ttl=9 la=8 clsid=1 size=2")),
            (Event::Opened(peer), "conn_new rip=::1 rport=9 transport=tcp cfd=12".to_string()),
            (
                Event::Closed(of_unix, CloseReason::IdleTimeout),
                "conn_close rip=unix rport=0 transport=local reason=idle_timeout cfd=5".to_string(),
            ),
        ] {
            assert_eq!(line(event), format!("{begin} type={expected}\n"));
        }
    }

    #[test]
    fn the_start_of_a_word_is_taken_for_the_whole() {
        let parsed = |line: &str| {
            let line = format!("{line}\n");
            match command(Line::ending_at(line.as_bytes(), line.len() - 1)) {
                Parsed::Request(Request::Watch(streams), _) => Ok(streams),
                Parsed::Rejected(rejection) => Err(rejection.refusal),
                parsed => panic!("{line}: {parsed:?}"),
            }
        };
        for (line, expected) in [
            ("watch", Ok(Streams::FETCHERS)),
            ("watch  deletions evictions ", Ok(Streams::DELETIONS.and(Streams::EVICTIONS))),
            ("watch f m c", Ok(Streams::FETCHERS.and(Streams::MUTATIONS).and(Streams::CONNECTIONS))),
            ("watch rawcmds sysevents proxyreqs proxyevents proxyuser", Ok(Streams::NONE)),
            ("watch noreply", Err(Refusal::WatchUnknown)),
            ("watch fetchers foo", Err(Refusal::WatchUnknown)),
            ("watch fetchersx", Err(Refusal::WatchUnknown)),
        ] {
            assert_eq!(parsed(line), expected, "{line}");
        }
    }
}
