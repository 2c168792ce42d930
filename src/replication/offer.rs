//! The primary's side: the fabrics on offer, and how its replicas stand.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`port`] | the replication port: who connects, and what became of it |
//! | [`slots`] | the slots of the replicas that have been admitted |
//! | [`slot`] | one of them |

mod port;
mod slot;
mod slots;

use super::absence::Absences;
use super::board::Board;
use super::forwarding::Owner;
use super::places::Places;
use super::report::{OfferCounters, ReplicaView, Report};
use super::sealing::Sealer;
use super::secret::Secret;
use super::standing::Chain;
use super::tls::Listening;
use super::{REPLICAS_MAX, host_id, regions};
use crate::fabric::{Exporter, FabricError, Kind, Regions};
use crate::store::Store;
pub(super) use slot::Held;
use slot::Slot;
pub(super) use slots::SlotGuard;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections to the port whose peers have not proved themselves. An honest replica does so within
/// two round trips.
const STRANGERS_MAX: usize = 32;
/// Connections whose peers have. A replica that comes back has two for a moment, its old one and
/// the new one.
const KNOWN_MAX: usize = REPLICAS_MAX + 16;

/// What a primary offers, and to whom.
pub struct OfferConfig {
    /// Where replicas connect.
    pub listen: SocketAddr,
    /// The secret that replicas must have.
    pub secret: Secret,
    /// The fabrics, in the order of preference; at least one.
    pub exporters: Vec<Box<dyn Exporter>>,
    /// Where this server listens for clients that write, if anywhere over TCP.
    pub clients: Option<SocketAddr>,
    /// How long a replica may be silent before it counts as gone.
    pub silence_max: Duration,
    /// Where the replicas' ack slots are put up.
    pub board: Arc<Board>,
    /// Where this process stands, which replicas are told.
    pub chain: Arc<Chain>,
}

/// Why a primary cannot offer replication.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// The address is beyond loopback, and without a secret everybody there could read everything.
    #[error("replicas at {0} are beyond this host, so they must have a secret: give --secret-file")]
    NoSecret(SocketAddr),
    /// The address cannot be bound.
    #[error("cannot listen for replicas at {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The kernel gives no random bytes.
    #[error("cannot make a key for the replication port: {0}")]
    Key(io::Error),
    /// A fabric cannot begin to make the memory ready.
    #[error("{0}; raise `ulimit -u`, or leave that fabric out of --fabric")]
    Prepare(FabricError),
    /// The system gives no thread.
    #[error("cannot start the replication thread: {0}; raise `ulimit -u`")]
    Thread(io::Error),
}

/// See the module.
pub struct Offer {
    store: Arc<Store>,
    /// The store's memory; one for all replicas, so that a fabric registers it once.
    regions: Arc<dyn Regions>,
    config: OfferConfig,
    address: SocketAddr,
    host: [u8; 16],
    listening: Listening,
    slots: Mutex<Vec<Slot>>,
    sessions: AtomicU64,
    places: Arc<Places>,
    ending: AtomicBool,
    absences: Absences,
    /// Names of replicas that were heard to decline, since they were last attached.
    declined: Mutex<Vec<String>>,
    /// Who changes roles; once there is somebody.
    sealer: OnceLock<Weak<dyn Sealer>>,
    /// Who executes what is forwarded; once there is somebody.
    owner: OnceLock<Weak<dyn Owner>>,
    /// What has happened at the port.
    pub counters: OfferCounters,
}

/// A running offer; ends when dropped.
pub struct Running {
    offer: Arc<Offer>,
    listener: Option<JoinHandle<()>>,
}

impl Running {
    /// The offer.
    pub fn offer(&self) -> &Arc<Offer> {
        &self.offer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.offer.ending.store(true, Relaxed);
        // End the channels first, so that no peer reads while the process ends.
        let mut slots = self.offer.slots();
        slots.iter().for_each(|slot| self.offer.config.board.take_down(slot.session));
        let held: Vec<_> = slots.iter_mut().map(|slot| slot.held.take()).collect();
        drop(slots);
        drop(held);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Offer {
    /// Listen, in a thread of its own.
    pub fn start(store: Arc<Store>, mut config: OfferConfig) -> Result<Running, OfferError> {
        if !config.listen.ip().is_loopback() && config.secret.is_none() {
            return Err(OfferError::NoSecret(config.listen));
        }
        // No worker runs yet, so no turn that leaves a touch out of the log is under way when the
        // first replica comes.
        store.log_touches();
        let listening = Listening::new().map_err(OfferError::Key)?;
        let listen = config.listen;
        let bound = TcpListener::bind(listen).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        let (address, listener) = bound.map_err(|error| OfferError::Listen(listen, error))?;
        let regions = regions::of(&store);
        config.exporters.iter_mut().try_for_each(|exporter| exporter.prepare(&regions)).map_err(OfferError::Prepare)?;
        let offer = Arc::new(Offer {
            store,
            regions,
            config,
            address,
            host: host_id(),
            listening,
            slots: Mutex::default(),
            sessions: AtomicU64::new(0),
            places: Arc::new(Places::new(STRANGERS_MAX, KNOWN_MAX)),
            ending: AtomicBool::new(false),
            absences: Absences::default(),
            declined: Mutex::default(),
            sealer: OnceLock::new(),
            owner: OnceLock::new(),
            counters: OfferCounters::default(),
        });
        let listening = offer.clone();
        let thread = std::thread::Builder::new().name("replication".into()).spawn(move || listening.listen(&listener));
        let listener = Some(thread.map_err(OfferError::Thread)?);
        Ok(Running { offer, listener })
    }

    /// Where replicas connect, with the port that the kernel chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The fabrics on offer.
    pub fn fabrics(&self) -> impl Iterator<Item = Kind> {
        self.config.exporters.iter().map(|exporter| exporter.kind())
    }

    pub(super) fn exporter(&self, kind: Kind) -> Option<&dyn Exporter> {
        self.config.exporters.iter().find(|exporter| exporter.kind() == kind).map(|exporter| &**exporter)
    }

    /// From now on servers that are about to be promoted are heard.
    pub(super) fn set_sealer(&self, sealer: Weak<dyn Sealer>) {
        assert!(self.sealer.set(sealer).is_ok(), "an offer is of one node");
    }

    pub(super) fn sealer(&self) -> Option<Arc<dyn Sealer>> {
        self.sealer.get()?.upgrade()
    }

    /// From now on other servers may forward requests to this one.
    pub fn set_owner(&self, owner: Weak<dyn Owner>) {
        assert!(self.owner.set(owner).is_ok(), "an offer is of one server");
    }

    pub(super) fn owner(&self) -> Option<Arc<dyn Owner>> {
        self.owner.get()?.upgrade()
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn regions(&self) -> Arc<dyn Regions> {
        self.regions.clone()
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.config.secret
    }

    /// By which the control connections of replicas are taken.
    pub(super) fn listening(&self) -> &Listening {
        &self.listening
    }

    pub(super) fn host(&self) -> [u8; 16] {
        self.host
    }

    pub(super) fn chain(&self) -> &Chain {
        &self.config.chain
    }

    pub(super) fn clients(&self) -> Option<SocketAddr> {
        self.config.clients
    }

    pub(super) fn client_port(&self) -> u16 {
        self.config.clients.map_or(0, |address| address.port())
    }

    pub(super) fn board(&self) -> &Board {
        &self.config.board
    }

    pub(super) fn silence_max(&self) -> Duration {
        self.config.silence_max
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Relaxed)
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Names of the replicas whose data channel has ended a moment ago, and that have no new one.
    pub fn absent_replicas(&self) -> Vec<String> {
        self.absences.names(self.config.silence_max)
    }

    fn retain(&self, session: u64) -> &'static str {
        let board = &self.config.board;
        match board.is_let_go(session).filter(|_| board.retain_bytes() > 0) {
            Some(true) => "let_go",
            Some(false) => "held",
            None => "",
        }
    }

    /// All replicas, as they stand now.
    pub fn replicas(&self) -> Vec<ReplicaView> {
        let spans = self.store.shards().iter().map(|shard| (shard.control().tail(), shard.control().committed()));
        let spans: Vec<(u64, u64)> = spans.collect();
        let views = self.slots().iter_mut().map(|slot| slot.view(&spans)).collect::<Vec<_>>();
        let board = &self.config.board;
        let stands = |view: ReplicaView| {
            let (retain, is_counted) = (self.retain(view.session), board.is_counted(view.session));
            ReplicaView { retain, is_counted, ..view }
        };
        views.into_iter().map(stands).collect()
    }
}

impl Report for Offer {
    fn rows(&self, emit: &mut dyn FnMut(&str, &str)) {
        emit("replication_address", &self.address.to_string());
        let fabrics: Vec<&str> = self.fabrics().map(Kind::name).collect();
        emit("replication_fabrics", &fabrics.join(","));
        for exporter in &self.config.exporters {
            emit(&format!("replication_fabric_{}", exporter.kind().name()), &exporter.readiness().words());
        }
        let replicas = self.replicas();
        emit("replicas", &replicas.len().to_string());
        self.counters.rows(emit);
        if self.config.board.retain_bytes() > 0 {
            emit("replica_retain_bytes", &self.config.board.retain_words());
            emit("replicas_let_go", &self.config.board.let_go_count().to_string());
        }
        replicas.iter().enumerate().for_each(|(number, replica)| replica.rows(number, emit));
    }
}
