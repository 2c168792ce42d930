//! Who a client says it is, by SASL (`-S`): the few packets that are looked at before the server
//! knows that.
//!
//! Takes the bytes that have arrived, gives what the first packet in them says. As in memcached
//! 1.6.45: `version` is answered to everybody; a message of PLAIN comes with its mechanism's name
//! (begin), or after an empty one (step). The message is
//!
//! ```text
//! on behalf of | 0 | user | 0 | password       (RFC 4616)
//! ```
//!
//! and nobody acts on behalf of another, so its first part is empty or the user.

use super::command::{Command, Head};
use super::{HEADER_BYTES, Header, MAGIC};
use crate::protocol::Refusal;

/// The one mechanism. Its name may be written in small letters.
pub const PLAIN: &[u8] = b"PLAIN";
/// Longest name of a mechanism, as in memcached.
const MECHANISM_BYTES_MAX: usize = 32;
/// Longest message, as of a token in the text protocol. A longer one ends the connection; memcached
/// takes as much as fits into a page of its slabs, and swallows what is longer.
const MESSAGE_BYTES_MAX: usize = 16_384;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered<'a> {
    /// It is not whole.
    Incomplete {
        /// Length of the input at which to look again; always more than there is.
        wanted_bytes: usize,
    },
    /// This, in a packet of so many bytes, with this head.
    Asked {
        /// For the answer.
        head: Head,
        /// What.
        ask: Ask<'a>,
        /// All of it.
        bytes: usize,
    },
    /// Something else, or something that makes no sense.
    Refused {
        /// For the answer.
        head: Head,
        /// Why.
        refusal: Refusal,
        /// All of it; None where the connection is to be closed.
        bytes: Option<usize>,
    },
    /// Nothing that is worth an answer: the connection is to be closed.
    Nonsense,
}

/// What somebody may ask who has not said who that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Which version this is.
    Version,
    /// Which mechanisms there are.
    Mechanisms,
    /// To be known by this mechanism, with its first message; without one it is still to come.
    Begin {
        /// Its name.
        mechanism: &'a [u8],
        /// As the mechanism has it.
        message: &'a [u8],
    },
    /// To be known by the message that was still to come.
    Step {
        /// As the mechanism has it.
        message: &'a [u8],
    },
}

/// Whether the packet at the start of `input` has to do with SASL.
pub fn is_sasl(input: &[u8]) -> bool {
    input.get(1).is_some_and(|opcode| Command::of(*opcode).0.is_sasl())
}

/// What the first packet in `input` says.
pub fn offered(input: &[u8]) -> Offered<'_> {
    if input.first().is_some_and(|first| *first != MAGIC) {
        return Offered::Nonsense;
    }
    let Some(bytes) = input.first_chunk::<HEADER_BYTES>() else {
        return Offered::Incomplete { wanted_bytes: HEADER_BYTES };
    };
    let header = match Header::read(bytes, |command| command == Command::Version || command.is_sasl()) {
        Ok(header) => header,
        Err((refusal, head)) => return Offered::Refused { head, refusal, bytes: None },
    };
    let (head, bytes) = (header.head, header.bytes());
    if header.value_bytes > MESSAGE_BYTES_MAX {
        return Offered::Refused { head, refusal: Refusal::OutOfMemory, bytes: None };
    }
    // None of these has extras.
    let Some(body) = input.get(HEADER_BYTES..bytes) else { return Offered::Incomplete { wanted_bytes: bytes } };
    if header.key_bytes > MECHANISM_BYTES_MAX {
        return Offered::Refused { head, refusal: Refusal::BadFormat, bytes: Some(bytes) };
    }
    let (mechanism, message) = body.split_at(header.key_bytes);
    let ask = match head.command {
        Command::SaslList => Ask::Mechanisms,
        Command::SaslBegin => Ask::Begin { mechanism, message },
        Command::SaslStep => Ask::Step { message },
        _ => Ask::Version,
    };
    Offered::Asked { head, ask, bytes }
}

/// User and password of a message of PLAIN's; None where it is no such message.
pub fn plain(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = message.split(|byte| *byte == 0);
    let (for_whom, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    let for_itself = for_whom.is_empty() || for_whom == user;
    (parts.next().is_none() && for_itself && !user.is_empty()).then_some((user, password))
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;
    use crate::base::limits::{KEY_BYTES_MAX, PACKET_BODY_BYTES_MAX};
    use proptest::prelude::*;

    /// A packet without extras.
    fn packet(opcode: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut packet = lengths(opcode, key.len(), 0, key.len() + value.len());
        packet.extend([key, value].concat());
        packet
    }

    fn lengths(opcode: u8, key: usize, extras: u8, body: usize) -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES];
        (header[0], header[1], header[4]) = (MAGIC, opcode, extras);
        header[2..4].copy_from_slice(&(key as u16).to_be_bytes());
        header[8..12].copy_from_slice(&(body as u32).to_be_bytes());
        header
    }

    fn asked<'a>(packet: &'a [u8]) -> Ask<'a> {
        for bytes in 0..packet.len() {
            let begun = offered(&packet[..bytes]);
            let Offered::Incomplete { wanted_bytes } = begun else { panic!("{begun:?} of {bytes} bytes") };
            assert!((bytes + 1..=packet.len()).contains(&wanted_bytes));
        }
        match offered(packet) {
            Offered::Asked { ask, bytes, head } if bytes == packet.len() && head.opcode() == packet[1] => ask,
            other => panic!("{other:?}"),
        }
    }

    /// Status, and how much was taken.
    fn refused(packet: &[u8]) -> (u8, Option<usize>) {
        let Offered::Refused { head, refusal, bytes } = offered(packet) else { panic!("{packet:?}") };
        let mut answer = Vec::new();
        encode::refused(&mut answer, head, refusal);
        assert_eq!((answer[1], answer[6]), (packet[1], 0));
        (answer[7], bytes)
    }

    #[test]
    fn of_all_opcodes_four_are_looked_at() {
        for opcode in 0..=255 {
            let (key, value): (&[u8], &[u8]) =
                if matches!(opcode, 0x21 | 0x22) { (b"PLAIN", b"m") } else { (b"", b"") };
            let packet = packet(opcode, key, value);
            match opcode {
                0x0B => assert_eq!(asked(&packet), Ask::Version),
                0x20 => assert_eq!(asked(&packet), Ask::Mechanisms),
                0x21 => assert_eq!(asked(&packet), Ask::Begin { mechanism: b"PLAIN", message: b"m" }),
                0x22 => assert_eq!(asked(&packet), Ask::Step { message: b"m" }),
                _ => assert_eq!(refused(&packet), (0x20, None), "{opcode:#x}"),
            }
            assert_eq!(is_sasl(&packet), matches!(opcode, 0x20..=0x22), "{opcode:#x}");
        }
    }

    #[test]
    fn lengths_are_refused_as_by_memcached() {
        for (packet, expected) in [
            // What does not lie within the body, and what is too long for any server, comes first.
            (lengths(0x00, 9, 0, 3), (0x81, None)),
            (lengths(0x21, 5, 1, 5), (0x81, None)),
            (lengths(0x00, 9, 0, PACKET_BODY_BYTES_MAX + 1), (0x04, None)),
            // Then whether it may be asked at all, then its form.
            (lengths(0x01, 1, 0, 2), (0x20, None)),
            (lengths(0x00, 251, 0, 251), (0x20, None)),
            (lengths(0x0B, 1, 0, 1), (0x04, None)),
            (lengths(0x20, 0, 0, 3), (0x04, None)),
            (lengths(0x21, 0, 0, 9), (0x04, None)),
            (lengths(0x21, 5, 4, 20), (0x04, None)),
            (lengths(0x22, 251, 0, 260), (0x04, None)),
            (lengths(0x22, 5, 0, 5 + 16_385), (0x82, None)),
            (lengths(0x21, 5, 0, PACKET_BODY_BYTES_MAX), (0x82, None)),
            // A name that is too long does not end the connection.
            (packet(0x21, &[b'x'; 33], b"message"), (0x04, Some(24 + 33 + 7))),
        ] {
            assert_eq!(refused(&packet), expected, "{packet:?}");
        }
        assert_eq!(asked(&packet(0x21, &[b'x'; 32], b"")), Ask::Begin { mechanism: &[b'x'; 32], message: b"" });
        let longest = lengths(0x21, 5, 0, 5 + 16_384);
        assert_eq!(offered(&longest), Offered::Incomplete { wanted_bytes: 24 + 5 + 16_384 });
        assert_eq!(offered(b"version\r\n"), Offered::Nonsense);
    }

    #[test]
    fn a_message_has_three_parts() {
        for (message, expected) in [
            (&b"\0user\0password"[..], Some((&b"user"[..], &b"password"[..]))),
            (b"user\0user\0password", Some((b"user", b"password"))),
            (b"\0a user\0a password: \xFF", Some((b"a user", b"a password: \xFF"))),
            (b"\0user\0", Some((b"user", b""))),
            (b"other\0user\0password", None),
            (b"use\0user\0password", None),
            (b"\0user\0password\0", None),
            (b"\0user\0password\0more", None),
            (b"\0\0password", None),
            (b"\0user", None),
            (b"user password", None),
            (b"", None),
        ] {
            assert_eq!(plain(message), expected, "{message:?}");
        }
    }

    proptest! {
        /// Whatever is sent, it takes a part of what is there, or asks for more within a bound.
        #[test]
        fn no_bytes_confuse_it(
            opcode in prop_oneof![0x1Fu8..0x24, Just(0x0B), any::<u8>()],
            key in 0usize..300, extras in 0u8..3, body in 0usize..20_000, there in 0usize..400,
        ) {
            let mut input = lengths(opcode, key, extras, body);
            input.resize(there, b'x');
            match offered(&input) {
                Offered::Incomplete { wanted_bytes } => {
                    prop_assert!(wanted_bytes > input.len());
                    prop_assert!(wanted_bytes <= HEADER_BYTES + KEY_BYTES_MAX + MESSAGE_BYTES_MAX);
                }
                Offered::Asked { bytes, .. } => prop_assert!((HEADER_BYTES..=input.len()).contains(&bytes)),
                Offered::Refused { bytes, .. } => {
                    prop_assert!(bytes.is_none_or(|bytes| (HEADER_BYTES + 1..=input.len()).contains(&bytes)));
                }
                Offered::Nonsense => prop_assert!(false, "it begins as a packet does"),
            }
        }
    }
}
