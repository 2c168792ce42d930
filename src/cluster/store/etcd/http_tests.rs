//! A peer that answers with what it is told to.

use super::*;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Takes one connection, and answers the first question with `parts`; then it is silent until the
/// asker has gone.
fn answering(parts: Vec<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let answer = move || {
        let (mut stream, _) = listener.accept().expect("the test connects");
        let mut question = [0; 4096];
        let _ = stream.read(&mut question);
        for part in parts {
            let _ = stream.write_all(&part);
        }
        while stream.read(&mut question).is_ok_and(|bytes| bytes > 0) {}
    };
    std::thread::Builder::new().name("answering".into()).spawn(answer).expect("a thread");
    address
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn asked(parts: Vec<Vec<u8>>, until: Instant) -> io::Result<Answer> {
    Connection::to(&answering(parts).to_string(), soon())?.ask("/v3/kv/range", Some("{}"), until)
}

fn cut(answer: &[u8], pieces: usize) -> Vec<Vec<u8>> {
    answer.chunks(pieces).map(<[u8]>::to_vec).collect()
}

#[test]
fn answers_are_whole_however_they_are_cut() {
    let plain: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\nGrpc-Metadata-A: b\r\n\r\n{\"code\":\r\n5}";
    let chunked: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n3;x=y\r\n:1}\r\n0\r\nTrailer: x\r\n\r\n";
    for pieces in [1, 2, 7, 1000] {
        let answer = asked(cut(plain, pieces), soon()).expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (404, &b"{\"code\":\r\n5}"[..]), "{pieces}");
        let answer = asked(cut(chunked, pieces), soon()).expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (200, &b"{\"a\":1}"[..]), "{pieces}");
    }
}

#[test]
fn a_silent_peer_costs_no_more_than_the_deadline() {
    for begun in [&b""[..], b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"] {
        let error = asked(vec![begun.to_vec()], Instant::now() + Duration::from_millis(50)).err().expect("no answer");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{begun:?}: {error}");
    }
    let over = asked(Vec::new(), Instant::now()).err().expect("the time is over");
    assert_eq!(over.kind(), ErrorKind::TimedOut);
}

#[test]
fn nonsense_is_an_error_and_nothing_long_is_kept() {
    let long_head = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"A: b\r\n".repeat(10_000)].concat();
    let long_line = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"a".repeat(64 << 10)].concat();
    let wrong: [&[u8]; 9] = [
        b"VALUE a 0 1\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
        &long_head,
        &long_line,
    ];
    for answer in wrong {
        let error = asked(vec![answer.to_vec()], soon()).err().expect("this is no answer");
        let begin = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{begin}: {error}");
    }
}
