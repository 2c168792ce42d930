//! Something that takes long, made once by a thread of its own: whoever asks meanwhile is told how
//! far it is. What fails is tried again, after pauses that grow, because an operator may have
//! mended it (`prlimit` raises a limit of a process that runs).

use super::backoff::Backoff;
use super::errors::failed;
use crate::fabric::{Cause, FabricError, Kind, Readiness};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The first pause after a failure, and the longest.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
/// See [`RETRY_PAUSE_MIN`].
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How far the work is; whoever does it counts here, and looks here whether it is to stop.
#[derive(Debug, Default)]
pub(super) struct Progress {
    done_bytes: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// So many bytes more are done. An error if nobody wants them any more.
    pub fn add(&self, bytes: u64) -> Result<(), FabricError> {
        self.done_bytes.fetch_add(bytes, Relaxed);
        if self.stop.load(Relaxed) { Err(failed(Cause::Closed, "the fabric is ending")) } else { Ok(()) }
    }
}

/// What is to be made.
enum Promise<T> {
    UnderWay,
    Ready(Arc<T>),
    Failed(FabricError),
}

struct Shared<T> {
    bytes: u64,
    progress: Progress,
    promise: Mutex<Promise<T>>,
    stopped: Condvar,
}

impl<T> Shared<T> {
    fn promise(&self) -> MutexGuard<'_, Promise<T>> {
        // Each change is a single store, so a thread that panicked has left nothing half done.
        self.promise.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait for `pause`, or less if it is to stop. True if it is.
    fn rest(&self, pause: Duration) -> bool {
        let is_wanted = |_: &mut Promise<T>| !self.progress.stop.load(Relaxed);
        drop(self.stopped.wait_timeout_while(self.promise(), pause, is_wanted));
        self.progress.stop.load(Relaxed)
    }
}

/// See the module. Dropping it waits for the step of the work that is under way.
pub(super) struct Preparing<T> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + Sync + 'static> Preparing<T> {
    /// Have a thread called `name` `make` it, which is `bytes` bytes of work.
    pub fn start(
        name: &str,
        bytes: u64,
        make: impl Fn(&Progress) -> Result<T, FabricError> + Send + 'static,
    ) -> Result<Preparing<T>, FabricError> {
        let (promise, progress) = (Mutex::new(Promise::UnderWay), Progress::default());
        let shared = Arc::new(Shared { bytes, progress, promise, stopped: Condvar::new() });
        let working = shared.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || working.work(make));
        let thread = thread.map_err(|error| FabricError::from_io(Kind::Verbs, "cannot start a thread", &error))?;
        Ok(Preparing { shared, thread: Some(thread) })
    }

    /// What was made; until then an error, which says how far it is or why it failed.
    pub fn get(&self) -> Result<Arc<T>, FabricError> {
        match &*self.shared.promise() {
            Promise::Ready(made) => Ok(made.clone()),
            Promise::Failed(error) => Err(error.clone()),
            Promise::UnderWay => Err(failed(Cause::NotYet, self.under_way().words())),
        }
    }

    /// How far it is.
    pub fn readiness(&self) -> Readiness {
        match &*self.shared.promise() {
            Promise::Ready(_) => Readiness::Ready,
            Promise::Failed(error) => Readiness::Failed(error.clone()),
            Promise::UnderWay => self.under_way(),
        }
    }

    fn under_way(&self) -> Readiness {
        let Shared { bytes, progress, .. } = &*self.shared;
        Readiness::Registering { done_bytes: progress.done_bytes.load(Relaxed), bytes: *bytes }
    }
}

impl<T> Shared<T> {
    fn work(&self, make: impl Fn(&Progress) -> Result<T, FabricError>) {
        let mut backoff = Backoff::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX);
        loop {
            let begun = Instant::now();
            self.progress.done_bytes.store(0, Relaxed);
            let made = make(&self.progress);
            match made {
                Err(_) if self.progress.stop.load(Relaxed) => return,
                Ok(made) => {
                    log::info!("verbs: {} MiB are registered, after {:?}", self.bytes >> 20, begun.elapsed());
                    *self.promise() = Promise::Ready(Arc::new(made));
                    return;
                }
                Err(error) => {
                    if !matches!(&*self.promise(), Promise::Failed(before) if *before == error) {
                        log::warn!("{error}; no replica is given memory over verbs until that works");
                    }
                    *self.promise() = Promise::Failed(error);
                }
            }
            let now = Instant::now();
            if self.rest(backoff.failed(now) - now) {
                return;
            }
        }
    }
}

impl<T> Drop for Preparing<T> {
    fn drop(&mut self) {
        {
            // Under the lock: a thread that is about to rest sees it.
            let _promise = self.shared.promise();
            self.shared.progress.stop.store(true, Relaxed);
        }
        self.shared.stopped.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const WAIT_MAX: Duration = Duration::from_secs(30);

    fn wait_for(what: &str, it: impl Fn() -> bool) {
        let until = Instant::now() + WAIT_MAX;
        while !it() {
            assert!(Instant::now() < until, "{what}: not within {WAIT_MAX:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_asks_before_it_is_made_is_told_how_far_it_is() {
        let (sender, told) = channel::<u64>();
        let preparing = Preparing::start("test", 4 << 20, move |progress| {
            told.iter().take(4).try_for_each(|bytes| progress.add(bytes)).map(|()| "made")
        });
        let preparing = preparing.unwrap();
        // Dropped before `preparing`, so the thread ends, which `preparing` waits for.
        let go = sender;
        let early = preparing.get().unwrap_err();
        assert_eq!(early.cause, Cause::NotYet);
        assert!(early.what.contains("0 of 4 MiB"), "{early}");
        (0..3).for_each(|_| go.send(1 << 20).unwrap());
        wait_for("progress", || preparing.get().is_err_and(|early| early.what.contains("3 of 4 MiB")));
        assert_eq!(preparing.readiness(), Readiness::Registering { done_bytes: 3 << 20, bytes: 4 << 20 });
        go.send(1 << 20).unwrap();
        wait_for("the end", || preparing.get().is_ok_and(|made| *made == "made"));
        assert_eq!(preparing.readiness(), Readiness::Ready);
    }

    #[test]
    fn what_fails_is_told_and_tried_again() {
        let tries = Arc::new(AtomicU64::new(0));
        let counted = tries.clone();
        let preparing = Preparing::start("test", 1, move |_| match counted.fetch_add(1, Relaxed) {
            0 => Err(failed(Cause::System, "too little memory may be locked")),
            _ => Ok(()),
        });
        let preparing = preparing.unwrap();
        wait_for("the failure", || preparing.get().is_err_and(|error| error.cause == Cause::System));
        wait_for("another try", || preparing.get().is_ok());
        assert_eq!(tries.load(Relaxed), 2);
    }

    #[test]
    fn who_drops_it_waits_for_a_step_and_not_for_the_rest() {
        let (begun, has_begun) = channel();
        let preparing = Preparing::start("test", u64::MAX, move |progress| -> Result<(), FabricError> {
            loop {
                progress.add(1)?;
                let _ = begun.send(());
            }
        });
        has_begun.recv().unwrap();
        drop(preparing);
        while has_begun.recv().is_ok() {}
        // And one that rests after a failure.
        let preparing = Preparing::<()>::start("test", 1, |_| Err(failed(Cause::System, "never")));
        wait_for("the failure", || preparing.as_ref().is_ok_and(|one| matches!(one.readiness(), Readiness::Failed(_))));
        let dropped = Instant::now();
        drop(preparing);
        assert!(dropped.elapsed() < WAIT_MAX);
    }
}
