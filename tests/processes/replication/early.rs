//! A replica that is started before its primary: nobody can connect to it, at once and for as long
//! as it cannot answer. So a health check fails, and a client goes elsewhere; none of them hangs.

use crate::node::{LONG, Node, fixed_port, in_sync};
use crate::support::{Client, command};
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A process that is ended with the test.
struct Started(Child, Receiver<String>, Option<String>);

impl Started {
    fn new(arguments: &[&str]) -> Started {
        let mut child = command(arguments).spawn().expect("the remora binary starts");
        let (sender, said) = channel();
        let log = BufReader::new(child.stderr.take().expect("stderr is piped"));
        std::thread::spawn(move || log.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Started(child, said, None)
    }

    /// Wait for a line with these words; what was said before it.
    fn says(&mut self, words: &str) -> Vec<String> {
        let until = Instant::now() + LONG;
        let mut before = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.2.take().map_or_else(|| self.1.recv_timeout(left), Ok) {
                Ok(line) if line.contains(words) => return before,
                Ok(line) => before.push(line),
                Err(_) => panic!("no \"{words}\", but {before:?}"),
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn refused_by(address: SocketAddr, path: &Path) {
    let error = TcpStream::connect_timeout(&address, LONG).expect_err("nobody can connect");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let error = UnixStream::connect(path).expect_err("nobody can connect");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}

#[test]
fn nobody_can_connect_before_the_primary_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let (port, replication_port) = (fixed_port(), fixed_port());
    let (listen, primary) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{replication_port}"));
    let socket = path.to_str().expect("text");
    let mut replica = Started::new(&["-l", &listen, "-s", socket, "-t", "2", "--replica-of", &primary]);
    replica.says("cannot connect to");
    let address: SocketAddr = listen.parse().expect("an address");
    for _ in 0..20 {
        refused_by(address, &path);
        std::thread::sleep(Duration::from_millis(10));
    }
    // It logs the reason again, and announces itself only once it serves.
    let before = replica.says("cannot connect to");
    assert!(before.iter().all(|line| !line.starts_with("remora: listening")), "{before:?}");

    let primary = Node::primary_at(fixed_port(), replication_port, &["-m", "16"]);
    assert_eq!(primary.client().set("key", b"value"), "STORED");
    let before = replica.says("remora: listening on unix");
    assert!(before.iter().any(|line| line.contains("remora: listening on tcp")), "{before:?}");
    let mut client = Client::tcp(address);
    assert!(client.ask("version").starts_with("VERSION"));
    let until = Instant::now() + LONG;
    while client.get("key").is_none() {
        assert!(Instant::now() < until, "it never has what the primary has");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Client::unix(&path).get("key").is_some());
}

/// The port and the socket are still its own while it waits: a second one that is started with the
/// same is told so, at the latest when it comes to serve, and takes no connection from the first.
#[test]
fn two_that_wait_do_not_share_a_port() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let (port, replication_port) = (fixed_port(), fixed_port());
    let (listen, primary) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{replication_port}"));
    let on_tcp: &[&str] = &["-l", &listen, "-t", "2", "--replica-of", &primary];
    let on_unix: &[&str] = &["-s", path.to_str().expect("text"), "-t", "2", "--replica-of", &primary];
    let mut waiting: Vec<Started> = [on_tcp, on_tcp, on_unix, on_unix].map(Started::new).into_iter().collect();
    // Each waits for its primary now, or has ended because it could not bind, which is as good.
    waiting.iter_mut().for_each(|one| one.2 = one.1.recv_timeout(LONG).ok());
    let _primary = Node::primary_at(fixed_port(), replication_port, &["-m", "16"]);
    let until = Instant::now() + LONG;
    for pair in [0, 2] {
        let ended = loop {
            let over = |at: usize, waiting: &mut Vec<Started>| waiting[at].0.try_wait().expect("our own child");
            let of_pair = [pair, pair + 1].map(|at| over(at, &mut waiting).is_some());
            if of_pair != [false, false] {
                break of_pair;
            }
            assert!(Instant::now() < until, "both go on");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_ne!(ended, [true, true], "one of them serves");
        let loser = &mut waiting[pair + usize::from(ended[1])];
        loser.says("in use");
    }
    // The other one serves, as soon as it has been admitted.
    let address: SocketAddr = listen.parse().expect("an address");
    while TcpStream::connect_timeout(&address, LONG).is_err() || UnixStream::connect(&path).is_err() {
        assert!(Instant::now() < until, "the other one does not serve");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Client::tcp(address).ask("version").starts_with("VERSION"));
    assert!(Client::unix(&path).ask("version").starts_with("VERSION"));
}

/// As a plain server, a replica that finds its port taken says so at once: before it has looked for
/// its primary.
#[test]
fn a_port_that_is_served_is_refused_at_once() {
    let serving = Node::primary(&[]);
    let replica = Node::replica(serving.port(), &[]);
    in_sync(&serving, &[&replica]);
    let taken = serving.server.tcp[0].to_string();
    let (status, said) = crate::support::refused(&["-l", &taken, "--replica-of", "127.0.0.1:1"]);
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("in use") && !said.contains("cannot connect"), "{said}");
}
