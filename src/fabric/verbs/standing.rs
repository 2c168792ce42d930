//! What the listening thread and the exporter's owner share: where it listens and over which
//! device, or why it does not; and what is registered with that device ahead of grants.

use super::errors::failed;
use super::native::device::Device;
use super::preparing::{Preparing, Progress};
use super::registered::{Registered, bytes_of};
use crate::fabric::{Cause, FabricError, Kind, Readiness, Regions};
use rustix::event::{EventfdFlags, eventfd};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ends the listening thread.
pub(super) struct Stop {
    asked: AtomicBool,
    wake: OwnedFd,
}

impl Stop {
    pub fn new() -> Result<Stop, FabricError> {
        let system = |error: rustix::io::Errno| FabricError::from_io(Kind::Verbs, "cannot listen", &error.into());
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system)?;
        Ok(Stop { asked: AtomicBool::new(false), wake })
    }

    /// Readable once it is asked for.
    pub fn fd(&self) -> &OwnedFd {
        &self.wake
    }

    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        // This fails only if the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// See the module.
pub(super) struct Standing(Mutex<State>);

struct State {
    /// Where replicas connect: where it listened last.
    address: SocketAddr,
    /// The device, or why it does not listen.
    device: Result<Device, FabricError>,
    /// What is to be registered, on whichever device.
    wanted: Option<Arc<dyn Regions>>,
    /// With which device it is, or was, registered.
    registering: Option<(Device, Preparing<Registered>)>,
}

impl State {
    /// Begin to register what is wanted, unless that has begun.
    fn register(&mut self) -> Result<(), FabricError> {
        if let (Ok(device), Some(regions), None) = (&self.device, &self.wanted, &self.registering) {
            let (with, device, registers) = (device.clone(), device.clone(), regions.clone());
            let register = move |progress: &Progress| Registered::new(&device, &registers, progress);
            let registering = Preparing::start("verbs-register", bytes_of(&**regions), register)?;
            self.registering = Some((with, registering));
        }
        Ok(())
    }

    /// The device, if it listens.
    fn device(&self) -> Result<&Device, FabricError> {
        self.device.as_ref().map_err(|error| failed(Cause::NotYet, error.what.clone()))
    }
}

impl Standing {
    /// It listens.
    pub fn new(address: SocketAddr, device: Device) -> Standing {
        Standing(Mutex::new(State { address, device: Ok(device), wanted: None, registering: None }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is of one field, or leaves what the next try makes good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It listens again. An error says that nothing can be registered: as if it did not listen.
    pub fn listens(&self, address: SocketAddr, device: Device) -> Result<(), FabricError> {
        let mut state = self.state();
        let stale = state.registering.take_if(|(with, _)| *with != device);
        (state.address, state.device) = (address, Ok(device));
        let begun = state.register();
        drop(state);
        drop(stale); // waits for its thread
        begun
    }

    /// It does not listen. What was registered with a device that is gone, is gone as well.
    pub fn lost(&self, error: FabricError, is_gone: impl FnOnce(&Device) -> bool) {
        let mut state = self.state();
        let device = std::mem::replace(&mut state.device, Err(error));
        let registering = state.registering.take_if(|(with, _)| is_gone(with));
        drop(state);
        drop((registering, device)); // waits for its thread
    }

    /// See [`crate::fabric::Exporter::address`].
    pub fn address(&self) -> SocketAddr {
        self.state().address
    }

    /// See [`crate::fabric::Exporter::prepare`].
    pub fn prepare(&self, regions: &Arc<dyn Regions>) -> Result<(), FabricError> {
        let mut state = self.state();
        state.wanted = Some(regions.clone());
        state.register()
    }

    /// See [`crate::fabric::Exporter::readiness`].
    pub fn readiness(&self) -> Readiness {
        let state = self.state();
        match (&state.device, &state.registering) {
            (Err(error), _) => Readiness::Failed(error.clone()),
            (Ok(_), None) => Readiness::Ready,
            (Ok(_), Some((_, registering))) => registering.readiness(),
        }
    }

    /// What is registered for grants of `regions`; made now if they were not prepared.
    pub fn registered(&self, regions: &Arc<dyn Regions>) -> Result<Arc<Registered>, FabricError> {
        let device = {
            let state = self.state();
            let device = state.device()?;
            let are_wanted = state.wanted.as_ref().is_some_and(|wanted| are_same(wanted, regions));
            match &state.registering {
                Some((_, registering)) if are_wanted => return registering.get(),
                _ => device.clone(),
            }
        };
        Ok(Arc::new(Registered::new(&device, regions, &Progress::default())?))
    }

    /// What was prepared; None if nothing was.
    pub fn prepared(&self) -> Result<Option<Arc<Registered>>, FabricError> {
        let state = self.state();
        state.device()?;
        state.registering.as_ref().map(|(_, registering)| registering.get()).transpose()
    }
}

fn are_same(one: &Arc<dyn Regions>, other: &Arc<dyn Regions>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}
