//! The pull loop: look at the primary's control lines, READ what was committed, look again, apply.
//! A puller does this for the shards of its share in which it has a lane, over a data channel of
//! its own. Lanes come and go between its steps, while the others go on.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`awake`] | which of the shards have something to do |
//! | `rounds` | a round is planned and submitted |
//! | [`lanes`] | the lanes of a puller, by shard |
//! | [`lane`] | one shard: pieces of its log on their way, in order, and what follows from a look |
//! | [`cells`] | where the shard's slabs are in the primary's pool |
//! | [`mod@line`] | what a control line shows, held against what it showed before |
//! | [`piece`] | a part of a log on its way, and the looks that vouch for it |
//! | [`beats`] | since when the server that takes writes was not seen to live |
//! | [`freshness`] | up to when all that it had is here |
//! | [`carry`] | a record cut by a piece's end |
//! | [`counts`] | what was counted |
//! | [`error`] | why pulling ended, of one lane or of all |
//! | [`under_way`] | which READs have not come back |
//! | [`landings`] | where they put their bytes |
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
mod beats;
mod carry;
mod cells;
mod counts;
mod error;
mod freshness;
mod landings;
mod lane;
mod lanes;
mod line;
mod piece;
mod rounds;
mod sizer;
mod under_way;

use super::ack::{Acks, SUMMARY_PAUSE, Summary, Tag};
use super::copying::CopyBound;
use crate::fabric::{Channel, Completion, DEPTH_MAX, FabricError, Landing, Read};
use crate::store::line::{BEAT, CONTROL_LINE_BYTES};
use crate::store::pool::SLAB_BYTES_MAX;
use crate::store::{Follower, Geometry, History, Memory};
use crate::sys::sync::{AtomicU64, Ordering::Relaxed};
use awake::Awake;
use beats::Beats;
pub use beats::Sign;
pub use counts::Counts;
pub use error::{LaneEnd, PullError};
use landings::Landings;
use lane::Lane;
use lanes::Lanes;
use piece::Look;
use rounds::Round;
use sizer::{Sizer, UNASKED_PART_MAX};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use under_way::{Of, UnderWay};

/// Bytes of a landing for pieces: a slab, in which a piece always lies.
const LANDING_BYTES: usize = SLAB_BYTES_MAX;
/// Rounds under way at a time.
const ROUNDS_MAX: usize = 2;
/// After so many looks in a row at which a control line made no sense, the lane ends. (A line may
/// be read while it changes.)
const SENSELESS_LOOKS_MAX: u32 = 1000;
/// After a record at one position has failed its check so often, with the tail still below it, the
/// lane ends.
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

/// See the module.
pub struct Puller<'s> {
    channel: Box<dyn Channel>,
    geometry: Geometry,
    /// The primary's.
    memory: Memory,
    /// In which shards it may have lanes.
    share: Range<usize>,
    lanes: Lanes<'s>,
    /// The lanes that have ended and are still here, and why.
    ended: Vec<(usize, LaneEnd)>,
    acks: Acks,
    /// When the primary was last told the figures, and whether they have changed since.
    summarized_at: Option<Instant>,
    has_news: bool,
    sizer: Sizer,
    /// For pieces and cells, and for control lines.
    landings: Landings,
    line_landings: Landings,
    rounds: Vec<Round>,
    rounds_begun: u64,
    /// The latest round whose look has arrived.
    looked_at: u64,
    /// When that one was begun, by [`crate::base::time::boot_milliseconds`].
    shown_of: Option<u64>,
    /// A look shows the primary's memory, and not what it has pushed at some time.
    looks_there: bool,
    under_way: UnderWay,
    awake: Awake,
    beats: Beats,
    batch: Vec<Read>,
    done: Vec<Completion>,
    counts: Counts,
    heard_at: Instant,
    /// When the channel was last asked for what has arrived.
    asked_at: Instant,
    /// Since when it has been behind.
    behind_since: Option<Instant>,
    silence_max: Duration,
    /// How fast it brings what is not whole here.
    copy_bound: Arc<CopyBound>,
    gives_up: bool,
    clock: fn() -> Instant,
}

impl<'s> Puller<'s> {
    /// One that may follow in the shards of `share` over `channel`; it has no lanes yet. The
    /// geometry is the store's and the primary's, `memory` is the primary's. READs that are not
    /// answered for `silence_max` end it. Another puller of the same store has another share.
    pub fn new(
        channel: Box<dyn Channel>,
        geometry: Geometry,
        share: Range<usize>,
        memory: Memory,
        silence_max: Duration,
    ) -> Puller<'s> {
        let lines_bytes = (share.len() * CONTROL_LINE_BYTES).next_multiple_of(4096);
        let depth = channel.depth_max().min(DEPTH_MAX);
        let pieces = depth.saturating_sub(ROUNDS_MAX).max(1);
        let landing_bytes = LANDING_BYTES.min((geometry.slab_bytes as usize).next_multiple_of(4096));
        // A queue that takes one READ at a time has one round under way, of pieces or of lines.
        let looks = ROUNDS_MAX.min(depth);
        Puller {
            acks: Acks::new(share.clone()),
            summarized_at: None,
            has_news: false,
            awake: Awake::new(share.end),
            beats: Beats::new(share.end),
            lanes: Lanes::new(share.end),
            ended: Vec::new(),
            geometry,
            memory,
            share,
            channel,
            sizer: Sizer::new(landing_bytes, pieces),
            landings: Landings::new(landing_bytes, pieces),
            line_landings: Landings::new(lines_bytes, looks),
            rounds: Vec::new(),
            rounds_begun: 0,
            looked_at: 0,
            shown_of: None,
            looks_there: true,
            under_way: UnderWay::default(),
            batch: Vec::new(),
            done: Vec::new(),
            counts: Counts::default(),
            heard_at: Instant::now(),
            asked_at: Instant::now(),
            behind_since: None,
            silence_max,
            copy_bound: Arc::default(),
            gives_up: true,
            clock: Instant::now,
        }
    }

    /// Lanes that come from now on give up nothing that is here: one that would have to ends.
    pub fn give_up_nothing(&mut self) {
        self.gives_up = false;
    }

    /// The primary pushes: what a look shows may be older than the look.
    pub fn look_at_what_was_pushed(&mut self) {
        self.looks_there = false;
    }

    /// Follow in a shard of the share, which has no lane, from the next step on. `theirs` is the
    /// history of the primary's log, `tag` that of the subscription to it. Where that log is of
    /// another lineage, what is here is given up once the primary shows it.
    pub fn add(&mut self, shard: usize, follower: Follower<'s>, theirs: History, tag: Tag) {
        assert!(self.share.contains(&shard), "shard {shard} is of another puller's share");
        let mut lane = Lane::new(shard, follower, &self.geometry, self.memory, (theirs, tag));
        if !self.gives_up {
            lane.give_up_nothing();
        }
        self.beats.forget(shard);
        self.lanes.add(shard, lane, self.rounds_begun + 1);
        self.awake.add(shard);
    }

    /// Follow in this shard no more, whether its lane has ended or not; its follower is dropped.
    /// READs of it that are under way belong to nobody from now on.
    pub fn drop_lane(&mut self, shard: usize) {
        let Some(mut lane) = self.lanes.remove(shard) else { return };
        self.awake.remove(shard);
        self.ended.retain(|(ended, _)| *ended != shard);
        self.acks.owe();
        lane.stop(&mut self.landings.free);
    }

    /// A lane has ended: it does nothing from now on, and stays until it is dropped.
    fn end_lane(&mut self, shard: usize, why: LaneEnd) {
        let lane = self.lanes.live(shard).expect("a lane ends once");
        lane.stop(&mut self.landings.free);
        self.lanes.end(shard);
        self.awake.remove(shard);
        self.ended.push((shard, why));
    }

    /// The shards whose lanes have ended and are still here, and why.
    pub fn ended(&self) -> &[(usize, LaneEnd)] {
        &self.ended
    }

    /// Bring what is not whole here as fast as this says; otherwise as fast as it goes.
    pub fn set_copy_bound(&mut self, bound: Arc<CopyBound>) {
        self.copy_bound = bound;
    }

    /// Go by another clock than the system's from now on: with the simulated fabric a run is then a
    /// function of its seed.
    pub fn set_clock(&mut self, clock: fn() -> Instant) {
        self.clock = clock;
        self.heard_at = clock();
        self.asked_at = self.heard_at;
    }

    /// The others are caught up.
    fn lanes_awake(&self) -> impl Iterator<Item = &Lane<'s>> {
        self.awake.lanes().iter().map(|lane| &self.lanes[*lane])
    }

    fn since(&self, earlier: Instant) -> Duration {
        (self.clock)().saturating_duration_since(earlier)
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

    /// Whether it follows in any shard.
    pub fn has_lanes(&self) -> bool {
        !self.lanes.span().is_empty()
    }

    /// When the server that takes writes was last seen to live.
    pub fn sign(&self) -> Sign {
        self.beats.sign()
    }

    /// Every lane follows.
    pub fn follows(&self) -> bool {
        self.ended.is_empty() && self.lanes_awake().all(Lane::follows)
    }

    /// Every lane follows, and has applied all that the last look showed.
    pub fn is_caught_up(&self) -> bool {
        self.ended.is_empty() && self.lanes_awake().all(Lane::is_caught_up)
    }

    /// One step: start a round if there is room for one, take what has arrived (waiting up to
    /// `wait` if nothing has), apply what may be applied, tell the primary. An error ends the
    /// puller; what ends one lane alone is told by [`Puller::ended`].
    pub fn step(&mut self, wait: Duration) -> Result<Step, PullError> {
        let began_at = (self.clock)();
        self.begin_round()?;
        self.collect(began_at, wait)?;
        let applied = self.apply();
        if applied || self.acks.is_owed() || self.lanes_awake().any(Lane::has_news) {
            self.acknowledge()?;
            self.has_news = true;
        }
        let is_due = |at| began_at.saturating_duration_since(at) >= SUMMARY_PAUSE;
        if self.has_news && self.summarized_at.is_none_or(is_due) {
            self.summarize()?;
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

    /// Tell the primary where this replica stands.
    fn acknowledge(&mut self) -> Result<(), FabricError> {
        let Puller { lanes, share, .. } = self;
        let words = share.clone().map(|shard| lanes.get_mut(shard).map_or(0, Lane::tell));
        self.acks.write(&mut *self.channel, words)
    }

    /// Tell the primary the figures; once a second also where nothing moves.
    pub fn summarize(&mut self) -> Result<(), FabricError> {
        (self.summarized_at, self.has_news) = (Some((self.clock)()), false);
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
        self.has_news |= !self.acks.summarize(&mut *self.channel, summary)?;
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
        for completion in done.drain(..) {
            let of = self.under_way.came_back(completion.tag);
            completion.outcome?;
            self.take(completion.tag, of, completion.landing, &unasked)?;
        }
        self.done = done;
        outcome?;
        let silence = now.saturating_duration_since(self.heard_at);
        if self.under_way.count() > 0 && silence > self.silence_max {
            return Err(PullError::Stuck(self.under_way.count(), silence));
        }
        Ok(())
    }

    /// A READ has come back. What is of a lane that is gone is nobody's.
    fn take(&mut self, number: u64, of: Of, landing: Landing, unasked: &Range<Instant>) -> Result<(), PullError> {
        let begun = self.rounds_begun;
        match of {
            Of::Look(round) => return self.looked(round, landing, unasked),
            Of::Piece(shard) => {
                let unwanted = match self.lanes.live(shard) {
                    Some(lane) => lane.arrived(number, landing, begun),
                    None => Some(landing),
                };
                self.landings.free.extend(unwanted);
            }
            Of::Cells(shard) => {
                let learnt = self.lanes.live(shard).map_or(Ok(()), |lane| lane.cells_arrived(number, &landing));
                self.landings.free.push(landing);
                learnt.unwrap_or_else(|why| self.end_lane(shard, why));
            }
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
        self.under_way.looked(number, now);
        let silence = self.under_way.overdue_since().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if silence > self.silence_max {
            return Err(PullError::Stuck(self.under_way.count(), silence));
        }
        // One that is overtaken says nothing: a later look has shown more already.
        if number >= self.looked_at {
            self.looked_at = number;
            self.show(&round, landing.words(round.span.len() * CONTROL_LINE_BYTES));
        }
        self.line_landings.free.push(landing);
        Ok(())
    }

    /// Show each lane its line.
    fn show(&mut self, round: &Round, words: &[AtomicU64]) {
        let look = Look { round: round.number, begun: self.rounds_begun };
        let alive_since = self.shown_of.replace(round.submitted_milliseconds).filter(|_| self.looks_there);
        let lines = round.span.clone().zip(words.chunks_exact(CONTROL_LINE_BYTES / 8));
        let (mut behind, mut has_beaten) = (false, false);
        for (shard, line) in lines {
            let Some(lane) = self.lanes.shown(shard, round.number) else { continue };
            let beat = line[BEAT].load(Relaxed);
            let mut lives_since = None;
            if self.beats.looked(shard, beat, round.submitted_at) {
                lane.follow_beat(beat);
                has_beaten = true;
                lives_since = alive_since.filter(|_| self.beats.proves_life(shard));
            }
            if self.awake.looked(shard, line) {
                if let Err(why) = lane.look(look, line, &mut self.counts) {
                    self.end_lane(shard, why);
                    continue;
                }
                behind |= !lane.is_caught_up();
            }
            if let Some(at) = lives_since {
                lane.note_life(line, at);
            }
        }
        if has_beaten {
            let Puller { beats, lanes, .. } = self;
            beats.sum_up(|shard| lanes.get(shard).is_some());
        }
        if behind && self.behind_since.is_none() {
            self.behind_since = Some(round.submitted_at);
        }
    }

    /// Apply what has arrived and been looked at; true if anything was.
    fn apply(&mut self) -> bool {
        let (mut applied, mut ending) = (false, Vec::new());
        for shard in self.awake.lanes() {
            match self.lanes[*shard].apply(&mut self.landings.free, &mut self.counts) {
                Ok(moved) => applied |= moved,
                // Some of it may have been applied before.
                Err(why) => ending.push((*shard, why)),
            }
        }
        applied |= !ending.is_empty();
        ending.into_iter().for_each(|(shard, why)| self.end_lane(shard, why));
        if self.behind_since.is_some() && self.lanes_awake().all(Lane::is_caught_up) {
            self.behind_since = None;
        }
        applied
    }
}
