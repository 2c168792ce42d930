//! The messages of a connection and their parsing: pure functions of bytes that nobody vouches for.
//! All numbers are little-endian.
//!
//! ```text
//! replica:  greeting   magic 8  version u32  zero u32  token 16
//! primary:  welcome    magic 8  status u32   regions u32
//! replica:  READ       1 u32    region u32   offset u64  bytes u64  tag u64
//!           WRITE      2 u32    zero u32     offset u64  bytes u64  zero u64, then the bytes: into the ack slot
//! primary:  answer     tag u64  status u32   bytes u32, then the bytes
//! ```
//! READs are answered in their order. A WRITE is answered only if it is refused. An answer whose
//! status is not 0 is the last one.

use crate::fabric::{READ_BYTES_MAX, Token};

/// The first bytes of the greeting and of the welcome.
const MAGIC: [u8; 8] = *b"RMRTCP1\n";
/// Changes with the meaning of any byte.
const VERSION: u32 = 1;
/// Length of a greeting.
pub const GREETING_BYTES: usize = 32;
/// Length of a welcome.
pub const WELCOME_BYTES: usize = 16;
/// Length of a request, without a WRITE's bytes.
pub const REQUEST_BYTES: usize = 32;
/// Length of an answer, without the bytes.
pub const ANSWER_BYTES: usize = 16;
/// Most bytes of one WRITE. Longer ones go as several.
pub const WRITE_BYTES_MAX: usize = 64;
/// Most bytes of a replica's requests that the primary keeps: several batches.
pub const REQUESTS_BYTES: usize = 4096;

const READ: u32 = 1;
const WRITE: u32 = 2;

const _: () = assert!(READ_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(REQUESTS_BYTES >= REQUEST_BYTES + WRITE_BYTES_MAX);

/// How a greeting or a request was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// As asked.
    Good = 0,
    /// Beyond a region, or of a region that is not there.
    Access = 1,
    /// The token is not known, or no longer.
    Unknown = 2,
    /// The other side speaks another version.
    Version = 3,
    /// A request that makes no sense.
    Malformed = 4,
}

impl Status {
    fn from_number(number: u32) -> Option<Status> {
        use Status::{Access, Good, Malformed, Unknown, Version};
        [Good, Access, Unknown, Version, Malformed].into_iter().find(|status| *status as u32 == number)
    }
}

/// A replica's first bytes.
pub fn greeting(token: &Token) -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..].copy_from_slice(&token.0);
    bytes
}

/// The token of a greeting; None if the bytes are no greeting of Remora's.
pub fn parse_greeting(bytes: &[u8]) -> Option<Result<Token, Status>> {
    let bytes: &[u8; GREETING_BYTES] = bytes.try_into().ok()?;
    let (opening, token) = bytes.split_at(16);
    if opening[..8] != MAGIC {
        return None;
    }
    let ours = number_32(opening, 8) == VERSION && number_32(opening, 12) == 0;
    Some(if ours { Ok(Token(std::array::from_fn(|at| token[at]))) } else { Err(Status::Version) })
}

/// A primary's first bytes.
pub fn welcome(status: Status, regions: usize) -> [u8; WELCOME_BYTES] {
    let mut bytes = [0; WELCOME_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&(status as u32).to_le_bytes());
    bytes[12..].copy_from_slice(&(regions as u32).to_le_bytes());
    bytes
}

/// Status and number of regions; None if the bytes are no welcome of Remora's.
pub fn parse_welcome(bytes: &[u8; WELCOME_BYTES]) -> Option<(Status, u32)> {
    let status = Status::from_number(number_32(bytes, 8))?;
    (bytes[..8] == MAGIC).then(|| (status, number_32(bytes, 12)))
}

/// Append a READ to `out`.
pub fn put_read(out: &mut Vec<u8>, region: u32, offset: u64, bytes: usize, tag: u64) {
    put_request(out, READ, region, offset, bytes, tag);
}

/// Append WRITEs of `words` to `out`.
pub fn put_writes(out: &mut Vec<u8>, offset: usize, words: &[u64]) {
    for (number, words) in words.chunks(WRITE_BYTES_MAX / 8).enumerate() {
        put_request(out, WRITE, 0, (offset + number * WRITE_BYTES_MAX) as u64, size_of_val(words), 0);
        words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }
}

fn put_request(out: &mut Vec<u8>, opcode: u32, region: u32, offset: u64, bytes: usize, tag: u64) {
    out.extend_from_slice(&opcode.to_le_bytes());
    out.extend_from_slice(&region.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&(bytes as u64).to_le_bytes());
    out.extend_from_slice(&tag.to_le_bytes());
}

/// The start of an answer.
pub fn answer(tag: u64, status: Status, bytes: usize) -> [u8; ANSWER_BYTES] {
    let mut header = [0; ANSWER_BYTES];
    header[..8].copy_from_slice(&tag.to_le_bytes());
    header[8..12].copy_from_slice(&(status as u32).to_le_bytes());
    header[12..].copy_from_slice(&(bytes as u32).to_le_bytes());
    header
}

/// What a replica asks for. Lengths and alignment have been checked; the responder checks that
/// there is such a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Bytes of a region: a multiple of 8, at most [`READ_BYTES_MAX`], from an aligned place.
    Read {
        /// The region.
        region: u32,
        /// From where, in bytes.
        offset: u64,
        /// How many bytes.
        bytes: usize,
        /// Given back.
        tag: u64,
    },
    /// Words for the ack slot.
    Write {
        /// Where to, in bytes; aligned.
        offset: u64,
        /// The first `count` of them.
        words: [u64; WRITE_BYTES_MAX / 8],
        /// How many.
        count: usize,
    },
}

/// The next thing in a replica's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A request.
    Request(Request),
    /// More must come.
    Incomplete,
    /// Bytes that are no request. What follows them cannot be read.
    Malformed,
}

/// Collects a replica's bytes until they are whole requests; at most [`REQUESTS_BYTES`].
pub struct Requests {
    buffer: Box<[u8; REQUESTS_BYTES]>,
    start: usize,
    end: usize,
}

impl Default for Requests {
    fn default() -> Self {
        Requests { buffer: Box::new([0; REQUESTS_BYTES]), start: 0, end: 0 }
    }
}

impl Requests {
    /// Where more bytes go. Not empty once [`Requests::next`] has said [`Next::Incomplete`].
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..]
    }

    /// The first `bytes` bytes of the room are filled.
    pub fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(REQUESTS_BYTES);
    }

    /// Take the next request.
    #[allow(clippy::should_implement_trait)] // it may go on after Incomplete
    pub fn next(&mut self) -> Next {
        let bytes = &self.buffer[self.start..self.end];
        if bytes.len() < REQUEST_BYTES {
            return Next::Incomplete;
        }
        let (header, body) = bytes.split_at(REQUEST_BYTES);
        let (opcode, region) = (number_32(header, 0), number_32(header, 4));
        let (offset, bytes, tag) = (number_64(header, 8), number_64(header, 16), number_64(header, 24));
        let most = if opcode == READ { READ_BYTES_MAX } else { WRITE_BYTES_MAX };
        let Some(bytes) = usize::try_from(bytes).ok().filter(|bytes| *bytes <= most) else { return Next::Malformed };
        if !bytes.is_multiple_of(8) || !offset.is_multiple_of(8) {
            return Next::Malformed;
        }
        match opcode {
            READ => {
                self.start += REQUEST_BYTES;
                Next::Request(Request::Read { region, offset, bytes, tag })
            }
            WRITE if body.len() < bytes => Next::Incomplete,
            WRITE => {
                let count = bytes / 8;
                let words = std::array::from_fn(|at| if at < count { number_64(body, at * 8) } else { 0 });
                self.start += REQUEST_BYTES + bytes;
                Next::Request(Request::Write { offset, words, count })
            }
            _ => Next::Malformed,
        }
    }
}

/// The READ that must be answered next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Its tag.
    pub tag: u64,
    /// How many bytes it asked for.
    pub bytes: usize,
}

/// Where a primary's next bytes belong.
#[derive(Debug, PartialEq, Eq)]
pub enum Want<'a> {
    /// Here: an answer's start.
    Header(&'a mut [u8]),
    /// Into the landing of the READ that is next, from byte `from` on, up to its end.
    Body {
        /// How many are there.
        from: usize,
    },
}

/// Why nothing more is read from a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadAnswer {
    /// It refused a request.
    Status(Status),
    /// Its answer does not belong to the next request.
    Nonsense,
}

/// Reads a primary's answers piece by piece. It never asks for a byte beyond the answers that are
/// due.
#[derive(Debug, Default)]
pub struct Answers {
    header: [u8; ANSWER_BYTES],
    read: usize,
    /// While a body comes: how much of it is there.
    body: Option<usize>,
}

impl Answers {
    /// Where the next bytes go; never nowhere.
    pub fn want(&mut self) -> Want<'_> {
        match self.body {
            Some(from) => Want::Body { from },
            None => Want::Header(&mut self.header[self.read..]),
        }
    }

    /// So many bytes went there; `next` is the READ that must be answered next. True when it is.
    pub fn took(&mut self, bytes: usize, next: Option<Expected>) -> Result<bool, BadAnswer> {
        if let Some(from) = self.body {
            let next = next.ok_or(BadAnswer::Nonsense)?;
            return Ok(self.came(from + bytes, next.bytes));
        }
        self.read += bytes;
        if self.read < ANSWER_BYTES {
            return Ok(false);
        }
        self.read = 0;
        match Status::from_number(number_32(&self.header, 8)) {
            None => return Err(BadAnswer::Nonsense),
            Some(Status::Good) => {}
            Some(status) => return Err(BadAnswer::Status(status)),
        }
        let said = Expected { tag: number_64(&self.header, 0), bytes: number_32(&self.header, 12) as usize };
        if next != Some(said) {
            return Err(BadAnswer::Nonsense);
        }
        Ok(self.came(0, said.bytes))
    }

    fn came(&mut self, from: usize, bytes: usize) -> bool {
        let whole = from >= bytes;
        self.body = (!whole).then_some(from);
        whole
    }
}

fn number_32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn number_64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
