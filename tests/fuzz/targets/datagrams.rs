//! Any bytes, as a datagram that comes over UDP: no request, or one of which the answer's datagrams
//! ask for nothing.
#![no_main]

use remora::base::limits::DATAGRAM_BYTES_MAX;
use remora::protocol::datagram::{Asked, HEADER_BYTES, parse, split};
use remora::protocol::refusal::Refusal;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let (number, answer) = match parse(input) {
        Asked::Request(number, request) => {
            assert_eq!(request, &input[HEADER_BYTES..]);
            (number, [b"VALUE ", request].concat())
        }
        Asked::Part(number) => (number, Refusal::DatagramsOfOneRequest.line().to_vec()),
        Asked::Nothing => return,
    };
    let mut all = Vec::new();
    split(number, &answer, &mut [0; DATAGRAM_BYTES_MAX], |part| {
        assert_eq!(part[..2], number.to_be_bytes());
        all.extend_from_slice(&part[HEADER_BYTES..]);
        if all.len() == part.len() - HEADER_BYTES {
            assert_eq!(parse(part), Asked::Nothing, "two servers would answer each other");
        }
    });
    assert_eq!(all, answer);
});
