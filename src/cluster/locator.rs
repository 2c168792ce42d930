//! A locator: it hears servers, operators and observers, and where it is in charge it decides and
//! writes the map. It holds no truth of its own: it can end at any moment, and another goes on.
//!
//! ```text
//!   peers, a thread each --- events ---> "locator" (decides) --- maps to write ---> "locator-store"
//!         ^                                  |      ^                                     |
//!         +---- answers, published map ------+      +-------- what became of them --------+
//! ```
//!
//! | file | what it is |
//! | --- | --- |
//! | [`deciding`] | the thread "locator": events in; answers, maps and reasons out |
//! | [`charge`] | being in charge: what is stored, what is being written, who waits for that |
//! | [`lately`] | what was decided lately, to be shown |
//! | [`keeping`] | the thread "locator-store": in charge or not, and writing maps |
//! | [`peer`] | connections, a thread each |
//! | [`outbox`] | what is to be said to one of them |
//! | [`published`] | what all connections tell: the map, and who is in charge |
//! | [`verify`] | a server's connection has ended: has its process? |
//! | [`verifying`] | threads that look, and servers that wait for one |
//! | [`watch`] | whether the thread that decides has stood still |

pub mod charge;
pub mod deciding;
pub mod keeping;
pub mod lately;
pub mod outbox;
pub mod peer;
pub mod published;
pub mod verify;
pub mod verifying;
pub mod watch;

use super::store::MapStore;
use crate::replication::secret::Secret;
use crate::replication::standing::ServerNumber;
use crate::replication::tls::Listening;
use crate::sys::random::random;
use deciding::{Deciding, Event};
use keeping::Keeping;
use peer::Port;
use published::Published;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Events that wait for the thread that decides. Peers wait where there is no room.
const EVENTS_MAX: usize = 4096;

/// What a locator is made of.
pub struct LocatorConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The secret of the cluster.
    pub secret: Secret,
    /// Its name among locators.
    pub name: String,
    /// Where the map is kept.
    pub store: Box<dyn MapStore>,
}

/// Why a locator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LocatorError {
    /// The address is beyond loopback, and without a secret everybody there could command it.
    #[error("{0} is open to other hosts, so whoever connects must have a secret: give --secret-file")]
    NoSecret(SocketAddr),
    /// The address cannot be bound.
    #[error("cannot listen at {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The kernel gives no random bytes, or no thread.
    #[error("cannot start: {0}; if it is for want of a thread, raise `ulimit -u`")]
    System(#[from] std::io::Error),
}

/// Tells a locator's threads to end.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// End.
    pub fn stop(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether it is to end.
    pub fn is_asked(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// What the threads of a locator share.
#[derive(Clone)]
pub struct Common {
    /// To the thread that decides.
    pub events: SyncSender<Event>,
    /// What all connections tell.
    pub published: Arc<Published>,
    /// The secret of the cluster.
    pub secret: Secret,
    /// Whether they are to end.
    pub stop: Stop,
}

/// A running locator; it ends when this is dropped.
pub struct Locator {
    address: SocketAddr,
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
    ended: Receiver<()>,
}

impl Locator {
    /// Begin.
    pub fn start(config: LocatorConfig, stop: Stop) -> Result<Locator, LocatorError> {
        let LocatorConfig { listen, secret, name, store } = config;
        if !listen.ip().is_loopback() && secret.is_none() {
            return Err(LocatorError::NoSecret(listen));
        }
        let bound = TcpListener::bind(listen).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        let (address, listener) = bound.map_err(|error| LocatorError::Listen(listen, error))?;
        let number: ServerNumber = random()?;
        let listening = Listening::new()?;
        let (events, hears) = sync_channel(EVENTS_MAX);
        let (orders, ordered) = channel();
        let (ending, ended) = channel::<()>();
        let keeping = Keeping::new(store, name, events.clone(), ordered, stop.clone());
        let common = Common { events, published: Arc::default(), secret, stop: stop.clone() };
        let deciding = Deciding::new(common.clone(), hears, orders);
        let port = Port::new(common, listener, listening, number);
        let thread = |name: &str, run: Box<dyn FnOnce() + Send>, ending: Sender<()>| {
            Builder::new().name(name.into()).spawn(move || {
                run();
                drop(ending);
            })
        };
        let threads = vec![
            thread("locator-store", Box::new(move || keeping.run()), ending.clone())?,
            thread("locator", Box::new(move || deciding.run()), ending.clone())?,
            thread("locator-port", Box::new(move || port.run()), ending)?,
        ];
        Ok(Locator { address, stop, threads, ended })
    }

    /// Where it listens, with the port that the kernel chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Wait until it has been told to end, and has ended, or has not for longer than `at_most`
    /// after it was told.
    pub fn wait(mut self, at_most: Duration) {
        while !self.stop.is_asked() {
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.ended.recv_timeout(at_most) == Err(RecvTimeoutError::Disconnected) {
            self.threads.drain(..).for_each(|thread| drop(thread.join()));
        }
    }
}

impl Drop for Locator {
    fn drop(&mut self) {
        self.stop.stop();
    }
}
