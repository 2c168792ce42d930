//! The primary's end of TCP: the listener, and grants. Each replica that is let in gets a responder
//! thread of its own.

use super::frames::{GREETING_BYTES, Status, WELCOME_BYTES, parse_greeting, welcome};
use super::{error, responder};
use crate::fabric::door::{Door, Entrance};
use crate::fabric::waiting::{ACK_DESCRIPTOR, Stage, Step, Waiting, descriptors};
use crate::fabric::{ACK_BYTES, Cause, Descriptor, FabricError, Grant, GrantState, Kind, Regions, Token};
use crate::sys::memory::Memfd;
use crate::sys::send::{Part, send_parts};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

/// See the module.
pub struct Exporter {
    address: SocketAddr,
    waiting: Arc<Waiting<Granted>>,
    _door: Door,
}

impl Exporter {
    /// Listen at `address`; port 0 takes one that is free.
    pub fn listen(address: SocketAddr) -> Result<Exporter, FabricError> {
        let bind = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        };
        let (bound, listener) = bind().map_err(|error: io::Error| {
            FabricError::from_io(Kind::Tcp, &format!("listening for replicas at {address}"), &error)
        })?;
        let waiting = Arc::new(Waiting::default());
        let door = Door::open("tcp-door", TcpEntrance { listener, waiting: waiting.clone() });
        let door = door.map_err(|error| FabricError::from_io(Kind::Tcp, "a thread for replicas by TCP", &error))?;
        Ok(Exporter { address: bound, waiting, _door: door })
    }
}

impl crate::fabric::Exporter for Exporter {
    fn kind(&self) -> Kind {
        Kind::Tcp
    }

    fn address(&self) -> String {
        self.address.to_string()
    }

    fn grant(&self, token: Token, regions: Arc<dyn Regions>) -> Result<Box<dyn Grant>, FabricError> {
        let descriptors = descriptors(&*regions);
        let ack = Memfd::new("remora-ack", ACK_BYTES, false);
        let ack = ack.map_err(|error| FabricError::from_io(Kind::Tcp, "memory for an ack slot", &error))?;
        let granted =
            Arc::new(Granted { regions, ack: Arc::new(ack), stage: Stage::waiting(), caller: Mutex::default() });
        let until = self.waiting.add(Kind::Tcp, token, granted.clone())?;
        Ok(Box::new(TcpGrant { granted, descriptors, token, waiting: self.waiting.clone(), until }))
    }
}

/// What one caller may read and write. The grant and its responder share it.
pub(super) struct Granted {
    pub(super) regions: Arc<dyn Regions>,
    pub(super) ack: Arc<Memfd>,
    pub(super) stage: Stage<()>,
    /// Set at most once, together with the stage `Connected`.
    caller: Mutex<Option<Caller>>,
}

/// What is needed to end a responder. The responder itself owns the socket.
struct Caller {
    socket: Weak<TcpStream>,
    thread: JoinHandle<()>,
}

impl Granted {
    fn let_in(self: &Arc<Self>, socket: TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        send_whole(&socket, &welcome(Status::Good, self.regions.count()))?;
        let socket = Arc::new(socket);
        let ends_it = Arc::downgrade(&socket);
        let thread = responder::start(socket, self.clone())?;
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(Caller { socket: ends_it, thread });
        Ok(())
    }
}

/// Send a welcome. A new connection always has room for these few bytes.
fn send_whole(socket: &TcpStream, bytes: &[u8; WELCOME_BYTES]) -> io::Result<()> {
    if send_parts(socket, &[Part::Bytes(bytes)])? == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

struct TcpEntrance {
    listener: TcpListener,
    waiting: Arc<Waiting<Granted>>,
}

impl Entrance for TcpEntrance {
    type Socket = TcpStream;
    const GREETING_BYTES: usize = GREETING_BYTES;

    fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn accept(&self) -> io::Result<TcpStream> {
        Ok(self.listener.accept()?.0)
    }

    fn admit(&self, socket: TcpStream, greeting: &[u8]) {
        let refuse = |status| {
            log::warn!("tcp: a replica was not let in: {status:?}");
            let _ = send_whole(&socket, &welcome(status, 0));
        };
        let granted = match parse_greeting(greeting) {
            None => return, // no replica
            Some(Err(status)) => return refuse(status),
            Some(Ok(token)) => self.waiting.take(&token),
        };
        let Some(granted) = granted else { return refuse(Status::Unknown) };
        // Under the lock: if the grant is dropped meanwhile, its drop waits for the lock, and then
        // ends this connection.
        let mut step = granted.stage.lock();
        if matches!(*step, Step::Waiting) {
            *step = match granted.let_in(socket) {
                Ok(()) => Step::Connected(()),
                Err(error) => Step::Over(FabricError::from_io(Kind::Tcp, "letting a replica in", &error)),
            };
        }
    }
}

struct TcpGrant {
    granted: Arc<Granted>,
    descriptors: Vec<Descriptor>,
    token: Token,
    waiting: Arc<Waiting<Granted>>,
    until: Instant,
}

impl Grant for TcpGrant {
    fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }

    fn ack(&self) -> &Arc<Memfd> {
        &self.granted.ack
    }

    fn ack_descriptor(&self) -> Descriptor {
        ACK_DESCRIPTOR
    }

    fn state(&mut self) -> Result<GrantState, FabricError> {
        self.granted.stage.state(Kind::Tcp, Instant::now() < self.until)
    }
}

impl Drop for TcpGrant {
    fn drop(&mut self) {
        self.waiting.take(&self.token);
        *self.granted.stage.lock() = Step::Over(error(Cause::Closed, "the grant was dropped"));
        let caller = self.granted.caller.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Caller { socket, thread }) = caller else { return };
        if let Some(socket) = socket.upgrade() {
            let _ = socket.shutdown(Shutdown::Both); // wakes the responder, and fails its next send
        }
        let _ = thread.join();
    }
}
