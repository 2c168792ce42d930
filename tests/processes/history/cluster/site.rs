//! A locator and servers as processes, each at a host of its own, and an operator.

use super::super::by_shard::signal;
use super::hosts::{Hosts, Way};
use crate::support::command;
use crate::support::wait::wait_until;
use remora::cluster::client::{self, Question};
use remora::cluster::decide::{Command as Change, Status};
use remora::cluster::map::{Map, Policy};
use remora::replication::secret::Secret;
use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The hosts: clients and operators are at one, the locator is at another one.
pub const CLIENTS: usize = 0;
pub const LOCATOR: usize = 1;
const SERVERS_FROM: usize = 2;

const SECRET: &[u8] = b"of the cluster under faults";
/// Longest wait for a locator's answer.
const ASK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Asking costs servers nothing, but the machine.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(50);

/// A process whose log is a file.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Start it at a host, and wait until its log has a line that begins so.
    fn start(mut command: Command, log: PathBuf, hosts: &Hosts, host: usize, ready: &str) -> Process {
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let from = file.metadata().expect("a log").len() as usize;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = hosts.at(host, || command.spawn().expect("the remora binary starts"));
        let mut process = Process { child, log };
        wait_until("a process comes up", || {
            let said = std::fs::read_to_string(&process.log).expect("a log");
            let is_ready = said[from..].lines().any(|line| line.starts_with(ready));
            assert!(process.child.try_wait().expect("our own child").is_none(), "it has ended: {said}");
            if is_ready { Ok(()) } else { Err(said) }
        });
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a cluster is set up.
#[derive(Debug, Clone)]
pub struct Setting {
    pub servers: usize,
    pub shards: usize,
    pub policy: Policy,
}

/// See the module.
pub struct Site {
    pub setting: Setting,
    pub hosts: Hosts,
    locator: Option<Process>,
    servers: Vec<Option<Process>>,
    folder: Option<tempfile::TempDir>,
}

impl Site {
    /// None where this process may not make hosts.
    pub fn born(setting: Setting) -> Option<Site> {
        let hosts = Hosts::new(SERVERS_FROM + setting.servers)?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let secret = folder.path().join("secret");
        std::fs::write(&secret, SECRET).expect("a file");
        std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("a file of our own");
        let servers = (0..setting.servers).map(|_| None).collect();
        let mut site = Site { setting, hosts, locator: None, servers, folder: Some(folder) };
        site.start_locator();
        let policy = site.setting.policy.clone();
        site.ask(&Question::Init { shards: site.setting.shards, policy }).expect("it is born");
        (0..site.setting.servers).for_each(|server| site.start(server));
        wait_until("all have found the locator", || {
            let found = site.status()?.servers.len();
            if found == site.setting.servers { Ok(()) } else { Err(format!("{found} have")) }
        });
        site.ask(&Question::Change { command: Change::Add { server: None }, dry_run: false }).expect("they are added");
        site.heal();
        Some(site)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.as_ref().map(tempfile::TempDir::path).unwrap_or(Path::new("")).join(name)
    }

    fn words(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").into()
    }

    pub fn name(server: usize) -> String {
        char::from(b'a' + server as u8).into()
    }

    pub fn host(server: usize) -> usize {
        SERVERS_FROM + server
    }

    fn locator_address(&self) -> String {
        format!("{}:7250", self.hosts.address(LOCATOR))
    }

    /// Where clients connect.
    pub fn clients(&self, server: usize) -> SocketAddr {
        SocketAddr::new(self.hosts.address(Site::host(server)), 11211)
    }

    pub fn start_locator(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.args(["locator", "-v", "--listen", &self.locator_address(), "--store", &self.words("store")]);
        command.args(["--secret-file", &self.words("secret")]);
        let ready = "remora: locator on tcp ";
        self.locator = Some(Process::start(command, self.path("locator.log"), &self.hosts, LOCATOR, ready));
    }

    pub fn kill_locator(&mut self) {
        self.locator = None;
    }

    /// Start a server that does not run.
    pub fn start(&mut self, server: usize) {
        let (name, shards) = (Site::name(server), self.setting.shards.to_string());
        let (clients, acks) = (self.clients(server).to_string(), self.setting.policy.acks.to_string());
        let replication = format!("{}:11311", self.hosts.address(Site::host(server)));
        let (locator, secret) = (self.locator_address(), self.words("secret"));
        let mut arguments = vec!["-v", "-l", &clients, "--replication", &replication, "--secret-file", &secret];
        arguments.extend(["-t", "1", "-m", "64", "-I", "128k", "-M", "--shards", &shards, "--locators", &locator]);
        arguments.extend(["--replica-name", &name, "--host", &name, "--ack-replicas", &acks, "--ack-timeout", "2000"]);
        let log = self.path(&format!("{name}.log"));
        let ready = "remora: replication on tcp ";
        let process = Process::start(command(&arguments), log, &self.hosts, Site::host(server), ready);
        self.servers[server] = Some(process);
    }

    /// kill -9.
    pub fn kill(&mut self, server: usize) {
        self.servers[server] = None;
    }

    /// Have the locator, or a server, take a signal.
    pub fn signal(&self, server: Option<usize>, name: &str) {
        let process = server.map_or(&self.locator, |server| &self.servers[server]);
        signal(process.as_ref().expect("it runs").child.id(), name);
    }

    fn ask(&self, question: &Question) -> Result<String, String> {
        let secret = Secret::new(SECRET).expect("it is long enough");
        let until = Instant::now() + ASK_WAIT_MAX;
        let asked = || client::ask(&[self.locator_address()], &secret, question, until);
        self.hosts.at(CLIENTS, asked).map_err(|error| error.to_string())
    }

    pub fn status(&self) -> Result<Status, String> {
        serde_json::from_str(&self.ask(&Question::Status)?).map_err(|error| error.to_string())
    }

    /// The shards of which a server is the primary.
    pub fn led_by(&self, server: usize) -> Vec<usize> {
        let text = self.ask(&Question::Map).expect("a map");
        let map = Map::of_text(text.as_bytes()).expect("a map");
        let id = map.servers.iter().find(|one| one.name == Site::name(server)).map(|one| one.id).expect("it is known");
        (0..map.shards.len()).filter(|shard| map.shards[*shard].primary == Some(id)).collect()
    }

    /// Wait until all is well, which comes about without an operator.
    pub fn heal(&self) {
        wait_until("the cluster heals by itself", || {
            std::thread::sleep(BETWEEN_QUESTIONS);
            let status = self.status()?;
            let is_there = status.servers.iter().all(|server| server.alive && server.primary + server.replica > 0);
            let is_well = status.shards.are_settled() && is_there && status.stopped.is_none();
            if is_well { Ok(()) } else { Err(format!("{status:?}")) }
        });
    }

    /// Where two servers are away at the same time, nothing is decided until they are back, or an
    /// operator says that it shall be: the operator does. Whether that was needed.
    pub fn resume(&self) -> bool {
        let is_stopped = |status: Status| status.stopped.is_some();
        std::thread::sleep(Duration::from_millis(2 * self.setting.policy.lease_ms));
        if !self.status().is_ok_and(is_stopped) {
            return false;
        }
        self.ask(&Question::Change { command: Change::Resume { server: None }, dry_run: false }).is_ok()
    }

    /// The logs of all processes are left for whoever looks for a fault.
    pub fn keep_logs(&mut self) {
        if let Some(folder) = self.folder.take() {
            println!("the logs of all processes: {}", folder.keep().display());
        }
    }

    /// Cut a host off for a time.
    pub fn cut_for(&mut self, host: usize, way: Way, milliseconds: u64) {
        self.hosts.cut(host, way);
        std::thread::sleep(Duration::from_millis(milliseconds));
        self.hosts.mend();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.servers.clear();
        self.locator = None;
        if std::thread::panicking() {
            self.keep_logs();
        }
    }
}
