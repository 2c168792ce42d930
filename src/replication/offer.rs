//! The primary's side: the replication port, the fabrics on offer, and the replicas that have been
//! admitted.

use super::absence::Absences;
use super::ack::AckSlots;
use super::board::Board;
use super::link::Link;
use super::places::{NoPlace, Places, shut_down};
use super::report::{OfferCounters, ReplicaView, Report};
use super::sealing::Sealer;
use super::secret::Secret;
use super::session::{SessionError, serve};
use super::slot::{Held, Slot};
use super::standing::{Chain, ServerNumber};
use super::wire::{Join, Message, Refusal};
use super::{REPLICAS_MAX, host_id, regions};
use crate::fabric::{Exporter, FabricError, GrantState, Kind, Regions};
use crate::store::Store;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cell::Cell;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the listening thread moves the beat on, empties holes of the pool, and looks whether
/// it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// Holes of the pool that are looked at each time, where READs have filled some: 20 MiB a second.
const HOLES_PER_LOOK: u32 = 8;

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
    slots: Mutex<Vec<Slot>>,
    sessions: AtomicU64,
    places: Arc<Places>,
    ending: AtomicBool,
    absences: Absences,
    /// Names of replicas that were heard to decline, since they were last attached.
    declined: Mutex<Vec<String>>,
    /// Who changes roles; once there is somebody.
    sealer: OnceLock<Weak<dyn Sealer>>,
    /// What has happened at the port.
    pub counters: OfferCounters,
}

/// A session's place among the replicas. Dropping it gives the place back, and ends the channel
/// first.
pub struct Admission<'o> {
    offer: &'o Offer,
    session: u64,
    replica: ServerNumber,
    /// It has been counted as admitted.
    is_counted: Cell<bool>,
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
            slots: Mutex::default(),
            sessions: AtomicU64::new(0),
            places: Arc::default(),
            ending: AtomicBool::new(false),
            absences: Absences::default(),
            declined: Mutex::default(),
            sealer: OnceLock::new(),
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

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn regions(&self) -> Arc<dyn Regions> {
        self.regions.clone()
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.config.secret
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

    fn listen(self: Arc<Self>, listener: &TcpListener) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        let mut look_at = Instant::now();
        while !self.is_ending() {
            if Instant::now() >= look_at {
                self.store.beat();
                self.store.pool().empty_holes(HOLES_PER_LOOK);
                look_at = Instant::now() + LOOK;
            }
            match listener.accept() {
                Ok((stream, peer)) => self.take(stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout));
                }
                Err(error) => {
                    log::warn!("replication port: cannot accept a connection: {error}");
                    let _ = poll(&mut [], Some(&timeout));
                }
            }
        }
    }

    /// A place and a thread for a connection. A crowd of strangers loses its own oldest for it.
    fn take(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let (mut place, ended) = match self.places.enter(&stream, peer.ip()) {
            Ok(entered) => entered,
            Err(why) => {
                self.counters.refused.fetch_add(1, Relaxed);
                log::warn!("replication port: {peer} is turned away: {why}");
                return turn_away(&stream, &why);
            }
        };
        if let Some(ended) = ended {
            turn_away(&ended, &NoPlace::Ended);
            shut_down(&ended);
            self.note_ended_stranger();
        }
        let offer = self.clone();
        let started = std::thread::Builder::new().name("replica-session".into()).spawn(move || {
            let error = serve(&offer, stream, &mut place);
            // If it was ended for another one, it has been counted and logged already.
            if !place.is_ended() {
                offer.account(peer, &error);
            }
        });
        if let Err(error) = started {
            log::warn!("replication port: no thread for {peer}: {error}; raise `ulimit -u`");
        }
    }

    /// Logged ever more seldom: whoever sends strangers decides how many there are.
    fn note_ended_stranger(&self) {
        self.counters.refused.fetch_add(1, Relaxed);
        let count = self.counters.strangers_ended.fetch_add(1, Relaxed) + 1;
        if count.is_power_of_two() {
            log::warn!(
                "replication port: {count} connections so far were ended for newer ones before they had proved themselves; \
                 only replicas should reach this port: see a firewall to it"
            );
        }
    }

    fn account(&self, peer: SocketAddr, error: &SessionError) {
        if let SessionError::Declined(name, words) = error {
            return self.note_declined(peer, name, words);
        }
        if matches!(error, SessionError::Refused(..) | SessionError::NotSealed(_)) {
            self.counters.refused.fetch_add(1, Relaxed);
        }
        if matches!(error, SessionError::Refused(Refusal::Secret, _)) {
            self.counters.refused_secret.fetch_add(1, Relaxed);
        }
        let level = if matches!(error, SessionError::Left(_)) { log::Level::Info } else { log::Level::Warn };
        log::log!(level, "replication port: {peer}: {error}");
    }

    /// A replica that declines tries again for as long as it runs, so it is told of once. It says
    /// the same in its own log and statistics.
    fn note_declined(&self, peer: SocketAddr, name: &str, words: &str) {
        let mut declined = self.declined();
        let is_new = !declined.iter().any(|one| one == name);
        if is_new {
            // Peers have the secret, but may have any number of names.
            if declined.len() >= REPLICAS_MAX {
                declined.remove(0);
            }
            declined.push(name.into());
        }
        drop(declined);
        let level = if is_new { log::Level::Info } else { log::Level::Debug };
        log::log!(level, "replica {name} ({peer}) does not follow this server: {words}");
    }

    fn declined(&self) -> MutexGuard<'_, Vec<String>> {
        self.declined.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Names of the replicas whose data channel has ended a moment ago, and that have no new one.
    pub fn absent_replicas(&self) -> Vec<String> {
        self.absences.names(self.config.silence_max)
    }

    /// A place for the replica at the other end; None if all are taken. An older session of it
    /// loses its place and its channel first.
    pub(super) fn admit(&self, link: &Link, join: &Join) -> io::Result<Option<Admission<'_>>> {
        let (address, handle) = (link.peer(), link.handle()?);
        let replaced = self.take_slot(|slot| slot.join.replica == join.replica);
        drop(replaced);
        let mut slots = self.slots();
        if slots.len() >= REPLICAS_MAX || self.is_ending() {
            return Ok(None);
        }
        let session = self.sessions.fetch_add(1, Relaxed) + 1;
        let now = Instant::now();
        let join = join.clone();
        let replica = join.replica;
        slots.push(Slot { session, join, address, link: handle, since: now, held: None, rate: (now, 0) });
        Ok(Some(Admission { offer: self, session, replica, is_counted: Cell::new(false) }))
    }

    /// Take a place away. The caller drops it without holding the lock: ending a channel may take a
    /// while, and `stats` takes the lock.
    fn take_slot(&self, is_it: impl Fn(&Slot) -> bool) -> Option<Slot> {
        let mut slots = self.slots();
        let slot = slots.iter().position(is_it).map(|at| slots.remove(at))?;
        self.config.board.take_down(slot.session);
        drop(slots);
        // Its session tells the replica at once why.
        Link::end_waits(&slot.link);
        if slot.held.is_some() {
            self.absences.left(slot.join.replica, &slot.join.name);
        }
        Some(slot)
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

/// Tell why, as far as that can be done without waiting. A new socket takes so many bytes at once.
fn turn_away(mut stream: &TcpStream, why: &NoPlace) {
    let mut bytes = Vec::new();
    Message::Refuse { why: Refusal::Busy, words: why.to_string() }.encode(&mut bytes);
    let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(&bytes));
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

impl Admission<'_> {
    /// Its number.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Its replica's number.
    pub(super) fn replica(&self) -> &ServerNumber {
        &self.replica
    }

    /// Count it: its replica has not declined.
    pub(super) fn count(&self) {
        if !self.is_counted.replace(true) {
            self.offer.counters.admitted.fetch_add(1, Relaxed);
        }
    }

    /// Put data channels into this place. Those that were there are ended first. False if the place
    /// is lost.
    pub(super) fn hold(&self, held: Held) -> bool {
        let of_this = |slot: &&mut Slot| slot.session == self.session;
        let before = self.offer.slots().iter_mut().find(of_this).and_then(|slot| slot.held.take());
        drop(before);
        match self.offer.slots().iter_mut().find(of_this) {
            Some(slot) => {
                self.offer.config.board.put_up(self.session, held.acks.clone());
                slot.held = Some(held);
                self.offer.absences.is_back(self.replica);
                self.offer.declined().retain(|name| *name != slot.join.name);
                true
            }
            None => false,
        }
    }

    /// What its replica acknowledges; None if the place is lost, or has no channels yet.
    pub(super) fn acks(&self) -> Option<Arc<AckSlots>> {
        let slots = self.offer.slots();
        let slot = slots.iter().find(|slot| slot.session == self.session)?;
        slot.held.as_ref().map(|held| held.acks.clone())
    }

    /// Whether the place is lost.
    pub(super) fn is_lost(&self) -> bool {
        !self.offer.slots().iter().any(|slot| slot.session == self.session)
    }

    /// The state of its channels; None if the place is lost.
    pub(super) fn state(&self) -> Result<Option<GrantState>, FabricError> {
        let mut slots = self.offer.slots();
        let Some(slot) = slots.iter_mut().find(|slot| slot.session == self.session) else {
            return Ok(None);
        };
        match &mut slot.held {
            Some(held) => held.state().map(Some),
            None => Ok(Some(GrantState::Waiting)),
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        drop(self.offer.take_slot(|slot| slot.session == self.session));
        if self.is_counted.get() {
            self.offer.counters.ended.fetch_add(1, Relaxed);
        }
    }
}
