//! A connection's answers on their way out: bytes, and loans of large values that stay in the ring until the socket has
//! taken them or the turn ends.
//!
//! The lifetime rule: a loan is valid only within the turn in which it was made. The server writes (vectored) at the end of
//! the turn and then calls [`Output::settle`], which copies what is left, before it announces quiescence.
//!
//! The answers are one stream of bytes; `sent_bytes` of it are gone. A partial write only moves that number.

use crate::store::{Store, Turn, ValueLoan, WordSpan};
use crate::sys::send::{PARTS_PER_SEND, Part, send_parts};
use std::io;
use std::os::fd::AsFd;

/// Answers from this size on are lent from the ring instead of copied. Measured in benches/; see docs/ARCHITECTURE.md.
pub const LOAN_BYTES_MIN: usize = 16 << 10;

/// Past this many pending bytes no further request of the connection is executed until the socket takes some.
pub const OUTPUT_BYTES_HIGH: usize = 256 << 10;

/// A full output fits into one write: its loans, the bytes before and between them, and one more value.
const _: () = assert!(2 * (OUTPUT_BYTES_HIGH / LOAN_BYTES_MIN + 1) < PARTS_PER_SEND);

/// See the module.
#[derive(Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// Loans in order; each stands before `bytes[at]`.
    loans: Vec<(usize, ValueLoan)>,
    lent_bytes: usize,
    /// How much of the whole stream the socket has taken.
    sent_bytes: usize,
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

    /// Bytes waiting to be written, lent ones included.
    pub fn pending_bytes(&self) -> usize {
        self.bytes.len() + self.lent_bytes - self.sent_bytes
    }

    /// True when no more requests should be executed for this connection.
    pub fn is_full(&self) -> bool {
        self.pending_bytes() >= OUTPUT_BYTES_HIGH
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pending_bytes() == 0
    }

    /// Bytes of memory that this output holds.
    pub fn capacity_bytes(&self) -> usize {
        self.bytes.capacity() + self.loans.capacity() * size_of::<(usize, ValueLoan)>()
    }

    /// One vectored write. Ok is how many bytes the socket took; 0 when it takes none now. Empties the output, keeping its
    /// memory, once everything is sent.
    pub fn write_out(&mut self, socket: impl AsFd, store: &Store, turn: &Turn<'_>) -> io::Result<usize> {
        self.write_with(|loan| store.loaned(turn, loan), |parts| send_parts(&socket, parts))
    }

    /// Before the turn ends: copy what is left of the loans, so that nothing of the ring is held any more.
    pub fn settle(&mut self, store: &Store, turn: &Turn<'_>) {
        self.settle_with(|loan| store.loaned(turn, loan));
    }

    fn write_with<'r>(
        &mut self,
        resolve: impl Fn(&ValueLoan) -> WordSpan<'r>,
        send: impl FnOnce(&[Part<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.is_empty() {
            return Ok(0);
        }
        let attempt = if self.loans.is_empty() {
            // Most answers are small and all bytes: no list of parts is made for them.
            send(&[Part::Bytes(&self.bytes[self.sent_bytes..])])
        } else {
            let mut parts = [Part::Bytes(&[]); PARTS_PER_SEND];
            let count = self.unsent_parts(resolve, &mut parts);
            send(&parts[..count])
        };
        let sent = match attempt {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        self.sent_bytes += sent;
        if self.is_empty() {
            self.clear();
        }
        Ok(sent)
    }

    fn settle_with<'r>(&mut self, resolve: impl Fn(&ValueLoan) -> WordSpan<'r>) {
        // An output that stays behind waits for a slow client: it keeps no more memory than it needs.
        if self.loans.is_empty() && self.bytes.capacity() <= 2 * self.pending_bytes() {
            return;
        }
        let mut rest = Vec::with_capacity(self.pending_bytes());
        self.for_each_unsent(resolve, |part| {
            match part {
                Part::Bytes(bytes) => rest.extend_from_slice(bytes),
                Part::Words(span) => span.copy_to(&mut rest),
            }
            true
        });
        *self = Output { bytes: rest, ..Output::default() };
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.loans.clear();
        self.lent_bytes = 0;
        self.sent_bytes = 0;
    }

    /// Fill `parts` with what is not sent yet, from its start; returns how many were filled.
    fn unsent_parts<'a, 'r: 'a>(
        &'a self,
        resolve: impl Fn(&ValueLoan) -> WordSpan<'r>,
        parts: &mut [Part<'a>; PARTS_PER_SEND],
    ) -> usize {
        let mut count = 0;
        self.for_each_unsent(resolve, |part| {
            parts[count] = part;
            count += 1;
            count < PARTS_PER_SEND
        });
        count
    }

    /// Walk the stream, without what is sent, until `take` says false.
    fn for_each_unsent<'a, 'r: 'a>(
        &'a self,
        resolve: impl Fn(&ValueLoan) -> WordSpan<'r>,
        mut take: impl FnMut(Part<'a>) -> bool,
    ) {
        let mut skip = self.sent_bytes;
        let mut from = 0;
        let ends = self.loans.iter().map(|(at, loan)| (*at, Some(loan)));
        for (upto, loan) in ends.chain([(self.bytes.len(), None)]) {
            let bytes = &self.bytes[from..upto];
            from = upto;
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            if skipped < bytes.len() && !take(Part::Bytes(&bytes[skipped..])) {
                return;
            }
            let Some(loan) = loan else { return };
            let skipped = skip.min(loan.len());
            skip -= skipped;
            if skipped < loan.len() && !take(Part::Words(resolve(loan).slice(skipped, usize::MAX))) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sync::AtomicU64;

    fn ring() -> Vec<AtomicU64> {
        (0..16u64).map(|word| AtomicU64::new(u64::from_le_bytes([word as u8; 8]).wrapping_mul(3))).collect()
    }

    fn loan(start_byte: u32, bytes: u32) -> ValueLoan {
        ValueLoan { shard: 0, word: 0, start_byte, bytes }
    }

    fn resolve<'r>(ring: &'r [AtomicU64], loan: &ValueLoan) -> WordSpan<'r> {
        WordSpan::new(ring, loan.start_byte as usize, loan.len())
    }

    /// Bytes before, between and behind loans, two loans side by side, and an empty one.
    fn answers() -> Output {
        let mut output = Output::default();
        output.bytes().extend_from_slice(b"VALUE a\r\n");
        output.lend(loan(3, 21));
        output.bytes().extend_from_slice(b"\r\n");
        output.lend(loan(0, 8));
        output.lend(loan(17, 0));
        output.lend(loan(40, 5));
        output.bytes().extend_from_slice(b"END\r\n");
        output
    }

    fn flat(parts: &[Part<'_>]) -> Vec<u8> {
        let mut all = Vec::new();
        for part in parts {
            match part {
                Part::Bytes(bytes) => all.extend_from_slice(bytes),
                Part::Words(span) => span.copy_to(&mut all),
            }
        }
        all
    }

    /// A socket that takes `room` bytes and notes them.
    fn take(parts: &[Part<'_>], room: usize, taken: &mut Vec<u8>) -> io::Result<usize> {
        let offered = flat(parts);
        let bytes = room.min(offered.len());
        taken.extend_from_slice(&offered[..bytes]);
        if bytes == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(bytes) }
    }

    fn whole(ring: &[AtomicU64]) -> Vec<u8> {
        let mut taken = Vec::new();
        let mut output = answers();
        output.write_with(|loan| resolve(ring, loan), |parts| take(parts, usize::MAX, &mut taken)).unwrap();
        assert!(output.is_empty() && output.loans.is_empty());
        taken
    }

    #[test]
    fn the_stream_is_in_order() {
        let ring = ring();
        let stream = whole(&ring);
        assert_eq!(stream.len(), answers().pending_bytes());
        assert!(stream.starts_with(b"VALUE a\r\n") && stream.ends_with(b"END\r\n"));
        assert_eq!(&stream[30..32], b"\r\n");
    }

    #[test]
    fn every_partial_write_goes_on_where_it_stopped_settled_or_not() {
        let ring = ring();
        let expected = whole(&ring);
        for first in 0..=expected.len() {
            for second in 0..=expected.len() - first {
                for settle in [false, true] {
                    let mut output = answers();
                    let mut taken = Vec::new();
                    for room in [first, second, usize::MAX] {
                        output.write_with(|loan| resolve(&ring, loan), |parts| take(parts, room, &mut taken)).unwrap();
                        assert_eq!(output.pending_bytes(), expected.len() - taken.len());
                        if settle {
                            output.settle_with(|loan| resolve(&ring, loan));
                            assert!(output.loans.is_empty());
                        }
                    }
                    assert_eq!(taken, expected, "cut at {first} and {second}, settled: {settle}");
                }
            }
        }
    }

    #[test]
    fn more_parts_than_one_write_takes_are_written_by_several() {
        let ring = ring();
        let mut output = Output::default();
        let mut expected = Vec::new();
        for byte in 0..100u8 {
            output.bytes().push(byte);
            output.lend(loan(8, 1));
            expected.push(byte);
            resolve(&ring, &loan(8, 1)).copy_to(&mut expected);
        }
        let mut taken = Vec::new();
        while !output.is_empty() {
            output.write_with(|loan| resolve(&ring, loan), |parts| take(parts, usize::MAX, &mut taken)).unwrap();
        }
        assert_eq!(taken, expected);
    }

    #[test]
    fn what_stays_behind_keeps_little_memory_and_errors_are_told() {
        let mut output = Output::default();
        output.bytes().reserve(1 << 20);
        output.bytes().extend_from_slice(b"left");
        output.settle_with(|_| unreachable!("nothing was lent"));
        assert!(output.capacity_bytes() < 1024 && output.pending_bytes() == 4);
        let ring = ring();
        let broken = output.write_with(|loan| resolve(&ring, loan), |_| Err(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
