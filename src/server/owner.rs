//! The owner's side of links: requests of other servers' clients, executed here
//! ([`crate::protocol::forward`] has the frames, [`crate::replication::forwarding`] how a link
//! begins).
//!
//! A link belongs to one worker, which gets it by a queue and a wake-up. Links stand beside the
//! connections of clients, not among them: they have no state of a client, and what is done for
//! clients does not ask for them. Together they are one entry ([`LINKS`]) in the worker's list of
//! those that wait for replicas. It is there while a link has something to do, or waits, and so the
//! worker serves links once a turn, and sleeps for a short time only.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`link`] | one of them: its frames, those that wait, and their bounds |
//! | [`serving`] | serving it in one turn |

mod link;
mod serving;

use super::Shared;
use super::table::Token;
use super::worker::Worker;
use crate::base::limits::{FORWARD_LINKS_PER_WORKER, WRITE_STALL_SECONDS_MAX};
use crate::replication::forwarding::{LinkPlace, Owner};
use crate::replication::link::Line;
use crate::store::Turn;
use crate::sys::poll::{Interest, Poller};
use link::Link;
use serving::End;
pub use serving::{Trial, Tried};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The first link's number among a worker's tokens: links to owners have lower ones.
pub const FIRST: u32 = 1 << 24;
/// All links of a worker, among those that wait.
pub const LINKS: Token = Token::other(FIRST - 1);

/// Links on their way to the workers.
pub struct Handed {
    queues: Vec<Mutex<Vec<(Line, LinkPlace)>>>,
    /// Whose turn it is to get one.
    next: AtomicUsize,
    /// The second in which a link was last logged that has broken the rules.
    told_at: AtomicU32,
}

impl Handed {
    /// For so many workers. The places bound what waits.
    pub fn new(workers: usize) -> Handed {
        let queues = (0..workers).map(|_| Mutex::default()).collect();
        Handed { queues, next: AtomicUsize::new(0), told_at: AtomicU32::new(0) }
    }

    fn queue(&self, worker: usize) -> MutexGuard<'_, Vec<(Line, LinkPlace)>> {
        self.queues[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owner for Shared {
    fn enter(&self) -> Result<LinkPlace, String> {
        if self.stopping.load(Relaxed) {
            return Err("this server is ending".into());
        }
        let places = FORWARD_LINKS_PER_WORKER * self.config.workers as u64;
        let place = LinkPlace::of(&self.engine.global().forward_links, places);
        place.ok_or_else(|| format!("there are {places} links to this server already"))
    }

    fn take(&self, line: Line, place: LinkPlace) {
        let worker = self.handed.next.fetch_add(1, Relaxed) % self.config.workers;
        self.handed.queue(worker).push((line, place));
        self.wakers[worker].wake();
    }
}

/// A worker's links.
#[derive(Default)]
pub struct Links {
    slots: Vec<Option<Box<Link>>>,
    /// [`LINKS`] is among those that wait.
    are_listed: bool,
    /// The server ends: nothing more is begun.
    are_ending: bool,
}

impl Links {
    /// The socket of the link with this token is ready.
    pub fn note_ready(&mut self, token: u32) {
        if let Some(Some(link)) = self.slots.get_mut((token - FIRST) as usize) {
            link.is_ready = true;
        }
    }

    /// True when there is none.
    pub fn are_none(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    fn insert(&mut self, link: Link, poller: &Poller) {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let token = token_of(slot);
        if let Err(error) = poller.add(&link.pipe, token.to_bits(), Interest::Read) {
            return log::warn!("cannot watch a link: {error}; raise /proc/sys/fs/epoll/max_user_watches");
        }
        self.slots[slot] = Some(Box::new(link));
    }
}

fn token_of(slot: usize) -> Token {
    Token::other(FIRST + slot as u32)
}

impl Worker<'_> {
    /// Take the links that were handed to this worker.
    pub(super) fn take_links(&mut self) {
        let handed = std::mem::take(&mut *self.service.shared.handed.queue(self.id));
        for (line, place) in handed {
            let peer = line.peer;
            match Link::new(line, place, self.service.steady_now) {
                Ok(link) if !self.links.are_ending => self.links.insert(link, &self.poller),
                Ok(_) => {}
                Err(error) => log::warn!("a link from {peer} cannot begin: {error}"),
            }
            self.heed_links();
        }
    }

    /// See to it that links are served in this turn, or in the next.
    pub(super) fn heed_links(&mut self) {
        if !self.links.are_listed {
            self.links.are_listed = true;
            self.waiting.tokens.push(LINKS);
        }
    }

    /// Serve those links that have something to do. Returns whether one of them waits.
    pub(super) fn serve_links(&mut self, turn: &Turn<'_>) -> bool {
        if !self.links.are_listed {
            return false;
        }
        let (mut wait, mut go_on) = (false, false);
        for slot in 0..self.links.slots.len() {
            let Some(link) = &mut self.links.slots[slot] else { continue };
            if !link.is_ready && !link.is_waiting() && !self.links.are_ending {
                continue;
            }
            let served = self.service.serve_link(turn, link, self.links.are_ending);
            let watched = served.and_then(|()| Ok(watch(&self.poller, link, token_of(slot))?));
            match watched {
                Ok(()) => {
                    wait |= link.is_waiting();
                    go_on |= link.is_ready;
                }
                Err(end) => self.close_link(slot, Some(&end)),
            }
        }
        if go_on {
            // The worker does not sleep.
            self.again.push(LINKS);
        }
        self.links.are_listed = wait || go_on;
        self.links.are_listed
    }

    fn close_link(&mut self, slot: usize, why: Option<&End>) {
        let Some(mut link) = self.links.slots[slot].take() else { return };
        match why {
            Some(End::Frame(error)) => self.tell_of_broken(&link, error),
            Some(End::Socket(error)) => log::info!("the link from {} has ended: {error}", link.peer),
            Some(End::Over) | None => {}
        }
        self.service.reclaim_link(&mut link);
        link.pipe.close();
        let _ = self.poller.remove(&link.pipe);
    }

    /// At most once a second: whoever sends nonsense decides how often.
    fn tell_of_broken(&self, link: &Link, error: &serving::Broken) {
        let now = self.service.steady_now.0;
        if self.service.shared.handed.told_at.swap(now, Relaxed) != now {
            log::warn!("the link from {} is ended: {error}", link.peer);
        }
    }

    /// Once a second: end those that take no answers.
    pub(super) fn sweep_links(&mut self) {
        let now = self.service.steady_now;
        let is_over = |link: &Link| link.pipe.has_unsent() && now.since(link.moved_at) > WRITE_STALL_SECONDS_MAX;
        for slot in 0..self.links.slots.len() {
            if self.links.slots[slot].as_ref().is_some_and(|link| is_over(link)) {
                self.service.stats.stall_kicks.increment();
                self.close_link(slot, None);
            }
        }
    }

    /// The server ends: what was begun is answered.
    pub(super) fn end_links(&mut self) {
        if !self.links.are_none() {
            self.links.are_ending = true;
            self.heed_links();
        }
    }
}

/// Watch a link's socket for what it waits for.
fn watch(poller: &Poller, link: &mut Link, token: Token) -> std::io::Result<()> {
    let (before, interest) = (link.interest, link.wanted_interest());
    link.interest = interest;
    match (before, interest) {
        (before, interest) if before == interest => Ok(()),
        (_, Interest::Nothing) => poller.remove(&link.pipe),
        (Interest::Nothing, _) => poller.add(&link.pipe, token.to_bits(), interest),
        _ => poller.change(&link.pipe, token.to_bits(), interest),
    }
}
