//! Any bytes behind the name of a meta command, so that none of the time is spent on guessing that
//! name.
#![no_main]

#[path = "walk.rs"]
mod walk;

use remora::protocol::Protocol;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let name = [&b"mg "[..], b"ms ", b"md ", b"ma ", b"me "][usize::from(*choice) % 5];
    walk::walk(Protocol::Text, &[name, rest].concat());
});
