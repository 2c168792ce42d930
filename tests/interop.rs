//! Other people's clients and load generators against `remora serve`: what they take from memcached
//! they must take from Remora. Each test names the package it needs and is skipped without it,
//! except in CI. `REMORA_TEST_SERVER=host:port` points them at another server, memcached for
//! example, to see that a test asks for nothing more than it does.

#[path = "interop/binary.rs"]
mod binary;
#[path = "interop/clients.rs"]
mod clients;
#[path = "interop/memcached.rs"]
mod memcached;
#[path = "interop/sasl.rs"]
mod sasl;
mod support;

use std::path::PathBuf;
use std::process::{Command, Output};

/// No program of a test runs longer; `timeout` ends it.
const PROGRAM_SECONDS_MAX: &str = "120";

/// A server of the test's own, or the one that the environment names.
struct Target {
    address: String,
    _server: Option<support::Server>,
}

impl Target {
    fn start(arguments: &[&str]) -> Target {
        if let Ok(address) = std::env::var("REMORA_TEST_SERVER") {
            return Target { address, _server: None };
        }
        let server = support::Server::start(arguments);
        Target { address: server.tcp[0].to_string(), _server: Some(server) }
    }

    fn host(&self) -> &str {
        self.address.rsplit_once(':').expect("host:port").0
    }

    fn port(&self) -> &str {
        self.address.rsplit_once(':').expect("host:port").1
    }
}

/// True when the program is there; otherwise says so, and in CI fails.
fn have(program: &str, package: &str) -> bool {
    let there = Command::new("which").arg(program).output().is_ok_and(|output| output.status.success());
    there || missing(program, package)
}

fn missing(what: &str, remedy: &str) -> bool {
    assert!(std::env::var_os("CI").is_none(), "in CI {what} must be there: {remedy}");
    println!("skipped: there is no {what} ({remedy})");
    false
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg(PROGRAM_SECONDS_MAX).arg(program).args(arguments);
    command.output().expect("timeout(1) is part of coreutils")
}

fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}")
}

/// Run and expect success; the answer is all that was printed.
fn succeeds(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{}", output.status, text(&output));
    text(&output)
}

const LIBMEMCACHED: &str = "apt-get install libmemcached-tools";

#[test]
fn interop_memccapable() {
    if !have("memccapable", LIBMEMCACHED) {
        return;
    }
    let target = Target::start(&["-m", "64"]);
    // Both protocols: 27 tests of each.
    let said = succeeds("memccapable", &["-h", target.host(), "-p", target.port()]);
    println!("{said}");
    assert_eq!(said.matches("[pass]").count(), 54, "{said}");
    assert!(said.contains("All tests passed"), "{said}");
    assert!(!said.to_lowercase().contains("fail"), "{said}");
}

/// One run of memaslap with values that it checks; every line of figures by name.
fn memaslap(target: &Target, config: &str, further: &[&str]) -> Vec<(String, u64)> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config");
    std::fs::write(&path, config).expect("a written file");
    let servers = format!("--servers={}", target.address);
    let mut arguments = vec![servers.as_str(), "-F", path.to_str().expect("a path of text"), "-T", "2", "-c", "16"];
    arguments.extend(further);
    let said = succeeds("memcaslap", &arguments);
    let figure = |line: &str| {
        let (name, figure) = line.split_once(": ")?;
        Some((name.to_string(), figure.trim().parse().ok()?))
    };
    assert!(!said.contains("_ERROR"), "the server refused something:\n{:.2000}", said);
    said.lines().filter_map(figure).collect()
}

fn figure(figures: &[(String, u64)], name: &str) -> u64 {
    figures.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name} in {figures:?}")).1
}

const MIXED_VALUES: &str = "key\n16 32 0.5\n32 100 0.5\nvalue\n64 1024 0.6\n1024 20000 0.4\ncmd\n0 0.5\n1 0.5\n";

#[test]
fn interop_memaslap_while_reclaim_goes_on() {
    if !have("memcaslap", LIBMEMCACHED) {
        return;
    }
    // 200 MiB and more go through 64 MiB: misses are expected, wrong values are not.
    let target = Target::start(&["-m", "64", "-t", "2"]);
    for further in [["-d", "1"], ["-d", "10"], ["-e", "0.1"]] {
        let arguments = [["-x", "100000"], ["-v", "0.3"], further].concat();
        let figures = memaslap(&target, MIXED_VALUES, &arguments);
        println!("{further:?}: {figures:?}");
        assert_eq!(figure(&figures, "verify_failed"), 0);
        assert!(figure(&figures, "cmd_get") > figure(&figures, "get_misses"), "nothing was ever found");
    }
}

#[test]
fn interop_memaslap_that_fits() {
    if !have("memcaslap", LIBMEMCACHED) {
        return;
    }
    let target = Target::start(&["-m", "256", "-t", "2"]);
    let small = "key\n16 32 1\nvalue\n64 512 1\ncmd\n0 0.1\n1 0.9\n";
    let figures = memaslap(&target, small, &["-x", "200000", "-v", "1"]);
    println!("{figures:?}");
    assert_eq!(figure(&figures, "verify_failed"), 0);
    assert_eq!(figure(&figures, "verify_misses"), 0);
    assert_eq!(figure(&figures, "get_misses"), 0);
}

/// Of the binary protocol.
#[test]
fn interop_memaslap_with_packets() {
    if !have("memcaslap", LIBMEMCACHED) {
        return;
    }
    let target = Target::start(&["-m", "256", "-t", "2"]);
    for further in [["-B", "-d", "1"], ["-B", "-d", "10"]] {
        let arguments = [&["-x", "100000", "-v", "1"][..], &further].concat();
        let figures = memaslap(&target, "key\n16 32 1\nvalue\n64 512 1\ncmd\n0 0.1\n1 0.9\n", &arguments);
        println!("{further:?}: {figures:?}");
        for wrong in ["verify_failed", "verify_misses", "get_misses"] {
            assert_eq!(figure(&figures, wrong), 0, "{wrong}");
        }
    }
}

#[test]
fn interop_memaslap_over_udp() {
    if !have("memcaslap", LIBMEMCACHED) {
        return;
    }
    let server = support::Server::start_listening(&["-m", "256", "-l", "127.0.0.1:0", "-p", "-1", "-U", "-1"], 2);
    let target = Target { address: server.udp[0].to_string(), _server: Some(server) };
    let small = "key\n16 32 1\nvalue\n64 512 1\ncmd\n0 0.1\n1 0.9\n";
    let figures = memaslap(&target, small, &["-U", "-x", "20000", "-v", "1"]);
    println!("{figures:?}");
    assert_eq!(figure(&figures, "verify_failed"), 0);
    assert!(figure(&figures, "cmd_get") > figure(&figures, "get_misses"), "nothing was ever found");
}

#[test]
fn interop_memslap() {
    if !have("memcslap", LIBMEMCACHED) {
        return;
    }
    let target = Target::start(&["-m", "256"]);
    let servers = format!("--servers={}", target.address);
    for test in ["set", "get", "mget"] {
        let said = succeeds("memcslap", &[&servers, "-t", test, "-c", "4", "-e", "5000", "-N"]);
        println!("{said}");
        assert!(!said.to_lowercase().contains("error"), "{said}");
    }
    // Not -B: with it memcslap fails an assertion of its own, against memcached as well.
    for mode in ["-R", "-n"] {
        let said = succeeds("memcslap", &[&servers, "-t", "set", "-c", "4", "-e", "5000", mode]);
        assert!(!said.to_lowercase().contains("error"), "{said}");
    }
}

#[test]
fn interop_libmemcached_programs() {
    if !have("memccp", LIBMEMCACHED) {
        return;
    }
    let target = Target::start(&["-m", "64"]);
    let servers = format!("--servers={}", target.address);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("a path of text").to_string();
    std::fs::write(file("greeting"), "hello\n").expect("a written file");
    let large: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(file("large"), &large).expect("a written file");

    succeeds("memcping", &[&servers]);
    succeeds("memccp", &[&servers, &file("greeting"), &file("large")]);
    assert!(succeeds("memccat", &[&servers, "greeting"]).contains("hello"));
    succeeds("memccat", &[&servers, "--file", &file("copy"), "large"]);
    assert_eq!(std::fs::read(file("copy")).expect("memccat wrote it")[..large.len()], large);
    succeeds("memcexist", &[&servers, "greeting"]);
    succeeds("memctouch", &[&servers, "--expire=100", "greeting"]);
    assert!(!run("memccp", &[&servers, "-A", &file("greeting")]).status.success(), "add of what is there");
    succeeds("memccp", &[&servers, "-R", &file("greeting")]);
    succeeds("memcrm", &[&servers, "greeting"]);
    assert!(!run("memcrm", &[&servers, "greeting"]).status.success(), "removed already");
    assert!(!run("memcexist", &[&servers, "greeting"]).status.success(), "removed");
    // By stats cachedump, one slab class after another, as getAllKeys() of PHP's client does.
    let keys = succeeds("memcdump", &[&servers]);
    assert_eq!(keys.lines().collect::<std::collections::BTreeSet<_>>(), ["large"].into(), "{keys}");
    let stats = succeeds("memcstat", &[&servers]);
    assert!(stats.contains("curr_items: ") && stats.contains("limit_maxbytes: "), "{stats}");
    succeeds("memcflush", &[&servers]);
    assert!(!run("memcexist", &[&servers, "large"]).status.success(), "flushed");
}

/// The Python that has the clients: the virtual environment that `tools/test interop` makes.
fn python() -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/interop-venv/bin/python"));
    path.exists().then_some(path)
}

fn python_script(script: &str) {
    let Some(python) = python() else {
        missing("virtual environment with Python clients", "tools/test interop makes it");
        return;
    };
    let target = Target::start(&["-m", "256", "-t", "2"]);
    let script = format!("{}/tests/interop/{script}", env!("CARGO_MANIFEST_DIR"));
    let python = python.to_str().expect("a path of text").to_string();
    println!("{}", succeeds(&python, &[&script, target.host(), target.port()]));
}

#[test]
fn interop_pymemcache() {
    python_script("pymemcache_check.py");
}

#[test]
fn interop_python_memcached() {
    python_script("python_memcached_check.py");
}

#[test]
fn interop_python_ssl() {
    if !have("python3", "apt-get install python3") {
        return;
    }
    let authority = support::certificates::Authority::new();
    authority.sign("server");
    let server = support::Server::start(&["-Z", "-o", &authority.options("server")]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/tls_check.py");
    let (port, authorities) = (server.tcp[0].port().to_string(), authority.path("ca.pem").display().to_string());
    let said = succeeds("python3", &[script, "127.0.0.1", &port, &authorities]);
    assert!(said.contains("passed"), "{said}");
}
