//! Calls the faults of planted.c.

use std::ffi::{CString, c_char, c_int};

unsafe extern "C" {
    fn planted(fault: *const c_char) -> c_int;
}

fn main() {
    let fault = CString::new(std::env::args().nth(1).unwrap_or_default()).expect("no zero byte");
    // SAFETY: planted reads a string that ends with a zero byte.
    std::process::exit(unsafe { planted(fault.as_ptr()) });
}
