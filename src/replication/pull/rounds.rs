//! Rounds: which READs are started together. Pieces of the lanes that have something to read, each
//! lane first in turn, and behind them one READ of the control lines from the first lane's to the
//! last one's.

use super::lane::Start;
use super::under_way::Of;
use super::{PullError, Puller, ROUNDS_MAX};
use crate::base::time::boot_milliseconds;
use crate::fabric::{DEPTH_MAX, Read};
use crate::replication::regions::{LINES, POOL};
use crate::store::line::CONTROL_LINE_BYTES;
use std::ops::Range;
use std::time::Instant;

/// One round: the READs that one doorbell started, lines last.
pub struct Round {
    /// Counted from 1 on.
    pub number: u64,
    /// When.
    pub submitted_at: Instant,
    /// The same by [`boot_milliseconds`].
    pub submitted_milliseconds: u64,
    /// Bytes of logs that it brings.
    pub bytes: usize,
    /// The shards whose lines its look is of.
    pub span: Range<usize>,
}

impl Puller<'_> {
    /// Start a round, if there is room for one and it would show or bring anything.
    pub(super) fn begin_round(&mut self) -> Result<(), PullError> {
        let span = self.lanes.span();
        if self.rounds.len() >= ROUNDS_MAX || !self.line_landings.is_one_left() || span.is_empty() {
            return Ok(());
        }
        let number = self.rounds_begun + 1;
        let depth = self.channel.depth_max().min(DEPTH_MAX);
        let bytes = self.plan_pieces(number, depth)?;
        // A second round under way brings pieces, or a look that pieces wait for: another one would
        // show nothing that the first does not.
        let begun = self.rounds_begun;
        let is_needed = bytes > 0 || self.rounds.is_empty() || self.lanes_awake().any(|lane| lane.awaits_look(begun));
        if !is_needed || self.under_way.count() + 1 > depth {
            return self.submit(bytes);
        }
        self.awake.turn();
        let landing = self.line_landings.take(&mut *self.channel)?.expect("asked above");
        let offset = (span.start * CONTROL_LINE_BYTES) as u64;
        let tag = self.under_way.next_number();
        self.batch.push(Read { region: LINES, offset, bytes: span.len() * CONTROL_LINE_BYTES, landing, tag });
        self.under_way.begin(Of::Look(number), number);
        self.rounds_begun = number;
        let (submitted_at, submitted_milliseconds) = ((self.clock)(), boot_milliseconds());
        self.rounds.push(Round { number, submitted_at, submitted_milliseconds, bytes, span });
        self.submit(bytes)
    }

    /// Plan the READs of a round but for its look. Returns how many bytes of logs they bring.
    fn plan_pieces(&mut self, round: u64, depth: usize) -> Result<usize, PullError> {
        let (mut bytes, clock, bound) = (0, self.clock, &*self.copy_bound);
        for step in 0..self.awake.count() {
            let shard = self.awake.nth(step);
            let lane = &mut self.lanes[shard];
            let copies = !lane.is_whole();
            lane.hold_back(false);
            // One place in the queue is for the lines of this round.
            while bytes < self.sizer.round_bytes() && self.under_way.count() + 1 < depth.max(2) && lane.wants_read() {
                if copies && !bound.allows(clock()) {
                    lane.hold_back(true);
                    break;
                }
                let Some(landing) = self.landings.take(&mut *self.channel)? else { break };
                let start = Start { round, number: self.under_way.next_number() };
                match lane.plan(landing, self.sizer.piece_bytes(), start) {
                    Ok(read) if read.region == POOL => {
                        bytes += read.bytes;
                        if copies {
                            bound.spend(read.bytes, clock());
                        }
                        self.counts.pieces += 1;
                        self.under_way.begin(Of::Piece(shard), round);
                        self.batch.push(read);
                    }
                    Ok(read) => {
                        self.under_way.begin(Of::Cells(shard), round);
                        self.batch.push(read);
                    }
                    Err(landing) => {
                        self.landings.free.push(landing);
                        break;
                    }
                }
            }
        }
        Ok(bytes)
    }

    /// Start what is planned, which brings so many bytes of logs.
    fn submit(&mut self, bytes: usize) -> Result<(), PullError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.under_way.count() == self.batch.len() {
            self.heard_at = (self.clock)();
        }
        self.counts.pulled_bytes += bytes as u64;
        self.channel.submit(&mut self.batch)?;
        Ok(())
    }
}
