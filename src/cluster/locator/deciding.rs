//! The thread that decides: it feeds what it hears to [`Decisions`], has the maps written that come
//! out, and publishes each once it is stored. It waits for nobody.

use super::Stop;
use super::keeping::{Kept, Write};
use super::peer::{Outbox, PeerId};
use super::published::Published;
use super::verify;
use crate::base::time::UnixSeconds;
use crate::cluster::client::{Decided, Question};
use crate::cluster::decide::{Decisions, Next, Note, Proof};
use crate::cluster::map::{Map, Policy};
use crate::cluster::report::{Introduction, Report};
use crate::cluster::store::Stored;
use crate::cluster::wire::Message;
use crate::replication::secret::Secret;
use crate::sys::random::random;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// How often it is looked what time alone has changed.
const LOOK: Duration = Duration::from_millis(50);
/// Events that are taken before the next map is made.
const EVENTS_AT_ONCE: usize = 1024;
/// A thread that stood still for so long has missed reports: what it knows of leases is nothing.
const STALL_MAX: Duration = Duration::from_millis(500);
/// Decisions that are remembered, to be shown.
const DECIDED_MAX: usize = 1000;
/// Ended connections that are looked into at a time.
const VERIFYING_MAX: usize = 32;

/// What is heard.
pub enum Event {
    /// A server says who it is.
    Introduced {
        /// Its connection.
        peer: PeerId,
        /// Who.
        introduction: Introduction,
        /// To it.
        outbox: Outbox,
    },
    /// A server says what it has come to.
    Reported {
        /// Its connection.
        peer: PeerId,
        /// When, by its clock.
        sent: u64,
        /// What.
        report: Report,
    },
    /// A connection has ended.
    Ended {
        /// Which.
        peer: PeerId,
    },
    /// It was looked into whether a process has ended.
    Verified {
        /// Of the process.
        incarnation: String,
        /// It has, for certain.
        has_ended: bool,
    },
    /// An operator asks.
    Asked {
        /// The question, as JSON.
        text: String,
        /// To the operator.
        outbox: Outbox,
    },
    /// From the thread that has the store.
    Kept(Kept),
}

/// A server's connection.
struct Peer {
    introduction: Introduction,
    outbox: Outbox,
    report: Option<Report>,
}

/// Being in charge.
struct Charge {
    generation: u64,
    /// Of what is stored; None: nothing.
    revision: Option<u64>,
    /// None before the cluster is born.
    decisions: Option<Decisions>,
    /// The map that is being written, and why it is as it is.
    writing: Option<(Map, Vec<Note>)>,
    /// To be answered once what was asked for is stored.
    waiting: Vec<(Outbox, String)>,
}

/// See the module.
pub struct Deciding {
    hears: Receiver<Event>,
    events: SyncSender<Event>,
    orders: Sender<Write>,
    published: Arc<Published>,
    secret: Secret,
    stop: Stop,
    begun_at: Instant,
    peers: HashMap<PeerId, Peer>,
    charge: Option<Charge>,
    decided: VecDeque<Decided>,
    verifying: Arc<AtomicUsize>,
}

impl Deciding {
    /// Before anything was heard.
    pub fn new(
        hears: Receiver<Event>,
        events: SyncSender<Event>,
        orders: Sender<Write>,
        published: Arc<Published>,
        secret: Secret,
        stop: Stop,
    ) -> Deciding {
        Deciding {
            hears,
            events,
            orders,
            published,
            secret,
            stop,
            begun_at: Instant::now(),
            peers: HashMap::new(),
            charge: None,
            decided: VecDeque::new(),
            verifying: Arc::default(),
        }
    }

    /// Until it is to stop.
    pub fn run(mut self) {
        let mut looked_at = Instant::now();
        while !self.stop.is_asked() {
            let first = match self.hears.recv_timeout(LOOK) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if looked_at.elapsed() > STALL_MAX {
                log::warn!("this locator has stood still for {:?}: leases are waited for anew", looked_at.elapsed());
                self.begin_anew();
            }
            looked_at = Instant::now();
            first.into_iter().for_each(|event| self.hear(event));
            for _ in 0..EVENTS_AT_ONCE {
                let Ok(event) = self.hears.try_recv() else { break };
                self.hear(event);
            }
            self.decide();
        }
    }

    fn now(&self) -> u64 {
        self.begun_at.elapsed().as_millis() as u64
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Introduced { peer, introduction, outbox } => self.introduced(peer, introduction, outbox),
            Event::Reported { peer, sent, report } => self.reported(peer, sent, report),
            Event::Ended { peer } => self.ended(peer),
            Event::Verified { incarnation, has_ended } => {
                let is_back = self.peers.values().any(|peer| peer.introduction.incarnation == incarnation);
                if has_ended
                    && !is_back
                    && let Some(decisions) = self.decisions()
                {
                    log::info!("process {incarnation} has ended: its ports tell");
                    decisions.gone(&incarnation, Proof::Ended);
                }
            }
            Event::Asked { text, outbox } => self.asked(&text, outbox),
            Event::Kept(kept) => self.kept(kept),
        }
    }

    fn decisions(&mut self) -> Option<&mut Decisions> {
        self.charge.as_mut()?.decisions.as_mut()
    }

    fn introduced(&mut self, peer: PeerId, introduction: Introduction, outbox: Outbox) {
        let now = self.now();
        if let Some(decisions) = self.decisions()
            && let Err(words) = decisions.introduced(introduction.clone(), now)
        {
            log::warn!("{}: {words}", introduction.name);
            return say(&outbox, Message::Refused(words));
        }
        log::info!("{} is there: process {}", introduction.name, introduction.incarnation);
        // A connection of before may be about to end.
        self.peers.retain(|_, other| other.introduction.incarnation != introduction.incarnation);
        self.peers.insert(peer, Peer { introduction, outbox, report: None });
    }

    fn reported(&mut self, peer: PeerId, sent: u64, report: Report) {
        let now = self.now();
        let in_charge = self.published.in_charge();
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let lease = self.charge.as_mut().and_then(|charge| charge.decisions.as_mut()).map(|decisions| {
            let incarnation = &known.introduction.incarnation;
            let taken = decisions.reported(incarnation, &report, now);
            taken.map(|()| Some((decisions.lease(incarnation)?, decisions.map().generation)))
        });
        known.report = Some(report);
        say(
            &known.outbox,
            match lease {
                Some(Ok(Some((milliseconds, generation)))) => Message::Lease { sent, milliseconds, generation },
                Some(Err(words)) => Message::Refused(words),
                Some(Ok(None)) | None => Message::NotInCharge { in_charge },
            },
        );
    }

    fn ended(&mut self, peer: PeerId) {
        let Some(Peer { introduction, .. }) = self.peers.remove(&peer) else { return };
        let Some(decisions) = self.decisions() else { return };
        decisions.gone(&introduction.incarnation, Proof::Silent);
        if self.verifying.fetch_add(1, Relaxed) >= VERIFYING_MAX {
            self.verifying.fetch_sub(1, Relaxed);
            return;
        }
        let (events, secret, verifying) = (self.events.clone(), self.secret.clone(), self.verifying.clone());
        let verify = move || {
            let has_ended = verify::has_ended(&introduction, &secret);
            verifying.fetch_sub(1, Relaxed);
            // Nobody hears it where the locator ends.
            let _ = events.send(Event::Verified { incarnation: introduction.incarnation, has_ended });
        };
        if let Err(error) = Builder::new().name("locator-verify".into()).spawn(verify) {
            self.verifying.fetch_sub(1, Relaxed);
            log::warn!("no thread to look for a server: {error}; raise `ulimit -u`");
        }
    }

    /// Nothing is known of leases: as for a locator that takes charge.
    fn begin_anew(&mut self) {
        let Some(charge) = self.charge.as_mut().filter(|charge| charge.writing.is_none()) else { return };
        let Some(map) = charge.decisions.as_ref().map(|decisions| decisions.map().clone()) else { return };
        let generation = charge.generation;
        self.decide_from(map, generation);
    }

    /// Decide from this map on, with all servers that are connected.
    fn decide_from(&mut self, map: Map, generation: u64) {
        let now = self.now();
        let mut decisions = Decisions::new(map, generation, now);
        for Peer { introduction, outbox, report } in self.peers.values() {
            let taken = decisions.introduced(introduction.clone(), now).and_then(|()| match report {
                Some(report) => decisions.reported(&introduction.incarnation, report, now),
                None => Ok(()),
            });
            if let Err(words) = taken {
                say(outbox, Message::Refused(words));
            }
        }
        if let Some(charge) = &mut self.charge {
            charge.decisions = Some(decisions);
        }
    }

    fn kept(&mut self, kept: Kept) {
        match kept {
            Kept::InCharge { generation, stored } => {
                log::info!("this locator is in charge, with generation {generation}");
                self.published.other_in_charge(None);
                let revision = stored.as_ref().map(|stored| stored.revision);
                let waiting = Vec::new();
                self.charge = Some(Charge { generation, revision, decisions: None, writing: None, waiting });
                self.take_stored(stored, generation);
            }
            Kept::NotInCharge(name) => {
                if let Some(charge) = self.charge.take() {
                    log::warn!("this locator is not in charge any more");
                    let words = "this locator is not in charge any more; ask again whether it was done";
                    charge.waiting.into_iter().for_each(|(outbox, _)| say(&outbox, failed(words)));
                }
                self.published.other_in_charge(name);
            }
            Kept::Written(revision) => self.written(revision),
            Kept::Conflict(stored) => {
                let Some(charge) = &mut self.charge else { return };
                charge.writing = None;
                charge.revision = stored.as_ref().map(|stored| stored.revision);
                match (map_of(stored.as_ref()), &mut charge.decisions) {
                    (Some(Ok(map)), Some(decisions)) => decisions.conflict(map),
                    (_, _) => {
                        let generation = charge.generation;
                        self.take_stored(stored, generation);
                    }
                }
            }
        }
    }

    fn take_stored(&mut self, stored: Option<Stored>, generation: u64) {
        match map_of(stored.as_ref()) {
            Some(Ok(map)) => self.decide_from(map, generation),
            Some(Err(words)) => log::error!("the map in the store cannot be read, and nothing is decided: {words}"),
            None => log::info!("there is no cluster yet: remora ctl cluster init"),
        }
    }

    fn written(&mut self, revision: u64) {
        let Some(charge) = &mut self.charge else { return };
        let Some((map, notes)) = charge.writing.take() else { return };
        charge.revision = Some(revision);
        self.published.publish(map.version, map.to_text());
        for note in &notes {
            let shards = if note.shards.is_empty() { String::new() } else { format!("shards {}: ", note.shards) };
            log::info!("map {}: {shards}{}", map.version, note.words);
            self.decided.push_back(Decided {
                at: UnixSeconds::now().0,
                version: map.version,
                shards: note.shards.to_string(),
                words: note.words.clone(),
            });
        }
        while self.decided.len() > DECIDED_MAX {
            self.decided.pop_front();
        }
        let generation = charge.generation;
        let waiting = std::mem::take(&mut charge.waiting);
        match &mut charge.decisions {
            Some(decisions) => decisions.written(map),
            None => self.decide_from(map, generation),
        }
        waiting.into_iter().for_each(|(outbox, body)| say(&outbox, Message::Answer { is_done: true, body }));
    }

    /// Have the next map written, if there is to be one.
    fn decide(&mut self) {
        let now = self.now();
        let Some(charge) = self.charge.as_mut().filter(|charge| charge.writing.is_none()) else { return };
        let Some(decisions) = &mut charge.decisions else { return };
        match decisions.next(now) {
            Some(Next { map, notes }) => self.write(map, notes),
            // What was asked for is so already.
            None => charge
                .waiting
                .drain(..)
                .for_each(|(outbox, body)| say(&outbox, Message::Answer { is_done: true, body })),
        }
    }

    fn write(&mut self, map: Map, notes: Vec<Note>) {
        let Some(charge) = &mut self.charge else { return };
        let write = Write { expected: charge.revision, bytes: map.to_text().into_bytes() };
        charge.writing = Some((map, notes));
        // The thread that has the store ends with this one.
        let _ = self.orders.send(write);
    }

    fn asked(&mut self, text: &str, outbox: Outbox) {
        let now = self.now();
        let question = match serde_json::from_str(text) {
            Ok(question) => question,
            Err(error) => {
                return say(&outbox, failed(&format!("this locator does not understand the question: {error}")));
            }
        };
        let Some(charge) = &mut self.charge else {
            return say(&outbox, Message::NotInCharge { in_charge: self.published.in_charge() });
        };
        let Some(decisions) = &mut charge.decisions else {
            return match question {
                Question::Init { shards, policy } => self.be_born(shards, policy, outbox),
                _ => say(&outbox, failed("there is no cluster yet: remora ctl cluster init")),
            };
        };
        let answer = match question {
            Question::Status => json(&decisions.status(now)),
            Question::Map => Ok(decisions.map().to_text()),
            Question::Events => json(&self.decided),
            Question::Init { .. } => Err(format!("there is a cluster already, {}", decisions.map().cluster)),
            Question::Change { command, dry_run } => match decisions.command(command, dry_run, now) {
                Ok(words) if !dry_run => return charge.waiting.push((outbox, words)),
                answer => answer,
            },
        };
        say(
            &outbox,
            match answer {
                Ok(body) => Message::Answer { is_done: true, body },
                Err(words) => failed(&words),
            },
        );
    }

    fn be_born(&mut self, shards: usize, policy: Policy, outbox: Outbox) {
        let id = random::<16>().map(|id| format!("{:032x}", u128::from_be_bytes(id)));
        let (id, is_free) = match (id, &mut self.charge) {
            (Ok(id), Some(charge)) => (id, charge.writing.is_none() && charge.revision.is_none()),
            _ => return say(&outbox, failed("the kernel gives no random bytes")),
        };
        if !is_free {
            return say(&outbox, failed("a map is stored already, or being written: look at the status"));
        }
        if !(shards.is_power_of_two() && shards <= crate::base::shards::SHARDS_MAX) {
            return say(&outbox, failed(&format!("{shards} shards: their number is a power of two, at most 1024")));
        }
        if policy.acks > policy.replicas {
            let words = format!("{} replicas cannot acknowledge what {} are to", policy.replicas, policy.acks);
            return say(&outbox, failed(&words));
        }
        let generation = self.charge.as_ref().map_or(0, |charge| charge.generation);
        let map = Map { generation, ..Map::born(id.clone(), shards, policy) };
        if let Some(charge) = &mut self.charge {
            charge.waiting.push((outbox, id));
        }
        self.write(map, Vec::new());
    }
}

fn map_of(stored: Option<&Stored>) -> Option<Result<Map, String>> {
    stored.map(|stored| Map::of_text(&stored.bytes).map_err(|error| error.to_string()))
}

fn json(answer: &impl serde::Serialize) -> Result<String, String> {
    serde_json::to_string(answer).map_err(|error| error.to_string())
}

fn failed(words: &str) -> Message {
    Message::Answer { is_done: false, body: words.into() }
}

/// A peer that does not read what it is told is not waited for: it asks again.
fn say(outbox: &Outbox, message: Message) {
    let _ = outbox.try_send(message);
}
