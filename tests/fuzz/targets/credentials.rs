//! Any bytes, as a client may send them that is to say who it is: by a token in text (`-Y`), or by
//! SASL in packets (`-S`). Each byte is looked at by both, as the server would.
#![no_main]

use remora::protocol::binary::sasl::{self, Ask};
use remora::protocol::text::credentials;

/// More than either is asked to hold of one attempt.
const WANTED_BYTES_MAX: usize = 20_000;

fn by_token(mut rest: &[u8]) {
    while !rest.is_empty() {
        let taken = match credentials::offered(rest) {
            credentials::Offered::Incomplete { wanted_bytes } => {
                return assert!(wanted_bytes > rest.len() && wanted_bytes < WANTED_BYTES_MAX);
            }
            credentials::Offered::Nonsense => return,
            credentials::Offered::Refused { bytes, .. } => bytes,
            credentials::Offered::Credentials { user, password, bytes } => {
                assert!(user.len() + password.len() < bytes && !user.contains(&b' '));
                bytes
            }
        };
        assert!((1..=rest.len()).contains(&taken));
        rest = &rest[taken..];
    }
}

fn by_sasl(mut rest: &[u8]) {
    while !rest.is_empty() {
        let taken = match sasl::offered(rest) {
            sasl::Offered::Incomplete { wanted_bytes } => {
                return assert!(wanted_bytes > rest.len() && wanted_bytes < WANTED_BYTES_MAX);
            }
            sasl::Offered::Nonsense | sasl::Offered::Refused { bytes: None, .. } => return,
            sasl::Offered::Refused { bytes: Some(bytes), .. } => bytes,
            sasl::Offered::Asked { head, ask, bytes } => {
                assert!(matches!(head.opcode(), 0x0B | 0x20..=0x22), "nothing else may be asked");
                if let Ask::Begin { message, .. } | Ask::Step { message } = ask
                    && let Some((user, password)) = sasl::plain(message)
                {
                    assert!(!user.is_empty() && user.len() + password.len() + 2 <= message.len());
                    assert!(!user.contains(&0) && !password.contains(&0));
                }
                bytes
            }
        };
        assert!((1..=rest.len()).contains(&taken));
        rest = &rest[taken..];
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    by_token(input);
    by_sasl(input);
});
