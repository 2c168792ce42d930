//! One vectored write of answers: bytes, and words of a log that are never borrowed as bytes.
//!
//! Takes a socket and a list of parts, gives the number of bytes that the socket took. Never
//! blocks, never raises SIGPIPE.

use crate::sys::words::WordSpan;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Most parts of one write; far below the kernel's IOV_MAX of 1024, and enough for a full output
/// (see engine::output).
pub const PARTS_PER_SEND: usize = 64;

/// One piece of an answer.
#[derive(Clone, Copy)]
pub enum Part<'a> {
    /// Bytes of our own.
    Bytes(&'a [u8]),
    /// Words that other threads may write to (metadata of records nearby); the kernel copies them.
    Words(WordSpan<'a>),
}

impl Part<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Part::Bytes(bytes) => bytes.len(),
            Part::Words(span) => span.len(),
        }
    }

    /// True when there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn iovec(&self) -> libc::iovec {
        let (start, bytes) = match self {
            Part::Bytes(bytes) => (bytes.as_ptr(), bytes.len()),
            Part::Words(span) => {
                let (words, start_byte, bytes) = span.parts();
                (words.as_ptr().cast::<u8>().wrapping_add(start_byte), bytes)
            }
        };
        libc::iovec { iov_base: start.cast_mut().cast(), iov_len: bytes }
    }
}

/// Send the first [`PARTS_PER_SEND`] of `parts`. Ok is how many bytes the socket took, which may be
/// any number from 1 on; an error of kind WouldBlock says that it took none.
#[inline]
pub fn send_parts(socket: impl AsFd, parts: &[Part<'_>]) -> io::Result<usize> {
    if let [Part::Bytes(bytes)] = parts {
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        return Ok(rustix::net::send(socket, bytes, flags)?);
    }
    send_vectors(socket.as_fd(), parts)
}

/// The same, of any parts. By itself, for its vectors take pages of the stack.
#[inline(never)]
fn send_vectors(socket: BorrowedFd<'_>, parts: &[Part<'_>]) -> io::Result<usize> {
    let count = parts.len().min(PARTS_PER_SEND);
    let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PARTS_PER_SEND];
    for (vector, part) in vectors.iter_mut().zip(parts) {
        *vector = part.iovec();
    }
    // SAFETY: msghdr is a plain C structure of integers and pointers, for which all zeroes means
    // "nothing given".
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = count as _;
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the kernel only reads through `message`: `count` vectors of `vectors`, which lives
    // until the call is over, each naming memory that `parts` keeps borrowed, and so mapped, over
    // the call. Words that another thread writes meanwhile are read by the kernel, not by this
    // program, so no Rust access races with those atomic writes.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sync::AtomicU64;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_and_words_arrive_in_order() {
        let words = [u64::from_le_bytes(*b"..values"), u64::from_le_bytes(*b"go here!")].map(AtomicU64::new);
        let (near, mut far) = UnixStream::pair().unwrap();
        let parts = [Part::Bytes(b"<"), Part::Words(WordSpan::new(&words, 2, 13)), Part::Bytes(b""), Part::Bytes(b">")];
        let total: usize = parts.iter().map(Part::len).sum();
        assert_eq!(send_parts(&near, &parts).unwrap(), total);
        let mut read = vec![0; total];
        far.read_exact(&mut read).unwrap();
        assert_eq!(read, b"<valuesgo here>");
    }

    #[test]
    fn a_full_socket_blocks_nobody_and_a_closed_one_raises_no_signal() {
        let (near, far) = UnixStream::pair().unwrap();
        let block = [7u8; 1 << 16];
        let error = loop {
            match send_parts(&near, &[Part::Bytes(&block)]) {
                Ok(bytes) => assert!(bytes > 0),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(far);
        let error = send_parts(&near, &[Part::Bytes(&block)]).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{error}");
    }
}
