//! The drawings of docs/FORMATS.md, byte by byte: what is written here by hand is what the code
//! must write, and must read as it was meant. A round trip alone would not notice a field that
//! moved. To change a format means to change its drawing, and these bytes.
//!
//! | file | what is drawn |
//! | --- | --- |
//! | records.rs | the entries of a log |
//! | lines.rs | control lines, ack slots, wants and pushed lines, the place of each in its region |
//! | wire.rs | the messages of a control connection, and its proofs |
//! | fabrics.rs | what the data channels of tcp and shm begin with |
//! | hashes.rs | which shard a key is of |

mod fabrics;
mod hashes;
mod lines;
mod records;
mod wire;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes from lines of hexadecimal pairs; what stands behind a `|` is for people.
fn hex(text: &str) -> Vec<u8> {
    let pairs = text.lines().flat_map(|line| line.split('|').next().unwrap_or("").split_whitespace());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap_or_else(|_| panic!("{pair:?} is no byte"))).collect()
}

/// Byte for byte the same; else where they begin to differ.
fn assert_drawn(is: &[u8], should: &[u8], what: &str) {
    let Some(at) = (0..is.len().max(should.len())).find(|at| is.get(*at) != should.get(*at)) else { return };
    let around = |bytes: &[u8]| {
        let line = bytes.get(at / 8 * 8..).unwrap_or_default();
        line.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
    };
    panic!("{what}: from byte {at} on\n  drawn   {}\n  but is  {}", around(should), around(is));
}

/// What these words are in memory.
fn bytes_of(words: &[AtomicU64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect()
}

/// Memory with these bytes.
fn words_of(bytes: &[u8]) -> Vec<AtomicU64> {
    let (words, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty(), "whole words");
    words.iter().map(|word| AtomicU64::new(u64::from_ne_bytes(*word))).collect()
}

/// Memory in which nothing is zero.
fn used_words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(u64::MAX)).collect()
}
