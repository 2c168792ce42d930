//! Memory from the kernel, seen as atomic words and nothing else.
//!
//! A [`Slab`] is a memfd, so that it can be handed to another process or registered with a device,
//! on the largest pages to be had. It is sealed: nobody can change its size, so that no mapping of
//! it, here or elsewhere, ever raises SIGBUS; and, but for [`Slab::for_writers`], nobody who is
//! given it can write to it, nor punch holes into it (sys/foreign maps it elsewhere). A [`Part`] is
//! some of its words. A [`Reservation`] is private address space that costs nothing until it is
//! touched. Under loom both are plain vectors.

use super::sync::AtomicU64;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Pages that a slab stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Reserved huge pages (MAP_HUGETLB).
    Hugetlb,
    /// Ordinary pages that the kernel was asked, and is allowed, to merge into huge ones.
    Transparent,
    /// Ordinary pages.
    Plain,
}

/// Huge pages come in this size on x86-64 and, by default, on arm64; slabs on them are a multiple
/// of it.
pub const HUGEPAGE_BYTES: usize = 2 << 20;

/// Bytes of memory this process may hope for: the host's, or its control groups' limit if that is
/// lower. None if unknown.
pub fn memory_bytes_available() -> Option<u64> {
    super::allowance::Allowance::read().most_bytes()
}

#[cfg(not(loom))]
mod mapped {
    use super::*;
    use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    use std::fs::File;
    use std::os::fd::AsRawFd;

    /// One memmap2-backed chunk of shared memory.
    pub struct Slab {
        map: MmapRaw,
        /// Kept open: it is what a replica on this host is given.
        file: File,
        backing: Backing,
    }

    impl Slab {
        /// `bytes` of zeroed memory, a multiple of 8; `name` shows in /proc/PID/maps. With
        /// `hugepages`, reserved huge pages are tried first (for multiples of their size), then
        /// transparent ones.
        pub fn new(name: &str, bytes: usize, hugepages: bool) -> io::Result<Slab> {
            assert!(bytes > 0 && bytes.is_multiple_of(8));
            if hugepages && bytes.is_multiple_of(HUGEPAGE_BYTES) {
                match map_memfd(name, bytes, MemfdFlags::HUGETLB) {
                    Ok((map, file)) => {
                        seal(&file, name, SealFlags::FUTURE_WRITE);
                        return Ok(Slab { map, file, backing: Backing::Hugetlb });
                    }
                    Err(error) => log::debug!("{name}: no reserved huge pages ({error}); trying transparent ones"),
                }
            }
            let (map, file) = map_memfd(name, bytes, MemfdFlags::empty())?;
            seal(&file, name, SealFlags::FUTURE_WRITE);
            let merged = hugepages && transparent_allowed() && map.advise(Advice::HugePage).is_ok();
            let backing = if merged { Backing::Transparent } else { Backing::Plain };
            Ok(Slab { map, file, backing })
        }

        /// A slab of plain pages that other processes are meant to write to.
        pub fn for_writers(name: &str, bytes: usize) -> io::Result<Slab> {
            assert!(bytes > 0 && bytes.is_multiple_of(8));
            let (map, file) = map_memfd(name, bytes, MemfdFlags::empty())?;
            seal(&file, name, SealFlags::empty());
            Ok(Slab { map, file, backing: Backing::Plain })
        }

        /// Its memfd, opened anew for reading alone: what another process may be given.
        pub fn open_for_reading(&self) -> io::Result<File> {
            File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
        }

        /// The memory.
        pub fn words(&self) -> &[AtomicU64] {
            words_of(&self.map)
        }

        /// What it stands on.
        pub fn backing(&self) -> Backing {
            self.backing
        }

        /// The memfd behind it.
        pub fn file(&self) -> &File {
            &self.file
        }
    }

    fn map_memfd(name: &str, bytes: usize, flags: MemfdFlags) -> io::Result<(MmapRaw, File)> {
        let file = File::from(memfd_create(name, flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        ftruncate(&file, bytes as u64)?;
        let map = MmapOptions::new().len(bytes).map_raw(&file)?;
        Ok((map, file))
    }

    /// Seal the size of a memfd, and `more`, for ever. Call this once the memfd is mapped:
    /// FUTURE_WRITE (Linux 5.1) leaves existing mappings writable. Where the kernel cannot seal,
    /// the slab is used all the same; a process that is given the memfd looks at its seals.
    fn seal(file: &File, name: &str, more: SealFlags) {
        if let Err(error) = fcntl_add_seals(file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL | more) {
            log::debug!("{name}: memory cannot be sealed ({error}); no other process will map it");
        }
    }

    /// Whether the kernel gives transparent huge pages to shared memory that asks for them.
    fn transparent_allowed() -> bool {
        let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default();
        ["[always]", "[within_size]", "[advise]", "[force]"].iter().any(|word| setting.contains(word))
    }

    /// Private zeroed address space; pages come on first touch.
    pub struct Reservation {
        map: MmapRaw,
    }

    impl Reservation {
        /// Reserve `bytes`, a multiple of 8, without committing memory.
        pub fn new(bytes: usize) -> io::Result<Reservation> {
            assert!(bytes > 0 && bytes.is_multiple_of(8));
            let map: MmapMut = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
            Ok(Reservation { map: map.into() })
        }

        /// The memory.
        pub fn words(&self) -> &[AtomicU64] {
            words_of(&self.map)
        }
    }

    fn words_of(map: &MmapRaw) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, readable and writable, as long as `map` lives and
        // never resized (the memfd is sealed or its descriptor is ours alone; reservations have
        // none); all zeroes is a valid AtomicU64. This is the only view ever made of it in this
        // process, so every access by Rust code is atomic.
        unsafe { std::slice::from_raw_parts(map.as_ptr().cast::<AtomicU64>(), map.len() / 8) }
    }
}

#[cfg(loom)]
mod mapped {
    use super::*;

    /// As without loom.
    pub struct Slab(Box<[AtomicU64]>);

    impl Slab {
        /// A vector of words of loom's.
        pub fn new(_name: &str, bytes: usize, _hugepages: bool) -> io::Result<Slab> {
            Ok(Slab((0..bytes / 8).map(|_| AtomicU64::new(0)).collect()))
        }
        /// The memory.
        pub fn words(&self) -> &[AtomicU64] {
            &self.0
        }
        /// Always plain.
        pub fn backing(&self) -> Backing {
            Backing::Plain
        }
    }

    /// As without loom.
    pub struct Reservation(Box<[AtomicU64]>);

    impl Reservation {
        /// A vector of words of loom's.
        pub fn new(bytes: usize) -> io::Result<Reservation> {
            Ok(Reservation((0..bytes / 8).map(|_| AtomicU64::new(0)).collect()))
        }
        /// The memory.
        pub fn words(&self) -> &[AtomicU64] {
            &self.0
        }
    }
}

pub use mapped::{Reservation, Slab};

/// Some words of a slab, which stays mapped as long as this lives.
pub struct Part {
    words: *const AtomicU64,
    count: usize,
    _slab: Arc<Slab>,
}

// SAFETY: it is a shared view of atomics, as `&[AtomicU64]` is, and owns its share of what keeps
// them mapped.
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

impl Part {
    /// The words `range` of `slab`.
    pub fn new(slab: &Arc<Slab>, range: Range<usize>) -> Part {
        let words = &slab.words()[range];
        Part { words: words.as_ptr(), count: words.len(), _slab: slab.clone() }
    }
}

impl Deref for Part {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: so many words lie at this address while the slab lives, which is never moved nor
        // resized.
        unsafe { std::slice::from_raw_parts(self.words, self.count) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sys::sync::Ordering::Relaxed;

    #[test]
    fn a_slab_is_zeroed_and_keeps_what_is_stored() {
        for hugepages in [false, true] {
            let slab = Slab::new("test", HUGEPAGE_BYTES, hugepages).unwrap();
            assert_eq!(slab.words().len(), HUGEPAGE_BYTES / 8);
            assert_eq!(slab.words()[HUGEPAGE_BYTES / 8 - 1].load(Relaxed), 0);
            slab.words()[17].store(42, Relaxed);
            assert_eq!(slab.words()[17].load(Relaxed), 42);
            assert!(hugepages || slab.backing() == Backing::Plain);
        }
    }

    #[test]
    fn a_slab_keeps_its_size_and_has_no_other_writer() {
        use memmap2::MmapOptions;
        use rustix::fs::{FallocateFlags, fallocate};
        let slab = Slab::new("test", 1 << 16, false).unwrap();
        assert!(slab.file().set_len(8).is_err() && slab.file().set_len(1 << 17).is_err());
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert!(fallocate(slab.file(), punch, 0, 4096).is_err(), "no holes");
        let reader = slab.open_for_reading().unwrap();
        assert!(MmapOptions::new().map_raw(&reader).is_err(), "not through the descriptor that it is given");
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        if let Ok(again) = std::fs::OpenOptions::new().read(true).write(true).open(path) {
            assert!(MmapOptions::new().map_raw(&again).is_err(), "nor through one that it opens itself");
        }
        slab.words()[1].store(7, Relaxed);
        assert_eq!(slab.words()[1].load(Relaxed), 7, "the owner's own mapping stays writable");
        let open = Slab::for_writers("test", 4096).unwrap();
        assert!(open.file().set_len(0).is_err());
        assert!(MmapOptions::new().map_raw(open.file()).is_ok());
    }

    #[test]
    fn huge_pages_can_be_sealed_too() {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
        // Needs no reserved pages: nothing is mapped.
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::ALLOW_SEALING;
        let Ok(file) = memfd_create("test", flags) else { return }; // a kernel without huge pages
        ftruncate(&file, HUGEPAGE_BYTES as u64).unwrap();
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).unwrap();
        assert!(ftruncate(&file, 0).is_err());
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error() {
        assert!(Reservation::new(1 << 55).is_err());
    }
}
