//! Connections to a locator, a thread each. What a peer says first tells what it is.

use super::Common;
use super::deciding::Event;
use crate::cluster::wire::{Message, WireError};
use crate::replication::HANDSHAKE_WAIT_MAX;
use crate::replication::link::Link;
use crate::replication::session;
use crate::replication::standing::ServerNumber;
use crate::replication::tls::Listening;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// Connections at a time.
const PEERS_MAX: usize = 4096;
/// Messages that wait for a peer. What a peer that does not read is told beyond that is
/// lost: it asks again.
const OUTBOX_MAX: usize = 64;
/// How often a connection's thread looks for what is to be told.
const LOOK: Duration = Duration::from_millis(10);
/// The port looks so often whether it is to close.
const PORT_LOOK: Duration = Duration::from_millis(100);
/// Whoever says nothing for so long is gone. An observer says `watch` again before.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What a connection is known by.
pub type PeerId = u64;
/// Where answers to a peer are put.
pub type Outbox = SyncSender<Message>;

/// The port of a locator.
pub struct Port {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    common: Common,
    listening: Listening,
    own: ServerNumber,
    count: AtomicUsize,
    next: AtomicU64,
}

impl Port {
    /// With that listener.
    pub fn new(common: Common, listener: TcpListener, listening: Listening, own: ServerNumber) -> Port {
        let (count, next) = (AtomicUsize::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { common, listening, own, count, next });
        Port { listener, shared }
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
    }

    fn take(&self, stream: TcpStream, peer: SocketAddr) {
        let shared = self.shared.clone();
        if shared.count.fetch_add(1, Relaxed) >= PEERS_MAX {
            shared.count.fetch_sub(1, Relaxed);
            return log::warn!("{peer} is turned away: there are {PEERS_MAX} connections already");
        }
        let serve = move || {
            serve(&shared, stream, peer);
            shared.count.fetch_sub(1, Relaxed);
        };
        if let Err(error) = Builder::new().name("locator-peer".into()).spawn(serve) {
            self.shared.count.fetch_sub(1, Relaxed);
            log::warn!("no thread for {peer}: {error}; raise `ulimit -u`");
        }
    }
}

fn serve(shared: &Shared, stream: TcpStream, peer: SocketAddr) {
    let deadline = Instant::now() + HANDSHAKE_WAIT_MAX;
    match session::meet(stream, &shared.listening, &shared.common.secret, shared.own, deadline) {
        Ok(mut link) => {
            let id = shared.next.fetch_add(1, Relaxed);
            let ended = converse(shared, &mut link, id);
            // Nobody hears it where the locator ends.
            let _ = shared.common.events.send(Event::Ended { peer: id });
            if let Err(error) = ended {
                // An operator's ends after each answer.
                log::debug!("{peer}: {error}");
            }
        }
        Err(error) => log::warn!("{peer}: {error}"),
    }
}

/// Until either side ends it.
fn converse(shared: &Shared, link: &mut Link, id: PeerId) -> Result<(), WireError> {
    let (outbox, answers) = sync_channel(OUTBOX_MAX);
    let (mut watches, mut told, mut heard_at) = (false, 0, Instant::now());
    // It knows the map of this version: an older one is no order to it.
    let mut knows = 0;
    let soon = || Instant::now() + HANDSHAKE_WAIT_MAX;
    while !shared.common.stop.is_asked() && heard_at.elapsed() < SILENCE_MAX {
        match Message::receive(link, Instant::now() + LOOK) {
            Ok(message) => {
                heard_at = Instant::now();
                watches |= matches!(message, Message::Introduction(_) | Message::Watch);
                if let Message::Introduction(introduction) = &message {
                    knows = introduction.map_version;
                }
                let Some(event) = event_of(message, id, &outbox) else {
                    let words = "that makes no sense to a locator".to_string();
                    return Message::Refused(words).send(link, soon());
                };
                if event.is_some_and(|event| shared.common.events.send(event).is_err()) {
                    return Ok(());
                }
            }
            Err(error) if error.is_silence() => {}
            Err(error) => return Err(error),
        }
        if let Some(map) = shared.common.published.map_after(told).filter(|map| watches && map.version >= knows) {
            told = map.version;
            Message::Map(map.text.clone()).send(link, soon())?;
        }
        if send_all(link, &answers)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Tell what waits. True once the last word was told.
fn send_all(link: &mut Link, answers: &Receiver<Message>) -> Result<bool, WireError> {
    while let Ok(message) = answers.try_recv() {
        message.send(link, Instant::now() + HANDSHAKE_WAIT_MAX)?;
        if matches!(message, Message::Refused(_)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a message is to the thread that decides, if anything; None where a peer may not say it.
fn event_of(message: Message, peer: PeerId, outbox: &Outbox) -> Option<Option<Event>> {
    let outbox = || outbox.clone();
    Some(match message {
        Message::Introduction(introduction) => Some(Event::Introduced { peer, introduction, outbox: outbox() }),
        Message::Report { sent, report } => Some(Event::Reported { peer, sent, report }),
        Message::Map(text) => Some(Event::Told { peer, text }),
        Message::Ask(text) => Some(Event::Asked { text, outbox: outbox() }),
        Message::Watch => None,
        _ => return None,
    })
}
