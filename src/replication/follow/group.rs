//! What the pullers of one session share. Each has a thread: the first one is the session's own,
//! which also looks after the control connection; the others are the further pullers. The session
//! ends where one of them fails or is told to stop, and then all stop.
//!
//! A discard is ordered once every puller sees a log in every shard of its share. From then on each
//! discards at its next step; one whose thread has ended meanwhile does when the session ends. So
//! when the store is let go, either all shards were given up, or none.

use super::SessionEnd;
use crate::replication::pull::{Counts, Lag, Puller, Sign};
use crossbeam::utils::CachePadded;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

/// What a puller has come to, or several together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// What was counted.
    pub counts: Counts,
    /// How far behind.
    pub lag: Lag,
    /// When the server that takes writes was last seen to live.
    pub sign: Sign,
    /// All have applied what their last look showed.
    pub is_caught_up: bool,
    /// See [`Puller::may_discard`]; of all.
    pub may_discard: bool,
}

impl Progress {
    /// Of one.
    pub fn of(puller: &Puller<'_>) -> Progress {
        Progress {
            counts: puller.counts(),
            lag: puller.lag(),
            sign: puller.sign(),
            is_caught_up: puller.is_caught_up(),
            may_discard: puller.may_discard(),
        }
    }

    /// Of all of them together; there is one at least.
    pub fn of_all(each: impl Iterator<Item = Progress>) -> Progress {
        each.reduce(Progress::with).unwrap_or_default()
    }

    /// Of both together.
    fn with(self, other: Progress) -> Progress {
        Progress {
            counts: self.counts.plus(&other.counts),
            lag: self.lag.with(other.lag),
            sign: self.sign.with(other.sign),
            is_caught_up: self.is_caught_up && other.is_caught_up,
            may_discard: self.may_discard && other.may_discard,
        }
    }
}

/// See the module.
pub(super) struct Group {
    /// The session's thread.
    first: Thread,
    /// One for each further puller. Each is written at each step, so no two share a cache line.
    progress: Vec<CachePadded<Mutex<Progress>>>,
    further: Mutex<Vec<Thread>>,
    /// Every puller stops.
    is_over: AtomicBool,
    /// Every puller gives up what is here.
    discards: AtomicBool,
    /// The session's thread waits until all have caught up.
    is_awaited: AtomicBool,
    /// A further puller has failed; the first one that has, and why.
    has_failed: AtomicBool,
    failure: Mutex<Option<SessionEnd>>,
}

struct Ends<'g>(&'g Group);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Relaxed);
        self.0.wake();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Group {
    /// Of this thread, and so many further pullers.
    pub fn new(further: usize) -> Group {
        Group {
            first: std::thread::current(),
            progress: (0..further).map(|_| CachePadded::default()).collect(),
            further: Mutex::default(),
            is_over: AtomicBool::new(false),
            discards: AtomicBool::new(false),
            is_awaited: AtomicBool::new(true),
            has_failed: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// Of all pullers together; `first` is that of the session's thread.
    pub fn progress(&self, first: Progress) -> Progress {
        Progress::of_all(std::iter::once(first).chain(self.progress.iter().map(|one| *lock(one))))
    }

    /// A further puller runs on this thread.
    pub fn add(&self, thread: &Thread) {
        lock(&self.further).push(thread.clone());
    }

    /// Why a further puller has failed, if one has.
    pub fn failure(&self) -> Option<SessionEnd> {
        if self.has_failed.load(Acquire) { lock(&self.failure).take() } else { None }
    }

    /// Whether the pullers are to stop.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// The further pullers stop once this is dropped, also where the session's thread panics: it
    /// would wait for them for ever.
    pub fn ends_here(&self) -> impl Drop + '_ {
        Ends(self)
    }

    /// Have every puller discard. What the store must know before was done before.
    pub fn order_discard(&self) {
        self.discards.store(true, Release);
        self.wake();
    }

    fn wake(&self) {
        lock(&self.further).iter().for_each(Thread::unpark);
    }

    /// Discard, if that is ordered and was not done.
    pub fn discard_if_ordered(&self, puller: &mut Puller<'_>) {
        if puller.keeps_what_is_here() && self.discards.load(Acquire) {
            puller.discard();
        }
    }

    /// All have caught up: from now on the session's thread sees in its own time how they stand.
    pub fn note_caught_up(&self) {
        self.is_awaited.store(false, Relaxed);
    }

    /// A further puller tells how far it is. The session's thread is woken where it may be waiting
    /// for that.
    pub fn tell(&self, number: usize, puller: &Puller<'_>) {
        let now = Progress::of(puller);
        let before = std::mem::replace(&mut *lock(&self.progress[number]), now);
        let has_come_up = now.is_caught_up && !before.is_caught_up;
        if (has_come_up && self.is_awaited.load(Relaxed)) || (now.may_discard && !before.may_discard) {
            self.first.unpark();
        }
    }

    /// A further puller has failed.
    pub fn fail(&self, error: SessionEnd) {
        lock(&self.failure).get_or_insert(error);
        self.has_failed.store(true, Release);
        self.first.unpark();
    }
}
