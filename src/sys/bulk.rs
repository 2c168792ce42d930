//! Many words at once. Compilers do not join atomic accesses, so a loop over atomics moves eight
//! bytes an instruction. There are two other ways, and each is there for what was measured:
//! - a string instruction ([`copy`], [`copy_out`]), for what is looked at again at once: 64 KiB
//!   from memory take 8.4 us, in a loop 10.3. Without it where long values are summed, a full copy
//!   of a replica is 7 % slower.
//! - streaming stores ([`copy_past_cache`]), for what is not: 64 KiB take 6.7 us. By a string
//!   instruction into the log, a full copy is a tenth slower.
//!
//! What that means, against a loop of relaxed loads and stores (x86, "fast-string operation"):
//! - Nothing is promised about the order within one copy: no more than for relaxed accesses to
//!   different words.
//! - A store behind it is seen after all of its stores (the manual asks for just that: a separate
//!   word, stored after the string).
//! - Its loads are promised no order against loads before and behind it, which a plain load has. So
//!   it stands between two LFENCEs: nothing behind one is begun before everything in front of it is
//!   done.
//! - That each aligned word is moved whole is what processors do, but not what the manual says.
//!   Where others may write to the words meanwhile and nothing proves them afterwards (control
//!   lines), they are to be copied one by one.
//!
//! To the language it is a piece of assembly that loads and stores the words with relaxed accesses:
//! no data race, whoever else looks.

use super::sync::{AtomicU64, Ordering::Relaxed};

/// From so many words on it is faster than a loop.
pub const WORDS_MIN: usize = 256;

/// Copy all words of `from` to the front of `to`. Panics if they do not fit.
#[inline]
#[cfg(all(target_arch = "x86_64", not(loom)))]
pub fn copy(from: &[AtomicU64], to: &[AtomicU64]) {
    assert!(from.len() <= to.len(), "a copy that does not fit");
    // SAFETY: both are that long, and an AtomicU64 may be written to through a shared reference.
    unsafe { move_words(from.as_ptr().cast(), to.as_ptr().cast_mut().cast(), from.len()) }
}

/// The same, past the cache: for words that nobody is going to look at soon. A cache line that is
/// overwritten whole need not be read first, and what is in the cache stays there.
#[cfg(all(target_arch = "x86_64", not(loom)))]
pub fn copy_past_cache(from: &[AtomicU64], to: &[AtomicU64]) {
    assert_eq!(from.len(), to.len(), "a copy of another length");
    // Whole cache lines of `to`; the words before and behind them one by one.
    let before = (to.as_ptr().align_offset(LINE_BYTES)).min(to.len());
    let lines = (to.len() - before) / LINE_WORDS;
    let behind = before + lines * LINE_WORDS;
    let one_by_one = |from: &[AtomicU64], to: &[AtomicU64]| {
        from.iter().zip(to).for_each(|(from, to)| to.store(from.load(Relaxed), Relaxed));
    };
    one_by_one(&from[..before], &to[..before]);
    one_by_one(&from[behind..], &to[behind..]);
    if lines > 0 {
        // SAFETY: so many lines lie within both, and those of `to` are aligned.
        unsafe { stream_lines(from[before..].as_ptr().cast(), to[before..].as_ptr().cast_mut().cast(), lines) }
    }
}

#[cfg(all(target_arch = "x86_64", not(loom)))]
const LINE_BYTES: usize = 64;
#[cfg(all(target_arch = "x86_64", not(loom)))]
const LINE_WORDS: usize = LINE_BYTES / 8;

#[cfg(all(target_arch = "x86_64", not(loom)))]
unsafe fn stream_lines(from: *const u8, to: *mut u8, lines: usize) {
    // SAFETY: the caller gives so many lines, at least one, of two runs that do not overlap, the
    // second aligned to lines. SSE2 is part of x86-64. The fence orders the streaming stores before
    // all that follow.
    unsafe {
        std::arch::asm!(
            "2:",
            "movdqu {one}, [{from}]",
            "movdqu {two}, [{from} + 16]",
            "movdqu {three}, [{from} + 32]",
            "movdqu {four}, [{from} + 48]",
            "movntdq [{to}], {one}",
            "movntdq [{to} + 16], {two}",
            "movntdq [{to} + 32], {three}",
            "movntdq [{to} + 48], {four}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {lines}",
            "jnz 2b",
            "sfence",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            lines = inout(reg) lines => _,
            one = out(xmm_reg) _,
            two = out(xmm_reg) _,
            three = out(xmm_reg) _,
            four = out(xmm_reg) _,
            options(nostack)
        );
    }
}

/// Copy all words of `from` into `to`, which is exactly as long.
#[inline]
#[cfg(all(target_arch = "x86_64", not(loom)))]
pub fn copy_out(from: &[AtomicU64], to: &mut [u8]) {
    assert_eq!(from.len() * 8, to.len(), "a copy of another length");
    // SAFETY: both are that long, `to` is ours alone, and the instruction asks for no alignment.
    unsafe { move_words(from.as_ptr().cast(), to.as_mut_ptr(), from.len()) }
}

#[inline]
#[cfg(all(target_arch = "x86_64", not(loom)))]
unsafe fn move_words(from: *const u8, to: *mut u8, words: usize) {
    // SAFETY: the caller gives two runs of so many words that do not overlap (they are of different
    // mappings or objects); the direction flag is clear, as the calling convention has it, and no
    // register but the three named changes.
    unsafe {
        std::arch::asm!(
            "lfence",
            "rep movsq",
            "lfence",
            inout("rcx") words => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Word by word.
#[cfg(any(not(target_arch = "x86_64"), loom))]
pub fn copy(from: &[AtomicU64], to: &[AtomicU64]) {
    assert!(from.len() <= to.len(), "a copy that does not fit");
    from.iter().zip(to).for_each(|(from, to)| to.store(from.load(Relaxed), Relaxed));
}

/// Word by word.
#[cfg(any(not(target_arch = "x86_64"), loom))]
pub fn copy_past_cache(from: &[AtomicU64], to: &[AtomicU64]) {
    copy(from, to);
}

/// Word by word.
#[cfg(any(not(target_arch = "x86_64"), loom))]
pub fn copy_out(from: &[AtomicU64], to: &mut [u8]) {
    assert_eq!(from.len() * 8, to.len(), "a copy of another length");
    to.chunks_exact_mut(8).zip(from).for_each(|(to, from)| to.copy_from_slice(&from.load(Relaxed).to_le_bytes()));
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn all_words_and_no_more() {
        for count in [0, 1, 7, WORDS_MIN, 1000] {
            let from: Vec<AtomicU64> = (1..=count as u64).map(AtomicU64::new).collect();
            let to: Vec<AtomicU64> = (0..=count).map(|_| AtomicU64::new(u64::MAX)).collect();
            copy(&from, &to);
            assert!((0..count).all(|at| to[at].load(Relaxed) == at as u64 + 1));
            assert_eq!(to[count].load(Relaxed), u64::MAX);
            for first in [0, 1, 3] {
                let to: Vec<AtomicU64> = (0..=first + count).map(|_| AtomicU64::new(u64::MAX)).collect();
                copy_past_cache(&from, &to[first..first + count]);
                assert!((0..count).all(|at| to[first + at].load(Relaxed) == at as u64 + 1));
                assert!(to[..first].iter().chain(&to[first + count..]).all(|word| word.load(Relaxed) == u64::MAX));
            }
            // At an odd address.
            let mut bytes = vec![0xEE; count * 8 + 2];
            copy_out(&from, &mut bytes[1..=count * 8]);
            assert!((0..count).all(|at| bytes[1 + at * 8..][..8] == (at as u64 + 1).to_le_bytes()));
            assert_eq!((bytes[0], bytes[count * 8 + 1]), (0xEE, 0xEE));
        }
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn what_does_not_fit_is_our_bug() {
        copy(&[AtomicU64::new(0)], &[]);
    }
}
