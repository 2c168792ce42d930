//! How a replica makes a channel: address, route, queue pair, connection. An event answers each
//! step. All steps together take at most [`CONNECT_WAIT_MAX`].

use super::channel::Channel;
use super::devices::{check, choose};
use super::errors::{failed, library};
use super::listener::Reason;
use super::native::cm::{Connection, Event, EventKind, Events, Id};
use super::native::completion::CompletionQueue;
use super::native::memory::Domain;
use super::native::queue::{ACKS_MAX, QueuePair, ReadQueue};
use super::registered::Sources;
use super::{INLINE_BYTES, READ_DEPTH, RETRIES, RNR_RETRIES, VerbsOptions};
use crate::fabric::{self, CONNECT_WAIT_MAX, Cause, DEPTH_MAX, FabricError, Invitation, Kind, WRITE_DEPTH_MAX};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reject reasons of InfiniBand's connection manager (IBA 12.6.7.2): nobody listens there.
const REJECT_NO_SERVICE: i32 = 8;
/// The listener itself rejects the connection.
const REJECT_BY_CONSUMER: i32 = 28;

/// Connect to the address of `invitation`, over the device that `options` name, else the one that
/// the route leads over.
pub fn connect(invitation: &Invitation, options: &VerbsOptions) -> Result<Box<dyn fabric::Channel>, FabricError> {
    Ok(Box::new(establish(invitation, options, Wish::default(), None)?))
}

/// What a queue pair is to be able to do. A test wishes for less, to act as a device that can do
/// less.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// Bytes that an ack takes inline.
    pub inline_bytes: usize,
    /// READs under way.
    pub reads: u8,
}

impl Default for Wish {
    fn default() -> Wish {
        Wish { inline_bytes: INLINE_BYTES, reads: READ_DEPTH }
    }
}

/// The same, with a queue pair as `wish` says, which WRITEs from `sources`, if there are any.
pub(super) fn establish(
    invitation: &Invitation,
    options: &VerbsOptions,
    wish: Wish,
    sources: Option<&Sources>,
) -> Result<Channel, FabricError> {
    let address: SocketAddr = invitation
        .address
        .parse()
        .map_err(|_| failed(Cause::Protocol, format!("\"{}\" is no ADDRESS:PORT of a primary", invitation.address)))?;
    let attempt = Attempt { address, deadline: Instant::now() + CONNECT_WAIT_MAX };
    let library = library()?;
    let source = choose(options, Some(address.ip()))?.address.map(|ip| SocketAddr::new(ip, 0));
    let events = Events::open(library)?;
    let mut id = Id::new(&events, 0)?;
    if let Err(refusal) = id.set_ack_timeout(options.ack_timeout.exponent()) {
        log::info!("verbs: cannot {} (errno {}): the kernel's own holds", refusal.doing, refusal.errno);
    }
    options.tos.map(|tos| id.set_tos(tos)).transpose()?;
    id.resolve(source, address, attempt.left()).map_err(|refusal| attempt.failed(&refusal.into()))?;
    attempt.await_event(&events, EventKind::AddressResolved)?;
    id.route(attempt.left()).map_err(|refusal| attempt.failed(&refusal.into()))?;
    attempt.await_event(&events, EventKind::RouteResolved)?;

    let Some((device, port)) = id.device()? else {
        return Err(failed(Cause::Unsupported, format!("no RDMA device leads to {address}")));
    };
    check(options, &device, port)?;
    let reads = u8::try_from(device.attributes()?.initiator_reads_max).unwrap_or(u8::MAX).clamp(1, wish.reads);
    let registered = sources.and_then(|sources| sources.registered_with(&device));
    let domain = match registered {
        Some(registered) => registered.domain().clone(),
        None => Domain::new(&device)?,
    };
    let sends = DEPTH_MAX + ACKS_MAX + WRITE_DEPTH_MAX;
    let completions = Arc::new(CompletionQueue::new(&device, sends as u32)?);
    let mut pair =
        QueuePair::new(id, &domain, &completions, sends, wish.inline_bytes).map_err(|(_, refusal)| refusal)?;
    pair.connect(&Connection {
        private_data: &invitation.token.0,
        responder_reads: 0,
        initiator_reads: reads,
        retries: RETRIES,
        rnr_retries: RNR_RETRIES,
    })
    .map_err(|refusal| attempt.failed(&refusal.into()))?;
    let established = attempt.await_event(&events, EventKind::Established)?;
    // How many READs the primary takes at a time; 0 means that it has not said so.
    let depth = if established.initiator_reads == 0 { reads } else { reads.min(established.initiator_reads) };
    let sources = sources.map(|sources| sources.register(&domain)).transpose()?.unwrap_or_default();
    Channel::new(ReadQueue::new(pair, completions, sources), invitation, depth.into())
}

/// One attempt to connect.
struct Attempt {
    address: SocketAddr,
    deadline: Instant,
}

impl Attempt {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn failed(&self, error: &FabricError) -> FabricError {
        failed(error.cause, format!("no connection to {}: {}", self.address, error.what))
    }

    /// Wait for the event that is due; an error says how the step failed.
    fn await_event(&self, events: &Arc<Events>, due: EventKind) -> Result<Event, FabricError> {
        loop {
            if let Some(event) = events.next()? {
                if event.kind == due {
                    return Ok(event);
                }
                self.judge(&event)?;
                continue;
            }
            let left = self.left();
            if left.is_zero() {
                return Err(self.timed_out());
            }
            let fd = events.fd();
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(FabricError::from_io(Kind::Verbs, "cannot wait to connect", &error.into())),
            }
        }
    }

    fn timed_out(&self) -> FabricError {
        let seconds = CONNECT_WAIT_MAX.as_secs();
        failed(Cause::TimedOut, format!("no answer from {} within {seconds} s: is its host up?", self.address))
    }

    /// Whether an event that was not due means a failure.
    fn judge(&self, event: &Event) -> Result<(), FabricError> {
        let address = self.address;
        let (name, status) = (event.name, event.status);
        match (event.kind, status) {
            (EventKind::AddressError | EventKind::RouteError, status)
                if [libc::ETIMEDOUT, libc::EHOSTUNREACH].contains(&-status) =>
            {
                Err(self.timed_out())
            }
            (EventKind::AddressError | EventKind::RouteError, _) => Err(failed(
                Cause::Unsupported,
                format!("no RDMA device leads to {address} ({name}, {status}): is it an address of an RDMA network?"),
            )),
            (EventKind::Rejected, REJECT_BY_CONSUMER) => {
                let reason = Reason::parse(&event.private_data);
                let cause = if reason == Some(Reason::UnknownToken) { Cause::UnknownToken } else { Cause::Refused };
                let words = reason.map_or("another program listens there", Reason::text);
                Err(failed(cause, format!("{address} turned the connection down: {words}")))
            }
            (EventKind::Rejected, status) if status == REJECT_NO_SERVICE || status == -libc::ECONNREFUSED => {
                Err(failed(Cause::Refused, format!("nobody listens at {address}")))
            }
            (EventKind::Rejected, _) => {
                Err(failed(Cause::Refused, format!("{address} turned the connection down (reason {status})")))
            }
            (EventKind::Unreachable, _) => Err(self.timed_out()),
            (EventKind::ConnectError | EventKind::Disconnected, _) => {
                Err(failed(Cause::Closed, format!("the connection to {address} failed ({name}, {status})")))
            }
            (EventKind::DeviceRemoval, _) => Err(failed(Cause::System, "the device was removed")),
            _ => Ok(()),
        }
    }
}
