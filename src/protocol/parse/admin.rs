//! Commands without a key that are seldom sent, commands for things that are not here, and lines that are no command.
//!
//! memcached's slab classes, LRU lists, crawler, log watchers, extstore and debugging commands have no counterpart in a
//! ring. They are answered as by a memcached started without them (`-o no_lru_crawler`, `-W`, no slab_reassign, no
//! shutdown, built without TLS, extstore and debugging): with its words where it has some, else with ERROR. So a tool
//! learns that the feature is off, rather than that its line was wrong.

use super::super::{Exptime, Parsed, Request, reply};
use super::line::Line;
use super::tokens::{Tokens, ack_replicas, i32_strict, u32_strict};
use crate::base::limits::ACK_MILLISECONDS_MAX;

const MEBIBYTES_MIN: u32 = 8;
const MEBIBYTES_MAX: u32 = 1_000_000_000;

const WATCH_OFF: &[u8] = b"CLIENT_ERROR watch commands not allowed\r\n";
const SHUTDOWN_OFF: &[u8] = b"SERVER_ERROR: shutdown not enabled\r\n";
const CRAWLER_OFF: &[u8] = b"CLIENT_ERROR lru crawler disabled\r\n";
const REASSIGN_OFF: &[u8] = b"CLIENT_ERROR slab reassignment disabled\r\n";
const MEMORY_TOO_SMALL: &[u8] = b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n";
const MEMORY_IN_BYTES: &[u8] = b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n";

/// Whatever the first token says, blanks before it or not.
pub fn command(line: Line<'_>) -> Parsed<'_> {
    let mut tokens = Tokens::of(line.text);
    let noreply = tokens.noreply();
    let refuse = |answer| line.refuse_unless(noreply, answer);
    match tokens.next() {
        Some(b"flush_all") => flush_all(line, tokens, noreply),
        Some(b"verbosity") => match tokens.next().and_then(u32_strict) {
            Some(level) => line.accept(Request::Verbosity { level, noreply }),
            None => refuse(reply::BAD_FORMAT),
        },
        Some(b"wait") => wait(line, tokens),
        Some(b"cache_memlimit") => cache_memlimit(line, tokens, noreply),
        Some(b"replication") => line.accept(Request::Replication(tokens.rest())),
        Some(b"shutdown") => refuse(SHUTDOWN_OFF),
        Some(b"lru_crawler") => match (tokens.next(), tokens.count()) {
            (Some(b"crawl" | b"metadump" | b"mgdump"), 1) => refuse(CRAWLER_OFF),
            _ => refuse(reply::ERROR),
        },
        Some(b"slabs") => match (tokens.next(), tokens.count()) {
            (Some(b"reassign"), 2) => refuse(REASSIGN_OFF),
            _ => refuse(reply::ERROR),
        },
        // slabs automove, lru, extstore, refresh_certs, debugtime, debugitem and misbehave fall in here as well.
        _ => unknown(line, tokens, noreply),
    }
}

/// watch: memcached looks at no noreply there.
pub fn watch(line: Line<'_>) -> Parsed<'_> {
    line.refuse(WATCH_OFF)
}

fn flush_all<'a>(line: Line<'a>, tokens: Tokens<'a>, noreply: bool) -> Parsed<'a> {
    let argument = tokens.clone().next();
    let only_noreply = noreply && tokens.count() == 1;
    let delay = match argument {
        Some(delay) if !only_noreply => i32_strict(delay),
        _ => Some(0),
    };
    match delay {
        // A flush before now is a flush now.
        Some(delay) => line.accept(Request::FlushAll { delay: Exptime(delay.max(0).into()), noreply }),
        None => line.refuse_unless(noreply, reply::BAD_EXPTIME),
    }
}

/// wait, Remora's own: how many replicas, and for how long at most. It is all about the answer, so there is no noreply.
fn wait<'a>(line: Line<'a>, mut tokens: Tokens<'a>) -> Parsed<'a> {
    let replicas = tokens.next().and_then(ack_replicas);
    let milliseconds = tokens.next().and_then(u32_strict).filter(|milliseconds| *milliseconds <= ACK_MILLISECONDS_MAX);
    match (replicas, milliseconds, tokens.next()) {
        (Some(replicas), Some(milliseconds), None) => line.accept(Request::Wait { replicas, milliseconds }),
        _ => line.refuse(reply::BAD_FORMAT),
    }
}

fn cache_memlimit<'a>(line: Line<'a>, mut tokens: Tokens<'a>, noreply: bool) -> Parsed<'a> {
    match tokens.next().and_then(u32_strict) {
        None => line.refuse_unless(noreply, reply::ERROR),
        Some(..MEBIBYTES_MIN) => line.refuse_unless(noreply, MEMORY_TOO_SMALL),
        Some(mebibytes @ MEBIBYTES_MIN..=MEBIBYTES_MAX) => {
            line.accept(Request::CacheMemlimit { mebibytes: mebibytes.into(), noreply })
        }
        Some(_) => line.refuse_unless(noreply, MEMORY_IN_BYTES),
    }
}

/// ERROR, except to something that speaks HTTP: such a connection is closed without a word, so that a web page cannot
/// talk to the cache by way of a browser.
fn unknown<'a>(line: Line<'a>, mut tokens: Tokens<'a>, noreply: bool) -> Parsed<'a> {
    let has_arguments = tokens.next().is_some();
    let mut parsed = line.refuse_unless(noreply, reply::ERROR);
    if has_arguments
        && tokens.last_token().starts_with(b"HTTP/")
        && let Parsed::Rejected(rejection) = &mut parsed
    {
        rejection.answer = b"";
        rejection.close = true;
    }
    parsed
}
