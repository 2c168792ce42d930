//! Memory as atomic words. Ring memory is shared by threads and, later, by other machines, so it is never borrowed as
//! bytes: it is copied in and out word by word with relaxed atomics. A mistake above this layer reads wrong bytes, never
//! undefined behaviour.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A run of bytes inside words. Little-endian within a word.
#[derive(Clone, Copy)]
pub struct WordSpan<'a> {
    words: &'a [AtomicU64],
    start_byte: usize,
    bytes: usize,
}

impl<'a> WordSpan<'a> {
    /// The `bytes` bytes from byte `start_byte` of `words`. Panics if they do not lie within.
    pub fn new(words: &'a [AtomicU64], start_byte: usize, bytes: usize) -> Self {
        assert!(start_byte.checked_add(bytes).is_some_and(|end| end <= words.len() * 8));
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

    /// Append the bytes to `out`.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        let mut at = self.start_byte;
        let end = self.start_byte + self.bytes;
        while at < end {
            let word = self.words[at / 8].load(Relaxed).to_le_bytes();
            let from = at % 8;
            let upto = (8).min(from + end - at);
            out.extend_from_slice(&word[from..upto]);
            at += upto - from;
        }
    }
}
