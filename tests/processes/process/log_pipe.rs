//! Standard error is a pipe that nobody reads, and it is full. Whoever serves clients goes on all
//! the same.

use super::pipes::full_pipe;
use crate::support::{Client, Server, WAIT_MAX, command};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::io::{PipeReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server whose log nobody reads.
struct Unheard {
    child: Child,
    directory: TempDir,
    log: PipeReader,
}

impl Unheard {
    /// Clients come by a unix socket, for nobody reads on which port it listens.
    fn start(arguments: &[&str]) -> Unheard {
        let directory = tempfile::tempdir().unwrap();
        let (log, stderr) = full_pipe();
        let socket = directory.path().join("socket");
        let mut command = command(&["-t", "1", "-s", socket.to_str().unwrap()]);
        let child = command.args(arguments).stderr(stderr).spawn().expect("the remora binary starts");
        let unheard = Unheard { child, directory, log };
        wait_until("it listens", || UnixStream::connect(unheard.socket()).is_ok());
        unheard
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn connect(&self) -> Client {
        Client::unix(&self.socket())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// One row of `stats SUBJECT`.
    fn stat(&self, subject: &str, name: &str) -> Option<String> {
        let rows = self.connect().rows(&format!("stats {subject}"));
        rows.iter().find_map(|row| row.strip_prefix(&format!("STAT {name} ")).map(str::to_string))
    }

    fn end(&mut self) -> ExitStatus {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
        let mut status = None;
        wait_until("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + WAIT_MAX;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within {WAIT_MAX:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn sets_and_gets(client: &mut Client, count: usize) {
    for number in 0..count {
        let (key, value) = (format!("key-{number}"), format!("value {number}"));
        assert_eq!(client.set(&key, value.as_bytes()), "STORED");
        assert_eq!(client.get(&key).as_deref(), Some(value.as_bytes()));
    }
}

/// The soft limit of files that `pid` may open; returns what it was.
fn limit_files(pid: Pid, files: Option<u64>) -> Option<u64> {
    let now = prlimit(Some(pid), Resource::Nofile, Rlimit { current: files, maximum: None });
    let before = now.or_else(|_| {
        let own = rustix::process::getrlimit(Resource::Nofile);
        prlimit(Some(pid), Resource::Nofile, Rlimit { current: files, maximum: own.maximum })
    });
    before.expect("a process of our own").current
}

#[test]
fn a_worker_that_cannot_accept_goes_on_serving() {
    let mut unheard = Unheard::start(&[]);
    let mut client = unheard.connect();
    assert_eq!(client.ask("mn"), "MN");
    // No descriptor is left for the next connection, which the worker that is asked for it has to
    // say.
    let before = limit_files(unheard.pid(), Some(3));
    let _next = UnixStream::connect(unheard.socket()).unwrap();
    sets_and_gets(&mut client, 1000);
    limit_files(unheard.pid(), before);
    wait_until("it tells of a failed accept", || {
        let rows = client.rows("stats");
        rows.iter().any(|row| row.strip_prefix("STAT accept_errors ").is_some_and(|count| count != "0"))
    });
    assert!(unheard.end().success());
}

#[test]
fn a_replica_whose_primary_died_tells_of_it() {
    let mut primary = Server::start(&["--replication", "127.0.0.1:0", "-t", "1"]);
    let address = replication_port(&primary);
    let mut unheard = Unheard::start(&["--replica-of", &address.to_string()]);
    let state = |unheard: &Unheard| unheard.stat("replication", "state");
    wait_until("it follows", || state(&unheard).as_deref() == Some("following"));
    primary.signal("KILL");
    assert!(!primary.wait().success());
    wait_until("it says that it follows no more", || state(&unheard).as_deref() == Some("connecting"));
    // Ask again, now that it has logged why.
    assert!(unheard.stat("replication", "trouble").is_some_and(|trouble| trouble != "none"));
    assert!(unheard.end().success());
}

#[test]
fn what_the_log_had_no_room_for_is_counted_and_told() {
    let mut unheard = Unheard::start(&["--replication", "127.0.0.1:0"]);
    let port: SocketAddr = unheard.stat("replication", "replication_address").unwrap().parse().unwrap();
    let dropped = || unheard.stat("", "log_lines_dropped").expect("a row of stats").parse::<u64>().unwrap();
    assert_eq!(dropped(), 0);
    // Each stranger is a line in the log.
    wait_until("lines are dropped", || {
        for _ in 0..100 {
            let _ = TcpStream::connect(port).and_then(|mut stranger| stranger.write_all(b"GET / HTTP/1.0\r\n\r\n"));
        }
        dropped() > 0
    });
    sets_and_gets(&mut unheard.connect(), 100);
    assert!(read_until(&mut unheard.log, "remora: log lines lost "));
    let dropped = unheard.stat("", "log_lines_dropped").unwrap();
    sets_and_gets(&mut unheard.connect(), 100);
    assert!(dropped.parse::<u64>().unwrap() > 0, "it stays counted");
    assert!(unheard.end().success());
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_up_the_end() {
    let mut unheard = Unheard::start(&["-v"]);
    sets_and_gets(&mut unheard.connect(), 10);
    assert!(unheard.end().success());
    assert!(!Path::new(&unheard.socket()).exists());
}

fn replication_port(primary: &Server) -> SocketAddr {
    let mut lines = std::iter::from_fn(|| primary.next_log_line());
    let line = lines.find_map(|line| line.strip_prefix("remora: replication on tcp ").map(str::to_string));
    line.unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// Read from a pipe until it has said `words`; false if it ends before. Panics where nothing more
/// comes.
fn read_until(log: &mut PipeReader, words: &str) -> bool {
    let mut said = Vec::new();
    let mut piece = [0; 4096];
    let wait_max = Timespec { tv_sec: WAIT_MAX.as_secs() as i64, tv_nsec: 0 };
    loop {
        let ready = poll(&mut [PollFd::new(&*log, PollFlags::IN)], Some(&wait_max)).expect("poll");
        assert!(ready > 0, "nothing more, and not {words:?}: {}", String::from_utf8_lossy(&said).replace('.', ""));
        match log.read(&mut piece) {
            Ok(bytes @ 1..) => said.extend_from_slice(&piece[..bytes]),
            _ => return false,
        }
        if String::from_utf8_lossy(&said).contains(words) {
            return true;
        }
    }
}
