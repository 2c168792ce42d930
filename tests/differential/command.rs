//! One command of a history, and the bursts in which a history is sent.
//!
//! The bytes are the same for both servers, but for CAS numbers: each server gives its own, so a
//! command names the item whose number it means.

/// A part of a command.
#[derive(Debug, Clone)]
pub enum Part {
    Bytes(Vec<u8>),
    /// The CAS that the server told last of this key, in decimal.
    Cas(Vec<u8>),
    /// The same in eight bytes.
    CasBytes(Vec<u8>),
}

/// All that is kept or dropped together when a history is made shorter: a line with its data block,
/// or a malformed one with the lines that a server might take for its data.
#[derive(Debug, Clone)]
pub struct Command {
    pub parts: Vec<Part>,
    /// Nothing is sent in the same burst before or behind it: the servers hang up, or memcached's
    /// answer overtakes those that are still to be sent.
    pub alone: bool,
}

impl Command {
    pub fn of(bytes: impl Into<Vec<u8>>) -> Command {
        Command { parts: vec![Part::Bytes(bytes.into())], alone: false }
    }

    pub fn alone(bytes: impl Into<Vec<u8>>) -> Command {
        Command { alone: true, ..Command::of(bytes) }
    }

    /// Whether it may change a number.
    pub fn counts(&self) -> bool {
        [&b"incr"[..], b"decr", b"ma"].iter().any(|word| self.starts_with(word))
    }

    /// Whether it may be answered with a value.
    pub fn reads(&self) -> bool {
        [&b"get"[..], b"gat", b"mg"].iter().any(|word| self.starts_with(word))
    }

    fn starts_with(&self, word: &[u8]) -> bool {
        matches!(self.parts.first(), Some(Part::Bytes(bytes)) if bytes.starts_with(word))
    }

    /// The same with `bytes` behind it.
    pub fn then(mut self, bytes: impl AsRef<[u8]>) -> Command {
        let bytes = bytes.as_ref();
        match self.parts.last_mut() {
            Some(Part::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.parts.push(Part::Bytes(bytes.to_vec())),
        }
        self
    }

    /// The same with the CAS of `key` behind it.
    pub fn then_cas_of(mut self, key: &str) -> Command {
        self.parts.push(Part::Cas(key.into()));
        self
    }
}

/// Commands that are sent without waiting for an answer in between.
#[derive(Debug, Clone)]
pub struct Burst {
    /// On which connection.
    pub connection: usize,
    /// Of packets of the binary protocol, as all on its connection.
    pub binary: bool,
    pub commands: Vec<Command>,
    /// Where the bytes are cut on their way: so many of a thousand.
    pub cuts: Vec<usize>,
}

pub type History = Vec<Burst>;
