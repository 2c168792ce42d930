//! Bytes to requests, replies to bytes. Pure: no socket, no clock, no store, no unsafe, no
//! allocation while parsing.
//!
//! [`parse()`] takes what has arrived so far and says one of three things: a whole request and its
//! length; that more is needed, and how much; or that these bytes are refused, with the answer
//! memcached would give and how far to skip. The reference is memcached's doc/protocol.txt and, for
//! the words of errors, its proto_text.c and proto_parser.c.

mod blank;
pub mod classic;
pub mod meta;
pub mod parse;
pub mod reply;

pub use meta::MetaRequest;
pub use parse::{parse, parse_more_of_get};

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

/// A refusal: what to answer, how far to skip, what else to do.
#[derive(Debug)]
pub struct Rejection<'a> {
    /// The whole answer, line end included; empty where memcached keeps quiet (it heeds noreply in
    /// most refusals of classic commands, and never q in those of meta commands). To be sent as it
    /// is.
    pub answer: &'static [u8],
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

/// A request, whichever protocol it came by.
#[derive(Debug)]
pub enum Request<'a> {
    /// get, gets, gat, gats.
    Get(classic::Get<'a>),
    /// set, add, replace, append, prepend, cas.
    Store(classic::Store<'a>),
    /// incr, decr.
    Arithmetic(classic::Arithmetic<'a>),
    /// touch.
    Touch(classic::Touch<'a>),
    /// delete.
    Delete(classic::Delete<'a>),
    /// flush_all.
    FlushAll {
        /// Seconds to wait, or an absolute time as for expiry; 0 is now.
        delay: Exptime,
        /// No answer wanted.
        noreply: bool,
    },
    /// cache_memlimit.
    CacheMemlimit {
        /// The new limit in MiB.
        mebibytes: u64,
        /// No answer wanted.
        noreply: bool,
    },
    /// verbosity.
    Verbosity {
        /// 0 warnings and errors, 1 information, 2 and more debugging.
        level: u32,
        /// No answer wanted.
        noreply: bool,
    },
    /// wait, Remora's own: answered once enough replicas have all that is written now, or the
    /// time is over.
    Wait {
        /// How many.
        replicas: u8,
        /// For how long at most.
        milliseconds: u32,
    },
    /// stats, with the rest of its line, blanks trimmed ("" for plain stats).
    Stats(&'a [u8]),
    /// replication, with the rest of its line, blanks trimmed: an order to change this server's
    /// role.
    Replication(&'a [u8]),
    /// shutdown: end the server.
    Shutdown {
        /// How.
        mode: Shutdown,
        /// No answer wanted; there is one only if it is refused.
        noreply: bool,
    },
    /// version.
    Version,
    /// quit.
    Quit,
    /// mg, ms, md, ma, me.
    Meta(MetaRequest<'a>),
    /// mn.
    MetaNoop,
}

/// How a client wants the server to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// At once.
    Plain,
    /// In order.
    Graceful,
    /// A word that means nothing here.
    Unknown,
}

/// An expiry as the client wrote it: 0 never, below 0 at once, up to 30 days relative, beyond that
/// Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exptime(pub i64);
