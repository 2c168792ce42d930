//! Watchers, from the server's side: the thread that collects what workers note, the workers that
//! send it to the clients that watch, and what is noted of connections.
//!
//! A watcher is a connection like any other: requests may follow and are answered, between whole
//! lines. Its lines wait in the engine ([`crate::engine::watch`]) until it has taken what it was
//! sent before.

use super::Shared;
use super::connection::Connection;
use super::registry::View;
use super::table::Token;
use super::worker::Worker;
use crate::base::limits::{OUTPUT_BYTES_HIGH, WATCH_PAUSE_MILLISECONDS_MAX, WATCH_PAUSE_MILLISECONDS_MIN};
use crate::protocol::text::watch::{CloseReason, Event, Peer};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The thread that collects: until the server ends.
pub(super) fn collect(shared: &Shared) {
    let watch = shared.engine.watch();
    watch.be_collected_here();
    let [least, most] = [WATCH_PAUSE_MILLISECONDS_MIN, WATCH_PAUSE_MILLISECONDS_MAX].map(Duration::from_millis);
    let mut pause = least;
    while !shared.stopping.load(Relaxed) {
        if !watch.is_watched() {
            // The first watcher wakes it.
            std::thread::park_timeout(IDLE_PAUSE);
            continue;
        }
        let collected = watch.collect(|worker| shared.wakers[worker].wake());
        pause = if collected > 0 { least } else { (pause * 2).min(most) };
        std::thread::park_timeout(pause);
    }
}

/// How long the thread sleeps at a time while nobody watches.
const IDLE_PAUSE: Duration = Duration::from_secs(60);

impl Worker<'_> {
    /// The waker was used: perhaps there are lines. Hand them to those that have taken what they
    /// were sent before, and have these served in this turn.
    #[cold]
    pub(super) fn tell_watchers(&mut self) {
        let Worker { watching, connections, service, serving, .. } = self;
        watching.retain(|token| {
            let Some(connection) = connections.get_mut(*token) else { return false };
            let Some(watcher) = connection.progress.claims.watcher() else { return false };
            // Not within an answer, of which the rest comes in later turns.
            let is_between = connection.progress.resume == 0 && connection.progress.open_get.is_none();
            if connection.state.takes_requests() && is_between && !connection.has_sendable() {
                let mut output = connection.output.take().unwrap_or_else(|| service.buffers.take_output());
                if !output.is_full() {
                    watcher.take(output.bytes(), OUTPUT_BYTES_HIGH);
                }
                if output.is_empty() {
                    service.buffers.give_output(output);
                } else {
                    connection.output = Some(output);
                    serving.push(*token);
                }
            }
            true
        });
    }

    /// A connection goes, for this `reason` or one that it tells itself.
    pub(super) fn tell_of_close(&self, connection: &Connection, reason: Option<CloseReason>) {
        let Connection { socket, view, close_reason, .. } = connection;
        let reason = reason.unwrap_or(*close_reason);
        let peer = Peer { address: view.peer(), descriptor: socket.as_raw_fd() };
        self.service.shared.engine.watch().note(b"", Event::Closed(peer, reason));
    }
}

/// If the connection has begun to watch, it is this worker that brings its lines.
#[cold]
pub(super) fn note_watcher(worker: usize, connection: &Connection, watching: &mut Vec<Token>) {
    let Some(watcher) = connection.progress.claims.watcher() else { return };
    watcher.be_served_by(worker);
    if !watching.contains(&connection.token) {
        watching.push(connection.token);
    }
}

/// A connection has come.
pub(super) fn tell_of_open(shared: &Shared, view: &Arc<View>, descriptor: i32) {
    shared.engine.watch().note(b"", Event::Opened(Peer { address: view.peer(), descriptor }));
}
