//! A nonblocking socket to a server: TCP or unix, plain or by TLS. Bytes to be sent gather in a
//! buffer; what the socket does not take at once goes out when it can.
//!
//! While something waits to go out both directions are watched, the second through a duplicate of
//! the socket: a server that takes no requests until its answers are taken must not meet a client
//! that does the same.

use super::client::{ClientError, socket_failure};
use super::secure::{Secure, Trust};
use crate::sys::poll::{Interest, Poller};
use crate::sys::reach::share;
use crate::sys::receive::receive;
use crate::sys::send::{Part, send_parts};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

/// A server, as it was named, and where it may be.
#[derive(Debug, Clone)]
pub struct Target {
    /// As the operator wrote it.
    pub name: String,
    /// Tried in this order.
    pub addresses: Vec<SockAddr>,
    /// By TLS, to whom this says.
    pub trust: Option<Trust>,
}

/// See the module.
pub struct Stream {
    socket: Socket,
    secure: Option<Box<Secure>>,
    token: u64,
    /// Bytes to send; those before `sent` have gone.
    pub out: Vec<u8>,
    sent: usize,
    /// Made at the first need.
    write_side: Option<Socket>,
    is_write_watched: bool,
}

impl Stream {
    /// Connect, to whichever address answers, all of them within `wait_max`. Its events carry the
    /// token 2 * `number` or 2 * `number` + 1.
    pub fn open(target: &Target, wait_max: Duration, number: u32) -> Result<Stream, ClientError> {
        let failed = |cause| ClientError::Connect { address: target.name.clone(), cause };
        let mut outcome = Err(io::Error::new(ErrorKind::NotFound, "no address"));
        let until = Instant::now() + wait_max;
        for (at, address) in target.addresses.iter().enumerate() {
            outcome = connect(address, share(until, target.addresses.len() - at));
            if outcome.is_ok() {
                break;
            }
        }
        let socket = outcome.map_err(failed)?;
        let begin = |trust| Secure::begin(trust, &socket, wait_max).map(Box::new);
        let secure = target.trust.as_ref().map(begin).transpose();
        let secure = secure.map_err(|cause| ClientError::Handshake { address: target.name.clone(), cause })?;
        socket.set_nonblocking(true).map_err(failed)?;
        let token = u64::from(number) * 2;
        Ok(Stream { socket, secure, token, out: Vec::new(), sent: 0, write_side: None, is_write_watched: false })
    }

    /// Have answers watched for.
    pub fn watch(&self, poller: &Poller) -> io::Result<()> {
        poller.add(&self.socket, self.token, Interest::Read)
    }

    /// The number of the connection that an event is about.
    pub fn number_of(token: u64) -> u32 {
        (token / 2) as u32
    }

    /// Bytes that wait to go out.
    pub fn unsent_bytes(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Send what the socket takes. What it does not take is watched for.
    pub fn flush(&mut self, poller: &Poller) -> Result<(), ClientError> {
        while self.sent < self.out.len() {
            let rest = &self.out[self.sent..];
            let sent = match &mut self.secure {
                None => send_parts(&self.socket, &[Part::Bytes(rest)]),
                Some(secure) => secure.send(&self.socket, rest),
            };
            match sent {
                Ok(bytes) => self.sent += bytes,
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                    return self.watch_write(poller, true).map_err(|cause| socket_failure("waiting to write", cause));
                }
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(socket_failure("writing", cause)),
            }
        }
        self.out.clear();
        self.sent = 0;
        self.watch_write(poller, false).map_err(|cause| socket_failure("waiting to write", cause))
    }

    /// Read what is there into `buffer`. None when there is nothing.
    pub fn receive<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>, ClientError> {
        let received = match &mut self.secure {
            None => receive(&self.socket, buffer),
            Some(secure) => secure.receive(&self.socket, buffer),
        };
        match received.map_err(|cause| socket_failure("reading", cause))? {
            Some(0) => Err(ClientError::Closed),
            Some(bytes) => Ok(Some(&buffer[..bytes])),
            None => Ok(None),
        }
    }

    /// Whether there may be more to be received of which the socket does not tell.
    pub fn has_more(&self) -> bool {
        self.secure.as_ref().is_some_and(|secure| secure.has_more())
    }

    /// The version and the suite of its TLS.
    pub fn terms(&self) -> Option<String> {
        self.secure.as_ref()?.terms()
    }

    fn watch_write(&mut self, poller: &Poller, watch: bool) -> io::Result<()> {
        if watch == self.is_write_watched {
            return Ok(());
        }
        if self.write_side.is_none() {
            self.write_side = Some(self.socket.try_clone()?);
        }
        let write_side = self.write_side.as_ref().expect("just made");
        self.is_write_watched = watch;
        if watch { poller.add(write_side, self.token + 1, Interest::Write) } else { poller.remove(write_side) }
    }
}

fn connect(address: &SockAddr, wait_max: Duration) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    socket.connect_timeout(address, wait_max)?;
    if address.domain() != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    const WAIT_MAX: Duration = Duration::from_secs(20);

    #[test]
    fn more_than_the_socket_takes_goes_out_while_answers_come_in() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target = Target { name: address.to_string(), addresses: vec![address.into()], trust: None };
        let mut poller = Poller::new().unwrap();
        let mut stream = Stream::open(&target, WAIT_MAX, 3).unwrap();
        stream.watch(&poller).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let all_bytes = 32 << 20;
        stream.out = vec![b'x'; all_bytes];
        stream.flush(&poller).unwrap();
        assert!(stream.unsent_bytes() > 0 && stream.is_write_watched, "more than two sockets' buffers hold");
        far.write_all(b"answer").unwrap();
        let reader = std::thread::spawn(move || {
            let mut taken = vec![0; all_bytes];
            far.read_exact(&mut taken).map(|()| taken)
        });
        let (mut buffer, mut came) = ([0; 64], Vec::new());
        while stream.unsent_bytes() > 0 || came.is_empty() {
            poller.wait(WAIT_MAX).unwrap();
            assert!(poller.ready() > 0, "no progress");
            for at in 0..poller.ready() {
                assert_eq!(Stream::number_of(poller.token(at)), 3);
            }
            stream.flush(&poller).unwrap();
            came.extend_from_slice(stream.receive(&mut buffer).unwrap().unwrap_or_default());
        }
        assert_eq!(came, b"answer");
        assert!(!stream.is_write_watched);
        assert!(reader.join().unwrap().unwrap().iter().all(|byte| *byte == b'x'));
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let path = SockAddr::unix("/nonexistent/remora.sock").unwrap();
        let target = Target { name: "unix:/nonexistent/remora.sock".into(), addresses: vec![path], trust: None };
        let error = Stream::open(&target, WAIT_MAX, 0).err().unwrap().to_string();
        assert!(error.contains("unix:/nonexistent/remora.sock"), "{error}");
    }
}
