//! One line of the input, and the three ways to be done with it: accept, refuse, wait for its data
//! block.
//!
//! A line with a data block is at most [`LINE_BYTES_MAX`](crate::base::limits::LINE_BYTES_MAX) long
//! and the block's length is a u32, so their sum in u64 cannot overflow; it is never computed in
//! anything narrower.

use super::super::{Parsed, Refusal, Rejection, Reply, Request};
use super::tokens::Number;

/// Bytes of the line end that follows a data block; here it must be both, CR and LF.
const BLOCK_END: &[u8] = b"\r\n";

#[derive(Clone, Copy)]
pub struct Line<'a> {
    /// Without its line end.
    pub text: &'a [u8],
    /// With its line end.
    pub bytes: usize,
    /// False for the first part of a get whose line goes on.
    pub ends: bool,
    input: &'a [u8],
}

impl<'a> Line<'a> {
    /// The line that ends with the newline at `newline`. A carriage return before it belongs to the
    /// line end.
    pub fn ending_at(input: &'a [u8], newline: usize) -> Self {
        let text = &input[..newline];
        Line { text: text.strip_suffix(b"\r").unwrap_or(text), bytes: newline + 1, ends: true, input }
    }

    /// The first `bytes` of a line whose end has not arrived.
    pub fn part(input: &'a [u8], bytes: usize) -> Self {
        Line { text: &input[..bytes], bytes, ends: false, input }
    }

    /// The line was a whole request.
    pub fn accept(self, request: Request<'a>) -> Parsed<'a> {
        Parsed::Request(request, self.bytes)
    }

    /// Refuse and skip the line; what follows is the next command, even if it was meant as a data
    /// block.
    pub fn refuse(self, refusal: Refusal) -> Parsed<'a> {
        self.refuse_to(Reply::Text, refusal)
    }

    /// As [`Line::refuse`], but answered as the client wants it.
    pub fn refuse_to(self, reply: Reply, refusal: Refusal) -> Parsed<'a> {
        self.reject(refusal, reply, self.bytes as u64, None)
    }

    /// Refuse and skip the line and its data block, of which nothing need have arrived. `unlink` is
    /// a key whose old value must not outlive the refusal.
    pub fn refuse_with_block(
        self,
        refusal: Refusal,
        reply: Reply,
        value_bytes: u32,
        unlink: Option<&'a [u8]>,
    ) -> Parsed<'a> {
        self.reject(refusal, reply, self.bytes_with_block(value_bytes), unlink)
    }

    /// The data block behind the line. What follows a block with a bad end is the next command.
    pub fn with_block(
        self,
        value_bytes: u32,
        reply: Reply,
        request: impl FnOnce(&'a [u8]) -> Request<'a>,
    ) -> Parsed<'a> {
        let total_bytes = self.bytes_with_block(value_bytes);
        if (self.input.len() as u64) < total_bytes {
            return Parsed::Incomplete { wanted_bytes: usize::try_from(total_bytes).unwrap_or(usize::MAX) };
        }
        let total_bytes = total_bytes as usize;
        let (value, end) = self.input[self.bytes..total_bytes].split_at(value_bytes as usize);
        if end != BLOCK_END {
            return self.reject(Refusal::BadDataChunk, reply, total_bytes as u64, None);
        }
        Parsed::Request(request(value), total_bytes)
    }

    fn bytes_with_block(self, value_bytes: u32) -> u64 {
        self.bytes as u64 + u64::from(value_bytes) + BLOCK_END.len() as u64
    }

    fn reject(self, refusal: Refusal, reply: Reply, skip_bytes: u64, unlink: Option<&'a [u8]>) -> Parsed<'a> {
        // Where a line that goes on ends cannot be known.
        Parsed::Rejected(Rejection { refusal, reply, skip_bytes, unlink, close: !self.ends })
    }
}

/// The length of a data block as a token: 0 to the largest i32 that leaves room for the block's own
/// line end. Everything else, negative or too long to count, makes the line a bad one, and nothing
/// behind it is skipped.
pub fn block_bytes(token: Number<'_>) -> Option<u32> {
    let length = token.i32_strict()?;
    (length <= i32::MAX - BLOCK_END.len() as i32).then(|| u32::try_from(length).ok())?
}
