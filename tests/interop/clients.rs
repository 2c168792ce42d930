//! Clients in other languages, and the tests that their makers wrote for them: against Remora, and
//! in the same run against memcached, so that a failure tells whose it is.

use super::memcached::{Memcached, REMEDY, version};
use super::sasl::{Pair, USERS};
use super::support::Server;
use super::{missing, python, run, succeeds, text};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop");
/// Where `tools/test interop` puts what PyPI and npm have.
const SUITES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/interop-suites");
const MEMJS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/interop-node/node_modules");
const MADE_BY: &str = "tools/test interop fetches it";

/// Both servers, which ask nobody who he is.
struct Plain {
    ours: Server,
    theirs: Memcached,
}

impl Plain {
    fn start() -> Option<Plain> {
        if version().is_none_or(|version| !version.starts_with("memcached 1.6")) {
            missing("memcached 1.6", REMEDY);
            return None;
        }
        Some(Plain { ours: Server::start(&["-m", "128"]), theirs: Memcached::start(&["-m", "128"]) })
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        [self.ours.tcp[0], self.theirs.address]
    }
}

/// Whether `program` ends well with `arguments`; otherwise `package` is missing.
fn can(program: &str, arguments: &[&str], package: &str) -> bool {
    let there = Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success());
    there || missing(program, package)
}

/// Run `program` for both servers, without users and with one.
fn script(program: &str, script: &str, address: impl Fn(SocketAddr) -> Vec<String>) {
    let script = Path::new(HERE).join(script).display().to_string();
    let run = |server: SocketAddr, user: &[&str]| {
        let address = address(server);
        let arguments: Vec<&str> = [script.as_str()].into_iter().chain(address.iter().map(String::as_str)).collect();
        let said = succeeds(program, &[&arguments[..], user].concat());
        assert!(said.contains("passed"), "{said}");
    };
    let Some(plain) = Plain::start() else { return };
    for server in plain.addresses() {
        run(server, &[]);
    }
    let Some(pair) = Pair::start() else { return };
    let (user, password) = USERS[0];
    for server in pair.addresses() {
        run(server, &[user, password]);
    }
}

fn host_and_port(server: SocketAddr) -> Vec<String> {
    vec![server.ip().to_string(), server.port().to_string()]
}

#[test]
fn interop_php_memcached() {
    if can("php", &["-r", "exit(extension_loaded('memcached') ? 0 : 1);"], "apt-get install php-cli php-memcached") {
        script("php", "php_check.php", host_and_port);
    }
}

#[test]
fn interop_dalli() {
    if can("ruby", &["-rdalli", "-e", ""], "apt-get install ruby ruby-dalli") {
        script("ruby", "dalli_check.rb", |server| vec![server.to_string()]);
    }
}

#[test]
fn interop_memjs() {
    if !can("node", &["--version"], "apt-get install nodejs npm") {
        return;
    }
    if !Path::new(MEMJS).join("memjs").exists() {
        missing("memjs", MADE_BY);
        return;
    }
    // Node looks for modules beside the script.
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::os::unix::fs::symlink(MEMJS, folder.path().join("node_modules")).expect("a link");
    let copy = folder.path().join("memjs_check.cjs");
    std::fs::copy(format!("{HERE}/memjs_check.cjs"), &copy).expect("a copy");
    script("node", copy.to_str().expect("a path of text"), |server| vec![server.to_string()]);
}

#[test]
fn interop_pylibmc_with_sasl() {
    let (Some(python), Some(pair)) = (the_python(), Pair::start()) else { return };
    let (user, password) = USERS[0];
    for server in pair.addresses() {
        let (host, port) = (server.ip().to_string(), server.port().to_string());
        let said = succeeds(&python, &[&format!("{HERE}/pylibmc_check.py"), &host, &port, user, password]);
        assert!(said.contains("passed"), "{said}");
    }
}

/// The Python that has the clients, and pytest.
fn the_python() -> Option<String> {
    let path = python().map(|path| path.to_str().expect("a path of text").to_string());
    if path.is_none() {
        missing("virtual environment with Python clients", "tools/test interop makes it");
    }
    path
}

/// The tests of a client's makers, as they come, but for the addresses in them.
fn suite(name: &str) -> Option<PathBuf> {
    let folder = Path::new(SUITES).join(name);
    if !folder.exists() {
        missing(name, MADE_BY);
        return None;
    }
    Some(folder)
}

/// Run pytest in `folder`; what became of each test. `variables` are NAME=VALUE.
fn outcomes(python: &str, folder: &Path, variables: &[String], arguments: &[&str]) -> BTreeMap<String, String> {
    let folder = format!("--rootdir={}", folder.display());
    let path = format!("PYTHONPATH={HERE}");
    let mut all: Vec<&str> = vec![&path, "PYTHONDONTWRITEBYTECODE=1"];
    all.extend(variables.iter().map(String::as_str));
    all.extend([python, "-m", "pytest", "-q", "-rA", "--tb=short", "--no-header", "-pno:cacheprovider", "-Wignore"]);
    all.push(&folder);
    all.extend(arguments);
    let said = text(&run("env", &all));
    let outcome = |line: &str| {
        let (outcome, test) = line.split_once(' ')?;
        let test = test.split(" - ").next()?;
        let test = test.rsplit_once('/').map_or(test, |(_, test)| test);
        ["PASSED", "FAILED", "ERROR"].contains(&outcome).then(|| (test.to_string(), outcome.to_string()))
    };
    let found: BTreeMap<_, _> = said.lines().filter_map(outcome).collect();
    assert!(!found.is_empty(), "no test was run:\n{said}");
    found
}

/// What came of the tests with Remora, and with memcached, is the same, and so many at least have
/// passed.
fn compare([ours, theirs]: [BTreeMap<String, String>; 2], least: usize) {
    let of = |all: &BTreeMap<String, String>, outcome: &str| -> Vec<String> {
        all.iter().filter(|(_, found)| *found == outcome).map(|(test, _)| test.clone()).collect()
    };
    println!("passed: {}; with memcached: {}", of(&ours, "PASSED").len(), of(&theirs, "PASSED").len());
    println!("failed with both: {:?}", of(&theirs, "FAILED"));
    assert_eq!(ours, theirs, "by Remora and by memcached");
    assert!(of(&ours, "PASSED").len() >= least, "{ours:?}");
}

#[test]
fn interop_suite_of_pymemcache() {
    let (Some(python), Some(plain)) = (the_python(), Plain::start()) else { return };
    let said = succeeds(&python, &["-c", "import pymemcache.test; print(pymemcache.test.__path__[0])"]);
    let folder = PathBuf::from(said.trim());
    let file = folder.join("test_integration.py").display().to_string();
    let outcomes = plain.addresses().map(|server| {
        let (host, port) = (server.ip().to_string(), server.port().to_string());
        outcomes(&python, &folder, &[], &[&file, "--server", &host, "--port", &port])
    });
    compare(outcomes, 100);
}

#[test]
fn interop_suite_of_pylibmc() {
    let (Some(python), Some(folder)) = (the_python(), suite("pylibmc-1.6.3")) else { return };
    let Some(plain) = Plain::start() else { return };
    let tests = folder.join("tests").display().to_string();
    // It asks a server at the port of memcached's that every machine has for itself.
    let ignored = format!("--ignore={tests}/test_autoconf.py");
    let outcomes = plain.addresses().map(|server| {
        let variables = [format!("MEMCACHED_HOST={}", server.ip()), format!("MEMCACHED_PORT={}", server.port())];
        outcomes(&python, &folder, &variables, &[&tests, &ignored])
    });
    compare(outcomes, 38);
}

/// Those of its files whose tests talk to a server.
const BMEMCACHED: [&str; 6] = [
    "test_simple_functions.py",
    "test_compression.py",
    "test_pickler.py",
    "test_raw_data.py",
    "test_errors.py",
    "test_sasl_integration.py",
];

#[test]
fn interop_suite_of_python_binary_memcached() {
    let (Some(python), Some(folder)) = (the_python(), suite("python_binary_memcached-0.33.0")) else { return };
    let (Some(plain), Some(pair)) = (Plain::start(), Pair::start()) else { return };
    let mut both = plain.addresses().into_iter().zip(pair.addresses());
    let outcomes = [(); 2].map(|()| {
        let (server, asking) = both.next().expect("two servers");
        let copy = tempfile::tempdir().expect("a temporary folder");
        let mut arguments = vec!["-psuite_fixtures".to_string()];
        for name in BMEMCACHED {
            // They name ports, and a socket of memcached's.
            let written = std::fs::read_to_string(folder.join("test").join(name)).expect("a file of tests");
            let port = format!(":{}", server.port());
            let written = written.replace(":11211", &port).replace(":5000", &port);
            let written = written.replace("/tmp/memcached.sock", &server.to_string());
            let path = copy.path().join(name);
            std::fs::write(&path, written).expect("a written file");
            arguments.push(path.display().to_string());
        }
        let (user, password) = USERS[0];
        let variables =
            [format!("MEMCACHED_HOST={}", server.ip()), format!("SASL_SERVER={} {user} {password}", asking.port())];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        outcomes(&python, copy.path(), &variables, &arguments)
    });
    compare(outcomes, 100);
}
