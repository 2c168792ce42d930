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
        // An output that stays behind waits for a slow client: it keeps no more memory than it needs.
        if self.loans.is_empty() && self.bytes.capacity() <= 2 * self.pending_bytes() {
            return;
        }
        let mut rest = Vec::with_capacity(self.pending_bytes());
        self.for_each_unsent(
            |loan| store.loaned(turn, loan),
            |part| {
                match part {
                    Part::Bytes(bytes) => rest.extend_from_slice(bytes),
                    Part::Words(span) => span.copy_to(&mut rest),
                }
                true
            },
        );
        *self = Output { bytes: rest, ..Output::default() };
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
    use crate::base::time::UnixSeconds;
    use crate::store::{NewItem, StoreConfig};

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    /// Run `test` with loans of values of 21, 8, 0 and 5 bytes from a store.
    fn with_loans(test: impl FnOnce(&Store, &Turn<'_>, [ValueLoan; 4])) {
        let store = Store::new(StoreConfig {
            memory_bytes: 4 << 20,
            item_bytes_max: 1 << 16,
            evict: true,
            workers: 1,
            shards: Some(1),
            hugepages: false,
            hash_seed: Some((1, 2)),
            epoch: None,
        })
        .unwrap();
        let mut participant = store.join();
        let turn = participant.turn();
        let loans = [(b"a", 21), (b"b", 8), (b"c", 0), (b"d", 5)].map(|(key, bytes)| {
            let value: Vec<u8> = (0..bytes).map(|at| b'A' + at).collect();
            let at = store.locate(key);
            let draft = store.draft(&at, NewItem { value: &value, ..NewItem::default() }, NOW);
            store.entry(&turn, &at, NOW).set(&draft).expect("room for a few bytes");
            store.get(&turn, &at, NOW).expect("just set").loan()
        });
        test(&store, &turn, loans);
    }

    /// Bytes before, between and behind loans, two loans side by side, and an empty one.
    fn answers(loans: [ValueLoan; 4]) -> Output {
        let mut output = Output::default();
        output.bytes().extend_from_slice(b"VALUE a\r\n");
        output.lend(loans[0]);
        output.bytes().extend_from_slice(b"\r\n");
        output.lend(loans[1]);
        output.lend(loans[2]);
        output.lend(loans[3]);
        output.bytes().extend_from_slice(b"END\r\n");
        output
    }

    const STREAM: &[u8] = b"VALUE a\r\nABCDEFGHIJKLMNOPQRSTU\r\nABCDEFGHABCDEEND\r\n";

    /// A socket that takes `room` bytes and notes them.
    fn take(parts: &[Part<'_>], room: usize, taken: &mut Vec<u8>) -> io::Result<usize> {
        let mut offered = Vec::new();
        for part in parts {
            match part {
                Part::Bytes(bytes) => offered.extend_from_slice(bytes),
                Part::Words(span) => span.copy_to(&mut offered),
            }
        }
        let bytes = room.min(offered.len());
        taken.extend_from_slice(&offered[..bytes]);
        if bytes == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(bytes) }
    }

    #[test]
    fn every_partial_write_goes_on_where_it_stopped_settled_or_not() {
        with_loans(|store, turn, loans| {
            for first in 0..=STREAM.len() {
                for second in 0..=STREAM.len() - first {
                    for settle in [false, true] {
                        let mut output = answers(loans);
                        assert_eq!(output.pending_bytes(), STREAM.len());
                        let mut taken = Vec::new();
                        for room in [first, second, usize::MAX] {
                            let resolve = |loan: &ValueLoan| store.loaned(turn, loan);
                            output.write_with(resolve, |parts| take(parts, room, &mut taken)).unwrap();
                            assert_eq!(output.pending_bytes(), STREAM.len() - taken.len());
                            if settle {
                                output.settle(store, turn);
                                assert!(output.loans.is_empty());
                            }
                        }
                        assert!(output.is_empty() && output.loans.is_empty());
                        assert_eq!(taken, STREAM, "cut at {first} and {second}, settled: {settle}");
                    }
                }
            }
        });
    }

    #[test]
    fn more_parts_than_one_write_takes_are_written_by_several() {
        with_loans(|store, turn, loans| {
            let mut output = Output::default();
            let mut expected = Vec::new();
            for byte in 0..100u8 {
                output.bytes().push(byte);
                output.lend(loans[3]);
                expected.push(byte);
                expected.extend_from_slice(b"ABCDE");
            }
            let mut taken = Vec::new();
            while !output.is_empty() {
                let resolve = |loan: &ValueLoan| store.loaned(turn, loan);
                output.write_with(resolve, |parts| take(parts, usize::MAX, &mut taken)).unwrap();
            }
            assert_eq!(taken, expected);
        });
    }

    #[test]
    fn loans_reach_a_real_socket() {
        use std::io::Read;
        with_loans(|store, turn, loans| {
            let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
            let mut output = answers(loans);
            assert_eq!(output.write_out(&near, store, turn).unwrap(), STREAM.len());
            let mut read = vec![0; STREAM.len()];
            far.read_exact(&mut read).unwrap();
            assert_eq!(read, STREAM);
        });
    }

    #[test]
    fn what_stays_behind_keeps_little_memory_and_errors_are_told() {
        with_loans(|store, turn, _| {
            let mut output = Output::default();
            output.bytes().reserve(1 << 20);
            output.bytes().extend_from_slice(b"left");
            output.settle(store, turn);
            assert!(output.capacity_bytes() < 1024 && output.pending_bytes() == 4);
            let resolve = |loan: &ValueLoan| store.loaned(turn, loan);
            let broken = output.write_with(resolve, |_| Err(io::ErrorKind::BrokenPipe.into()));
            assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }
}
