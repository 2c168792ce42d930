//! What native/ offers, made safe: handles that are owned, that keep alive what they were made of,
//! and that are destroyed in the right order because each holds the one below it. Errors are
//! [`FailedCall`]s: what was tried, and the errno.
//!
//! All of it starts with [`Library`], of which there is one once the libraries were found: every
//! other function of the C layer may only be called then.
#![allow(unsafe_code)]

pub mod cm;
pub mod completion;
pub mod device;
mod ffi;
pub mod memory;
pub mod queue;

pub use ffi::{READS_MAX, Transfer};
use std::ffi::{CStr, c_char, c_int};
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::OnceLock;

/// A call of the C layer that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedCall {
    /// What was tried, as in "register memory".
    pub doing: &'static str,
    /// The errno.
    pub errno: i32,
}

/// The answer of the C layer to `doing` something.
fn answered(doing: &'static str, answer: c_int) -> Result<c_int, FailedCall> {
    if answer < 0 { Err(FailedCall { doing, errno: -answer }) } else { Ok(answer) }
}

/// The libraries are there. Who has one may call the C layer.
#[derive(Debug, Clone, Copy)]
pub struct Library(());

/// Open the libraries, the first time. Err is the reason why that is not possible.
pub fn library() -> Result<Library, &'static str> {
    static OPENED: OnceLock<Result<Library, String>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| {
        let mut why: [c_char; 256] = [0; 256];
        // SAFETY: `why` is writable for the length that is told. The cell lets one thread in.
        let answer = unsafe { ffi::rv_load(why.as_mut_ptr(), why.len() as u32) };
        match answer {
            0 => Ok(Library(())),
            _ => Err(text_within(&why)),
        }
    });
    opened.as_ref().copied().map_err(String::as_str)
}

/// Memory registrations of this process that stand: what a test holds to 0 once everything is
/// dropped.
pub fn registrations() -> i64 {
    // SAFETY: reads a counter, with or without libraries.
    unsafe { ffi::rv_registrations() }
}

/// The text up to the first zero; what is not UTF-8 is replaced.
fn text_within(room: &[c_char]) -> String {
    let bytes: Vec<u8> = room.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A text of the libraries' own.
///
/// # Safety
/// Null, or a terminated string that is never freed or changed.
unsafe fn static_text(text: *const c_char) -> &'static str {
    if text.is_null() {
        return "unknown";
    }
    // SAFETY: not null, and the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("unknown")
}

/// A descriptor that is open for as long as `_owner` is.
fn borrowed<T>(_owner: &T, fd: RawFd) -> BorrowedFd<'_> {
    // SAFETY: called only with the descriptor of the handle in `_owner`, which closes it when it is
    // dropped.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
