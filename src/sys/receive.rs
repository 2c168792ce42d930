//! Reading from a socket: into a buffer that is there, behind what a growing one holds, or into
//! words. Never blocks.

use super::sync::AtomicU64;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Read into `buffer`. None when there is nothing now, Some(0) when the client sends no more.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    would_block(recv(socket, buffer, RecvFlags::DONTWAIT).map(|(bytes, _)| bytes))
}

/// Append to `buffer`, at most `bytes_max` bytes and no more than it has capacity for, which must
/// be some.
pub fn receive_behind(socket: impl AsFd, buffer: &mut Vec<u8>, bytes_max: usize) -> io::Result<Option<usize>> {
    let room = buffer.spare_capacity_mut();
    let room_bytes = room.len().min(bytes_max);
    assert!(room_bytes > 0, "a read of nothing would look like the end");
    let received = recv(socket, &mut room[..room_bytes], RecvFlags::DONTWAIT).map(|((filled, _), _)| filled.len());
    if let Ok(bytes) = received {
        let length = buffer.len() + bytes;
        // SAFETY: recv has initialised the first `bytes` bytes of the spare capacity, as its return
        // type says, so all bytes up to `length` are initialised; and they lie within the capacity,
        // of which they are a part.
        unsafe { buffer.set_len(length) };
    }
    would_block(received)
}

/// Fill `words` from their byte `from_byte` on, which must be within them. As [`receive`].
pub fn receive_words(socket: impl AsFd, words: &[AtomicU64], from_byte: usize) -> io::Result<Option<usize>> {
    let room_bytes = words.len() * 8 - from_byte;
    assert!(room_bytes > 0, "a read of nothing would look like the end");
    let start = words.as_ptr().cast::<u8>().cast_mut().wrapping_add(from_byte);
    // SAFETY: `start` and the `room_bytes` bytes behind it lie within `words`, which are borrowed,
    // and so mapped and writable, over the call; atomics may be written to through a shared
    // reference. Rust code that looks at them meanwhile uses atomics, and the kernel's stores are
    // none of this program's, so it reads some mix of bytes at worst.
    let received = unsafe { libc::recv(socket.as_fd().as_raw_fd(), start.cast(), room_bytes, libc::MSG_DONTWAIT) };
    match usize::try_from(received) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(_) => would_block(Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))),
    }
}

fn would_block(received: Result<usize, Errno>) -> io::Result<Option<usize>> {
    match received {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn words_are_filled_from_any_byte() {
        let words = [0, 0].map(AtomicU64::new);
        let (mut near, far) = UnixStream::pair().unwrap();
        assert_eq!(receive_words(&far, &words, 0).unwrap(), None);
        near.write_all(b"abcdefghijklmnopqrst").unwrap();
        assert_eq!(receive_words(&far, &words[1..], 3).unwrap(), Some(5));
        assert_eq!(receive_words(&far, &words, 0).unwrap(), Some(15));
        let word = |at: usize| words[at].load(crate::sys::sync::Ordering::Relaxed).to_le_bytes();
        assert_eq!([word(0), word(1)].concat(), *b"fghijklmnopqrste", "the last byte is of the first read");
        drop(near);
        assert_eq!(receive_words(&far, &words, 0).unwrap(), Some(0));
    }

    #[test]
    fn bytes_nothing_and_the_end_are_told_apart() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut buffer = Vec::with_capacity(16);
        buffer.push(b'<');
        assert_eq!(receive_behind(&far, &mut buffer, 9).unwrap(), None);
        near.write_all(b"0123456789").unwrap();
        assert_eq!(receive_behind(&far, &mut buffer, 4).unwrap(), Some(4));
        assert_eq!(buffer, b"<0123");
        let mut rest = [0; 16];
        assert_eq!(receive(&far, &mut rest).unwrap(), Some(6));
        assert_eq!(&rest[..6], b"456789");
        drop(near);
        assert_eq!(receive(&far, &mut rest).unwrap(), Some(0));
        assert_eq!(receive_behind(&far, &mut buffer, 4).unwrap(), Some(0));
    }
}
