//! Replies to bytes, appended to a connection's output.
//!
//! Owns the words of every answer, takes what the engine found out, gives the lines in memcached's
//! order and spelling. Appends only, to a buffer that lives as long as its connection: once that is
//! warm nothing here allocates.

use super::meta::{MetaRequest, MetaVerb, flag_tokens};
use crate::base::limits::KEY_BYTES_MAX;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Display;
use std::io::Write as _;

/// The value is in the cache.
pub const STORED: &[u8] = b"STORED\r\n";
/// The condition of add, replace, append or prepend did not hold.
pub const NOT_STORED: &[u8] = b"NOT_STORED\r\n";
/// cas: someone else changed the item.
pub const EXISTS: &[u8] = b"EXISTS\r\n";
/// No such item.
pub const NOT_FOUND: &[u8] = b"NOT_FOUND\r\n";
/// delete found it.
pub const DELETED: &[u8] = b"DELETED\r\n";
/// touch found it.
pub const TOUCHED: &[u8] = b"TOUCHED\r\n";
/// Done, for what has nothing else to say.
pub const OK: &[u8] = b"OK\r\n";
/// After the last value, and after the last row of stats.
pub const END: &[u8] = b"END\r\n";
/// stats reset.
pub const RESET: &[u8] = b"RESET\r\n";
/// mn.
pub const META_NOOP: &[u8] = b"MN\r\n";
/// me found nothing; k and O are not given back there.
pub const META_DEBUG_MISS: &[u8] = b"EN\r\n";
/// No such command.
pub const ERROR: &[u8] = b"ERROR\r\n";
/// incr, decr, ma: the value is no number.
pub const NON_NUMERIC: &[u8] = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
/// The value can never fit.
pub const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache\r\n";
/// There is no room now.
pub const OUT_OF_MEMORY: &[u8] = b"SERVER_ERROR out of memory storing object\r\n";
/// A line of a known command that does not fit its form.
pub const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format\r\n";
/// delete with more behind the key than a time or noreply.
pub const BAD_DELETE: &[u8] = b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n";
/// The value is not followed by a line end.
pub const BAD_DATA_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";
/// incr, decr: the amount is no number.
pub const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta argument\r\n";
/// gat, gats, touch, flush_all: the expiry is no number.
pub const BAD_EXPTIME: &[u8] = b"CLIENT_ERROR invalid exptime argument\r\n";

/// The version that clients are told: first the memcached that Remora behaves like, since clients
/// choose by these numbers what to send (libmemcached refuses a server whose first number is zero),
/// then Remora's own.
pub const VERSION: &str = concat!("1.6.45-remora-", env!("CARGO_PKG_VERSION"));

/// `VERSION <version>\r\n`
pub fn version_line(out: &mut Vec<u8>, version: &str) {
    out.extend_from_slice(b"VERSION ");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `<number>\r\n`: incr and decr.
pub fn number_line(out: &mut Vec<u8>, number: u64) {
    push_number(out, number);
    out.extend_from_slice(b"\r\n");
}

/// `STAT <name> <value>\r\n`
pub fn stat_line(out: &mut Vec<u8>, name: &str, value: impl Display) {
    write!(out, "STAT {name} {value}\r\n").expect("writing to a Vec cannot fail");
}

/// `REPLICAS <count>\r\n`: wait.
pub fn replicas_line(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(b"REPLICAS ");
    number_line(out, count as u64);
}

/// What a client is told of a write that too few replicas have applied in time: all that is known.
pub fn unacknowledged_line(out: &mut Vec<u8>, count: usize, wanted: u8, milliseconds: u128) {
    write!(
        out,
        "SERVER_ERROR not acknowledged: {count} of {wanted} replicas have it after {milliseconds} ms; it is stored here\r\n"
    )
    .expect("writing to a Vec cannot fail");
}

/// The answer to a write whose real answer was still held when this server became a replica.
/// Whether the new primary has the write is not known here.
pub const DEMOTED: &[u8] =
    b"SERVER_ERROR not acknowledged: this server became a replica before enough others had it; it may be lost\r\n";

/// `VALUE <key> <flags> <bytes> [<cas>]\r\n`; the value and its line end are the caller's to add.
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
    out.extend_from_slice(b"\r\n");
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

/// What the flags of a meta answer are made from. For an answer without an item use `None`: then
/// only the flags that need none (O, k, b) are given back; ms alone still answers c and s, as
/// memcached does: `c0` and the size it was sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct MetaFacts {
    /// f
    pub client_flags: u32,
    /// c
    pub cas: u64,
    /// t: seconds left, None for never (-1)
    pub ttl_seconds: Option<u32>,
    /// h: whether it was hit before this command
    pub hit_before: bool,
    /// l: seconds since the access before this command
    pub idle_seconds: u32,
    /// s: bytes of the value
    pub value_bytes: usize,
    /// W
    pub won: bool,
    /// X
    pub stale: bool,
    /// Z
    pub token_sent: bool,
}

/// `<CD> [<size>] <flags>*\r\n`. `quiet` is not looked at here: the engine decides whether to
/// answer at all.
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
    let unstored = MetaFacts { value_bytes: request.value.len(), ..MetaFacts::default() };
    let facts = if request.verb == MetaVerb::Set { facts.or(Some(&unstored)) } else { facts };
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
    if let (MetaVerb::Get, Some(facts)) = (request.verb, facts) {
        for (letters, there) in [(b" Z", facts.token_sent), (b" X", facts.stale), (b" W", facts.won)] {
            if there {
                out.extend_from_slice(letters);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What `me` tells of an item.
#[derive(Debug, Clone, Copy, Default)]
pub struct DebugFacts {
    /// Seconds left; None for never (-1).
    pub expires_in: Option<u32>,
    /// Seconds since the last access.
    pub idle_seconds: u32,
    /// The item's CAS.
    pub cas: u64,
    /// Whether it was ever read.
    pub fetched: bool,
    /// Bytes of the whole record.
    pub record_bytes: usize,
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
    out.extend_from_slice(b"\r\n");
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

fn push_number(out: &mut Vec<u8>, number: u64) {
    if number < 10 {
        return out.push(b'0' + number as u8);
    }
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ParseLimits, Parsed, Request, parse};

    /// The answer to the meta command on `line`.
    fn answer(line: &str, code: MetaCode, facts: Option<&MetaFacts>) -> String {
        let mut out = Vec::new();
        let mut scratch = [0; KEY_BYTES_MAX];
        match parse(line.as_bytes(), ParseLimits { value_bytes_max: 100 }, &mut scratch) {
            Parsed::Request(Request::Meta(request), _) => meta_line(&mut out, code, &request, facts),
            other => panic!("{other:?}"),
        }
        String::from_utf8(out).unwrap()
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
        assert_eq!(answer("ms key 2 s c k\r\nab\r\n", MetaCode::NotStored, None), "NS s2 c0 kkey\r\n");
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
        stat_line(&mut out, "pid", 42);
        version_line(&mut out, "1.6.45");
        let fields = DebugFacts { expires_in: None, idle_seconds: 3, cas: 4, fetched: false, record_bytes: 99 };
        debug_line(&mut out, &MetaRequest::new(MetaVerb::Debug, b"k"), &fields);
        let fetched = DebugFacts { expires_in: Some(5), fetched: true, ..fields };
        let binary = MetaRequest { base64_key: true, ..MetaRequest::new(MetaVerb::Debug, b"foo") };
        debug_line(&mut out, &binary, &fetched);
        let expected = "VALUE k 1 2\r\nVALUE k 4294967295 2 18446744073709551615\r\n0\r\nSTAT pid 42\r\n\
                        VERSION 1.6.45\r\nME k exp=-1 la=3 cas=4 fetch=no cls=1 size=99\r\n\
                        ME Zm9v exp=5 la=3 cas=4 fetch=yes cls=1 size=99\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
