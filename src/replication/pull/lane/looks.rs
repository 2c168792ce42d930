//! What follows for one shard from a look at its control line.

use super::{Lane, State};
use crate::replication::pull::line::{self, Shown, Slabs};
use crate::replication::pull::piece::Look;
use crate::replication::pull::{Counts, LaneEnd, SENSELESS_LOOKS_MAX};
use crate::replication::resume::{Line, Resume, Why, goes_back_to, has_diverged, is_doubtful, resume};
use crate::store::line::{ControlLine, OWES_NOT_KNOWN};
use crate::sys::sync::AtomicU64;

impl Lane<'_> {
    /// A look has seen another beat. Nothing else follows from it.
    pub fn follow_beat(&mut self, beat: u64) {
        self.sink.follower.follow_beat(beat);
    }

    /// A look that has shown this line proves that the primary has lived since this time.
    pub fn note_life(&mut self, words: &[AtomicU64], since: u64) {
        let committed = ControlLine::of(words, 0).committed();
        // One that made no sense was not taken.
        if self.line.is_some_and(|line| line.committed == committed) {
            self.freshness.seen(committed, since);
            self.note_freshness();
        }
    }

    /// Tell who reads here of when it is what is here.
    pub(super) fn note_freshness(&mut self) {
        if let State::Follows = self.state
            && let Some(at) = self.freshness.applied(self.sink.follower.cursor())
        {
            self.sink.follower.note_fresh(Some(at));
        }
    }

    /// What is here is given up, in part or all.
    pub(super) fn forget_freshness(&mut self) {
        self.freshness.forget();
        self.sink.follower.note_fresh(None);
    }

    /// What a look has seen of the control line.
    pub fn look(&mut self, look: Look, words: &[AtomicU64], counts: &mut Counts) -> Result<(), LaneEnd> {
        let Some(line) = self.read(look, words)? else { return Ok(()) };
        self.follow_capacity(&line)?;
        self.earlier_tail = self.line.map_or(0, |earlier| earlier.tail);
        self.line = Some(line);
        self.unjudged = false;
        self.source.look(look, &line);
        self.decide(&line, counts)?;
        if let State::Follows = self.state {
            self.sink.follower.note_owed(line.tail, line.committed, self.givers_owe);
        }
        Ok(())
    }

    /// A control line, held against the last one. None where it shows nothing yet, or makes no
    /// sense this time.
    fn read(&mut self, look: Look, words: &[AtomicU64]) -> Result<Option<Line>, LaneEnd> {
        let is_known = |term| self.theirs.starts().iter().any(|start| start.term == term);
        match line::read(words, self.line, Slabs { bytes: self.slab_bytes, count: self.slabs.into() }, is_known) {
            Shown::Line(line) => {
                self.senseless = 0;
                self.doubt = None;
                self.givers_owe = ControlLine::of(words, 0).owes_until();
                // The giver begins anew, and does not know yet what it misses. Until it does,
                // nothing that is here is given up because it is not there.
                let is_kept = matches!(self.state, State::Follows | State::GoesBack)
                    || self.has_not_looked() && self.sink.follower.is_proven();
                Ok(Some(line).filter(|_| !is_kept || self.givers_owe != OWES_NOT_KNOWN))
            }
            Shown::NothingYet => Ok(None),
            Shown::Unknown(term) => Err(LaneEnd::TermChanged(term)),
            Shown::BeganAnew(..) if self.doubt.is_none_or(|begun| look.round <= begun) => {
                self.doubt.get_or_insert(look.begun);
                Ok(None)
            }
            Shown::BeganAnew(what, tail) => {
                // Items that live there below this replica's tail may never have been here.
                if tail < self.sink.follower.tail() {
                    self.sink.follower.doubt();
                }
                Err(LaneEnd::BeganAnew { shard: self.shard, what })
            }
            Shown::Senseless(what) => {
                self.senseless += 1;
                if self.senseless > SENSELESS_LOOKS_MAX {
                    if !self.has_not_looked() {
                        self.sink.follower.doubt();
                    }
                    return Err(LaneEnd::Senseless { shard: self.shard, what });
                }
                Ok(None)
            }
        }
    }

    fn has_not_looked(&self) -> bool {
        matches!(self.state, State::New)
    }

    /// Have as much memory as the primary. Another shard may be about to give back what this one is
    /// to have, so it is tried for a while.
    fn follow_capacity(&mut self, line: &Line) -> Result<(), LaneEnd> {
        if self.memory_missed == 0 && self.line.is_some_and(|before| before.capacity == line.capacity) {
            return Ok(());
        }
        let follows = self.sink.follow_capacity(line.capacity);
        self.memory_missed = if follows { 0 } else { self.memory_missed + 1 };
        if self.memory_missed > SENSELESS_LOOKS_MAX {
            return Err(LaneEnd::NoMemory { shard: self.shard, capacity: line.capacity });
        }
        Ok(())
    }

    /// Decide what to do, by a line that makes sense.
    fn decide(&mut self, line: &Line, counts: &mut Counts) -> Result<(), LaneEnd> {
        match self.state {
            State::New => match self.resume(line) {
                Resume::Continue if self.is_doubtful() => self.begin_anew(Why::Diverged, line.tail, counts)?,
                Resume::Continue => {
                    self.sink.follower.adopt(&self.theirs);
                    self.state = State::Follows;
                    self.follows_anew = true;
                    counts.continued += 1;
                }
                Resume::Begin(why) => match self.goes_back_to(why, line) {
                    Some(to) => {
                        self.count_dropped(to, counts);
                        self.forget_freshness();
                        self.sink.follower.begin_to_go_back(to);
                        self.source.begin_anew(to);
                        self.state = State::GoesBack;
                    }
                    None => self.begin_anew(why, line.tail, counts)?,
                },
            },
            State::Follows if self.has_strayed(line) => {
                let what = "what was applied is not what its history says";
                return Err(LaneEnd::BeganAnew { shard: self.shard, what });
            }
            State::Follows if self.source.is_empty() && line.tail > self.sink.follower.cursor() => {
                self.begin_anew(Why::Overrun, line.tail, counts)?;
            }
            State::Follows | State::Begins { .. } | State::GoesBack => {}
        }
        Ok(())
    }

    fn resume(&self, line: &Line) -> Resume {
        resume(self.theirs.starts(), &self.ours(), self.sink.follower.cursor(), line)
    }

    /// Where it goes on after it has dropped what the primary's log never had; see
    /// [`goes_back_to`]. One that gives up nothing does not.
    fn goes_back_to(&self, why: Why, line: &Line) -> Option<u64> {
        let follower = &self.sink.follower;
        let ends = (follower.tail(), follower.cursor());
        let to = goes_back_to(self.theirs.starts(), &self.ours(), ends, line, self.slab_bytes);
        to.filter(|to| why == Why::Diverged && self.gives_up && follower.can_go_back_to(*to))
    }

    /// Whether this shard follows a log that is about to be dropped: the server above is a replica
    /// that knows of a new term, and still shows log of the old one beyond its end. What was
    /// applied of that must be judged again.
    fn has_strayed(&self, line: &Line) -> bool {
        let (newest, follower) = (self.theirs.newest(), &self.sink.follower);
        (line.term, follower.term()) != (newest, newest)
            && has_diverged(self.theirs.starts(), &follower.past(), follower.cursor(), line)
    }

    /// See [`is_doubtful`]. It is rare; the shard is then read again.
    fn is_doubtful(&self) -> bool {
        is_doubtful(self.theirs.starts(), &self.ours(), self.sink.follower.cursor(), self.slab_bytes)
    }
}
