//! Connections to a locator, a thread each, which sleeps while there is nothing to hear or to tell.
//! What a peer says first tells what it is.
//!
//! Peers that have not proved that they have the secret have places of their own
//! ([`crate::replication::places`]): they keep no server out.

use super::Common;
use super::deciding::Event;
use super::outbox::Outbox;
use super::published::Told;
use crate::cluster::wire::{Message, WireError};
use crate::replication::HANDSHAKE_WAIT_MAX;
use crate::replication::link::Link;
use crate::replication::places::{Place, Places, shut_down};
use crate::replication::session::meet_in_place;
use crate::replication::standing::ServerNumber;
use crate::replication::tls::Listening;
use crate::sys::poll::Waker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::Receiver;
use std::thread::Builder;
use std::time::{Duration, Instant};

/// Connections whose peers have not proved themselves. The servers of a large cluster come all at
/// once when a locator is started.
pub const STRANGERS_MAX: usize = 1024;
/// Connections whose peers have.
const KNOWN_MAX: usize = 4096;
/// Open files that a locator may need: a connection has two, and its store and its looks at servers
/// some.
pub const FILES_MAX: u64 = 2 * (STRANGERS_MAX + KNOWN_MAX) as u64 + 256;
/// The port looks so often whether it is to close.
const PORT_LOOK: Duration = Duration::from_millis(100);
/// Whoever says nothing for so long is gone. An observer says `watch` again before.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What a connection is known by.
pub type PeerId = u64;

/// The port of a locator.
pub struct Port {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    common: Common,
    listening: Listening,
    own: ServerNumber,
    places: Arc<Places>,
    next: AtomicU64,
    strangers_ended: AtomicU64,
}

impl Port {
    /// With that listener.
    pub fn new(common: Common, listener: TcpListener, listening: Listening, own: ServerNumber) -> Port {
        let places = Arc::new(Places::new(STRANGERS_MAX, KNOWN_MAX));
        let (next, strangers_ended) = (AtomicU64::new(0), AtomicU64::new(0));
        Port { listener, shared: Arc::new(Shared { common, listening, own, places, next, strangers_ended }) }
    }

    /// Until it is to stop.
    pub fn run(self) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: PORT_LOOK.subsec_nanos().into() };
        while !self.shared.common.stop.is_asked() {
            match self.listener.accept() {
                Ok((stream, peer)) => self.take(stream, peer),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&timeout));
                }
                Err(error) => {
                    log::warn!("cannot accept a connection: {error}");
                    let _ = poll(&mut [], Some(&timeout));
                }
            }
        }
        self.shared.common.published.wake_all();
    }

    /// A place and a thread for a connection. A crowd of strangers loses its own oldest for it.
    fn take(&self, stream: TcpStream, peer: SocketAddr) {
        let (place, ended) = match self.shared.places.enter(&stream, peer.ip()) {
            Ok(entered) => entered,
            Err(why) => {
                log::warn!("{peer} is turned away: {why}");
                return shut_down(&stream);
            }
        };
        if let Some(ended) = ended {
            shut_down(&ended);
            self.note_ended_stranger();
        }
        let shared = self.shared.clone();
        let serve = move || serve(&shared, stream, peer, place);
        if let Err(error) = Builder::new().name("locator-peer".into()).spawn(serve) {
            log::warn!("no thread for {peer}: {error}; raise `ulimit -u`");
        }
    }

    /// Logged ever more seldom: whoever sends strangers decides how many there are.
    fn note_ended_stranger(&self) {
        let count = self.shared.strangers_ended.fetch_add(1, Relaxed) + 1;
        if count.is_power_of_two() {
            log::warn!(
                "{count} connections so far were ended for newer ones before they had proved themselves; only the cluster \
                 and its operators should reach this port: see a firewall to it"
            );
        }
    }
}

fn serve(shared: &Shared, stream: TcpStream, peer: SocketAddr, mut place: Place) {
    let deadline = Instant::now() + HANDSHAKE_WAIT_MAX;
    let (listening, secret) = (&shared.listening, &shared.common.secret);
    let met = meet_in_place(stream, listening, secret, shared.own, deadline, || place.make_known());
    match met {
        Ok(mut link) => {
            let id = shared.next.fetch_add(1, Relaxed);
            let waker = match Waker::new() {
                Ok(waker) => waker,
                Err(error) => return log::warn!("no descriptor for {peer}: {error}; raise `ulimit -n`"),
            };
            let ended = converse(shared, &mut link, id, &waker);
            // Nobody hears it where the locator ends.
            let _ = shared.common.events.send(Event::Ended { peer: id });
            if let Err(error) = ended {
                // An operator's ends after each answer.
                log::debug!("{peer}: {error}");
            }
        }
        // If it was ended for another one, that was logged already.
        Err(_) if place.is_ended() => {}
        Err(error) => log::warn!("{peer}: {error}"),
    }
}

/// Until either side ends it.
fn converse(shared: &Shared, link: &mut Link, id: PeerId, waker: &Waker) -> Result<(), WireError> {
    let _woken = shared.common.published.wake(id, waker.clone());
    let (outbox, answers) = Outbox::new(waker.clone());
    let mut peer = Peer { shared, id, outbox, watches: false, knows: 0, told: 0 };
    let mut heard_at = Instant::now();
    while !shared.common.stop.is_asked() && heard_at.elapsed() < SILENCE_MAX {
        while let Some(message) = Message::try_receive(link)? {
            heard_at = Instant::now();
            if !peer.hear(message) {
                return Ok(());
            }
        }
        if let Some(map) = peer.news() {
            link.send_bytes(&map.frame, Instant::now() + HANDSHAKE_WAIT_MAX)?;
        }
        if send_all(link, &answers)? {
            return Ok(());
        }
        link.rest(waker, heard_at + SILENCE_MAX)?;
        // Before it is looked what there is.
        waker.clear();
    }
    Ok(())
}

/// What a connection's thread knows of its peer.
struct Peer<'s> {
    shared: &'s Shared,
    id: PeerId,
    outbox: Outbox,
    /// It is told every map.
    watches: bool,
    /// It knows the map of this version: an older one is no order to it.
    knows: u64,
    /// The version of the map that it was told last.
    told: u64,
}

impl Peer<'_> {
    /// False where nobody hears it: the locator ends.
    fn hear(&mut self, message: Message) -> bool {
        self.watches |= matches!(message, Message::Introduction(_) | Message::Watch);
        if let Message::Introduction(introduction) = &message {
            self.knows = introduction.map_version;
        }
        if matches!(message, Message::Watch) {
            // The map itself comes before this answer.
            let published = &self.shared.common.published;
            let told = published.map_after(0).map_or(0, |map| map.version);
            self.outbox.say(published.answer(told));
            return true;
        }
        match event_of(message, self.id, &self.outbox) {
            Some(event) => self.shared.common.events.send(event).is_ok(),
            None => {
                self.outbox.say(Message::Refused("that makes no sense to a locator".into()));
                true
            }
        }
    }

    /// The map, if it is to be told.
    fn news(&mut self) -> Option<Arc<Told>> {
        let map = self.shared.common.published.map_after(self.told);
        let map = map.filter(|map| self.watches && map.version >= self.knows)?;
        self.told = map.version;
        Some(map)
    }
}

/// Tell what waits. True once the last word was told.
fn send_all(link: &mut Link, answers: &Receiver<Message>) -> Result<bool, WireError> {
    let soon = || Instant::now() + HANDSHAKE_WAIT_MAX;
    while let Ok(message) = answers.try_recv() {
        match message.send(link, soon()) {
            // Whoever waits for it is told why it does not come.
            Err(error @ WireError::TooLong(_)) => {
                Message::Answer { is_done: false, body: format!("the answer is {error}") }.send(link, soon())?;
            }
            sent => sent?,
        }
        if matches!(message, Message::Refused(_)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a message is to the thread that decides; None where a peer may not say it.
fn event_of(message: Message, peer: PeerId, outbox: &Outbox) -> Option<Event> {
    let outbox = || outbox.clone();
    Some(match message {
        Message::Introduction(introduction) => Event::Introduced { peer, introduction, outbox: outbox() },
        Message::Report { sent, report } => Event::Reported { peer, sent, report },
        Message::Map(text) => Event::Told { peer, text },
        Message::Ask(text) => Event::Asked { text, outbox: outbox() },
        _ => return None,
    })
}
