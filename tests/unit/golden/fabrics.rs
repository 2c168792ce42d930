//! What data channels say over their connections: all of tcp, and how shm hands over its
//! descriptors.

use super::{assert_drawn, hex};
use remora::fabric::tcp::frames::{
    Next, Request, Requests, Status, answer, greeting, parse_greeting, parse_welcome, put_read, put_writes, welcome,
};
use remora::fabric::{Exporter, Regions, Token, shm};
use remora::sys::memory::Memfd;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::Arc;
use std::time::Duration;

const TOKEN: Token = Token([0xCC; 16]);

#[test]
fn a_greeting_and_a_welcome() {
    let bytes = hex("
        52 4d 52 54 43 50 31 0a   | RMRTCP1
        01 00 00 00               | version
        00 00 00 00
        cc cc cc cc cc cc cc cc  cc cc cc cc cc cc cc cc | token
    ");
    assert_drawn(&greeting(&TOKEN), &bytes, "a greeting");
    assert!(parse_greeting(&bytes).is_some_and(|token| token.is_ok_and(|token| token.0 == TOKEN.0)));

    use Status::{Access, Good, Malformed, Unknown, Version};
    for (number, status) in (0..).zip([Good, Access, Unknown, Version, Malformed]) {
        let bytes = hex(&format!("52 4d 52 54 43 50 31 0a  {number:02x} 00 00 00  05 00 00 00 | status, regions"));
        assert_drawn(&welcome(status, 5), &bytes, "a welcome");
        assert_eq!(parse_welcome(&bytes.try_into().expect("16 bytes")), Some((status, 5)));
    }
}

fn parsed(bytes: &[u8]) -> Next {
    let mut requests = Requests::default();
    requests.room()[..bytes.len()].copy_from_slice(bytes);
    requests.filled(bytes.len());
    requests.next()
}

#[test]
fn requests_and_answers() {
    let bytes = hex("
        01 00 00 00               | READ
        02 00 00 00               | region
        08 00 00 01  00 00 00 00  | offset
        00 10 00 00  00 00 00 00  | bytes
        07 06 05 04 03 02 01 00   | tag
    ");
    let mut written = Vec::new();
    put_read(&mut written, 2, 0x0100_0008, 4096, 0x0001_0203_0405_0607);
    assert_drawn(&written, &bytes, "a READ");
    let read = Request::Read { region: 2, offset: 0x0100_0008, bytes: 4096, tag: 0x0001_0203_0405_0607 };
    assert_eq!(parsed(&bytes), Next::Request(read));

    let bytes = hex("
        02 00 00 00               | WRITE
        00 00 00 00
        40 00 00 00  00 00 00 00  | offset
        10 00 00 00  00 00 00 00  | bytes
        00 00 00 00  00 00 00 00
        08 07 06 05 04 03 02 01   | the bytes
        09 00 00 00  00 00 00 00
    ");
    let mut written = Vec::new();
    put_writes(&mut written, 64, &[0x0102_0304_0506_0708, 9]);
    assert_drawn(&written, &bytes, "a WRITE");
    let words = [0x0102_0304_0506_0708, 9, 0, 0, 0, 0, 0, 0];
    assert_eq!(parsed(&bytes), Next::Request(Request::Write { offset: 64, words, count: 2 }));

    let bytes = hex("
        07 06 05 04 03 02 01 00   | tag
        00 00 00 00               | status
        00 10 00 00               | bytes
    ");
    assert_drawn(&answer(0x0001_0203_0405_0607, Status::Good, 4096), &bytes, "an answer");
}

struct Pages([Memfd; 2]);

impl Regions for Pages {
    fn count(&self) -> usize {
        2
    }
    fn memory(&self, number: usize) -> &Memfd {
        &self.0[number]
    }
}

/// Without Remora's own other end: what comes over the socket, the descriptors beside it aside.
#[test]
fn shared_memory_is_handed_over() {
    let exporter = shm::Exporter::listen().expect("a socket");
    let pages = Arc::new(Pages([0, 1].map(|_| Memfd::new("test", 4096, false).expect("a page"))));
    let _grant = exporter.grant(TOKEN, pages).expect("a grant");
    let ask = |token: &[u8], bytes: usize| {
        let name = exporter.address();
        let address = SocketAddr::from_abstract_name(name.trim_start_matches('@')).expect("a name");
        let mut socket = UnixStream::connect_addr(&address).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        socket.write_all(token).expect("sent");
        let mut answer = vec![0; bytes];
        socket.read_exact(&mut answer).expect("an answer");
        answer
    };
    let unknown = "52 4d 52 53 48 4d 31 0a  01 00 00 00  00 00 00 00 | RMRSHM1, status, no descriptors";
    assert_drawn(&ask(&[0xDD; 16], 16), &hex(unknown), "to a token that is not known");
    let given = "
        52 4d 52 53 48 4d 31 0a   | RMRSHM1
        00 00 00 00               | status
        03 00 00 00               | descriptors: two regions and the ack slot
        00 00 00 00               | the first of this batch
        03 00 00 00               | how many are beside it
    ";
    assert_drawn(&ask(&TOKEN.0, 24), &hex(given), "to the token");
}
