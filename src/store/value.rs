//! The bytes of a value where they lie: in one run, or in several where the value goes on in the
//! following slabs.

use super::log::Log;
use super::record::Record;
use crate::sys::words::WordSpan;

/// See the module. Stays for the turn in which it was found.
#[derive(Clone, Copy)]
pub struct Value<'t> {
    log: &'t Log,
    /// The bytes in the record's own slab.
    first: WordSpan<'t>,
    bytes: usize,
    /// The position at which the following slab begins.
    next: u64,
}

impl<'t> Value<'t> {
    /// That of the record at `position`.
    #[inline]
    pub(super) fn of(log: &'t Log, position: u64, record: &Record<'t>) -> Value<'t> {
        let words = record.words();
        let (at, bytes) = (record.shape.value_at(), record.shape.value_bytes());
        let here_bytes = bytes.min(words.len() * 8 - at);
        let first = WordSpan::new(words, at, here_bytes);
        Value { log, first, bytes, next: position + words.len() as u64 * 8 }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// All of it, if it is in one run, as it nearly always is.
    #[inline]
    pub fn in_one_run(&self) -> Option<WordSpan<'t>> {
        (self.first.len() == self.bytes).then_some(self.first)
    }

    /// Its runs, in order.
    pub fn runs(&self) -> Runs<'t> {
        self.part(0, self.bytes)
    }

    /// The runs of `bytes_max` bytes from byte `from` on, or of as many as there are.
    pub fn part(&self, from: usize, bytes_max: usize) -> Runs<'t> {
        let left_bytes = bytes_max.min(self.bytes.saturating_sub(from));
        Runs {
            value: *self,
            run: self.first,
            behind_bytes: self.bytes - self.first.len(),
            skip_bytes: from,
            left_bytes,
        }
    }

    /// Append the bytes to `out`.
    #[inline]
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        if self.first.len() == self.bytes {
            self.first.copy_to(out);
        } else {
            self.copy_runs_to(out);
        }
    }

    #[cold]
    fn copy_runs_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.bytes + 8);
        self.runs().for_each(|run| run.copy_to(out));
    }

    /// True when the value is exactly `other`.
    pub fn equals(&self, other: &[u8]) -> bool {
        let mut rest = other;
        self.bytes == other.len()
            && self.runs().all(|run| {
                let (here, behind) = rest.split_at(run.len());
                rest = behind;
                run.equals(here)
            })
    }
}

/// See [`Value::runs`].
pub struct Runs<'t> {
    value: Value<'t>,
    /// The run to be looked at next, and the bytes of the value behind it.
    run: WordSpan<'t>,
    behind_bytes: usize,
    /// What is asked for begins so far on, and so much of it is left.
    skip_bytes: usize,
    left_bytes: usize,
}

impl<'t> Iterator for Runs<'t> {
    type Item = WordSpan<'t>;

    fn next(&mut self) -> Option<WordSpan<'t>> {
        while self.left_bytes > 0 {
            let run = self.run;
            self.advance();
            let asked = run.slice(self.skip_bytes, self.left_bytes);
            self.skip_bytes -= self.skip_bytes.min(run.len());
            self.left_bytes -= asked.len();
            // The first run may be empty: the record's options end with its slab.
            if !asked.is_empty() {
                return Some(asked);
            }
        }
        None
    }
}

impl Runs<'_> {
    fn advance(&mut self) {
        let words = self.value.log.words_at(self.value.next);
        let bytes = self.behind_bytes.min(words.len() * 8);
        self.run = WordSpan::new(words, 0, bytes);
        self.value.next += words.len() as u64 * 8;
        self.behind_bytes -= bytes;
    }
}
