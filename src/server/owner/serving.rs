//! Serving one link in one turn: what waits, then what is new, then one write of all answers.
//!
//! Back-pressure: nothing is read or begun for a forwarder that does not take its answers, or that
//! has enough requests which wait. So a link holds at most one full output and one value, one
//! request and what is read in a turn, and what its requests that wait hold, which has bounds of
//! its own ([`Link::takes_more`]).

use super::link::{About, Blocked, Forwarder, Held, Link, Parked};
use crate::base::limits::{
    BATCH_REQUESTS_MAX, KEY_BYTES_MAX, PARK_MILLISECONDS_MAX, READ_BUFFER_BYTES, READ_BYTES_PER_TURN, READS_AHEAD_MAX,
};
use crate::engine::{Attempt, Context, Engine, Outcome, Output, Target};
use crate::protocol::forward::{Asked, Fate, FrameError, Framed, encode_answer, is_forwardable, request_bytes_max};
use crate::protocol::{KeyScratch, Parsed, Refusal, Request};
use crate::server::execute::KeyScratches;
use crate::server::service::Service;
use crate::store::{Closed, Place, Turn};
use arrayvec::ArrayVec;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// Why a link is over.
#[derive(Debug)]
pub enum End {
    /// The forwarder has ended it, or this server ends.
    Over,
    /// The connection has failed.
    Socket(io::Error),
    /// What has come is no frame.
    Frame(Broken),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Socket(error)
    }
}

/// What is wrong with what has come.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It is no frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// Its request is a part of one, or more than one.
    #[error("a frame whose request is not one whole request")]
    NotOne,
}

/// What trying a request has come to.
pub enum Tried {
    /// It is answered in the output, perhaps held.
    Done,
    /// There is no room: go on from this offset.
    NoRoom(u32),
    /// Its shard takes no writes here.
    Elsewhere(Closed),
}

/// A request on its way through the engine.
pub struct Trial<'t> {
    /// The request.
    pub request: &'t Request<'t>,
    /// Where its key belongs.
    pub target: Target<'t>,
    /// The offset to go on from; None for the first time.
    pub resume: Option<u32>,
    /// It is answered with an error where there is no room.
    pub last_try: bool,
}

impl Service<'_> {
    /// Serve. `ending`: nothing is begun any more, and the link is over once all is answered.
    pub(super) fn serve_link(&mut self, turn: &Turn<'_>, link: &mut Link, ending: bool) -> Result<(), End> {
        let is_ready = std::mem::take(&mut link.is_ready);
        self.answer_held(turn, link);
        self.try_parked(turn, link, ending);
        self.send_answers(turn, link)?;
        if ending {
            self.refuse_rest(link)?;
        } else if !link.pipe.has_unsent() {
            let mut left = self.shared.config.requests_per_turn;
            self.begin_frames(turn, link, &mut left)?;
            if is_ready {
                self.read_frames(turn, link, &mut left)?;
            }
        }
        self.send_answers(turn, link)?;
        self.charge_link(link);
        // No socket tells of what has been read already.
        link.is_ready = link.has_left && !link.pipe.has_unsent() && link.takes_more();
        if ending && !link.is_waiting() && !link.pipe.has_unsent() { Err(End::Over) } else { Ok(()) }
    }

    /// Read, and begin what has come. What the socket still has makes it ready again.
    fn read_frames(&mut self, turn: &Turn<'_>, link: &mut Link, left: &mut u32) -> Result<(), End> {
        let mut read_bytes = 0;
        while read_bytes < READ_BYTES_PER_TURN && !link.has_left && link.takes_more() {
            let Some(bytes) = self.read_link(link)? else { break };
            self.begin_frames(turn, link, left)?;
            if bytes < READ_BUFFER_BYTES {
                break; // that was all
            }
            read_bytes += bytes;
        }
        Ok(())
    }

    /// One read; None when there is nothing now.
    fn read_link(&mut self, link: &mut Link) -> Result<Option<usize>, End> {
        let received = link.pipe.receive(&mut self.buffers.reads[READS_AHEAD_MAX])?;
        self.stats.read_calls.increment();
        self.stats.bytes_read.add(received.unwrap_or(0) as u64);
        link.moved_at = self.steady_now;
        if received == Some(0) { Err(End::Over) } else { Ok(received) }
    }

    /// Begin the whole frames that have arrived, in their order, as many as may be.
    fn begin_frames(&mut self, turn: &Turn<'_>, link: &mut Link, left: &mut u32) -> Result<(), End> {
        self.for_each_batch(link, |service, link, frames| service.begin_batch(turn, link, frames, left))
    }

    /// Begin those of a batch that may be; returns how many. All are read before the first is
    /// executed, so that the memory that they need is on its way.
    fn begin_batch(
        &mut self,
        turn: &Turn<'_>,
        link: &mut Link,
        frames: &[Asked<'_>],
        left: &mut u32,
    ) -> Result<usize, Broken> {
        let engine = &self.shared.engine;
        let mut scratches: KeyScratches = [[0; KEY_BYTES_MAX]; BATCH_REQUESTS_MAX];
        let mut batch = ArrayVec::<_, BATCH_REQUESTS_MAX>::new();
        for (asked, scratch) in frames.iter().zip(&mut scratches).take(*left as usize) {
            batch.push((asked, Content::of(engine, asked, scratch)?));
        }
        if batch.len() > 1 {
            batch.iter().filter_map(|(_, content)| content.place()).for_each(|place| engine.prefetch(turn, place));
        }
        let (mut output, mut begun) = (self.buffers.take_output(), 0);
        for (asked, content) in &batch {
            if !link.takes_more() {
                break;
            }
            begun += 1;
            self.stats.forwarded_in.increment();
            match content {
                Content::Request(request, target) => self.begin(turn, link, asked, (request, *target), &mut output),
                Content::Refused(why) => link.answer(asked.tag, Fate::Refused, why),
            }
        }
        self.buffers.give_output(output);
        *left -= begun;
        Ok(begun as usize)
    }

    /// The server ends: nothing that has not been begun is.
    fn refuse_rest(&mut self, link: &mut Link) -> Result<(), End> {
        let read = self.read_link(link);
        self.for_each_batch(link, |_, link, frames| {
            frames.iter().for_each(|asked| link.answer(asked.tag, Fate::Refused, b"this server is ending"));
            Ok(frames.len())
        })?;
        // A forwarder that sends no more still takes what it is owed.
        match read {
            Ok(_) | Err(End::Over) => Ok(()),
            Err(end) => Err(end),
        }
    }

    /// Call `take` with the whole frames that have arrived, a batch at a time, until it takes fewer
    /// of them than there are: then some are left.
    fn for_each_batch(
        &mut self,
        link: &mut Link,
        mut take: impl FnMut(&mut Self, &mut Link, &[Asked<'_>]) -> Result<usize, Broken>,
    ) -> Result<(), End> {
        let bytes_max = request_bytes_max(self.shared.engine.parse_limits().value_bytes_max);
        let incoming = std::mem::take(&mut link.pipe.incoming);
        let (input, mut consumed) = (incoming.pending(), 0);
        link.has_left = false;
        let taken = loop {
            let (frames, then) = gather(&input[consumed..], bytes_max);
            let count = match take(self, link, &frames) {
                Ok(count) => count,
                Err(broken) => break Err(broken),
            };
            consumed += frames[..count].iter().map(Asked::frame_bytes).sum::<usize>();
            if count < frames.len() {
                link.has_left = true;
                break Ok(());
            }
            match then {
                Then::More => {}
                Then::Incomplete => break Ok(()),
                Then::TooLarge { tag, frame_bytes } => {
                    link.answer(tag, Fate::Refused, Refusal::TooLarge.words());
                    consumed += frame_bytes;
                    if consumed >= input.len() {
                        break Ok(()); // the rest of it is to come
                    }
                }
                Then::Broken(error) => break Err(error.into()),
            }
        };
        link.pipe.incoming = incoming;
        link.pipe.incoming.skip(consumed);
        taken.map_err(End::Frame)
    }

    /// Execute one that has just come, unless it is to wait behind another one.
    fn begin(
        &mut self,
        turn: &Turn<'_>,
        link: &mut Link,
        asked: &Asked<'_>,
        (request, target): (&Request<'_>, Target<'_>),
        output: &mut Box<Output>,
    ) {
        let (about, within) = (about(target), Duration::from_millis(asked.within_milliseconds.into()));
        if link.blocked.has(about) {
            return link.park(asked, about, None);
        }
        let trial = Trial { request, target, resume: None, last_try: false };
        if let Some(resume) = self.attempt(turn, link, &trial, (asked.tag, within), output) {
            self.stats.parked_requests.increment();
            link.park(asked, about, Some(resume));
            // The room may be another worker's to reclaim, and that one may be asleep.
            self.shared.wake_all();
        }
    }

    /// Try those again that wait for room, in their order.
    fn try_parked(&mut self, turn: &Turn<'_>, link: &mut Link, ending: bool) {
        if link.parked.is_empty() {
            return;
        }
        let (now, mut blocked) = (Instant::now(), Blocked::default());
        for _ in 0..link.parked.len() {
            let mut one = link.parked.pop_front().expect("there are so many");
            link.parked_bytes -= one.request.len();
            if self.still_waits(turn, link, &mut one, &blocked, (now, ending)) {
                blocked.add(one.about);
                link.parked_bytes += one.request.len();
                link.parked.push_back(one);
            }
        }
        link.blocked = blocked;
    }

    /// Try one of those, unless it is behind another one.
    fn still_waits(
        &mut self,
        turn: &Turn<'_>,
        link: &mut Link,
        one: &mut Parked,
        blocked: &Blocked,
        (now, ending): (Instant, bool),
    ) -> bool {
        let waited = now.saturating_duration_since(one.since);
        let is_over = ending || waited >= one.within;
        // A flush_all may be done in some shards.
        if is_over && (one.resume.is_none() || one.about != About::All) {
            let why = if ending { "this server is ending" } else { "there was no room for it in time" };
            link.answer(one.tag, Fate::Refused, why.as_bytes());
            return false;
        }
        if blocked.has(one.about) || !link.takes_answers() {
            return true;
        }
        let (engine, mut scratch) = (&self.shared.engine, [0; KEY_BYTES_MAX]);
        let Parked { resume, .. } = *one;
        let asked = one.asked();
        let Parsed::Request(request, _) = asked.protocol.parse(asked.request, engine.parse_limits(), &mut scratch)
        else {
            unreachable!("it was one when it came")
        };
        let last_try = is_over || waited >= Duration::from_millis(PARK_MILLISECONDS_MAX);
        let (target, within) = (engine.target(&request), one.within.saturating_sub(waited));
        let trial = Trial { request: &request, target, resume, last_try };
        let mut output = self.buffers.take_output();
        let again = self.attempt(turn, link, &trial, (asked.tag, within), &mut output);
        self.buffers.give_output(output);
        one.resume = again.or(resume);
        again.is_some()
    }

    /// Try a request of this tag, by way of an empty output, and answer it, or hold its answer for
    /// `within` at most. Some where there is no room: the offset to go on from.
    fn attempt(
        &mut self,
        turn: &Turn<'_>,
        link: &mut Link,
        trial: &Trial<'_>,
        (tag, within): (u32, Duration),
        output: &mut Box<Output>,
    ) -> Option<u32> {
        let mut parked = None;
        match self.execute_for(turn, link.pipe.descriptor(), trial, output) {
            Tried::Done if output.is_holding() => {
                output.hold_within(within);
                output.detach(self.shared.engine.store(), turn);
                link.hold(tag, std::mem::replace(output, self.buffers.take_output()));
            }
            Tried::Done => self.answer_with(turn, link, tag, output),
            Tried::NoRoom(offset) => parked = Some(offset),
            Tried::Elsewhere(closed) => self.give_back(link, tag, closed),
        }
        if !output.is_empty() {
            // What has been begun of it is not the next one's.
            *output = self.buffers.take_output();
        }
        parked
    }

    /// Execute a forwarded request, whole or not at all. It has come by the link with this
    /// descriptor; -1 where it has come back.
    pub(in crate::server) fn execute_for(
        &mut self,
        turn: &Turn<'_>,
        descriptor: RawFd,
        trial: &Trial<'_>,
        output: &mut Output,
    ) -> Tried {
        let Service { shared, stats, buffers, now, keys_per_turn, .. } = self;
        let engine = &shared.engine;
        // Reads as well: what is here may be old.
        if let Some(place) = trial.target.place().filter(|place| !engine.store().takes_writes(*place)) {
            return Tried::Elsewhere(Closed { shard: place.shard() });
        }
        let client = Forwarder(descriptor);
        let (host, scratch, keys_left) = (&shared.registry, &mut buffers.scratch, *keys_per_turn);
        let mut context = Context { turn, now: *now, stats, scratch, keys_left, host, client: &client };
        let Trial { resume, last_try, .. } = *trial;
        let mut attempt = Attempt { resume: resume.unwrap_or(0), retried: resume.is_some(), last_try };
        loop {
            match engine.execute(&mut context, trial.request, trial.target, attempt, output) {
                // A value that fills an output by itself: what ends the answer is missing.
                Outcome::Resume(offset) => attempt.resume = offset,
                Outcome::Park(offset) => return Tried::NoRoom(offset),
                Outcome::Elsewhere(closed) => return Tried::Elsewhere(closed),
                _ => break,
            }
        }
        if output.is_in_parts() {
            output.end_parts(output.last_line());
        }
        Tried::Done
    }

    /// Answer those that replicas have, or that have waited long enough.
    fn answer_held(&mut self, turn: &Turn<'_>, link: &mut Link) {
        let mut at = 0;
        while at < link.held.len() && link.takes_answers() {
            self.resolve(&mut link.held[at].output);
            if link.held[at].output.is_holding() {
                at += 1;
                continue;
            }
            let Held { tag, mut output, bytes } = link.held.swap_remove(at);
            link.held_bytes -= bytes;
            self.answer_with(turn, link, tag, &mut output);
            self.buffers.give_output(output);
        }
    }

    fn answer_with(&self, turn: &Turn<'_>, link: &mut Link, tag: u32, output: &mut Output) {
        let store = self.shared.engine.store();
        encode_answer(link.pipe.outgoing.buffer(), tag, Fate::Done, |out| output.take_bytes(store, turn, out));
    }

    /// Answer who takes the shard's writes, where that is an address.
    fn give_back(&self, link: &mut Link, tag: u32, closed: Closed) {
        self.stats.forwarded_in_not_mine.increment();
        let primary = self.shared.engine.store().primary_of(closed);
        let address = primary.filter(|primary| primary.clients.parse::<SocketAddr>().is_ok());
        link.answer(tag, Fate::NotMine, address.as_ref().map_or("", |primary| &primary.clients).as_bytes());
    }

    /// What the turn has written is published before a byte leaves: an answer may be to that.
    fn send_answers(&self, turn: &Turn<'_>, link: &mut Link) -> io::Result<()> {
        if !link.pipe.has_unsent() {
            return Ok(());
        }
        turn.publish();
        let sent = link.pipe.send()?;
        self.stats.write_calls.increment();
        self.stats.bytes_written.add(sent as u64);
        if sent > 0 {
            link.moved_at = self.steady_now;
        }
        Ok(())
    }

    fn charge_link(&self, link: &mut Link) {
        let (input, output) = (link.input_bytes(), link.output_bytes());
        let before = std::mem::replace(&mut link.charged, (input, output));
        for (budget, bytes, before) in
            [(&self.shared.input_budget, input, before.0), (&self.shared.output_budget, output, before.1)]
        {
            if bytes != before {
                budget.take(bytes);
                budget.give(before);
            }
        }
    }

    /// Give back what a link holds, before it is dropped.
    pub(super) fn reclaim_link(&mut self, link: &mut Link) {
        for mut held in std::mem::take(&mut link.held) {
            self.abandon(&mut held.output);
        }
        let (input, output) = std::mem::take(&mut link.charged);
        self.shared.input_budget.give(input);
        self.shared.output_budget.give(output);
    }
}

/// Whole frames, before the first of them is begun.
type Frames<'f> = ArrayVec<Asked<'f>, BATCH_REQUESTS_MAX>;

/// What stands behind a batch of frames.
enum Then {
    /// Perhaps more of them, or nothing.
    More,
    /// The start of one.
    Incomplete,
    /// One that is too large: see [`Framed`].
    TooLarge { tag: u32, frame_bytes: usize },
    /// No frame.
    Broken(FrameError),
}

/// The whole frames at the start of `input`, as many as are a batch.
fn gather(input: &[u8], request_bytes_max: usize) -> (Frames<'_>, Then) {
    let (mut frames, mut rest) = (Frames::new(), input);
    while !frames.is_full() {
        let then = match Asked::decode(rest, request_bytes_max) {
            Ok(Framed::Whole(asked, bytes)) => {
                frames.push(asked);
                rest = &rest[bytes..];
                continue;
            }
            Ok(Framed::Incomplete { .. }) => Then::Incomplete,
            Ok(Framed::TooLarge { tag, frame_bytes }) => Then::TooLarge { tag, frame_bytes },
            Err(error) => Then::Broken(error),
        };
        return (frames, then);
    }
    (frames, Then::More)
}

/// What is in a frame.
enum Content<'f> {
    /// This, and where its key belongs.
    Request(Request<'f>, Target<'f>),
    /// Nothing that is done, and why.
    Refused(&'static [u8]),
}

impl<'f> Content<'f> {
    /// Inlined: what it returns is large, and goes straight into a batch.
    #[inline(always)]
    fn of(engine: &Engine, asked: &Asked<'f>, scratch: &'f mut KeyScratch) -> Result<Content<'f>, Broken> {
        let request = match asked.protocol.parse(asked.request, engine.parse_limits(), scratch) {
            Parsed::Request(request, bytes) if bytes == asked.request.len() => request,
            Parsed::Request(..) | Parsed::Incomplete { .. } => return Err(Broken::NotOne),
            // The forwarder takes it for a request: its limits are others, or its version is.
            Parsed::Rejected(rejection) => return Ok(Content::Refused(rejection.refusal.words())),
        };
        if !is_forwardable(&request) {
            return Ok(Content::Refused(b"such a request is not forwarded"));
        }
        let target = engine.target(&request);
        Ok(Content::Request(request, target))
    }

    fn place(&self) -> Option<Place> {
        if let Content::Request(_, target) = self { target.place() } else { None }
    }
}

fn about(target: Target<'_>) -> About {
    target.place().map_or(About::All, |place| About::Shard(place.shard()))
}
