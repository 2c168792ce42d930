//! A device's own events. All queue pairs of a process share one queue of events for each device.
//! So whoever looks takes every event, and records it for the queue pair that it is about.

use super::errors::failed;
use super::native::FailedCall;
use super::native::device::{Device, DeviceEvent, EventSource};
use crate::fabric::{Cause, FabricError};
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// What is known of one device.
#[derive(Default)]
struct Noted {
    /// The queue pairs that are watched, and how they failed.
    pairs: HashMap<u32, Option<FabricError>>,
    device: Option<FabricError>,
}

impl Noted {
    fn note(&mut self, event: DeviceEvent) {
        match event {
            DeviceEvent::QueuePair { number, access, name } => {
                let cause = if access { Cause::Access } else { Cause::Closed };
                if let Some(pair) = self.pairs.get_mut(&number) {
                    pair.get_or_insert(failed(cause, format!("the queue pair failed: {name}")));
                }
            }
            DeviceEvent::Device(name) => {
                self.device.get_or_insert(failed(Cause::System, format!("the device failed: {name}")));
            }
            DeviceEvent::Other(name) => log::info!("verbs: the device says: {name}"),
        }
    }
}

/// By the device's key.
static NOTED: LazyLock<Mutex<HashMap<usize, Noted>>> = LazyLock::new(Mutex::default);

fn all() -> MutexGuard<'static, HashMap<usize, Noted>> {
    // It holds only numbers and texts, so a thread that panicked has left nothing half done.
    NOTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches one queue pair. Drop it before the queue pair: the device may give the number to another
/// one.
pub struct Watch {
    source: EventSource,
    key: usize,
    number: u32,
}

impl Watch {
    /// Watch queue pair `number` of `device`.
    pub fn new(device: &Device, number: u32) -> Result<Watch, FailedCall> {
        let watch = Watch { source: device.event_source()?, key: device.key(), number };
        all().entry(watch.key).or_default().pairs.insert(number, None);
        Ok(watch)
    }

    /// Readable when there is an event to look at.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.source.fd()
    }

    /// How the queue pair or the device has failed, if it has.
    pub fn look(&self) -> Option<FabricError> {
        let mut all = all();
        let noted = all.get_mut(&self.key)?;
        while let Some(event) = self.source.next() {
            noted.note(event);
        }
        noted.pairs.get(&self.number).cloned().flatten().or_else(|| noted.device.clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut all = all();
        if let Some(noted) = all.get_mut(&self.key) {
            noted.pairs.remove(&self.number);
            if noted.pairs.is_empty() {
                all.remove(&self.key);
            }
        }
    }
}
