//! Reading from a socket: into a buffer that is there, or behind what a growing one holds. Never blocks.

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::io;
use std::os::fd::AsFd;

/// Read into `buffer`. None when there is nothing now, Some(0) when the client sends no more.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    would_block(recv(socket, buffer, RecvFlags::DONTWAIT).map(|(bytes, _)| bytes))
}

/// Append to `buffer`, at most `bytes_max` bytes and no more than it has capacity for, which must be some.
pub fn receive_behind(socket: impl AsFd, buffer: &mut Vec<u8>, bytes_max: usize) -> io::Result<Option<usize>> {
    let room = buffer.spare_capacity_mut();
    let room_bytes = room.len().min(bytes_max);
    assert!(room_bytes > 0, "a read of nothing would look like the end");
    let received = recv(socket, &mut room[..room_bytes], RecvFlags::DONTWAIT).map(|((filled, _), _)| filled.len());
    if let Ok(bytes) = received {
        let length = buffer.len() + bytes;
        // SAFETY: recv has initialised the first `bytes` bytes of the spare capacity, as its return type says, so all
        // bytes up to `length` are initialised; and they lie within the capacity, of which they are a part.
        unsafe { buffer.set_len(length) };
    }
    would_block(received)
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
