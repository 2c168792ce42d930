//! A connection's answers on their way out: bytes, and loans of large values that stay in the ring until the socket has
//! taken them or the turn ends.
//!
//! The lifetime rule: a loan is valid only within the turn in which it was made. The server writes (vectored) at the end of
//! the turn and then calls [`Output::settle`], which copies what is left, before it announces quiescence.

use crate::store::ValueLoan;

/// Answers from this size on are lent from the ring instead of copied. Measured in benches/; see docs/ARCHITECTURE.md.
pub const LOAN_BYTES_MIN: usize = 16 << 10;

/// Past this many pending bytes no further request of the connection is executed until the socket takes some.
pub const OUTPUT_BYTES_HIGH: usize = 256 << 10;

/// A place in an output to go back to.
#[derive(Clone, Copy)]
pub struct Mark {
    bytes: usize,
    loans: usize,
    lent_bytes: usize,
}

/// See the module.
#[derive(Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// Loans in order; each stands before `bytes[at]`.
    loans: Vec<(usize, ValueLoan)>,
    lent_bytes: usize,
}

impl Output {
    /// The byte part, to append to.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Append a value from the ring without copying it now.
    pub fn lend(&mut self, loan: ValueLoan) {
        self.lent_bytes += loan.len();
        self.loans.push((self.bytes.len(), loan));
    }

    /// Where the output ends now. Valid until something is written out.
    pub fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), loans: self.loans.len(), lent_bytes: self.lent_bytes }
    }

    /// Take back what was appended since `mark`.
    pub fn withdraw(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.loans.truncate(mark.loans);
        self.lent_bytes = mark.lent_bytes;
    }

    /// Bytes waiting to be written, lent ones included.
    pub fn pending_bytes(&self) -> usize {
        self.bytes.len() + self.lent_bytes
    }

    /// True when no more requests should be executed for this connection.
    pub fn is_full(&self) -> bool {
        self.pending_bytes() >= OUTPUT_BYTES_HIGH
    }
}
