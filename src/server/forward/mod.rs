//! Requests of clients that other servers execute: a worker's links to those servers.
//!
//! A request whose shard takes no writes here is handed to a [`Forwarder`], which sends it to the
//! shard's primary ([`owner`]) and, once its answer is there, says whose it is ([`Settled`]). The
//! worker puts it into its place in the client's output ([`crate::engine::forwarded`]). No thread
//! waits: links are sockets of the worker's poller, and are connected by threads of their own
//! ([`opening`]).
//!
//! **Once.** A request that may have been executed is never sent again. Sent again is what was not
//! sent when its link failed, once, and what its owner has not done because it is not the primary
//! ([`again`]).
//!
//! **Order.** Requests of one client about one shard go out by one link in their order, and their
//! owner begins them in it. One that comes back not done is sent again only if nothing behind it
//! has been done, and until it is answered nothing new is sent behind it ([`back`]).
//!
//! **Tags.** A request is known by its tag, in the queue of its owner and in frames. A tag is used
//! for another request only once neither queue nor link has anything of the last one: who is
//! given up is taken out of the queue, and if it was sent the link ends.
//!
//! | file | what it has |
//! | --- | --- |
//! | [`pending`] | a request that is under way |
//! | [`owner`] | a server, and how the link to it stands |
//! | [`opening`] | connecting links |
//! | [`again`] | those that are sent again, and those that have waited too long |
//! | [`back`] | which have come back, by client and shard |
//! | [`serving`] | the worker's side |
//! | [`ways`] | to whom a request goes |

mod again;
mod back;
mod opening;
mod owner;
mod pending;
mod serving;
mod ways;

use crate::base::limits::{FORWARD_MARGIN_MILLISECONDS, FORWARD_MILLISECONDS_MAX, READ_BYTES_PER_TURN};
use crate::engine::forwarded::Answer;
use crate::engine::{Engine, Output, WorkerStats};
use crate::protocol::forward::{Answered, Asked, Fate, Framed, answer_bytes_max};
use crate::replication::secret::Secret;
use crate::replication::standing::Chain;
use crate::server::pipe::{Bytes, Pipe};
use crate::server::table::Token;
use crate::sys::poll::{Interest, Poller, Waker};
use again::{LOOK, Redirect};
use back::Back;
use opening::Opening;
use owner::{Owner, State};
use pending::Pendings;
pub use pending::{Part, Pending, Stage};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use ways::Ways;

/// The first link's number among a worker's tokens: listeners and sockets of UDP have lower ones.
pub const FIRST: u32 = 1 << 17;

/// Bytes that are read of a link at a time.
const CIPHER_BYTES: usize = 64 << 10;
/// Bytes of frames that wait for one write, but for one frame that is larger.
const SENT_BYTES_MAX: usize = 256 << 10;

/// How requests are forwarded (`--forward`).
#[derive(Debug, Clone)]
pub struct Forwarding {
    /// What both ends of a link have.
    pub secret: Secret,
    /// Whether a server that is followed is the primary itself.
    pub chain: Arc<Chain>,
}

/// A request that is under way no longer.
pub struct Settled {
    /// Whose it is.
    pub client: Token,
    /// The number of its place.
    pub place: u64,
    /// What has come of it.
    pub answer: Answer,
}

/// See the module.
pub struct Forwarder {
    opening: Opening,
    chain: Arc<Chain>,
    engine: Arc<Engine>,
    stats: Arc<WorkerStats>,
    owners: Vec<Owner>,
    pending: Pendings,
    /// Those of them that have come back, even if they were sent again since.
    back: Back,
    settled: Vec<Settled>,
    /// Those that have come back and are to be executed here, in their order.
    here: Vec<u32>,
    /// Those that were executed here and wait for replicas, in outputs of their own.
    held: Vec<(Pending, Box<Output>)>,
    /// Links that the poller has told of.
    ready: Vec<u32>,
    /// Shards whose gates name a server that is not the primary, at most one for each.
    redirects: Vec<Redirect>,
    /// How many are being connected.
    connecting: usize,
    /// When to look at what waits.
    look_at: Instant,
    /// The clock, if it was read since something was sent.
    now: Option<Instant>,
    /// By shard, who executes what is about it.
    ways: Ways,
    /// What has arrived, sealed.
    cipher: Box<[u8]>,
    /// What the budget of unfinished requests was last charged with.
    charged: usize,
}

impl Forwarder {
    /// Of the worker that `waker` wakes.
    pub fn new(forwarding: &Forwarding, waker: Waker, engine: &Arc<Engine>, stats: Arc<WorkerStats>) -> Forwarder {
        Forwarder {
            opening: Opening::new(forwarding.secret.clone(), waker),
            chain: forwarding.chain.clone(),
            engine: engine.clone(),
            stats,
            owners: Vec::new(),
            pending: Pendings::default(),
            back: Back::default(),
            settled: Vec::new(),
            here: Vec::new(),
            held: Vec::new(),
            redirects: Vec::new(),
            ready: Vec::new(),
            connecting: 0,
            look_at: Instant::now(),
            now: None,
            ways: Ways::default(),
            cipher: vec![0; CIPHER_BYTES].into(),
            charged: 0,
        }
    }

    /// Whether there is anything to do in this turn.
    #[inline]
    pub fn is_busy(&self) -> bool {
        self.waits() || !self.ready.is_empty() || !self.settled.is_empty() || self.connecting > 0
    }

    /// Whether anything waits for an owner, or for replicas.
    fn waits(&self) -> bool {
        !self.pending.is_empty() || !self.held.is_empty()
    }

    /// Memory of requests that are under way.
    fn input_bytes(&self) -> usize {
        self.owners.iter().map(|owner| owner.bytes).sum()
    }

    /// When to be called again at the latest.
    pub fn due(&self) -> Option<Instant> {
        if self.settled.is_empty() { self.waits().then_some(self.look_at) } else { Some(Instant::now()) }
    }

    /// The link with this token has something.
    pub fn note_ready(&mut self, token: u32) {
        self.ready.push(token - FIRST);
    }

    /// When what is forwarded now was: the clock is read once for all of a turn, or nearly so.
    pub fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }

    /// Whether a request of this client about this shard has come back and is not answered: by
    /// which way it goes is not known to whoever asks, so what comes behind it waits.
    pub fn holds_up(&self, client: Token, shard: Option<u32>) -> bool {
        !self.back.tags(client, shard).is_empty()
    }

    /// Have its owner execute it, who has room.
    pub fn submit(&mut self, pending: Pending) {
        if self.pending.is_empty() {
            self.look_at = pending.since + LOOK;
        }
        self.stats.forwarded.increment();
        self.queue(pending);
    }

    fn queue(&mut self, pending: Pending) {
        let (owner, bytes) = (pending.owner as usize, pending.bytes.len());
        let tag = self.pending.insert(pending);
        self.owners[owner].note_queued(tag, bytes);
    }

    /// Take links that have been connected, and what has arrived by the others.
    fn receive(&mut self, poller: &Poller) {
        while self.connecting > 0
            && let Some((owner, opened)) = self.opening.take()
        {
            self.connecting -= 1;
            match opened {
                Ok(pipe) => self.note_up(owner as usize, pipe, poller),
                Err(why) => {
                    log::debug!("{}: {why}", self.name(owner as usize));
                    self.link_failed(owner as usize, &why);
                }
            }
        }
        let mut ready = std::mem::take(&mut self.ready);
        for at in ready.drain(..) {
            if let Err(error) = self.receive_from(at as usize) {
                self.link_ended(at as usize, &error.to_string());
            }
        }
        self.ready = ready;
    }

    /// Take what has arrived by one link; what is more than a turn's share is told of again.
    fn receive_from(&mut self, at: usize) -> io::Result<()> {
        let bytes_max = answer_bytes_max(self.engine.parse_limits().value_bytes_max);
        let mut left = READ_BYTES_PER_TURN;
        while left > 0 {
            let Some(State::Up(pipe)) = self.owners.get_mut(at).map(|owner| &mut owner.state) else { return Ok(()) };
            let Some(received) = pipe.receive(&mut self.cipher)? else { return Ok(()) };
            left = left.saturating_sub(received);
            let mut incoming = std::mem::take(&mut pipe.incoming);
            let taken = self.take_answers(at, &mut incoming, bytes_max);
            if let State::Up(pipe) = &mut self.owners[at].state {
                pipe.incoming = incoming;
            }
            taken?;
            if received == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if received < CIPHER_BYTES {
                return Ok(()); // that was all, for now
            }
        }
        Ok(())
    }

    fn take_answers(&mut self, at: usize, incoming: &mut Bytes, bytes_max: usize) -> io::Result<()> {
        loop {
            let decoded = Answered::decode(incoming.pending(), bytes_max);
            match decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                Framed::Whole(answered, bytes) => {
                    self.take_answer(at, answered);
                    incoming.consume(bytes);
                }
                Framed::Incomplete { .. } => return Ok(()),
                Framed::TooLarge { tag, frame_bytes } => {
                    self.take_too_large(at, tag);
                    incoming.skip(frame_bytes);
                }
            }
        }
    }

    fn note_up(&mut self, at: usize, pipe: Pipe, poller: &Poller) {
        if let Err(error) = poller.add(&pipe, Token::other(FIRST + at as u32).to_bits(), Interest::Read) {
            return self.link_failed(at, &error.to_string());
        }
        let owner = &mut self.owners[at];
        (owner.state, owner.interest) = (State::Up(Box::new(pipe)), Interest::Read);
        self.engine.global().forward_links_out.fetch_add(1, Relaxed);
    }

    /// Its link, if there is one, counts no more.
    fn note_down(&mut self, at: usize) {
        if matches!(self.owners[at].state, State::Up(_)) {
            self.engine.global().forward_links_out.fetch_sub(1, Relaxed);
        }
    }

    fn take_answer(&mut self, owner: usize, answered: Answered<'_>) {
        if !self.is_sent_to(owner, answered.tag) {
            return;
        }
        let Some(pending) = self.pending.get_mut(answered.tag) else { return };
        self.owners[owner].note_answer();
        match answered.fate {
            Fate::NotMine if pending.shard.is_some() => self.note_not_mine(answered.tag, answered.bytes),
            fate => {
                if pending.part == Part::Flush && !pending.is_flushed(fate, answered.bytes) {
                    return self.flush_failed(answered);
                }
                let answer = pending.answer(fate, answered.bytes);
                if fate == Fate::Done {
                    self.note_overtaken(answered.tag);
                }
                self.settle(answered.tag, answer);
            }
        }
    }

    /// An owner allows larger values than this server, and has sent one.
    fn take_too_large(&mut self, owner: usize, tag: u32) {
        if self.is_sent_to(owner, tag) {
            self.note_overtaken(tag);
            let why = format!("the answer of {} is larger than this server's -I allows", self.name(owner));
            self.fail(tag, &why);
        }
    }

    /// Whether this owner has a request of this tag to answer.
    fn is_sent_to(&mut self, owner: usize, tag: u32) -> bool {
        self.pending.get_mut(tag).is_some_and(|one| one.owner as usize == owner && one.stage == Stage::Sent)
    }

    /// A server has not flushed its shards, and says why.
    fn flush_failed(&mut self, answered: Answered<'_>) {
        let Some(pending) = self.pending.get_mut(answered.tag) else { return };
        let (owner, begin) = (pending.owner as usize, pending.words_at(answered.fate));
        let words = String::from_utf8_lossy(answered.bytes.get(begin..).unwrap_or_default());
        let why = match answered.fate {
            Fate::NotMine => format!("{} has not flushed: it is the primary of no shard now", self.name(owner)),
            Fate::Done | Fate::Refused => format!("{} has not flushed: {}", self.name(owner), words.trim()),
        };
        self.fail(answered.tag, &why);
    }

    /// This is its answer.
    fn settle(&mut self, tag: u32, answer: Answer) {
        let Some(pending) = self.take_out(tag) else { return };
        let (client, place) = (pending.client, pending.place);
        self.settled.push(Settled { client, place, answer });
    }

    /// The same of an error that is this server's.
    fn fail(&mut self, tag: u32, why: &str) {
        let Some(pending) = self.pending.get_mut(tag) else { return };
        let answer = pending.failure(why);
        self.stats.forward_errors.increment();
        self.settle(tag, answer);
    }

    /// It is under way no longer: it is answered, or not sent. Its tag may be another's from here
    /// on, so if it was sent and is not answered its link ends as well.
    fn take_out(&mut self, tag: u32) -> Option<Pending> {
        let pending = self.pending.remove(tag)?;
        let owner = &mut self.owners[pending.owner as usize];
        if pending.stage == Stage::Queued {
            owner.queue.retain(|queued| *queued != tag);
        }
        owner.note_gone(pending.bytes.len());
        if pending.first_not_mine.is_some() {
            self.back.remove(pending.client, pending.shard, tag);
        }
        Some(pending)
    }

    /// As clients know it.
    fn name(&self, owner: usize) -> &str {
        &self.owners[owner].primary.clients
    }

    /// Whatever waits for its link is tried once more by the next one; what was sent is in doubt.
    fn link_ended(&mut self, at: usize, why: &str) {
        log::info!("the link to {} has ended: {why}", self.name(at));
        self.note_down(at);
        let why_lost =
            format!("forwarded to {}, and the connection ended: whether it was done is not known", self.name(at));
        for tag in self.tags_of(at, Stage::Sent) {
            self.note_overtaken(tag);
            self.fail(tag, &why_lost);
        }
        self.link_failed(at, why);
    }

    /// There is no link, and what waits for it has waited for one more.
    fn link_failed(&mut self, at: usize, why: &str) {
        self.owners[at].rest(Instant::now());
        let why = format!("not forwarded to {}: {why}; nothing was done", self.name(at));
        for tag in std::mem::take(&mut self.owners[at].queue) {
            let Some(pending) = self.pending.get_mut(tag) else { continue };
            pending.failures += 1;
            if pending.failures > 1 {
                self.fail(tag, &why);
            } else {
                self.owners[at].queue.push_back(tag);
            }
        }
    }

    /// Those of an owner that have come so far, in no order.
    fn tags_of(&self, at: usize, stage: Stage) -> Vec<u32> {
        let is_its = |pending: &Pending| pending.owner as usize == at && pending.stage == stage;
        self.pending.iter().filter(|(_, pending)| is_its(pending)).map(|(tag, _)| tag).collect()
    }

    /// Connect what is wanted, and send what there is to send: one write for each link, as a rule.
    /// What is forwarded afterwards is so at another time.
    fn send(&mut self, poller: &Poller, now: Instant) {
        self.now = None;
        for at in 0..self.owners.len() {
            if self.owners[at].wants_link(now) {
                let address: Option<Arc<str>> = self.owners[at].primary.replication.as_deref().map(Arc::from);
                if address.is_some_and(|address| self.opening.begin(at as u32, address)) {
                    self.owners[at].state = State::Connecting;
                    self.connecting += 1;
                }
            }
            if let Err(error) = self.send_to(at, poller, now) {
                self.link_ended(at, &error.to_string());
            }
        }
    }

    fn send_to(&mut self, at: usize, poller: &Poller, now: Instant) -> io::Result<()> {
        let Owner { state, queue, interest, .. } = &mut self.owners[at];
        let State::Up(pipe) = state else { return Ok(()) };
        if queue.is_empty() && !pipe.has_unsent() {
            return Ok(());
        }
        loop {
            while pipe.outgoing.pending().len() < SENT_BYTES_MAX
                && let Some(tag) = queue.pop_front()
            {
                let Some(pending) = self.pending.get_mut(tag) else { continue };
                pending.stage = Stage::Sent;
                let Pending { protocol, since, bytes: request, .. } = pending;
                let within_milliseconds = millis_left(*since, now);
                Asked { tag, protocol: *protocol, within_milliseconds, request }.encode(pipe.outgoing.buffer());
            }
            pipe.send()?;
            if queue.is_empty() || pipe.has_unsent() {
                break;
            }
        }
        let wanted = if pipe.has_unsent() { Interest::ReadWrite } else { Interest::Read };
        if std::mem::replace(interest, wanted) != wanted {
            poller.change(&**pipe, Token::other(FIRST + at as u32).to_bits(), wanted)?;
        }
        Ok(())
    }
}

/// For how long an owner may take, of a request that has waited since then.
fn millis_left(since: Instant, now: Instant) -> u16 {
    let most = Duration::from_millis(FORWARD_MILLISECONDS_MAX - FORWARD_MARGIN_MILLISECONDS);
    let left = most.saturating_sub(now.saturating_duration_since(since)).as_millis();
    left.clamp(1, u16::MAX.into()) as u16
}

#[cfg(test)]
mod tests;
