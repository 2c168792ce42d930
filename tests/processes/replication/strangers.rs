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
    Beat, FRAME_BYTES_MAX, Greeting, Join, Message, Nonce, Refusal, STRANGER_FRAME_BYTES_MAX, VERSION, Version,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

const NONCE: Nonce = [7; 32];
const GREETING: Greeting = Greeting { version: VERSION, nonce: NONCE };
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

/// Send bytes as they are, and read until the other side ends it.
fn send_raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&address, LONG).expect("the port takes connections");
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    // The primary may refuse it in the middle of the bytes.
    let _ = stream.write_all(bytes);
    until_ended(stream)
}

fn until_ended(mut stream: TcpStream) -> Vec<u8> {
    stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(LONG))).expect("a timeout");
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return answer,
            Ok(bytes) => answer.extend_from_slice(&piece[..bytes]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return answer,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("neither answered nor ended: {error}"),
        }
    }
}

/// The refusal that an answer ends with.
fn refusal(mut answer: &[u8]) -> Option<(Refusal, String)> {
    while let Ok(Some((message, bytes))) = Message::decode(answer, FRAME_BYTES_MAX) {
        if let Message::Refuse { why, words } = message {
            return Some((why, words));
        }
        answer = &answer[bytes..];
    }
    None
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
    let hello = Message::Hello(GREETING);
    let of_major = |major| encoded(&[Message::Hello(Greeting { version: Version { major, minor: 0 }, nonce: NONCE })]);
    let join =
        Message::Join(Join { replica: [1; 16], host: [2; 16], name: "early".into(), program_version: "1.2.3".into() });
    let mut no_magic = encoded(std::slice::from_ref(&hello));
    no_magic[5] ^= 1;
    let garbage: Vec<u8> = (0..100_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
    let cases: Vec<(&str, Vec<u8>, Refusal, &str)> = vec![
        ("a later version", of_major(99), Refusal::Version, "the replica speaks version 99: upgrade the primary"),
        ("an earlier one", of_major(5), Refusal::Version, "the replica speaks version 5: upgrade the replica"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: cache\r\n\r\n".to_vec(), Refusal::Protocol, "does not speak"),
        ("memcached", b"get key\r\nset key 0 0 5\r\n".to_vec(), Refusal::Protocol, "does not speak"),
        ("no magic", no_magic, Refusal::Protocol, "does not speak"),
        ("garbage", garbage, Refusal::Protocol, "more than is allowed"),
        ("a frame of nothing", vec![0; 4], Refusal::Protocol, "malformed"),
        ("an unknown kind", vec![1, 0, 0, 0, 77], Refusal::Protocol, "unknown kind"),
        (
            "too long a frame",
            (STRANGER_FRAME_BYTES_MAX as u32 + 1).to_le_bytes().to_vec(),
            Refusal::Protocol,
            "more than",
        ),
        ("a heartbeat first", encoded(&[HEARTBEAT]), Refusal::Protocol, "Heartbeat"),
        ("to join without a proof", encoded(&[hello.clone(), join]), Refusal::Protocol, "Join"),
        ("a wrong proof", encoded(&[hello, Message::Prove { proof: [0; 32] }]), Refusal::Secret, "secret"),
    ];
    for (what, bytes, why, words) in &cases {
        let answer = send_raw(primary.port(), bytes);
        let (said, said_words) = refusal(&answer).unwrap_or_else(|| panic!("{what}: no refusal in {answer:?}"));
        assert!(said == *why && said_words.contains(words), "{what}: {said:?}, {said_words}");
    }
    wait_for_count(&primary, "replicas_refused", cases.len() as u64);
    assert_eq!((primary.number("replicas_refused_secret"), primary.number("replicas_admitted")), (1, 1));
    primary.comes_back_to(before);
    assert_serves(&primary, &replica);
}

/// Connect and go through the handshake as an honest replica does, up to some step.
fn come(primary: SocketAddr, steps: usize) -> Link {
    come_over(TcpStream::connect(primary).expect("the port takes connections"), steps)
}

/// The same message, so many times that the other side never finds none.
pub struct Flood {
    stream: TcpStream,
    frame_bytes: usize,
    frames: Vec<u8>,
    sent: usize,
}

impl Flood {
    pub fn of(message: &Message, stream: TcpStream) -> Flood {
        let frame = encoded(std::slice::from_ref(message));
        Flood { stream, frame_bytes: frame.len(), frames: frame.repeat(20_000), sent: 0 }
    }

    /// As much as is taken at once; an error when the other side has ended it.
    pub fn pour(&mut self) -> std::io::Result<()> {
        let begun = self.sent % self.frame_bytes;
        match self.stream.write(&self.frames[begun..]) {
            Ok(bytes) => self.sent += bytes,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {
                std::thread::yield_now();
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn come_over(stream: TcpStream, steps: usize) -> Link {
    let soon = || Instant::now() + LONG;
    let mut link = Link::new(stream).expect("a connection");
    let mut challenge = GREETING;
    for step in 0..steps {
        match step {
            0 => link.send(&Message::Hello(GREETING), soon()).expect("sent"),
            1 => {
                let proof = Secret::none().prove(Side::Replica, &GREETING, &challenge);
                link.send(&Message::Prove { proof }, soon()).expect("sent");
                assert!(matches!(link.receive(soon()), Ok(Message::Accept { .. })));
                link.trust();
            }
            2 => {
                let join = Join {
                    replica: fastrand::u128(..).to_le_bytes(),
                    host: [2; 16],
                    name: format!("silent after {steps}"),
                    program_version: "1.2.3".into(),
                };
                link.send(&Message::Join(join), soon()).expect("sent");
                assert!(matches!(link.receive(soon()), Ok(Message::Welcome(_))));
            }
            _ => {
                link.send(&Message::Choose { fabric: Kind::Tcp, channels: 1 }, soon()).expect("sent");
                assert!(matches!(link.receive(soon()), Ok(Message::Grant { .. })));
            }
        }
        if step == 0 {
            let Ok(Message::Challenge(greeting)) = link.receive(soon()) else { panic!("no challenge") };
            challenge = greeting;
        }
    }
    link
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
        0..=4 => {
            let end = ending(come(port, case));
            assert!(matches!(end, LinkError::Refused(Refusal::Protocol, _)), "silent after {case}: {end}");
        }
        5 => {
            // One byte at a time of a frame that never ends.
            let mut stream = TcpStream::connect(port).expect("the port takes connections");
            stream.write_all(&500u32.to_le_bytes()).expect("sent");
            let until = Instant::now() + LONG;
            while stream.write_all(&[1]).is_ok() {
                assert!(Instant::now() < until, "an endless frame is listened to for ever");
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
        }
        6 | 7 => {
            // Heartbeats without an end, or what nobody knows, where something else is due.
            let message = if case == 6 { HEARTBEAT } else { Message::Unknown(200) };
            let stream = TcpStream::connect(port).expect("the port takes connections");
            let mut flood = Flood::of(&message, stream.try_clone().expect("a descriptor"));
            let link = come_over(stream, 3);
            let until = Instant::now() + LONG;
            while flood.pour().is_ok() {
                assert!(Instant::now() < until, "{} is listened to for ever", message.name());
            }
            drop(link);
        }
        _ => {
            // Attached, without anything to be attached to.
            let mut link = come(port, 3);
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

/// More connections than there may be: those beyond are told so at once, the others when their time
/// is over.
#[test]
fn a_crowd_is_turned_away() {
    const CROWD: usize = 100;
    let (primary, replica) = served();
    let before = primary.holds();
    let crowd: Vec<TcpStream> =
        (0..CROWD).map(|_| TcpStream::connect(primary.port()).expect("the port takes connections")).collect();
    assert_serves(&primary, &replica);
    let endings: Vec<_> = crowd.into_iter().map(|one| refusal(&until_ended(one))).collect();
    let busy = endings.iter().flatten().filter(|(why, _)| *why == Refusal::Busy).count();
    assert!(endings.iter().all(Option::is_some), "each is told why: {endings:?}");
    assert!((CROWD / 3..CROWD).contains(&busy), "{busy} were turned away");
    wait_for_count(&primary, "replicas_refused", CROWD as u64);
    primary.comes_back_to(before);
    assert_serves(&primary, &replica);
}
