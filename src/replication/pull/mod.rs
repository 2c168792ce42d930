//! The pull loop: look at the primary's control lines, READ what was committed, look again, apply.
//! A puller does this for its share of the shards, over a data channel of its own.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`awake`] | which of the shards have something to do |
//! | [`lane`] | one shard: pieces of its log on their way, in order, and what follows from a look |
//! | [`cells`] | where the shard's slabs are in the primary's pool |
//! | [`mod@line`] | what a control line shows, held against what it showed before |
//! | [`piece`] | a part of a log on its way, and the looks that vouch for it |
//! | [`carry`] | a record cut by a piece's end |
//! | [`counts`] | what was counted |
//! | [`error`] | why pulling ended |
//! | [`sizer`] | how long a piece is |
//!
//! A round is one batch of READs: pieces of several logs, then their control lines, the look.
//! (Where a slab is in the primary's pool is read before its first piece.) A look that was
//! submitted after a piece had arrived says which of its bytes may have been overwritten while
//! they were read: those below the tail that it shows are not used, those above it were not. The
//! look of the piece's own round says the same where the piece lies far above the tail. Each
//! record must still prove itself by its checksum. Two rounds may be under way: while one is
//! applied, the next is being read.
//!
//! [`Puller::step`] never waits longer than it is told, and takes the time only from its clock
//! ([`Puller::set_clock`]). So with the simulated fabric a run depends on its seed alone.

mod awake;
mod carry;
mod cells;
mod counts;
mod error;
mod lane;
mod line;
mod piece;
mod sizer;

use super::ack::{Acks, Summary};
use super::regions::LINES;
use crate::base::term::Term;
use crate::fabric::{Channel, Completion, DEPTH_MAX, FabricError, Landing, Read};
use crate::store::line::CONTROL_LINE_BYTES;
use crate::store::pool::SLAB_BYTES_MAX;
use crate::store::{Memory, Store, TermStart};
use awake::Awake;
pub use counts::Counts;
pub use error::PullError;
use lane::Lane;
use piece::Look;
use sizer::{Sizer, UNASKED_PART_MAX};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Bytes of a landing for pieces: a slab, in which a piece always lies.
const LANDING_BYTES: usize = SLAB_BYTES_MAX;
/// Rounds under way at a time.
const ROUNDS_MAX: usize = 2;
/// The tag of a look; pieces and cells have shard and number.
const LOOK: u64 = 1 << 63;
/// Tells a READ of cells from one of a piece.
const CELLS: u64 = 1 << 62;
/// After so many looks in a row at which a control line made no sense, the session ends. (A line
/// may be read while it changes.)
const SENSELESS_LOOKS_MAX: u32 = 1000;
/// After a record at one position has failed its check so often, with the tail still below it, the
/// session ends.
const BAD_RECORDS_MAX: u32 = 3;

/// How far behind a replica is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lag {
    /// Committed at the last look, and not applied.
    pub bytes: u64,
    /// How long this replica has been behind; zero once it has applied all that the last look
    /// showed.
    pub time: Duration,
}

impl Lag {
    /// Of two pullers of one replica together.
    #[must_use]
    pub fn with(self, other: Lag) -> Lag {
        Lag { bytes: self.bytes + other.bytes, time: self.time.max(other.time) }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Something was applied, or more is known to be there.
    pub moved: bool,
    /// Something was applied.
    pub applied: bool,
}

/// What the looks are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To see whether the primary shows a log in every shard of the share. Nothing changes here
    /// meanwhile.
    SeeksLog,
    /// It does: [`Puller::discard`] may be called.
    SeesLog,
    /// To pull.
    Pulls,
}

/// One round: the READs that one doorbell started, lines last.
struct Round {
    number: u64,
    submitted_at: Instant,
    bytes: usize,
}

/// See the module.
pub struct Puller<'s> {
    channel: Box<dyn Channel>,
    /// The first shard of the share.
    first: usize,
    /// One for each shard of the share.
    lanes: Vec<Lane<'s>>,
    term: Term,
    purpose: Purpose,
    acks: Acks,
    sizer: Sizer,
    /// Landings for pieces, and for control lines, that no READ has.
    free: Vec<Landing>,
    free_lines: Vec<Landing>,
    rounds: Vec<Round>,
    rounds_begun: u64,
    /// The latest round whose look has arrived.
    looked_at: u64,
    under_way: usize,
    awake: Awake,
    batch: Vec<Read>,
    done: Vec<Completion>,
    counts: Counts,
    heard_at: Instant,
    /// When the channel was last asked for what has arrived.
    asked_at: Instant,
    /// Since when it has been behind.
    behind_since: Option<Instant>,
    silence_max: Duration,
    clock: fn() -> Instant,
}

impl<'s> Puller<'s> {
    /// Follow in the shards of `share` over `channel`. `memory` and `history` are the primary's;
    /// `known` has for each shard of the store the term of the last that was applied, None where
    /// there is nothing to go on from. READs that are not answered for `silence_max` end it.
    /// Another puller of the same store has other shards.
    pub fn new(
        mut channel: Box<dyn Channel>,
        store: &'s Store,
        share: Range<usize>,
        memory: Memory,
        history: &[TermStart],
        known: &[Option<Term>],
        silence_max: Duration,
    ) -> Result<Puller<'s>, FabricError> {
        let geometry = store.geometry();
        let follower = |shard| store.follower(shard).expect("whoever holds the store lets nobody else follow");
        let followers: Vec<_> = share.clone().map(follower).collect();
        let lines_bytes = (followers.len() * CONTROL_LINE_BYTES).next_multiple_of(4096);
        let depth = channel.depth_max().min(DEPTH_MAX);
        let pieces = depth.saturating_sub(ROUNDS_MAX).max(1);
        let landing_bytes = LANDING_BYTES.min((geometry.slab_bytes as usize).next_multiple_of(4096));
        let free = (0..pieces).map(|_| channel.landing(landing_bytes)).collect::<Result<_, _>>()?;
        // A queue that takes one READ at a time has one round under way, of pieces or of lines.
        let looks = ROUNDS_MAX.min(depth);
        let free_lines = (0..looks).map(|_| channel.landing(lines_bytes)).collect::<Result<_, _>>()?;
        let lane = |(shard, follower)| Lane::new(shard, follower, &geometry, memory, known[shard], history);
        Ok(Puller {
            acks: Acks::new(followers.len()),
            awake: Awake::new(followers.len()),
            first: share.start,
            lanes: share.zip(followers).map(lane).collect(),
            channel,
            purpose: Purpose::Pulls,
            term: history.last().expect("a history has a term").term,
            sizer: Sizer::new(landing_bytes, pieces),
            free,
            free_lines,
            rounds: Vec::new(),
            rounds_begun: 0,
            looked_at: 0,
            under_way: 0,
            batch: Vec::new(),
            done: Vec::new(),
            counts: Counts::default(),
            heard_at: Instant::now(),
            asked_at: Instant::now(),
            behind_since: None,
            silence_max,
            clock: Instant::now,
        })
    }

    /// Go by another clock than the system's from now on: with the simulated fabric a run is then a
    /// function of its seed.
    pub fn set_clock(&mut self, clock: fn() -> Instant) {
        self.clock = clock;
        self.heard_at = clock();
        self.asked_at = self.heard_at;
    }

    /// What is here is of another lineage, and is to be given up. Keep it until the primary has
    /// shown a log in every shard of the store: it may be gone before. Called before the first
    /// step.
    pub fn keep_what_is_here(&mut self) {
        self.purpose = Purpose::SeeksLog;
    }

    /// Whether it is time for [`Puller::discard`], as far as this share is concerned: all pullers
    /// of the store do it together.
    pub fn may_discard(&self) -> bool {
        self.purpose == Purpose::SeesLog
    }

    /// Whether [`Puller::discard`] is to come.
    pub fn keeps_what_is_here(&self) -> bool {
        self.purpose != Purpose::Pulls
    }

    /// Give up what is here, in every shard of the share at once, and pull from now on.
    pub fn discard(&mut self) {
        self.purpose = Purpose::Pulls;
        let Puller { lanes, counts, awake, .. } = self;
        awake.wake_all();
        lanes.iter_mut().for_each(|lane| lane.discard(counts));
    }

    /// The others are caught up.
    fn lanes_awake(&self) -> impl Iterator<Item = &Lane<'s>> {
        self.awake.lanes().iter().map(|lane| &self.lanes[*lane])
    }

    fn since(&self, earlier: Instant) -> Duration {
        (self.clock)().saturating_duration_since(earlier)
    }

    /// For each shard of the share what a later puller can go on from.
    pub fn known(&self) -> Vec<Option<Term>> {
        self.lanes.iter().map(Lane::known).collect()
    }

    /// The primary's latest term, by its history.
    pub fn term(&self) -> Term {
        self.term
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How far behind.
    pub fn lag(&self) -> Lag {
        Lag {
            bytes: self.lanes_awake().map(Lane::lag_bytes).sum(),
            time: self.behind_since.map_or(Duration::ZERO, |since| self.since(since)),
        }
    }

    /// Every shard follows, and has applied all that the last look showed.
    pub fn is_caught_up(&self) -> bool {
        self.lanes_awake().all(Lane::is_caught_up)
    }

    /// One step: start a round if there is room for one, take what has arrived (waiting up to
    /// `wait` if nothing has), apply what may be applied, tell the primary.
    pub fn step(&mut self, wait: Duration) -> Result<Step, PullError> {
        let began_at = (self.clock)();
        self.begin_round()?;
        self.collect(began_at, wait)?;
        let applied = self.apply()?;
        if applied || self.acks.is_owed() {
            self.acknowledge()?;
        }
        let Puller { lanes, awake, .. } = self;
        let mut more = false;
        awake.retain(|shard| {
            let lane = &lanes[shard];
            let has_more = lane.has_more();
            more |= has_more;
            has_more || !lane.is_settled()
        });
        Ok(Step { moved: applied || more, applied })
    }

    /// Tell the primary where this replica stands; once a second also where nothing moves.
    pub fn acknowledge(&mut self) -> Result<(), FabricError> {
        let lag = self.lag();
        let counts = self.counts;
        let summary = Summary {
            lag_bytes: lag.bytes,
            lag_microseconds: lag.time.as_micros() as u64,
            pulled_bytes: counts.pulled_bytes,
            records: counts.records,
            begun_anew: counts.overrun + counts.diverged,
            bad_records: counts.bad_records,
            ..Summary::default()
        };
        let applied = self.lanes.iter().map(Lane::applied);
        self.acks.write(&mut *self.channel, self.term, applied, summary)
    }

    fn begin_round(&mut self) -> Result<(), PullError> {
        if self.rounds.len() >= ROUNDS_MAX || self.free_lines.is_empty() {
            return Ok(());
        }
        let number = self.rounds_begun + 1;
        let mut bytes = 0;
        let depth = self.channel.depth_max().min(DEPTH_MAX);
        for step in 0..self.awake.count() {
            let at = self.awake.nth(step);
            // One place in the queue is for the lines of this round.
            while bytes < self.sizer.round_bytes() && self.under_way + self.batch.len() + 1 < depth.max(2) {
                let Some(landing) = self.free.pop() else { break };
                match self.lanes[at].plan(landing, self.sizer.piece_bytes(), number) {
                    Ok(read) => {
                        if read.tag & CELLS == 0 {
                            bytes += read.bytes;
                            self.counts.pieces += 1;
                        }
                        self.batch.push(read);
                    }
                    Err(landing) => {
                        self.free.push(landing);
                        break;
                    }
                }
            }
        }
        // A second round under way brings pieces, or a look that pieces wait for: another one would
        // show nothing that the first does not.
        let begun = self.rounds_begun;
        let is_needed = bytes > 0 || self.rounds.is_empty() || self.lanes_awake().any(|lane| lane.awaits_look(begun));
        if !is_needed || self.under_way + self.batch.len() + 1 > depth {
            return self.submit(None, bytes);
        }
        self.awake.turn();
        let landing = self.free_lines.pop().expect("looked at above");
        let lines_bytes = self.lanes.len() * CONTROL_LINE_BYTES;
        let offset = (self.first * CONTROL_LINE_BYTES) as u64;
        self.batch.push(Read { region: LINES, offset, bytes: lines_bytes, landing, tag: LOOK | number });
        self.submit(Some(number), bytes)
    }

    fn submit(&mut self, round: Option<u64>, bytes: usize) -> Result<(), PullError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let now = (self.clock)();
        if self.under_way == 0 {
            self.heard_at = now;
        }
        self.under_way += self.batch.len();
        self.counts.pulled_bytes += bytes as u64;
        if let Some(number) = round {
            self.rounds_begun = number;
            self.rounds.push(Round { number, submitted_at: now, bytes });
        }
        self.channel.submit(&mut self.batch)?;
        Ok(())
    }

    /// `began_at` is when this step began.
    fn collect(&mut self, began_at: Instant, wait: Duration) -> Result<(), PullError> {
        let mut done = std::mem::take(&mut self.done);
        let polled_at = (self.clock)();
        let outcome = self.channel.poll(&mut done, wait);
        let now = (self.clock)();
        // What has come lies here since the channel was last asked, at the longest; if it was
        // waited for, it came only now.
        let waited = now.saturating_duration_since(polled_at);
        let came_now = waited * UNASKED_PART_MAX > began_at.saturating_duration_since(self.asked_at);
        let unasked = if came_now { began_at..began_at } else { self.asked_at..began_at };
        self.asked_at = now;
        if !done.is_empty() {
            self.heard_at = now;
        }
        let begun = self.rounds_begun;
        for completion in done.drain(..) {
            self.under_way -= 1;
            completion.outcome?;
            if completion.tag & LOOK == 0 {
                let shard = ((completion.tag & !CELLS) >> 32) as usize - self.first;
                let number = completion.tag as u32;
                if completion.tag & CELLS != 0 {
                    let landing = self.lanes[shard].cells_arrived(number, completion.landing)?;
                    self.free.push(landing);
                } else if let Some(unwanted) = self.lanes[shard].arrived(number, completion.landing, begun) {
                    self.free.push(unwanted);
                }
            } else {
                self.looked(completion.tag & !LOOK, completion.landing, &unasked)?;
            }
        }
        self.done = done;
        outcome?;
        let silence = now.saturating_duration_since(self.heard_at);
        if self.under_way > 0 && silence > self.silence_max {
            return Err(PullError::Stuck(self.under_way, silence));
        }
        Ok(())
    }

    /// The lines of a round have arrived, and so have all of its pieces, or will at once. They may
    /// have been here while the channel was `unasked`.
    fn looked(&mut self, number: u64, landing: Landing, unasked: &Range<Instant>) -> Result<(), PullError> {
        self.counts.looks += 1;
        let at = self.rounds.iter().position(|round| round.number == number).expect("a look is of a round");
        let round = self.rounds.remove(at);
        let now = (self.clock)();
        let unasked = unasked.end.saturating_duration_since(unasked.start.max(round.submitted_at));
        self.sizer.observe(round.bytes, now.saturating_duration_since(round.submitted_at), unasked);
        if number < self.looked_at {
            // Overtaken: a later look has shown more already.
            self.free_lines.push(landing);
            return Ok(());
        }
        self.looked_at = number;
        let words = landing.words(self.lanes.len() * CONTROL_LINE_BYTES);
        let mut lines = words.chunks_exact(CONTROL_LINE_BYTES / 8);
        let look = Look { round: number, begun: self.rounds_begun, at: now };
        if self.purpose != Purpose::Pulls {
            let mut shows_all = true;
            for (lane, line) in self.lanes.iter_mut().zip(&mut lines) {
                shows_all &= lane.shows_log(look, line)?;
            }
            self.purpose = if shows_all { Purpose::SeesLog } else { Purpose::SeeksLog };
            self.free_lines.push(landing);
            return Ok(());
        }
        let mut behind = false;
        for (shard, line) in lines.enumerate() {
            if !self.awake.looked(shard, line) {
                continue;
            }
            let lane = &mut self.lanes[shard];
            lane.look(look, line, &mut self.counts)?;
            behind |= !lane.is_caught_up();
            let silence = lane.overtaken_at().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            if silence > self.silence_max {
                return Err(PullError::Stuck(self.under_way, silence));
            }
        }
        self.free_lines.push(landing);
        if behind && self.behind_since.is_none() {
            self.behind_since = Some(round.submitted_at);
        }
        Ok(())
    }

    /// Apply what has arrived and been looked at; true if anything was.
    fn apply(&mut self) -> Result<bool, PullError> {
        let mut applied = false;
        for shard in self.awake.lanes() {
            let lane = &mut self.lanes[*shard];
            applied |= lane.apply(&mut self.free, &mut self.counts)?;
        }
        if self.behind_since.is_some() && self.is_caught_up() {
            self.behind_since = None;
        }
        Ok(applied)
    }
}
