//! Protection domains, and memory registered in them. A registration keeps its domain, and its
//! owner keeps the memory: a region is held by its [`Region`], an ack slot by its [`AckSlot`], a
//! landing holds its [`Registration`] and gives it up before its memory.

use super::device::Device;
use super::{FailedCall, answered, ffi};
use crate::fabric::{ACK_BYTES, Access, Landing, Regions};
use crate::sys::memory::Memfd;
use crate::sys::sync::AtomicU64;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// A protection domain: a queue pair reaches memory of its own domain only.
pub struct Domain {
    raw: NonNull<ffi::Pd>,
    device: Device,
}

// SAFETY: verbs may be called by any thread.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    /// A new one.
    pub fn new(device: &Device) -> Result<Arc<Domain>, FailedCall> {
        let mut raw = null_mut();
        // SAFETY: the device is open, `raw` takes the domain.
        answered("allocate a protection domain", unsafe { ffi::rv_pd_alloc(device.raw(), &mut raw) })?;
        let raw = NonNull::new(raw).ok_or(FailedCall { doing: "allocate a protection domain", errno: libc::ENOMEM })?;
        Ok(Arc::new(Domain { raw, device: device.clone() }))
    }

    pub(super) fn raw(&self) -> *mut ffi::Pd {
        self.raw.as_ptr()
    }

    /// Of which device.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: ours; registrations and queue pairs of it are gone, as each holds an Arc of it.
        let freed = answered("free a protection domain", unsafe { ffi::rv_pd_free(self.raw()) });
        if let Err(refusal) = freed {
            log::error!("verbs: cannot {}: errno {}", refusal.doing, refusal.errno);
        }
    }
}

/// Registered memory.
pub struct Registration {
    raw: NonNull<ffi::Mr>,
    local_key: u32,
    remote_key: u32,
    address: u64,
    _domain: Arc<Domain>,
}

// SAFETY: verbs may be called by any thread; a registration is only read until it is dropped.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    /// Register `words`.
    ///
    /// # Safety
    /// The memory stays mapped until the registration is dropped.
    unsafe fn new(domain: &Arc<Domain>, words: &[AtomicU64], access: u32) -> Result<Registration, FailedCall> {
        let doing = "register memory";
        let address = words.as_ptr() as u64;
        let (mut raw, mut local_key, mut remote_key) = (null_mut(), 0, 0);
        let bytes = size_of_val(words) as u64;
        // SAFETY: the domain stands; the memory is mapped for as long as the caller promised,
        // shared by atomics only, and so may be read and written by the device at any time.
        let answer = unsafe {
            ffi::rv_mr_register(domain.raw(), address, bytes, access, &mut raw, &mut local_key, &mut remote_key)
        };
        answered(doing, answer)?;
        let raw = NonNull::new(raw).ok_or(FailedCall { doing, errno: libc::ENOMEM })?;
        Ok(Registration { raw, local_key, remote_key, address, _domain: domain.clone() })
    }

    /// How this host's queue pairs name it.
    pub fn local_key(&self) -> u32 {
        self.local_key
    }

    /// How the peer's queue pair names it.
    pub fn remote_key(&self) -> u32 {
        self.remote_key
    }

    /// Its first byte.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: ours, not yet freed. What the device still has under way to it was ended before:
        // queue pairs go first.
        let freed = answered("deregister memory", unsafe { ffi::rv_mr_free(self.raw.as_ptr()) });
        if let Err(refusal) = freed {
            // The pages stay pinned, so nobody else's memory is touched.
            log::error!("verbs: cannot {}: errno {}", refusal.doing, refusal.errno);
        }
    }
}

/// A region that a peer may READ or, if it is for that, WRITE to; or that WRITEs of this end go out
/// from. Its fields go in this order.
pub struct Region {
    registration: Registration,
    bytes: usize,
    _pinned: Pinned,
}

/// Memory that keeps its pages: a device knows no others, or is to know these.
pub struct Pinned {
    regions: Arc<dyn Regions>,
    number: usize,
}

impl Pinned {
    /// One of `regions`, until this is dropped.
    pub fn new(regions: &Arc<dyn Regions>, number: usize) -> Pinned {
        regions.memory(number).pin();
        Pinned { regions: regions.clone(), number }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.regions.memory(self.number).unpin();
    }
}

impl Region {
    /// Offer one of `regions`.
    pub fn offer(domain: &Arc<Domain>, regions: &Arc<dyn Regions>, number: usize) -> Result<Region, FailedCall> {
        let access = match regions.access(number) {
            Access::Read => ffi::ACCESS_REMOTE_READ,
            Access::Write => ffi::ACCESS_REMOTE_READ | ffi::ACCESS_REMOTE_WRITE | ffi::ACCESS_LOCAL_WRITE,
        };
        Region::register(domain, regions, number, access)
    }

    /// Have WRITEs of this end go out from one of `regions`; no peer reaches it.
    pub fn source(domain: &Arc<Domain>, regions: &Arc<dyn Regions>, number: usize) -> Result<Region, FailedCall> {
        Region::register(domain, regions, number, 0)
    }

    fn register(
        domain: &Arc<Domain>,
        regions: &Arc<dyn Regions>,
        number: usize,
        access: u32,
    ) -> Result<Region, FailedCall> {
        let pinned = Pinned::new(regions, number);
        let words = regions.memory(number).words();
        // SAFETY: a memfd is mapped while its owner lives, which is held beside the registration
        // and dropped after it.
        let registration = unsafe { Registration::new(domain, words, access) }?;
        Ok(Region { registration, bytes: size_of_val(words), _pinned: pinned })
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How it is registered.
    pub fn registration(&self) -> &Registration {
        &self.registration
    }
}

/// Where a peer WRITEs its acks.
pub struct AckSlot {
    registration: Registration,
    memfd: Arc<Memfd>,
}

impl AckSlot {
    /// A new one: zeroed.
    pub fn new(domain: &Arc<Domain>, memfd: Memfd) -> Result<AckSlot, FailedCall> {
        let access = ffi::ACCESS_LOCAL_WRITE | ffi::ACCESS_REMOTE_WRITE;
        let words = &memfd.words()[..ACK_BYTES / 8];
        // SAFETY: the memfd's mapping does not move with it, is held beside the registration and
        // dropped after it.
        let registration = unsafe { Registration::new(domain, words, access) }?;
        Ok(AckSlot { registration, memfd: Arc::new(memfd) })
    }

    /// How it is registered.
    pub fn registration(&self) -> &Registration {
        &self.registration
    }

    /// Its memory.
    pub fn memory(&self) -> &Arc<Memfd> {
        &self.memfd
    }
}

/// Why there is no landing.
pub enum LandingError {
    /// No memory.
    Memory(io::Error),
    /// It could not be registered.
    Refused(FailedCall),
}

/// A landing of `bytes` bytes that queue pairs of `domain` can fill.
pub fn landing(domain: &Arc<Domain>, bytes: usize) -> Result<Landing, LandingError> {
    let mut landing = Landing::new(bytes).map_err(LandingError::Memory)?;
    let register = |words: &[AtomicU64]| {
        // SAFETY: the landing keeps the registration and drops it before its memory (`Landing`'s
        // order of fields).
        unsafe { Registration::new(domain, words, ffi::ACCESS_LOCAL_WRITE) }
    };
    landing.register(register).map_err(LandingError::Refused)?;
    Ok(landing)
}
