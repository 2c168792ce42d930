//! One shard of a replica: what is read of its log, what of that may be used, and where the shard
//! begins anew.
//!
//! | file | what it is |
//! | --- | --- |
//! | `source` | where the bytes come from: pieces on their way, in order |
//! | `looks` | what follows from a look at the control line |
//! | `sink` | where the bytes go: to the store |
//!
//! Invariant: a piece is applied once it has arrived and a look vouches for it: one that was
//! submitted after it had arrived, or one submitted behind it whose line shows that it lies far
//! above the tail ([`super::piece`]). Bytes below that look's tail are not used.
//!
//! Nothing here depends on the order in which the bytes of one READ, or of two that are under way
//! together, were taken from the primary's memory. So a position that went back is believed once a
//! second look, submitted after the first had arrived, shows it as well.

mod looks;
mod sink;
mod source;

use super::freshness::Freshness;
use super::{BAD_RECORDS_MAX, Counts, LaneEnd};
use crate::fabric::{Landing, Read};
use crate::replication::ack::Tag;
use crate::replication::resume::{Line, Why, parted_at};
use crate::store::{BadRecord, Follower, Geometry, GoingBack, History, Memory, TermStart};
use sink::{Fed, Sink};
use source::Source;
pub use source::Start;

enum State {
    /// No look yet.
    New,
    /// Applying.
    Follows,
    /// Forgotten; to begin at the first position that can be believed, at or above `from`, the
    /// highest tail that was shown. (A piece may be vouched for before the one ahead of it. Its
    /// begin is within a record, as a rule.)
    Begins { from: u64 },
    /// It has diverged, and goes back to where the logs part, to go on from there.
    GoesBack,
}

/// See the module.
pub struct Lane<'s> {
    shard: usize,
    source: Source,
    sink: Sink<'s>,
    /// Length of the primary's slabs, and how many it has.
    slab_bytes: u64,
    slabs: u32,
    /// Of the primary's log, as it was told. The store's own is changed once this log is followed.
    theirs: History,
    /// Of the subscription to it.
    tag: Tag,
    state: State,
    /// It may begin anew where that gives up what is here.
    gives_up: bool,
    /// It has begun to follow since the last call of [`Lane::apply`].
    follows_anew: bool,
    line: Option<Line>,
    /// Until where the giver owes, by the last look that made sense.
    givers_owe: u64,
    /// The tail of the look before the last.
    earlier_tail: u64,
    /// Something was applied since the last look, which may judge it.
    unjudged: bool,
    /// The last position of a bad record, and how often in a row.
    bad: (u64, u32),
    /// Looks in a row that made no sense.
    senseless: u32,
    /// Looks in a row at which this shard could not have as much memory as the primary's.
    memory_missed: u32,
    /// A position went back at a look: the latest round that had begun when it arrived.
    doubt: Option<u64>,
    /// What the primary was told last.
    told: (u64, bool),
    /// It may not read now: a bound is reached.
    is_held_back: bool,
    freshness: Freshness,
}

impl<'s> Lane<'s> {
    /// For one shard. `theirs` is the history of the primary's log, and the tag that of the
    /// subscription to it.
    pub fn new(
        shard: usize,
        follower: Follower<'s>,
        geometry: &Geometry,
        memory: Memory,
        (theirs, tag): (History, Tag),
    ) -> Self {
        let mut follower = follower;
        follower.note_fresh(None);
        Lane {
            shard,
            source: Source::new(shard, geometry.slab_bytes, memory, follower.cursor()),
            sink: Sink::new(follower, geometry.evict),
            slab_bytes: geometry.slab_bytes,
            slabs: memory.slabs,
            theirs,
            tag,
            state: State::New,
            gives_up: true,
            follows_anew: false,
            line: None,
            givers_owe: 0,
            earlier_tail: 0,
            unjudged: false,
            bad: (0, 0),
            senseless: 0,
            memory_missed: 0,
            doubt: None,
            told: (0, false),
            is_held_back: false,
            freshness: Freshness::default(),
        }
    }

    /// From now on it ends rather than give up what is here.
    pub fn give_up_nothing(&mut self) {
        self.gives_up = false;
    }

    /// Everything below this position is applied; 0 while the shard has nothing of this primary.
    pub fn applied(&self) -> u64 {
        if matches!(self.state, State::Follows) { self.sink.follower.cursor() } else { 0 }
    }

    /// Nothing is missing below [`Lane::applied`], and a record has proved that it is the primary's
    /// log.
    pub fn is_whole(&self) -> bool {
        matches!(self.state, State::Follows) && self.sink.follower.is_proven() && self.sink.follower.is_whole()
    }

    /// What the primary is to be told, if it has not been told so: where this replica stands, and
    /// whether it is whole.
    pub fn has_news(&self) -> bool {
        self.told != (self.applied(), self.is_whole())
    }

    /// The word that tells it.
    pub fn tell(&mut self) -> u64 {
        self.told = (self.applied(), self.is_whole());
        self.tag.word(self.told.0, self.told.1)
    }

    /// Committed at the last look, and not applied.
    pub fn lag_bytes(&self) -> u64 {
        let Some(line) = self.line else { return 0 };
        match self.state {
            State::Follows => line.committed.saturating_sub(self.sink.follower.cursor()),
            _ => line.committed - line.tail,
        }
    }

    /// It applies a log that it was told of.
    pub fn follows(&self) -> bool {
        matches!(self.state, State::Follows)
    }

    /// Follows, and has applied all of the last look.
    pub fn is_caught_up(&self) -> bool {
        matches!(self.state, State::Follows)
            && self.line.is_some_and(|line| self.sink.follower.cursor() >= line.committed)
    }

    /// All that its line has shown is done, and another look at the same line would change nothing.
    pub fn is_settled(&self) -> bool {
        self.is_caught_up()
            && self.source.is_idle()
            && !self.unjudged
            && (self.senseless, self.memory_missed, self.doubt) == (0, 0, None)
            && self.line.is_some_and(|line| self.sink.has_given_up(line.tail))
    }

    /// Whether a bound keeps it from reading now.
    pub fn hold_back(&mut self, is_held_back: bool) {
        self.is_held_back = is_held_back;
    }

    /// There is something that could be read or applied without a further look, and now.
    pub fn has_more(&self) -> bool {
        !self.source.is_empty() || (self.wants_read() && !self.is_held_back)
    }

    /// From where on it reads.
    fn wanted(&self) -> u64 {
        match (&self.state, self.line) {
            (State::Begins { .. }, Some(line)) if self.source.is_empty() => self.source.planned().max(line.tail),
            // Nothing, before the log is there.
            (State::GoesBack, _) => u64::MAX,
            _ => self.source.planned(),
        }
    }

    /// There is something to be read that is not on its way.
    pub fn wants_read(&self) -> bool {
        self.line.is_some_and(|line| self.wanted() < line.committed)
    }

    /// The next READ for this shard into `landing`, of its log or of what must be known before:
    /// where its slabs are. The landing back if there is nothing to read now.
    pub fn plan(&mut self, landing: Landing, piece_bytes: usize, start: Start) -> Result<Read, Landing> {
        let Some(line) = self.line else { return Err(landing) };
        let from = self.wanted();
        // Never more than its capacity ahead of what is applied: no line that shows more between
        // tail and committed is believed.
        if from >= line.committed {
            return Err(landing);
        }
        self.source.plan(landing, (from, line.committed), piece_bytes, start)
    }

    /// A READ of cells is done.
    pub fn cells_arrived(&mut self, number: u64, landing: &Landing) -> Result<(), LaneEnd> {
        self.source.cells_arrived(number, landing)
    }

    /// A piece's READ is done, and `begun` is the latest round that has begun. Returns the landing
    /// if the piece is not wanted any more.
    pub fn arrived(&mut self, number: u64, landing: Landing, begun: u64) -> Option<Landing> {
        self.source.arrived(number, landing, begun)
    }

    /// Whether a piece has arrived that no look vouches for, and none was submitted since; `begun`
    /// is the latest round that has begun.
    pub fn awaits_look(&self, begun: u64) -> bool {
        self.source.awaits_look(begun)
    }

    /// Nothing more is read or applied: what is on its way belongs to nobody.
    pub fn stop(&mut self, free: &mut Vec<Landing>) {
        self.sink.drop_carried();
        self.source.read_again(self.sink.follower.cursor(), free);
    }

    /// The terms of what is here; none where there is nothing to go on from.
    fn ours(&self) -> Vec<TermStart> {
        if self.sink.follower.is_proven() { self.sink.follower.past() } else { Vec::new() }
    }

    fn begin_anew(&mut self, why: Why, from: u64, counts: &mut Counts) -> Result<(), LaneEnd> {
        let holds_data = self.sink.follower.cursor() > self.sink.follower.tail();
        if !self.gives_up && self.sink.follower.is_proven() && holds_data {
            return Err(LaneEnd::Kept { shard: self.shard, why });
        }
        counts.count(why);
        if why == Why::Diverged && self.sink.follower.is_proven() {
            self.count_dropped(parted_at(self.theirs.starts(), &self.ours()), counts);
        }
        if self.sink.follower.is_foreign_to(&self.theirs) {
            counts.discarded += u64::from(holds_data);
            self.sink.follower.leave_history();
        }
        self.forget_freshness();
        self.sink.forget();
        self.source.begin_anew(from);
        self.state = State::Begins { from };
        Ok(())
    }

    fn count_dropped(&self, from: u64, counts: &mut Counts) {
        let dropped = self.sink.follower.extent_from(from);
        counts.diverged_records += dropped.records;
        counts.diverged_bytes += dropped.bytes;
    }

    /// A step of going back. True if anything changed.
    fn go_back(&mut self, line: &Line, counts: &mut Counts) -> Result<bool, LaneEnd> {
        // What had been moved from below the primary's tail stands below both: this log's tail is
        // not above that one.
        let owed = line.committed.max(self.givers_owe);
        match self.sink.follower.go_back(&self.theirs, owed) {
            GoingBack::Moved => return Ok(true),
            GoingBack::Waits => return Ok(false),
            GoingBack::Done => {
                counts.truncated += 1;
                self.state = State::Follows;
            }
            GoingBack::NoEnd => self.begin_anew(Why::Diverged, line.tail, counts)?,
        }
        self.unjudged = true;
        Ok(true)
    }

    /// Apply what may be applied, then let go of what the primary has given up. True if anything
    /// changed.
    pub fn apply(&mut self, free: &mut Vec<Landing>, counts: &mut Counts) -> Result<bool, LaneEnd> {
        let Some(line) = self.line else { return Ok(false) };
        if let State::GoesBack = self.state {
            return self.go_back(&line, counts);
        }
        let mut moved = false;
        while let Some(piece) = self.source.front() {
            let (Some(tail), true) = (piece.tail_after, piece.landing.is_some()) else { break };
            let end = piece.begin + piece.bytes as u64;
            let at = piece.begin + piece.consumed as u64 * 8;
            match self.state {
                State::New | State::GoesBack => break,
                // Nothing may be given up because there is less memory here than at the primary.
                State::Follows if self.memory_missed > 0 => break,
                State::Follows if tail > self.sink.follower.cursor() => {
                    self.begin_anew(Why::Overrun, tail, counts)?;
                    moved = true;
                }
                State::Follows => {
                    let (consumed, fed) = self.sink.feed(piece, line.tail, counts);
                    moved |= consumed;
                    match fed {
                        Fed::Up => self.source.pass(free),
                        Fed::Partly => break,
                        Fed::Bad(why) => {
                            self.distrust(why, free, counts)?;
                            moved = true;
                        }
                    }
                }
                State::Begins { from } if tail.max(from) >= end => {
                    self.state = State::Begins { from: tail.max(from) };
                    self.source.pass(free);
                }
                State::Begins { from } => {
                    let begin = at.max(tail).max(from);
                    let consumed = ((begin - piece.begin) / 8) as usize;
                    if !self.begin_at(begin) {
                        break;
                    }
                    self.source.front().expect("looked at above").consumed = consumed;
                }
            }
        }
        self.begin_empty();
        // What the primary had given up before the last look but one, once all that the last look
        // showed is applied. What it had moved from there is applied by then, so no item is missing
        // in between; of one that owes itself, once what it owes is here.
        if self.is_caught_up() && self.sink.follower.cursor() >= self.givers_owe {
            self.sink.give_up_below(self.earlier_tail);
        }
        moved |= std::mem::take(&mut self.follows_anew);
        self.unjudged |= moved;
        self.note_freshness();
        Ok(moved)
    }

    /// Begin where there is nothing to be read.
    fn begin_empty(&mut self) {
        if let (State::Begins { .. }, Some(line), true) = (&self.state, self.line, self.source.is_empty())
            && line.tail == line.committed
        {
            self.source.skip_to(line.tail);
            // No record is there to prove the term; but all of this log is here.
            if self.begin_at(line.tail) && self.sink.follower.term() == line.term {
                self.sink.follower.prove();
            }
        }
    }

    fn begin_at(&mut self, position: u64) -> bool {
        // Where the history does not reach back so far, older records fail.
        let begun = self.sink.follower.begin_at(position, &self.theirs);
        if begun {
            self.state = State::Follows;
            self.follows_anew = true;
        }
        begun
    }

    /// The record at the cursor has failed its check. Read it again, a few times at most.
    fn distrust(&mut self, why: BadRecord, free: &mut Vec<Landing>, counts: &mut Counts) -> Result<(), LaneEnd> {
        counts.bad_records += 1;
        let position = self.sink.follower.cursor();
        let times = if self.bad.0 == position { self.bad.1 + 1 } else { 1 };
        self.bad = (position, times);
        let shard = self.shard;
        if times >= BAD_RECORDS_MAX {
            return Err(LaneEnd::BadRecord { shard, position, times, why });
        }
        log::warn!("shard {shard}: the record at position {position} failed its check ({why}); reading it again");
        self.sink.drop_carried();
        self.source.read_again(position, free);
        Ok(())
    }
}
