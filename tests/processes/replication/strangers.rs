//! Whatever else comes to the replication port: other versions, other protocols, nonsense, silence,
//! crowds. Each is told why and ended, within a bound, and the primary goes on with those that it
//! serves.

use crate::node::{LONG, Node, in_sync, side_by_side, wait_for_count};
use remora::fabric::Kind;
use remora::replication::clock::Stamp;
use remora::replication::link::{Link, LinkError};
use remora::replication::secret::{Secret, Side};
use remora::replication::standing::Distance;
use remora::replication::wire::{
    Beat, Greeting, Join, Message, PROGRAM_VERSION, Refusal, STRANGER_FRAME_BYTES_MAX, VERSION, Version,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

pub const HEARTBEAT: Message = Message::Heartbeat(Beat {
    distance: Distance { depth: 0, lag_bytes: 0, lag_microseconds: 0 },
    stamp: Stamp { wall: 0, sent: 0, echo: 0, held: 0 },
    path: Vec::new(),
});

/// A primary with a replica, and what it holds with that.
fn served() -> (Node, Node) {
    let primary = Node::primary(&["-m", "8", "-I", "64k"]);
    let replica = Node::replica(primary.port(), &["--fabric", "tcp"]);
    in_sync(&primary, &[&replica]);
    (primary, replica)
}

/// Clients and replicas are served as if nothing had happened.
fn assert_serves(primary: &Node, replica: &Node) {
    assert_eq!(primary.client().set("served", b"still"), "STORED");
    in_sync(primary, &[replica]);
    assert_eq!(replica.client().get("served").as_deref(), Some(&b"still"[..]));
    assert_eq!(replica.number("sessions"), 1);
}

/// Send bytes without TLS, and read until the other side ends it.
fn send_raw(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect_timeout(&address, LONG).expect("the port takes connections");
    // The primary may end it in the middle of the bytes.
    let _ = stream.write_all(bytes);
    until_ended(stream);
}

fn until_ended(mut stream: TcpStream) {
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("neither answered nor ended: {error}"),
        }
    }
}

/// Send bytes over TLS as they are. How the other side ends it.
fn say(address: SocketAddr, bytes: &[u8]) -> LinkError {
    let stream = TcpStream::connect_timeout(&address, LONG).expect("the port takes connections");
    let mut link = Link::connected(stream, Instant::now() + LONG).expect("TLS");
    // The primary may refuse it in the middle of the bytes.
    let _ = link.send_bytes(bytes, Instant::now() + LONG);
    ending(link)
}

fn encoded(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| message.encode(&mut bytes));
    bytes
}

#[test]
fn nonsense_is_refused_in_words() {
    let (primary, replica) = served();
    let before = primary.holds();
    let hello = |major| {
        let greeting = Greeting { version: Version { major, minor: 0 }, proof: [0; 32] };
        encoded(&[Message::Hello(greeting)])
    };
    let mut no_magic = hello(VERSION.major);
    no_magic[5] ^= 1;
    let join =
        Message::Join(Join { replica: [1; 16], host: [2; 16], name: "early".into(), program_version: "1.2.3".into() });
    let cases: Vec<(&str, Vec<u8>, Refusal, &str)> = vec![
        ("a later version", hello(99), Refusal::Version, "the replica speaks version 99: upgrade the primary"),
        ("an earlier one", hello(5), Refusal::Version, "the replica speaks version 5: upgrade the replica"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: cache\r\n\r\n".to_vec(), Refusal::Protocol, "does not speak"),
        ("memcached", b"get key\r\nset key 0 0 5\r\n".to_vec(), Refusal::Protocol, "does not speak"),
        ("no magic", no_magic, Refusal::Protocol, "does not speak"),
        ("garbage", garbage(), Refusal::Protocol, "more than is allowed"),
        ("a frame of nothing", vec![0; 4], Refusal::Protocol, "malformed"),
        ("an unknown kind", vec![1, 0, 0, 0, 77], Refusal::Protocol, "unknown kind"),
        (
            "too long a frame",
            (STRANGER_FRAME_BYTES_MAX as u32 + 1).to_le_bytes().to_vec(),
            Refusal::Protocol,
            "more than",
        ),
        ("a heartbeat first", encoded(&[HEARTBEAT]), Refusal::Protocol, "Heartbeat"),
        ("to join without a proof", encoded(&[join]), Refusal::Protocol, "Join"),
        ("a wrong proof", hello(VERSION.major), Refusal::Secret, "secret"),
    ];
    for (what, bytes, why, words) in &cases {
        let end = say(primary.port(), bytes);
        let LinkError::Refused(said, said_words) = end else { panic!("{what}: {end}") };
        assert!(said == *why && said_words.contains(words), "{what}: {said:?}, {said_words}");
    }
    wait_for_count(&primary, "replicas_refused", cases.len() as u64);
    assert_eq!((primary.number("replicas_refused_secret"), primary.number("replicas_admitted")), (1, 1));
    primary.comes_back_to(before);
    assert_serves(&primary, &replica);
}

fn garbage() -> Vec<u8> {
    (0..100_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect()
}

/// Without TLS nobody can be told why, and nobody is heard.
#[test]
fn who_speaks_no_tls_is_ended() {
    let (primary, replica) = served();
    let before = primary.holds();
    let hello = Message::Hello(Greeting { version: VERSION, proof: Secret::none().prove(Side::Replica, &[0; 32]) });
    let cases = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"get key\r\n".to_vec(),
        garbage(),
        encoded(&[hello]),
        vec![0x16, 3, 3, 0, 0],
    ];
    cases.iter().for_each(|bytes| send_raw(primary.port(), bytes));
    wait_for_count(&primary, "replicas_refused", cases.len() as u64);
    primary.comes_back_to(before);
    assert_serves(&primary, &replica);
}

/// Connect, as whoever has this name, and go through so many steps of the handshake as an honest
/// replica does: greet, join, choose a fabric.
pub fn come(primary: SocketAddr, name: &str, steps: usize) -> Link {
    let stream = TcpStream::connect(primary).expect("the port takes connections");
    let soon = || Instant::now() + LONG;
    let mut link = Link::connected(stream, soon()).expect("TLS");
    for step in 0..steps {
        match step {
            0 => {
                let proof = Secret::none().prove(Side::Replica, link.binding());
                link.send(&Message::Hello(Greeting { version: VERSION, proof }), soon()).expect("sent");
                assert!(matches!(link.receive(soon()), Ok(Message::Accept { .. })));
                link.trust();
            }
            1 => {
                let join = Join {
                    replica: fastrand::u128(..).to_le_bytes(),
                    host: [2; 16],
                    name: name.into(),
                    program_version: PROGRAM_VERSION.into(),
                };
                link.send(&Message::Join(join), soon()).expect("sent");
                assert!(matches!(link.receive(soon()), Ok(Message::Welcome(_))));
            }
            _ => {
                link.send(&Message::Choose { fabric: Kind::Tcp, channels: 1 }, soon()).expect("sent");
                assert!(matches!(link.receive(soon()), Ok(Message::Grant { .. })));
            }
        }
    }
    link
}

/// The same message many times.
pub fn flood(message: &Message) -> Vec<u8> {
    encoded(std::slice::from_ref(message)).repeat(1000)
}

/// How the primary ends a connection that says nothing more, or the same for ever.
fn ending(mut link: Link) -> LinkError {
    let until = Instant::now() + LONG;
    loop {
        match link.receive(until) {
            Ok(Message::Heartbeat(_)) => {}
            Ok(other) => panic!("{}", other.name()),
            Err(error) => return error,
        }
    }
}

/// Who falls silent, at whatever step, loses its place; so does who keeps talking and never comes
/// to the point.
#[test]
fn who_keeps_the_primary_waiting_is_ended() {
    let (primary, replica) = served();
    let before = primary.holds();
    let port = primary.port();
    side_by_side(&[0, 1, 2, 3, 4, 5, 6, 7, 8], |case| match case {
        0..=3 => {
            let end = ending(come(port, "silent", case));
            assert!(matches!(end, LinkError::Refused(Refusal::Protocol, _)), "silent after {case}: {end}");
        }
        // Not even TLS.
        4 => send_raw(port, &[]),
        5 => {
            // One byte at a time of a frame that never ends.
            let mut link = come(port, "slow", 0);
            link.send_bytes(&500u32.to_le_bytes(), Instant::now() + LONG).expect("sent");
            let until = Instant::now() + LONG;
            while link.send_bytes(&[1], until).is_ok() {
                assert!(Instant::now() < until, "an endless frame is listened to for ever");
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
        }
        6 | 7 => {
            // Heartbeats without an end, or what nobody knows, where something else is due.
            let message = if case == 6 { HEARTBEAT } else { Message::Unknown(200) };
            let mut link = come(port, "talks", 2);
            let until = Instant::now() + LONG;
            while link.send_bytes(&flood(&message), until).is_ok() {
                assert!(Instant::now() < until, "{} is listened to for ever", message.name());
            }
        }
        _ => {
            // Attached, without anything to be attached to.
            let mut link = come(port, "attached", 2);
            link.send(&Message::Attached, Instant::now() + LONG).expect("sent");
            let end = ending(link);
            assert!(
                matches!(&end, LinkError::Refused(Refusal::Protocol, words) if words.contains("data channel")),
                "{end}"
            );
        }
    });
    primary.comes_back_to(before);
    assert_serves(&primary, &replica);
}

/// More connections than there may be: some are ended at once for those that come later, the others
/// when their time is over.
#[test]
fn a_crowd_is_turned_away() {
    const CROWD: usize = 100;
    let (primary, replica) = served();
    let before = primary.holds();
    let crowd: Vec<TcpStream> =
        (0..CROWD).map(|_| TcpStream::connect(primary.port()).expect("the port takes connections")).collect();
    assert_serves(&primary, &replica);
    crowd.into_iter().for_each(until_ended);
    let ended = primary.number("strangers_ended");
    assert!((CROWD / 3..CROWD).contains(&(ended as usize)), "{ended} were ended for others");
    wait_for_count(&primary, "replicas_refused", CROWD as u64);
    primary.comes_back_to(before);
    assert_serves(&primary, &replica);
}
