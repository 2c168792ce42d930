//! A real etcd, with folders and ports of its own; killed when it is dropped.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to answer at first. The machine is busy.
const START_MAX: Duration = Duration::from_secs(60);
/// Another process may take a port before etcd does.
const PORTS_MAX: usize = 5;

/// One member.
pub struct Etcd {
    child: Child,
    arguments: Vec<String>,
    _folder: tempfile::TempDir,
    /// Where it takes clients, HOST:PORT.
    pub address: String,
}

/// Where etcd is: what the environment names, else what tools/peers fetched, else the system's.
/// None, and why, where there is none; a failure in CI.
fn program() -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/etcd");
    let program = match std::env::var_os("REMORA_ETCD") {
        Some(named) => named.into(),
        None if fetched.exists() => fetched,
        None => "etcd".into(),
    };
    let version = Command::new(&program).arg("--version").output();
    if version.is_ok_and(|output| output.status.success()) {
        return Some(program);
    }
    assert!(std::env::var_os("CI").is_none(), "in CI etcd must be there: tools/peers etcd fetches it");
    println!("skipped: there is no etcd (tools/peers etcd fetches it)");
    None
}

impl Etcd {
    /// None where there is no etcd.
    pub fn start() -> Option<Etcd> {
        Etcd::members(1)?.pop()
    }

    /// So many that are one. None where there is no etcd.
    pub fn members(count: usize) -> Option<Vec<Etcd>> {
        let program = program()?;
        for _ in 0..PORTS_MAX {
            // Its JSON interface does not work on a port that the kernel chooses for it.
            let free = free_addresses(2 * count);
            let (clients, peers) = free.split_at(count);
            let all: Vec<String> = peers.iter().enumerate().map(|(at, peer)| format!("m{at}=http://{peer}")).collect();
            let start = |at: usize| Etcd::member(&program, at, &clients[at], &peers[at], &all.join(","));
            let mut members: Vec<Etcd> = (0..count).map(start).collect();
            if members.iter_mut().all(Etcd::is_up) {
                return Some(members);
            }
        }
        panic!("etcd does not start");
    }

    fn member(program: &Path, at: usize, clients: &str, peers: &str, all: &str) -> Etcd {
        let folder = tempfile::tempdir().expect("a folder");
        let (client_url, peer_url) = (format!("http://{clients}"), format!("http://{peers}"));
        let arguments = [
            ("--name", &*format!("m{at}")),
            ("--data-dir", &folder.path().to_string_lossy()),
            ("--listen-client-urls", &client_url),
            ("--advertise-client-urls", &client_url),
            ("--listen-peer-urls", &peer_url),
            ("--initial-advertise-peer-urls", &peer_url),
            ("--initial-cluster", all),
            ("--log-level", "error"),
        ];
        let arguments: Vec<String> =
            arguments.into_iter().flat_map(|(name, value)| [name.into(), value.into()]).collect();
        Etcd { child: spawn(program, &arguments), arguments, _folder: folder, address: clients.into() }
    }

    /// Whether it answers; false when it has ended instead.
    fn is_up(&mut self) -> bool {
        let until = Instant::now() + START_MAX;
        while !is_healthy(&self.address) {
            if self.child.try_wait().expect("our child").is_some() {
                return false;
            }
            assert!(Instant::now() < until, "etcd does not answer within {START_MAX:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// At once, as kill -9 does.
    pub fn kill(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// With the same folder, at the same address.
    pub fn start_again(&mut self) {
        self.child = spawn(&program().expect("it was there"), &self.arguments);
        assert!(self.is_up(), "etcd has ended when it was started again");
    }

    /// It does nothing any more, and keeps its connections.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        // A thread that runs goes on for a moment.
        let until = Instant::now() + START_MAX;
        while !self.stands_still() {
            assert!(Instant::now() < until, "etcd does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether each of its threads is stopped, as their lines in /proc say behind the name.
    fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("our child");
        let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        tasks.map_while(Result::ok).map(stat).all(|stat| stat.contains(") T "))
    }

    /// Undoes [`Etcd::stop`].
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our child");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nobody has them now. They are taken all at once, or one would be given twice.
fn free_addresses(count: usize) -> Vec<String> {
    let bound: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    bound.iter().map(|one| one.local_addr().expect("bound").to_string()).collect()
}

fn spawn(program: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("etcd starts")
}

/// Whether it has a leader and answers.
fn is_healthy(address: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}
