//! Bytes to requests, answers to bytes. Pure: no socket, no clock, no store, no unsafe, no
//! allocation while parsing.
//!
//! What is asked ([`request`]) and what came of it ([`answer`], [`refusal`]) are the same in every
//! protocol. A parser makes the one of bytes, an encoder makes bytes of the other; [`reply`] says
//! which encoder it is. The text protocol is in [`mod@text`], the binary one in [`mod@binary`];
//! which of them a connection speaks, [`Protocol`] says. [`datagram`] is what UDP puts around both,
//! [`forward`] what one server puts around them that forwards them to another.

pub mod answer;
pub mod binary;
pub mod datagram;
pub mod forward;
pub mod read_from;
pub mod refusal;
pub mod reply;
pub mod request;
pub mod text;

pub use refusal::Refusal;
pub use reply::Reply;
pub use request::{Exptime, Request, Shutdown};
pub use text::{parse, parse_more_of_get};

/// What a connection speaks, from its first byte to its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Lines: classic commands and meta commands.
    Text,
    /// Packets.
    Binary,
}

impl Protocol {
    /// The protocol of a connection that opens with `first`: as in memcached, by that byte alone.
    #[inline]
    pub fn of(first: u8) -> Protocol {
        if first == binary::MAGIC { Protocol::Binary } else { Protocol::Text }
    }

    /// Parse the first request in `input`.
    #[inline]
    pub fn parse<'a>(self, input: &'a [u8], limits: ParseLimits, scratch: &'a mut KeyScratch) -> Parsed<'a> {
        match self {
            Protocol::Text => parse(input, limits, scratch),
            Protocol::Binary => binary::parse(input, limits),
        }
    }
}

/// The version that clients are told: first the memcached that Remora behaves like, since clients
/// choose by these numbers what to send (libmemcached refuses a server whose first number is zero),
/// then Remora's own.
pub const VERSION: &str = concat!("1.6.45-remora-", env!("CARGO_PKG_VERSION"));

/// What the parser must know of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct ParseLimits {
    /// Largest value in bytes that may be stored (`-I` less the overhead of a record and the
    /// longest key).
    pub value_bytes_max: usize,
}

/// Room for one decoded key (base64); the caller owns it, so that parsing allocates nothing.
pub type KeyScratch = [u8; crate::base::limits::KEY_BYTES_MAX];

/// What the parser makes of the input.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// One whole request, and how many bytes of the input it took.
    Request(Request<'a>, usize),
    /// Not whole yet. Parsing again is of no use before the input is `wanted_bytes` long (counted
    /// from its start).
    Incomplete {
        /// Total input length at which to try again; always more than what was given.
        wanted_bytes: usize,
    },
    /// Refused.
    Rejected(Rejection<'a>),
}

/// A request that is refused before anything is done for it: why, how far to skip, what else to do.
#[derive(Debug)]
pub struct Rejection<'a> {
    /// Why.
    pub refusal: Refusal,
    /// How the client is told: not at all where memcached keeps quiet (it heeds noreply in most
    /// refusals of classic commands, and never q in those of meta commands).
    pub reply: Reply,
    /// Bytes to drop from the start of the input, the announced body included; may reach beyond
    /// what has arrived.
    pub skip_bytes: u64,
    /// A key to delete, so that a refused store does not leave the old value (as memcached does for
    /// "too large").
    pub unlink: Option<&'a [u8]>,
    /// True when the connection must be closed after the answer (no line end within the limit, for
    /// example).
    pub close: bool,
}

impl Rejection<'_> {
    /// It is a request of SASL's. A server that asks who its clients are by SASL does not refuse
    /// it, but looks at it by [`binary::sasl`].
    pub fn is_sasl(&self) -> bool {
        matches!(self.reply, Reply::Binary(head) if head.command.is_sasl()) && !self.close
    }
}
