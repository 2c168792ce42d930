//! The thread that follows, as its owner holds it: starting it, and having it let go of the store
//! for good.

use super::hold::Hold;
use super::{Follow, FollowConfig};
use crate::base::shards::{SHARDS_MAX, ShardSet};
use crate::replication::admission::Admitted;
use crate::replication::reached::Holder;
use crate::replication::report::FollowView;
use crate::store::Store;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
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

/// The thread has not let go of the shards.
#[derive(Debug, thiserror::Error)]
#[error("the thread that follows has not let go within {END_WAIT_MAX:?}; it will, so try again")]
pub struct StillHeld;

impl Following {
    /// Begin, in these shards: with an admission to them, if there is one already.
    pub fn start(
        config: FollowConfig,
        admitted: Option<Admitted>,
        shards: ShardSet,
        store: Arc<Store>,
    ) -> std::io::Result<Following> {
        let holder =
            admitted.as_ref().map_or_else(|| Holder::new(&config.primary), |admitted| admitted.holder().clone());
        let mode = config.mode.name();
        let view = FollowView { primary: config.primary.clone(), state: "joining", mode, ..FollowView::default() };
        let follow = Arc::new(Follow {
            config,
            holder,
            standing: Arc::default(),
            whom: Mutex::default(),
            view: Mutex::new(view),
            stopping: AtomicBool::new(false),
            hold: Hold::new(shards),
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

    /// Follow these as well, which nobody else writes to.
    pub fn add(&self, shards: ShardSet) {
        self.follow.hold.want(shards);
        let mut view = self.follow.view();
        (view.state, view.is_near) = ("joining", false);
        drop(view);
        self.wake();
    }

    /// Have the thread let go of these shards for good: it does not touch them again, and follows
    /// in the others. After an error it is still about to: call this again.
    pub fn release(&self, shards: ShardSet) -> Result<(), StillHeld> {
        self.follow.hold.bar(shards);
        self.wake();
        if self.follow.hold.wait_for(shards, END_WAIT_MAX) { Ok(()) } else { Err(StillHeld) }
    }

    /// It has been asked to end, and may not have let go yet.
    pub fn is_stopping(&self) -> bool {
        self.follow.stopping.load(Relaxed)
    }

    /// The same for all, and the thread ends. It may still finish a handshake.
    pub fn stop(&mut self) -> Result<(), StillHeld> {
        self.follow.stopping.store(true, Relaxed);
        self.follow.holder.leave();
        self.release(ShardSet::all(SHARDS_MAX))?;
        // What the thread still does needs no wait.
        self.thread = None;
        Ok(())
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.follow.hold.bar(ShardSet::all(SHARDS_MAX));
        self.follow.stopping.store(true, Relaxed);
        self.follow.holder.leave();
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
