//! The replication port: who connects gets a place and a thread of its own. What becomes of a
//! connection is counted and logged here.

use super::super::places::shut_down;
use super::super::session::{SessionError, serve};
use super::super::wire::Refusal;
use super::{Offer, REPLICAS_MAX};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

/// How often the listening thread moves the beat on, empties holes of the pool, and looks whether
/// it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// Holes of the pool that are looked at each time, where READs have filled some: 20 MiB a second.
const HOLES_PER_LOOK: u32 = 8;

impl Offer {
    /// The listening thread, until the offer ends.
    pub(super) fn listen(self: Arc<Self>, listener: &TcpListener) {
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
                return shut_down(&stream);
            }
        };
        if let Some(ended) = ended {
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
        let is_usual = matches!(error, SessionError::Left(_) | SessionError::HandedOver);
        let level = if is_usual { log::Level::Info } else { log::Level::Warn };
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

    /// Held for moments.
    pub(super) fn declined(&self) -> MutexGuard<'_, Vec<String>> {
        self.declined.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
