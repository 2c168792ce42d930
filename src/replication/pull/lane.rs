//! One shard of a replica: the pieces of its log that are being read or wait to be applied, in
//! order; where the shard begins anew. What follows from a look at the control line stands in
//! `looks`.
//!
//! Invariants: pieces follow one another without a gap. A piece is applied once it has arrived and
//! a look vouches for it: one that was submitted after it had arrived, or one submitted behind it
//! whose line shows that it lies far above the tail ([`super::piece`]). Bytes below that look's
//! tail are not used. `cursor + carry` is the position of the first word that was not consumed.
//!
//! Nothing here depends on the order in which the bytes of one READ, or of two that are under way
//! together, were taken from the primary's memory. So a position that went back is believed once a
//! second look, submitted after the first had arrived, shows it as well.

mod looks;

use super::carry::Carry;
use super::cells::{Cells, CellsRead};
use super::piece::Piece;
use super::{BAD_RECORDS_MAX, CELLS, Counts, PullError, SENSELESS_LOOKS_MAX};
use crate::base::epoch::Epoch;
use crate::fabric::{Landing, Read};
use crate::replication::regions::POOL;
use crate::replication::resume::{Line, Why, epoch_at, parted_at};
use crate::store::{BadRecord, EpochStart, Follower, Geometry, Memory, Stop};
use std::collections::VecDeque;
use std::time::Instant;

/// Given up at once beyond what an append needs, where the primary evicts: [`Lane::make_room`].
const SLACK_BYTES: u64 = 64 << 10;
/// Log bytes walked in one go to let go of what the primary has given up.
const GIVE_UP_BYTES: u64 = 1 << 20;

enum State {
    /// No look yet.
    New,
    /// Applying.
    Follows,
    /// Forgotten; to begin at the first position that can be believed, at or above `from`, the
    /// highest tail that was shown. (A piece may be vouched for before the one ahead of it. Its
    /// begin is within a record, as a rule.)
    Begins { from: u64 },
}

/// See the module.
pub struct Lane<'s> {
    shard: usize,
    follower: Follower<'s>,
    slab_bytes: u64,
    slabs: u32,
    /// Where the primary's slabs are.
    cells: Cells,
    /// Whether the primary may give up what lives.
    evicts: bool,
    known: Option<Epoch>,
    history: Vec<EpochStart>,
    state: State,
    /// It has begun to follow since the last call of [`Lane::apply`].
    follows_anew: bool,
    /// It goes on from a position where it was before, or a record has been found where it began.
    proven: bool,
    line: Option<Line>,
    /// The tail of the look before the last.
    earlier_tail: u64,
    /// Everything below this position is given up.
    given_up_to: u64,
    /// Something was applied since the last look, which may judge it.
    unjudged: bool,
    /// Up to where READs have been submitted.
    planned: u64,
    pieces: VecDeque<Piece>,
    pieces_begun: u32,
    carry: Carry,
    /// The last position of a bad record, and how often in a row.
    bad: (u64, u32),
    /// Looks in a row that made no sense.
    senseless: u32,
    /// Looks in a row at which this shard could not have as much memory as the primary's.
    memory_missed: u32,
    /// A position went back at a look: the latest round that had begun when it arrived.
    doubt: Option<u64>,
}

impl<'s> Lane<'s> {
    /// For one shard; `known` is the epoch of what the store has last applied, None if there is
    /// nothing to go on from. `history` is the primary's.
    pub fn new(
        shard: usize,
        follower: Follower<'s>,
        geometry: &Geometry,
        memory: Memory,
        known: Option<Epoch>,
        history: &[EpochStart],
    ) -> Self {
        Lane {
            shard,
            slab_bytes: geometry.slab_bytes,
            slabs: memory.slabs,
            cells: Cells::new(shard, memory),
            evicts: geometry.evict,
            known,
            history: history.to_vec(),
            state: State::New,
            follows_anew: false,
            proven: false,
            line: None,
            earlier_tail: 0,
            given_up_to: 0,
            unjudged: false,
            planned: follower.cursor(),
            follower,
            pieces: VecDeque::new(),
            pieces_begun: 0,
            carry: Carry::default(),
            bad: (0, 0),
            senseless: 0,
            memory_missed: 0,
            doubt: None,
        }
    }

    /// The epoch of the record that was applied last. None if no later session can go on from here:
    /// the shard has begun and found no record yet, or control lines made no sense for too long.
    pub fn known(&self) -> Option<Epoch> {
        match self.state {
            // No look has changed anything here.
            State::New => self.known,
            _ if self.senseless > SENSELESS_LOOKS_MAX => None,
            State::Follows => self.proven.then(|| self.follower.epoch()),
            State::Begins { .. } => None,
        }
    }

    /// Everything below this position is applied; 0 while the shard has nothing of this primary.
    pub fn applied(&self) -> u64 {
        if matches!(self.state, State::Follows) { self.follower.cursor() } else { 0 }
    }

    /// Committed at the last look, and not applied.
    pub fn lag_bytes(&self) -> u64 {
        let Some(line) = self.line else { return 0 };
        match self.state {
            State::Follows => line.committed.saturating_sub(self.follower.cursor()),
            _ => line.committed - line.tail,
        }
    }

    /// Follows, and has applied all of the last look.
    pub fn is_caught_up(&self) -> bool {
        matches!(self.state, State::Follows) && self.line.is_some_and(|line| self.follower.cursor() >= line.committed)
    }

    /// All that its line has shown is done, and another look at the same line would change nothing.
    pub fn is_settled(&self) -> bool {
        self.is_caught_up()
            && self.pieces.is_empty()
            && !self.cells.is_asking()
            && !self.unjudged
            && (self.senseless, self.memory_missed, self.doubt) == (0, 0, None)
            && self.line.is_some_and(|line| self.given_up_to >= line.tail)
    }

    /// There is something that could be read or applied without a further look. `reach` is
    /// [`crate::fabric::Channel::reach`], for this shard.
    pub fn has_more(&self, reach: impl FnOnce(u64) -> u64) -> bool {
        let wanted = self.wanted();
        !self.pieces.is_empty() || self.line.is_some_and(|line| wanted < line.committed.min(reach(wanted)))
    }

    /// From where on it reads.
    fn wanted(&self) -> u64 {
        match (&self.state, self.line) {
            (State::Begins { .. }, Some(line)) if self.pieces.is_empty() => self.planned.max(line.tail),
            _ => self.planned,
        }
    }

    /// The next READ for this shard into `landing`, of its log or of what must be known before:
    /// where its slabs are. The landing back if there is nothing to read now. `reach` as above.
    pub fn plan(
        &mut self,
        landing: Landing,
        piece_bytes: usize,
        round: u64,
        reach: impl FnOnce(u64) -> u64,
    ) -> Result<Read, Landing> {
        let Some(line) = self.line else { return Err(landing) };
        self.planned = self.wanted();
        // Never more than its capacity ahead of what is applied: no line that shows more between
        // tail and committed is believed.
        let until = line.committed.min(reach(self.planned));
        if self.planned >= until {
            return Err(landing);
        }
        let (virtual_slab, within) = (self.planned / self.slab_bytes, self.planned % self.slab_bytes);
        let Some(physical) = self.cells.physical(virtual_slab) else {
            return self.plan_cells(landing, (virtual_slab, (until - 1) / self.slab_bytes), round);
        };
        let bytes = (until - self.planned).min(self.slab_bytes - within).min(piece_bytes.min(landing.bytes()) as u64);
        self.pieces_begun = self.pieces_begun.wrapping_add(1);
        let number = self.pieces_begun;
        let begin = self.planned;
        self.planned += bytes;
        let bytes = bytes as usize;
        self.pieces.push_back(Piece::new(number, begin, bytes, round));
        let offset = u64::from(physical) * self.slab_bytes + within;
        Ok(Read { region: POOL, offset, bytes, landing, tag: (self.shard as u64) << 32 | u64::from(number) })
    }

    /// A READ of the cells of virtual slabs `first` to `last`, unless cells are under way already.
    fn plan_cells(&mut self, landing: Landing, (first, last): (u64, u64), round: u64) -> Result<Read, Landing> {
        let Some(CellsRead { region, offset, bytes, number }) = self.cells.ask(first, last, landing.bytes(), round)
        else {
            return Err(landing);
        };
        Ok(Read { region, offset, bytes, landing, tag: CELLS | (self.shard as u64) << 32 | u64::from(number) })
    }

    /// A READ of cells is done.
    pub fn cells_arrived(&mut self, number: u32, landing: Landing) -> Result<Landing, PullError> {
        self.cells.learn(number, landing.words(landing.bytes()));
        if self.cells.missed() > SENSELESS_LOOKS_MAX {
            let what = "its table does not say where its slabs are";
            return Err(PullError::Senseless { shard: self.shard, what });
        }
        Ok(landing)
    }

    /// A piece's READ is done, and `begun` is the latest round that has begun. Returns the landing
    /// if the piece is not wanted any more.
    pub fn arrived(&mut self, number: u32, landing: Landing, begun: u64) -> Option<Landing> {
        match self.pieces.iter_mut().find(|piece| piece.number == number) {
            Some(piece) => {
                piece.arrived(landing, begun);
                None
            }
            None => Some(landing),
        }
    }

    /// Whether a piece has arrived that no look vouches for, and none was submitted since; `begun`
    /// is the latest round that has begun.
    pub fn awaits_look(&self, begun: u64) -> bool {
        self.pieces.iter().any(|piece| piece.awaits_look(begun))
    }

    /// Since when a piece, or cells, have been missing whose round's look has arrived. If that
    /// lasts, their READ is lost.
    pub fn overtaken_at(&self) -> Option<Instant> {
        self.pieces.iter().find_map(|piece| piece.overtaken_at).or_else(|| self.cells.overtaken_at())
    }

    fn begin_anew(&mut self, why: Why, from: u64, counts: &mut Counts) {
        counts.count(why);
        if let (Why::Diverged, Some(epoch)) = (why, self.known) {
            let dropped = self.follower.extent_from(parted_at(&self.history, self.shard, epoch));
            counts.diverged_records += dropped.records;
            counts.diverged_bytes += dropped.bytes;
        }
        self.follower.forget();
        self.cells.forget();
        self.carry.clear();
        self.given_up_to = 0;
        self.state = State::Begins { from };
        if self.pieces.is_empty() {
            self.planned = from;
        }
    }

    /// Apply what may be applied, then let go of what the primary has given up. True if anything
    /// changed.
    pub fn apply(&mut self, free: &mut Vec<Landing>, counts: &mut Counts) -> Result<bool, PullError> {
        let mut moved = false;
        while let Some(piece) = self.pieces.front_mut() {
            let (Some(tail), true) = (piece.tail_after, piece.landing.is_some()) else { break };
            let end = piece.begin + piece.bytes as u64;
            let at = piece.begin + piece.consumed as u64 * 8;
            match self.state {
                State::New => break,
                // Nothing may be given up because there is less memory here than at the primary.
                State::Follows if self.memory_missed > 0 => break,
                State::Follows if tail > self.follower.cursor() => {
                    self.begin_anew(Why::Overrun, tail, counts);
                    moved = true;
                }
                State::Follows => {
                    moved |= self.feed(free, counts)?;
                    match self.pieces.front() {
                        // A whole record is carried and has found no room: the front piece stays,
                        // so that the record is tried again.
                        Some(piece) if piece.consumed * 8 < piece.bytes || self.carry.holds_record() => break,
                        Some(_) => free.extend(self.pieces.pop_front().and_then(|piece| piece.landing)),
                        None => break,
                    }
                }
                State::Begins { from } if tail.max(from) >= end => {
                    self.state = State::Begins { from: tail.max(from) };
                    free.extend(self.pieces.pop_front().and_then(|piece| piece.landing));
                }
                State::Begins { from } => {
                    let begin = at.max(tail).max(from);
                    let consumed = ((begin - piece.begin) / 8) as usize;
                    if !self.begin_at(begin) {
                        break;
                    }
                    self.pieces.front_mut().expect("looked at above").consumed = consumed;
                }
            }
        }
        self.begin_empty();
        self.give_up();
        moved |= std::mem::take(&mut self.follows_anew);
        self.unjudged |= moved;
        Ok(moved)
    }

    /// Begin where there is nothing to be read.
    fn begin_empty(&mut self) {
        if let (State::Begins { .. }, Some(line), true) = (&self.state, self.line, self.pieces.is_empty())
            && line.tail == line.committed
        {
            self.planned = line.tail;
            // No record is there to prove the epoch; but all of this log is here.
            self.proven = self.begin_at(line.tail) && self.follower.epoch() == line.epoch;
        }
    }

    fn begin_at(&mut self, position: u64) -> bool {
        let epoch = epoch_at(&self.history, self.shard, position);
        let start = self.history.iter().find(|start| Some(start.epoch) == epoch);
        // Where the history does not reach back so far, take its oldest epoch: older records fail.
        let start = start.unwrap_or(&self.history[0]);
        let begun = self.follower.begin_at(position, start.epoch, start.begins[self.shard]);
        if begun {
            self.state = State::Follows;
            self.follows_anew = true;
            self.proven = false;
        }
        begun
    }

    /// Feed the first piece's words to the store until they are used up or cannot be for now. True
    /// if any were consumed.
    fn feed(&mut self, free: &mut Vec<Landing>, counts: &mut Counts) -> Result<bool, PullError> {
        let mut moved = false;
        loop {
            let Some(piece) = self.pieces.front_mut() else { return Ok(moved) };
            let Some(landing) = &piece.landing else { return Ok(moved) };
            let words = &landing.words(piece.bytes)[piece.consumed..];
            let stop = if self.carry.is_empty() {
                let applied = self.follower.apply(words, piece.begin + piece.consumed as u64 * 8);
                self.proven |= applied.records > 0;
                piece.consumed += applied.bytes as usize / 8;
                counts.records += applied.records;
                moved |= applied.bytes > 0;
                if let Stop::Cut { wanted_bytes } = applied.stop {
                    self.carry.want(wanted_bytes);
                    piece.consumed += self.carry.take(&words[applied.bytes as usize / 8..]);
                    return Ok(moved);
                }
                applied.stop
            } else {
                let taken = self.carry.take(words);
                piece.consumed += taken;
                moved |= taken > 0;
                if !self.carry.is_complete() {
                    return Ok(moved);
                }
                match self.apply_carry(counts) {
                    None => {
                        moved = true;
                        continue;
                    }
                    Some(stop) => stop,
                }
            };
            match stop {
                Stop::End | Stop::Cut { .. } => return Ok(moved),
                Stop::NoRoom { end } if self.make_room(end) => {}
                Stop::NoRoom { .. } => return Ok(moved),
                Stop::Bad(why) => {
                    self.distrust(why, free, counts)?;
                    return Ok(true);
                }
            }
        }
    }

    /// Apply the record that was put together. None: it is applied, or more of it is wanted.
    fn apply_carry(&mut self, counts: &mut Counts) -> Option<Stop> {
        let applied = self.follower.apply(self.carry.words(), self.follower.cursor());
        self.proven |= applied.records > 0;
        counts.records += applied.records;
        match applied.stop {
            Stop::Cut { wanted_bytes } if self.carry.want(wanted_bytes) => None,
            Stop::Cut { .. } => Some(Stop::Bad(BadRecord::Malformed)),
            Stop::End => {
                self.carry.clear();
                None
            }
            stop => Some(stop),
        }
    }

    /// The next record ends at `end` and has no room: give up what it needs. True if it fits now.
    ///
    /// When the primary appended that record, it had given up just as much; what it had moved from
    /// there stands before the record, so it is applied here already. Giving up more could lose
    /// items that were moved to behind that record: until they are applied, and for good if this
    /// replica is promoted before. Where the primary evicts, an item may go missing anyway, so a
    /// little more is given up: each time costs a turn of every reader.
    fn make_room(&mut self, end: u64) -> bool {
        let Some(line) = self.line else { return false };
        let before = self.follower.room_until();
        let slack_bytes = if self.evicts { SLACK_BYTES } else { 0 };
        let needed = (end + slack_bytes).saturating_sub(self.follower.reach_bytes());
        // As a budget, not as a goal: the record that reaches beyond what is needed must go, too.
        let missing = Some(needed.saturating_sub(self.follower.tail())).filter(|bytes| *bytes > 0);
        if self.evicts || missing.is_some() {
            self.follower.give_up_below(line.tail, missing.map_or(GIVE_UP_BYTES, |bytes| bytes.min(GIVE_UP_BYTES)));
        }
        self.follower.room_until() > before
    }

    /// The record at the cursor has failed its check. Read it again, a few times at most.
    fn distrust(&mut self, why: BadRecord, free: &mut Vec<Landing>, counts: &mut Counts) -> Result<(), PullError> {
        counts.bad_records += 1;
        let position = self.follower.cursor();
        let times = if self.bad.0 == position { self.bad.1 + 1 } else { 1 };
        self.bad = (position, times);
        let shard = self.shard;
        if times >= BAD_RECORDS_MAX {
            return Err(PullError::BadRecord { shard, position, times, why });
        }
        log::warn!("shard {shard}: the record at position {position} failed its check ({why}); reading it again");
        self.carry.clear();
        self.cells.forget();
        free.extend(self.pieces.drain(..).filter_map(|piece| piece.landing));
        self.planned = position;
        Ok(())
    }

    /// Give up what the primary had given up before the last look but one, once all that the last
    /// look showed is applied. What the primary had moved from there is applied by then, so no item
    /// is missing in between.
    fn give_up(&mut self) {
        let (tail, given_up_to) = (self.earlier_tail, self.given_up_to);
        if tail > given_up_to && self.is_caught_up() && self.follower.give_up_below(tail, GIVE_UP_BYTES) {
            self.given_up_to = tail;
        }
    }
}
