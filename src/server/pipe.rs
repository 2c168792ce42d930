//! One end of a link between two servers: bytes both ways, over the TLS session and the socket on
//! which they have proved themselves to one another. It never blocks: what is missing is waited for
//! by the worker's poll.

use crate::replication::link::Line;
use crate::sys::receive::receive;
use rustls::Connection;
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

/// A queue of bytes that has emptied keeps no more memory than this.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// A link that carries nothing is looked after by the system from then on: its other end may be
/// gone without a word.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Bytes on their way.
#[derive(Default)]
pub struct Bytes {
    buffer: Vec<u8>,
    /// Those before are done with.
    start: usize,
    /// So many of those to come are not wanted.
    skip_bytes: usize,
}

impl Bytes {
    /// Those that are not done with.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// The same, to append to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// The first `bytes` of them are done with.
    pub fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.buffer.len() {
            self.start = 0;
            self.buffer.clear();
            if self.buffer.capacity() > KEPT_BYTES_MAX {
                self.buffer = Vec::new();
            }
        } else if self.start > self.buffer.len() - self.start {
            // Worth moving the rest.
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }

    /// So many bytes from here on are not wanted, those to come among them.
    pub fn skip(&mut self, bytes: usize) {
        let here = bytes.min(self.pending().len());
        self.consume(here);
        self.skip_bytes += bytes - here;
    }

    /// More has come: drop what is not wanted of it.
    fn note_arrived(&mut self) {
        let bytes = std::mem::take(&mut self.skip_bytes);
        self.skip(bytes);
    }

    /// Bytes of memory held.
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}

/// See the module.
pub struct Pipe {
    stream: TcpStream,
    tls: Connection,
    /// What has arrived, opened.
    pub incoming: Bytes,
    /// What is to be sent, before it is sealed.
    pub outgoing: Bytes,
    /// The other side has said that nothing more comes.
    is_ending: bool,
}

impl Pipe {
    /// Over a connection that carries nothing else from here on.
    pub fn new(line: Line) -> io::Result<Pipe> {
        let Line { stream, tls, received, .. } = line;
        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
        let incoming = Bytes { buffer: received, ..Bytes::default() };
        let mut pipe = Pipe { stream, tls, incoming, outgoing: Bytes::default(), is_ending: false };
        // What has arrived together with the last message makes no socket ready.
        pipe.open()?;
        Ok(pipe)
    }

    /// The socket's number.
    pub fn descriptor(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Read once, by way of `cipher`, behind what has arrived. None when there is nothing now,
    /// Some(0) at the end.
    pub fn receive(&mut self, cipher: &mut [u8]) -> io::Result<Option<usize>> {
        if self.is_ending {
            return Ok(Some(0));
        }
        let Some(bytes) = receive(&self.stream, cipher)? else { return Ok(None) };
        let mut sealed = &cipher[..bytes];
        while !sealed.is_empty() && self.tls.read_tls(&mut sealed)? > 0 {
            self.open()?;
        }
        Ok(Some(bytes))
    }

    /// Move what TLS has opened.
    fn open(&mut self) -> io::Result<()> {
        let state = self.tls.process_new_packets();
        let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.is_ending |= state.peer_has_closed();
        let (opened, buffer) = (state.plaintext_bytes_to_read(), &mut self.incoming.buffer);
        if opened == 0 {
            return Ok(());
        }
        let begin = buffer.len();
        buffer.resize(begin + opened, 0);
        self.tls.reader().read_exact(&mut buffer[begin..])?;
        self.incoming.note_arrived();
        Ok(())
    }

    /// Have the socket take what it takes. Returns how many bytes that is, sealed.
    pub fn send(&mut self) -> io::Result<usize> {
        let mut taken_bytes = 0;
        loop {
            // TLS takes a part at a time, and no more before the socket has that.
            if !self.tls.wants_write() && !self.outgoing.pending().is_empty() {
                let sealed = self.tls.writer().write(self.outgoing.pending())?;
                self.outgoing.consume(sealed);
            }
            if !self.tls.wants_write() {
                if !self.outgoing.pending().is_empty() {
                    return Err(io::Error::other("this TLS session seals nothing more"));
                }
                return Ok(taken_bytes);
            }
            match self.tls.write_tls(&mut self.stream) {
                Ok(bytes) => taken_bytes += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(taken_bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether something is left to be sent.
    pub fn has_unsent(&self) -> bool {
        self.tls.wants_write() || !self.outgoing.pending().is_empty()
    }

    /// Say that nothing more comes, if the socket takes it.
    pub fn close(&mut self) {
        self.tls.send_close_notify();
        let _ = self.tls.write_tls(&mut self.stream);
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_in_their_order_and_give_memory_back() {
        let mut bytes = Bytes::default();
        bytes.buffer().extend_from_slice(&vec![b'a'; 3 * KEPT_BYTES_MAX]);
        bytes.buffer().extend_from_slice(b"xyz");
        bytes.consume(3 * KEPT_BYTES_MAX);
        assert_eq!(bytes.pending(), b"xyz");
        bytes.consume(1);
        bytes.buffer().push(b'!');
        assert_eq!(bytes.pending(), b"yz!");
        bytes.consume(3);
        assert!(bytes.pending().is_empty() && bytes.held_bytes() == 0);
        bytes.buffer().extend_from_slice(b"few");
        bytes.skip(5);
        assert!(bytes.pending().is_empty(), "two are to come");
        for (arrived, left) in [(&b"1"[..], &b""[..]), (b"2abc", b"abc"), (b"d", b"abcd")] {
            bytes.buffer().extend_from_slice(arrived);
            bytes.note_arrived();
            assert_eq!(bytes.pending(), left);
        }
        bytes.consume(4);
        assert!((1..=KEPT_BYTES_MAX).contains(&bytes.held_bytes()), "little is kept for the next");
    }
}
