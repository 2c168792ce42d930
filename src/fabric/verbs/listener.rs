//! The listening thread of a primary. A connection request carries its token in its private data; a
//! request with another token is rejected with a [`Reason`].
//!
//! A device can go away while the server runs (its driver is reloaded, its link is deleted), and so
//! can the address. Then nothing is granted ("not yet"), and the thread listens again, after pauses
//! that grow. With the device goes everything that is registered with it: the grants end, and what
//! was prepared is registered with the device that is there next.
//!
//! RDMA CM tells of a device's end to ids that are bound to an address of it. Where the listener is
//! at the unspecified address, another id is bound to one, to be told. It then waits for the same
//! device again: replicas reach it over that one.

use super::VerbsOptions;
use super::backoff::Backoff;
use super::desk::Desk;
use super::devices::{ChosenDevice, check, choose, choose_again, is_here};
use super::errors::failed;
use super::native::cm::{Connection, Event, EventKind, Events, Id};
use super::native::device::Device;
use super::standing::{Standing, Stop};
use super::{READ_DEPTH, RETRIES, RNR_RETRIES};
use crate::fabric::{Cause, FabricError, Kind, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests that may wait for the listening thread: more replicas than anyone has, joining at once.
const BACKLOG: u32 = 16;

/// Longest sleep of the listening thread, and how often it looks whether its address is still here.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The first pause before it tries to listen again, and the longest.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
/// See [`RETRY_PAUSE_MIN`].
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Events carry the key 0 when they are about the listener; endpoints count from 1.
const LISTENER: u64 = 0;

/// Why a request is turned down: the second byte of the reject's private data, behind
/// [`REASON_MARK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reason {
    /// No grant waits for this token: it was never given out, was used already, or its time is
    /// over.
    UnknownToken = 1,
    /// The request came over another device than the one that memory is registered with.
    OtherDevice = 2,
    /// The primary could not set it up.
    Failed = 3,
}

/// The first byte of the private data, by which a reject of Remora's is told from another
/// program's.
pub(super) const REASON_MARK: u8 = 0x5e;

impl Reason {
    /// From a reject's private data.
    pub(super) fn parse(private_data: &[u8]) -> Option<Reason> {
        let [REASON_MARK, number, ..] = private_data else { return None };
        [Reason::UnknownToken, Reason::OtherDevice, Reason::Failed].into_iter().find(|reason| *reason as u8 == *number)
    }

    /// For people at the other end.
    pub(super) fn text(self) -> &'static str {
        match self {
            Reason::UnknownToken => "it does not know the token: it was used, or its time is over",
            Reason::OtherDevice => "the request came over another device than the primary listens on; name an address",
            Reason::Failed => "it could not set up the connection; its log says why",
        }
    }
}

/// What stands while it listens.
struct Listening {
    _id: Id,
    /// Is told of the device's end, if the listener itself is not.
    _told: Option<Id>,
    address: SocketAddr,
    device: Device,
    /// The device's name.
    name: String,
    responder_reads: u8,
}

impl Listening {
    /// `before`: at the unspecified address over this device, by name, and no other.
    fn new(
        events: &Arc<Events>,
        wanted: SocketAddr,
        options: &VerbsOptions,
        before: Option<&str>,
    ) -> Result<Listening, FabricError> {
        let (id, told, device) = bind(events, wanted, options, before)?;
        let attributes = device.attributes()?;
        let (address, name) = (id.local().unwrap_or(wanted), attributes.name);
        log::info!("verbs: listening on {address}, device {name}");
        let responder_reads = u8::try_from(attributes.responder_reads_max).unwrap_or(u8::MAX).min(READ_DEPTH);
        Ok(Listening { _id: id, _told: told, address, device, name, responder_reads })
    }
}

/// Why it does not listen any more.
struct Lost {
    error: FabricError,
    /// With all that is registered with it.
    with_device: bool,
}

impl From<FabricError> for Lost {
    fn from(error: FabricError) -> Lost {
        Lost { error, with_device: false }
    }
}

/// The listening thread's own.
pub(super) struct Listener {
    /// One channel for all: the endpoints of earlier listeners are heard as well.
    events: Arc<Events>,
    /// Where to listen: the address that was asked for, and the port of the first time.
    wanted: SocketAddr,
    options: VerbsOptions,
    /// At the unspecified address: the device that it began with, by name.
    name: Option<String>,
    listening: Option<Listening>,
    backoff: Backoff,
    /// While it does not listen: when to try.
    next_try: Instant,
    desk: Arc<Desk>,
    standing: Arc<Standing>,
    stop: Arc<Stop>,
}

impl Listener {
    /// Listen, for the first time. What is known of it from now on stands in the [`Standing`].
    pub(super) fn new(
        events: Arc<Events>,
        wanted: SocketAddr,
        options: &VerbsOptions,
        (desk, stop): (Arc<Desk>, Arc<Stop>),
    ) -> Result<(Listener, Arc<Standing>), FabricError> {
        let listening = Listening::new(&events, wanted, options, None)?;
        let standing = Arc::new(Standing::new(listening.address, listening.device.clone()));
        let wanted = SocketAddr::new(wanted.ip(), listening.address.port());
        let now = Instant::now();
        let mut backoff = Backoff::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX);
        backoff.works(now);
        let name = wanted.ip().is_unspecified().then(|| listening.name.clone());
        let listener = Listener {
            events,
            wanted,
            options: options.clone(),
            name,
            listening: Some(listening),
            backoff,
            next_try: now,
            desk,
            standing: standing.clone(),
            stop,
        };
        Ok((listener, standing))
    }

    pub(super) fn run(mut self) {
        while !self.stop.is_asked() {
            match self.turn() {
                Ok(()) => {}
                Err(lost) if self.listening.is_some() => self.lost(lost),
                Err(Lost { error, .. }) => self.rest(&error),
            }
            if self.listening.is_none() && Instant::now() >= self.next_try {
                self.listen_again();
            }
        }
    }

    fn turn(&mut self) -> Result<(), Lost> {
        let until_try = self.next_try.saturating_duration_since(Instant::now());
        let sleep = if self.listening.is_some() { SLEEP_MAX } else { until_try.min(SLEEP_MAX) };
        let timeout = Timespec { tv_sec: sleep.as_secs() as i64, tv_nsec: sleep.subsec_nanos().into() };
        let fd = self.events.fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN), PollFd::new(self.stop.fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(0) => self.check_address()?,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(FabricError::from_io(Kind::Verbs, "cannot wait for requests", &error.into()).into());
            }
        }
        while let Some(event) = self.events.next().map_err(FabricError::from)? {
            self.handle(event)?;
        }
        Ok(())
    }

    /// RDMA CM says nothing when an address leaves the host. No other address can be bound to then,
    /// of any kind.
    fn check_address(&self) -> Result<(), FabricError> {
        let Some(Listening { address, .. }) = &self.listening else { return Ok(()) };
        let mut any_port = *address;
        any_port.set_port(0);
        match UdpSocket::bind(any_port) {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                Err(failed(Cause::System, format!("the address {} is gone; see `ip address`", address.ip())))
            }
            _ => Ok(()),
        }
    }

    /// Nothing is heard of RDMA CM, while it does not listen.
    fn rest(&self, error: &FabricError) {
        log::error!("verbs: {error}");
        let timeout = Timespec { tv_sec: SLEEP_MAX.as_secs() as i64, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(self.stop.fd(), PollFlags::IN)], Some(&timeout));
    }

    /// It does not listen any more.
    fn lost(&mut self, Lost { error, with_device }: Lost) {
        let now = Instant::now();
        self.next_try = self.backoff.failed(now);
        let pause = self.next_try - now;
        log::warn!("verbs: {error}; listening again is tried in {pause:?}, no replica is given memory until then");
        // First the ids and queue pairs, then what is registered.
        self.listening = None;
        if with_device {
            self.desk.end_all(&error);
        }
        self.standing.lost(error, |_| with_device);
    }

    fn listen_again(&mut self) {
        let now = Instant::now();
        // The choice looks for devices anew, whatever the address: the library notices only then
        // that one has gone, and closes it.
        let chosen = choose(&self.options, None);
        let listening =
            chosen.and_then(|_| Listening::new(&self.events, self.wanted, &self.options, self.name.as_deref()));
        let registers = |listening: Listening| {
            self.standing.listens(listening.address, listening.device.clone()).map(|()| listening)
        };
        match listening.and_then(registers) {
            Ok(listening) => {
                self.backoff.works(now);
                self.listening = Some(listening);
            }
            Err(error) => {
                self.next_try = self.backoff.failed(now);
                log::debug!("verbs: still not listening: {error}");
                self.standing.lost(error, |device| !is_here(device));
            }
        }
    }

    fn handle(&self, event: Event) -> Result<(), Lost> {
        if event.kind == EventKind::ConnectRequest {
            self.request(event);
            return Ok(());
        }
        if event.key == LISTENER {
            let removed = || failed(Cause::System, "the device was removed");
            return match event.kind {
                EventKind::DeviceRemoval => Err(Lost { error: removed(), with_device: true }),
                _ => Ok(()),
            };
        }
        let Some(endpoint) = self.desk.endpoint(event.key) else { return Ok(()) };
        let name = event.name;
        match event.kind {
            EventKind::Established => endpoint.established(),
            EventKind::Disconnected => endpoint.ended(failed(Cause::Closed, "the replica has ended the channel")),
            EventKind::ConnectError | EventKind::Unreachable | EventKind::Rejected => {
                endpoint
                    .ended(failed(Cause::Closed, format!("the replica did not connect ({name}, {})", event.status)));
            }
            EventKind::DeviceRemoval => endpoint.ended(failed(Cause::System, "the device was removed")),
            _ => {}
        }
        Ok(())
    }

    fn request(&self, event: Event) {
        let Some(id) = event.request else { return };
        let token = event.private_data.first_chunk::<16>().map(|token| Token(*token));
        let Some((number, endpoint)) = token.and_then(|token| self.desk.admit(token)) else {
            return turn_down(id, Reason::UnknownToken);
        };
        let Some(listening) = &self.listening else { return turn_down(id, Reason::UnknownToken) };
        if !matches!(id.device(), Ok(Some((device, _))) if device == listening.device) {
            endpoint.ended(failed(Cause::Refused, Reason::OtherDevice.text()));
            return turn_down(id, Reason::OtherDevice);
        }
        let mut id = id;
        id.set_key(number);
        let with = Connection {
            private_data: &[],
            responder_reads: event.responder_reads.min(listening.responder_reads),
            initiator_reads: 0,
            retries: RETRIES,
            rnr_retries: RNR_RETRIES,
        };
        if let Err((id, error)) = endpoint.accept(id, &with) {
            log::warn!("verbs: a replica could not be connected: {error}");
            if let Some(id) = id {
                turn_down(id, Reason::Failed);
            }
        }
    }
}

/// An id that listens, one that is told of the device's end where that one is not, and the device
/// that replicas come over.
fn bind(
    events: &Arc<Events>,
    address: SocketAddr,
    options: &VerbsOptions,
    before: Option<&str>,
) -> Result<(Id, Option<Id>, Device), FabricError> {
    let mut address = address;
    let mut chosen = None;
    if address.ip().is_unspecified() {
        let like = if address.is_ipv4() { Some(address.ip()) } else { None };
        let choice = choose_again(options, like, before)?;
        if let Some(chosen) = choice.address {
            address.set_ip(chosen);
        }
        chosen = Some(choice);
    }
    let mut id = Id::new(events, LISTENER)?;
    if let Err(refusal) = id.set_ack_timeout(options.ack_timeout.exponent()) {
        log::info!("verbs: cannot {} (errno {}): the kernel's own holds", refusal.doing, refusal.errno);
    }
    let nowhere = || failed(Cause::Unsupported, format!("no RDMA device has the address {address}; see `rdma link`"));
    let within = |error: FabricError| failed(error.cause, format!("cannot listen on {address}: {}", error.what));
    id.bind(address).map_err(|refusal| match refusal.errno {
        libc::ENODEV | libc::EADDRNOTAVAIL => nowhere(),
        _ => within(refusal.into()),
    })?;
    let bound = id.device()?;
    if let Some((device, port)) = &bound {
        check(options, device, *port)?;
    }
    id.listen(BACKLOG).map_err(|refusal| within(refusal.into()))?;
    match (bound, chosen) {
        (Some((device, _)), _) => Ok((id, None, device)),
        (None, Some(choice)) => Ok((id, told(events, &choice), choice.device)),
        (None, None) => Err(nowhere()),
    }
}

/// An id that is told when the chosen device ends.
fn told(events: &Arc<Events>, choice: &ChosenDevice) -> Option<Id> {
    let bound = choice.own.and_then(|own| {
        let mut id = Id::new(events, LISTENER).ok()?;
        id.bind(SocketAddr::new(own, 0)).ok().map(|()| id)
    });
    if bound.is_none() {
        log::warn!("verbs: {} has no address to watch it by: restart this server after it was away", choice.name);
    }
    bound
}

fn turn_down(id: Id, reason: Reason) {
    if let Err(refusal) = id.reject(&[REASON_MARK, reason as u8]) {
        log::debug!("verbs: cannot {}: errno {}", refusal.doing, refusal.errno);
    }
}
