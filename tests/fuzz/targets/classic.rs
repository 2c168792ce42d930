//! Any bytes, as a connection may send them.
#![no_main]

#[path = "walk.rs"]
mod walk;

libfuzzer_sys::fuzz_target!(|input: &[u8]| walk::walk(input));
