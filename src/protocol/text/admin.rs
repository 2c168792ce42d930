//! Commands without a key that are seldom sent, commands for things that are not here, and lines
//! that are no command.
//!
//! memcached's slab classes, LRU lists, crawler, extstore and debugging commands have no
//! counterpart in a log. They are answered as by a memcached started without them (`-o
//! no_lru_crawler`, no slab_reassign, built without extstore and debugging): with its words where
//! it has some, else with ERROR. So a tool learns that the feature is off. (Dumps are here, which
//! need no crawler.) A line that memcached would refuse whatever its features is refused with the
//! same words here. What would succeed there and change nothing here is answered ERROR, never OK.

use super::super::request::{Discovery, Dump, DumpedClasses};
use super::super::{Exptime, Parsed, Refusal, Reply, Request, Shutdown};
use super::dump::DumpForm;
use super::hello;
use super::line::Line;
use super::tokens::{Tokens, ack_replicas, i32_strict, u32_strict};
use crate::base::limits::{
    ACK_MILLISECONDS_MAX, CRAWLER_SLEEP_MICROSECONDS_MAX, MEMLIMIT_MEBIBYTES_MAX, MEMLIMIT_MEBIBYTES_MIN,
};
use crate::base::time::ClockChange;
use arrayvec::ArrayVec;

/// The slab class in which all items are, for the tools that ask for classes.
pub const CLASS: u32 = 1;
/// The last one that memcached may have.
pub const CLASSES_MAX: u32 = 63;

/// Words behind `slabs reassign` and `slabs automove` that are looked at, and one more.
const ARGUMENTS_MAX: usize = 3;
/// Whatever the first token says, blanks before it or not.
pub fn command(line: Line<'_>) -> Parsed<'_> {
    let mut tokens = Tokens::of(line.text);
    let reply = tokens.reply();
    let refuse = |refusal| line.refuse_to(reply, refusal);
    match tokens.next() {
        Some(b"flush_all") => flush_all(line, tokens, reply),
        Some(b"verbosity") => match tokens.next().and_then(u32_strict) {
            Some(level) => line.accept(Request::Verbosity { level, reply }),
            None => refuse(Refusal::BadFormat),
        },
        Some(b"wait") => wait(line, tokens),
        Some(b"cache_memlimit") => cache_memlimit(line, tokens, reply),
        Some(b"replication") => line.accept(Request::Replication(tokens.rest())),
        Some(b"hello") => hello::command(line, tokens),
        Some(b"config") => match discovery(tokens) {
            Some(what) => line.accept(Request::Discover { what, reply }),
            None => refuse(Refusal::UnknownCommand),
        },
        Some(b"shutdown") => line.accept(Request::Shutdown { mode: shutdown(tokens), reply }),
        Some(b"refresh_certs") => line.accept(Request::RefreshCertificates(reply)),
        Some(b"lru_crawler") => match lru_crawler(tokens) {
            Ok(dump) => line.accept(Request::Dump(dump)),
            Err(refusal) => refuse(refusal),
        },
        Some(b"slabs") => refuse(slabs(tokens)),
        Some(b"lru") => refuse(lru(tokens)),
        Some(b"debugtime") if cfg!(feature = "debugtime") => match debugtime(tokens) {
            Some(change) => line.accept(Request::DebugTime { change, reply }),
            None => refuse(Refusal::UnknownCommand),
        },
        // extstore, debugtime, debugitem and misbehave are unknown to a memcached
        // built without them.
        _ => unknown(line, tokens, reply),
    }
}

/// What the words behind `config` ask for.
fn discovery(mut tokens: Tokens<'_>) -> Option<Discovery> {
    match (tokens.next()?, tokens.next()?, tokens.next()) {
        (b"get", b"cluster", None) => Some(Discovery::Cluster),
        (b"get", b"map", None) => Some(Discovery::Map),
        _ => None,
    }
}

/// The word behind `shutdown`; memcached takes the start of it for the whole.
fn shutdown(mut tokens: Tokens<'_>) -> Shutdown {
    match (tokens.next(), tokens.next()) {
        (None, _) => Shutdown::Plain,
        (Some(word), None) if b"graceful".starts_with(word) => Shutdown::Graceful,
        _ => Shutdown::Unknown,
    }
}

/// The word behind `debugtime`: `p` to have the clock stand, `r` to have it go, or seconds.
fn debugtime(mut tokens: Tokens<'_>) -> Option<ClockChange> {
    match tokens.next()? {
        b"p" => Some(ClockChange::Pause),
        b"r" => Some(ClockChange::Resume),
        seconds => i32_strict(seconds).map(|seconds| ClockChange::Step(seconds.into())),
    }
}

/// Which answer memcached has for the words behind `slabs`. It takes the start of a subcommand for
/// the whole of it.
fn slabs(mut tokens: Tokens<'_>) -> Refusal {
    let Some(subcommand) = tokens.next() else {
        return Refusal::UnknownCommand;
    };
    let arguments: ArrayVec<&[u8], ARGUMENTS_MAX> = tokens.take(ARGUMENTS_MAX).collect();
    match arguments[..] {
        [_, _] if b"reassign".starts_with(subcommand) => Refusal::ReassignOff,
        [first, ..] if b"automove".starts_with(subcommand) => slabs_automove(first, arguments.get(1).copied()),
        _ => Refusal::UnknownCommand,
    }
}

/// A mode that memcached would take is refused with ERROR: nothing would come of it here.
fn slabs_automove(first: &[u8], second: Option<&[u8]>) -> Refusal {
    if b"ratio".starts_with(first) || b"freeratio".starts_with(first) {
        return Refusal::UnknownCommand;
    }
    if !b"window".starts_with(first) {
        return if u32_strict(first).is_some() { Refusal::UnknownCommand } else { Refusal::BadFormat };
    }
    match second.and_then(u32_strict) {
        None => Refusal::BadFormat,
        Some(3..=1800) => Refusal::UnknownCommand,
        Some(_) => Refusal::AutomoveWindow,
    }
}

/// Which answer memcached has for the words behind `lru`.
fn lru(mut tokens: Tokens<'_>) -> Refusal {
    let (Some(subcommand), Some(hot), Some(warm), Some(hot_age), Some(warm_age)) =
        (tokens.next(), tokens.next(), tokens.next(), tokens.next(), tokens.next())
    else {
        return Refusal::UnknownCommand;
    };
    let (Some(hot), Some(warm), Some(hot_age), Some(warm_age)) =
        (u32_strict(hot), u32_strict(warm), fraction(hot_age), fraction(warm_age))
    else {
        return Refusal::UnknownCommand;
    };
    match b"tune".starts_with(subcommand) {
        true if hot.wrapping_add(warm) > 80 => Refusal::LruShares,
        true if hot_age <= 0.0 || warm_age <= 0.0 => Refusal::LruAges,
        _ => Refusal::UnknownCommand,
    }
}

fn fraction(token: &[u8]) -> Option<f64> {
    std::str::from_utf8(token).ok()?.parse().ok()
}

/// A dump, or which answer memcached has for the words behind `lru_crawler`.
fn lru_crawler(mut tokens: Tokens<'_>) -> Result<Dump, Refusal> {
    let Some(subcommand) = tokens.next() else {
        return Err(Refusal::UnknownCommand);
    };
    let is = |name: &[u8]| name.starts_with(subcommand);
    Err(match (tokens.next(), tokens.next()) {
        (None, _) if is(b"enable") => Refusal::CrawlerDoesNotStart,
        (Some(_), None) if is(b"crawl") => Refusal::CrawlerOff,
        (Some(list), None) if is(b"metadump") => return Ok(Dump { form: DumpForm::Meta, classes: classes(list) }),
        (Some(list), None) if is(b"mgdump") => return Ok(Dump { form: DumpForm::Requests, classes: classes(list) }),
        (Some(number), None) if is(b"tocrawl") => numbered(number, u32::MAX, Refusal::BadFormat),
        (Some(number), None) if is(b"sleep") => numbered(number, CRAWLER_SLEEP_MICROSECONDS_MAX, Refusal::CrawlerSleep),
        _ => Refusal::UnknownCommand,
    })
}

/// `all`, `hash`, or numbers of slab classes with commas between them.
fn classes(list: &[u8]) -> DumpedClasses {
    if list == b"all" || list == b"hash" {
        return DumpedClasses::All;
    }
    let mut classes = DumpedClasses::None;
    for word in list.split(|byte| *byte == b',').filter(|word| !word.is_empty()) {
        classes = match (u32_strict(word), classes) {
            (Some(CLASS), _) => DumpedClasses::All,
            (Some(CLASS..=CLASSES_MAX), DumpedClasses::None) => DumpedClasses::Empty,
            (Some(CLASS..=CLASSES_MAX), before) => before,
            _ => return DumpedClasses::Invalid,
        };
    }
    classes
}

fn numbered(token: &[u8], most: u32, too_large: Refusal) -> Refusal {
    match u32_strict(token) {
        None => Refusal::BadFormat,
        Some(number) if number > most => too_large,
        Some(_) => Refusal::UnknownCommand,
    }
}

fn flush_all<'a>(line: Line<'a>, tokens: Tokens<'a>, reply: Reply) -> Parsed<'a> {
    let argument = tokens.clone().next();
    let only_noreply = reply == Reply::Silent && tokens.count() == 1;
    let delay = match argument {
        Some(delay) if !only_noreply => i32_strict(delay),
        _ => Some(0),
    };
    match delay {
        // A flush before now is a flush now.
        Some(delay) => line.accept(Request::FlushAll { delay: Exptime(delay.max(0).into()), reply }),
        None => line.refuse_to(reply, Refusal::BadFlushDelay),
    }
}

/// wait, Remora's own: how many replicas, and for how long at most. It is all about the answer, so
/// there is no noreply.
fn wait<'a>(line: Line<'a>, mut tokens: Tokens<'a>) -> Parsed<'a> {
    let replicas = tokens.next().and_then(ack_replicas);
    let milliseconds = tokens.next().and_then(u32_strict).filter(|milliseconds| *milliseconds <= ACK_MILLISECONDS_MAX);
    match (replicas, milliseconds, tokens.next()) {
        (Some(replicas), Some(milliseconds), None) => line.accept(Request::Wait { replicas, milliseconds }),
        _ => line.refuse(Refusal::BadFormat),
    }
}

fn cache_memlimit<'a>(line: Line<'a>, mut tokens: Tokens<'a>, reply: Reply) -> Parsed<'a> {
    match tokens.next().and_then(u32_strict) {
        None => line.refuse_to(reply, Refusal::UnknownCommand),
        Some(..MEMLIMIT_MEBIBYTES_MIN) => line.refuse_to(reply, Refusal::MemoryTooSmall),
        Some(mebibytes @ MEMLIMIT_MEBIBYTES_MIN..=MEMLIMIT_MEBIBYTES_MAX) => {
            line.accept(Request::CacheMemlimit { mebibytes: mebibytes.into(), reply })
        }
        Some(_) => line.refuse_to(reply, Refusal::MemoryInBytes),
    }
}

/// ERROR, except to something that speaks HTTP: such a connection is closed without a word, so that
/// a web page cannot talk to the cache by way of a browser.
fn unknown<'a>(line: Line<'a>, mut tokens: Tokens<'a>, reply: Reply) -> Parsed<'a> {
    let has_arguments = tokens.next().is_some();
    let mut parsed = line.refuse_to(reply, Refusal::UnknownCommand);
    if has_arguments
        && tokens.last_token().starts_with(b"HTTP/")
        && let Parsed::Rejected(rejection) = &mut parsed
    {
        rejection.reply = Reply::Silent;
        rejection.close = true;
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_has_two_modes() {
        for (line, expected) in [
            ("shutdown", Shutdown::Plain),
            ("shutdown graceful", Shutdown::Graceful),
            ("shutdown g", Shutdown::Graceful),
            ("shutdown noreply", Shutdown::Unknown),
            ("shutdown now", Shutdown::Unknown),
            ("shutdown graceful now", Shutdown::Unknown),
        ] {
            let mut tokens = Tokens::of(line.as_bytes());
            tokens.next();
            assert_eq!(shutdown(tokens), expected, "{line}");
        }
    }

    #[test]
    fn debugtime_stops_starts_and_steps() {
        for (words, expected) in [
            ("p", Some(ClockChange::Pause)),
            ("r", Some(ClockChange::Resume)),
            ("100", Some(ClockChange::Step(100))),
            ("-7", Some(ClockChange::Step(-7))),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(debugtime(Tokens::of(words.as_bytes())), expected, "{words}");
        }
    }
}
