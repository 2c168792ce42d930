//! RDMA CM: listening, connecting, and the events of both.

use super::device::Device;
use super::{FailedCall, Library, answered, borrowed, ffi, static_text};
use socket2::SockAddr;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::time::Duration;

/// A channel of events.
pub struct Events {
    raw: NonNull<ffi::Cm>,
    fd: RawFd,
}

// SAFETY: librdmacm's functions may be called by any thread; an event channel is a descriptor.
unsafe impl Send for Events {}
// SAFETY: as above.
unsafe impl Sync for Events {}

/// What happened, as in rdma_cm_event_type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    AddressResolved = 0,
    AddressError = 1,
    RouteResolved = 2,
    RouteError = 3,
    ConnectRequest = 4,
    ConnectError = 6,
    Unreachable = 7,
    Rejected = 8,
    Established = 9,
    Disconnected = 10,
    DeviceRemoval = 11,
    Other = u32::MAX,
}

impl EventKind {
    fn from_number(number: u32) -> EventKind {
        use EventKind::*;
        let known = [
            AddressResolved,
            AddressError,
            RouteResolved,
            RouteError,
            ConnectRequest,
            ConnectError,
            Unreachable,
            Rejected,
            Established,
            Disconnected,
            DeviceRemoval,
        ];
        known.into_iter().find(|kind| *kind as u32 == number).unwrap_or(Other)
    }
}

/// One event.
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// Its name.
    pub name: &'static str,
    /// The key of the id that it is about. A connection request carries its listener's key.
    pub key: u64,
    /// Of a failure: a negative errno, or the number of a reject's reason.
    pub status: i32,
    /// A request's own id.
    pub request: Option<Id>,
    /// READs that the peer wants to have under way here.
    pub responder_reads: u8,
    /// READs of this end that the peer allows to be under way.
    pub initiator_reads: u8,
    /// The private data that the peer sent, with zeroes behind it. Nobody vouches for these bytes.
    pub private_data: Vec<u8>,
}

impl Events {
    /// A new channel for them.
    pub fn open(_: Library) -> Result<Arc<Events>, FailedCall> {
        let doing = "open RDMA CM";
        let (mut raw, mut fd) = (null_mut(), -1);
        // SAFETY: the library is there, `raw` and `fd` take the answer.
        answered(doing, unsafe { ffi::rv_cm_open(&mut raw, &mut fd) })?;
        let raw = NonNull::new(raw).ok_or(FailedCall { doing, errno: libc::ENOMEM })?;
        Ok(Arc::new(Events { raw, fd }))
    }

    /// Readable when an event is there.
    pub fn fd(&self) -> BorrowedFd<'_> {
        borrowed(self, self.fd)
    }

    /// The next event; None if there is none now.
    pub fn next(self: &Arc<Events>) -> Result<Option<Event>, FailedCall> {
        let mut raw = std::mem::MaybeUninit::<ffi::CmEvent>::zeroed();
        // SAFETY: the channel is open and non-blocking, `raw` has room for the event.
        let answer = unsafe { ffi::rv_cm_event(self.raw.as_ptr(), raw.as_mut_ptr()) };
        match answered("take an event of RDMA CM", answer) {
            Err(FailedCall { errno: libc::EAGAIN | libc::EINTR, .. }) => return Ok(None),
            answered => answered?,
        };
        // SAFETY: numbers, bytes and a pointer, for which all zeroes is valid, and filled on
        // success.
        let raw = unsafe { raw.assume_init() };
        // SAFETY: as in `status_name`: any number is answered with a constant.
        let name = unsafe { ffi::rv_event_name(raw.kind) };
        let private_bytes = (raw.private_bytes as usize).min(raw.private_data.len());
        Ok(Some(Event {
            kind: EventKind::from_number(raw.kind),
            // SAFETY: a constant of the library.
            name: unsafe { static_text(name) },
            key: raw.key,
            status: raw.status,
            request: NonNull::new(raw.request).map(|raw| Id { raw, events: self.clone() }),
            responder_reads: raw.responder_reads,
            initiator_reads: raw.initiator_reads,
            private_data: raw.private_data[..private_bytes].to_vec(),
        }))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: ours; ids of it are gone, as each holds an Arc of it.
        unsafe { ffi::rv_cm_close(self.raw.as_ptr()) };
    }
}

/// One end of a connection, or a listener. It may have a queue pair, which its owner (`QueuePair`)
/// destroys first.
pub struct Id {
    raw: NonNull<ffi::Id>,
    events: Arc<Events>,
}

// SAFETY: librdmacm's functions may be called by any thread. What changes an id or its queue pair
// takes `&mut self` or is the connection manager's own, which locks.
unsafe impl Send for Id {}

/// How two ends are connected.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// Private data for the peer.
    pub private_data: &'a [u8],
    /// READs that the peer may have under way here.
    pub responder_reads: u8,
    /// READs that this end may have under way there.
    pub initiator_reads: u8,
    /// See the constants of the module above.
    pub retries: u8,
    /// See the constants of the module above.
    pub rnr_retries: u8,
}

impl Connection<'_> {
    fn raw(&self) -> ffi::Connection {
        ffi::Connection {
            private_data: self.private_data.as_ptr(),
            private_bytes: self.private_data.len() as u32,
            responder_reads: self.responder_reads,
            initiator_reads: self.initiator_reads,
            retries: self.retries,
            rnr_retries: self.rnr_retries,
        }
    }
}

fn address_bytes(address: &SockAddr) -> &[u8] {
    // SAFETY: SockAddr says where its bytes are and how many; they live as long as it is borrowed.
    unsafe { std::slice::from_raw_parts(address.as_ptr().cast::<u8>(), address.len() as usize) }
}

fn milliseconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).clamp(1, i32::MAX as u32)
}

impl Id {
    /// A new one, whose events come to `events` and carry `key`.
    pub fn new(events: &Arc<Events>, key: u64) -> Result<Id, FailedCall> {
        let doing = "create an RDMA CM id";
        let mut raw = null_mut();
        // SAFETY: the channel is open, `raw` takes the id.
        answered(doing, unsafe { ffi::rv_id_create(events.raw.as_ptr(), key, &mut raw) })?;
        let raw = NonNull::new(raw).ok_or(FailedCall { doing, errno: libc::ENOMEM })?;
        Ok(Id { raw, events: events.clone() })
    }

    pub(super) fn raw(&self) -> *mut ffi::Id {
        self.raw.as_ptr()
    }

    /// Its events.
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// Its events carry `key` from now on.
    pub fn set_key(&mut self, key: u64) {
        // SAFETY: the id stands.
        unsafe { ffi::rv_id_set_key(self.raw(), key) };
    }

    /// Wait 4.096 us * 2^exponent for an answer. Older kernels have no such option.
    pub fn set_ack_timeout(&mut self, exponent: u8) -> Result<(), FailedCall> {
        // SAFETY: the id stands.
        answered("set the timeout", unsafe { ffi::rv_id_ack_timeout(self.raw(), exponent) }).map(drop)
    }

    /// Have packets of the connection that it will ask for carry this type of service; those of the
    /// peer carry the same.
    pub fn set_tos(&mut self, tos: u8) -> Result<(), FailedCall> {
        // SAFETY: the id stands.
        answered("set the type of service", unsafe { ffi::rv_id_tos(self.raw(), tos) }).map(drop)
    }

    /// Bind to an address of this host; its device follows from it, unless it is the unspecified
    /// one.
    pub fn bind(&mut self, address: SocketAddr) -> Result<(), FailedCall> {
        let address = SockAddr::from(address);
        let bytes = address_bytes(&address);
        // SAFETY: the id stands; the bytes are read before this returns.
        answered("bind", unsafe { ffi::rv_id_bind(self.raw(), bytes.as_ptr(), bytes.len() as u32) }).map(drop)
    }

    /// Listen for requests, of which `backlog` may wait.
    pub fn listen(&mut self, backlog: u32) -> Result<(), FailedCall> {
        // SAFETY: the id stands.
        answered("listen", unsafe { ffi::rv_id_listen(self.raw(), backlog) }).map(drop)
    }

    /// The address that it is bound to.
    pub fn local(&self) -> Option<SocketAddr> {
        let mut bytes = [0u8; ffi::ADDRESS_BYTES];
        // SAFETY: the id stands, and an address of either family fits.
        let length = unsafe { ffi::rv_id_local(self.raw(), bytes.as_mut_ptr()) };
        parse_address(bytes.get(..usize::try_from(length).ok()?)?)
    }

    /// Begin to resolve the address `to`, from `from` if that is given. An event tells the outcome.
    pub fn resolve(&mut self, from: Option<SocketAddr>, to: SocketAddr, wait: Duration) -> Result<(), FailedCall> {
        let (from, to) = (from.map(SockAddr::from), SockAddr::from(to));
        let from = from.as_ref().map_or(&[][..], address_bytes);
        let to = address_bytes(&to);
        // SAFETY: the id stands; the bytes are read before this returns.
        let answer = unsafe {
            let (from_bytes, to_bytes) = (from.len() as u32, to.len() as u32);
            ffi::rv_id_resolve(self.raw(), from.as_ptr(), from_bytes, to.as_ptr(), to_bytes, milliseconds(wait))
        };
        answered("resolve the address", answer).map(drop)
    }

    /// Begin to resolve the route. An event tells the outcome.
    pub fn route(&mut self, wait: Duration) -> Result<(), FailedCall> {
        // SAFETY: the id stands.
        answered("resolve the route", unsafe { ffi::rv_id_route(self.raw(), milliseconds(wait)) }).map(drop)
    }

    /// The device and port that it goes over, once that is known.
    pub fn device(&self) -> Result<Option<(Device, u8)>, FailedCall> {
        let mut port = 0;
        // SAFETY: the id stands.
        let device = NonNull::new(unsafe { ffi::rv_id_device(self.raw(), &mut port) });
        device.map(|raw| Ok((Device::keep(raw)?, port as u8))).transpose()
    }

    /// Ask the peer for a connection. An event tells the outcome.
    pub(super) fn connect(&mut self, with: &Connection<'_>) -> Result<(), FailedCall> {
        // SAFETY: the id stands; what is pointed to is copied before this returns.
        answered("connect", unsafe { ffi::rv_id_connect(self.raw(), &with.raw()) }).map(drop)
    }

    /// Accept a request. An event tells when the connection is established.
    pub(super) fn accept(&mut self, with: &Connection<'_>) -> Result<(), FailedCall> {
        // SAFETY: as above.
        answered("accept", unsafe { ffi::rv_id_accept(self.raw(), &with.raw()) }).map(drop)
    }

    /// Reject a request, with a reason.
    pub fn reject(self, reason: &[u8]) -> Result<(), FailedCall> {
        // SAFETY: as above.
        let answer = unsafe { ffi::rv_id_reject(self.raw(), reason.as_ptr(), reason.len() as u32) };
        answered("reject", answer).map(drop)
    }

    /// Tell the peer that the connection is over.
    pub(super) fn disconnect(&mut self) {
        // SAFETY: the id stands. Refused where nothing is connected, which is as good.
        unsafe { ffi::rv_id_disconnect(self.raw()) };
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: ours; its queue pair is gone or, where the device would not let it go, is
        // stopped. Waits only for the acknowledgement of events, which `Events::next` makes before
        // it returns.
        let destroyed = answered("destroy an RDMA CM id", unsafe { ffi::rv_id_destroy(self.raw()) });
        if let Err(refusal) = destroyed {
            log::error!("verbs: cannot {}: errno {}", refusal.doing, refusal.errno);
        }
    }
}

/// A sockaddr_in or sockaddr_in6.
fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..4)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => {
            let address: [u8; 4] = *bytes.get(4..8)?.first_chunk()?;
            Some((address, port).into())
        }
        libc::AF_INET6 => {
            let address: [u8; 16] = *bytes.get(8..24)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*bytes.get(24..28)?.first_chunk()?);
            Some(std::net::SocketAddrV6::new(address.into(), port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_there_and_back() {
        for text in ["10.1.2.3:4791", "0.0.0.0:1", "[::1]:65535", "[fe80::5%3]:11212"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(parse_address(address_bytes(&SockAddr::from(address))), Some(address));
        }
        assert_eq!(parse_address(&[0; ffi::ADDRESS_BYTES]), None);
        assert_eq!(parse_address(&[]), None);
    }
}
