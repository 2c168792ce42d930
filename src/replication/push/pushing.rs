//! The primary's thread for one replica that is pushed to. To the code that admits replicas it is a
//! grant like any other: an ack slot, a state, and an end when it is dropped.

use super::Invite;
use super::layout::Layout;
use super::pusher::{Pusher, Step};
use crate::fabric::{Cause, Descriptor, Exporter, FabricError, Grant, GrantState, Kind, Regions};
use crate::replication::attach::name_host;
use crate::replication::pace::Pace;
use crate::store::{Geometry, Memory};
use crate::sys::memory::Memfd;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest wait for READs within one step: the thread looks whether it is to end.
const STEP_WAIT: Duration = Duration::from_millis(10);
/// Longest pause that a replica may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// See the module. Dropping it ends the thread, and the channel with it.
pub struct Pushing {
    shared: Arc<Shared>,
    ack: Arc<Memfd>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    ended: Mutex<Option<FabricError>>,
    pushed_bytes: Arc<AtomicU64>,
}

impl Shared {
    fn ended(&self) -> MutexGuard<'_, Option<FabricError>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pushing {
    /// Accept what a replica at `host` has invited to: connect, over the device of `exporter`, and
    /// begin. `regions` are the store's.
    pub fn accept(
        exporter: &dyn Exporter,
        invite: Invite,
        host: IpAddr,
        (regions, geometry, memory): (Arc<dyn Regions>, Geometry, Memory),
        silence_max: Duration,
    ) -> Result<Pushing, FabricError> {
        let Invite { fabric, window_bytes, pause_microseconds, mut invitation } = invite;
        let layout = Layout::told(&geometry, &memory, window_bytes).filter(|layout| layout.is_of(&invitation.regions));
        let layout = layout.ok_or_else(|| {
            FabricError::new(fabric, Cause::Protocol, "the replica's inbox is not laid out for this store")
        })?;
        let writer = exporter.writer().ok_or_else(|| {
            let what = "it has no one-sided WRITE of data; use shm on one host, verbs between hosts, or pull";
            FabricError::new(fabric, Cause::Unsupported, what)
        })?;
        name_host(&mut invitation, host);
        let pusher = Pusher::connect(writer, &invitation, regions, (geometry, memory), layout, silence_max)?;
        Pushing::start(fabric, pusher, Duration::from_micros(pause_microseconds.into()))
    }

    /// Start the thread. Where nothing moves it pauses for at most `pause_max`.
    pub fn start(kind: Kind, mut pusher: Pusher, pause_max: Duration) -> Result<Pushing, FabricError> {
        let ack = pusher.ack().clone();
        let shared = Shared { stop: AtomicBool::new(false), ended: Mutex::default(), pushed_bytes: Arc::default() };
        let shared = Arc::new(shared);
        let running = shared.clone();
        let run = move || {
            if let Err(error) = push_on(&mut pusher, &running, pause_max.min(PAUSE_MAX)) {
                *running.ended() = Some(error);
            }
        };
        let thread = std::thread::Builder::new().name("replica-push".into()).spawn(run);
        let thread = thread.map_err(|error| FabricError::from_io(kind, "a thread to push to a replica", &error))?;
        Ok(Pushing { shared, ack, thread: Some(thread) })
    }

    /// Log bytes that were written, as it counts on.
    pub fn pushed_bytes(&self) -> Arc<AtomicU64> {
        self.shared.pushed_bytes.clone()
    }
}

fn push_on(pusher: &mut Pusher, shared: &Shared, pause_max: Duration) -> Result<(), FabricError> {
    let mut pace = Pace::new(pause_max);
    while !shared.stop.load(Relaxed) {
        let pause = match pusher.step(STEP_WAIT)? {
            Step { pushed_bytes: 0, moved: false, .. } => pace.still(),
            Step { pushed_bytes: 0, .. } => pace.moved(),
            Step { pushed_bytes, backlog_bytes, .. } => {
                shared.pushed_bytes.fetch_add(pushed_bytes, Relaxed);
                pace.applied(backlog_bytes)
            }
        };
        if !pause.is_zero() {
            std::thread::park_timeout(pause);
        }
    }
    Ok(())
}

impl Grant for Pushing {
    /// The peer READs nothing.
    fn descriptors(&self) -> &[Descriptor] {
        &[]
    }

    fn ack(&self) -> &Arc<Memfd> {
        &self.ack
    }

    /// It is this side that fills the slot.
    fn ack_descriptor(&self) -> Descriptor {
        Descriptor { address: 0, key: 0, bytes: 0 }
    }

    fn state(&mut self) -> Result<GrantState, FabricError> {
        match &*self.shared.ended() {
            Some(error) => Err(error.clone()),
            None => Ok(GrantState::Connected),
        }
    }
}

impl Drop for Pushing {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It ends within one step: its waits are bounded, over verbs by the device's own
            // time-out.
            let _ = thread.join();
        }
    }
}
