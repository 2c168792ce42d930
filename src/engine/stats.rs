//! Counters: one set per worker, written by that worker alone (relaxed adds, no sharing), summed when asked.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter of one writer.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Add one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Add `amount`. A load and a store, not a locked add: each counter has one writer.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters of one worker.
#[derive(Default)]
pub struct WorkerStats {
    // kept by the server
    /// Bytes read from sockets.
    pub bytes_read: Counter,
    /// Bytes written to sockets.
    pub bytes_written: Counter,
    /// Read calls on sockets.
    pub read_calls: Counter,
    /// Write calls on sockets.
    pub write_calls: Counter,
    /// Turns of the worker's loop: one poll each.
    pub polls: Counter,
    /// Times a connection had to let others go first (-R).
    pub conn_yields: Counter,
    /// Requests that waited for a later turn because memory was being reclaimed.
    pub parked_requests: Counter,
    /// Connections accepted.
    pub accepts: Counter,
    /// Accepts that failed (out of file descriptors, out of memory).
    pub accept_errors: Counter,
    /// Connections closed for being idle.
    pub idle_kicks: Counter,
    /// Connections closed because they held memory and made no progress.
    pub stall_kicks: Counter,
    /// Connections refused because unfinished requests hold too much memory already.
    pub input_refused: Counter,
    // end of what the server keeps
}

/// Counters of the process that several threads write (connections come and go on any worker).
#[derive(Default)]
pub struct GlobalStats {
    /// Open connections now.
    pub curr_connections: AtomicU64,
    /// Connections ever opened.
    pub total_connections: AtomicU64,
    /// Connections refused because of -c.
    pub rejected_connections: AtomicU64,
}
