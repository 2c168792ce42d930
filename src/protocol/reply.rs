//! How a client wants to be answered, and with it which encoder makes the bytes.
//!
//! It comes with the request, so that whatever a command comes to is encoded without asking whose
//! connection that was. Matched once an answer.

use super::answer::{Counted, Done, PrefixCounts, Removed, Stored, Touched};
use super::binary::{self, Head};
use super::refusal::Refusal;
use super::text::encode;
use std::fmt::Display;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// In the text protocol.
    Text,
    /// In the binary protocol, as an answer to such a request.
    Binary(Head),
    /// Not at all, whatever comes of it (noreply).
    Silent,
}

/// Whose fault it is that a request is refused, where the reason is told in words of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request makes no sense.
    Client,
    /// It does, but not here, or not now.
    Server,
}

impl Reply {
    /// The answer to set and its kin.
    #[inline]
    pub fn stored(self, out: &mut Vec<u8>, stored: Stored) {
        match self {
            Reply::Text => encode::stored(out, stored),
            Reply::Binary(head) => binary::encode::stored(out, head, stored),
            Reply::Silent => {}
        }
    }

    /// The answer to incr and decr.
    #[inline]
    pub fn counted(self, out: &mut Vec<u8>, counted: Counted) {
        match self {
            Reply::Text => encode::counted(out, counted),
            Reply::Binary(head) => binary::encode::counted(out, head, counted),
            Reply::Silent => {}
        }
    }

    /// The answer to delete.
    #[inline]
    pub fn removed(self, out: &mut Vec<u8>, removed: Removed) {
        match self {
            Reply::Text => encode::removed(out, removed),
            Reply::Binary(head) => binary::encode::removed(out, head, removed),
            Reply::Silent => {}
        }
    }

    /// The answer to touch.
    #[inline]
    pub fn touched(self, out: &mut Vec<u8>, touched: Touched) {
        match self {
            Reply::Text => encode::touched(out, touched),
            Reply::Binary(_) => unreachable!("touch of the binary protocol is a get of one key"),
            Reply::Silent => {}
        }
    }

    /// Done, and nothing else to say. Not inlined, nor is what follows: it is seldom asked, and in
    /// the middle of the engine's dispatch it would cost every other command registers.
    #[inline(never)]
    pub fn done(self, out: &mut Vec<u8>, done: Done) {
        match self {
            Reply::Text => encode::done(out, done),
            Reply::Binary(head) => binary::encode::done(out, head),
            Reply::Silent => {}
        }
    }

    /// Which version this is.
    #[inline(never)]
    pub fn version(self, out: &mut Vec<u8>) {
        match self {
            Reply::Text => encode::version(out),
            Reply::Binary(head) => binary::encode::version(out, head),
            Reply::Silent => {}
        }
    }

    /// Refused.
    #[cold]
    #[inline(never)]
    pub fn refused(self, out: &mut Vec<u8>, refusal: Refusal) {
        match self {
            Reply::Text => out.extend_from_slice(refusal.line()),
            Reply::Binary(head) => binary::encode::refused(out, head, refusal),
            Reply::Silent => {}
        }
    }

    /// Refused, for a reason in words of its own.
    #[cold]
    pub fn refused_because(self, out: &mut Vec<u8>, fault: Fault, why: impl Display) {
        match self {
            Reply::Text => encode::refused_because(out, fault, why),
            Reply::Binary(head) => binary::encode::refused_because(out, head, fault, why),
            Reply::Silent => {}
        }
    }
}

/// The rows of an answer to stats.
pub struct Rows<'o> {
    reply: Reply,
    out: &'o mut Vec<u8>,
}

impl<'o> Rows<'o> {
    /// The first one is to be appended to `out`.
    pub fn new(reply: Reply, out: &'o mut Vec<u8>) -> Rows<'o> {
        Rows { reply, out }
    }

    /// One more.
    pub fn row(&mut self, name: impl Display, value: impl Display) {
        match self.reply {
            Reply::Text => encode::row(self.out, name, value),
            Reply::Binary(head) => binary::encode::row(self.out, head, name, value),
            Reply::Silent => {}
        }
    }

    /// One more, of stats detail.
    pub fn prefix(&mut self, prefix: &[u8], counts: &PrefixCounts) {
        match self.reply {
            Reply::Text => encode::prefix(self.out, prefix, counts),
            Reply::Binary(head) => binary::encode::prefix(self.out, head, prefix, counts),
            Reply::Silent => {}
        }
    }

    /// There are no more.
    pub fn end(self) {
        match self.reply {
            Reply::Text => encode::end(self.out),
            Reply::Binary(head) => binary::encode::end(self.out, head),
            Reply::Silent => {}
        }
    }
}
