//! What the clients of a cluster, and who conducts its faults, share: where the servers are, what
//! is counted, and when each shard takes writes again after a fault.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What came of the clients' requests.
#[derive(Debug, Default)]
pub struct Counts {
    pub acknowledged: AtomicU64,
    pub reads: AtomicU64,
    /// Writes of which nobody knows whether they were done.
    pub unknown: AtomicU64,
    /// Acknowledged writes that were missing once the cluster was well again.
    pub lost: AtomicU64,
    /// Answers older than a write that had been acknowledged before they were asked for.
    pub stale: AtomicU64,
    /// The same, where the primary may have been without a lease, and knows no better.
    pub without_lease: AtomicU64,
}

/// All lanes are to look for all that they have written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    pub number: u64,
    /// At this server; None: each at one of its own choice.
    pub server: Option<usize>,
}

/// See the module.
pub struct Field {
    begun: Instant,
    pub servers: Vec<SocketAddr>,
    pub counts: Counts,
    pub stopping: AtomicBool,
    /// Of each shard: its primary may be without a lease.
    away: Vec<AtomicBool>,
    round: Mutex<Round>,
    /// Lanes that have done the round.
    pub looked: AtomicUsize,
    /// Of each shard: the microsecond of a fault since which no write was acknowledged; 0: none.
    waiting: Vec<AtomicU64>,
    /// Microseconds from faults to the first acknowledged writes.
    took: Mutex<Vec<u64>>,
    complaints: Mutex<Vec<String>>,
}

/// A thread that has failed must not hide its reason behind this lock.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Field {
    pub fn new(servers: Vec<SocketAddr>, shards: usize) -> Field {
        Field {
            begun: Instant::now(),
            servers,
            counts: Counts::default(),
            stopping: AtomicBool::new(false),
            away: (0..shards).map(|_| AtomicBool::new(false)).collect(),
            round: Mutex::default(),
            looked: AtomicUsize::new(0),
            waiting: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            took: Mutex::default(),
            complaints: Mutex::default(),
        }
    }

    /// Microseconds, never 0.
    pub fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64 + 1
    }

    pub fn round(&self) -> Round {
        *locked(&self.round)
    }

    /// From now on the primaries of these shards, and of no others, may be without a lease.
    pub fn set_away(&self, shards: &[usize]) {
        (0..self.shards()).for_each(|shard| self.away[shard].store(shards.contains(&shard), SeqCst));
    }

    pub fn is_away(&self, shard: usize) -> bool {
        self.away[shard].load(SeqCst)
    }

    /// Have all lanes look for everything.
    pub fn begin_round(&self, server: Option<usize>) {
        let mut round = locked(&self.round);
        self.looked.store(0, SeqCst);
        *round = Round { number: round.number + 1, server };
    }

    /// A fault has begun that these shards' primaries do not outlive.
    pub fn wait_for_first(&self, shards: &[usize]) {
        let now = self.now();
        shards.iter().for_each(|shard| self.waiting[*shard].store(now, SeqCst));
    }

    /// A write that was begun at `invoked` is acknowledged.
    pub fn acknowledged(&self, shard: usize, invoked: u64) {
        self.counts.acknowledged.fetch_add(1, SeqCst);
        let since = self.waiting[shard].load(SeqCst);
        if since > 0 && invoked >= since && self.waiting[shard].swap(0, SeqCst) == since {
            locked(&self.took).push(self.now() - since);
        }
    }

    /// Shards in which nothing was acknowledged since their fault.
    pub fn still_waiting(&self) -> usize {
        self.waiting.iter().filter(|since| since.load(SeqCst) > 0).count()
    }

    /// Microseconds from faults to the first acknowledged writes, since the last time.
    pub fn take_times(&self) -> Vec<u64> {
        std::mem::take(&mut *locked(&self.took))
    }

    pub fn complain(&self, count: &AtomicU64, words: String) {
        count.fetch_add(1, SeqCst);
        let at = jiff::Timestamp::now().strftime("%H:%M:%S%.3f");
        locked(&self.complaints).push(format!("{at} {words}"));
    }

    pub fn complaints(&self) -> Vec<String> {
        locked(&self.complaints).clone()
    }

    pub fn shards(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }
}
