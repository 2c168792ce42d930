//! Any bytes, as a connection may send them.
#![no_main]

#[path = "walk.rs"]
mod walk;

use remora::protocol::Protocol;

libfuzzer_sys::fuzz_target!(|input: &[u8]| walk::walk(Protocol::Text, input));
