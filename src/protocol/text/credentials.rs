//! Who a client says it is, where the server wants to know that first (`-Y`): a `set` whose key,
//! flags and expiry mean nothing, and whose value is `user password`.
//!
//! Takes the bytes that have arrived, gives what the first command in them says. As in memcached
//! 1.6.45: it looks at the beginning of the line for `set`, at its fifth word for the length of the
//! value, and at nothing else. Where it closes without a word, so does this.

use super::tokens::{Tokens, u32_strict};
use crate::base::limits::LINE_BYTES_MAX;
use crate::protocol::Refusal;
use memchr::memchr;

/// Longest value that may say who somebody is, as in memcached.
const VALUE_BYTES_MAX: u32 = 16_384;
/// memcached looks at nothing shorter.
const INPUT_BYTES_MIN: usize = 3;
/// Shortest line without its newline; memcached closes after a shorter one.
const LINE_BYTES_MIN: usize = 6;
/// Where the length of the value stands on the line, counted from 0.
const LENGTH_AT: usize = 4;
/// Of the line end that follows the value.
const VALUE_END: &[u8] = b"\r\n";

/// The answer to who has said it rightly.
pub const WELCOME: &[u8] = b"STORED\r\n";
/// The answer to who is not known, or has another password.
pub const WRONG: &[u8] = b"CLIENT_ERROR authentication failure\r\n";

/// See the module. `bytes` are those of the input that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered<'a> {
    /// It is not whole.
    Incomplete {
        /// Length of the input at which to look again; always more than there is.
        wanted_bytes: usize,
    },
    /// This user, with this password.
    Credentials {
        /// Who.
        user: &'a [u8],
        /// The password.
        password: &'a [u8],
        /// See above.
        bytes: usize,
    },
    /// Something else, with the answer to it.
    Refused {
        /// Line end included.
        answer: &'static [u8],
        /// See above.
        bytes: usize,
    },
    /// Nothing that is worth an answer: the connection is to be closed.
    Nonsense,
}

/// What the first command in `input` says.
pub fn offered(input: &[u8]) -> Offered<'_> {
    if input.len() < INPUT_BYTES_MIN {
        return Offered::Incomplete { wanted_bytes: INPUT_BYTES_MIN };
    }
    let Some(newline) = memchr(b'\n', &input[..input.len().min(LINE_BYTES_MAX)]) else {
        let is_over = input.len() >= LINE_BYTES_MAX;
        return if is_over { Offered::Nonsense } else { Offered::Incomplete { wanted_bytes: input.len() + 1 } };
    };
    if newline < LINE_BYTES_MIN {
        return Offered::Nonsense;
    }
    let line_bytes = newline + 1;
    let value_bytes = match announced(&input[..newline]) {
        None => return Offered::Refused { answer: Refusal::Unauthenticated.line(), bytes: line_bytes },
        // What follows is taken for the next command: memcached does not skip the value either.
        Some(bytes) if bytes > VALUE_BYTES_MAX => {
            return Offered::Refused { answer: b"CLIENT_ERROR auth token too long\r\n", bytes: line_bytes };
        }
        Some(bytes) => bytes as usize,
    };
    let bytes = line_bytes + value_bytes + VALUE_END.len();
    if input.len() < bytes {
        return Offered::Incomplete { wanted_bytes: bytes };
    }
    let (value, end) = input[line_bytes..bytes].split_at(value_bytes);
    if end != VALUE_END {
        return Offered::Refused { answer: b"CLIENT_ERROR bad command line termination\r\n", bytes };
    }
    match memchr(b' ', value) {
        Some(blank) => Offered::Credentials { user: &value[..blank], password: &value[blank + 1..], bytes },
        None => Offered::Refused { answer: b"CLIENT_ERROR bad authentication token format\r\n", bytes },
    }
}

/// The length that a line without its newline announces; None where it is no such line. memcached
/// takes the byte before the newline for a carriage return, whatever it is; so a client that ends
/// its lines by a newline alone cannot say who it is.
fn announced(line: &[u8]) -> Option<u32> {
    let (_, text) = line.split_last()?;
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let length = Tokens::of(text).nth(LENGTH_AT)?;
    text.starts_with(b"set").then(|| u32_strict(length))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(answer: &'static str, bytes: usize) -> Offered<'static> {
        Offered::Refused { answer: answer.as_bytes(), bytes }
    }

    fn said<'a>(user: &'a str, password: &'a str, bytes: usize) -> Offered<'a> {
        Offered::Credentials { user: user.as_bytes(), password: password.as_bytes(), bytes }
    }

    #[test]
    fn every_answer_is_memcacheds() {
        const STRANGER: &str = "CLIENT_ERROR unauthenticated\r\n";
        const TOO_LONG: &str = "CLIENT_ERROR auth token too long\r\n";
        for (input, expected) in [
            ("set a 0 0 7\r\nfoo bar\r\nget", said("foo", "bar", 22)),
            ("set a b c 7 noreply\r\nfoo bar\r\n", said("foo", "bar", 30)),
            ("settle  a 0 0 007\r\nfoo bar\r\n", said("foo", "bar", 28)),
            ("set a 0 0 8\r\nfoo b r \r\n", said("foo", "b r ", 23)),
            ("set a 0 0 1\r\n \r\n", said("", "", 16)),
            ("set a 0 0 6\r\nfoobar\r\n", refused("CLIENT_ERROR bad authentication token format\r\n", 21)),
            ("set a 0 0 0\r\n\r\n", refused("CLIENT_ERROR bad authentication token format\r\n", 15)),
            ("set a 0 0 6\r\nfoo bar\r\n", refused("CLIENT_ERROR bad command line termination\r\n", 21)),
            ("set a 0 0 7\r\nfoo bar\n\r", refused("CLIENT_ERROR bad command line termination\r\n", 22)),
            ("get foo\r\n", refused(STRANGER, 9)),
            ("version\r\n", refused(STRANGER, 9)),
            (" set a 0 0 7\r\n", refused(STRANGER, 14)),
            ("set a 0 7\r\n", refused(STRANGER, 11)),
            ("set a 0 0 -1\r\n", refused(STRANGER, 14)),
            ("set a 0 0 7x\r\n", refused(STRANGER, 14)),
            ("set a 0 0 4294967296\r\n", refused(STRANGER, 22)),
            ("set a 0 0 7\nfoo bar\n", refused(STRANGER, 12)),
            ("set a 0 0 16385\r\n", refused(TOO_LONG, 17)),
            ("set a 0 0 2147483646\r\nmore", refused(TOO_LONG, 22)),
            ("quit\r\n", Offered::Nonsense),
            ("\r\n\r\n", Offered::Nonsense),
            ("\n\n", Offered::Incomplete { wanted_bytes: 3 }),
            ("set a 0 0 7\r", Offered::Incomplete { wanted_bytes: 13 }),
            ("set a 0 0 16384\r\n", Offered::Incomplete { wanted_bytes: 17 + 16_384 + 2 }),
        ] {
            assert_eq!(offered(input.as_bytes()), expected, "{input:?}");
        }
    }

    #[test]
    fn a_line_has_a_bound() {
        let line = |bytes: usize| [vec![b'x'; bytes - 1], b"\n".to_vec()].concat();
        let whole = line(LINE_BYTES_MAX);
        assert!(matches!(offered(&whole), Offered::Refused { bytes: LINE_BYTES_MAX, .. }));
        let begun = &whole[..LINE_BYTES_MAX - 1];
        assert_eq!(offered(begun), Offered::Incomplete { wanted_bytes: LINE_BYTES_MAX });
        assert_eq!(offered(&line(LINE_BYTES_MAX + 1)), Offered::Nonsense);
    }

    proptest! {
        /// Whatever is sent, it takes a part of what is there, or asks for more within a bound.
        #[test]
        fn no_bytes_confuse_it(input in "(set[ a]{0,9}[0-9]{0,6}\r?\n)?(.|\r|\n| ){0,40}") {
            match offered(input.as_bytes()) {
                Offered::Incomplete { wanted_bytes } => {
                    prop_assert!(wanted_bytes > input.len());
                    prop_assert!(wanted_bytes <= LINE_BYTES_MAX + VALUE_BYTES_MAX as usize + VALUE_END.len());
                }
                Offered::Credentials { bytes, .. } | Offered::Refused { bytes, .. } => {
                    prop_assert!((LINE_BYTES_MIN..=input.len()).contains(&bytes));
                }
                Offered::Nonsense => {}
            }
        }
    }
}
