//! Memory from the kernel, seen as atomic words and nothing else.
//!
//! A [`Memfd`] is a memfd, so that it can be handed to another process or registered with a device,
//! on the largest pages to be had. It is sealed: nobody can change its size, so that no mapping of
//! it, here or elsewhere, ever raises SIGBUS (sys/foreign maps it elsewhere). Others get it opened
//! for reading alone, but for [`Memfd::for_writers`]. A [`Part`] is some of its words. A
//! [`Reservation`] is private address space that costs nothing until it is touched. Under loom both
//! are plain vectors.
//!
//! Plain pages that nobody needs can be given back to the system ([`Memfd::give_back`]), unless a
//! device holds them ([`Memfd::pin`]): it would go on reading the old pages. They come back,
//! zeroed, to whoever touches the hole, be it to read. Reserved huge pages are never given back,
//! and sealed against it: whoever touches such a hole when no page is left gets a SIGBUS.

use super::sync::AtomicU64;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Pages that a memfd stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Reserved huge pages (MAP_HUGETLB).
    Hugetlb,
    /// Ordinary pages that the kernel was asked, and is allowed, to merge into huge ones.
    Transparent,
    /// Ordinary pages.
    Plain,
}

/// Huge pages come in this size on x86-64 and, by default, on arm64; memfds on them are a multiple
/// of it.
pub const HUGEPAGE_BYTES: usize = 2 << 20;
/// Ordinary pages are of this size, on x86-64 and, mostly, on arm64.
pub const PAGE_BYTES: usize = 4096;

/// Bytes of memory this process may hope for: the host's, or its control groups' limit if that is
/// lower. None if unknown.
pub fn memory_bytes_available() -> Option<u64> {
    super::allowance::Allowance::read().most_bytes()
}

#[cfg(not(loom))]
mod mapped {
    use super::*;
    use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};
    use rustix::fs::{FallocateFlags, MemfdFlags, Mode, SealFlags};
    use rustix::fs::{fallocate, fchmod, fcntl_add_seals, ftruncate, memfd_create};
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::sync::{Mutex, PoisonError};

    /// One memmap2-backed chunk of shared memory.
    pub struct Memfd {
        map: MmapRaw,
        /// Kept open: it is what a replica on this host is given.
        file: File,
        backing: Backing,
        /// How many registrations with devices hold its pages. Locked while pages are given back.
        pins: Mutex<u32>,
    }

    impl Memfd {
        /// `bytes` of zeroed memory, a multiple of 8; `name` shows in /proc/PID/maps. With
        /// `hugepages`, reserved huge pages are tried first (for multiples of their size), then
        /// transparent ones.
        pub fn new(name: &str, bytes: usize, hugepages: bool) -> io::Result<Memfd> {
            assert!(bytes > 0 && bytes.is_multiple_of(8));
            if hugepages && bytes.is_multiple_of(HUGEPAGE_BYTES) {
                match map_memfd(name, bytes, MemfdFlags::HUGETLB) {
                    Ok((map, file)) => {
                        seal(&file, name, SealFlags::FUTURE_WRITE);
                        return Ok(Memfd { map, file, backing: Backing::Hugetlb, pins: Mutex::new(0) });
                    }
                    Err(error) => log::debug!("{name}: no reserved huge pages ({error}); trying transparent ones"),
                }
            }
            let (map, file) = map_memfd(name, bytes, MemfdFlags::empty())?;
            seal(&file, name, SealFlags::empty());
            let merged = hugepages && transparent_allowed() && map.advise(Advice::HugePage).is_ok();
            let backing = if merged { Backing::Transparent } else { Backing::Plain };
            Ok(Memfd { map, file, backing, pins: Mutex::new(0) })
        }

        /// A memfd of plain pages that other processes are meant to write to.
        pub fn for_writers(name: &str, bytes: usize) -> io::Result<Memfd> {
            assert!(bytes > 0 && bytes.is_multiple_of(8));
            let (map, file) = map_memfd(name, bytes, MemfdFlags::empty())?;
            seal(&file, name, SealFlags::empty());
            Ok(Memfd { map, file, backing: Backing::Plain, pins: Mutex::new(0) })
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

        /// Give the pages of `range`, in bytes, back to the system; they are zeroed when they are
        /// next touched. False, and nothing has changed, where they must stay: huge pages, pages
        /// that a device holds, or a range that is not of whole pages.
        pub fn give_back(&self, range: Range<usize>) -> bool {
            let pins = self.pins();
            let whole = range.start.is_multiple_of(PAGE_BYTES) && range.end.is_multiple_of(PAGE_BYTES);
            if *pins > 0 || !whole || self.backing == Backing::Hugetlb {
                return false;
            }
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&self.file, punch, range.start as u64, range.len() as u64).is_ok()
        }

        /// Bytes of its pages that are there; 0 where the kernel does not tell.
        pub fn resident_bytes(&self) -> u64 {
            // Blocks are of 512 bytes, whatever the file system's own blocks are.
            rustix::fs::fstat(&self.file).map_or(0, |stat| stat.st_blocks as u64 * 512)
        }

        /// Have the kernel find pages for these words now, not when they are first touched. Where
        /// it cannot (Linux before 5.14), the first touch does.
        pub fn populate(&self, words: Range<usize>) {
            let _ = self.map.advise_range(Advice::PopulateWrite, words.start * 8, words.len() * 8);
        }

        /// From now on a device holds its pages: none is given back.
        pub fn pin(&self) {
            *self.pins() += 1;
        }

        /// One device less holds its pages.
        pub fn unpin(&self) {
            *self.pins() -= 1;
        }

        fn pins(&self) -> std::sync::MutexGuard<'_, u32> {
            self.pins.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    fn map_memfd(name: &str, bytes: usize, flags: MemfdFlags) -> io::Result<(MmapRaw, File)> {
        let file = File::from(memfd_create(name, flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        // Who is given a descriptor for reading cannot open it again for writing, unless it is the
        // same user (or root).
        fchmod(&file, Mode::RUSR)?;
        ftruncate(&file, bytes as u64)?;
        let map = MmapOptions::new().len(bytes).map_raw(&file)?;
        Ok((map, file))
    }

    /// Seal the size of a memfd, and `more`, for ever. Call this once the memfd is mapped:
    /// FUTURE_WRITE (Linux 5.1), which also forbids holes, leaves existing mappings writable. Where
    /// the kernel cannot seal, the memfd is used all the same; a process that is given the memfd
    /// looks at its seals.
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
    pub struct Memfd(Box<[AtomicU64]>);

    impl Memfd {
        /// A vector of words of loom's.
        pub fn new(_name: &str, bytes: usize, _hugepages: bool) -> io::Result<Memfd> {
            Ok(Memfd((0..bytes / 8).map(|_| AtomicU64::new(0)).collect()))
        }
        /// The memory.
        pub fn words(&self) -> &[AtomicU64] {
            &self.0
        }
        /// Always plain.
        pub fn backing(&self) -> Backing {
            Backing::Plain
        }
        /// Not told.
        pub fn resident_bytes(&self) -> u64 {
            0
        }
        /// A vector keeps what it has.
        pub fn give_back(&self, _range: Range<usize>) -> bool {
            false
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

pub use mapped::{Memfd, Reservation};

/// Some words of a memfd, which stays mapped as long as this lives.
pub struct Part {
    words: *const AtomicU64,
    count: usize,
    _memfd: Arc<Memfd>,
}

// SAFETY: it is a shared view of atomics, as `&[AtomicU64]` is, and owns its share of what keeps
// them mapped.
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

impl Part {
    /// The words `range` of `memfd`.
    pub fn new(memfd: &Arc<Memfd>, range: Range<usize>) -> Part {
        let words = &memfd.words()[range];
        Part { words: words.as_ptr(), count: words.len(), _memfd: memfd.clone() }
    }
}

impl Deref for Part {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: so many words lie at this address while the memfd lives, which is never moved nor
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
            let memfd = Memfd::new("test", HUGEPAGE_BYTES, hugepages).unwrap();
            assert_eq!(memfd.words().len(), HUGEPAGE_BYTES / 8);
            assert_eq!(memfd.words()[HUGEPAGE_BYTES / 8 - 1].load(Relaxed), 0);
            memfd.words()[17].store(42, Relaxed);
            assert_eq!(memfd.words()[17].load(Relaxed), 42);
            assert!(hugepages || memfd.backing() == Backing::Plain);
        }
    }

    #[test]
    fn a_slab_keeps_its_size_and_has_no_other_writer() {
        use memmap2::MmapOptions;
        let memfd = Memfd::new("test", 1 << 16, false).unwrap();
        assert!(memfd.file().set_len(8).is_err() && memfd.file().set_len(1 << 17).is_err());
        let reader = memfd.open_for_reading().unwrap();
        assert!(MmapOptions::new().map_raw(&reader).is_err(), "not through the descriptor that it is given");
        let mode = rustix::fs::fstat(&reader).unwrap().st_mode & 0o777;
        assert_eq!(mode, 0o400, "nobody else can open it again for writing");
        let open = Memfd::for_writers("test", 4096).unwrap();
        assert!(open.file().set_len(0).is_err());
        assert!(MmapOptions::new().map_raw(open.file()).is_ok());
    }

    #[test]
    fn pages_are_found_before_they_are_touched() {
        let memfd = Memfd::new("test", 16 * PAGE_BYTES, false).unwrap();
        let pages = || rustix::fs::fstat(memfd.file()).unwrap().st_blocks as usize * 512 / PAGE_BYTES;
        assert_eq!(pages(), 0);
        memfd.words()[PAGE_BYTES / 8].store(7, Relaxed);
        memfd.populate(0..4 * PAGE_BYTES / 8);
        assert_eq!(pages(), 4);
        assert_eq!(memfd.words()[PAGE_BYTES / 8].load(Relaxed), 7, "what was there is kept");
    }

    #[test]
    fn pages_go_back_to_the_system_unless_a_device_holds_them() {
        let memfd = Memfd::new("test", 16 * PAGE_BYTES, false).unwrap();
        let blocks = || rustix::fs::fstat(memfd.file()).unwrap().st_blocks;
        let fill = || memfd.words().iter().for_each(|word| word.store(7, Relaxed));
        fill();
        let all = blocks();
        memfd.pin();
        assert!(!memfd.give_back(0..PAGE_BYTES));
        memfd.unpin();
        assert!(!memfd.give_back(8..PAGE_BYTES + 8) && blocks() == all);
        assert!(memfd.give_back(PAGE_BYTES..9 * PAGE_BYTES));
        assert_eq!(blocks(), all / 2);
        let word = |page: usize| memfd.words()[page * PAGE_BYTES / 8].load(Relaxed);
        assert_eq!([0, 1, 8, 9].map(word), [7, 0, 0, 7]);
        fill();
        assert_eq!((word(1), blocks()), (7, all));
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
