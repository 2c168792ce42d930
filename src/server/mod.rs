//! Listeners, workers, connections: bytes from sockets to the engine and back.
//!
//! A [`Server`] is started over an [`Engine`] and sockets that are bound already (so that
//! privileges can be dropped in between). Each worker owns its listeners, connections and buffers;
//! workers share the engine, the registry of connections and the budgets for unfinished requests
//! and unsent answers, nothing else. There is no accept thread.
//!
//! | files | what they have |
//! | --- | --- |
//! | [`listen`], [`address`], [`control`], `accept` | where clients come from |
//! | [`tls`], [`users`], `admission` | who they are |
//! | `worker` | the loop of a thread: poll, accept, serve, and what is due |
//! | `connection`, `state`, `table` | one client, what it waits for, and those of a worker |
//! | `service`, `execute` | serving one: bytes in, requests, answers, bytes out |
//! | `transport`, `memory` | how bytes travel, and where they lie meanwhile |
//! | `acks`, `parking`, `stillness` | those that wait for replicas, those that wait for room, those that stand still |
//! | [`forward`] | requests that other servers execute, and the links to these |
//! | `owner`, `pipe` | links: requests of other servers' clients, executed here |
//! | `datagrams` | UDP: no connection, and nothing that waits |
//! | `claims`, `watch` | what a connection has for longer than a request; those that watch |
//! | `registry` | what `stats` shows of all this |

mod accept;
mod acks;
pub mod address;
mod admission;
mod claims;
mod connection;
pub mod control;
mod datagrams;
mod execute;
pub mod forward;
pub mod listen;
mod memory;
mod owner;
mod parking;
mod pipe;
mod registry;
mod service;
mod state;
mod stillness;
mod table;
pub mod tls;
mod transport;
pub mod users;
mod watch;
mod worker;

use crate::base::limits::{INPUT_BYTES_TOTAL_MIN, OUTPUT_BYTES_TOTAL_MIN, REQUESTS_PER_TURN_DEFAULT};
use crate::base::time::Clock;
use crate::engine::Engine;
use crate::protocol::Protocol;
use crate::replication::board::Board;
use crate::replication::forwarding::Owner;
use crate::sys::poll::Waker;
use forward::Forwarding;
use listen::SocketFile;
pub use listen::Sockets;
use memory::Budget;
use owner::Handed;
use registry::Registry;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use tls::Tls;
use users::{Means, Users};
use worker::Worker;

/// How the server serves; the addresses are in [`listen::ListenConfig`].
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// -t.
    pub workers: usize,
    /// -c.
    pub connections_max: usize,
    /// -R: requests of one connection before the others have their turn.
    pub requests_per_turn: u32,
    /// -B: what clients must speak; None for whatever each begins with.
    pub protocol: Option<Protocol>,
    /// -o idle_timeout: seconds without a request after which a connection is closed; 0 for never.
    pub idle_timeout_seconds: u32,
    /// Bytes that unfinished requests of all connections may hold.
    pub input_bytes_total_max: usize,
    /// Bytes that unsent answers of all connections may hold.
    pub output_bytes_total_max: usize,
    /// -Y, -S: who may give commands, and how they say who they are; None where everybody may.
    pub users: Option<Arc<Users>>,
    /// -Z; None without it.
    pub tls: Option<Arc<Tls>>,
    /// --forward; None without it.
    pub forwarding: Option<Forwarding>,
    /// Bind each worker to a core of its own.
    pub pin: bool,
    /// The time.
    pub clock: Clock,
}

impl ServerConfig {
    /// Whether clients are to say who they are by these means.
    #[inline]
    pub fn asks_by(&self, means: Means) -> bool {
        self.users.as_ref().is_some_and(|users| users.means() == means)
    }
}

impl Default for ServerConfig {
    /// One worker that is not bound, and the limits' defaults.
    fn default() -> ServerConfig {
        ServerConfig {
            workers: 1,
            connections_max: 1024,
            requests_per_turn: REQUESTS_PER_TURN_DEFAULT,
            protocol: None,
            idle_timeout_seconds: 0,
            input_bytes_total_max: INPUT_BYTES_TOTAL_MIN,
            output_bytes_total_max: OUTPUT_BYTES_TOTAL_MIN,
            users: None,
            tls: None,
            forwarding: None,
            pin: false,
            clock: Clock::default(),
        }
    }
}

/// What all workers share.
struct Shared {
    engine: Arc<Engine>,
    /// What replicas have applied.
    board: Arc<Board>,
    config: ServerConfig,
    registry: Registry,
    /// Unfinished requests.
    input_budget: Budget,
    /// Unsent answers.
    output_budget: Budget,
    /// The second in which a worker last asked the others to give up what their connections hold.
    relief_asked_at: AtomicU32,
    stopping: AtomicBool,
    wakers: Vec<Waker>,
    /// Links on their way to the workers.
    handed: Handed,
}

impl Shared {
    fn wake_all(&self) {
        self.wakers.iter().for_each(Waker::wake);
    }
}

/// Asks a server to end, from any thread.
#[derive(Clone)]
pub struct Stopper {
    shared: Arc<Shared>,
}

impl Stopper {
    /// Ask: no more connections, what can be sent within a bound is sent, then the workers end.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Relaxed);
        self.shared.wake_all();
        self.shared.engine.watch().wake_collector();
    }
}

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    /// And what collects for watchers.
    workers: Vec<JoinHandle<()>>,
    tcp: Vec<SocketAddr>,
    udp: Vec<SocketAddr>,
    unix: Option<SocketFile>,
}

impl Server {
    /// Start the workers on `sockets`; acknowledged writes go by what stands on `board`. Fails when
    /// the system gives no thread, epoll set or eventfd.
    pub fn start(config: ServerConfig, sockets: Sockets, engine: Arc<Engine>, board: Arc<Board>) -> io::Result<Server> {
        assert_eq!(config.workers, sockets.per_worker.len(), "sockets were bound for as many workers");
        let wakers = (0..config.workers).map(|_| Waker::new()).collect::<io::Result<Vec<_>>>()?;
        let global = engine.global();
        let (input_held_bytes, output_held_bytes) = (global.input_held_bytes.clone(), global.output_held_bytes.clone());
        let shared = Arc::new(Shared {
            engine,
            board,
            registry: Registry::new(config.workers, sockets.names(), config.clock.clone()).with_tls(config.tls.clone()),
            input_budget: Budget::new(input_held_bytes, config.input_bytes_total_max, config.workers),
            output_budget: Budget::new(output_held_bytes, config.output_bytes_total_max, config.workers),
            relief_asked_at: AtomicU32::new(0),
            stopping: AtomicBool::new(false),
            wakers,
            handed: Handed::new(config.workers),
            config,
        });
        let Sockets { tcp, udp, unix, per_worker } = sockets;
        let mut server = Server { shared, workers: Vec::new(), tcp, udp, unix };
        let cores = worker_cores(&server.shared.config);
        for (id, doors) in per_worker.into_iter().enumerate() {
            let shared = server.shared.clone();
            let core = cores.get(id).copied();
            let started = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
                let _abort = AbortOnPanic;
                if core.is_some_and(|core| !crate::sys::pinning::pin_current_thread(core)) {
                    log::warn!("worker {id} could not be bound to its core; it runs where the system puts it");
                }
                Worker::new(id, &shared, doors).run();
            });
            match started {
                Ok(handle) => server.workers.push(handle),
                Err(error) => {
                    server.stopper().stop();
                    return Err(error);
                }
            }
        }
        let shared = server.shared.clone();
        let collector = std::thread::Builder::new().name("watch".into()).spawn(move || watch::collect(&shared));
        match collector {
            Ok(handle) => server.workers.push(handle),
            Err(error) => {
                server.stopper().stop();
                return Err(error);
            }
        }
        Ok(server)
    }

    /// TCP addresses with the ports that the kernel chose, in the order given.
    pub fn tcp_addresses(&self) -> &[SocketAddr] {
        &self.tcp
    }

    /// The same of UDP.
    pub fn udp_addresses(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// Path of the unix socket.
    pub fn unix_path(&self) -> Option<&std::path::Path> {
        self.unix.as_ref().map(SocketFile::path)
    }

    /// Who executes what other servers forward.
    pub fn owner(&self) -> Weak<dyn Owner> {
        let shared: Arc<dyn Owner> = self.shared.clone();
        Arc::downgrade(&shared)
    }

    /// Something to end the server with.
    pub fn stopper(&self) -> Stopper {
        Stopper { shared: self.shared.clone() }
    }

    /// Wait until all of its threads have ended, then remove the unix socket, unless a successor
    /// has replaced it.
    pub fn join(self) {
        for worker in self.workers {
            // A panic in a worker has ended the process before this could see it.
            let _ = worker.join();
        }
        if let Some(file) = &self.unix {
            file.remove();
        }
    }
}

/// The core of each worker; empty when they are not to be bound.
fn worker_cores(config: &ServerConfig) -> Vec<core_affinity::CoreId> {
    let cores = if config.pin { crate::sys::pinning::cores() } else { Vec::new() };
    if config.workers > cores.len() {
        if config.pin {
            log::info!("workers are not bound to cores: {} workers, {} cores", config.workers, cores.len());
        }
        return Vec::new();
    }
    cores
}

/// A worker that panics has met a bug of ours: its connections and its share of the logs are in an
/// unknown state, so the process ends instead of going on with one worker fewer. In the server's
/// own process the panic hook of [`crate::sys::logging`] does that sooner, with a last line in the
/// log. A hook is for the whole process, so whoever runs a server within another one (a test, whose
/// own panics must end nothing but the test) does without it, and has this.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
