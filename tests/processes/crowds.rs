//! Many connections at once: idle ones, ones that come and go, more than -c has places, more than
//! there are descriptors. All are served or refused in words, and the server goes on.

use crate::support::wait::{LONG, expect_eq, wait_until};
use crate::support::{Server, WAIT_MAX};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// Connections that do nothing, and what each may cost the server: memory of its own, not the
/// kernel's.
const IDLE: usize = 10_000;
const IDLE_BYTES_MAX: u64 = 1024;

/// Let this process open so many files; a server inherits that. Panics where it is not granted.
fn may_open(files: u64) {
    let now = getrlimit(Resource::Nofile);
    let granted = |limit: Option<u64>| limit.is_none_or(|limit| limit >= files);
    if !granted(now.current) {
        let maximum = if granted(now.maximum) { now.maximum } else { Some(files) };
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum });
        raised.unwrap_or_else(|error| panic!("{files} open files are not granted ({error}): raise `ulimit -Hn`"));
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, WAIT_MAX).expect("the server takes connections");
    stream.set_nodelay(true).expect("a TCP socket");
    stream.set_read_timeout(Some(WAIT_MAX)).expect("a TCP socket");
    stream
}

fn ask(stream: &mut TcpStream) {
    stream.write_all(b"mn\r\n").expect("the server reads what is sent");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("an answer in time");
    assert_eq!(&answer, b"MN\r\n");
}

fn connections(server: &Server) -> u64 {
    server.stat("curr_connections").and_then(|count| count.parse().ok()).expect("a number")
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_hold_nobody_up() {
    // Other tests of this process have files open, too.
    may_open(IDLE as u64 + 2000);
    let server = Server::start(&["-m", "64", "-t", "2", "-c", &(IDLE + 200).to_string()]);
    let mut few: Vec<_> = (0..100).map(|_| connect(server.tcp[0])).collect();
    few.iter_mut().for_each(ask);
    let before = server.heap_bytes();
    let mut idle: Vec<_> = (0..IDLE).map(|_| connect(server.tcp[0])).collect();
    // Each was served once: what that took must not stay.
    idle.iter_mut().for_each(ask);
    let grown = server.heap_bytes().saturating_sub(before);
    let most = IDLE as u64 * IDLE_BYTES_MAX;
    assert!(grown <= most, "{} bytes for each of {IDLE} connections, {IDLE_BYTES_MAX} at most", grown / IDLE as u64);
    few.iter_mut().for_each(ask);
    idle.iter_mut().step_by(97).for_each(ask);
    drop((few, idle));
    wait_until("all are gone", || expect_eq("connections", connections(&server), 1));
}

/// Half of them wait for an answer, half close with one on its way.
#[test]
fn a_thousand_that_come_and_go_at_once_leave_nothing_behind() {
    let server = Server::start(&["-t", "2", "-m", "64"]);
    let address = server.tcp[0];
    let come_and_go = || {
        for number in 0..125 {
            let mut stream = connect(address);
            if number % 2 == 0 {
                ask(&mut stream);
            } else {
                let _ = stream.write_all(b"mn\r\nset unfinished 0 0 1000\r\nx");
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(come_and_go);
        }
    });
    wait_until("all are gone", || expect_eq("connections", connections(&server), 1));
    ask(&mut connect(address));
}

/// What a client that is let in, or told that it is one too many, has heard.
fn heard(stream: &mut TcpStream) -> Vec<u8> {
    let _ = stream.write_all(b"mn\r\n");
    let mut answer = Vec::new();
    let mut piece = [0; 64];
    while !answer.ends_with(b"\n") {
        match stream.read(&mut piece) {
            Ok(bytes) if bytes > 0 => answer.extend_from_slice(&piece[..bytes]),
            // What was sent to a closed connection may reset it before its words are read.
            Err(error) if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                panic!("neither served nor refused: {error}")
            }
            _ => break,
        }
    }
    answer
}

#[test]
fn a_crowd_before_few_places_is_served_or_told_so() {
    const PLACES: usize = 50;
    let server = Server::start(&["-t", "2", "-c", &PLACES.to_string()]);
    let mut crowd: Vec<_> = (0..500).map(|_| connect(server.tcp[0])).collect();
    let answers: Vec<_> = crowd.iter_mut().map(heard).collect();
    let served = answers.iter().filter(|answer| *answer == b"MN\r\n").count();
    assert_eq!(served, PLACES);
    let refused = answers.iter().filter(|answer| *answer == b"ERROR Too many open connections\r\n").count();
    let reset = answers.iter().filter(|answer| answer.is_empty()).count();
    assert_eq!(refused + reset, crowd.len() - PLACES, "{answers:?}");
    // Who has a place keeps it.
    crowd.iter_mut().zip(&answers).filter(|(_, answer)| *answer == b"MN\r\n").for_each(|(stream, _)| ask(stream));
    drop(crowd);
    wait_until("there is a place again", || {
        expect_eq("the answer", heard(&mut connect(server.tcp[0])).as_slice(), b"MN\r\n")
    });
}

/// Who finds no descriptor waits until another one leaves.
#[test]
fn without_descriptors_those_that_are_in_are_served_and_the_others_wait() {
    let server = Server::start(&["-t", "1", "-c", "1000"]);
    ask(&mut connect(server.tcp[0]));
    let pid = Pid::from_raw(server.pid().cast_signed()).expect("a process");
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("our own child").count() as u64;
    let limit = Rlimit { current: Some(open + 20), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(pid), Resource::Nofile, limit).expect("lower is always granted");
    let mut waiting: Vec<_> = (0..100).map(|_| connect(server.tcp[0])).collect();
    for stream in &mut waiting {
        stream.write_all(b"mn\r\n").expect("the system takes it");
        stream.set_nonblocking(true).expect("a TCP socket");
    }
    let until = Instant::now() + LONG;
    let mut most_at_once = 0;
    while !waiting.is_empty() {
        let before = waiting.len();
        // Whoever is answered leaves, and makes room for one.
        waiting.retain_mut(|stream| {
            let mut answer = [0; 16];
            match stream.read(&mut answer) {
                Ok(bytes) => {
                    assert_eq!(&answer[..bytes], b"MN\r\n");
                    false
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    true
                }
            }
        });
        most_at_once = most_at_once.max(before - waiting.len());
        assert!(Instant::now() < until, "{} were never answered", waiting.len());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(most_at_once < 100, "the limit has kept nobody waiting");
    ask(&mut connect(server.tcp[0]));
    wait_until("the server has told of it", || match server.stat("accept_errors").as_deref() {
        None | Some("0") => Err("no failed accept is counted"),
        Some(_) => Ok(()),
    });
}
