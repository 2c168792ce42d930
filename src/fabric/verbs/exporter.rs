//! The primary's end: a listener of RDMA CM, on a thread of its own, that knows which tokens are
//! expected. A connection request carries its token in its private data; a request with another
//! token is rejected with a [`Reason`].
//!
//! Regions that are [prepared](fabric::Exporter::prepare) are registered once, by a thread of their
//! own, and every grant of them shares that.

use super::connecting::{Wish, establish};
use super::devices::{check, choose};
use super::errors::{failed, library};
use super::grant::{Grant, Link};
use super::native::cm::{Connection, Event, EventKind, Events, Id};
use super::native::device::Device;
use super::preparing::{Preparing, Progress};
use super::registered::{Registered, bytes_of};
use super::{READ_DEPTH, RETRIES, RNR_RETRIES, VerbsOptions};
use crate::fabric::{self, Cause, FabricError, Invitation, Kind, Readiness, Regions, Token};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

/// Requests that may wait for the listening thread: more replicas than anyone has, joining at once.
const BACKLOG: u32 = 16;

/// Longest sleep of the listening thread in seconds. Everything that it waits for wakes it; this is
/// a safety net.
const SLEEP_SECONDS: i64 = 1;

/// Events carry the key 0 when they are about the listener; links count from 1.
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

/// The grants that wait for peers, and those that have one.
#[derive(Default)]
struct Expected {
    tokens: HashMap<Token, u64>,
    links: HashMap<u64, Weak<Link>>,
    numbers: u64,
    over: Option<FabricError>,
}

/// What the listening thread and the grants share.
#[derive(Default)]
pub(super) struct Desk(Mutex<Expected>);

impl Desk {
    fn expected(&self) -> MutexGuard<'_, Expected> {
        // Each change is a single insertion or removal, so a thread that panicked has left nothing
        // half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expect `token`, once; the number is for [`Desk::forget`].
    pub(super) fn expect(&self, token: Token, link: &Arc<Link>) -> Result<u64, FabricError> {
        let mut expected = self.expected();
        if let Some(over) = &expected.over {
            return Err(over.clone());
        }
        expected.numbers += 1;
        let number = expected.numbers;
        expected.links.insert(number, Arc::downgrade(link));
        expected.tokens.insert(token, number);
        Ok(number)
    }

    /// Expect it no longer.
    pub(super) fn forget(&self, token: Token, number: u64) {
        let mut expected = self.expected();
        expected.links.remove(&number);
        if expected.tokens.get(&token) == Some(&number) {
            expected.tokens.remove(&token);
        }
    }

    /// Take out the grant that expects `token`: a token is good once.
    fn admit(&self, token: Token) -> Option<(u64, Arc<Link>)> {
        let mut expected = self.expected();
        let number = expected.tokens.remove(&token)?;
        let link = expected.links.get(&number)?.upgrade()?;
        link.is_due().then_some((number, link))
    }

    fn link(&self, number: u64) -> Option<Arc<Link>> {
        self.expected().links.get(&number)?.upgrade()
    }

    /// No more grants.
    fn close(&self, why: FabricError) {
        self.expected().over.get_or_insert(why);
    }
}

/// The listening thread's own.
struct Listener {
    id: Id,
    device: Device,
    responder_reads: u8,
    desk: Arc<Desk>,
    stop: Arc<Stop>,
}

struct Stop {
    asked: AtomicBool,
    wake: OwnedFd,
}

/// See the module.
pub struct Exporter {
    address: SocketAddr,
    device: Device,
    options: VerbsOptions,
    desk: Arc<Desk>,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
    prepared: Option<Prepared>,
}

/// Regions that are registered ahead of grants.
struct Prepared {
    regions: Arc<dyn Regions>,
    registering: Preparing<Registered>,
}

impl Exporter {
    /// Listen on `address`, on a port of the system's choice if that is 0. The unspecified address
    /// takes replicas over all addresses of one device: the one that `options` name, else the first
    /// that has a link.
    pub fn listen(address: SocketAddr, options: &VerbsOptions) -> Result<Exporter, FabricError> {
        let events = Events::open(library().and_then(|library| choose(options, None).map(|_| library))?)?;
        let (id, device) = bind(&events, address, options)?;
        let attributes = device.attributes()?;
        let address = id.local().unwrap_or(address);
        log::info!("verbs: listening on {address}, device {}", attributes.name);
        let system = |error: rustix::io::Errno| FabricError::from_io(Kind::Verbs, "cannot listen", &error.into());
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system)?;
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), wake });
        let desk = Arc::new(Desk::default());
        let responder_reads = u8::try_from(attributes.responder_reads_max).unwrap_or(u8::MAX).min(READ_DEPTH);
        let listener = Listener { id, device: device.clone(), responder_reads, desk: desk.clone(), stop: stop.clone() };
        let thread = std::thread::Builder::new().name("verbs-listen".into()).spawn(move || listener.run());
        let thread = thread.map_err(|error| FabricError::from_io(Kind::Verbs, "cannot start a thread", &error))?;
        Ok(Exporter { address, device, options: options.clone(), desk, stop, thread: Some(thread), prepared: None })
    }
}

/// An id that listens, and the device that its replicas come over.
fn bind(events: &Arc<Events>, address: SocketAddr, options: &VerbsOptions) -> Result<(Id, Device), FabricError> {
    let mut address = address;
    let mut device = None;
    if address.ip().is_unspecified() {
        let like = if address.is_ipv4() { Some(address.ip()) } else { None };
        let choice = choose(options, like)?;
        if let Some(chosen) = choice.address {
            address.set_ip(chosen);
        }
        device = Some(choice.device);
    }
    let mut id = Id::new(events, LISTENER)?;
    if let Err(refusal) = id.set_ack_timeout(options.ack_timeout.exponent()) {
        log::info!("verbs: cannot {} (errno {}): the kernel's own holds", refusal.doing, refusal.errno);
    }
    let within = |error: FabricError| failed(error.cause, format!("cannot listen on {address}: {}", error.what));
    id.bind(address).map_err(|refusal| match refusal.errno {
        libc::ENODEV | libc::EADDRNOTAVAIL => {
            failed(Cause::Unsupported, format!("no RDMA device has the address {address}; see `rdma link`"))
        }
        _ => within(refusal.into()),
    })?;
    if let Some((bound, port)) = id.device()? {
        check(options, &bound, port)?;
        device = Some(bound);
    }
    id.listen(BACKLOG).map_err(|refusal| within(refusal.into()))?;
    match device {
        Some(device) => Ok((id, device)),
        None => Err(failed(Cause::Unsupported, format!("no RDMA device has the address {address}; see `rdma link`"))),
    }
}

impl fabric::Exporter for Exporter {
    fn kind(&self) -> Kind {
        Kind::Verbs
    }

    fn address(&self) -> String {
        self.address.to_string()
    }

    fn prepare(&mut self, regions: &Arc<dyn Regions>) -> Result<(), FabricError> {
        let (device, registers) = (self.device.clone(), regions.clone());
        let register = move |progress: &Progress| Registered::new(&device, &registers, progress);
        let registering = Preparing::start("verbs-register", bytes_of(&**regions), register)?;
        self.prepared = Some(Prepared { regions: regions.clone(), registering });
        Ok(())
    }

    fn readiness(&self) -> Readiness {
        self.prepared.as_ref().map_or(Readiness::Ready, |prepared| prepared.registering.readiness())
    }

    fn grant(&self, token: Token, regions: Arc<dyn Regions>) -> Result<Box<dyn fabric::Grant>, FabricError> {
        let registered = match self.prepared.as_ref().filter(|prepared| are_same(&prepared.regions, &regions)) {
            Some(prepared) => prepared.registering.get()?,
            None => Arc::new(Registered::new(&self.device, &regions, &Progress::default())?),
        };
        Ok(Box::new(Grant::new(registered, &self.desk, token)?))
    }

    fn connect(&self, invitation: &Invitation) -> Result<Box<dyn fabric::Channel>, FabricError> {
        let registered = self.prepared.as_ref().map(|prepared| prepared.registering.get()).transpose()?;
        Ok(Box::new(establish(invitation, &self.options, Wish::default(), registered)?))
    }
}

fn are_same(one: &Arc<dyn Regions>, other: &Arc<dyn Regions>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.asked.store(true, Ordering::SeqCst);
        // This fails only if the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.stop.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Listener {
    fn run(self) {
        while !self.stop.asked.load(Ordering::SeqCst) {
            if let Err(error) = self.turn() {
                log::error!("verbs: the listener has ended: {error}");
                self.desk.close(error);
                return;
            }
        }
    }

    fn turn(&self) -> Result<(), FabricError> {
        let events = self.id.events();
        let wake = PollFd::new(&self.stop.wake, PollFlags::IN);
        let fd = events.fd();
        let timeout = Timespec { tv_sec: SLEEP_SECONDS, tv_nsec: 0 };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN), wake], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(FabricError::from_io(Kind::Verbs, "cannot wait for requests", &error.into())),
        }
        while let Some(event) = events.next()? {
            self.handle(event)?;
        }
        Ok(())
    }

    fn handle(&self, event: Event) -> Result<(), FabricError> {
        if event.kind == EventKind::ConnectRequest {
            self.request(event);
            return Ok(());
        }
        if event.key == LISTENER {
            return match event.kind {
                EventKind::DeviceRemoval => Err(failed(Cause::System, "the device was removed")),
                _ => Ok(()),
            };
        }
        let Some(link) = self.desk.link(event.key) else { return Ok(()) };
        let name = event.name;
        match event.kind {
            EventKind::Established => link.established(),
            EventKind::Disconnected => link.ended(failed(Cause::Closed, "the replica has ended the channel")),
            EventKind::ConnectError | EventKind::Unreachable | EventKind::Rejected => {
                link.ended(failed(Cause::Closed, format!("the replica did not connect ({name}, {})", event.status)));
            }
            EventKind::DeviceRemoval => link.ended(failed(Cause::System, "the device was removed")),
            _ => {}
        }
        Ok(())
    }

    fn request(&self, event: Event) {
        let Some(id) = event.request else { return };
        let token = event.private_data.first_chunk::<16>().map(|token| Token(*token));
        let Some((number, link)) = token.and_then(|token| self.desk.admit(token)) else {
            return turn_down(id, Reason::UnknownToken);
        };
        if !matches!(id.device(), Ok(Some((device, _))) if device == self.device) {
            link.ended(failed(Cause::Refused, Reason::OtherDevice.text()));
            return turn_down(id, Reason::OtherDevice);
        }
        let mut id = id;
        id.set_key(number);
        let with = Connection {
            private_data: &[],
            responder_reads: event.responder_reads.min(self.responder_reads),
            initiator_reads: 0,
            retries: RETRIES,
            rnr_retries: RNR_RETRIES,
        };
        if let Err((id, error)) = link.accept(id, &with) {
            log::warn!("verbs: a replica could not be connected: {error}");
            if let Some(id) = id {
                turn_down(id, Reason::Failed);
            }
        }
    }
}

fn turn_down(id: Id, reason: Reason) {
    if let Err(refusal) = id.reject(&[REASON_MARK, reason as u8]) {
        log::debug!("verbs: cannot {}: errno {}", refusal.doing, refusal.errno);
    }
}
