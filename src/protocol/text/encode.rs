//! The encoder of the text protocol: what commands came to, as lines in memcached's order and
//! spelling.
//!
//! Appends only, to a buffer that lives as long as its connection: once that is warm nothing here
//! allocates.

use super::super::VERSION;
use super::super::answer::{Counted, DebugFacts, Done, MetaFacts, PrefixCounts, Removed, Stored, Touched};
use super::super::refusal::Refusal;
use super::super::reply::Fault;
use super::meta::{MetaRequest, MetaVerb, flag_tokens};
use crate::base::limits::KEY_BYTES_MAX;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Display;
use std::io::Write as _;

const NOT_FOUND: &[u8] = b"NOT_FOUND\r\n";
const EXISTS: &[u8] = b"EXISTS\r\n";
const LINE_END: &[u8] = b"\r\n";

/// set and its kin.
#[inline]
pub fn stored(out: &mut Vec<u8>, stored: Stored) {
    match stored {
        Stored::Written { .. } => out.extend_from_slice(b"STORED\r\n"),
        Stored::NotStored => push_rare(out, b"NOT_STORED\r\n"),
        Stored::Exists => push_rare(out, EXISTS),
        Stored::NotFound => push_rare(out, NOT_FOUND),
    }
}

/// A line that is not the usual answer: apart, so that the usual one is appended as the constant
/// that it is, without a call.
#[cold]
#[inline(never)]
fn push_rare(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(line);
}

/// incr and decr: the number, on a line of its own.
#[inline]
pub fn counted(out: &mut Vec<u8>, counted: Counted) {
    match counted {
        Counted::Number { number, .. } => number_line(out, number),
        Counted::NotFound => push_rare(out, NOT_FOUND),
        Counted::NonNumeric => push_rare(out, Refusal::NonNumeric.line()),
        Counted::Exists => push_rare(out, EXISTS),
    }
}

/// delete.
#[inline]
pub fn removed(out: &mut Vec<u8>, removed: Removed) {
    match removed {
        Removed::Done => out.extend_from_slice(b"DELETED\r\n"),
        Removed::NotFound => push_rare(out, NOT_FOUND),
        Removed::Exists => push_rare(out, EXISTS),
    }
}

/// touch.
#[inline]
pub fn touched(out: &mut Vec<u8>, touched: Touched) {
    match touched {
        Touched::Done => out.extend_from_slice(b"TOUCHED\r\n"),
        Touched::NotFound => push_rare(out, NOT_FOUND),
    }
}

/// What has nothing else to say.
pub fn done(out: &mut Vec<u8>, done: Done) {
    out.extend_from_slice(match done {
        Done::Ok => b"OK\r\n",
        Done::Reset => b"RESET\r\n",
        Done::Noop => b"MN\r\n",
    });
}

/// After the last value of a get, and after the last row of stats.
#[inline]
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"END\r\n");
}

/// `VERSION <version>\r\n`
pub fn version(out: &mut Vec<u8>) {
    for piece in [b"VERSION ", VERSION.as_bytes(), LINE_END] {
        out.extend_from_slice(piece);
    }
}

/// `STAT <name> <value>\r\n`
pub fn row(out: &mut Vec<u8>, name: impl Display, value: impl Display) {
    write!(out, "STAT {name} {value}\r\n").expect("writing to a Vec cannot fail");
}

/// `PREFIX <prefix> get <n> hit <n> set <n> del <n>\r\n`
pub fn prefix(out: &mut Vec<u8>, prefix: &[u8], counts: &PrefixCounts) {
    out.extend_from_slice(b"PREFIX ");
    out.extend_from_slice(prefix);
    let PrefixCounts { gets, hits, sets, deletes } = counts;
    write!(out, " get {gets} hit {hits} set {sets} del {deletes}\r\n").expect("writing to a Vec cannot fail");
}

/// `CLIENT_ERROR <why>\r\n` or `SERVER_ERROR <why>\r\n`
pub fn refused_because(out: &mut Vec<u8>, fault: Fault, why: impl Display) {
    let kind = match fault {
        Fault::Client => "CLIENT_ERROR",
        Fault::Server => "SERVER_ERROR",
    };
    write!(out, "{kind} {why}\r\n").expect("writing to a Vec cannot fail");
}

/// `REPLICAS <count>\r\n`: wait.
pub fn replicas(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(b"REPLICAS ");
    number_line(out, count as u64);
}

fn number_line(out: &mut Vec<u8>, number: u64) {
    push_number(out, number);
    out.extend_from_slice(LINE_END);
}

/// `VALUE <key> <flags> <bytes> [<cas>]\r\n`; the value is the caller's to add, and then
/// [`value_end`].
pub fn value_line(out: &mut Vec<u8>, key: &[u8], client_flags: u32, value_bytes: usize, cas: Option<u64>) {
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    push_number(out, client_flags.into());
    out.push(b' ');
    push_number(out, value_bytes as u64);
    if let Some(cas) = cas {
        out.push(b' ');
        push_number(out, cas);
    }
    out.extend_from_slice(LINE_END);
}

/// What stands behind a value.
#[inline]
pub fn value_end(out: &mut Vec<u8>) {
    out.extend_from_slice(LINE_END);
}

/// The two letters that open the answer to a meta command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaCode {
    /// HD: done, or a hit without a value.
    Done,
    /// VA: a value follows, of so many bytes.
    Value(usize),
    /// EN: mg missed.
    Miss,
    /// NS: not stored.
    NotStored,
    /// EX: another CAS is there.
    Exists,
    /// NF: nothing is there.
    NotFound,
}

/// ms. q hides only the usual answer of a command that did what it was asked (HD; for ma also VA).
/// NF, NS and EX are always answered: memcached 1.6 does so for NF, too, whatever its documentation
/// leads one to expect.
pub fn meta_stored(out: &mut Vec<u8>, request: &MetaRequest<'_>, stored: Stored) {
    let (code, facts) = match stored {
        Stored::Written { .. } if request.quiet => return,
        Stored::Written { cas, value_bytes } => {
            (MetaCode::Done, MetaFacts { cas, value_bytes, ..MetaFacts::default() })
        }
        Stored::NotStored => (MetaCode::NotStored, unstored(request)),
        Stored::Exists => (MetaCode::Exists, unstored(request)),
        Stored::NotFound => (MetaCode::NotFound, unstored(request)),
    };
    meta_line(out, code, request, Some(&facts));
}

/// Without an item ms still answers c and s, as memcached does: `c0` and the size it was sent.
fn unstored(request: &MetaRequest<'_>) -> MetaFacts {
    MetaFacts { value_bytes: request.value.len(), ..MetaFacts::default() }
}

/// md.
pub fn meta_removed(out: &mut Vec<u8>, request: &MetaRequest<'_>, removed: Removed) {
    let code = match removed {
        Removed::Done if request.quiet => return,
        Removed::Done => MetaCode::Done,
        Removed::NotFound => MetaCode::NotFound,
        Removed::Exists => MetaCode::Exists,
    };
    meta_line(out, code, request, None);
}

/// ma; `ttl_seconds` is what t tells.
pub fn meta_counted(out: &mut Vec<u8>, request: &MetaRequest<'_>, counted: Counted, ttl_seconds: Option<u32>) {
    match counted {
        Counted::Number { .. } if request.quiet => {}
        Counted::Number { number, cas, .. } => {
            let facts = MetaFacts { cas, ttl_seconds, ..MetaFacts::default() };
            if !request.want_value {
                return meta_line(out, MetaCode::Done, request, Some(&facts));
            }
            let mut text = itoa::Buffer::new();
            meta_line(out, MetaCode::Value(text.format(number).len()), request, Some(&facts));
            number_line(out, number);
        }
        Counted::NotFound => meta_line(out, MetaCode::NotFound, request, None),
        Counted::Exists => meta_line(out, MetaCode::Exists, request, None),
        Counted::NonNumeric => out.extend_from_slice(Refusal::NonNumeric.line()),
    }
}

/// mg found nothing.
pub fn meta_missed(out: &mut Vec<u8>, request: &MetaRequest<'_>) {
    if !request.quiet {
        meta_line(out, MetaCode::Miss, request, None);
    }
}

/// mg found something. Where its value is to be told, it is the caller's to add, and then
/// [`value_end`].
pub fn meta_found(out: &mut Vec<u8>, request: &MetaRequest<'_>, facts: &MetaFacts, with_value: bool) {
    let code = if with_value { MetaCode::Value(facts.value_bytes) } else { MetaCode::Done };
    meta_line(out, code, request, Some(facts));
}

/// `<CD> [<size>] <flags>*\r\n`. `quiet` is not looked at here. Without facts, that is, without an
/// item, only the flags that need none are given back (O, k, b).
///
/// The flags come in the request's order, those of the item's state (Z, X, W) behind them. Which
/// flags are given back depends on the command: mg all, ma c and t, ms c and s; O and k always; b
/// only behind a k.
pub fn meta_line(out: &mut Vec<u8>, code: MetaCode, request: &MetaRequest<'_>, facts: Option<&MetaFacts>) {
    match code {
        MetaCode::Value(bytes) => {
            out.extend_from_slice(b"VA ");
            push_number(out, bytes as u64);
        }
        MetaCode::Done => out.extend_from_slice(b"HD"),
        MetaCode::Miss => out.extend_from_slice(b"EN"),
        MetaCode::NotStored => out.extend_from_slice(b"NS"),
        MetaCode::Exists => out.extend_from_slice(b"EX"),
        MetaCode::NotFound => out.extend_from_slice(b"NF"),
    }
    push_given_back(out, request, facts);
    if let (MetaVerb::Get, Some(facts)) = (request.verb, facts) {
        for (letters, there) in [(b" Z", facts.token_sent), (b" X", facts.stale), (b" W", facts.won)] {
            if there {
                out.extend_from_slice(letters);
            }
        }
    }
    out.extend_from_slice(LINE_END);
}

/// The flags of a request that are given back, each behind a blank; see [`meta_line`].
#[inline(always)]
pub fn push_given_back(out: &mut Vec<u8>, request: &MetaRequest<'_>, facts: Option<&MetaFacts>) {
    for token in flag_tokens(request.flag_tokens) {
        match token[0] {
            b'O' => {
                out.push(b' ');
                out.extend_from_slice(token);
            }
            b'k' => push_key_flag(out, request),
            flag => {
                if let Some(facts) = facts {
                    push_fact(out, request.verb, flag, facts);
                }
            }
        }
    }
}

/// me found nothing; k and O are not given back there.
pub fn debug_missed(out: &mut Vec<u8>) {
    out.extend_from_slice(b"EN\r\n");
}

/// `ME <key> exp=.. la=.. cas=.. fetch=yes|no cls=1 size=..\r\n`. There are no slab classes here:
/// cls is always 1, for the tools that expect the field.
pub fn debug_line(out: &mut Vec<u8>, request: &MetaRequest<'_>, fields: &DebugFacts) {
    out.extend_from_slice(b"ME ");
    push_key(out, request);
    out.extend_from_slice(b" exp=");
    push_ttl(out, fields.expires_in);
    out.extend_from_slice(b" la=");
    push_number(out, fields.idle_seconds.into());
    out.extend_from_slice(b" cas=");
    push_number(out, fields.cas);
    out.extend_from_slice(if fields.fetched { b" fetch=yes cls=1 size=" } else { b" fetch=no cls=1 size=" });
    push_number(out, fields.record_bytes as u64);
    out.extend_from_slice(LINE_END);
}

/// One flag that is made from the item, if this command gives it back.
fn push_fact(out: &mut Vec<u8>, verb: MetaVerb, flag: u8, facts: &MetaFacts) {
    let given_back: &[u8] = match verb {
        MetaVerb::Get => b"stcflh",
        MetaVerb::Set => b"cs",
        MetaVerb::Arithmetic => b"ct",
        MetaVerb::Delete | MetaVerb::Debug => b"",
    };
    if !given_back.contains(&flag) {
        return;
    }
    out.extend_from_slice(&[b' ', flag]);
    match flag {
        b's' => push_number(out, facts.value_bytes as u64),
        b't' => push_ttl(out, facts.ttl_seconds),
        b'c' => push_number(out, facts.cas),
        b'f' => push_number(out, facts.client_flags.into()),
        b'l' => push_number(out, facts.idle_seconds.into()),
        _ => out.push(b'0' + u8::from(facts.hit_before)),
    }
}

/// ` k<key>`, and ` b` behind it where the key came as base64.
fn push_key_flag(out: &mut Vec<u8>, request: &MetaRequest<'_>) {
    out.extend_from_slice(b" k");
    push_key(out, request);
    if request.base64_key {
        out.extend_from_slice(b" b");
    }
}

/// The key as the client is to see it. A binary key is encoded anew: what comes back is what is
/// stored, even where the client's own encoding left bits over.
fn push_key(out: &mut Vec<u8>, request: &MetaRequest<'_>) {
    if !request.base64_key {
        out.extend_from_slice(request.key);
        return;
    }
    let mut encoded = [0; KEY_BYTES_MAX.div_ceil(3) * 4];
    let length = STANDARD.encode_slice(request.key, &mut encoded).expect("sized for the longest key");
    out.extend_from_slice(&encoded[..length]);
}

fn push_ttl(out: &mut Vec<u8>, seconds: Option<u32>) {
    match seconds {
        Some(seconds) => push_number(out, seconds.into()),
        None => out.extend_from_slice(b"-1"),
    }
}

pub(super) fn push_number(out: &mut Vec<u8>, number: u64) {
    if number < 10 {
        return out.push(b'0' + number as u8);
    }
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ParseLimits, Parsed, Request, parse};

    /// What `encode` makes of the meta command on `line`.
    fn told(line: &str, encode: impl FnOnce(&mut Vec<u8>, &MetaRequest<'_>)) -> String {
        let mut out = Vec::new();
        let mut scratch = [0; KEY_BYTES_MAX];
        match parse(line.as_bytes(), ParseLimits { value_bytes_max: 100 }, &mut scratch) {
            Parsed::Request(Request::Meta(request), _) => encode(&mut out, &request),
            other => panic!("{other:?}"),
        }
        String::from_utf8(out).unwrap()
    }

    /// The answer to it.
    fn answer(line: &str, code: MetaCode, facts: Option<&MetaFacts>) -> String {
        told(line, |out, request| meta_line(out, code, request, facts))
    }

    const FACTS: MetaFacts = MetaFacts {
        client_flags: 9,
        cas: 8,
        ttl_seconds: Some(7),
        hit_before: true,
        idle_seconds: 6,
        value_bytes: 5,
        won: true,
        stale: true,
        token_sent: true,
    };

    #[test]
    fn a_hit_gives_flags_back_in_the_order_of_the_request() {
        let line = "mg key t s v Oab f k h l c q u T0 P1\r\n";
        assert_eq!(answer(line, MetaCode::Value(5), Some(&FACTS)), "VA 5 t7 s5 Oab f9 kkey h1 l6 c8 Z X W\r\n");
        let plain = MetaFacts::default();
        assert_eq!(answer("mg key t h v\r\n", MetaCode::Done, Some(&plain)), "HD t-1 h0\r\n");
    }

    #[test]
    fn without_an_item_only_opaque_and_key_come_back() {
        assert_eq!(answer("mg key t s Oab k\r\n", MetaCode::Miss, None), "EN Oab kkey\r\n");
        assert_eq!(answer("md Zm9v b k O1 q c\r\n", MetaCode::NotFound, None), "NF kZm9v b O1\r\n");
        assert_eq!(answer("ma key c t\r\n", MetaCode::Exists, None), "EX\r\n");
    }

    #[test]
    fn each_command_gives_back_its_own_flags_only() {
        assert_eq!(answer("md key t s c f k\r\n", MetaCode::Done, Some(&FACTS)), "HD kkey\r\n");
        assert_eq!(answer("ma key t s c f v\r\n", MetaCode::Value(1), Some(&FACTS)), "VA 1 t7 c8\r\n");
        assert_eq!(answer("ms key 2 t s c F1\r\nab\r\n", MetaCode::Done, Some(&FACTS)), "HD s5 c8\r\n");
        let unmet = told("ms key 2 s c k\r\nab\r\n", |out, request| meta_stored(out, request, Stored::NotStored));
        assert_eq!(unmet, "NS s2 c0 kkey\r\n");
    }

    #[test]
    fn a_binary_key_comes_back_as_it_would_be_written() {
        // QR and QQ are the same byte; the leftover bits of R are dropped.
        assert_eq!(answer("mg QR== b k\r\n", MetaCode::Done, Some(&FACTS)), "HD kQQ== b Z X W\r\n");
        let longest = "A".repeat(248);
        let line = format!("mg {longest} k b\r\n");
        assert_eq!(answer(&line, MetaCode::Miss, None), format!("EN k{longest} b\r\n"));
    }

    #[test]
    fn the_plain_lines() {
        let mut out = Vec::new();
        value_line(&mut out, b"k", 1, 2, None);
        value_line(&mut out, b"k", u32::MAX, 2, Some(u64::MAX));
        number_line(&mut out, 0);
        row(&mut out, "pid", 42);
        let fields = DebugFacts { expires_in: None, idle_seconds: 3, cas: 4, fetched: false, record_bytes: 99 };
        debug_line(&mut out, &MetaRequest::new(MetaVerb::Debug, b"k"), &fields);
        let fetched = DebugFacts { expires_in: Some(5), fetched: true, ..fields };
        let binary = MetaRequest { base64_key: true, ..MetaRequest::new(MetaVerb::Debug, b"foo") };
        debug_line(&mut out, &binary, &fetched);
        let expected = "VALUE k 1 2\r\nVALUE k 4294967295 2 18446744073709551615\r\n0\r\nSTAT pid 42\r\n\
                        ME k exp=-1 la=3 cas=4 fetch=no cls=1 size=99\r\n\
                        ME Zm9v exp=5 la=3 cas=4 fetch=yes cls=1 size=99\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
