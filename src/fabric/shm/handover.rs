//! How file descriptors are passed over the unix socket (SCM_RIGHTS). Numbers are little-endian.
//!
//! ```text
//! replica:  token (16 bytes)
//! primary:  "RMRSHM1\n"  status u32  descriptors u32         then, if the status is 0, batches of
//!           first u32  count u32                             with `count` descriptors beside them
//! ```
//! Descriptor n belongs to region n, and is open for writing, too, if the peer may WRITE to the
//! region. The last one belongs to the ack slot.

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The first bytes of every answer.
pub(super) const MAGIC: [u8; 8] = *b"RMRSHM1\n";
/// Descriptors of one message; the kernel takes 253 (SCM_MAX_FD).
const BATCH_MAX: usize = 250;
/// Descriptors of one handover: many more than anybody needs. A store has three regions, an inbox
/// two.
pub(super) const DESCRIPTORS_MAX: usize = 4096;
/// The shortest timeout: the system takes zero for no limit.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// Status: a grant waits for this token.
pub(super) const STATUS_WELCOME: u32 = 0;
/// Status: no grant waits for this token.
pub(super) const STATUS_UNKNOWN: u32 = 1;

/// Bytes of the ancillary data of a full batch.
const ANCILLARY_BYTES: usize = rustix::cmsg_space!(ScmRights(BATCH_MAX));

/// Send the answer that opens a handover.
pub(super) fn send_answer(socket: &UnixStream, status: u32, descriptors: usize) -> io::Result<()> {
    let mut answer = [0; 16];
    answer[..8].copy_from_slice(&MAGIC);
    answer[8..12].copy_from_slice(&status.to_le_bytes());
    answer[12..].copy_from_slice(&(descriptors as u32).to_le_bytes());
    send_with(socket, &answer, &[])
}

/// Send descriptors `0..count`, each opened by `open` just before. Never blocks: all the messages
/// together are far smaller than a socket's buffer.
pub(super) fn send_files(
    socket: &UnixStream,
    count: usize,
    open: impl Fn(usize) -> io::Result<File>,
) -> io::Result<()> {
    for first in (0..count).step_by(BATCH_MAX) {
        let files = (first..count.min(first + BATCH_MAX)).map(&open).collect::<io::Result<Vec<File>>>()?;
        let mut header = [0; 8];
        header[..4].copy_from_slice(&(first as u32).to_le_bytes());
        header[4..].copy_from_slice(&(files.len() as u32).to_le_bytes());
        send_with(socket, &header, &files)?;
    }
    Ok(())
}

fn send_with(socket: &UnixStream, bytes: &[u8], files: &[File]) -> io::Result<()> {
    let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); ANCILLARY_BYTES];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)), "a batch fits into its buffer");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Read the answer: its status and how many descriptors follow.
pub(super) fn receive_answer(socket: &UnixStream, until: Instant) -> io::Result<(u32, usize)> {
    let mut answer = [0; 16];
    if !receive_with(socket, &mut answer, until)?.is_empty() {
        return nonsense("descriptors before their number");
    }
    let (magic, rest) = answer.split_at(8);
    let (status, count) = numbers(rest);
    if magic != MAGIC {
        return nonsense("an answer of another program");
    }
    Ok((status, count as usize))
}

/// Receive the next batch, which must begin with descriptor `first`.
pub(super) fn receive_batch(socket: &UnixStream, first: usize, until: Instant) -> io::Result<Vec<File>> {
    let mut header = [0; 8];
    let files = receive_with(socket, &mut header, until)?;
    let (said_first, count) = numbers(&header);
    if said_first as usize != first || count as usize != files.len() || files.is_empty() {
        return nonsense(
            "another number of descriptors than was said; is the limit of open files (ulimit -n) too low?",
        );
    }
    Ok(files)
}

fn numbers(bytes: &[u8]) -> (u32, u32) {
    let (low, high) = bytes.split_at(4);
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
    (number(low), number(high))
}

/// Fill `bytes`, and return the descriptors that came with them. If more came than fit, the kernel
/// has closed the rest, and this is an error.
fn receive_with(socket: &UnixStream, bytes: &mut [u8], until: Instant) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    let mut read = 0;
    while read < bytes.len() {
        let left = until.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(WAIT_MIN)))?; // zero would be without end
        let mut space = [MaybeUninit::uninit(); ANCILLARY_BYTES];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut room = [IoSliceMut::new(&mut bytes[read..])];
        let message = match recvmsg(socket, &mut room, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => message,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) if Instant::now() < until => continue,
            Err(error) => return Err(error.into()),
        };
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                files.extend(descriptors.map(File::from));
            }
        }
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if message.flags.contains(ReturnFlags::CTRUNC) || files.len() > BATCH_MAX {
            return nonsense("descriptors were lost; raise the limit of open files (ulimit -n)");
        }
        read += message.bytes;
    }
    Ok(files)
}

fn nonsense<T>(what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn many_descriptors_arrive_in_their_order() {
        let (near, far) = UnixStream::pair().unwrap();
        let files: Vec<File> = (0..3).map(|_| tempfile::tempfile().unwrap()).collect();
        let count = 2 * BATCH_MAX + 7;
        send_answer(&near, STATUS_WELCOME, count).unwrap();
        send_files(&near, count, |number| files[number % 3].try_clone()).unwrap();
        assert_eq!(receive_answer(&far, soon()).unwrap(), (STATUS_WELCOME, count));
        let mut number = 0;
        while number < count {
            for file in receive_batch(&far, number, soon()).unwrap() {
                assert_eq!(file.metadata().unwrap().ino(), files[number % 3].metadata().unwrap().ino());
                number += 1;
            }
        }
        assert_eq!(number, count);
    }

    #[test]
    fn what_is_not_as_said_is_refused() {
        for (first, count) in [(1u32, 1u32), (0, 2), (0, u32::MAX), (0, 0)] {
            let (near, far) = UnixStream::pair().unwrap();
            let header = [first.to_le_bytes(), count.to_le_bytes()].concat();
            send_with(&near, &header, &[tempfile::tempfile().unwrap()]).unwrap();
            assert!(receive_batch(&far, 0, soon()).is_err(), "{first} {count}");
        }
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"HTTP/1.1 400 Bad").unwrap();
        assert!(receive_answer(&far, soon()).is_err());
        drop(near);
        assert_eq!(receive_answer(&far, soon()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (_near, far) = UnixStream::pair().unwrap();
        assert_eq!(receive_answer(&far, Instant::now()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
