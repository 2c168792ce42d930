//! What the server can tell the engine about its connections (`stats conns`) and workers.
//!
//! A connection's view is written by its worker (relaxed stores to its own memory) and read on
//! demand by any other; the table of a worker is locked only when a connection comes or goes, or
//! somebody asks.

use super::tls::Tls;
use crate::base::time::{Clock, ClockChange, SteadySeconds, UnixSeconds};
use crate::engine::{CertificateTimes, Host, Refresh, WorkerStats};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// What a connection is doing, in memcached's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// Nothing unfinished; the next command is awaited.
    Read,
    /// The rest of a request is awaited.
    ReadBody,
    /// A refused request's body is being dropped.
    Swallow,
    /// Its requests are being executed.
    Execute,
    /// Its answers wait for the client to take them.
    Write,
    /// Its answers wait for replicas, or for other servers: Remora's own.
    Acks,
    /// About to be closed.
    Closing,
}

const ACTIVITIES: [(Activity, &str); 7] = [
    (Activity::Read, "conn_read"),
    (Activity::ReadBody, "conn_nread"),
    (Activity::Swallow, "conn_swallow"),
    (Activity::Execute, "conn_parse_cmd"),
    (Activity::Write, "conn_mwrite"),
    (Activity::Acks, "conn_ack_wait"),
    (Activity::Closing, "conn_closing"),
];

/// The outside of one connection.
pub struct View {
    peer: Option<SocketAddr>,
    listener: Arc<str>,
    activity: AtomicU8,
    last_command_seconds: AtomicU32,
    user: Mutex<Option<Arc<str>>>,
}

impl View {
    /// Of a new connection. No peer for a unix socket: its client has no name.
    pub fn new(peer: Option<SocketAddr>, listener: Arc<str>, now: SteadySeconds) -> View {
        View {
            peer,
            listener,
            activity: AtomicU8::new(Activity::Read as u8),
            last_command_seconds: AtomicU32::new(now.0),
            user: Mutex::default(),
        }
    }

    /// Where its client is; None by a unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Note what it does.
    pub fn set_activity(&self, activity: Activity) {
        self.activity.store(activity as u8, Relaxed);
    }

    /// Note a command.
    pub fn set_last_command(&self, now: SteadySeconds) {
        self.last_command_seconds.store(now.0, Relaxed);
    }

    /// Note whose requests these are; None if that is not known (any more).
    pub fn set_user(&self, name: Option<Arc<str>>) {
        *self.user.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }

    fn user(&self) -> Option<Arc<str>> {
        self.user.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state_name(&self) -> &'static str {
        let activity = self.activity.load(Relaxed);
        ACTIVITIES.iter().find(|(known, _)| *known as u8 == activity).map_or("conn_closed", |(_, name)| name)
    }
}

#[derive(Default)]
struct WorkerView {
    stats: Arc<WorkerStats>,
    connections: Mutex<BTreeMap<i32, Arc<View>>>,
}

/// All views.
pub struct Registry {
    listeners: Vec<(i32, Arc<str>)>,
    workers: Vec<WorkerView>,
    clock: Clock,
    /// Since when the listeners wait.
    begun: SteadySeconds,
    tls: Option<Arc<Tls>>,
}

impl Registry {
    /// For so many workers; `listeners` are descriptors with names.
    pub fn new(workers: usize, listeners: Vec<(i32, Arc<str>)>, clock: Clock) -> Registry {
        let (begun, tls) = (clock.steady(), None);
        Registry { listeners, clock, begun, tls, workers: (0..workers).map(|_| WorkerView::default()).collect() }
    }

    /// The same, with what connections are sealed by.
    pub fn with_tls(self, tls: Option<Arc<Tls>>) -> Registry {
        Registry { tls, ..self }
    }

    /// A worker's counters.
    pub fn stats(&self, worker: usize) -> Arc<WorkerStats> {
        self.workers[worker].stats.clone()
    }

    /// A connection has come.
    pub fn insert(&self, worker: usize, descriptor: i32, view: Arc<View>) {
        self.lock(worker).insert(descriptor, view);
    }

    /// A connection goes; before its descriptor is closed, since that number may be given to
    /// another at once.
    pub fn remove(&self, worker: usize, descriptor: i32) {
        self.lock(worker).remove(&descriptor);
    }

    fn lock(&self, worker: usize) -> std::sync::MutexGuard<'_, BTreeMap<i32, Arc<View>>> {
        // The process ends when a worker panics, so a poisoned lock is never seen.
        self.workers[worker].connections.lock().expect("no worker panics and lives on")
    }
}

impl Host for Registry {
    fn connections(&self, emit: &mut dyn FnMut(u64, &str, &str)) {
        let now = self.clock.steady();
        let mut seconds = itoa::Buffer::new();
        for (descriptor, name) in &self.listeners {
            emit(*descriptor as u64, "addr", name);
            emit(*descriptor as u64, "state", "conn_listening");
            emit(*descriptor as u64, "secs_since_last_cmd", seconds.format(now.since(self.begun)));
        }
        for worker in 0..self.workers.len() {
            // Copied out, so that answering a slow asker holds up no other worker's accepts.
            let views: Vec<_> =
                self.lock(worker).iter().map(|(descriptor, view)| (*descriptor, view.clone())).collect();
            for (descriptor, view) in views {
                let id = descriptor as u64;
                match view.peer {
                    Some(SocketAddr::V4(peer)) => emit(id, "addr", &format!("tcp:{peer}")),
                    Some(SocketAddr::V6(peer)) => emit(id, "addr", &format!("tcp6:{peer}")),
                    None => emit(id, "addr", &view.listener),
                }
                emit(id, "listen_addr", &view.listener);
                emit(id, "state", view.state_name());
                let idle = now.since(SteadySeconds(view.last_command_seconds.load(Relaxed)));
                emit(id, "secs_since_last_cmd", seconds.format(idle));
                if let Some(user) = view.user() {
                    emit(id, "user", &user);
                }
            }
        }
    }

    fn worker_stats(&self) -> Vec<Arc<WorkerStats>> {
        self.workers.iter().map(|worker| worker.stats.clone()).collect()
    }

    fn change_clock(&self, change: ClockChange) -> Option<UnixSeconds> {
        self.clock.change(change).then(|| self.clock.wall())
    }

    fn certificate_times(&self) -> Option<CertificateTimes> {
        self.tls.as_ref().map(|tls| tls.times())
    }

    fn refresh_certificates(&self, ticket: Option<u32>) -> Option<Refresh> {
        self.tls.as_ref().map(|tls| tls.refresh_apart(ticket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_and_connections_are_told_until_they_go() {
        let registry = Registry::new(2, vec![(3, "tcp:127.0.0.1:1".into())], Clock::default());
        let view =
            Arc::new(View::new(Some("127.0.0.1:9".parse().unwrap()), "tcp:127.0.0.1:1".into(), SteadySeconds(1)));
        registry.insert(1, 12, view.clone());
        view.set_activity(Activity::Write);
        let rows = |registry: &Registry| {
            let mut rows = Vec::new();
            registry.connections(&mut |id, name, value| rows.push(format!("{id}:{name} {value}")));
            rows
        };
        let told = rows(&registry);
        for row in [
            "3:state conn_listening",
            "12:addr tcp:127.0.0.1:9",
            "12:listen_addr tcp:127.0.0.1:1",
            "12:state conn_mwrite",
        ] {
            assert!(told.iter().any(|told| told == row), "{row} in {told:?}");
        }
        assert!(told.iter().any(|told| told.starts_with("12:secs_since_last_cmd ")));
        registry.remove(1, 12);
        assert_eq!(rows(&registry).len(), 3);
        assert_eq!(registry.worker_stats().len(), 2);
    }
}
