//! The encoder of the binary protocol: what commands came to, as packets, with memcached's statuses
//! and words.
//!
//! Appends only, as the text protocol's does. An error is answered whether its request is quiet or
//! not; a miss is none for a get.

use super::super::VERSION;
use super::super::answer::{Counted, PrefixCounts, Removed, Stored};
use super::super::refusal::Refusal;
use super::super::reply::Fault;
use super::super::text::encode as text;
use super::command::{Command, Head};
use super::{ANSWER_MAGIC, HEADER_BYTES, sasl};
use std::fmt::Display;
use std::io::Write as _;

/// The name of all rows of stats detail.
const DETAILED: &str = "detailed";
/// Bytes of the client flags before a value.
const FLAGS_BYTES: usize = 4;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Well.
    Done = 0x00,
    /// No such item.
    NotFound = 0x01,
    /// There is one already, or one of another CAS.
    Exists = 0x02,
    /// The value can never fit.
    TooLarge = 0x03,
    /// The request makes no sense.
    Invalid = 0x04,
    /// The condition of append or prepend did not hold.
    NotStored = 0x05,
    /// incr, decr: the value is no number.
    NonNumeric = 0x06,
    /// Not allowed.
    Forbidden = 0x20,
    /// SASL: more is to be said.
    GoOn = 0x21,
    /// No such command.
    UnknownCommand = 0x81,
    /// There is no room now.
    OutOfMemory = 0x82,
    /// Not here, or not now.
    Failed = 0x86,
}

impl Status {
    /// memcached's words for it.
    fn words(self) -> &'static str {
        match self {
            Status::Done | Status::GoOn => "",
            Status::NotFound => "Not found",
            Status::Exists => "Data exists for key.",
            Status::TooLarge => "Too large.",
            Status::Invalid => "Invalid arguments",
            Status::NotStored => "Not stored.",
            Status::NonNumeric => "Non-numeric server-side value for incr or decr",
            Status::Forbidden => "Auth failure.",
            Status::UnknownCommand => "Unknown command",
            Status::OutOfMemory => "Out of memory",
            Status::Failed => "Temporary failure",
        }
    }
}

/// set and its kin.
#[inline(never)]
pub fn stored(out: &mut Vec<u8>, head: Head, stored: Stored) {
    match (stored, head.command) {
        (Stored::Written { cas, .. }, _) => succeeded(out, head, cas),
        (Stored::NotStored, Command::Add) | (Stored::Exists, _) => failed(out, head, Status::Exists),
        (Stored::NotStored, Command::Replace) | (Stored::NotFound, _) => failed(out, head, Status::NotFound),
        (Stored::NotStored, _) => failed(out, head, Status::NotStored),
    }
}

/// incr and decr: the number as eight bytes.
#[inline(never)]
pub fn counted(out: &mut Vec<u8>, head: Head, counted: Counted) {
    match counted {
        Counted::Number { .. } if head.quiet => {}
        Counted::Number { number, cas, .. } => {
            header(out, head, Status::Done, Lengths { value: size_of::<u64>(), ..Lengths::default() }, cas);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Counted::NotFound => failed(out, head, Status::NotFound),
        Counted::NonNumeric => failed(out, head, Status::NonNumeric),
        Counted::Exists => failed(out, head, Status::Exists),
    }
}

/// delete.
#[inline(never)]
pub fn removed(out: &mut Vec<u8>, head: Head, removed: Removed) {
    match removed {
        Removed::Done => succeeded(out, head, 0),
        Removed::NotFound => failed(out, head, Status::NotFound),
        Removed::Exists => failed(out, head, Status::Exists),
    }
}

/// What has nothing else to say than that it is done.
pub fn done(out: &mut Vec<u8>, head: Head) {
    succeeded(out, head, 0);
}

/// Which version this is.
pub fn version(out: &mut Vec<u8>, head: Head) {
    packet(out, head, Status::Done, VERSION.as_bytes());
}

/// SASL: the mechanisms.
pub fn mechanisms(out: &mut Vec<u8>, head: Head) {
    packet(out, head, Status::Done, sasl::PLAIN);
}

/// SASL: more is to be said.
pub fn go_on(out: &mut Vec<u8>, head: Head) {
    failed(out, head, Status::GoOn);
}

/// SASL: the client is who it says it is.
pub fn welcome(out: &mut Vec<u8>, head: Head) {
    packet(out, head, Status::Done, b"Authenticated");
}

/// A get of any kind, or touch, has found something: its flags, its key if that is told. Its value,
/// of `value_bytes`, is the caller's to add where [`Head::tells_value`].
pub fn found(out: &mut Vec<u8>, head: Head, key: &[u8], client_flags: u32, value_bytes: usize, cas: u64) {
    let key = if head.tells_key() { key } else { &[] };
    let value = if head.tells_value() { value_bytes } else { 0 };
    header(out, head, Status::Done, Lengths { extras: FLAGS_BYTES, key: key.len(), value }, cas);
    out.extend_from_slice(&client_flags.to_be_bytes());
    out.extend_from_slice(key);
}

/// A get of any kind, or touch, has found nothing. Where the key is told, it stands in the place of
/// words.
pub fn missed(out: &mut Vec<u8>, head: Head, key: &[u8]) {
    if head.quiet {
        return;
    }
    if !head.tells_key() {
        return failed(out, head, Status::NotFound);
    }
    header(out, head, Status::NotFound, Lengths { key: key.len(), ..Lengths::default() }, 0);
    out.extend_from_slice(key);
}

/// A row of stats: name and value as key and value.
pub fn row(out: &mut Vec<u8>, head: Head, name: impl Display, value: impl Display) {
    let begin = out.len();
    header(out, head, Status::Done, Lengths::default(), 0);
    let key_at = out.len();
    write!(out, "{name}").expect("writing to a Vec cannot fail");
    let key = out.len() - key_at;
    write!(out, "{value}").expect("writing to a Vec cannot fail");
    // How long both are is known now.
    let value = out.len() - key_at - key;
    write_lengths(&mut out[begin..], Lengths { extras: 0, key, value });
}

/// A row of stats detail: its line in the text protocol as the value.
pub fn prefix(out: &mut Vec<u8>, head: Head, prefix: &[u8], counts: &PrefixCounts) {
    let begin = out.len();
    row(out, head, DETAILED, "");
    text::prefix(out, prefix, counts);
    let value = out.len() - begin - HEADER_BYTES - DETAILED.len();
    write_lengths(&mut out[begin..], Lengths { extras: 0, key: DETAILED.len(), value });
}

/// After the last row: one without name and value.
pub fn end(out: &mut Vec<u8>, head: Head) {
    header(out, head, Status::Done, Lengths::default(), 0);
}

/// Refused. memcached's words where it has some for the status; else those of the text protocol.
pub fn refused(out: &mut Vec<u8>, head: Head, refusal: Refusal) {
    let status = match refusal {
        // What stats has nothing about.
        Refusal::UnknownCommand | Refusal::CachedumpOff if head.command == Command::Stat => Status::NotFound,
        Refusal::DetailOff | Refusal::DetailUsage => Status::NotFound,
        Refusal::UnknownCommand => Status::UnknownCommand,
        Refusal::BadFormat => Status::Invalid,
        Refusal::NonNumeric => Status::NonNumeric,
        Refusal::TooLarge => Status::TooLarge,
        Refusal::OutOfMemory => Status::OutOfMemory,
        Refusal::FlushOff | Refusal::Unauthenticated => Status::Forbidden,
        Refusal::FollowsNobody
        | Refusal::Demoted
        | Refusal::ReadElsewhere
        | Refusal::NoLeaseToRead
        | Refusal::NoLeaseToWrite => return packet(out, head, Status::Failed, refusal.words()),
        _ => return packet(out, head, Status::Invalid, refusal.words()),
    };
    failed(out, head, status);
}

/// Refused, for a reason in words of its own.
pub fn refused_because(out: &mut Vec<u8>, head: Head, fault: Fault, why: impl Display) {
    let status = match fault {
        Fault::Client => Status::Invalid,
        Fault::Server => Status::Failed,
    };
    let begin = out.len();
    header(out, head, status, Lengths::default(), 0);
    write!(out, "{why}").expect("writing to a Vec cannot fail");
    let value = out.len() - begin - HEADER_BYTES;
    write_lengths(&mut out[begin..], Lengths { value, ..Lengths::default() });
}

fn succeeded(out: &mut Vec<u8>, head: Head, cas: u64) {
    if !head.quiet {
        header(out, head, Status::Done, Lengths::default(), cas);
    }
}

fn failed(out: &mut Vec<u8>, head: Head, status: Status) {
    packet(out, head, status, status.words().as_bytes());
}

fn packet(out: &mut Vec<u8>, head: Head, status: Status, value: &[u8]) {
    header(out, head, status, Lengths { value: value.len(), ..Lengths::default() }, 0);
    out.extend_from_slice(value);
}

/// Of the parts of a body.
#[derive(Debug, Clone, Copy, Default)]
struct Lengths {
    extras: usize,
    key: usize,
    value: usize,
}

/// The 24 bytes before a body.
fn header(out: &mut Vec<u8>, head: Head, status: Status, lengths: Lengths, cas: u64) {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0] = ANSWER_MAGIC;
    bytes[1] = head.opcode();
    bytes[6..8].copy_from_slice(&(status as u16).to_be_bytes());
    bytes[12..16].copy_from_slice(&head.opaque().to_be_bytes());
    bytes[16..24].copy_from_slice(&cas.to_be_bytes());
    write_lengths(&mut bytes, lengths);
    out.extend_from_slice(&bytes);
}

/// Say in a header how long the parts behind it are. A key has at most 250 bytes, the name of a row
/// of stats is no longer, and a value is no longer than -I.
fn write_lengths(header: &mut [u8], lengths: Lengths) {
    let Lengths { extras, key, value } = lengths;
    header[2..4].copy_from_slice(&(key as u16).to_be_bytes());
    header[4] = extras as u8;
    header[8..12].copy_from_slice(&((extras + key + value) as u32).to_be_bytes());
}
