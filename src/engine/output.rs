//! A connection's answers on their way out: bytes, and loans of large values that stay in the log
//! until the socket has taken them or the turn ends.
//!
//! The lifetime rule: a loan is valid only within the turn in which it was made. The server writes
//! (vectored) at the end of the turn and then calls [`Output::detach`], which copies what is left,
//! before it announces quiescence.
//!
//! The answers are one stream of bytes; `sent_bytes` of it are gone. A partial write only moves
//! that number.
//!
//! An answer may be held until replicas have what it tells of ([`Output::hold`]), or another server
//! has given it ([`super::forwarded`]). Nothing is sent from the first held answer on, so answers
//! keep their order; what is behind it is executed all the same, until the output is full.
//! [`Output::resolve`] lets go of those at the front.

use super::acks::{Held, HeldAnswers, Judge, Resolved};
use super::forwarded::Wait;
use crate::base::limits::{LOAN_BYTES_MIN, OUTPUT_BYTES_HIGH};
use crate::store::{Store, Turn, Value, ValueLoan};
use crate::sys::send::{PARTS_PER_SEND, Part};
use memchr::memchr;
use std::io;
use std::ops::Range;
use std::time::Duration;

/// A full output fits into one write: its loans, the bytes before and between them, and one more
/// value.
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
    pub(super) bytes: Vec<u8>,
    /// Loans in order; each stands before `bytes[at]`.
    loans: Vec<(usize, ValueLoan)>,
    pub(super) lent_bytes: usize,
    /// How much of the stream that is kept here the socket has taken.
    sent_bytes: usize,
    /// Some while anything is held. An output that was used before may have an empty one.
    pub(super) held: Option<Box<HeldAnswers>>,
}

impl Output {
    /// The byte part, to append to.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Append a value from the log without copying it now.
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

    /// What was appended since `mark`, but for what is lent.
    pub fn bytes_since(&self, mark: Mark) -> &[u8] {
        self.bytes.get(mark.bytes..).unwrap_or_default()
    }

    /// Put `words` at the end of the first line of what was appended since `mark`.
    pub fn add_to_line(&mut self, mark: Mark, words: &[u8]) {
        let line = memchr(b'\r', self.bytes_since(mark)).unwrap_or(self.bytes.len() - mark.bytes);
        let at = mark.bytes + line;
        self.bytes.splice(at..at, words.iter().copied());
        self.loans[mark.loans..].iter_mut().for_each(|(place, _)| *place += words.len());
    }

    /// Bytes waiting to be written, lent ones included.
    pub fn pending_bytes(&self) -> usize {
        self.bytes.len() + self.lent_bytes - self.sent_bytes
    }

    /// Bytes that may be written now: none from the first held answer on.
    pub fn sendable_bytes(&self) -> usize {
        self.sendable_end() - self.sent_bytes
    }

    /// The same, as a place in the stream that is kept here.
    fn sendable_end(&self) -> usize {
        let end = self.bytes.len() + self.lent_bytes;
        match &self.held {
            None => end,
            Some(held) => held.barrier().unwrap_or(end),
        }
    }

    /// True when no more requests should be executed for this connection.
    pub fn is_full(&self) -> bool {
        let pending_bytes = self.pending_bytes();
        match &self.held {
            None => pending_bytes >= OUTPUT_BYTES_HIGH,
            Some(held) => held.are_full(pending_bytes),
        }
    }

    /// True when nothing waits, and no answer in parts has begun.
    pub fn is_empty(&self) -> bool {
        self.pending_bytes() == 0 && self.held.as_ref().is_none_or(|held| held.is_idle())
    }

    /// True when requests may be executed: nothing waits but what is held.
    pub fn takes_more(&self) -> bool {
        self.sendable_bytes() == 0 && !self.is_full()
    }

    /// Bytes of memory that this output holds.
    pub fn capacity_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.loans.capacity() * size_of::<(usize, ValueLoan)>()
            + self.held.as_ref().map_or(0, |held| held.capacity_bytes())
    }

    /// Where the whole stream ends: the place of the next answer, to hold it.
    pub fn end(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.gone_bytes()) + (self.bytes.len() + self.lent_bytes) as u64
    }

    /// Hold what was appended since [`Output::end`] was `begin`: a whole answer, or the place of
    /// one.
    pub fn hold(&mut self, begin: u64, held: Held) {
        let end = self.end();
        self.held.get_or_insert_default().push(begin..end, Wait::Acks { held, is_part: false });
    }

    /// Hold what was appended since [`Output::end`] was `begin`, and what comes, as a part of an
    /// answer that has an end of its own ([`Output::end_parts`]).
    pub fn hold_part(&mut self, begin: u64, held: Held) {
        self.held.get_or_insert_default().push(begin..begin, Wait::Acks { held, is_part: true });
    }

    /// Hold what stands at `range` as such a part. Where it fails, that is taken back.
    pub(super) fn hold_part_of(&mut self, range: Range<u64>, held: Held) {
        self.held.get_or_insert_default().push(range, Wait::Acks { held, is_part: true });
    }

    /// What is held is waited for no longer than `within`.
    pub fn hold_within(&mut self, within: Duration) {
        self.held.iter_mut().for_each(|held| held.bound(within));
    }

    /// Keep no more memory for bytes than they need.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// True while an answer is held.
    pub fn is_holding(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !held.is_empty())
    }

    /// True while an answer waits for replicas.
    pub fn awaits_replicas(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.acks() > 0)
    }

    /// Whether [`Output::resolve`] would let go of something.
    pub fn is_resolvable(&self, judge: &Judge<'_>) -> bool {
        self.held.as_ref().is_some_and(|held| held.are_resolvable(judge))
    }

    /// Let go of the held answers at the front that wait no longer, with other words in the place
    /// of those that have not made it.
    pub fn resolve(&mut self, judge: &Judge<'_>) -> Resolved {
        // Other words would move the places of loans. There are none once the turn has ended.
        match &mut self.held {
            Some(held) if self.loans.is_empty() => held.resolve(&mut self.bytes, judge),
            _ => Resolved::default(),
        }
    }

    /// The client has gone: hold nothing. Returns how many answers waited for replicas.
    pub fn abandon_held(&mut self) -> usize {
        self.held.take().map_or(0, |held| held.acks())
    }

    /// One vectored write, unless there is nothing to send. Ok is how many bytes the socket took; 0
    /// when it takes none now. Empties the output, keeping its memory, once everything is sent.
    /// What the turn has written is published before a byte leaves: an answer may be to that.
    /// `send` says how many bytes are gone; the others are there again the next time.
    pub fn write_out(
        &mut self,
        send: impl FnOnce(&[Part<'_>]) -> io::Result<usize>,
        store: &Store,
        turn: &Turn<'_>,
    ) -> io::Result<Option<usize>> {
        if self.sendable_bytes() > 0 {
            turn.publish();
        }
        self.write_with(|loan| store.loaned(turn, loan), send)
    }

    /// Append to `bytes` what may be sent now, and empty the output, keeping its memory. Nothing is
    /// held.
    pub fn take_bytes(&mut self, store: &Store, turn: &Turn<'_>, bytes: &mut Vec<u8>) {
        self.copy_unsent(store, turn, bytes);
        self.clear();
    }

    /// Before the turn ends: copy what is left of the loans, so that nothing of the log is held any
    /// more.
    pub fn detach(&mut self, store: &Store, turn: &Turn<'_>) {
        if self.loans.is_empty() {
            // What is held goes out soon, and more of the same comes.
            if self.is_holding() {
                return self.drop_sent();
            }
            // An output that stays behind waits for a slow client: it keeps no more memory than it
            // needs.
            self.drop_idle();
            if self.bytes.capacity() <= 2 * self.pending_bytes() {
                return;
            }
        }
        self.drop_idle();
        let mut rest = Vec::with_capacity(self.pending_bytes());
        self.copy_unsent(store, turn, &mut rest);
        self.bytes = rest;
        self.loans = Vec::new();
        self.lent_bytes = 0;
        self.forget_sent();
    }

    /// Keep no list of held answers where nothing needs one.
    fn drop_idle(&mut self) {
        self.held.take_if(|held| held.is_idle());
    }

    /// Append to `bytes` all that is not sent yet.
    fn copy_unsent(&self, store: &Store, turn: &Turn<'_>, bytes: &mut Vec<u8>) {
        self.for_each_unsent(
            self.bytes.len() + self.lent_bytes,
            |loan| store.loaned(turn, loan),
            |part| {
                match part {
                    Part::Bytes(part) => bytes.extend_from_slice(part),
                    Part::Words(span) => span.copy_to(bytes),
                }
                true
            },
        );
    }

    /// Make room in place, once that is worth moving the rest.
    fn drop_sent(&mut self) {
        if self.sent_bytes > self.pending_bytes() {
            self.bytes.drain(..self.sent_bytes);
            self.forget_sent();
        }
    }

    fn forget_sent(&mut self) {
        if let Some(held) = &mut self.held {
            held.note_gone(self.sent_bytes);
        }
        self.sent_bytes = 0;
    }

    fn write_with<'r>(
        &mut self,
        resolve: impl Fn(&ValueLoan) -> Value<'r>,
        send: impl FnOnce(&[Part<'_>]) -> io::Result<usize>,
    ) -> io::Result<Option<usize>> {
        let end = self.sendable_end();
        if end == self.sent_bytes {
            return Ok(None);
        }
        let attempt = if self.loans.is_empty() {
            // Most answers are small and all bytes: no list of parts is made for them.
            send(&[Part::Bytes(&self.bytes[self.sent_bytes..end])])
        } else {
            let mut parts = [Part::Bytes(&[]); PARTS_PER_SEND];
            let count = self.unsent_parts(end, resolve, &mut parts);
            send(&parts[..count])
        };
        let sent = match attempt {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        self.sent_bytes += sent;
        if self.pending_bytes() == 0 {
            self.clear();
        }
        Ok(Some(sent))
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.loans.clear();
        self.lent_bytes = 0;
        self.forget_sent();
    }

    /// Fill `parts` with what is not sent yet, up to place `end`; returns how many were filled.
    fn unsent_parts<'a, 'r: 'a>(
        &'a self,
        end: usize,
        resolve: impl Fn(&ValueLoan) -> Value<'r>,
        parts: &mut [Part<'a>; PARTS_PER_SEND],
    ) -> usize {
        let mut count = 0;
        self.for_each_unsent(end, resolve, |part| {
            parts[count] = part;
            count += 1;
            count < PARTS_PER_SEND
        });
        count
    }

    /// Walk the stream up to place `end`, without what is sent, until `take` says false.
    fn for_each_unsent<'a, 'r: 'a>(
        &'a self,
        end: usize,
        resolve: impl Fn(&ValueLoan) -> Value<'r>,
        mut take: impl FnMut(Part<'a>) -> bool,
    ) {
        let mut skip = self.sent_bytes;
        let mut left = end - self.sent_bytes;
        let mut from = 0;
        let ends = self.loans.iter().map(|(at, loan)| (*at, Some(loan)));
        for (upto, loan) in ends.chain([(self.bytes.len(), None)]) {
            let bytes = &self.bytes[from..upto];
            from = upto;
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            let taken = left.min(bytes.len() - skipped);
            left -= taken;
            if taken > 0 && !take(Part::Bytes(&bytes[skipped..skipped + taken])) {
                return;
            }
            let Some(loan) = loan else { return };
            let skipped = skip.min(loan.len());
            skip -= skipped;
            let taken = left.min(loan.len() - skipped);
            left -= taken;
            if taken > 0 && !resolve(loan).part(skipped, taken).all(|run| take(Part::Words(run))) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
