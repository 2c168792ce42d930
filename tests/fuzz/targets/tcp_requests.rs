//! Any bytes, in any pieces, as a replica may send them to the responder of fabric/tcp.
#![no_main]

use remora::fabric::READ_BYTES_MAX;
use remora::fabric::tcp::frames::{
    GREETING_BYTES, Next, REQUESTS_BYTES, Request, Requests, WRITE_BYTES_MAX, parse_greeting,
};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    if let Some(greeting) = bytes.get(..GREETING_BYTES) {
        let _ = parse_greeting(greeting);
    }
    let pieces = parse(bytes, usize::from(*piece) + 1);
    assert_eq!(pieces, parse(bytes, REQUESTS_BYTES), "the pieces in which they come change nothing");
});

/// All requests, and whether the rest makes no sense.
fn parse(mut bytes: &[u8], piece: usize) -> (Vec<Request>, bool) {
    let mut requests = Requests::default();
    let mut parsed = Vec::new();
    loop {
        match requests.next() {
            Next::Malformed => return (parsed, true),
            Next::Request(request) => {
                check(&request);
                parsed.push(request);
            }
            Next::Incomplete if bytes.is_empty() => return (parsed, false),
            Next::Incomplete => {
                let room = requests.room();
                assert!(!room.is_empty(), "there is always room for the rest of a request");
                let count = room.len().min(piece).min(bytes.len());
                room[..count].copy_from_slice(&bytes[..count]);
                requests.filled(count);
                bytes = &bytes[count..];
            }
        }
    }
}

fn check(request: &Request) {
    let (offset, bytes, bytes_max) = match *request {
        Request::Read { offset, bytes, .. } => (offset, bytes, READ_BYTES_MAX),
        Request::Write { offset, count, .. } => (offset, count * 8, WRITE_BYTES_MAX),
    };
    assert!(bytes <= bytes_max && bytes % 8 == 0 && offset % 8 == 0);
}
