//! memcached's protocol over UDP.

use crate::support::wait::go_on_until;
use crate::support::{Server, WAIT_MAX, refused};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Bytes of a frame's header, and of the longest datagram.
const HEADER: usize = 8;
const DATAGRAM: usize = 1400;

pub struct Peer(UdpSocket, u16);

fn serving(arguments: &[&str]) -> Server {
    let all = ["-l", "127.0.0.1:0", "-p", "-1", "-U", "-1"].iter().chain(arguments).copied().collect::<Vec<_>>();
    Server::start_listening(&all, 2)
}

fn frame(fields: [u16; 4], payload: &[u8]) -> Vec<u8> {
    [fields.map(u16::to_be_bytes).as_flattened(), payload].concat()
}

impl Peer {
    pub fn of(server: &Server) -> Peer {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server.udp[0]).unwrap();
        socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
        Peer(socket, 40_000)
    }

    pub fn send(&mut self, request: &[u8]) {
        self.1 = self.1.wrapping_add(1);
        self.0.send(&frame([self.1, 0, 1, 0], request)).unwrap();
    }

    /// The next datagram, in its parts.
    fn datagram(&self) -> ([u16; 4], Vec<u8>) {
        let mut bytes = [0; 4096];
        let length = self.0.recv(&mut bytes).expect("an answer");
        assert!((HEADER + 1..=DATAGRAM).contains(&length), "{length}");
        let field = |at: usize| u16::from_be_bytes([bytes[2 * at], bytes[2 * at + 1]]);
        ([field(0), field(1), field(2), field(3)], bytes[HEADER..length].to_vec())
    }

    /// The whole answer to the last request; how many datagrams it had. Over loopback they keep
    /// their order.
    pub fn answer(&self) -> (Vec<u8>, u16) {
        let (mut answer, mut at, mut count) = (Vec::new(), 0, 1);
        while at < count {
            let (fields, mut part) = self.datagram();
            count = fields[2];
            assert_eq!(fields, [self.1, at, count, 0]);
            answer.append(&mut part);
            at += 1;
        }
        (answer, count)
    }

    pub fn ask(&mut self, request: &str) -> String {
        self.send(request.as_bytes());
        String::from_utf8(self.answer().0).unwrap()
    }
}

#[test]
fn requests_are_answered_under_their_numbers() {
    let server = serving(&["-t", "2"]);
    let mut peer = Peer::of(&server);
    assert_eq!(peer.ask("set a 5 0 3\r\nabc\r\n"), "STORED\r\n");
    assert_eq!(peer.ask("get a b\r\n"), "VALUE a 5 3\r\nabc\r\nEND\r\n");
    assert_eq!(peer.ask("mg a v\r\n"), "VA 3\r\nabc\r\n");
    assert_eq!(peer.ask("set n 0 0 1\r\n4\r\nincr n 3\r\nget n\r\n"), "STORED\r\n7\r\nVALUE n 0 1\r\n7\r\nEND\r\n");
    assert_eq!(peer.ask("nonsense\r\n"), "ERROR\r\n");
    assert!(peer.ask("version\r\n").starts_with("VERSION 1.6.45"));
    // What TCP has written is there, and the other way round.
    let mut client = server.connect();
    assert_eq!(client.get("a").unwrap(), b"abc");
    assert_eq!(client.set("b", b"over tcp"), "STORED");
    assert_eq!(peer.ask("get b\r\n"), "VALUE b 0 8\r\nover tcp\r\nEND\r\n");
    // What has no answer has none: the next datagram is the answer to what comes behind.
    for quiet in ["set q 0 0 1 noreply\r\nx\r\n", "mg none v q\r\n", "delete none noreply\r\n", "quit\r\n"] {
        peer.send(quiet.as_bytes());
    }
    assert_eq!(peer.ask("get q\r\n"), "VALUE q 0 1\r\nx\r\nEND\r\n");
    let rows = client.rows("stats settings");
    assert!(rows.contains(&format!("STAT udpport {}", server.udp[0].port())), "{rows:?}");
}

#[test]
fn a_long_answer_is_several_datagrams_and_has_a_bound() {
    let server = serving(&["-t", "1"]);
    let mut client = server.connect();
    let value = |bytes: usize| (0..bytes).map(|at| b'a' + (at % 23) as u8).collect::<Vec<_>>();
    for (key, bytes) in [("small", 100), ("part", 1392), ("middle", 20_000), ("large", 65_000), ("beyond", 70_000)] {
        assert_eq!(client.set(key, &value(bytes)), "STORED");
    }
    let mut peer = Peer::of(&server);
    for (key, bytes) in [("small", 100), ("part", 1392), ("middle", 20_000), ("large", 65_000)] {
        peer.send(format!("get {key}\r\n").as_bytes());
        let (answer, datagrams) = peer.answer();
        let whole = [format!("VALUE {key} 0 {bytes}\r\n").as_bytes(), &value(bytes), b"\r\nEND\r\n"].concat();
        assert_eq!(usize::from(datagrams), whole.len().div_ceil(DATAGRAM - HEADER), "{key}");
        assert!(answer == whole, "{key}");
    }
    for much in ["get beyond\r\n".to_string(), "get large large\r\n".into(), "get large\r\n".repeat(9)] {
        assert!(peer.ask(&much).starts_with("SERVER_ERROR too much for UDP"), "{much}");
    }
    // Refused as over TCP, and what is behind it goes on.
    assert_eq!(peer.ask("get a\u{1}\r\n"), "END\r\n");
}

/// A datagram with a forged sender must not make two servers talk for ever.
#[test]
fn what_is_no_request_is_not_answered() {
    let server = serving(&["-t", "1"]);
    let mut peer = Peer::of(&server);
    for nothing in ["ERROR\r\n", "SERVER_ERROR x\r\n", "END\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n", "17\r\n", "HD\r\n", ""]
    {
        peer.send(nothing.as_bytes());
        peer.0.send(&frame([9, 0, 2, 0], nothing.as_bytes())).unwrap();
    }
    for short in [&b""[..], b"g", b"get a\r\n", &[0; HEADER]] {
        peer.0.send(short).unwrap();
    }
    // Not whole: nothing is kept for a rest that could come.
    peer.send(b"set a 0 0 4\r\nab");
    peer.send(b"xy\r\n");
    let (fields, said) = peer.datagram();
    assert_eq!((fields[0], said), (peer.1, b"ERROR\r\n".to_vec()), "a request of its own");
    assert_eq!(peer.ask("get a\r\n"), "END\r\n");
    peer.0.send(&frame([77, 0, 2, 0], b"get a\r\n")).unwrap();
    let (fields, said) = peer.datagram();
    assert_eq!((fields, &said[..]), ([77, 0, 1, 0], &b"SERVER_ERROR multi-packet request not supported\r\n"[..]));
}

#[test]
fn packets_come_over_udp_as_well() {
    let server = serving(&["-t", "1"]);
    let mut peer = Peer::of(&server);
    assert_eq!(peer.ask("set a 5 0 3\r\nabc\r\n"), "STORED\r\n");
    // GetK of "a", twice, and a quiet one of what is not there.
    let packet = |opcode: u8, opaque: u8| {
        [&[0x80, opcode, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, opaque][..], &[0; 8], &[b'a' + 25 * (opaque / 9)]]
            .concat()
    };
    peer.send(&[packet(0x0c, 1), packet(0x0d, 9), packet(0x0c, 2)].concat());
    let (answer, _) = peer.answer();
    let one = answer.len() / 2;
    for (at, opaque) in [(0, 1), (one, 2)] {
        assert_eq!((answer[at..at + 2].to_vec(), answer[at + 15]), (vec![0x81, 0x0c], opaque));
        assert_eq!(answer[at + 24..at + one], *b"\0\0\0\x05aabc");
    }
    // What is answered so is no request either.
    peer.send(&answer);
    assert_eq!(peer.ask("get b\r\n"), "END\r\n");
    assert_eq!(server.connect().set("large", &[b'x'; 70_000]), "STORED");
    let get = [&[0x80, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 5][..], &[0; 12], b"large"].concat();
    peer.send(&get);
    let (answer, _) = peer.answer();
    assert_eq!(answer[..2], [0x81, 0]);
    assert!(answer[6..8] != [0, 0] && answer.ends_with(b"over TCP"), "{answer:?}");
    let ascii = serving(&["-t", "1", "-B", "ascii"]);
    let mut peer = Peer::of(&ascii);
    peer.send(&get);
    assert_eq!(peer.ask("get b\r\n"), "END\r\n", "the packet has no answer");
}

#[test]
fn what_takes_several_turns_is_refused() {
    let server = serving(&["-t", "1"]);
    let mut peer = Peer::of(&server);
    assert_eq!(peer.ask("set a 0 0 1\r\nx\r\n"), "STORED\r\n");
    for dump in ["lru_crawler metadump all\r\n", "lru_crawler mgdump hash\r\n", "stats cachedump 1 0\r\n"] {
        for _ in 0..20 {
            assert!(peer.ask(dump).starts_with("SERVER_ERROR too much for UDP"), "{dump}");
        }
    }
    let mut client = server.connect();
    assert_eq!(client.ask("lru_crawler metadump all"), "OK", "no place is taken by those");
    assert!(client.line().starts_with("key=a "));
    assert_eq!(client.line(), "END");
    // A get whose line does not end has no answer, nor has what is before it in its datagram.
    let unfinished = format!("get a{}", format!(" {:040}", 1).repeat(450));
    peer.send(unfinished.as_bytes());
    assert_eq!(peer.ask("get a\r\n"), "VALUE a 0 1\r\nx\r\nEND\r\n");
    let many = format!("get{}\r\n", " a".repeat(6_000));
    assert!(peer.ask(&many).starts_with("SERVER_ERROR too much for UDP"));
    // It is told in the manner of a request that wants to hear.
    assert_eq!(client.set("large", &[b'x'; 70_000]), "STORED");
    let said =
        peer.ask("set b 0 0 1 noreply\r\ny\r\nget large\r\nget large\r\nget large\r\nget large\r\nget large\r\n");
    assert!(said.starts_with("SERVER_ERROR too much for UDP"), "{said}");
}

#[test]
fn nothing_over_udp_waits() {
    let server = serving(&["-t", "1", "-m", "8", "-M", "-I", "64k"]);
    let mut peer = Peer::of(&server);
    assert!(peer.ask("wait 1 60000\r\n").starts_with("SERVER_ERROR an answer over UDP does not wait"));
    let value = "x".repeat(60_000);
    let full =
        (0..1000).map(|key| peer.ask(&format!("set {key} 0 0 60000\r\n{value}\r\n"))).find(|said| said != "STORED\r\n");
    assert_eq!(full.as_deref(), Some("SERVER_ERROR out of memory storing object\r\n"));
    assert!(peer.ask("replication promote\r\n").starts_with("CLIENT_ERROR replication orders"));
    let (status, said) = refused(&["-l", "127.0.0.1:0", "-U", "-1", "--ack-replicas", "1"]);
    assert!(!status.success() && said.contains("--ack-replicas"), "{said}");
    let (status, said) = refused(&["-l", "127.0.0.1:0", "-U", "-1", "-Y", "/dev/null"]);
    assert!(!status.success() && said.contains("-U (--udp-port): nobody says who he is"), "{said}");
}

#[test]
fn a_server_that_ends_lets_go_of_the_port() {
    let mut server = serving(&["-t", "2"]);
    let address: SocketAddr = server.udp[0];
    server.signal("TERM");
    assert!(server.wait().success());
    let socket = UdpSocket::bind(address).expect("the port is free");
    drop(socket);
    // A port that somebody has is not shared with him.
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (status, said) = refused(&["-l", "127.0.0.1", "-p", "-1", "-U", &port]);
    assert!(!status.success() && said.contains("is in use"), "{said}");
}

#[test]
fn a_peer_that_is_gone_stops_nobody() {
    let server = serving(&["-t", "1"]);
    for _ in 0..50 {
        // Its socket is closed before the answer comes: the host says so to the server's.
        Peer::of(&server).send(b"version\r\n");
    }
    let mut peer = Peer::of(&server);
    peer.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    go_on_until("an answer", || {
        peer.send(b"get a\r\n");
        let mut bytes = [0; 64];
        match peer.0.recv(&mut bytes) {
            Ok(length) => bytes[HEADER..length] == *b"END\r\n",
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
            Err(error) => panic!("{error}"),
        }
    });
}
