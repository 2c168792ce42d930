//! `remora doctor` reports what this host offers to Remora, and for what is missing the command
//! that would mend it.
//!
//! Reading and judging are apart: [`Facts`] holds what was read from /proc and /sys, and pure
//! functions judge it.

pub mod memory;
mod rdma;

use super::output::print;
use crate::sys::allowance::{Allowance, meminfo_number};
use crate::sys::{pinning, privilege};
use rdma::RdmaFacts;
use std::fmt::Write as _;

/// Look at this host.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Args {
    /// Check whether a server on this host can have so much memory for items, in MiB
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub memory_limit: u64,
}

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// Nothing to do.
    Ok,
    /// Remora runs; this would make it better.
    Better,
    /// Not there, and Remora works without it.
    Missing,
    /// Remora cannot run as things are.
    Broken,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// How good it is.
    pub grade: Grade,
    /// What was found.
    pub found: String,
    /// The command that would mend it, if one would.
    pub remedy: Option<String>,
}

fn finding(subject: &'static str, grade: Grade, found: impl Into<String>, remedy: Option<&str>) -> Finding {
    Finding { subject, grade, found: found.into(), remedy: remedy.map(str::to_string) }
}

/// What was read of the system; None for a file that is not there.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Cores in the process's affinity mask, and on the host.
    pub cores: (usize, usize),
    /// Soft limit of open files.
    pub open_files: u64,
    /// Soft limit of locked memory, in bytes.
    pub locked_bytes: u64,
    /// -m, in bytes.
    pub memory_bytes: u64,
    /// How much memory there is for it.
    pub allowance: Allowance,
    /// /proc/meminfo.
    pub meminfo: Option<String>,
    /// /sys/kernel/mm/transparent_hugepage/enabled.
    pub thp_enabled: Option<String>,
    /// /sys/kernel/mm/transparent_hugepage/shmem_enabled.
    pub thp_shmem_enabled: Option<String>,
    /// /proc/sys/kernel/io_uring_disabled.
    pub io_uring_disabled: Option<String>,
    /// Whether io_uring_setup answered.
    pub io_uring_works: bool,
    /// /proc/sys/vm/overcommit_memory.
    pub overcommit: Option<String>,
    /// /proc/sys/net/core/somaxconn.
    pub somaxconn: Option<String>,
    /// The RDMA libraries and devices.
    pub rdma: RdmaFacts,
}

/// Look at this host and print the report. An error if Remora cannot run here.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let findings = judge(&read_facts(args));
    let printed = print(format_args!("{}", report(&findings)));
    let broken = findings.iter().filter(|finding| finding.grade == Grade::Broken).count();
    anyhow::ensure!(broken == 0, "Remora cannot run on this host: see \"BROKEN\" above");
    Ok(printed?)
}

fn read_facts(args: &Args) -> Facts {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let host_cores =
        read("/proc/cpuinfo").map_or(0, |text| text.lines().filter(|l| l.starts_with("processor")).count());
    Facts {
        cores: (pinning::cores().len(), host_cores),
        open_files: privilege::open_files_max(),
        locked_bytes: privilege::locked_bytes_max(),
        memory_bytes: args.memory_limit << 20,
        allowance: Allowance::read(),
        meminfo: read("/proc/meminfo"),
        thp_enabled: read("/sys/kernel/mm/transparent_hugepage/enabled"),
        thp_shmem_enabled: read("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        io_uring_disabled: read("/proc/sys/kernel/io_uring_disabled"),
        io_uring_works: privilege::io_uring_works(),
        overcommit: read("/proc/sys/vm/overcommit_memory"),
        somaxconn: read("/proc/sys/net/core/somaxconn"),
        rdma: rdma::read_facts(),
    }
}

/// Judge everything.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        cores(facts.cores),
        memory::judge(facts.memory_bytes, &facts.allowance),
        huge_pages(facts.meminfo.as_deref().unwrap_or("")),
        transparent("transparent huge pages", facts.thp_enabled.as_deref(), "enabled", &["always", "madvise"]),
        transparent("the same for shared memory", facts.thp_shmem_enabled.as_deref(), "shmem_enabled", &SHMEM_GOOD),
        locked_memory(facts.locked_bytes),
        open_files(facts.open_files),
        io_uring(facts.io_uring_works, facts.io_uring_disabled.as_deref()),
        overcommit(facts.overcommit.as_deref()),
        backlog(facts.somaxconn.as_deref()),
    ];
    findings.extend(rdma::judge(&facts.rdma));
    findings
}

const SHMEM_GOOD: [&str; 4] = ["always", "within_size", "advise", "force"];

fn cores((mine, host): (usize, usize)) -> Finding {
    match mine {
        0 => finding("cores", Grade::Better, "affinity unknown; workers will not be bound", None),
        mine if mine < host => finding(
            "cores",
            Grade::Ok,
            format!("{mine} of {host} (limited by affinity or cpuset): -t {mine} by default"),
            None,
        ),
        mine => finding("cores", Grade::Ok, format!("{mine}, all of them: -t {mine} by default"), None),
    }
}

fn huge_pages(meminfo: &str) -> Finding {
    let subject = "huge pages";
    let (total, free) = (meminfo_number(meminfo, "HugePages_Total"), meminfo_number(meminfo, "HugePages_Free"));
    let kibibytes = meminfo_number(meminfo, "Hugepagesize").unwrap_or(2048);
    let remedy = Some("sysctl -w vm.nr_hugepages=N   # N pages hold --memory-max (else -m); 512 of 2 MiB hold 1 GiB");
    match (total, free) {
        (Some(0), _) => finding(subject, Grade::Better, "none reserved", remedy),
        (Some(total), Some(0)) => finding(subject, Grade::Better, format!("{total} reserved, none free"), remedy),
        (Some(total), Some(free)) => {
            let mebibytes = free * kibibytes / 1024;
            finding(subject, Grade::Ok, format!("{free} of {total} free: {mebibytes} MiB"), None)
        }
        _ => finding(subject, Grade::Missing, "this kernel has none", None),
    }
}

/// The word in brackets of a setting such as `always [madvise] never`.
fn chosen(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(word, _)| word)
}

fn transparent(subject: &'static str, text: Option<&str>, file: &str, good: &[&str]) -> Finding {
    let remedy = format!("echo {} > /sys/kernel/mm/transparent_hugepage/{file}", good[good.len().min(3) - 1]);
    match text.map(|text| chosen(text).unwrap_or("unknown")) {
        Some(word) if good.contains(&word) => finding(subject, Grade::Ok, word, None),
        Some(word) => finding(subject, Grade::Better, word, Some(&remedy)),
        None => finding(subject, Grade::Missing, "this kernel has none", None),
    }
}

fn locked_memory(bytes: u64) -> Finding {
    let subject = "locked memory";
    let remedy =
        Some("ulimit -l unlimited   # LimitMEMLOCK=infinity in a unit; RDMA registers all of --memory-max (else -m)");
    match bytes {
        u64::MAX => finding(subject, Grade::Ok, "unlimited", None),
        bytes => finding(subject, Grade::Better, format!("at most {} KiB", bytes / 1024), remedy),
    }
}

fn open_files(limit: u64) -> Finding {
    let subject = "open files";
    let remedy = Some("ulimit -n 65536   # LimitNOFILE=65536 in a unit");
    match limit {
        0..64 => finding(subject, Grade::Broken, format!("at most {limit}"), remedy),
        64..4096 => finding(subject, Grade::Better, format!("at most {limit}: -c may be about as large"), remedy),
        u64::MAX => finding(subject, Grade::Ok, "unlimited", None),
        _ => finding(subject, Grade::Ok, format!("at most {limit}"), None),
    }
}

fn io_uring(works: bool, disabled: Option<&str>) -> Finding {
    let subject = "io_uring";
    match (works, disabled.map(str::trim)) {
        (true, _) => finding(subject, Grade::Ok, "answers (not needed: Remora polls with epoll)", None),
        (false, Some("1" | "2")) => finding(
            subject,
            Grade::Missing,
            "switched off (not needed: Remora polls with epoll)",
            Some("sysctl -w kernel.io_uring_disabled=0"),
        ),
        (false, _) => finding(subject, Grade::Missing, "does not answer (not needed: Remora polls with epoll)", None),
    }
}

fn overcommit(text: Option<&str>) -> Finding {
    let subject = "overcommit";
    match text.map(str::trim) {
        Some("2") => finding(
            subject,
            Grade::Better,
            "strict: a start may fail, and memory that is refused later ends the server",
            Some("sysctl -w vm.overcommit_memory=0"),
        ),
        Some(mode) => finding(subject, Grade::Ok, format!("mode {mode}"), None),
        None => finding(subject, Grade::Missing, "unknown", None),
    }
}

fn backlog(text: Option<&str>) -> Finding {
    let subject = "backlog";
    match text.and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(most) if most >= 1024 => finding(subject, Grade::Ok, format!("up to {most}"), None),
        Some(most) => finding(
            subject,
            Grade::Better,
            format!("up to {most}: -b 1024 is cut to that"),
            Some("sysctl -w net.core.somaxconn=4096"),
        ),
        None => finding(subject, Grade::Missing, "unknown", None),
    }
}

/// The report as printed.
pub fn report(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { subject, grade, found, remedy } in findings {
        let grade = match grade {
            Grade::Ok => "ok",
            Grade::Better => "could be better",
            Grade::Missing => "missing",
            Grade::Broken => "BROKEN",
        };
        let _ = writeln!(text, "{subject:<28}{grade:<17}{found}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:<28}  try: {remedy}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grade(finding: Finding) -> (Grade, bool) {
        (finding.grade, finding.remedy.is_some())
    }

    #[test]
    fn huge_pages_by_what_is_free() {
        let meminfo = |total, free| {
            format!("MemTotal: 9 kB\nHugePages_Total:   {total}\nHugePages_Free:  {free}\nHugepagesize:   2048 kB\n")
        };
        assert_eq!(grade(huge_pages(&meminfo(0, 0))), (Grade::Better, true));
        assert_eq!(grade(huge_pages(&meminfo(8, 0))), (Grade::Better, true));
        let good = huge_pages(&meminfo(512, 256));
        assert_eq!((good.grade, good.found.as_str()), (Grade::Ok, "256 of 512 free: 512 MiB"));
        assert_eq!(huge_pages("").grade, Grade::Missing);
    }

    #[test]
    fn transparent_pages_by_the_chosen_word() {
        let judge = |text| transparent("x", text, "enabled", &["always", "madvise"]);
        assert_eq!(grade(judge(Some("always [madvise] never\n"))), (Grade::Ok, false));
        let bad = judge(Some("always madvise [never]\n"));
        assert_eq!(bad.grade, Grade::Better);
        assert_eq!(bad.remedy.unwrap(), "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
        assert_eq!(judge(None).grade, Grade::Missing);
        let shared =
            transparent("x", Some("always within_size advise [never] deny force\n"), "shmem_enabled", &SHMEM_GOOD);
        assert!(shared.remedy.unwrap().starts_with("echo advise >"));
    }

    #[test]
    fn limits() {
        assert_eq!(grade(locked_memory(u64::MAX)), (Grade::Ok, false));
        assert_eq!(grade(locked_memory(8 << 20)), (Grade::Better, true));
        assert_eq!(grade(open_files(20)), (Grade::Broken, true));
        assert_eq!(grade(open_files(1024)), (Grade::Better, true));
        assert_eq!(grade(open_files(65536)), (Grade::Ok, false));
        assert_eq!(grade(backlog(Some("128\n"))), (Grade::Better, true));
        assert_eq!(grade(backlog(Some("4096\n"))), (Grade::Ok, false));
        assert_eq!(grade(overcommit(Some("2\n"))), (Grade::Better, true));
        assert_eq!(grade(overcommit(Some("1\n"))), (Grade::Ok, false));
    }

    #[test]
    fn io_uring_by_its_answer() {
        assert_eq!(grade(io_uring(true, Some("0\n"))), (Grade::Ok, false));
        assert_eq!(grade(io_uring(false, Some("2\n"))), (Grade::Missing, true));
        assert_eq!(grade(io_uring(false, None)), (Grade::Missing, false));
    }

    #[test]
    fn every_finding_is_in_the_report_with_its_remedy() {
        let findings = judge(&Facts::default());
        let report = report(&findings);
        for finding in &findings {
            assert!(report.contains(&finding.found) && finding.remedy.iter().all(|remedy| report.contains(remedy)));
        }
        assert!(report.contains("BROKEN"), "no open file at all:\n{report}");
    }
}
