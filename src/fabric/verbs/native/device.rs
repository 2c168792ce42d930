//! Devices. RDMA CM opens each device once for the whole process and shares it with whoever
//! connects over it; a [`Device`] keeps it open.

use super::{FailedCall, Library, answered, borrowed, ffi, text_within};
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// Every device of the host, open.
struct List(NonNull<ffi::Devices>);

// SAFETY: the list is immutable once made, and the libraries allow its devices to be used by any
// thread.
unsafe impl Send for List {}
// SAFETY: as above.
unsafe impl Sync for List {}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: ours, not yet closed; devices of it are gone, as each holds an Arc of it.
        unsafe { ffi::rv_devices_close(self.0.as_ptr()) };
    }
}

/// An open device. Two are equal if they are the same.
#[derive(Clone)]
pub struct Device {
    raw: NonNull<ffi::Device>,
    _list: Arc<List>,
}

// SAFETY: verbs may be called by any thread at any time (ibv_open_device(3), and librdmacm shares
// its devices by design).
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        self.raw == other.raw
    }
}

/// What a device can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// As under /sys/class/infiniband.
    pub name: String,
    /// Largest region in bytes.
    pub mr_bytes_max: u64,
    /// Ports, numbered from 1.
    pub ports: u8,
    /// As in ibv_transport_type: 0 InfiniBand (and RoCE), 1 iWARP.
    pub transport: u32,
    /// READs of a peer under way on one queue pair.
    pub responder_reads_max: u32,
    /// READs of its own under way on one queue pair.
    pub initiator_reads_max: u32,
    /// Queue pairs.
    pub queue_pairs_max: u32,
    /// Regions.
    pub regions_max: u32,
}

/// What a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortAttributes {
    /// It has a link.
    pub active: bool,
    /// RoCE, rather than InfiniBand.
    pub ethernet: bool,
    /// Entries of its table of GIDs.
    pub gids: u32,
    /// Bytes of a packet.
    pub mtu_bytes: u32,
}

/// All devices of this host.
pub fn devices(_: Library) -> Result<Vec<Device>, FailedCall> {
    let mut raw = null_mut();
    // SAFETY: the library is there, and `raw` takes the list.
    answered("look for RDMA devices", unsafe { ffi::rv_devices_open(&mut raw) })?;
    let Some(raw) = NonNull::new(raw) else { return Ok(Vec::new()) };
    let list = Arc::new(List(raw));
    let mut devices = Vec::new();
    // SAFETY: the list is open; an index beyond its end answers null, before which the loop ends.
    while let Some(raw) = NonNull::new(unsafe { ffi::rv_devices_at(list.0.as_ptr(), devices.len() as u32) }) {
        devices.push(Device { raw, _list: list.clone() });
    }
    Ok(devices)
}

impl Device {
    /// The device that RDMA CM chose, kept open beyond the connection.
    pub(super) fn keep(raw: NonNull<ffi::Device>) -> Result<Device, FailedCall> {
        let library = super::library().map_err(|_| FailedCall { doing: "open the libraries", errno: libc::ENOSYS })?;
        let found = devices(library)?.into_iter().find(|device| device.raw == raw);
        found.ok_or(FailedCall { doing: "find the connection's device", errno: libc::ENODEV })
    }

    pub(super) fn raw(&self) -> *mut ffi::Device {
        self.raw.as_ptr()
    }

    /// Tells this device from others, as long as it is open.
    pub fn key(&self) -> usize {
        self.raw.as_ptr() as usize
    }

    /// What it can do.
    pub fn attributes(&self) -> Result<Attributes, FailedCall> {
        let mut info = std::mem::MaybeUninit::<ffi::DeviceAttributes>::zeroed();
        // SAFETY: the device is open, `info` has room for the answer.
        answered("query the device", unsafe { ffi::rv_device_info(self.raw(), info.as_mut_ptr()) })?;
        // SAFETY: numbers only, for which all zeroes is valid, and filled on success.
        let info = unsafe { info.assume_init() };
        Ok(Attributes {
            name: text_within(&info.name),
            mr_bytes_max: info.mr_bytes_max,
            ports: u8::try_from(info.ports).unwrap_or(u8::MAX),
            transport: info.transport,
            responder_reads_max: info.responder_reads_max,
            initiator_reads_max: info.initiator_reads_max,
            queue_pairs_max: info.qp_max,
            regions_max: info.mr_max,
        })
    }

    /// What one of its ports is.
    pub fn port(&self, port: u8) -> Result<PortAttributes, FailedCall> {
        let mut info = ffi::PortAttributes::default();
        // SAFETY: the device is open, `info` has room for the answer.
        answered("query the port", unsafe { ffi::rv_port_info(self.raw(), port.into(), &mut info) })?;
        let ffi::PortAttributes { active, ethernet, gids, mtu_bytes } = info;
        Ok(PortAttributes { active: active != 0, ethernet: ethernet != 0, gids, mtu_bytes })
    }

    /// An entry of a port's table of GIDs; all zeroes where none is.
    pub fn gid(&self, port: u8, index: u8) -> Result<[u8; 16], FailedCall> {
        let mut gid = [0; 16];
        // SAFETY: the device is open, and a GID has 16 bytes.
        answered("query the GID", unsafe { ffi::rv_gid(self.raw(), port.into(), index.into(), gid.as_mut_ptr()) })?;
        Ok(gid)
    }

    /// Where its asynchronous events are seen to come; non-blocking from now on.
    pub fn event_source(&self) -> Result<EventSource, FailedCall> {
        // SAFETY: the device is open.
        let fd = answered("watch the device", unsafe { ffi::rv_async_fd(self.raw()) })?;
        Ok(EventSource { device: self.clone(), fd })
    }
}

/// What a device says by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The queue pair of that number has failed.
    QueuePair {
        /// Its number.
        number: u32,
        /// The peer asked for what it may not have.
        access: bool,
        /// The event's name.
        name: String,
    },
    /// The device has failed.
    Device(String),
    /// A port went up or down, and the like.
    Other(String),
}

/// A device's asynchronous events.
pub struct EventSource {
    device: Device,
    fd: RawFd,
}

impl EventSource {
    /// Readable when an event is there.
    pub fn fd(&self) -> BorrowedFd<'_> {
        borrowed(self, self.fd)
    }

    /// The next event, if one is there. It is taken from whoever else looks at the same device.
    pub fn next(&self) -> Option<DeviceEvent> {
        let mut name: [std::ffi::c_char; 64] = [0; 64];
        let mut number = 0;
        // SAFETY: the device is open, its events non-blocking; `name` is writable for the length
        // that is told.
        let about = unsafe { ffi::rv_async_next(self.device.raw(), &mut number, name.as_mut_ptr(), name.len() as u32) };
        match about {
            1 | 4 => Some(DeviceEvent::QueuePair { number, access: about == 4, name: text_within(&name) }),
            2 => Some(DeviceEvent::Device(text_within(&name))),
            3 => Some(DeviceEvent::Other(text_within(&name))),
            _ => None,
        }
    }
}
