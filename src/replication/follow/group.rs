//! What the pullers of one session share. Each has a thread: the first one is the session's own,
//! which also looks after the control connection; the others are the further pullers. The session
//! ends where one of them fails or is told to stop, and then all stop. Lanes come and go meanwhile:
//! the session's thread decides on that, and each puller carries it out between its steps.

use super::SessionEnd;
use crate::replication::pull::{Counts, Lag, LaneEnd, Puller, Sign};
use crate::replication::wire::Told;
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
    /// When the server that takes writes was last seen to live; None of a puller without lanes.
    pub sign: Option<Sign>,
    /// All lanes follow.
    pub follows: bool,
    /// All have applied what their last look showed.
    pub is_caught_up: bool,
}

impl Progress {
    /// Of one.
    pub fn of(puller: &Puller<'_>) -> Progress {
        Progress {
            counts: puller.counts(),
            lag: puller.lag(),
            sign: puller.has_lanes().then(|| puller.sign()),
            follows: puller.follows(),
            is_caught_up: puller.is_caught_up(),
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
            sign: self.sign.zip(other.sign).map(|(one, other)| one.with(other)).or(self.sign).or(other.sign),
            follows: self.follows && other.follows,
            is_caught_up: self.is_caught_up && other.is_caught_up,
        }
    }
}

/// What a puller is to do between two steps.
pub(super) enum Coming {
    /// Follow in a shard, as its primary has told.
    Add(Told),
    /// Follow in this shard no more.
    Drop(usize),
}

/// One further puller, as the session's thread knows it.
#[derive(Default)]
struct Further {
    progress: Progress,
    comings: Vec<Coming>,
}

/// See the module.
pub(super) struct Group {
    /// The session's thread.
    first: Thread,
    /// One for each further puller. Each is written at each step, so no two share a cache line.
    further: Vec<CachePadded<Mutex<Further>>>,
    threads: Mutex<Vec<Thread>>,
    /// The lanes of further pullers that have ended, and why.
    ended: Mutex<Vec<(usize, LaneEnd)>>,
    has_ended: AtomicBool,
    /// Every puller stops.
    is_over: AtomicBool,
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
            further: (0..further).map(|_| CachePadded::default()).collect(),
            threads: Mutex::default(),
            ended: Mutex::default(),
            has_ended: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            is_awaited: AtomicBool::new(true),
            has_failed: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// Of all pullers together; `first` is that of the session's thread.
    pub fn progress(&self, first: Progress) -> Progress {
        Progress::of_all(std::iter::once(first).chain(self.further.iter().map(|one| lock(one).progress)))
    }

    /// A further puller runs on this thread.
    pub fn add(&self, thread: &Thread) {
        lock(&self.threads).push(thread.clone());
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

    fn wake(&self) {
        lock(&self.threads).iter().for_each(Thread::unpark);
    }

    /// Further puller `number` is to do this.
    pub fn send(&self, number: usize, coming: Coming) {
        let mut further = lock(&self.further[number]);
        further.comings.push(coming);
        (further.progress.is_caught_up, further.progress.follows) = (false, false);
        drop(further);
        if let Some(thread) = lock(&self.threads).get(number) {
            thread.unpark();
        }
    }

    /// The lane of a further puller has ended, and was dropped.
    pub fn lane_ended(&self, shard: usize, why: LaneEnd) {
        lock(&self.ended).push((shard, why));
        self.has_ended.store(true, Release);
        self.first.unpark();
    }

    /// Those that have ended since this was asked.
    pub fn take_ended(&self) -> Vec<(usize, LaneEnd)> {
        // Asked at each step: mostly there is nothing, and then nothing is written.
        if !self.has_ended.load(Relaxed) || !self.has_ended.swap(false, Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut *lock(&self.ended))
    }

    /// All have not caught up: a lane is to come.
    pub fn await_all(&self) {
        self.is_awaited.store(true, Relaxed);
    }

    /// All have caught up: from now on the session's thread sees in its own time how they stand.
    pub fn note_caught_up(&self) {
        self.is_awaited.store(false, Relaxed);
    }

    /// A further puller tells how far it is, and learns what it is to do. The session's thread is
    /// woken where it may be waiting for that.
    pub fn tell(&self, number: usize, puller: &Puller<'_>) -> Vec<Coming> {
        let now = Progress::of(puller);
        let mut further = lock(&self.further[number]);
        let before = std::mem::replace(&mut further.progress, now);
        // It has not caught up before it has the lane that is to come.
        further.progress.is_caught_up &= further.comings.is_empty();
        further.progress.follows &= further.comings.is_empty();
        let comings = std::mem::take(&mut further.comings);
        drop(further);
        if now.is_caught_up && !before.is_caught_up && self.is_awaited.load(Relaxed) {
            self.first.unpark();
        }
        comings
    }

    /// A further puller has failed.
    pub fn fail(&self, error: SessionEnd) {
        lock(&self.failure).get_or_insert(error);
        self.has_failed.store(true, Release);
        self.first.unpark();
    }
}
