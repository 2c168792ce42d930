//! Memory that is registered with a device, and the protection domain in which it is: made once,
//! shared by all queue pairs that need it. A queue pair reaches what is registered in its own
//! domain, and nothing else; once it is destroyed, nothing is reached through it.

use super::native::device::Device;
use super::native::memory::{Domain, Pinned, Region, Registration};
use super::preparing::Progress;
use crate::fabric::{Descriptor, FabricError, Regions};
use crate::sys::memory::Memfd;
use crate::sys::sync::AtomicU64;
use std::sync::Arc;

/// Pages for so many bytes are asked for at a time, and progress is told after each. A device
/// registers a region in one go, which can take minutes, most of it to find pages.
const POPULATED_BYTES: usize = 64 << 20;

/// Regions that peers reach.
pub(super) struct Registered {
    regions: Vec<Arc<Region>>,
    descriptors: Vec<Descriptor>,
    domain: Arc<Domain>,
}

/// What a peer is told of a registration.
pub(super) fn descriptor(registration: &Registration, bytes: usize) -> Descriptor {
    let (address, key) = (registration.address(), registration.remote_key().into());
    Descriptor { address, key, bytes: bytes as u64 }
}

/// Bytes of all regions together.
pub(super) fn bytes_of(regions: &dyn Regions) -> u64 {
    (0..regions.count()).map(|number| size_of_val(regions.memory(number).words()) as u64).sum()
}

/// Have pages for all of it, before a device pins them. Returns the bytes of the last step: they
/// are done once the memory is registered.
fn populate(memory: &Memfd, progress: &Progress) -> Result<u64, FabricError> {
    let words = memory.words().len();
    let mut last_bytes = 0;
    for begin in (0..words).step_by(POPULATED_BYTES / 8) {
        progress.add(last_bytes)?;
        let end = words.min(begin + POPULATED_BYTES / 8);
        memory.populate(begin..end);
        last_bytes = (end - begin) as u64 * 8;
    }
    Ok(last_bytes)
}

impl Registered {
    /// Register all of `regions`, in a domain of their own.
    pub fn new(device: &Device, regions: &Arc<dyn Regions>, progress: &Progress) -> Result<Registered, FabricError> {
        let domain = Domain::new(device)?;
        let mut registered = Vec::with_capacity(regions.count());
        for number in 0..regions.count() {
            // Pages that are found stay, until the device holds them.
            let _pinned = Pinned::new(regions, number);
            let left_bytes = populate(regions.memory(number), progress)?;
            registered.push(Arc::new(Region::offer(&domain, regions, number)?));
            progress.add(left_bytes)?;
        }
        let descriptors = registered.iter().map(|region| descriptor(region.registration(), region.bytes())).collect();
        Ok(Registered { regions: registered, descriptors, domain })
    }

    /// Where.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// By number.
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }

    /// The registration of region `number`, if it is of these words.
    fn region_of(&self, number: usize, words: &[AtomicU64]) -> Option<Arc<Region>> {
        let region = self.regions.get(number)?;
        let is_it = (region.registration().address(), region.bytes()) == (words.as_ptr() as u64, size_of_val(words));
        is_it.then(|| region.clone())
    }
}

/// What WRITEs go out from, and what of it may be registered already.
pub(super) struct Sources {
    pub regions: Arc<dyn Regions>,
    pub registered: Option<Arc<Registered>>,
}

impl Sources {
    /// What is registered already, if it is with this device.
    pub fn registered_with(&self, device: &Device) -> Option<&Arc<Registered>> {
        self.registered.as_ref().filter(|registered| registered.domain().device() == device)
    }

    /// Have WRITEs of queue pairs in `domain` go out from them. What is registered there already,
    /// under the same number, is not registered again.
    pub fn register(&self, domain: &Arc<Domain>) -> Result<Vec<Arc<Region>>, FabricError> {
        let known = self.registered.as_ref().filter(|registered| Arc::ptr_eq(registered.domain(), domain));
        let source = |number| {
            let known = known.and_then(|known| known.region_of(number, self.regions.memory(number).words()));
            known.map_or_else(|| Ok(Arc::new(Region::source(domain, &self.regions, number)?)), Ok)
        };
        (0..self.regions.count()).map(source).collect()
    }
}
