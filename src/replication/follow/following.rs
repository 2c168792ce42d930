//! The thread that follows, as its owner holds it: starting it, and having it let go of the store
//! for good.

use super::{Follow, FollowConfig, Hold, Known};
use crate::replication::admission::Admitted;
use crate::replication::offer::Offer;
use crate::replication::report::FollowView;
use crate::store::Store;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest wait for the thread's end; a handshake may take longer.
const END_WAIT_MAX: Duration = Duration::from_secs(1);

/// The running thread. Dropping this ends it; a thread in the middle of a handshake ends after
/// that.
pub struct Following {
    follow: Arc<Follow>,
    thread: Option<JoinHandle<()>>,
    /// Disconnected once the thread is done.
    ended: Receiver<()>,
}

/// The thread has not let go of the store.
#[derive(Debug, thiserror::Error)]
#[error("the thread that follows has not ended within {END_WAIT_MAX:?}; it will, so try again")]
pub struct StillHeld;

impl Following {
    /// Begin: with an admission, if there is one already, and with what the store has of an earlier
    /// following. `offer` is what replicas of this store follow.
    pub fn start(
        config: FollowConfig,
        admitted: Option<Admitted>,
        known: Known,
        store: Arc<Store>,
        offer: Option<Arc<Offer>>,
    ) -> std::io::Result<Following> {
        let mode = config.mode.name();
        let view = FollowView { primary: config.primary.clone(), state: "joining", mode, ..FollowView::default() };
        let follow = Arc::new(Follow {
            config,
            offer,
            standing: Arc::default(),
            view: Mutex::new(view),
            stopping: AtomicBool::new(false),
            hold: Mutex::new(Hold { is_held: false, is_barred: false, known }),
            let_go: Condvar::new(),
        });
        let (running, (ending, ended)) = (follow.clone(), channel());
        let run = move || {
            running.run(admitted, &store);
            drop::<Sender<()>>(ending);
        };
        let thread = std::thread::Builder::new().name("replica-pull".into()).spawn(run)?;
        Ok(Following { follow, thread: Some(thread), ended })
    }

    /// What it tells.
    pub fn follow(&self) -> &Arc<Follow> {
        &self.follow
    }

    /// Have the thread let go of the store for good. Returns from where each shard can go on. The
    /// thread may still finish a handshake, but it does not touch the store again. After an error
    /// the thread is still ending: call this again.
    pub fn stop(&mut self) -> Result<Known, StillHeld> {
        self.follow.stopping.store(true, Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        let mut hold = self.follow.hold();
        hold.is_barred = true;
        let waited = self.follow.let_go.wait_timeout_while(hold, END_WAIT_MAX, |hold| hold.is_held);
        let (hold, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if hold.is_held {
            return Err(StillHeld);
        }
        // What the thread still does needs no wait.
        self.thread = None;
        Ok(hold.known.clone())
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.follow.stopping.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            match self.ended.recv_timeout(END_WAIT_MAX) {
                Err(RecvTimeoutError::Disconnected) => drop(thread.join()),
                // It is in a handshake with a silent primary, and does not touch the store again.
                _ => {
                    log::warn!("replication from {}: not waiting for the primary's answer", self.follow.config.primary)
                }
            }
        }
    }
}
