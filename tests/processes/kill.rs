//! kill -9 in the middle of work, and a start with the same flags: the server comes up on the same
//! port and the same unix socket, serves, and nothing of the killed one is left but the socket's
//! file, which the new one replaces. Its logs are memfds, which have no name in any folder: they
//! are gone once no process maps them.

use crate::support::{Client, WAIT_MAX};
use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

const ROUNDS: usize = 3;

/// Requests that must have been answered before the kill, so that it falls into work.
const ANSWERS_BEFORE_KILL: u64 = 2000;

/// A server whose pages may be huge (those of the other tests may not) and whose words go into a
/// file.
struct Server {
    child: Child,
    tcp: SocketAddr,
}

impl Server {
    fn start(listen: &str, socket: &Path, folder: &Path, log: &Path) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.args(["serve", "--no-pin", "-m", "64", "-t", "2", "-l", listen, "-s"]).arg(socket);
        let stderr = std::fs::File::create(log).expect("a log");
        let child = command.current_dir(folder).stdin(Stdio::null()).stderr(stderr).spawn().expect("remora starts");
        let mut server = Server { child, tcp: ([127, 0, 0, 1], 0).into() };
        server.tcp = server.announced(log);
        server
    }

    /// The TCP address, once both listeners are there.
    fn announced(&mut self, log: &Path) -> SocketAddr {
        let begun = Instant::now();
        loop {
            let said = std::fs::read_to_string(log).expect("a log");
            let tcp = said.lines().find_map(|line| line.strip_prefix("remora: listening on tcp "));
            let unix = said.lines().any(|line| line.starts_with("remora: listening on unix "));
            if let (Some(address), true) = (tcp, unix) {
                return address.trim().parse().expect("an address");
            }
            let ended = self.child.try_wait().expect("our own child");
            assert!(ended.is_none() && begun.elapsed() < WAIT_MAX, "did not come up ({ended:?}); it said:\n{said}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// SIGKILL, and gone when this returns.
    fn kill(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_killed_server_starts_again_where_it_was() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let logs = tempfile::tempdir().expect("a temporary folder");
    let (socket, log) = (folder.path().join("remora.sock"), logs.path().join("stderr"));
    let free_huge_pages = huge_pages_free();

    let mut server = Server::start("127.0.0.1:0", &socket, folder.path(), &log);
    let address = server.tcp;
    for round in 0..ROUNDS {
        serves(address, &socket, round);
        let (pid, memory) = (server.child.id(), memfds_of(server.child.id()));
        assert!(memory.len() > 1, "its control lines and its logs: {memory:?}");
        assert_eq!(who_maps(&memory), [pid], "it alone");
        kill_under_load(&mut server);
        assert_eq!(files_in(folder.path()), ["remora.sock"], "nothing is left but the socket");
        assert_eq!(who_maps(&memory), [0; 0], "nobody has its memory");
        assert_eq!(huge_pages_free(), free_huge_pages, "all huge pages are free again");
        assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
        server = Server::start(&address.to_string(), &socket, folder.path(), &log);
        assert_eq!(server.tcp, address);
    }
    serves(address, &socket, ROUNDS);
}

/// Both listeners answer, and a started server is an empty one.
fn serves(address: SocketAddr, socket: &Path, round: usize) {
    let (mut tcp, mut unix) = (Client::tcp(address), Client::unix(socket));
    let key = format!("round-{round}");
    assert_eq!(unix.get(&format!("round-{}", round.wrapping_sub(1))), None, "a new server is empty");
    assert_eq!(tcp.set(&key, b"there"), "STORED");
    assert_eq!(unix.get(&key), Some(b"there".to_vec()));
    assert_eq!(unix.set(&key, b"here"), "STORED");
    assert_eq!(tcp.get(&key), Some(b"here".to_vec()));
}

fn kill_under_load(server: &mut Server) {
    let (answers, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let address = server.tcp;
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (answers, stop) = (&answers, &stop);
            scope.spawn(move || write_until_killed(address, writer, answers, stop));
        }
        let begun = Instant::now();
        while answers.load(Relaxed) < ANSWERS_BEFORE_KILL && begun.elapsed() < WAIT_MAX {
            std::thread::yield_now();
        }
        server.kill();
        stop.store(true, Relaxed);
    });
    assert!(answers.into_inner() >= ANSWERS_BEFORE_KILL, "there was no load to be killed under");
}

/// Sets of all sizes, several to a write, until the server is gone.
fn write_until_killed(address: SocketAddr, writer: usize, answers: &AtomicU64, stop: &AtomicBool) {
    let mut stream = TcpStream::connect(address).expect("a live server");
    stream.set_read_timeout(Some(WAIT_MAX)).expect("timeout");
    let mut answer = [0; 4096];
    for turn in 0.. {
        let bytes = [10, 100, 3000, 70_000][turn % 4];
        let one = format!("set {writer}-{} 0 0 {bytes}\r\n{}\r\n", turn % 1000, "x".repeat(bytes));
        let sent = std::io::Write::write_all(&mut stream, one.repeat(4).as_bytes());
        let read = sent.and_then(|()| stream.read(&mut answer));
        match read {
            Ok(bytes) if bytes > 0 && !stop.load(Relaxed) => answers.fetch_add(1, Relaxed),
            _ => return,
        };
    }
}

fn files_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The memfds that a process maps, each by its device and inode. None of a process that is gone, or
/// that is not ours to look at.
fn memfds_of(pid: u32) -> BTreeSet<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let file = |line: &str| line.split_whitespace().skip(3).take(2).collect::<Vec<_>>().join(" ");
    maps.lines().filter(|line| line.contains("memfd:remora")).map(file).collect()
}

/// The processes that map one of these.
fn who_maps(memfds: &BTreeSet<String>) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| !memfds_of(*pid).is_disjoint(memfds)).collect()
}

/// Free huge pages of the machine; 0 everywhere where none are set aside.
fn huge_pages_free() -> u64 {
    let memory = std::fs::read_to_string("/proc/meminfo").expect("Linux");
    let line = memory.lines().find_map(|line| line.strip_prefix("HugePages_Free:")).unwrap_or("0");
    line.trim().parse().expect("a number")
}
