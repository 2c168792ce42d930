//! memcached's binary protocol: bytes to requests. [`encode`] makes the answers.
//!
//! ```text
//! byte  0        1        2        4        5        6          8         12       16       24
//!       | magic  | opcode | key    | extras | data   | reserved | body    | opaque | CAS    |
//!       | 0x80   |        | bytes  | bytes  | type   |          | bytes   |        |        |
//!       then the body: extras, key, value. Numbers are big-endian.
//! ```
//!
//! Takes the bytes that have arrived, gives the first request in them; keeps no state between
//! calls. All lengths come from the header, and [`Header::read`] is the one place that checks them:
//! behind it extras and key lie within the body, and every sum fits.
//!
//! The reference is memcached 1.6.45. Where lengths make no sense the connection is closed, since
//! where the next request begins cannot be known. memcached lets bytes behind the key of touch, gat
//! and stat pass and takes them for the next request; here such a request is refused.
//!
//! A key may have any byte, as in memcached: the store takes it as it is, so a key with a blank in
//! it is out of reach of the classic commands, and within reach of meta commands in base64.

pub mod command;
pub mod encode;
pub mod sasl;

use super::request::{Arithmetic, Delete, GetOne, Store, StoreVerb};
use super::{Exptime, ParseLimits, Parsed, Refusal, Rejection, Reply, Request};
use crate::base::limits::{KEY_BYTES_MAX, PACKET_BODY_BYTES_MAX};
pub use command::{Command, Head};

/// What a request begins with.
pub const MAGIC: u8 = 0x80;
/// What an answer begins with.
const ANSWER_MAGIC: u8 = 0x81;
/// Of requests and answers.
const HEADER_BYTES: usize = 24;
/// Its opcode.
const QUIET_DELETE: u8 = 0x14;
/// The expiry with which incr and decr create nothing.
const NO_CREATION: u32 = u32::MAX;

/// A header whose lengths are in order.
#[derive(Debug, Clone, Copy)]
struct Header {
    head: Head,
    extras_bytes: usize,
    key_bytes: usize,
    value_bytes: usize,
    cas: u64,
}

/// Parse the first request in `input`.
pub fn parse(input: &[u8], limits: ParseLimits) -> Parsed<'_> {
    if input.first().is_some_and(|first| *first != MAGIC) {
        // Without a word, as in memcached.
        return close(input, Refusal::BadFormat, Reply::Silent);
    }
    let Some(bytes) = input.first_chunk::<HEADER_BYTES>() else {
        return Parsed::Incomplete { wanted_bytes: HEADER_BYTES };
    };
    let header = match Header::read(bytes, |_| true) {
        Ok(header) => header,
        Err((refusal, head)) => return close(input, refusal, Reply::Binary(head)),
    };
    if header.head.command == Command::Unknown || header.head.command.is_sasl() {
        return header.refuse(Refusal::UnknownCommand, None);
    }
    if header.value_bytes > limits.value_bytes_max {
        return header.too_large(input);
    }
    match input.get(HEADER_BYTES..header.bytes()) {
        Some(body) => Parsed::Request(header.request(body), header.bytes()),
        None => Parsed::Incomplete { wanted_bytes: header.bytes() },
    }
}

/// A quiet delete of this key, in whatever protocol it came.
pub fn quiet_delete(key: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; HEADER_BYTES];
    (packet[0], packet[1]) = (MAGIC, QUIET_DELETE);
    // A key has at most 250 bytes.
    (packet[3], packet[11]) = (key.len() as u8, key.len() as u8);
    packet.extend_from_slice(key);
    packet
}

/// Where the next request begins cannot be known.
fn close(input: &[u8], refusal: Refusal, reply: Reply) -> Parsed<'_> {
    Parsed::Rejected(Rejection { refusal, reply, skip_bytes: input.len() as u64, unlink: None, close: true })
}

impl Header {
    /// Read it, and check everything that it says about lengths, and whether its client `may` give
    /// that command. In memcached's order: what does not lie within the body is an unknown command
    /// there.
    #[inline]
    fn read(bytes: &[u8; HEADER_BYTES], may: impl Fn(Command) -> bool) -> Result<Header, (Refusal, Head)> {
        let opcode = bytes[1];
        let key_bytes = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        let extras_bytes = usize::from(bytes[4]);
        let body_bytes = number(bytes, 8) as usize;
        let head = Head::new(opcode, number(bytes, 12));
        let Some(value_bytes) = body_bytes.checked_sub(key_bytes + extras_bytes) else {
            return Err((Refusal::UnknownCommand, head.of_no_command()));
        };
        let header = Header { head, extras_bytes, key_bytes, value_bytes, cas: long_number(bytes, 16) };
        if body_bytes <= PACKET_BODY_BYTES_MAX && !may(head.command) {
            return Err((Refusal::Unauthenticated, head));
        }
        let has_form = head.command.form().is_none_or(|form| form.fits(extras_bytes, key_bytes, value_bytes));
        if body_bytes > PACKET_BODY_BYTES_MAX || key_bytes > KEY_BYTES_MAX || !has_form {
            return Err((Refusal::BadFormat, head));
        }
        Ok(header)
    }

    /// Bytes before the value.
    fn value_at(&self) -> usize {
        HEADER_BYTES + self.extras_bytes + self.key_bytes
    }

    /// Bytes of the whole request.
    fn bytes(&self) -> usize {
        self.value_at() + self.value_bytes
    }

    /// Refuse, and swallow the body. `unlink` is a key whose old value must not outlive that.
    fn refuse<'a>(&self, refusal: Refusal, unlink: Option<&'a [u8]>) -> Parsed<'a> {
        let reply = Reply::Binary(self.head);
        Parsed::Rejected(Rejection { refusal, reply, skip_bytes: self.bytes() as u64, unlink, close: false })
    }

    /// Once the key is known: after a set its old value must not be served as if it were current.
    fn too_large<'a>(&self, input: &'a [u8]) -> Parsed<'a> {
        let key_at = HEADER_BYTES + self.extras_bytes;
        match input.get(key_at..self.value_at()) {
            Some(key) => self.refuse(Refusal::TooLarge, (self.head.command == Command::Set).then_some(key)),
            None => Parsed::Incomplete { wanted_bytes: self.value_at() },
        }
    }

    /// The request with this header and `body`.
    fn request<'a>(&self, body: &'a [u8]) -> Request<'a> {
        let (extras, rest) = body.split_at(self.extras_bytes);
        let (key, value) = rest.split_at(self.key_bytes);
        let (head, reply) = (self.head, Reply::Binary(self.head));
        match head.command {
            Command::Get | Command::GetKey => Request::GetOne(GetOne { key, touch: None, head }),
            Command::Touch | Command::Gat | Command::GatKey => {
                Request::GetOne(GetOne { key, touch: Some(exptime(extras, 0)), head })
            }
            Command::Set => self.store(StoreVerb::Set, extras, key, value),
            Command::Add => self.store(StoreVerb::Add, extras, key, value),
            Command::Replace => self.store(StoreVerb::Replace, extras, key, value),
            Command::Append => self.join(StoreVerb::Append, key, value),
            Command::Prepend => self.join(StoreVerb::Prepend, key, value),
            Command::Delete => {
                let compare_cas = (self.cas != 0).then_some(self.cas);
                Request::Delete(Delete { key, compare_cas, reply })
            }
            Command::Increment | Command::Decrement => self.arithmetic(extras, key),
            Command::Quit => Request::Quit(reply),
            Command::Flush => {
                let delay = if extras.is_empty() { Exptime(0) } else { exptime(extras, 0) };
                Request::FlushAll { delay, reply }
            }
            Command::Noop => Request::Noop(reply),
            Command::Version => Request::Version(reply),
            Command::Stat => Request::Stats { subject: key.trim_ascii(), reply },
            Command::Verbosity => Request::Verbosity { level: number(extras, 0), reply },
            Command::Unknown | Command::SaslList | Command::SaslBegin | Command::SaslStep => {
                unreachable!("refused before")
            }
        }
    }

    /// set, add, replace. With a CAS all three are what cas is in the text protocol.
    fn store<'a>(&self, verb: StoreVerb, extras: &[u8], key: &'a [u8], value: &'a [u8]) -> Request<'a> {
        Request::Store(Store {
            verb: if self.cas == 0 { verb } else { StoreVerb::Cas(self.cas) },
            key,
            client_flags: number(extras, 0),
            exptime: exptime(extras, 4),
            value,
            onto_cas: 0,
            reply: Reply::Binary(self.head),
        })
    }

    /// append, prepend.
    fn join<'a>(&self, verb: StoreVerb, key: &'a [u8], value: &'a [u8]) -> Request<'a> {
        let (exptime, reply) = (Exptime(0), Reply::Binary(self.head));
        Request::Store(Store { verb, key, client_flags: 0, exptime, value, onto_cas: self.cas, reply })
    }

    /// incr, decr.
    fn arithmetic<'a>(&self, extras: &[u8], key: &'a [u8]) -> Request<'a> {
        let creates = number(extras, 16) != NO_CREATION;
        Request::Arithmetic(Arithmetic {
            increment: self.head.command == Command::Increment,
            key,
            delta: long_number(extras, 0),
            compare_cas: self.cas,
            create: creates.then(|| (long_number(extras, 8), exptime(extras, 16))),
            reply: Reply::Binary(self.head),
        })
    }
}

/// Four bytes at `at`, which are there.
fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*bytes[at..].first_chunk().expect("checked with the header"))
}

/// Eight bytes at `at`, which are there.
fn long_number(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(*bytes[at..].first_chunk().expect("checked with the header"))
}

/// An expiry has no sign in this protocol.
fn exptime(extras: &[u8], at: usize) -> Exptime {
    Exptime(number(extras, at).into())
}

#[cfg(test)]
mod tests;
