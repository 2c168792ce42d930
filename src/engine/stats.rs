//! Counters: one set per worker, written by that worker alone (relaxed, no locked add, no sharing),
//! summed when asked.
//!
//! A reset does not write them: it remembers what they stood at, and reports subtract that. So each
//! counter keeps its one writer.

use super::watch::WatchCounts;
use crate::store::{Absence, StoreStats};
use std::sync::Arc;
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

/// The counters of a worker and their sums come from one list, so that none can be forgotten in a
/// sum.
macro_rules! worker_counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one worker, named as memcached's `stats` names them.
        #[derive(Default)]
        #[repr(align(64))]
        pub struct WorkerStats {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// Counters of all workers together.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct WorkerTotals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl WorkerTotals {
            /// Add what one worker counted.
            pub fn add(&mut self, worker: &WorkerStats) {
                $(self.$name = self.$name.wrapping_add(worker.$name.get());)*
            }

            /// What was counted since `base`; 0 where `base` is later than this.
            #[must_use]
            pub fn since(&self, base: &WorkerTotals) -> WorkerTotals {
                WorkerTotals { $($name: self.$name.saturating_sub(base.$name),)* }
            }
        }
    };
}

worker_counters! {
    /// Keys looked up by get, gets and mg.
    cmd_get,
    /// Stores tried: set, add, replace, append, prepend, cas, ms, and what ma created.
    cmd_set,
    /// flush_all.
    cmd_flush,
    /// Keys looked up by touch, gat and gats, and hits of mg with T.
    cmd_touch,
    /// me.
    cmd_meta,
    /// Of cmd_get, found.
    get_hits,
    /// Of cmd_get, not found.
    get_misses,
    /// Of get_misses, for an item that had expired.
    get_expired,
    /// Of get_misses, for an item that had been flushed.
    get_flushed,
    /// Deletes that found nothing, or another CAS.
    delete_misses,
    /// Deletes.
    delete_hits,
    /// incr that found nothing.
    incr_misses,
    /// incr.
    incr_hits,
    /// decr that found nothing.
    decr_misses,
    /// decr.
    decr_hits,
    /// Compare-and-swap that found nothing.
    cas_misses,
    /// Compare-and-swap that stored.
    cas_hits,
    /// Compare-and-swap that found another CAS.
    cas_badval,
    /// Of cmd_touch, found.
    touch_hits,
    /// Of cmd_touch, not found.
    touch_misses,
    /// Stores refused because no item may be so large.
    store_too_large,
    /// Commands refused because no room could be had in time.
    store_no_memory,
    /// Dumps begun.
    dumps,
    /// Authentications tried.
    auth_cmds,
    /// Authentications refused.
    auth_errors,
    /// Handshakes of TLS that failed, or took too long.
    ssl_handshake_errors,
    /// Connections that broke TLS's rules after the handshake.
    ssl_proto_errors,
    /// Whole handshakes: those that resumed no session.
    ssl_new_sessions,
    /// Bytes read from sockets.
    bytes_read,
    /// Bytes written to sockets.
    bytes_written,
    /// Read calls on sockets.
    read_calls,
    /// Write calls on sockets.
    write_calls,
    /// Turns of the worker's loop: one poll each.
    polls,
    /// Times a connection had to let others go first (-R).
    conn_yields,
    /// Requests that waited for a later turn because memory was being reclaimed.
    parked_requests,
    /// Connections accepted.
    accepts,
    /// Accepts that failed (out of file descriptors, out of memory).
    accept_errors,
    /// Connections closed for being idle.
    idle_kicks,
    /// Connections closed because they held memory and made no progress.
    stall_kicks,
    /// Requests refused, their bodies swallowed, because unfinished requests held too much memory.
    input_refused,
    /// Connections closed because they held memory, and stood still, while too much was held in
    /// all.
    hoard_kicks,
    /// Writes refused because this is a replica.
    read_only_refused,
    /// Writes refused because the lease had ended.
    no_lease_refused,
    /// Requests that other servers have forwarded.
    forwarded_in,
    /// Of these, those of shards that take no writes here: given back.
    forwarded_in_not_mine,
    /// Answers to writes that were held for replicas.
    acks_waited,
    /// Of these, answered with an error: too few replicas in time.
    acks_timed_out,
    /// wait.
    waits,
    /// Of acks_waited and waits, those that are over: answered, or their clients have gone.
    acks_ended,
    /// Requests that were forwarded to other servers; of a get of several keys each that was.
    forwarded,
    /// Of these, answered with an error that is this server's: no answer, or no primary.
    forward_errors,
    /// Requests that waited before they were forwarded: too many were under way, or earlier ones
    /// of their connection by another way.
    forward_waits,
    /// Keys of other servers of which a client was told whose they are, as it had asked.
    moved,
}

impl WorkerStats {
    /// A get has found nothing.
    #[inline]
    pub(super) fn count_miss(&self, absence: Absence) {
        self.get_misses.increment();
        match absence {
            Absence::Unknown => {}
            Absence::Expired => self.get_expired.increment(),
            Absence::Flushed => self.get_flushed.increment(),
        }
    }
}

/// Counters of the process that several threads write (connections come and go on any worker).
#[derive(Default)]
pub struct GlobalStats {
    /// Open connections of clients now: those that -c counts.
    pub client_connections: AtomicU64,
    /// Open connections of operators now, over control sockets.
    pub operator_connections: AtomicU64,
    /// Connections ever opened.
    pub total_connections: AtomicU64,
    /// Connections refused because of -c.
    pub rejected_connections: AtomicU64,
    /// Links now, by which other servers forward requests.
    pub forward_links: Arc<AtomicU64>,
    /// Bytes that unfinished requests hold now.
    pub input_held_bytes: Arc<AtomicU64>,
    /// Bytes that unsent answers hold now.
    pub output_held_bytes: Arc<AtomicU64>,
    /// Links to other servers that are connected now, to forward requests.
    pub forward_links_out: AtomicU64,
}

/// What all counters stood at when they were last reset.
#[derive(Debug, Clone, Default)]
pub(super) struct Baseline {
    pub(super) workers: WorkerTotals,
    pub(super) total_connections: u64,
    pub(super) rejected_connections: u64,
    pub(super) store: StoreStats,
    pub(super) watch: WatchCounts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_sum_workers_and_subtract_a_base() {
        let (one, two) = (WorkerStats::default(), WorkerStats::default());
        one.get_hits.add(5);
        two.get_hits.add(7);
        two.bytes_read.increment();
        let mut base = WorkerTotals::default();
        base.add(&one);
        let mut totals = WorkerTotals::default();
        totals.add(&one);
        totals.add(&two);
        let since = totals.since(&base);
        assert_eq!((totals.get_hits, since.get_hits, since.bytes_read, since.cmd_get), (12, 7, 1, 0));
        assert_eq!(base.since(&totals).get_hits, 0, "a base that another worker set in between is later");
    }
}
