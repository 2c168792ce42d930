//! How much memory this process may have: what the host has, and what the control groups allow. The
//! kernel kills a process that goes beyond the limit of its own group or of any group above it, so
//! all of them are looked at.
//!
//! The files are read below a root that is `/` but for tests. What cannot be read counts as no
//! limit.

use std::path::{Path, PathBuf};

/// A limit of a control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLimit {
    /// In bytes.
    pub bytes: u64,
    /// The file that says so.
    pub file: PathBuf,
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Memory of the host in bytes, if it is known.
    pub host_bytes: Option<u64>,
    /// Of that, what could be had now without swapping.
    pub available_bytes: Option<u64>,
    /// Reserved huge pages that nobody uses, in bytes. No group's memory limit counts them, and
    /// `available_bytes` lacks them.
    pub huge_free_bytes: u64,
    /// The lowest limit on the way from the process's own control group to the top.
    pub group: Option<GroupLimit>,
}

impl Allowance {
    /// What this process is allowed now.
    pub fn read() -> Allowance {
        Allowance::read_below(Path::new("/"))
    }

    fn read_below(root: &Path) -> Allowance {
        let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let meminfo = text("proc/meminfo");
        let kibibytes = |name: &str| meminfo_number(&meminfo, name).map(|number| number.saturating_mul(1024));
        let huge_pages = meminfo_number(&meminfo, "HugePages_Free").unwrap_or(0);
        let directories = group_directories(&text("proc/self/cgroup"), &text("proc/self/mountinfo"));
        let limits = directories.iter().flat_map(|directory| limits_in(root, directory));
        Allowance {
            host_bytes: kibibytes("MemTotal"),
            available_bytes: kibibytes("MemAvailable"),
            huge_free_bytes: huge_pages.saturating_mul(kibibytes("Hugepagesize").unwrap_or(0)),
            group: limits.min_by_key(|limit| limit.bytes),
        }
    }

    /// The most that this process may ever have.
    pub fn most_bytes(&self) -> Option<u64> {
        [self.host_bytes, self.group.as_ref().map(|limit| limit.bytes)].into_iter().flatten().min()
    }
}

/// A number of /proc/meminfo, in its own unit.
pub fn meminfo_number(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// No limit is a word in version 2 (`max`), and in version 1 a number that no host reaches.
const UNLIMITED_BYTES: u64 = 1 << 60;

/// The limits that the files of one group's directory set. Beyond memory.high the kernel throttles
/// a process until it hardly moves, so that counts as a limit, too.
fn limits_in(root: &Path, directory: &Path) -> Vec<GroupLimit> {
    let limit = |name: &&str| {
        let file = directory.join(name);
        let text = std::fs::read_to_string(below(root, &file)).ok()?;
        let bytes = text.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED_BYTES)?;
        Some(GroupLimit { bytes, file })
    };
    ["memory.max", "memory.high", "memory.limit_in_bytes"].iter().filter_map(limit).collect()
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Where cgroup file systems that limit memory are mounted, and which part of each is seen there.
struct Mount {
    /// The path within the file system that the mount point shows.
    shows: PathBuf,
    at: PathBuf,
    /// Version 2: one hierarchy for everything.
    is_unified: bool,
}

/// The directories of the process's own group and of all above it, as far as they can be seen.
/// `cgroup` is the text of /proc/self/cgroup, `mountinfo` that of /proc/self/mountinfo.
fn group_directories(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for mount in mountinfo.lines().filter_map(mount) {
        let own = cgroup.lines().find_map(|line| {
            // hierarchy:controllers:path; version 2 has number 0 and no controllers.
            let mut parts = line.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let is_it = if mount.is_unified {
                number == "0" && controllers.is_empty()
            } else {
                controllers.split(',').any(|name| name == "memory")
            };
            is_it.then(|| PathBuf::from(path))
        });
        // In a container the path may be the host's, and lie outside what the mount shows. Then
        // only the mount's own top can be looked at.
        let own = own.and_then(|own| Some(own.strip_prefix(&mount.shows).ok()?.to_path_buf())).unwrap_or_default();
        let own = if own.components().any(|part| part.as_os_str() == "..") { PathBuf::new() } else { own };
        directories.extend(own.ancestors().map(|part| mount.at.join(part)));
    }
    directories
}

/// A line of mountinfo: id, parent, device, what it shows, where, options, more fields, "-", type,
/// source, options.
fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (shows, at) = (unescaped(left.next()?), unescaped(left.next()?));
    let mut right = right.split(' ');
    let is_unified = match right.next()? {
        "cgroup2" => true,
        "cgroup" if right.nth(1)?.split(',').any(|option| option == "memory") => false,
        _ => return None,
    };
    Some(Mount { shows, at, is_unified })
}

/// Blanks and the like stand as three octal digits in mountinfo.
fn unescaped(text: &str) -> PathBuf {
    let decoded = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    decoded.iter().fold(text.to_string(), |text, (code, letter)| text.replace(code, letter)).into()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const V2: &str = "29 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "33 24 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      34 24 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    /// What is read below a root that has these files.
    fn read(files: &[(&str, &str)]) -> Allowance {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Allowance::read_below(root.path())
    }

    fn group(files: &[(&str, &str)]) -> Option<(u64, String)> {
        read(files).group.map(|limit| (limit.bytes, limit.file.display().to_string()))
    }

    #[test]
    fn the_host_says_what_it_has() {
        let meminfo = "MemTotal:       4096 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\nHugePages_Free:  3\n\
                       Hugepagesize:    2048 kB\n";
        let allowance = read(&[("proc/meminfo", meminfo)]);
        assert_eq!((allowance.host_bytes, allowance.available_bytes), (Some(4 << 20), Some(1 << 20)));
        assert_eq!((allowance.huge_free_bytes, allowance.most_bytes()), (6 << 20, Some(4 << 20)));
        assert_eq!(read(&[]), Allowance::default(), "nothing can be read");
    }

    #[test]
    fn version_2_limits_the_own_group_and_those_above() {
        let own = ("proc/self/cgroup", "0::/a.slice/b.service\n");
        let mounts = ("proc/self/mountinfo", V2);
        assert_eq!(group(&[own, mounts]), None);
        let of_own = ("sys/fs/cgroup/a.slice/b.service/memory.max", "2000\n");
        let expected = |bytes, path: &str| Some((bytes, path.to_string()));
        assert_eq!(group(&[own, mounts, of_own]), expected(2000, "/sys/fs/cgroup/a.slice/b.service/memory.max"));
        let parent = ("sys/fs/cgroup/a.slice/memory.max", "1000\n");
        assert_eq!(group(&[own, mounts, of_own, parent]), expected(1000, "/sys/fs/cgroup/a.slice/memory.max"));
        let throttled = ("sys/fs/cgroup/a.slice/memory.high", "900\n");
        let all = [own, mounts, of_own, parent, throttled];
        assert_eq!(group(&all), expected(900, "/sys/fs/cgroup/a.slice/memory.high"));
        let none = ("sys/fs/cgroup/a.slice/b.service/memory.max", "max\n");
        let other = ("sys/fs/cgroup/c.slice/memory.max", "10\n");
        assert_eq!(group(&[own, mounts, none, other]), None, "another group's limit is none of ours");
    }

    #[test]
    fn version_1_has_a_hierarchy_for_memory() {
        let own = ("proc/self/cgroup", "4:cpu,cpuacct:/else\n3:memory:/docker/x\n0::/\n");
        let mounts = ("proc/self/mountinfo", V1);
        let unlimited = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(group(&[own, mounts, unlimited]), None);
        let limited = ("sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "5000\n");
        let expected = "/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes".to_string();
        assert_eq!(group(&[own, mounts, unlimited, limited]), Some((5000, expected)));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_top() {
        let limit = ("sys/fs/cgroup/memory.max", "7000\n");
        let expected = Some((7000, "/sys/fs/cgroup/memory.max".to_string()));
        let with = |cgroup, mounts| group(&[("proc/self/cgroup", cgroup), ("proc/self/mountinfo", mounts), limit]);
        assert_eq!(with("0::/\n", V2), expected, "a namespace of its own");
        let bound = "29 22 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(with("0::/docker/x\n", bound), expected, "the host's paths, and the mount shows one of them");
        assert_eq!(with("0::/docker/y\n", bound), expected, "the host's paths, beyond what the mount shows");
        assert_eq!(with("0::/../../else\n", V2), expected, "beyond the namespace");
    }

    #[test]
    fn nonsense_is_no_limit() {
        for (cgroup, mounts, limit) in [
            ("", "", "1\n"),
            ("0::\n", "29 22 0:26 /\n - \n", "1\n"),
            ("nonsense\n:::\n", V2, "-5\n"),
            ("0::/\n", V2, "a lot\n"),
            ("0::/\n", V2, ""),
        ] {
            let files =
                [("proc/self/cgroup", cgroup), ("proc/self/mountinfo", mounts), ("sys/fs/cgroup/memory.max", limit)];
            assert_eq!(group(&files), None, "{files:?}");
        }
    }

    #[test]
    fn this_host_has_memory() {
        assert!(Allowance::read().most_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
