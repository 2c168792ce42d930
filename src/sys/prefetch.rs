//! Asking for memory before it is needed, so that the misses of many requests overlap. A hint:
//! nothing depends on it.

use super::sync::AtomicU64;

/// Words of a cache line.
const LINE_WORDS: usize = 8;

/// Fetch the cache lines of the first `lines` times 64 bytes of `words`.
#[inline]
pub fn prefetch(words: &[AtomicU64], lines: usize) {
    for line in words.chunks(LINE_WORDS).take(lines) {
        prefetch_line(&line[0]);
    }
}

#[inline]
#[cfg(all(target_arch = "x86_64", not(loom)))]
fn prefetch_line(word: &AtomicU64) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: the instruction is part of every x86-64, reads nothing that the program could see,
    // and faults on no address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast()) }
}

#[inline]
#[cfg(all(target_arch = "aarch64", not(loom)))]
fn prefetch_line(word: &AtomicU64) {
    // SAFETY: a hint that every ARMv8 has, reads nothing that the program could see, and faults on
    // no address.
    unsafe { std::arch::asm!("prfm pldl1keep, [{}]", in(reg) word, options(nostack, readonly, preserves_flags)) }
}

#[inline]
#[cfg(any(loom, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn prefetch_line(_word: &AtomicU64) {}
