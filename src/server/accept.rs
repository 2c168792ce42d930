//! Taking connections, within the limit of -c and without a busy loop when the system has no
//! descriptor left.

use super::Shared;
use super::control::{NO_OPERATOR_ANSWER, is_operator};
use super::listen::Listener;
use super::registry::View;
use super::table::Token;
use crate::base::limits::{ACCEPT_REST_MILLISECONDS, ACCEPTS_PER_TURN, OPERATORS_MAX};
use crate::base::time::SteadySeconds;
use crate::engine::WorkerStats;
use crate::sys::poll::{Interest, Poller};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, acceptfrom_with, recv, send};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// memcached's words to a client that is one too many.
const TOO_MANY_ANSWER: &[u8] = b"ERROR Too many open connections\r\n";

/// A worker's listeners.
pub struct Acceptor {
    listeners: Vec<Listener>,
    /// Set while accepting rests.
    resting_until: Option<Instant>,
}

impl Acceptor {
    /// Watch the listeners.
    pub fn new(listeners: Vec<Listener>, poller: &Poller) -> io::Result<Acceptor> {
        let acceptor = Acceptor { listeners, resting_until: None };
        acceptor.watch(poller)?;
        Ok(acceptor)
    }

    fn watch(&self, poller: &Poller) -> io::Result<()> {
        for (at, listener) in self.listeners.iter().enumerate() {
            let interest = if listener.shared { Interest::SharedRead } else { Interest::Read };
            poller.add(&*listener.socket, Token::other(at as u32).to_bits(), interest)?;
        }
        Ok(())
    }

    fn unwatch(&self, poller: &Poller) {
        for listener in &self.listeners {
            let _ = poller.remove(&*listener.socket);
        }
    }

    /// When accepting goes on, if it rests.
    pub fn resting_until(&self) -> Option<Instant> {
        self.resting_until
    }

    /// Go on once the rest is over.
    pub fn wake(&mut self, poller: &Poller) -> io::Result<()> {
        if self.resting_until.is_some_and(|until| Instant::now() >= until) {
            self.resting_until = None;
            self.watch(poller)?;
        }
        Ok(())
    }

    /// No more connections. The kernel refuses new ones when the last worker has let go of a
    /// listener.
    pub fn close(&mut self, poller: &Poller) {
        self.unwatch(poller);
        self.listeners.clear();
        self.resting_until = None;
    }

    /// Accept from listener `at` and hand each connection to `take`. A shared listener gives one a
    /// turn, so that one worker does not take all; what is left is reported again.
    pub fn accept(
        &mut self,
        at: u32,
        shared: &Shared,
        stats: &WorkerStats,
        now: SteadySeconds,
        poller: &Poller,
        mut take: impl FnMut(OwnedFd, Arc<View>, &Listener),
    ) {
        let Some(listener) = self.listeners.get(at as usize) else {
            return;
        };
        for _ in 0..if listener.shared { 1 } else { ACCEPTS_PER_TURN } {
            match acceptfrom_with(&*listener.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, peer)) => {
                    stats.accepts.increment();
                    if admit(&socket, shared, listener.is_control) {
                        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                        take(socket, Arc::new(View::new(peer, listener.name.clone(), now)), listener);
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(error) => {
                    stats.accept_errors.increment();
                    if matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) {
                        self.rest(error, poller);
                        return;
                    }
                    // Anything else concerns the one connection only (it was reset while it
                    // waited).
                }
            }
        }
    }

    fn rest(&mut self, error: Errno, poller: &Poller) {
        log::warn!("cannot accept: {error}; going on in a moment. Raise `ulimit -n`, or lower -c below it");
        self.unwatch(poller);
        self.resting_until = Some(Instant::now() + Duration::from_millis(ACCEPT_REST_MILLISECONDS));
    }
}

/// Count a connection in, or tell it that it is one too many, or not let in here.
fn admit(socket: &OwnedFd, shared: &Shared, is_control: bool) -> bool {
    let global = shared.engine.global();
    if is_control && !is_operator(socket) {
        global.rejected_connections.fetch_add(1, Relaxed);
        turn_away(socket, NO_OPERATOR_ANSWER);
        return false;
    }
    let places = if is_control { OPERATORS_MAX } else { shared.config.connections_max as u64 };
    if counter(shared, is_control).fetch_add(1, Relaxed) < places {
        global.total_connections.fetch_add(1, Relaxed);
        return true;
    }
    dismiss(shared, is_control);
    global.rejected_connections.fetch_add(1, Relaxed);
    turn_away(socket, TOO_MANY_ANSWER);
    false
}

fn turn_away(socket: &OwnedFd, answer: &[u8]) {
    let _ = send(socket, answer, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    // What it has sent already is taken, so that the close is no reset, which would cost it the
    // answer.
    let _ = recv(socket, &mut [0u8; 4096], RecvFlags::DONTWAIT);
}

/// Operators have places of their own, and take none of the clients'.
fn counter(shared: &Shared, is_control: bool) -> &AtomicU64 {
    let global = shared.engine.global();
    if is_control { &global.operator_connections } else { &global.client_connections }
}

/// The opposite of being admitted.
pub fn dismiss(shared: &Shared, is_control: bool) {
    counter(shared, is_control).fetch_sub(1, Relaxed);
}
