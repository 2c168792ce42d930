//! Other people's clients, as they are, while a server is killed, another one is added, and one is
//! drained and ended: each goes on without being started anew. Errors come when a server ends, and
//! hardly any at other times; a wrong value never comes. Each client needs packages (`tools/test
//! interop`), and is left out without them, except in CI.

use super::life::{Locator, Site, folder};
use crate::node::wait_until;
use crate::support::WAIT_MAX;
use remora::cluster::decide::Command as Order;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/processes/cluster/survive");
const TARGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
/// Tens of rounds that a client goes on for between two events.
const TENS: usize = 20;
/// From a server's end on, errors may come for so long. A client of libmemcached tries servers
/// again that it has left out, so it has more of them later.
const TROUBLE_MILLISECONDS: u64 = 10_000;
/// No client has more of them: each waits for 100 ms after one.
const ERRORS_MAX: usize = 100;
/// At other times no client has more. A write that waits for replicas while its shard is handed
/// over is refused: "not acknowledged".
const OTHER_ERRORS_MAX: usize = 5;

/// What a client has said.
#[derive(Default)]
struct Said {
    tens: usize,
    /// When, in milliseconds since 1970, and what.
    errors: Vec<(u64, String)>,
    wrong: Vec<String>,
}

/// A client that goes on until its standard input ends.
struct Looping {
    name: &'static str,
    /// It tries servers again that it has left out.
    tries_again: bool,
    child: Child,
    input: Option<ChildStdin>,
    said: Arc<Mutex<Said>>,
}

/// In milliseconds since 1970, as the clients tell the time.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set").as_millis() as u64
}

fn locked(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Looping {
    fn start(name: &'static str, mut command: Command, servers: &str) -> Looping {
        command.arg(servers).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let said: Arc<Mutex<Said>> = Arc::default();
        let hearing = said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut words = line.splitn(3, ' ');
                let (kind, at) = (words.next(), words.next().and_then(|at| at.parse().ok()));
                let what = words.next().unwrap_or_default().to_string();
                let mut said = locked(&hearing);
                match (kind, at) {
                    (Some("ok"), _) => said.tens += 1,
                    (Some("error"), Some(at)) => said.errors.push((at, what)),
                    _ => said.wrong.push(line),
                }
            }
        });
        let input = child.stdin.take();
        let tries_again = ["pylibmc", "libmemcached by PHP"].contains(&name);
        Looping { name, tries_again, child, input, said }
    }

    fn tens(&self) -> usize {
        locked(&self.said).tens
    }

    /// Wait until it has gone on for a while.
    fn goes_on(&self) {
        let wanted = self.tens() + TENS;
        wait_until(&format!("{} goes on", self.name), || {
            let said = locked(&self.said);
            if said.tens >= wanted {
                Ok(())
            } else {
                Err(format!("{} of {wanted}; {:?}", said.tens, &said.errors[..said.errors.len().min(ERRORS_MAX)]))
            }
        });
    }

    /// End it. All that it said was right, and errors came soon after a server had ended.
    fn ends_well(mut self, ended: &[u64]) {
        drop(self.input.take());
        let until = Instant::now() + WAIT_MAX;
        while self.child.try_wait().expect("our own child").is_none() {
            assert!(Instant::now() < until, "{} does not end", self.name);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let said = locked(&self.said);
        let count = said.errors.len();
        let after = |(at, _): &(u64, String)| ended.iter().filter_map(|ended| at.checked_sub(*ended)).min();
        let latest = said.errors.iter().map(after).max().flatten();
        println!(
            "{}: {} rounds, {count} errors, {latest:?} ms after a server's end at most",
            self.name,
            said.tens * 10
        );
        assert!(said.wrong.is_empty(), "{}: {:?}", self.name, said.wrong);
        let is_late = |error: &&(u64, String)| after(error).is_none_or(|after| after > TROUBLE_MILLISECONDS);
        let late: Vec<_> = said.errors.iter().filter(is_late).collect();
        let is_expected = self.tries_again || late.len() <= OTHER_ERRORS_MAX;
        assert!(is_expected, "{}, where servers ended at {ended:?}: {late:?}", self.name);
        assert!(count <= ERRORS_MAX, "{}: {count} errors, such as {:?}", self.name, &said.errors[..ERRORS_MAX]);
    }
}

impl Drop for Looping {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The clients whose packages are there.
fn commands(modules: &Path) -> Vec<(&'static str, Command)> {
    let python = PathBuf::from(format!("{TARGET}/interop-venv/bin/python"));
    let node = PathBuf::from(format!("{TARGET}/interop-node/node_modules/memjs"));
    let php = ["-r", "exit(extension_loaded('memcached') ? 0 : 1);"];
    let has_php = Command::new("php").args(php).status().is_ok_and(|status| status.success());
    let script = |program: &Path, script: String| {
        let mut command = Command::new(program);
        command.arg(script).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let all = [
        ("pymemcache", python.exists(), script(&python, format!("{HERE}/pymemcache_loop.py"))),
        ("pylibmc", python.exists(), script(&python, format!("{HERE}/pylibmc_loop.py"))),
        ("memjs", node.exists(), script("node".as_ref(), format!("{}/memjs_loop.cjs", modules.display()))),
        ("libmemcached by PHP", has_php, script("php".as_ref(), format!("{HERE}/php_loop.php"))),
    ];
    let mut there = Vec::new();
    for (name, is_there, command) in all {
        assert!(
            is_there || std::env::var_os("CI").is_none(),
            "in CI {name} must be there: tools/test interop fetches it"
        );
        if is_there {
            there.push((name, command));
        } else {
            println!("left out: there is no {name} (tools/test interop fetches it)");
        }
    }
    there
}

#[test]
fn interop_clients_as_they_are_live_through_a_failover_a_growth_and_a_drain() {
    // Node looks for modules beside the script.
    let modules = tempfile::tempdir().expect("a temporary folder");
    let link = modules.path().join("node_modules");
    std::os::unix::fs::symlink(format!("{TARGET}/interop-node/node_modules"), link).expect("a link");
    std::fs::copy(format!("{HERE}/memjs_loop.cjs"), modules.path().join("memjs_loop.cjs")).expect("a copy");
    let commands = commands(modules.path());
    if commands.is_empty() {
        return;
    }
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let mut site = Site::born(&[&locator], &["a", "b", "c"]);
    let servers: Vec<String> = site.nodes.values().map(|node| node.server.tcp[0].to_string()).collect();
    let servers = servers.join(",");
    let clients: Vec<Looping> =
        commands.into_iter().map(|(name, command)| Looping::start(name, command, &servers)).collect();
    let go_on = || clients.iter().for_each(Looping::goes_on);
    go_on();
    let mut ended = vec![now()];
    drop(site.nodes.remove("b"));
    site.settle(2);
    go_on();
    site.start("d");
    wait_until("it has found the locator", || site.knows("d").then_some(()).ok_or("not yet"));
    site.order(Order::Add { server: Some("d".into()) });
    site.settle(3);
    go_on();
    site.order(Order::Drain { server: "c".into() });
    site.settle(2);
    go_on();
    ended.push(now());
    drop(site.nodes.remove("c"));
    go_on();
    clients.into_iter().for_each(|client| client.ends_well(&ended));
}
