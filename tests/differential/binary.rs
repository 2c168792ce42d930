//! Packets of the binary protocol: well-formed ones, and those that are wrong in some way.
//!
//! The opaque of a request names its key, so that what its answer tells of a CAS can be kept.
//! Quiet requests need no end of their own: each burst is followed by a noop ([`super::server`]).

use super::author::{Author, COUNTERS, KEYS};
use super::command::{Command, Part};
use super::support::packets::{HEADER_BYTES, Packet};

/// Keys that no line of the text protocol can name.
const ODD_KEYS: [&str; 3] = ["with a blank", "\r\n", "\0\u{7f}"];

/// Opcodes of each command, loud and quiet.
const GETS: [u8; 4] = [0x00, 0x09, 0x0C, 0x0D];
const GATS: [u8; 5] = [0x1C, 0x1D, 0x1E, 0x23, 0x24];
const STORES: [u8; 10] = [0x01, 0x01, 0x01, 0x11, 0x11, 0x11, 0x02, 0x12, 0x03, 0x13];
const JOINS: [u8; 4] = [0x0E, 0x19, 0x0F, 0x1A];
const COUNTS: [u8; 4] = [0x05, 0x15, 0x06, 0x16];
const DELETES: [u8; 2] = [0x04, 0x14];
const FLUSHES: [u8; 2] = [0x08, 0x18];
const STAT: u8 = 0x10;
/// No command of memcached's: verbosity, and what nobody has defined. SASL is off.
const UNKNOWN: [u8; 10] = [0x1F, 0x20, 0x25, 0x30, 0x31, 0x3D, 0x40, 0x7F, 0x80, 0xFF];

/// With it incr and decr create nothing.
const NO_CREATION: u32 = u32::MAX;

/// memcached's longest body.
const BODY_BYTES_MAX: u32 = 1 << 30;

const KEY_BYTES_MAX: usize = 250;

/// A packet whose CAS is still to be said.
struct Draft {
    opcode: u8,
    extras: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
    lengths: Option<(u16, u8, u32)>,
}

impl Draft {
    fn new(opcode: u8, extras: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Draft {
        Draft { opcode, extras: extras.into(), key: key.into(), value: value.into(), lengths: None }
    }

    /// As it is, with other lengths in its header: of the key, of extras, of the body.
    fn saying(self, key: usize, extras: usize, body: u32) -> Draft {
        Draft { lengths: Some((key as u16, extras as u8, body)), ..self }
    }

    /// With no CAS, its item's, or one that no item has.
    fn sent(self, author: &mut Author) -> Command {
        let opaque = author.random.u32(..1 << 23) << 8 | number_of(&self.key);
        let Draft { opcode, extras, key, value, lengths } = &self;
        let cas = if author.one_in(12) { author.random.u64(1 << 40..1 << 50) } else { 0 };
        let mut bytes = Packet { opcode: *opcode, opaque, cas, extras, key, value, lengths: *lengths }.bytes();
        if author.one_in(20) {
            // The data type and what is reserved: nobody looks at them.
            bytes[5..8].fill_with(|| author.random.u8(..));
        }
        if !author.one_in(5) || lengths.is_some() {
            return Command::of(bytes);
        }
        let (header, body) = bytes.split_at(HEADER_BYTES);
        let mut command = Command::of(&header[..16]);
        command.parts.push(Part::CasBytes(key.clone()));
        command.parts.push(Part::Bytes(body.to_vec()));
        command
    }
}

/// The key that an opaque names.
pub fn key_of(opaque: u32) -> Vec<u8> {
    let number = (opaque & 0xFF) as usize;
    all_keys().nth(number).map_or_else(Vec::new, |key| key.into())
}

/// Of what has no key, or another one: beyond all.
fn number_of(key: &[u8]) -> u32 {
    all_keys().position(|known| known.as_bytes() == key).unwrap_or(0xFF) as u32
}

fn all_keys() -> impl Iterator<Item = String> {
    let usual = KEYS.iter().chain(&COUNTERS).chain(&ODD_KEYS).chain(&["nothing"]);
    usual.map(|key| key.to_string()).chain(["L".repeat(KEY_BYTES_MAX)])
}

pub fn command(author: &mut Author) -> Command {
    match author.random.u32(..100) {
        0..22 => {
            let opcode = pick(author, &GETS);
            let key = any_key(author);
            Draft::new(opcode, [], key, []).sent(author)
        }
        22..32 => {
            let opcode = pick(author, &GATS);
            let (extras, key) = (expiry(author).to_be_bytes(), any_key(author));
            Draft::new(opcode, extras, key, []).sent(author)
        }
        32..56 => store(author),
        56..62 => {
            let opcode = pick(author, &JOINS);
            let (key, value) = (key(author), author.value());
            Draft::new(opcode, [], key, value).sent(author)
        }
        62..78 => arithmetic(author),
        78..86 => {
            let opcode = pick(author, &DELETES);
            let key = any_key(author);
            Draft::new(opcode, [], key, []).sent(author)
        }
        86..89 => flush(author),
        89..95 => simple(author),
        _ => malformed(author),
    }
}

fn pick(author: &mut Author, opcodes: &[u8]) -> u8 {
    opcodes[author.random.usize(..opcodes.len())]
}

fn key(author: &mut Author) -> String {
    if author.one_in(6) { author.pick(&ODD_KEYS).into() } else { author.key() }
}

fn any_key(author: &mut Author) -> String {
    if author.one_in(3) { author.counter() } else { key(author) }
}

/// None that comes while a history runs: never, long ago, or far away.
fn expiry(author: &mut Author) -> u32 {
    const USUAL: [u32; 4] = [0, 400, 5000, 2_592_000];
    const ODD: [u32; 5] = [2_592_001, 2_100_000_000, 1 << 31, u32::MAX - 1, u32::MAX];
    let expiries = if author.one_in(8) { &ODD[..] } else { &USUAL[..] };
    expiries[author.random.usize(..expiries.len())]
}

fn store(author: &mut Author) -> Command {
    let opcode = pick(author, &STORES);
    let (key, value) =
        if author.one_in(3) { (author.counter(), author.number_value()) } else { (key(author), author.value()) };
    let flags: u32 = author.flags().parse().expect("a number");
    let extras = [flags.to_be_bytes(), expiry(author).to_be_bytes()].concat();
    Draft::new(opcode, extras, key, value).sent(author)
}

/// What is no counter is never made one: memcached's blanks behind a number would stand before what
/// is appended to it.
fn arithmetic(author: &mut Author) -> Command {
    let opcode = pick(author, &COUNTS);
    let (key, creates) = if author.one_in(10) { (key(author), false) } else { (author.counter(), author.one_in(2)) };
    let delta: u64 = author.delta().parse().expect("a number");
    let digits = author.random.u32(0..=63);
    let initial = author.random.u64(..1 << digits);
    let expiry = if creates { expiry(author) } else { NO_CREATION };
    let extras = [&delta.to_be_bytes()[..], &initial.to_be_bytes(), &expiry.to_be_bytes()].concat();
    Draft::new(opcode, extras, key, []).sent(author)
}

/// A delay is so long that it never comes.
fn flush(author: &mut Author) -> Command {
    let opcode = pick(author, &FLUSHES);
    let delays = [None, None, Some(0), Some(4000), Some(2_592_000), Some(2_100_000_000u32)];
    let delay = delays[author.random.usize(..delays.len())];
    Draft::new(opcode, delay.map_or_else(Vec::new, |delay| delay.to_be_bytes().to_vec()), [], []).sent(author)
}

fn simple(author: &mut Author) -> Command {
    match author.random.u32(..10) {
        0..4 => Draft::new(0x0A, [], [], []).sent(author),
        4..6 => Draft::new(0x0B, [], [], []).sent(author),
        6 | 7 => {
            // Of conns, extstore and proxy memcached tells in text only.
            let subject = author.pick(&[
                "",
                "reset",
                "settings",
                "items",
                "slabs",
                "sizes",
                "cachedump 1 1",
                "nonsense",
                "item",
                "detail",
                "detail on",
                "detail off",
                "detail dump",
                "detail x",
            ]);
            Draft::new(STAT, [], subject, []).sent(author)
        }
        8 => unknown(author),
        _ if author.one_in(20) => {
            let opcode = pick(author, &[0x07, 0x17]);
            Draft::new(opcode, [], [], []).sent(author)
        }
        _ => Draft::new(0x21, [], "PLAIN", "\0user\0password").sent(author),
    }
}

/// With a value only: of a key and extras memcached leaves some bytes for the next request.
fn unknown(author: &mut Author) -> Command {
    let opcode = pick(author, &UNKNOWN);
    let value = if opcode == 0x20 || author.random.bool() { Vec::new() } else { author.value() };
    Draft::new(opcode, [], [], value).sent(author)
}

/// What makes no sense. Servers hang up after most of it, and memcached then loses what the socket
/// has not taken of the answers before it: so it is sent alone.
fn malformed(author: &mut Author) -> Command {
    match author.random.u32(..20) {
        0..4 => looks_like_requests(author),
        4..12 => Command { alone: true, ..odd_form(author) },
        12 | 13 => {
            let (opcode, bytes) = (any_opcode(author), author.pick(&["251", "255", "256", "300", "4000"]));
            let bytes: usize = bytes.parse().expect("a number");
            Command { alone: true, ..Draft::new(opcode, [], vec![b'k'; bytes], []).sent(author) }
        }
        14..18 => Command { alone: true, ..impossible_body(author) },
        18 => {
            let mut bytes = Packet { opcode: any_opcode(author), ..Packet::default() }.bytes();
            bytes[0] = [0, 0x7F, 0x81, b'g', b'\n', 0xFF][author.random.usize(..6)];
            Command::alone(bytes)
        }
        _ if author.one_in(10) => cut_short(author),
        _ => {
            // Less than there is: the rest is no request.
            let key = author.key();
            let (bytes, body) = (key.len(), (8 + key.len() + 3) as u32);
            let command = Draft::new(0x11, [0; 8], key, [b'z'; 32]).saying(bytes, 8, body);
            Command { alone: true, ..command.sent(author) }
        }
    }
}

fn looks_like_requests(author: &mut Author) -> Command {
    let noop = Packet { opcode: 0x0A, opaque: 0xFF, ..Packet::default() }.bytes();
    let (key, count) = (author.key(), author.random.usize(1..4));
    Draft::new(0x11, [0; 8], key, [b"y".to_vec(), noop.repeat(count)].concat()).sent(author)
}

/// Shorter than key and extras, or longer than any may be.
fn impossible_body(author: &mut Author) -> Command {
    let opcode = any_opcode(author);
    if author.random.bool() {
        let (key, extras) = (author.random.usize(1..400), author.random.usize(..=255));
        let body = author.random.usize(..key + extras) as u32;
        return Draft::new(opcode, vec![0; extras], vec![b'k'; key], []).saying(key, extras, body).sent(author);
    }
    let odd = [BODY_BYTES_MAX + 1, 1 << 31, (1 << 31) - 1, u32::MAX, u32::MAX - 1, u32::MAX - 260];
    let (key, body) = (author.key(), odd[author.random.usize(..odd.len())]);
    let bytes = key.len();
    Draft::new(opcode, [0; 8], key, []).saying(bytes, 8, body).sent(author)
}

/// Extras, key and value as they come; the bytes of extras are zero. What the two servers do not
/// agree on is left out: a value behind the key of touch, gat and stat, and keys of what is
/// unknown.
fn odd_form(author: &mut Author) -> Command {
    let opcode = loop {
        let opcode = any_opcode(author);
        if !matches!(opcode, 0x1B | 0x1F | 0x25..) {
            break opcode;
        }
    };
    let mut extras = *[0, 1, 3, 4, 5, 8, 12, 20, 21, 24, 255].get(author.random.usize(..11)).expect("one of them");
    if JOINS.contains(&opcode) && extras == 0 {
        extras = 8;
    }
    let key = if author.one_in(3) { String::new() } else { author.counter() };
    let has_value = author.random.bool() && !GATS.contains(&opcode) && opcode != STAT;
    let value = if has_value { author.number_value() } else { Vec::new() };
    let key = if opcode == STAT { String::new() } else { key };
    Draft::new(opcode, vec![0; extras], key, value).sent(author)
}

fn any_opcode(author: &mut Author) -> u8 {
    author.random.u8(..=0x24)
}

/// Its end never comes. Alone: until then memcached keeps the answers before it.
fn cut_short(author: &mut Author) -> Command {
    let (key, value) = (author.key(), author.value());
    let body = (8 + key.len() + value.len() + 1000) as u32;
    let bytes = key.len();
    let long = Draft::new(0x01, [0; 8], key, value);
    let long = if body > 1_000_000 { long } else { long.saying(bytes, 8, body) };
    Command { alone: true, ..long.sent(author) }
}
