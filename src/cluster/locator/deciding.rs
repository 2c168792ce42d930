//! The thread that decides: it feeds what it hears to [`Decisions`], has the maps written that come
//! out, and publishes each once it is stored. It waits for nobody.
//!
//! | file | what it is |
//! | --- | --- |
//! | `birth` | a cluster is born, or goes on whose store is lost |
//! | `doubt` | somebody cannot reach a server |

mod birth;
mod doubt;

use super::Common;
use super::charge::{Charge, Writing};
use super::keeping::{Kept, Write};
use super::lately::Lately;
use super::outbox::Outbox;
use super::peer::PeerId;
use super::verify::Sought;
use super::verifying::Verifying;
use super::watch::Watch;
use crate::cluster::client::Question;
use crate::cluster::decide::{Decisions, Next, Note, Proof};
use crate::cluster::map::Map;
use crate::cluster::report::{Introduction, Report};
use crate::cluster::store::{LEASE_SECONDS, Stored};
use crate::cluster::wire::Message;
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How often it is looked what time alone has changed.
const LOOK: Duration = Duration::from_millis(50);
/// Events that are taken before the next map is made.
const EVENTS_AT_ONCE: usize = 1024;
/// A thread that stood still for so long has missed reports: what it knows of leases is nothing.
const STALL_MAX: Duration = Duration::from_millis(500);
/// Who has not heard for so long that it is in charge may not be any more: it grants no lease.
const SURE_FOR: Duration = Duration::from_millis(LEASE_SECONDS * 1000 - 500);

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
    /// A server tells the map that it knows.
    Told {
        /// Its connection.
        peer: PeerId,
        /// The map.
        text: String,
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
    /// The map that it knows, where it was asked for that.
    told: Option<Map>,
    /// It was.
    is_asked: bool,
}

/// See the module.
pub struct Deciding {
    common: Common,
    hears: Receiver<Event>,
    orders: Sender<Write>,
    begun_at: Instant,
    peers: HashMap<PeerId, Peer>,
    charge: Option<Charge>,
    /// Leases are to be waited for anew.
    has_stalled: bool,
    lately: Lately,
    verifying: Verifying,
    /// When a server was looked for last because somebody could not reach it.
    looked_for: HashMap<String, Instant>,
}

impl Deciding {
    /// Before anything was heard.
    pub fn new(common: Common, hears: Receiver<Event>, orders: Sender<Write>) -> Deciding {
        let verifying = Verifying::new(common.clone());
        Deciding {
            common,
            hears,
            orders,
            begun_at: Instant::now(),
            peers: HashMap::new(),
            charge: None,
            has_stalled: false,
            lately: Lately::default(),
            verifying,
            looked_for: HashMap::new(),
        }
    }

    /// Until it is to stop.
    pub fn run(mut self) {
        let mut watch = Watch::begin();
        while !self.common.stop.is_asked() {
            let first = match self.hears.recv_timeout(LOOK) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let stood_still = watch.stood_still();
            if stood_still > STALL_MAX {
                log::warn!("this locator has stood still for {stood_still:?}: leases are waited for anew");
                self.has_stalled = true;
            }
            watch = Watch::begin();
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
            Event::Told { peer, text } => self.told(peer, &text),
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
            return outbox.say(Message::Refused(words));
        }
        log::info!("{} is there: process {}", introduction.name, introduction.incarnation);
        // A connection of before may be about to end.
        self.peers.retain(|_, other| other.introduction.incarnation != introduction.incarnation);
        self.peers.insert(peer, Peer { introduction, outbox, report: None, told: None, is_asked: false });
        self.ask_for_maps();
    }

    fn reported(&mut self, peer: PeerId, sent: u64, report: Report) {
        let now = self.now();
        let in_charge = self.common.published.in_charge();
        let is_sure = self.charge.as_ref().is_some_and(|charge| charge.sure_at.elapsed() < SURE_FOR);
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let lease = self.charge.as_mut().and_then(|charge| charge.decisions.as_mut()).map(|decisions| {
            let incarnation = &known.introduction.incarnation;
            let taken = decisions.reported(incarnation, &report, now);
            let lease = decisions.lease(incarnation).filter(|_| is_sure);
            taken.map(|()| Some((lease?, decisions.map().generation, decisions.map().version)))
        });
        known.report = Some(report);
        known.outbox.say(match lease {
            Some(Ok(Some((milliseconds, generation, map_version)))) => {
                Message::Lease { sent, milliseconds, generation, map_version }
            }
            Some(Err(words)) => Message::Refused(words),
            Some(Ok(None)) | None => Message::NotInCharge { in_charge },
        });
    }

    fn ended(&mut self, peer: PeerId) {
        let Some(Peer { introduction, .. }) = self.peers.remove(&peer) else { return };
        let Some(decisions) = self.decisions() else { return };
        decisions.gone(&introduction.incarnation, Proof::Silent);
        self.verifying.look(Sought::of(&introduction), None);
    }

    /// Nothing is known of leases: as for a locator that takes charge.
    fn begin_anew(&mut self) {
        // A map that is being written is waited for.
        let Some(charge) = self.charge.as_mut().filter(|charge| charge.writing.is_none()) else { return };
        self.has_stalled = false;
        let Some(map) = charge.decisions.as_ref().map(|decisions| decisions.map().clone()) else { return };
        charge.let_down("this locator has stood still, and has forgotten it; ask again");
        let generation = charge.generation;
        self.decide_from(map, generation);
    }

    /// Decide from this map on, with all servers that are connected.
    fn decide_from(&mut self, map: Map, generation: u64) {
        let now = self.now();
        let mut decisions = Decisions::new(map, generation, now);
        for Peer { introduction, outbox, report, .. } in self.peers.values() {
            let taken = decisions.introduced(introduction.clone(), now).and_then(|()| match report {
                Some(report) => decisions.reported(&introduction.incarnation, report, now),
                None => Ok(()),
            });
            if let Err(words) = taken {
                outbox.say(Message::Refused(words));
            }
        }
        if let Some(charge) = &mut self.charge {
            charge.decisions = Some(decisions);
        }
    }

    fn kept(&mut self, kept: Kept) {
        match kept {
            Kept::InCharge { generation, stored, at } => {
                self.is_no_more_in_charge();
                log::info!("this locator is in charge, with generation {generation}");
                self.common.published.take_charge();
                let revision = stored.as_ref().map(|stored| stored.revision);
                let (decisions, writing, waiting) = (None, None, Vec::new());
                self.charge = Some(Charge { generation, revision, decisions, writing, waiting, sure_at: at });
                self.take_stored(stored, generation);
            }
            Kept::NotInCharge(name) => {
                self.is_no_more_in_charge();
                self.common.published.other_in_charge(name);
            }
            Kept::StillInCharge { generation, at } => {
                if let Some(charge) = self.charge_of(generation) {
                    charge.sure_at = at;
                }
            }
            Kept::Written { generation, revision } if self.charge_of(generation).is_some() => self.written(revision),
            Kept::Conflict { generation, stored } if self.charge_of(generation).is_some() => self.conflict(stored),
            // Of an earlier time of being in charge.
            Kept::Written { .. } | Kept::Conflict { .. } => {}
        }
    }

    /// Being in charge, if it is the time of that generation.
    fn charge_of(&mut self, generation: u64) -> Option<&mut Charge> {
        self.charge.as_mut().filter(|charge| charge.generation == generation)
    }

    fn is_no_more_in_charge(&mut self) {
        if let Some(mut charge) = self.charge.take() {
            log::warn!("this locator is not in charge any more");
            charge.let_down("this locator is not in charge any more; ask again whether it was done");
        }
    }

    /// Another map is stored than the one that was to be replaced.
    fn conflict(&mut self, stored: Option<Stored>) {
        let Some(charge) = &mut self.charge else { return };
        charge.revision = stored.as_ref().map(|stored| stored.revision);
        if let (Some(Ok(map)), Some(decisions)) = (map_of(stored.as_ref()), &mut charge.decisions) {
            decisions.conflict(map);
            // What was asked for is in the next map.
            let asked = charge.writing.take().map(|writing| writing.waiting).unwrap_or_default();
            charge.waiting.splice(..0, asked);
            return;
        }
        charge.decisions = None;
        charge.let_down("another map is stored than this locator knew: look at the status, and ask again");
        let generation = charge.generation;
        self.take_stored(stored, generation);
    }

    fn take_stored(&mut self, stored: Option<Stored>, generation: u64) {
        match map_of(stored.as_ref()) {
            Some(Ok(map)) => self.decide_from(map, generation),
            Some(Err(words)) => log::error!("the map in the store cannot be read, and nothing is decided: {words}"),
            None => {
                log::info!("there is no cluster yet: remora ctl cluster init");
                self.ask_for_maps();
            }
        }
    }

    fn written(&mut self, revision: u64) {
        let Some(charge) = &mut self.charge else { return };
        let Some(Writing { map, notes, waiting }) = charge.writing.take() else { return };
        charge.revision = Some(revision);
        if let Err(error) = self.common.published.publish(map.version, map.to_text()) {
            log::error!("map {} cannot be told: {error}", map.version);
        }
        for note in &notes {
            let shards = if note.shards.is_empty() { String::new() } else { format!("shards {}: ", note.shards) };
            log::info!("map {}: {shards}{}", map.version, note.words);
            self.lately.note(map.version, note);
        }
        let generation = charge.generation;
        match &mut charge.decisions {
            Some(decisions) => decisions.written(map),
            None => self.decide_from(map, generation),
        }
        waiting.into_iter().for_each(|(outbox, body)| outbox.say(Message::Answer { is_done: true, body }));
    }

    /// Have the next map written, if there is to be one.
    fn decide(&mut self) {
        if self.has_stalled {
            self.begin_anew();
        }
        let now = self.now();
        let Some(charge) = self.charge.as_mut().filter(|charge| charge.writing.is_none()) else { return };
        let Some(decisions) = &mut charge.decisions else { return };
        match decisions.next(now) {
            Some(Next { map, notes }) => self.write(map, notes),
            // What was asked for is so already.
            None => {
                charge.waiting.drain(..).for_each(|(outbox, body)| outbox.say(Message::Answer { is_done: true, body }))
            }
        }
    }

    fn write(&mut self, map: Map, notes: Vec<Note>) {
        let Some(charge) = &mut self.charge else { return };
        let (generation, expected) = (charge.generation, charge.revision);
        let write = Write { generation, expected, bytes: map.to_text().into_bytes() };
        let waiting = std::mem::take(&mut charge.waiting);
        charge.writing = Some(Writing { map, notes, waiting });
        // The thread that has the store ends with this one.
        let _ = self.orders.send(write);
    }

    fn asked(&mut self, text: &str, outbox: Outbox) {
        let now = self.now();
        let question = match serde_json::from_str(text) {
            Ok(question) => question,
            Err(error) => {
                return outbox.say(failed(&format!("this locator does not understand the question: {error}")));
            }
        };
        let Some(charge) = &mut self.charge else {
            return outbox.say(Message::NotInCharge { in_charge: self.common.published.in_charge() });
        };
        let Some(decisions) = &mut charge.decisions else {
            return match question {
                Question::Init { shards, policy } => self.be_born(shards, policy, outbox),
                Question::Recover { map, dry_run } => self.recover(map.map(|map| *map), dry_run, outbox),
                _ => outbox.say(failed("there is no cluster yet: remora ctl cluster init")),
            };
        };
        let answer = match question {
            Question::Status => json(&decisions.status(now)),
            Question::Map => return outbox.say(Message::Map(decisions.map().to_text())),
            Question::Events => Ok(self.lately.to_text()),
            Question::Init { .. } | Question::Recover { .. } => {
                Err(format!("there is a cluster already, {}", decisions.map().cluster))
            }
            Question::Report { server } => return self.look_for(&server, outbox),
            Question::Change { command, dry_run } => match decisions.command(command, dry_run, now) {
                Ok(words) if !dry_run => return charge.waiting.push((outbox, words)),
                answer => answer,
            },
        };
        outbox.say(match answer {
            Ok(body) => Message::Answer { is_done: true, body },
            Err(words) => failed(&words),
        });
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
