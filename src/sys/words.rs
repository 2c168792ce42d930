//! Memory as atomic words. The memory of logs is shared by threads and other machines, so it is
//! never borrowed as bytes: it is copied in and out, and compared, word by word with relaxed
//! atomics. A mistake above this layer reads wrong bytes, never undefined behaviour. Bytes are
//! little-endian within a word.

use super::bulk;
use super::sync::{AtomicU64, Ordering::Relaxed};
use std::mem::MaybeUninit;

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
        let count = self.bytes.div_ceil(8);
        // Whole words are written, so up to seven bytes behind the end, into room that nobody sees.
        out.reserve(count * 8);
        let (room, _) = out.spare_capacity_mut().as_chunks_mut::<8>();
        self.copy_words(&mut room[..count]);
        let length = out.len() + self.bytes;
        // SAFETY: `copy_words` has filled `count` words of the spare capacity, which are at least
        // `self.bytes` bytes.
        unsafe { out.set_len(length) };
    }

    /// Fill `room`, the span's length rounded up to words; what is behind the span means nothing.
    #[inline]
    fn copy_words(&self, room: &mut [[MaybeUninit<u8>; 8]]) {
        let words = &self.words[self.start_byte / 8..(self.start_byte + self.bytes).div_ceil(8)];
        let shift = self.start_byte % 8 * 8;
        if shift == 0 {
            room.iter_mut().zip(words).for_each(|(to, word)| put(to, word.load(Relaxed)));
            return;
        }
        let Some((first, rest)) = words.split_first() else { return };
        let mut low = first.load(Relaxed);
        for (to, word) in room.iter_mut().zip(rest) {
            let high = word.load(Relaxed);
            put(to, funnel(low, high, shift));
            low = high;
        }
        // The last bytes may begin and end in one word.
        if let Some(to) = room.get_mut(rest.len()) {
            put(to, low >> shift);
        }
    }

    /// Copy into `to`, which must be as long as the span.
    pub fn copy_to_slice(&self, to: &mut [u8]) {
        assert_eq!(to.len(), self.bytes, "a copy of another length");
        let first = self.start_byte / 8;
        let offset = self.start_byte % 8;
        if offset == 0 && to.len() >= bulk::WORDS_MIN * 8 {
            let whole = to.len() / 8;
            let (to, tail) = to.split_at_mut(whole * 8);
            bulk::copy_out(&self.words[first..first + whole], to);
            return self.slice(to.len(), tail.len()).copy_to_slice(tail);
        }
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

    /// The bytes, copied out piece by piece.
    pub fn for_each_piece(&self, mut take: impl FnMut(&[u8])) {
        let mut buffer = [0; 512];
        let mut from = 0;
        while from < self.bytes {
            let piece = self.slice(from, buffer.len());
            piece.copy_to_slice(&mut buffer[..piece.len()]);
            take(&buffer[..piece.len()]);
            from += piece.len();
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
        let words = &self.words[self.start_byte / 8..(self.start_byte + self.bytes).div_ceil(8)];
        let (chunks, tail) = other.as_chunks::<8>();
        let whole = chunks.iter().zip(words).all(|(chunk, word)| word.load(Relaxed) == u64::from_le_bytes(*chunk));
        // What stands behind the span in its last word is something else's.
        whole
            && (tail.is_empty()
                || (words[chunks.len()].load(Relaxed) ^ partial_word(tail)) << (64 - 8 * tail.len()) == 0)
    }

    fn byte(&self, at: usize) -> u8 {
        let at = self.start_byte + at;
        self.words[at / 8].load(Relaxed).to_le_bytes()[at % 8]
    }
}

/// Runs of at least so many words are large values. Copying them through the cache would push out
/// what is used more often.
const PAST_CACHE_WORDS: usize = 1024;

/// Copy words, from one slice to another of the same length. Shorter runs in a plain loop: by a
/// string instruction 2 KiB from memory take 3 % less, 4 KiB 11 %.
pub fn copy_words(from: &[AtomicU64], to: &[AtomicU64]) {
    assert_eq!(from.len(), to.len(), "a copy of another length");
    if from.len() >= PAST_CACHE_WORDS {
        return bulk::copy_past_cache(from, to);
    }
    from.iter().zip(to).for_each(|(word, to)| to.store(word.load(Relaxed), Relaxed));
}

/// Writes bytes into words one after another, from a word's start; the last word is padded with
/// zeroes.
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
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (chunks, tail) = bytes.as_chunks::<8>();
        let to = &self.words[self.next..self.next + chunks.len()];
        let shift = self.partial_bytes * 8;
        if shift == 0 {
            to.iter().zip(chunks).for_each(|(word, chunk)| word.store(u64::from_le_bytes(*chunk), Relaxed));
        } else {
            let mut low = self.partial << (64 - shift);
            for (word, chunk) in to.iter().zip(chunks) {
                let high = u64::from_le_bytes(*chunk);
                word.store(funnel(low, high, 64 - shift), Relaxed);
                low = high;
            }
            self.partial = low >> (64 - shift);
        }
        self.next += chunks.len();
        self.put_tail(tail);
    }

    /// Write what is left; returns the number of words written.
    pub fn finish(mut self) -> usize {
        if self.partial_bytes > 0 {
            self.flush_partial();
        }
        self.next
    }

    /// At most seven bytes.
    #[inline]
    fn put_tail(&mut self, bytes: &[u8]) {
        let tail = partial_word(bytes);
        let shift = self.partial_bytes * 8;
        self.partial |= tail << shift;
        self.partial_bytes += bytes.len();
        if self.partial_bytes >= 8 {
            let left_bytes = self.partial_bytes - 8;
            self.flush_partial();
            // Some of the tail did not fit into the word, so the word was not empty before, and the
            // shift is not 64.
            if left_bytes > 0 {
                self.partial = tail >> (64 - shift);
                self.partial_bytes = left_bytes;
            }
        }
    }

    #[inline]
    fn flush_partial(&mut self) {
        self.words[self.next].store(self.partial, Relaxed);
        self.next += 1;
        self.partial = 0;
        self.partial_bytes = 0;
    }
}

/// The 64 bits that begin at bit `shift`, 0 to 63, of `low` with `high` behind it: one instruction
/// where there is one.
#[inline]
fn funnel(low: u64, high: u64, shift: usize) -> u64 {
    ((u128::from(high) << 64 | u128::from(low)) >> (shift & 63)) as u64
}

/// Store a word as bytes, in one instruction. Compilers do not make one out of a copy byte by byte.
#[inline]
fn put(to: &mut [MaybeUninit<u8>; 8], word: u64) {
    // SAFETY: eight bytes of which any value is allowed are as large as a u64, and
    // `write_unaligned` asks for no alignment.
    unsafe { std::ptr::from_mut(to).cast::<u64>().write_unaligned(word.to_le()) }
}

/// At most seven bytes as the low end of a word.
#[inline]
fn partial_word(bytes: &[u8]) -> u64 {
    // Two loads that may overlap: what they share is the same in both.
    let (low, high, apart_bytes): (u64, u64, usize) =
        if let (Some(low), Some(high)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (u32::from_le_bytes(*low).into(), u32::from_le_bytes(*high).into(), bytes.len() - 4)
        } else if let (Some(low), Some(high)) = (bytes.first_chunk::<2>(), bytes.last_chunk::<2>()) {
            (u16::from_le_bytes(*low).into(), u16::from_le_bytes(*high).into(), bytes.len() - 2)
        } else {
            return bytes.first().map_or(0, |byte| u64::from(*byte));
        };
    low | high << (8 * apart_bytes)
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
            WordSpan::new(&memory, at, 1400).for_each_piece(|piece| writer.put(piece));
            writer.finish();
            assert!(WordSpan::new(&copy, 3, 1400).equals(&bytes[at..at + 1400]));
        }
    }

    #[test]
    fn words_are_copied_whole_and_no_more() {
        for count in [0, 1, 7, 8, 9, 31] {
            let (from, to) = (words(count), words(count + 1));
            from.iter().enumerate().for_each(|(at, word)| word.store(at as u64, Relaxed));
            copy_words(&from, &to[..count]);
            assert!((0..count).all(|at| to[at].load(Relaxed) == at as u64));
            assert_eq!(to[count].load(Relaxed), 0xEEEE_EEEE_EEEE_EEEE);
        }
    }

    #[test]
    #[should_panic(expected = "beyond")]
    fn a_span_beyond_its_words_is_our_bug() {
        WordSpan::new(&words(2), 9, 8);
    }
}
