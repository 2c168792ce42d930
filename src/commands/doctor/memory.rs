//! Memory for `remora doctor` and for the start of a server: whether `-m` is to be had on this host
//! and in this control group.

use super::{Finding, Grade, finding};
use crate::sys::allowance::Allowance;

/// What the index takes at most for each byte of items: an eighth, where items are as small as can
/// be.
const INDEX_SHARE: u64 = 8;

/// Why so many bytes of items are not to be had, and what to do; None if they are.
pub fn trouble(item_bytes: u64, allowance: &Allowance) -> Option<String> {
    shortage(item_bytes, allowance).map(|Shortage { found, remedy, .. }| format!("{found}; {remedy}"))
}

/// Judge `-m`.
pub fn judge(memory_bytes: u64, allowance: &Allowance) -> Finding {
    let subject = "memory";
    let given = memory_bytes >> 20;
    // What lies on reserved huge pages is counted by no limit.
    let counted_bytes = if memory_bytes <= allowance.huge_free_bytes { 0 } else { memory_bytes };
    match shortage(counted_bytes, allowance) {
        None => finding(subject, Grade::Ok, format!("-m {given} (MiB) is to be had: {}", told(allowance)), None),
        Some(Shortage { grade, found, remedy }) => {
            finding(subject, grade, format!("-m {given} (MiB): {found}"), Some(remedy))
        }
    }
}

struct Shortage {
    grade: Grade,
    found: String,
    remedy: &'static str,
}

fn shortage(item_bytes: u64, allowance: &Allowance) -> Option<Shortage> {
    let items = mebibytes(item_bytes);
    let with_index_bytes = item_bytes + item_bytes / INDEX_SHARE;
    if let Some(limit) = allowance.group.as_ref().filter(|limit| limit.bytes < with_index_bytes) {
        let (file, allowed) = (limit.file.display(), mebibytes(limit.bytes));
        let remedy = "lower -m and --memory-max, or raise the container's memory limit (MemoryMax= in a unit)";
        let is_broken = limit.bytes < item_bytes;
        let found = if is_broken {
            format!("a full cache has {items} of items, and {file} allows {allowed}: the kernel will end the server")
        } else {
            format!(
                "a full cache has {items} of items and up to an eighth as much of index, and {file} allows {allowed}: \
                 the kernel may end the server"
            )
        };
        return Some(Shortage { grade: if is_broken { Grade::Broken } else { Grade::Better }, found, remedy });
    }
    let remedy = "lower -m, or give the host more memory";
    if let Some(host_bytes) = allowance.host_bytes.filter(|bytes| *bytes < item_bytes) {
        let found = format!("a full cache has {items} of items, and this host has {} of memory", mebibytes(host_bytes));
        return Some(Shortage { grade: Grade::Broken, found, remedy });
    }
    let available_bytes = allowance.available_bytes.filter(|bytes| *bytes < with_index_bytes)?;
    let found = format!(
        "a full cache has {items} of items and up to an eighth as much of index, and {} are available now",
        mebibytes(available_bytes)
    );
    Some(Shortage { grade: Grade::Better, found, remedy })
}

fn told(allowance: &Allowance) -> String {
    let available = allowance.available_bytes.map(|bytes| format!("{} available", mebibytes(bytes)));
    let limit =
        allowance.group.as_ref().map(|limit| format!("{} allows {}", limit.file.display(), mebibytes(limit.bytes)));
    let parts: Vec<String> = available.into_iter().chain(limit).collect();
    if parts.is_empty() { "nothing limits it".to_string() } else { parts.join(", ") }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::allowance::GroupLimit;

    const MIB: u64 = 1 << 20;

    fn allowance(host: u64, available: u64, group: Option<u64>) -> Allowance {
        let limit = |bytes| GroupLimit { bytes: bytes * MIB, file: "/sys/fs/cgroup/memory.max".into() };
        Allowance {
            host_bytes: Some(host * MIB),
            available_bytes: Some(available * MIB),
            huge_free_bytes: 0,
            group: group.map(limit),
        }
    }

    #[test]
    fn memory_by_what_may_be_had() {
        for (memory, allowance, grade, words) in [
            (64, allowance(1000, 500, None), Grade::Ok, "500 MiB available"),
            (64, allowance(1000, 500, Some(100)), Grade::Ok, "memory.max allows 100 MiB"),
            (64, allowance(1000, 500, Some(63)), Grade::Broken, "memory.max allows 63 MiB: the kernel will"),
            (64, allowance(1000, 500, Some(64)), Grade::Better, "memory.max allows 64 MiB: the kernel may"),
            (512, allowance(1000, 500, None), Grade::Better, "500 MiB are available now"),
            (2000, allowance(1000, 500, None), Grade::Broken, "this host has 1000 MiB"),
            (64, Allowance::default(), Grade::Ok, "nothing limits it"),
        ] {
            let finding = judge(memory * MIB, &allowance);
            assert_eq!((finding.grade, finding.remedy.is_some()), (grade, grade != Grade::Ok), "{finding:?}");
            assert!(finding.found.contains(words), "{finding:?}");
        }
    }

    #[test]
    fn reserved_huge_pages_are_beside_the_limit() {
        let allowance = Allowance { huge_free_bytes: 600 * MIB, ..allowance(1000, 200, Some(100)) };
        assert_eq!(judge(512 * MIB, &allowance).grade, Grade::Ok);
        assert_eq!(judge(700 * MIB, &allowance).grade, Grade::Broken, "they do not hold all of it");
    }

    #[test]
    fn a_start_says_what_to_do() {
        assert_eq!(trouble(64 * MIB, &allowance(1000, 500, Some(100))), None);
        let words = trouble(128 * MIB, &allowance(1000, 500, Some(100))).unwrap();
        assert!(words.contains("128 MiB") && words.contains("allows 100 MiB") && words.contains("lower -m"), "{words}");
    }
}
