//! The replica's end of shared memory. `submit` carries a READ out at once; [`Channel::poll`] hands
//! the completion over.

use super::handover::{self, STATUS_UNKNOWN, STATUS_WELCOME};
use super::{error, is_name};
use crate::fabric::{
    ACK_BYTES, CONNECT_WAIT_MAX, Cause, Channel, Completion, DEPTH_MAX, FabricError, Invitation, Kind, Landing,
    READ_BYTES_MAX, Read, Regions, WRITE_DEPTH_MAX, Write, WriteChannel,
};
use crate::sys::foreign::{ForeignWords, SharedWords, copy};
use crate::sys::reach::{connect_unix, share};
use crate::sys::receive::receive;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockAddr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

/// How often a busy channel checks that its primary is still there. The check is a system call of
/// some 100 ns, which is more than a READ of one line costs.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Connect to the socket that `invitation` names.
pub fn connect(invitation: &Invitation) -> Result<Box<dyn Channel>, FabricError> {
    Ok(Box::new(establish(invitation)?))
}

/// The same, to WRITE from `sources`.
pub(super) fn connect_writer(
    invitation: &Invitation,
    sources: Arc<dyn Regions>,
) -> Result<Box<dyn WriteChannel>, FabricError> {
    Ok(Box::new(ShmChannel { sources: Some(sources), ..establish(invitation)? }))
}

fn establish(invitation: &Invitation) -> Result<ShmChannel, FabricError> {
    let failed = |doing: &str, error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData => super::error(Cause::Protocol, format!("{doing}: {error}")),
        _ => FabricError::from_io(Kind::Shm, doing, &error),
    };
    if !is_name(&invitation.address) {
        let what = format!("\"{}\" is no name that Remora gives to a socket", invitation.address.escape_debug());
        return Err(error(Cause::Protocol, what));
    }
    let until = Instant::now() + CONNECT_WAIT_MAX;
    let socket = greet(invitation, until).map_err(|error| {
        let doing =
            format!("connecting to {} of this host (another host, or another network namespace?)", invitation.address);
        failed(&doing, error)
    })?;
    let expected = invitation.regions.len() + 1;
    match handover::receive_answer(&socket, until).map_err(|error| failed("the primary's answer", error))? {
        (STATUS_WELCOME, count) if count == expected => {}
        (STATUS_WELCOME, count) => {
            return Err(error(
                Cause::Protocol,
                format!("the primary hands over {count} pieces of memory, not {expected}"),
            ));
        }
        (STATUS_UNKNOWN, _) => {
            return Err(error(Cause::UnknownToken, "the primary does not know the token, or no longer"));
        }
        (status, _) => return Err(error(Cause::Protocol, format!("the primary answers with status {status}"))),
    }
    let (regions, ack) = map_all(&socket, invitation, until).map_err(|error| failed("the primary's memory", error))?;
    socket.set_nonblocking(true).map_err(|error| failed("a unix socket", error))?;
    let (done, looked) = (Vec::new(), Instant::now());
    Ok(ShmChannel { socket, regions, ack, sources: None, written: 0, done, over: None, looked })
}

fn greet(invitation: &Invitation, until: Instant) -> io::Result<UnixStream> {
    let mut socket = connect_unix(&SockAddr::unix(format!("\0{}", invitation.address))?, until)?;
    socket.set_write_timeout(Some(share(until, 1)))?;
    socket.write_all(&invitation.token.0)?;
    Ok(socket)
}

/// Map the regions and the ack slot batch by batch, so that only one batch of descriptors is open
/// at a time.
fn map_all(
    socket: &UnixStream,
    invitation: &Invitation,
    until: Instant,
) -> io::Result<(Vec<ForeignWords>, SharedWords)> {
    let mut regions = Vec::new();
    loop {
        for file in handover::receive_batch(socket, regions.len(), until)? {
            match invitation.regions.get(regions.len()) {
                Some(descriptor) => regions.push(ForeignWords::map(&file, length(descriptor.bytes)?)?),
                None => return Ok((regions, map_ack(&file, invitation)?)),
            }
        }
    }
}

fn map_ack(file: &File, invitation: &Invitation) -> io::Result<SharedWords> {
    SharedWords::map(file, length(invitation.ack.bytes)?)
}

/// The length to map, if the peer's number can be one. `ForeignWords::map` compares it with the
/// file's length before it maps anything.
fn length(bytes: u64) -> io::Result<usize> {
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0 && bytes.is_multiple_of(8));
    bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "memory of an impossible length"))
}

struct ShmChannel {
    socket: UnixStream,
    regions: Vec<ForeignWords>,
    ack: SharedWords,
    /// Of one that WRITEs.
    sources: Option<Arc<dyn Regions>>,
    /// WRITEs since the last READ. They are carried out already, and counted only so that a
    /// caller's mistake shows on this fabric, too.
    written: usize,
    done: Vec<Completion>,
    over: Option<FabricError>,
    looked: Instant,
}

impl Channel for ShmChannel {
    fn kind(&self) -> Kind {
        Kind::Shm
    }

    fn depth_max(&self) -> usize {
        DEPTH_MAX
    }

    fn landing(&mut self, bytes: usize) -> Result<Landing, FabricError> {
        Landing::new(bytes).map_err(|error| FabricError::from_io(Kind::Shm, "memory for a landing", &error))
    }

    fn submit(&mut self, reads: &mut Vec<Read>) -> Result<(), FabricError> {
        self.look_at_times();
        self.check()?;
        assert!(self.done.len() + reads.len() <= DEPTH_MAX, "more READs under way than were allowed");
        self.written = if reads.is_empty() { self.written } else { 0 };
        for read in reads.drain(..) {
            let outcome = self.check().and_then(|()| self.carry_out(&read));
            if let Err(error) = &outcome {
                self.over.get_or_insert_with(|| error.clone());
            }
            self.done.push(Completion { tag: read.tag, landing: read.landing, outcome });
        }
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Completion>, wait: Duration) -> Result<usize, FabricError> {
        if self.done.is_empty() {
            self.check()?;
            self.look(wait);
            self.check()?;
        }
        let count = self.done.len();
        done.append(&mut self.done);
        Ok(count)
    }

    fn write_ack(&mut self, offset: usize, words: &[u64]) -> Result<bool, FabricError> {
        self.look_at_times();
        self.check()?;
        assert!(
            words.len() * 8 <= ACK_BYTES && offset.is_multiple_of(8),
            "a WRITE is whole words, no more than a slot"
        );
        let Some(to) = self.ack.words().get(offset / 8..).and_then(|slot| slot.get(..words.len())) else {
            let what = format!("a WRITE of {} bytes at {offset} reaches beyond the ack slot", words.len() * 8);
            self.over = Some(error(Cause::Access, what));
            return self.check().map(|()| true);
        };
        to.iter().zip(words).for_each(|(to, word)| to.store(*word, Ordering::Release));
        Ok(true)
    }
}

impl WriteChannel for ShmChannel {
    fn write(&mut self, writes: &[Write]) -> Result<(), FabricError> {
        self.look_at_times();
        self.check()?;
        self.written += writes.len();
        assert!(self.written <= WRITE_DEPTH_MAX, "more WRITEs under way than were allowed");
        for write in writes {
            if let Err(error) = self.carry_out_write(write) {
                self.over = Some(error);
                return self.check();
            }
        }
        Ok(())
    }
}

impl ShmChannel {
    fn carry_out(&self, read: &Read) -> Result<(), FabricError> {
        assert!(
            read.bytes.is_multiple_of(8) && read.bytes <= READ_BYTES_MAX,
            "a READ is whole words, and not too many"
        );
        let to = read.landing.words(read.bytes);
        let region = self.regions.get(read.region as usize);
        let within = |region: &&ForeignWords| {
            let end = read.offset.checked_add(read.bytes as u64);
            read.offset.is_multiple_of(8) && end.is_some_and(|end| end <= region.bytes() as u64)
        };
        let Some(region) = region.filter(within) else {
            let what = format!(
                "a READ of {} bytes at {} of region {}, which it is not in",
                read.bytes, read.offset, read.region
            );
            return Err(error(Cause::Access, what));
        };
        region.copy_to((read.offset / 8) as usize, to);
        // Order (see shm.rs): later READs see nothing older than this one saw.
        fence(Ordering::Acquire);
        Ok(())
    }

    fn carry_out_write(&self, write: &Write) -> Result<(), FabricError> {
        let Write { source, from, region, offset, bytes } = *write;
        assert!(bytes.is_multiple_of(8) && from.is_multiple_of(8) && bytes <= READ_BYTES_MAX, "a WRITE is whole words");
        let sources = self.sources.as_ref().expect("a channel that WRITEs has sources");
        let words = &sources.memory(source).words()[from / 8..][..bytes / 8];
        let first = usize::try_from(offset / 8).unwrap_or(usize::MAX);
        let shared = self.regions.get(region as usize).and_then(ForeignWords::shared);
        let to = shared.filter(|_| offset.is_multiple_of(8)).and_then(|shared| shared.get(first..)?.get(..words.len()));
        let Some(to) = to else {
            let what =
                format!("a WRITE of {bytes} bytes at {offset} of region {region}, which is not in it, or not allowed");
            return Err(error(Cause::Access, what));
        };
        // Order (see shm.rs): the peer sees these stores after all earlier ones and before all
        // later ones.
        fence(Ordering::SeqCst);
        copy(words, to);
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn check(&self) -> Result<(), FabricError> {
        self.over.clone().map_or(Ok(()), Err)
    }

    fn look_at_times(&mut self) {
        if self.over.is_none() && self.looked.elapsed() >= LOOK_EVERY {
            self.look(Duration::ZERO);
        }
    }

    /// Check that the primary is still there; wait up to `wait` for its end. A signal may shorten
    /// the wait.
    fn look(&mut self, wait: Duration) {
        if !wait.is_zero() {
            let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
            let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout));
        }
        self.over = match receive(&self.socket, &mut [0; 8]) {
            Ok(None) => None,
            Ok(Some(0)) => Some(error(Cause::Closed, "the primary ended the channel, or its process has ended")),
            Ok(Some(_)) => Some(error(Cause::Protocol, "the primary sent bytes where none belong")),
            Err(error) => Some(FabricError::from_io(Kind::Shm, "looking for the primary", &error)),
        };
        self.looked = Instant::now();
    }
}
