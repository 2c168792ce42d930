//! Memory as atomic words. Ring memory is shared by threads and, later, by other machines, so it is never borrowed as
//! bytes: it is copied in and out, and compared, word by word with relaxed atomics. A mistake above this layer reads wrong
//! bytes, never undefined behaviour. Bytes are little-endian within a word.

use super::sync::{AtomicU64, Ordering::Relaxed};

/// A run of bytes inside words.
#[derive(Clone, Copy)]
pub struct WordSpan<'a> {
    words: &'a [AtomicU64],
    start_byte: usize,
    bytes: usize,
}

impl<'a> WordSpan<'a> {
    /// The `bytes` bytes from byte `start_byte` of `words`. Panics if they do not lie within.
    pub fn new(words: &'a [AtomicU64], start_byte: usize, bytes: usize) -> Self {
        assert!(start_byte.checked_add(bytes).is_some_and(|end| end <= words.len() * 8), "a span beyond its words");
        WordSpan { words, start_byte, bytes }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The span's words and where it starts in them, for the kernel to read from (sys/send).
    pub fn parts(&self) -> (&'a [AtomicU64], usize, usize) {
        (self.words, self.start_byte, self.bytes)
    }

    /// The part from byte `from` on, at most `bytes_max` long.
    pub fn slice(&self, from: usize, bytes_max: usize) -> WordSpan<'a> {
        let from = from.min(self.bytes);
        let bytes = bytes_max.min(self.bytes - from);
        WordSpan { words: self.words, start_byte: self.start_byte + from, bytes }
    }

    /// Append the bytes to `out`.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.resize(begin + self.bytes, 0);
        self.copy_to_slice(&mut out[begin..]);
    }

    /// Copy into `to`, which must be as long as the span.
    pub fn copy_to_slice(&self, to: &mut [u8]) {
        assert_eq!(to.len(), self.bytes, "a copy of another length");
        let first = self.start_byte / 8;
        let offset = self.start_byte % 8;
        let head_bytes = if offset == 0 { 0 } else { (8 - offset).min(to.len()) };
        let (head, rest) = to.split_at_mut(head_bytes);
        if head_bytes > 0 {
            head.copy_from_slice(&self.words[first].load(Relaxed).to_le_bytes()[offset..offset + head_bytes]);
        }
        let words = &self.words[first + usize::from(offset != 0 && head_bytes + offset == 8)..];
        let mut chunks = rest.chunks_exact_mut(8);
        let mut taken = 0;
        for (chunk, word) in (&mut chunks).zip(words) {
            chunk.copy_from_slice(&word.load(Relaxed).to_le_bytes());
            taken += 1;
        }
        let tail = chunks.into_remainder();
        if !tail.is_empty() {
            let tail_bytes = tail.len();
            tail.copy_from_slice(&words[taken].load(Relaxed).to_le_bytes()[..tail_bytes]);
        }
    }

    /// True when the span holds exactly `other`. Quick when it starts on a word, as keys do.
    pub fn equals(&self, other: &[u8]) -> bool {
        if self.bytes != other.len() {
            return false;
        }
        if !self.start_byte.is_multiple_of(8) {
            return (0..other.len()).all(|at| self.byte(at) == other[at]);
        }
        let words = &self.words[self.start_byte / 8..];
        let (chunks, tail) = other.as_chunks::<8>();
        let whole = chunks.iter().zip(words).all(|(chunk, word)| word.load(Relaxed) == u64::from_le_bytes(*chunk));
        whole && (tail.is_empty() || words[chunks.len()].load(Relaxed).to_le_bytes()[..tail.len()] == *tail)
    }

    fn byte(&self, at: usize) -> u8 {
        let at = self.start_byte + at;
        self.words[at / 8].load(Relaxed).to_le_bytes()[at % 8]
    }
}

/// Writes bytes into words one after another, from a word's start; the last word is padded with zeroes.
pub struct WordWriter<'a> {
    words: &'a [AtomicU64],
    next: usize,
    partial: u64,
    partial_bytes: usize,
}

impl<'a> WordWriter<'a> {
    /// Writes from the start of `words`. Panics when written past their end.
    pub fn new(words: &'a [AtomicU64]) -> Self {
        WordWriter { words, next: 0, partial: 0, partial_bytes: 0 }
    }

    /// Append `bytes`.
    pub fn put(&mut self, mut bytes: &[u8]) {
        if self.partial_bytes > 0 {
            let fill = (8 - self.partial_bytes).min(bytes.len());
            let (head, rest) = bytes.split_at(fill);
            self.fill(head);
            bytes = rest;
        }
        let (chunks, tail) = bytes.as_chunks::<8>();
        let to = &self.words[self.next..self.next + chunks.len()];
        for (chunk, word) in chunks.iter().zip(to) {
            word.store(u64::from_le_bytes(*chunk), Relaxed);
        }
        self.next += chunks.len();
        self.fill(tail);
    }

    /// Append the bytes of a span of other words (they must not overlap).
    pub fn put_span(&mut self, span: WordSpan<'_>) {
        let mut buffer = [0; 512];
        let mut from = 0;
        while from < span.len() {
            let piece = span.slice(from, buffer.len());
            piece.copy_to_slice(&mut buffer[..piece.len()]);
            self.put(&buffer[..piece.len()]);
            from += piece.len();
        }
    }

    /// Write what is left; returns the number of words written.
    pub fn finish(mut self) -> usize {
        if self.partial_bytes > 0 {
            self.flush_partial();
        }
        self.next
    }

    /// At most what the open word still takes.
    fn fill(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.partial |= u64::from(*byte) << (8 * self.partial_bytes);
            self.partial_bytes += 1;
        }
        if self.partial_bytes == 8 {
            self.flush_partial();
        }
    }

    fn flush_partial(&mut self) {
        self.words[self.next].store(self.partial, Relaxed);
        self.next += 1;
        self.partial = 0;
        self.partial_bytes = 0;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn words(count: usize) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0xEEEE_EEEE_EEEE_EEEE)).collect()
    }

    #[test]
    fn what_is_put_in_any_pieces_comes_out_at_any_offset() {
        let bytes: Vec<u8> = (1..=61).collect();
        for first in 0..bytes.len() {
            for second in [first, (first + 3).min(61), (first + 9).min(61), 61] {
                let memory = words(9);
                let mut writer = WordWriter::new(&memory);
                writer.put(&bytes[..first]);
                writer.put(&bytes[first..second]);
                writer.put(&bytes[second..]);
                assert_eq!(writer.finish(), 8);
                for at in 0..bytes.len() {
                    let span = WordSpan::new(&memory, at, bytes.len() - at);
                    let mut out = vec![7];
                    span.copy_to(&mut out);
                    assert_eq!(out[1..], bytes[at..]);
                    assert!(span.equals(&bytes[at..]));
                    assert!(!span.equals(&bytes[..bytes.len() - at]) || at == 0);
                }
                assert_eq!(memory[8].load(Relaxed), 0xEEEE_EEEE_EEEE_EEEE, "nothing is written past the end");
                assert_eq!(WordSpan::new(&memory, 61, 3).byte(2), 0, "the last word is padded with zeroes");
            }
        }
    }

    #[test]
    fn a_span_is_copied_to_words_whatever_its_alignment() {
        let bytes: Vec<u8> = (0..1500).map(|n| n as u8).collect();
        let memory = words(200);
        let mut writer = WordWriter::new(&memory);
        writer.put(&bytes);
        writer.finish();
        for at in [0, 1, 7, 8, 13] {
            let copy = words(200);
            let mut writer = WordWriter::new(&copy);
            writer.put(b"abc");
            writer.put_span(WordSpan::new(&memory, at, 1400));
            writer.finish();
            assert!(WordSpan::new(&copy, 3, 1400).equals(&bytes[at..at + 1400]));
        }
    }

    #[test]
    #[should_panic(expected = "beyond")]
    fn a_span_beyond_its_words_is_our_bug() {
        WordSpan::new(&words(2), 9, 8);
    }
}
