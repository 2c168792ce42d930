//! Memory from the kernel, seen as atomic words and nothing else.
//!
//! A [`Slab`] is a memfd, so that it can be handed to another process or registered with a device, on the largest pages to be
//! had. A [`Reservation`] is private address space that costs nothing until it is touched. Under loom both are plain vectors.

use super::sync::AtomicU64;
use std::io;

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

/// Huge pages come in this size on x86-64 and, by default, on arm64; slabs on them are a multiple of it.
pub const HUGEPAGE_BYTES: usize = 2 << 20;

/// Bytes of memory this process may hope for: the host's, or its control group's limit if that is lower. None if unknown.
pub fn memory_bytes_available() -> Option<u64> {
    let host = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
    });
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    [host, limit].into_iter().flatten().min()
}

#[cfg(not(loom))]
mod mapped {
    use super::*;
    use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::fs::File;

    /// One memmap2-backed chunk of shared memory.
    pub struct Slab {
        map: MmapRaw,
        /// Kept open: it is what a replica on this host is given.
        file: File,
        backing: Backing,
    }

    impl Slab {
        /// `bytes` of zeroed memory, a multiple of 8; `name` shows in /proc/PID/maps. With `hugepages`, reserved huge pages
        /// are tried first (for multiples of their size), then transparent ones.
        pub fn new(name: &str, bytes: usize, hugepages: bool) -> io::Result<Slab> {
            assert!(bytes > 0 && bytes.is_multiple_of(8));
            if hugepages && bytes.is_multiple_of(HUGEPAGE_BYTES) {
                match map_memfd(name, bytes, MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB) {
                    Ok((map, file)) => {
                        return Ok(Slab { map, file, backing: Backing::Hugetlb });
                    }
                    Err(error) => log::debug!("{name}: no reserved huge pages ({error}); trying transparent ones"),
                }
            }
            let (map, file) = map_memfd(name, bytes, MemfdFlags::CLOEXEC)?;
            let merged = hugepages && transparent_allowed() && map.advise(Advice::HugePage).is_ok();
            let backing = if merged { Backing::Transparent } else { Backing::Plain };
            Ok(Slab { map, file, backing })
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
        let file = File::from(memfd_create(name, flags)?);
        ftruncate(&file, bytes as u64)?;
        let map = MmapOptions::new().len(bytes).map_raw(&file)?;
        Ok((map, file))
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
        // SAFETY: the mapping is page-aligned, readable and writable, as long as `map` lives and never resized (the memfd's
        // descriptor is ours and nobody truncates it); all zeroes is a valid AtomicU64. This is the only view ever made of
        // it in this process, so every access by Rust code is atomic.
        unsafe { std::slice::from_raw_parts(map.as_ptr().cast::<AtomicU64>(), map.len() / 8) }
    }
}

#[cfg(loom)]
mod mapped {
    use super::*;

    /// See the real one.
    pub struct Slab(Box<[AtomicU64]>);

    impl Slab {
        /// Words of loom's.
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

    /// See the real one.
    pub struct Reservation(Box<[AtomicU64]>);

    impl Reservation {
        /// Words of loom's.
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
    fn memory_that_cannot_be_had_is_an_error() {
        assert!(Reservation::new(1 << 55).is_err());
    }
}
