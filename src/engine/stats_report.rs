//! The answer to plain `stats`: memcached's rows ([`super::stats_general`]), then what only a
//! log-structured store has to tell, prefixed by what it is about (log_, index_, slabs_).

use super::stats::{Baseline, WorkerTotals};
use super::stats_general::GENERAL;
use super::stats_table::report;
use super::watch::WatchCounts;
use super::{Call, CertificateTimes, Engine};
use crate::protocol::Reply;
use crate::protocol::reply::Rows;
use crate::store::StoreStats;
use crate::sys::logging::dropped_lines;
use std::fmt::Display;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering::Relaxed;

/// All counters since the last reset, and what is true now.
pub(super) struct Snapshot {
    pub(super) workers: WorkerTotals,
    pub(super) store: StoreStats,
    pub(super) watch: WatchCounts,
    pub(super) total_connections: u64,
    pub(super) rejected_connections: u64,
}

impl Engine {
    fn baseline(&self) -> MutexGuard<'_, Baseline> {
        self.baseline.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn count_all(&self, call: &Call<'_, '_, '_>) -> Baseline {
        let mut workers = WorkerTotals::default();
        for worker in call.context.host.worker_stats() {
            workers.add(&worker);
        }
        Baseline {
            workers,
            total_connections: self.global.total_connections.load(Relaxed),
            rejected_connections: self.global.rejected_connections.load(Relaxed),
            store: self.store.stats(),
            watch: self.watch.counts(),
        }
    }

    /// Start all counters from here.
    pub(super) fn reset_stats(&self, call: &Call<'_, '_, '_>) {
        *self.baseline() = self.count_all(call);
        self.prefixes.clear();
    }

    /// What was counted since the last reset.
    pub(super) fn snapshot(&self, call: &Call<'_, '_, '_>) -> Snapshot {
        // The base is read before the counters. If another worker resets it in between, it is newer
        // than the counters, and the differences stop at zero.
        let base = self.baseline().clone();
        let all = self.count_all(call);
        Snapshot {
            workers: all.workers.since(&base.workers),
            store: all.store.since(&base.store),
            watch: all.watch.since(&base.watch),
            total_connections: all.total_connections.saturating_sub(base.total_connections),
            rejected_connections: all.rejected_connections.saturating_sub(base.rejected_connections),
        }
    }

    /// Plain `stats`, without END: memcached's rows, then Remora's own.
    pub(super) fn report_general(&self, call: &mut Call<'_, '_, '_>, reply: Reply) {
        let figures = self.figures(call);
        let now = &figures.now;
        let acks = self.acks_rows(call, &now.workers);
        let times = call.context.host.certificate_times();
        let out = &mut call.rows(reply);
        report(out, "", GENERAL, &figures);
        if let Some(times) = times {
            report_tls(out, &now.workers, times, figures.time.0);
        }
        report_log(out, &now.store);
        report_loop(out, &now.workers);
        out.row("forward_links", self.global.forward_links.load(Relaxed));
        out.row("input_held_bytes", self.global.input_held_bytes.load(Relaxed));
        out.row("output_held_bytes", self.global.output_held_bytes.load(Relaxed));
        report_rows(out, &acks);
        out.row("forward_links_out", self.global.forward_links_out.load(Relaxed));
        report_forwarded(out, &now.workers);
        // Of the process's own log on standard error, not of a shard's.
        out.row("log_lines_dropped", dropped_lines());
    }

    /// What is, and was, held for replicas.
    pub(super) fn acks_rows(&self, call: &Call<'_, '_, '_>, total: &WorkerTotals) -> [(&'static str, u64); 4] {
        let all = self.count_all(call).workers;
        // Not since the last reset: these are pending now. An answer is counted as ended only after
        // it was counted as held.
        let pending = (all.acks_waited + all.waits).saturating_sub(all.acks_ended);
        [
            ("acks_waited", total.acks_waited),
            ("acks_timed_out", total.acks_timed_out),
            ("acks_pending", pending),
            ("waits", total.waits),
        ]
    }
}

/// memcached shows ssl_new_sessions only where sessions are kept; here they are counted anyway.
fn report_tls(out: &mut Rows<'_>, total: &WorkerTotals, times: CertificateTimes, unix_seconds: u32) {
    let rows: [(&str, u64); 4] = [
        ("ssl_new_sessions", total.ssl_new_sessions),
        ("ssl_handshake_errors", total.ssl_handshake_errors),
        ("ssl_proto_errors", total.ssl_proto_errors),
        ("time_since_server_cert_refresh", times.age_seconds.into()),
    ];
    report_rows(out, &rows);
    // Remora's own. Below 0 once it is over.
    if let Some(expires_at) = times.expires_at {
        out.row("time_until_server_cert_expiry", expires_at - i64::from(unix_seconds));
    }
}

fn report_log(out: &mut Rows<'_>, store: &StoreStats) {
    let rows: [(&str, u64); 16] = [
        ("shards", store.shards),
        ("log_appended_bytes", store.counts.appended_bytes),
        ("log_reclaimed_bytes", store.reclaimed_bytes),
        ("log_dead_bytes", store.dead_bytes),
        ("log_owned_bytes", store.owned_bytes),
        ("pool_bytes", store.pool_bytes),
        ("log_reinserted_bytes", store.counts.reinserted_bytes),
        ("log_reinserted_items", store.counts.reinserted_items),
        ("index_buckets", store.index_buckets),
        ("index_overflow_buckets", store.index_overflow_buckets),
        ("index_bytes", store.index_bytes),
        ("slabs_hugetlb", store.slabs_hugetlb),
        ("slabs_transparent", store.slabs_transparent),
        ("slabs_plain", store.slabs_plain),
        ("park_waits", store.counts.parked),
        ("lock_waits", store.lock_waits),
    ];
    report_rows(out, &rows);
    let amplification = write_amplification(store.counts.appended_bytes, store.counts.reinserted_bytes);
    out.row("log_write_amplification", format_args!("{amplification:.3}"));
}

/// What the workers' loops do: system calls, and connections and requests that were refused.
fn report_loop(out: &mut Rows<'_>, total: &WorkerTotals) {
    let rows: [(&str, u64); 13] = [
        ("read_calls", total.read_calls),
        ("write_calls", total.write_calls),
        ("polls", total.polls),
        ("parked_requests", total.parked_requests),
        ("accepts", total.accepts),
        ("accept_errors", total.accept_errors),
        ("stall_kicks", total.stall_kicks),
        ("input_refused", total.input_refused),
        ("hoard_kicks", total.hoard_kicks),
        ("read_only_refused", total.read_only_refused),
        ("no_lease_refused", total.no_lease_refused),
        ("forwarded_in", total.forwarded_in),
        ("forwarded_in_not_mine", total.forwarded_in_not_mine),
    ];
    report_rows(out, &rows);
}

/// Requests that are other servers' to execute.
fn report_forwarded(out: &mut Rows<'_>, total: &WorkerTotals) {
    let rows: [(&str, u64); 4] = [
        ("forwarded", total.forwarded),
        ("forward_errors", total.forward_errors),
        ("forward_waits", total.forward_waits),
        ("moved", total.moved),
    ];
    report_rows(out, &rows);
}

pub(super) fn report_rows<V: Display>(out: &mut Rows<'_>, rows: &[(&str, V)]) {
    for (name, value) in rows {
        out.row(name, value);
    }
}

/// All bytes appended, by commands and by reclaim, for each byte that commands appended.
fn write_amplification(appended_bytes: u64, reinserted_bytes: u64) -> f64 {
    let by_commands = appended_bytes.saturating_sub(reinserted_bytes);
    if by_commands == 0 { 1.0 } else { appended_bytes as f64 / by_commands as f64 }
}

/// User and system time of this process in seconds, from /proc (in clock ticks, so to a hundredth
/// of a second).
pub(super) fn cpu_seconds() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name may hold anything, blanks and brackets included: what counts comes behind
    // its last bracket.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    let mut next = || Some(fields.next()?.parse::<u64>().ok()? as f64 / ticks_per_second);
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amplification_is_one_without_reinsertion() {
        assert_eq!(write_amplification(0, 0), 1.0);
        assert_eq!(write_amplification(100, 0), 1.0);
        assert_eq!(write_amplification(150, 50), 1.5);
    }

    #[test]
    fn cpu_time_is_read() {
        let (user, system) = cpu_seconds().expect("/proc/self/stat is there on Linux");
        assert!(user >= 0.0 && system >= 0.0 && user + system < 1e6);
    }
}
