//! The frame around memcached's protocols over UDP: eight bytes at the front of each datagram, by
//! which a client knows the datagrams of one answer, and their order. Pure.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0, 1 | the request's number, which the client chooses; its answer bears the same |
//! | 2, 3 | which datagram of its message this is, from 0 on |
//! | 4, 5 | how many datagrams the message has |
//! | 6, 7 | reserved: 0 |
//!
//! Numbers are big-endian. A request is one datagram. An answer may be several.

use super::binary;
use crate::base::limits::DATAGRAM_BYTES_MAX;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 8;

/// Most bytes of an answer in one datagram.
const PART_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES;

/// What a datagram asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked<'d> {
    /// This, to be answered under this number.
    Request(u16, &'d [u8]),
    /// A part of a request under this number that is longer than a datagram.
    Part(u16),
    /// Nothing: it is no request.
    Nothing,
}

/// What a datagram asks for. All commands of the text protocol begin with a small letter, and
/// packets of the binary one with another byte where they ask than where they answer. So an answer
/// is no request: two servers cannot be made to answer one another for ever by one datagram with a
/// forged sender.
pub fn parse(datagram: &[u8]) -> Asked<'_> {
    let Some((header, payload)) = datagram.split_first_chunk::<HEADER_BYTES>() else { return Asked::Nothing };
    if !payload.first().is_some_and(|first| first.is_ascii_lowercase() || *first == binary::MAGIC) {
        return Asked::Nothing;
    }
    let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if (number(2), number(4)) != (0, 1) {
        return Asked::Part(number(0));
    }
    Asked::Request(number(0), payload)
}

/// The datagrams of `answer` to request `number`, in `room`, one after another: `send` gets each.
/// An answer may have [`u16::MAX`] of them.
pub fn split(number: u16, answer: &[u8], room: &mut [u8; DATAGRAM_BYTES_MAX], mut send: impl FnMut(&[u8])) {
    let parts = answer.chunks(PART_BYTES_MAX);
    let count = u16::try_from(parts.len()).expect("an answer over UDP has a bound");
    for (at, part) in (0..count).zip(parts) {
        let header = [number, at, count, 0].map(u16::to_be_bytes);
        room[..HEADER_BYTES].copy_from_slice(header.as_flattened());
        let upto = HEADER_BYTES + part.len();
        room[HEADER_BYTES..upto].copy_from_slice(part);
        send(&room[..upto]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(fields: [u16; 4], payload: &[u8]) -> Vec<u8> {
        [fields.map(u16::to_be_bytes).as_flattened(), payload].concat()
    }

    #[test]
    fn a_request_is_one_datagram() {
        let asked = |fields, payload| match parse(&frame(fields, payload)) {
            Asked::Request(number, bytes) => Some((number, bytes.to_vec())),
            Asked::Part(number) => Some((number, b"part".to_vec())),
            Asked::Nothing => None,
        };
        assert_eq!(asked([7, 0, 1, 0], b"get a\r\n"), Some((7, b"get a\r\n".to_vec())));
        assert_eq!(asked([7, 0, 1, 9], b"get a\r\n"), Some((7, b"get a\r\n".to_vec())), "reserved is not looked at");
        for fields in [[7, 1, 1, 0], [7, 0, 0, 0], [7, 0, 2, 0], [7, 1, 2, 0]] {
            assert_eq!(asked(fields, b"get a\r\n"), Some((7, b"part".to_vec())), "{fields:?}");
        }
    }

    #[test]
    fn an_answer_is_no_request() {
        for answer in
            ["ERROR\r\n", "SERVER_ERROR out\r\n", "VALUE a 0 1\r\na\r\nEND\r\n", "HD\r\n", "5\r\n", "\r\n", ""]
        {
            for parts in [1, 2] {
                assert_eq!(parse(&frame([1, 0, parts, 0], answer.as_bytes())), Asked::Nothing, "{answer:?}");
            }
        }
        assert_eq!(parse(b"get a\r\n"), Asked::Nothing, "shorter than a header");
    }

    proptest! {
        #[test]
        fn an_answer_is_its_datagrams_in_their_order(number: u16, answer in prop::collection::vec(any::<u8>(), 1..5000)) {
            let (mut got, mut fields, mut room) = (Vec::new(), Vec::new(), [0; DATAGRAM_BYTES_MAX]);
            split(number, &answer, &mut room, |datagram| {
                assert!(datagram.len() <= DATAGRAM_BYTES_MAX);
                fields.push(datagram[..HEADER_BYTES].to_vec());
                got.extend_from_slice(&datagram[HEADER_BYTES..]);
            });
            prop_assert_eq!(got, answer);
            let count = fields.len() as u16;
            let wanted: Vec<_> = (0..count).map(|at| frame([number, at, count, 0], b"")).collect();
            prop_assert_eq!(fields, wanted);
        }
    }
}
