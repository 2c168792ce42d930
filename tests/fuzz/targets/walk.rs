//! A connection without a socket: parses its input to the end and holds the parser to what it
//! promises.

use remora::base::limits::{ACK_MILLISECONDS_MAX, ACK_REPLICAS_MAX, KEY_BYTES_MAX};
use remora::protocol::answer::MetaFacts;
use remora::protocol::text::encode::meta_found;
use remora::protocol::request::{Keys, NextKey};
use remora::protocol::{KeyScratch, ParseLimits, Parsed, Protocol, Rejection, Reply, Request};

const LIMITS: ParseLimits = ParseLimits { value_bytes_max: 64 << 10 };
const SCRATCH: KeyScratch = [0; KEY_BYTES_MAX];

/// Every step takes at least a byte, nothing is taken that is not there, and parsing again finds
/// the same.
pub fn walk(protocol: Protocol, input: &[u8]) {
    let mut rest = input;
    loop {
        let (mut scratch, mut other_scratch) = (SCRATCH, SCRATCH);
        let parsed = protocol.parse(rest, LIMITS, &mut scratch);
        let again = protocol.parse(rest, LIMITS, &mut other_scratch);
        assert_eq!(format!("{parsed:?}"), format!("{again:?}"));
        match parsed {
            Parsed::Request(request, taken) => {
                assert!(taken >= 1 && taken <= rest.len());
                match protocol {
                    Protocol::Text => check(&request),
                    Protocol::Binary => check_binary(&request),
                }
                rest = &rest[taken..];
            }
            Parsed::Incomplete { wanted_bytes } => return assert!(wanted_bytes > rest.len()),
            Parsed::Rejected(rejection) => {
                check_rejection(&rejection);
                if rejection.close || rejection.skip_bytes >= rest.len() as u64 {
                    return;
                }
                rest = &rest[rejection.skip_bytes as usize..];
            }
        }
    }
}

fn check(request: &Request<'_>) {
    match request {
        Request::Get(get) => check_keys(&get.keys),
        Request::Store(store) => {
            check_key(store.key);
            assert!(store.value.len() <= LIMITS.value_bytes_max);
        }
        Request::Arithmetic(arithmetic) => check_key(arithmetic.key),
        Request::Touch(touch) => check_key(touch.key),
        Request::Delete(delete) => check_key(delete.key),
        Request::Meta(meta) => {
            assert!((1..=KEY_BYTES_MAX).contains(&meta.key.len()));
            check_key(meta.key_token);
            assert!(meta.value.len() <= LIMITS.value_bytes_max);
            assert!(meta.ack_replicas.is_none_or(|replicas| replicas <= ACK_REPLICAS_MAX));
            let mut answer = Vec::new();
            meta_found(&mut answer, meta, &MetaFacts::default(), false);
            assert_eq!(answer.iter().filter(|byte| **byte == b'\n').count(), 1, "one line and no more");
        }
        Request::Wait { replicas, milliseconds } => {
            assert!(*replicas <= ACK_REPLICAS_MAX && *milliseconds <= ACK_MILLISECONDS_MAX);
        }
        _ => {}
    }
}

/// A key may have any byte there.
fn check_binary(request: &Request<'_>) {
    assert!(matches!(request.reply(), Reply::Binary(_)));
    let key = match request {
        Request::GetOne(get) => get.key,
        Request::Store(store) => {
            assert!(store.value.len() <= LIMITS.value_bytes_max);
            store.key
        }
        Request::Arithmetic(arithmetic) => arithmetic.key,
        Request::Delete(delete) => delete.key,
        _ => return,
    };
    assert!((1..=KEY_BYTES_MAX).contains(&key.len()));
}

fn check_keys(keys: &Keys<'_>) {
    let mut offset = 0;
    let mut found = 0;
    while let NextKey::Key(key, next) = keys.next(offset) {
        check_key(key);
        assert!(next > offset, "the cursor moves");
        (offset, found) = (next, found + 1);
    }
    assert!(found > 0 || matches!(keys.next(0), NextKey::Bad), "a get has a key, or a bad one");
}

/// As it stood on the line: nothing in it can end a line or part a token.
fn check_key(key: &[u8]) {
    assert!((1..=KEY_BYTES_MAX).contains(&key.len()));
    assert!(!key.contains(&b' ') && !key.contains(&b'\n'));
}

fn check_rejection(rejection: &Rejection<'_>) {
    assert!(rejection.skip_bytes >= 1);
    let line = rejection.refusal.line();
    assert!(line.ends_with(b"\r\n") && line.iter().filter(|byte| **byte == b'\n').count() == 1);
    if let Some(key) = rejection.unlink {
        assert!((1..=KEY_BYTES_MAX).contains(&key.len()));
    }
}
