//! The primary's end of shared memory: an abstract unix socket with a random name. A peer that
//! connects and shows the token of a waiting grant gets the descriptors of the regions. After that
//! the socket carries no bytes: when one side closes it, the other learns that the channel has
//! ended.

use super::handover::{self, DESCRIPTORS_MAX, STATUS_UNKNOWN, STATUS_WELCOME};
use super::{NAME_DIGITS, NAME_PREFIX, error};
use crate::fabric::door::{Door, Entrance};
use crate::fabric::waiting::{ACK_DESCRIPTOR, Stage, Step, Waiting, descriptors, nobody_came};
use crate::fabric::{
    ACK_BYTES, Access, Cause, ConnectsWriters, Descriptor, FabricError, Grant, GrantState, Invitation, Kind, Regions,
    Token, WriteChannel,
};
use crate::sys::memory::Memfd;
use crate::sys::receive::receive;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Instant;

/// How many names are tried. The names are random, so that even one is taken already is unlikely.
const NAMES_MAX: usize = 8;

/// See the module.
pub struct Exporter {
    name: String,
    waiting: Arc<Waiting<Granted>>,
    _door: Door,
}

impl Exporter {
    /// Listen at a new name.
    pub fn listen() -> Result<Exporter, FabricError> {
        let (name, listener) =
            bind().map_err(|error| FabricError::from_io(Kind::Shm, "an abstract unix socket", &error))?;
        let waiting = Arc::new(Waiting::default());
        let door = Door::open("shm-door", ShmEntrance { listener, waiting: waiting.clone() });
        let door =
            door.map_err(|error| FabricError::from_io(Kind::Shm, "a thread for replicas of this host", &error))?;
        Ok(Exporter { name, waiting, _door: door })
    }
}

fn bind() -> io::Result<(String, UnixListener)> {
    let mut tries = 0;
    loop {
        tries += 1;
        // The name need not be a secret, only unused: the token decides who is admitted.
        let name = format!("{NAME_PREFIX}{:0NAME_DIGITS$x}", fastrand::u64(..));
        match UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok((name, listener));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < NAMES_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

impl crate::fabric::Exporter for Exporter {
    fn kind(&self) -> Kind {
        Kind::Shm
    }

    fn address(&self) -> String {
        self.name.clone()
    }

    fn grant(&self, token: Token, regions: Arc<dyn Regions>) -> Result<Box<dyn Grant>, FabricError> {
        let count = regions.count();
        if count >= DESCRIPTORS_MAX {
            let what = format!("{count} regions are more than {}; use fewer shards", DESCRIPTORS_MAX - 1);
            return Err(error(Cause::Unsupported, what));
        }
        let descriptors = descriptors(&*regions);
        let ack = Memfd::for_writers("remora-ack", ACK_BYTES);
        let ack = ack.map_err(|error| FabricError::from_io(self.kind(), "memory for an ack slot", &error))?;
        let granted = Arc::new(Granted { regions, ack: Arc::new(ack), stage: Stage::waiting() });
        let until = self.waiting.add(self.kind(), token, granted.clone())?;
        Ok(Box::new(ShmGrant { granted, descriptors, token, waiting: self.waiting.clone(), until }))
    }

    fn writer(&self) -> Option<&dyn ConnectsWriters> {
        Some(self)
    }
}

impl ConnectsWriters for Exporter {
    fn connect(
        &self,
        invitation: &Invitation,
        sources: Arc<dyn Regions>,
    ) -> Result<Box<dyn WriteChannel>, FabricError> {
        super::channel::connect_writer(invitation, sources)
    }
}

/// What one peer is given.
struct Granted {
    regions: Arc<dyn Regions>,
    ack: Arc<Memfd>,
    stage: Stage<UnixStream>,
}

impl Granted {
    fn hand_over(&self, socket: &UnixStream) -> io::Result<()> {
        let count = self.regions.count();
        handover::send_answer(socket, STATUS_WELCOME, count + 1)?;
        handover::send_files(socket, count + 1, |number| match number {
            number if number == count => self.ack.file().try_clone(),
            number => match self.regions.access(number) {
                Access::Read => self.regions.memory(number).open_for_reading(),
                Access::Write => self.regions.memory(number).file().try_clone(),
            },
        })
    }
}

struct ShmEntrance {
    listener: UnixListener,
    waiting: Arc<Waiting<Granted>>,
}

impl Entrance for ShmEntrance {
    type Socket = UnixStream;
    const GREETING_BYTES: usize = 16;

    fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept()?.0)
    }

    fn admit(&self, socket: UnixStream, greeting: &[u8]) {
        let Ok(token) = greeting.try_into() else { return };
        let Some(granted) = self.waiting.take(&Token(token)) else {
            log::warn!("shm: a process showed a token that nobody waits for");
            let _ = handover::send_answer(&socket, STATUS_UNKNOWN, 0);
            return;
        };
        // Under the lock: if the grant is dropped meanwhile, its drop waits for the lock, and then
        // ends this connection.
        let mut step = granted.stage.lock();
        if matches!(*step, Step::Waiting) {
            *step = match granted.hand_over(&socket) {
                Ok(()) => Step::Connected(socket),
                Err(error) => Step::Over(FabricError::from_io(Kind::Shm, "handing memory to a replica", &error)),
            };
        }
    }
}

struct ShmGrant {
    granted: Arc<Granted>,
    descriptors: Vec<Descriptor>,
    token: Token,
    waiting: Arc<Waiting<Granted>>,
    until: Instant,
}

impl Grant for ShmGrant {
    fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }

    fn ack(&self) -> &Arc<Memfd> {
        &self.granted.ack
    }

    fn ack_descriptor(&self) -> Descriptor {
        ACK_DESCRIPTOR
    }

    /// Costs one system call once the peer is connected.
    fn state(&mut self) -> Result<GrantState, FabricError> {
        let mut step = self.granted.stage.lock();
        let ended = match &*step {
            Step::Waiting if Instant::now() < self.until => return Ok(GrantState::Waiting),
            Step::Waiting => nobody_came(Kind::Shm),
            Step::Connected(socket) => match receive(socket, &mut [0; 8]) {
                Ok(None) => return Ok(GrantState::Connected),
                Ok(Some(0)) => error(Cause::Closed, "the replica ended its channel, or its process has ended"),
                Ok(Some(_)) => error(Cause::Protocol, "the replica sent bytes where none belong"),
                Err(error) => FabricError::from_io(Kind::Shm, "looking for the replica", &error),
            },
            Step::Over(error) => return Err(error.clone()),
        };
        *step = Step::Over(ended.clone()); // closes the socket
        Err(ended)
    }
}

impl Drop for ShmGrant {
    fn drop(&mut self) {
        self.waiting.take(&self.token);
        let mut step = self.granted.stage.lock();
        if let Step::Connected(socket) = &*step {
            let _ = socket.shutdown(Shutdown::Both);
        }
        *step = Step::Over(error(Cause::Closed, "the grant was dropped"));
    }
}
