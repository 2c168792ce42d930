//! Where peers come in: one thread accepts connections, reads the greeting of each, and hands both
//! to the fabric.
//!
//! A connection is a stranger until its whole greeting has arrived. Strangers get little: there are
//! at most [`STRANGERS_MAX`] of them (the oldest is closed when one more comes), each has
//! [`GREETING_WAIT_MAX`], and each may use the memory of one greeting.

use crate::sys::poll::Waker;
use crate::sys::receive::receive;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections whose greeting is not complete. An honest peer sends its greeting at once, so few
/// wait.
const STRANGERS_MAX: usize = 32;
/// Longest wait for a greeting.
const GREETING_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest greeting in bytes.
pub(super) const GREETING_BYTES_MAX: usize = 32;
/// How often the thread looks for strangers whose time is over, and how long it stops accepting
/// when the system has no descriptor left.
const TICK: Duration = Duration::from_millis(100);
/// Longest sleep while there are no strangers.
const SLEEP_MAX: Duration = Duration::from_secs(5);

/// What a fabric provides: its listener, and what happens to a peer that has greeted.
pub(super) trait Entrance: Send + 'static {
    /// A connection.
    type Socket: AsFd + Send;
    /// Length of a greeting, at most [`GREETING_BYTES_MAX`].
    const GREETING_BYTES: usize;
    /// The listening socket; it must not block.
    fn listener(&self) -> BorrowedFd<'_>;
    /// Take one connection.
    fn accept(&self) -> io::Result<Self::Socket>;
    /// Take over a connection whose greeting is complete. Must not block.
    fn admit(&self, socket: Self::Socket, greeting: &[u8]);
}

/// The thread. Dropping it ends the thread and closes the listener.
pub(super) struct Door {
    waker: Waker,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Start the thread, named `name`.
    pub(super) fn open<E: Entrance>(name: &str, entrance: E) -> io::Result<Door> {
        const { assert!(E::GREETING_BYTES <= GREETING_BYTES_MAX) };
        let waker = Waker::new()?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut porter = Porter { entrance, waker: waker.clone(), strangers: Vec::new(), resting: false };
        let stopped = stop.clone();
        let run = move || {
            while !stopped.load(Relaxed) {
                porter.turn();
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Door { waker, stop, thread: Some(thread) })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Stranger<S> {
    socket: S,
    until: Instant,
    greeting: [u8; GREETING_BYTES_MAX],
    read: usize,
}

struct Porter<E: Entrance> {
    entrance: E,
    waker: Waker,
    strangers: Vec<Stranger<E::Socket>>, // oldest first
    /// The system had no descriptor or memory for a connection: none is accepted for one wait.
    resting: bool,
}

impl<E: Entrance> Porter<E> {
    fn turn(&mut self) {
        let ready = self.wait();
        self.resting = false;
        // From the last to the first, because `listen_to` removes entries.
        for at in (0..self.strangers.len()).rev().filter(|at| ready[2 + at]) {
            self.listen_to(at);
        }
        let now = Instant::now();
        self.strangers.retain(|stranger| now < stranger.until);
        if ready[1] {
            self.accept();
        }
    }

    /// Which descriptors are ready: the waker, the listener, each stranger. One that is reported
    /// wrongly does no harm: nothing that follows blocks.
    fn wait(&self) -> Vec<bool> {
        let listening = if self.resting { PollFlags::empty() } else { PollFlags::IN };
        let strangers = self.strangers.iter().map(|stranger| PollFd::new(&stranger.socket, PollFlags::IN));
        let own =
            [PollFd::new(&self.waker, PollFlags::IN), PollFd::from_borrowed_fd(self.entrance.listener(), listening)];
        let mut waited: Vec<_> = own.into_iter().chain(strangers).collect();
        let busy = self.resting || !self.strangers.is_empty();
        let wait = if busy { TICK } else { SLEEP_MAX };
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let _ = poll(&mut waited, Some(&timeout)); // interrupted, or out of memory: then nothing is ready
        waited.iter().map(|one| !one.revents().is_empty()).collect()
    }

    /// Accept one connection. The poll reports the listener again if more are waiting.
    fn accept(&mut self) {
        match self.entrance.accept() {
            Ok(socket) => {
                if self.strangers.len() == STRANGERS_MAX {
                    self.strangers.remove(0);
                }
                let until = Instant::now() + GREETING_WAIT_MAX;
                self.strangers.push(Stranger { socket, until, greeting: [0; GREETING_BYTES_MAX], read: 0 });
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                log::warn!("a peer could not be let in: {error}");
                self.resting = true;
            }
        }
    }

    fn listen_to(&mut self, at: usize) {
        let stranger = &mut self.strangers[at];
        match receive(&stranger.socket, &mut stranger.greeting[stranger.read..E::GREETING_BYTES]) {
            Ok(None) => {}
            Ok(Some(0)) | Err(_) => drop(self.strangers.remove(at)),
            Ok(Some(bytes)) => {
                stranger.read += bytes;
                if stranger.read == E::GREETING_BYTES {
                    let stranger = self.strangers.remove(at);
                    self.entrance.admit(stranger.socket, &stranger.greeting[..E::GREETING_BYTES]);
                }
            }
        }
    }
}
