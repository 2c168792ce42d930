//! Any bytes, as a connection of the binary protocol may send them.
#![no_main]

#[path = "walk.rs"]
mod walk;

use remora::protocol::Protocol;

libfuzzer_sys::fuzz_target!(|input: &[u8]| walk::walk(Protocol::Binary, input));
