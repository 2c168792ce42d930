//! Where it happens: a primary, replicas, load, and waits with a bound.

use super::compare::same_contents;
use crate::support::Server;
use remora::load::client::Connection;
use remora::sys::child::{end_with_parent, terminate};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// No single wait is longer, even under emulation.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// Run `test` where there is an RDMA device.
pub fn on_site(test: impl FnOnce(&Site)) {
    let Ok(address) = std::env::var("REMORA_TEST_VERBS") else {
        println!("skipped: REMORA_TEST_VERBS is not set to the address of an RDMA device");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret").to_str().unwrap().to_string();
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&secret).unwrap();
    std::io::Write::write_all(&mut file, b"between the lines of a test").unwrap();
    test(&Site { address, secret, _folder: folder });
}

/// The device's address, and a secret.
pub struct Site {
    address: String,
    secret: String,
    _folder: tempfile::TempDir,
}

/// A primary, and its replication port.
pub struct Primary {
    pub server: Server,
    pub replication: String,
}

impl Site {
    /// A small primary, with this replication port.
    pub fn primary(&self, port: &str) -> Primary {
        let listen = format!("{}:{port}", self.address);
        let server = self.start(&["-m", "8", "-t", "1", "--replication", &listen]);
        let mut said = std::iter::from_fn(|| server.next_log_line());
        let replication = said.find_map(|line| {
            let (address, fabrics) = line.strip_prefix("remora: replication on tcp ")?.split_once(" over ")?;
            assert_eq!(fabrics, "verbs");
            Some(address.to_string())
        });
        Primary { replication: replication.expect("the primary says where replicas connect"), server }
    }

    /// A replica of it that has been admitted.
    pub fn replica(&self, primary: &Primary, name: &str) -> Server {
        self.start(&["-t", "1", "--replica-of", &primary.replication, "--replica-name", name])
    }

    /// The same, and the primary pushes to it.
    pub fn pushed(&self, primary: &Primary, name: &str) -> Server {
        let follow = ["-t", "1", "--replica-of", &primary.replication, "--replica-name", name];
        self.start(&[&follow[..], &["--replication-mode", "push"]].concat())
    }

    fn start(&self, arguments: &[&str]) -> Server {
        let common = ["-l", "127.0.0.1:0", "--fabric", "verbs", "--secret-file", &self.secret];
        Server::start_listening(&[&common, arguments].concat(), 1)
    }

    /// Wait until every replica has applied everything by its own and by the primary's account, and hold it against the primary: how many
    /// keys there are.
    pub fn all_have_all(&self, primary: &Primary, replicas: &[Server], keys: u32) -> u32 {
        let begun = Instant::now();
        until("the primary knows that all replicas have all", || {
            let rows = rows(&primary.server);
            let is = |number: usize, name: &str, value: &str| {
                rows.get(&format!("replica_{number}_{name}")).is_some_and(|found| found == value)
            };
            let has_all = |number| is(number, "state", "following") && is(number, "lag_bytes", "0");
            let all = rows["replicas"] == replicas.len().to_string() && (0..replicas.len()).all(has_all);
            if !all && begun.elapsed() > WAIT_MAX - Duration::from_secs(1) {
                println!("{rows:?}");
                replicas.iter().for_each(|replica| println!("{:?}", self::rows(replica)));
                std::thread::sleep(Duration::from_millis(500));
            }
            all
        });
        println!("the primary knows it after {:?}", begun.elapsed());
        let mut same = 0;
        for replica in replicas {
            until("a replica says the same", || {
                row(replica, "state") == "following" && row(replica, "lag_bytes") == "0"
            });
            same = same_contents(primary.server.tcp[0], replica.tcp[0], keys);
            assert!(same > 0 || keys == 0, "the load left something");
            let rows = rows(replica);
            assert!(rows["fabric"].starts_with("verbs "), "{rows:?}");
            assert_eq!(rows["bad_records"], "0", "{rows:?}");
        }
        same
    }
}

/// `stats replication`.
pub fn rows(server: &Server) -> BTreeMap<String, String> {
    Connection::open(server.tcp[0], WAIT_MAX).and_then(|mut connection| connection.stats("replication")).unwrap()
}

/// One row of it.
pub fn row(server: &Server, name: &str) -> String {
    rows(server).remove(name).unwrap_or_else(|| panic!("stats replication has a row {name}"))
}

/// Wait until `so`.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT_MAX;
    while !so() {
        assert!(Instant::now() < end, "{what}: not within {WAIT_MAX:?}");
        std::thread::sleep(Duration::from_millis(20)); // asking takes processor time from those who are asked
    }
}

/// `remora load --verify`, until it is stopped.
pub struct Load(Child);

impl Load {
    /// Returns once it writes.
    pub fn start(primary: &Primary, keys: u32) -> Load {
        let sets = || primary.server.stat("cmd_set");
        let before = sets();
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.args(["load", "--verify", "-c", "4", "-P", "8", "--ratio", "1:1", "--seconds", "3600"]);
        command.args(["--value-bytes", "16-8000", "--keys", &keys.to_string()]);
        command.args(["-s", &primary.server.tcp[0].to_string()]).stdout(Stdio::null()).stderr(Stdio::piped());
        let load = Load(end_with_parent(&mut command).spawn().unwrap());
        until("the load writes", || sets() != before);
        load
    }

    /// SIGTERM; it must have found nothing wrong.
    pub fn stop(mut self) {
        terminate(&self.0).unwrap();
        until("the load ends", || self.0.try_wait().unwrap().is_some());
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let ended = self.0.wait().unwrap();
        assert!(ended.success(), "the load ended with {ended}; it said:\n{said}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
