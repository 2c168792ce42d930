//! Memory of another process, mapped into this one from a memfd that was received: read-only
//! ([`ReadOnlyWords`]) or shared ([`SharedWords`]), or as it was opened ([`ForeignWords`]).
//!
//! The other process is not trusted. A memfd that could shrink would raise SIGBUS here, so one that
//! is not sealed against it (F_SEAL_SHRINK, which nobody can take back) or has another size than
//! was said is refused before it is mapped. What the words hold may change at any time, which
//! atomics allow.

use super::bulk;
use super::memory::HUGEPAGE_BYTES;
use super::sync::{AtomicU64, Ordering::Relaxed};
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{OFlags, SealFlags, fcntl_get_seals, fcntl_getfl, fstat, fstatfs};
use std::fs::File;
use std::io;
use std::sync::atomic::AtomicBool;

/// The first copy out of a step of this length maps all pages of the step at once. Mapping them one
/// by one, in the middle of copying, takes as long as the copy. Mapping the whole file in advance
/// takes 0.6 s for each GiB before anything is read. And it gives memory to the holes of the other
/// process's file: for this reason a step is no longer than the longest slab (store/pool.rs).
const STEP_BYTES: usize = 256 << 10;

/// A mapping that can only be loaded from: a store to it would be a segmentation fault, so no
/// `&AtomicU64` of it is given out.
pub struct ReadOnlyWords {
    map: MmapRaw,
    /// For each step whether its pages were asked for.
    is_populated: Box<[AtomicBool]>,
}

impl ReadOnlyWords {
    /// Map `file`, which must be of `bytes` bytes, a multiple of 8, and sealed against shrinking.
    pub fn map(file: &File, bytes: usize) -> io::Result<ReadOnlyWords> {
        check(file, bytes)?;
        let map = MmapOptions::new().len(bytes).map_raw_read_only(file)?;
        if bytes.is_multiple_of(HUGEPAGE_BYTES) {
            let _ = map.advise(Advice::HugePage); // only saves page faults
        }
        let is_populated = (0..bytes.div_ceil(STEP_BYTES)).map(|_| AtomicBool::new(false)).collect();
        Ok(ReadOnlyWords { map, is_populated })
    }

    fn populate(&self, at: usize, words: usize) {
        let (from, until) = (at * 8 / STEP_BYTES, ((at + words) * 8).div_ceil(STEP_BYTES));
        for step in from..until {
            if !self.is_populated[step].swap(true, Relaxed) {
                let begin = step * STEP_BYTES;
                // Kernels before 5.14 do not know it: then there are page faults.
                let _ = self.map.advise_range(Advice::PopulateRead, begin, STEP_BYTES.min(self.map.len() - begin));
            }
        }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    /// Load the words from word `at` on into `to`, each once, with relaxed ordering. Panics if they
    /// do not lie within.
    pub fn copy_to(&self, at: usize, to: &[AtomicU64]) {
        let from = &words_of(&self.map)[at..at + to.len()];
        self.populate(at, to.len());
        copy(from, to);
    }
}

/// A mapping of what the descriptor allows: the other process decides that by how it opened it.
pub enum ForeignWords {
    /// It can only be loaded from.
    ReadOnly(ReadOnlyWords),
    /// It can be stored to as well.
    Shared(SharedWords),
}

impl ForeignWords {
    /// Map `file`, which must be of `bytes` bytes, a multiple of 8, and sealed against shrinking.
    pub fn map(file: &File, bytes: usize) -> io::Result<ForeignWords> {
        match fcntl_getfl(file)?.contains(OFlags::RDWR) {
            true => SharedWords::map(file, bytes).map(ForeignWords::Shared),
            false => ReadOnlyWords::map(file, bytes).map(ForeignWords::ReadOnly),
        }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            ForeignWords::ReadOnly(words) => words.bytes(),
            ForeignWords::Shared(words) => words.words().len() * 8,
        }
    }

    /// As [`ReadOnlyWords::copy_to`].
    pub fn copy_to(&self, at: usize, to: &[AtomicU64]) {
        match self {
            ForeignWords::ReadOnly(words) => words.copy_to(at, to),
            ForeignWords::Shared(words) => copy(&words.words()[at..at + to.len()], to),
        }
    }

    /// The words, where they may be stored to.
    pub fn shared(&self) -> Option<&[AtomicU64]> {
        match self {
            ForeignWords::ReadOnly(_) => None,
            ForeignWords::Shared(words) => Some(words.words()),
        }
    }
}

/// A mapping that both processes store to.
pub struct SharedWords {
    map: MmapRaw,
}

impl SharedWords {
    /// Map `file`, which must be of `bytes` bytes, a multiple of 8, and sealed against shrinking.
    pub fn map(file: &File, bytes: usize) -> io::Result<SharedWords> {
        check(file, bytes)?;
        Ok(SharedWords { map: MmapOptions::new().len(bytes).map_raw(file)? })
    }

    /// The memory.
    pub fn words(&self) -> &[AtomicU64] {
        words_of(&self.map)
    }
}

/// The type of the file system of huge pages (linux/magic.h). A hole in ordinary memory is filled
/// again when it is touched; one in huge pages only if there is a page left, else it is a SIGBUS.
const HUGETLBFS_MAGIC: i128 = 0x958458f6;

fn check(file: &File, bytes: usize) -> io::Result<()> {
    assert!(bytes > 0 && bytes.is_multiple_of(8));
    let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    // The seals are looked at first: a file that is sealed now keeps the size that is read next.
    let seals = fcntl_get_seals(file)?;
    if !seals.contains(SealFlags::SHRINK) {
        return invalid("memory that its owner could shrink under our feet".into());
    }
    let against_holes = seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE);
    if !against_holes && i128::from(fstatfs(file)?.f_type) == HUGETLBFS_MAGIC {
        return invalid("huge pages that its owner could take away one by one".into());
    }
    let size = fstat(file)?.st_size;
    if u64::try_from(size).is_ok_and(|size| size == bytes as u64) {
        return Ok(());
    }
    invalid(format!("memory of {size} bytes where {bytes} were said"))
}

fn words_of(map: &MmapRaw) -> &[AtomicU64] {
    // SAFETY: the mapping is page-aligned and readable for as long as `map` lives, and `check` has
    // seen that the file cannot shrink, so every word of it can be loaded. Others write to it
    // meanwhile, and this process looks at it through atomics alone. Of a read-only mapping the
    // words go to `copy` and nowhere else, which only loads, with relaxed ordering: of all atomic
    // accesses the one that is a plain load instruction, and so allowed on read-only memory
    // (std::sync::atomic, "Atomic accesses to read-only memory": up to a pointer's width).
    unsafe { std::slice::from_raw_parts(map.as_ptr().cast::<AtomicU64>(), map.len() / 8) }
}

/// Copies of at least so many words are made in bulk. Shorter ones move each word whole, which
/// control lines need; the lines of 256 shards are half as long as this.
const BULK_WORDS: usize = 4096;

/// Copy words, each once, in no order. Another process may store to either side, or to both,
/// meanwhile.
pub fn copy(from: &[AtomicU64], to: &[AtomicU64]) {
    if from.len() >= BULK_WORDS {
        return bulk::copy(from, to);
    }
    for (from, to) in from.iter().zip(to) {
        to.store(from.load(Relaxed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::Memfd;
    use rustix::fs::{MemfdFlags, memfd_create};

    #[test]
    fn a_slab_is_read_and_an_open_one_written_through_other_mappings() {
        let memfd = Memfd::new("test", 4096, false).unwrap();
        let mapped = ReadOnlyWords::map(&memfd.open_for_reading().unwrap(), 4096).unwrap();
        memfd.words().iter().enumerate().for_each(|(at, word)| word.store(at as u64, Relaxed));
        for (at, count) in [(0, 512), (3, 7), (5, 8), (9, 100), (511, 1), (512, 0)] {
            let to: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
            mapped.copy_to(at, &to);
            assert!(to.iter().zip(at as u64..).all(|(word, expected)| word.load(Relaxed) == expected));
        }
        let open = Memfd::for_writers("test", 4096).unwrap();
        SharedWords::map(open.file(), 4096).unwrap().words()[2].store(9, Relaxed);
        assert_eq!(open.words()[2].load(Relaxed), 9);
    }

    #[test]
    fn only_what_is_copied_takes_memory() {
        let memfd = Memfd::new("test", 4 * STEP_BYTES, false).unwrap();
        let mapped = ReadOnlyWords::map(&memfd.open_for_reading().unwrap(), 4 * STEP_BYTES).unwrap();
        let populated = || -> Vec<bool> { mapped.is_populated.iter().map(|step| step.load(Relaxed)).collect() };
        assert_eq!(populated(), [false; 4]);
        let step_words = STEP_BYTES / 8;
        memfd.words()[2 * step_words].store(7, Relaxed);
        let to: [AtomicU64; 2] = Default::default();
        mapped.copy_to(2 * step_words - 1, &to);
        assert_eq!(to.map(AtomicU64::into_inner), [0, 7]);
        assert_eq!(populated(), [false, true, true, false], "what is copied is in two steps");
        mapped.copy_to(4 * step_words, &[]);
        assert_eq!(populated(), [false, true, true, false]);
    }

    #[test]
    fn what_may_be_stored_to_is_what_its_owner_opened_for_writing() {
        let (closed, open) = (Memfd::new("test", 4096, false).unwrap(), Memfd::for_writers("test", 4096).unwrap());
        let mapped = |file: &File| ForeignWords::map(file, 4096).unwrap();
        assert!(mapped(&closed.open_for_reading().unwrap()).shared().is_none());
        assert!(mapped(&open.open_for_reading().unwrap()).shared().is_none());
        let shared = mapped(open.file());
        shared.shared().expect("it is for writers")[5].store(3, Relaxed);
        assert_eq!((open.words()[5].load(Relaxed), shared.bytes()), (3, 4096));
    }

    /// Pages that their owner gives back are read as zeroes, never a SIGBUS.
    #[test]
    fn what_is_given_back_reads_as_zero() {
        let memfd = Memfd::new("test", 8192, false).unwrap();
        let mapped = ReadOnlyWords::map(&memfd.open_for_reading().unwrap(), 8192).unwrap();
        let read = || {
            let to: [AtomicU64; 2] = Default::default();
            mapped.copy_to(511, &to);
            to.map(AtomicU64::into_inner)
        };
        memfd.words()[511].store(7, Relaxed);
        memfd.words()[512].store(8, Relaxed);
        assert_eq!(read(), [7, 8]);
        assert!(memfd.give_back(4096..8192));
        assert_eq!(read(), [7, 0]);
        memfd.words()[512].store(9, Relaxed);
        assert_eq!(read(), [7, 9]);
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn a_copy_from_beyond_is_our_bug() {
        let memfd = Memfd::new("test", 4096, false).unwrap();
        let mapped = ReadOnlyWords::map(&memfd.open_for_reading().unwrap(), 4096).unwrap();
        mapped.copy_to(512, &[AtomicU64::new(0)]);
    }

    #[test]
    fn memory_that_may_shrink_or_has_another_size_is_refused() {
        let open = File::from(memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
        open.set_len(4096).unwrap();
        assert!(ReadOnlyWords::map(&open, 4096).is_err() && SharedWords::map(&open, 4096).is_err());
        let huge = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
        if let Ok(huge) = memfd_create("test", huge).map(File::from) {
            huge.set_len(HUGEPAGE_BYTES as u64).unwrap();
            rustix::fs::fcntl_add_seals(&huge, SealFlags::SHRINK | SealFlags::GROW).unwrap();
            let why = SharedWords::map(&huge, HUGEPAGE_BYTES).err().expect("it may get holes").to_string();
            assert!(why.contains("one by one"), "{why}");
        }
        let memfd = Memfd::new("test", 4096, false).unwrap();
        assert!(ReadOnlyWords::map(memfd.file(), 8192).is_err() && ReadOnlyWords::map(memfd.file(), 2048).is_err());
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let no_memory = File::from(std::os::fd::OwnedFd::from(socket));
        assert!(ReadOnlyWords::map(&no_memory, 4096).is_err(), "a descriptor of something else");
    }
}
