//! The primary's side of a push, one step after another: WRITE what may be written, READ what is
//! wanted behind it, publish what has arrived.
//!
//! A local reader that takes no turn: it holds up nobody, however slow the replica is. What it
//! reads of a log while that is overwritten is told apart as a replica does it, by a tail that is
//! loaded behind the reading; and by the records' checksums.
//!
//! Nothing that the replica says is trusted: a want may be a position that this log has not
//! reached, or has given up. It decides only which bytes of [tail, committed) go to which place of
//! the replica's own window.

use super::layout::{INBOX, Layout, NOTES, WANT_BYTES};
use super::notes::{LINE_WORDS, PushedLine, Want};
use crate::fabric::{
    ACK_BYTES, Cause, Completion, ConnectsWriters, FabricError, Invitation, Landing, READ_BYTES_MAX, Read, Regions,
    WRITE_DEPTH_MAX, Write, WriteChannel,
};
use crate::replication::regions::{LINES, POOL, TABLES};
use crate::store::line::ControlLine;
use crate::store::log::Cell;
use crate::store::{Geometry, Memory};
use crate::sys::memory::Memfd;
use crate::sys::sync::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of one round's WRITEs: the replica applies them while the next are on their way. With a
/// round trip of 10 us that allows 50 GB/s.
const ROUND_BYTES_MAX: usize = 512 << 10;
/// Bytes of one WRITE.
const PIECE_BYTES_MAX: usize = 256 << 10;
/// WRITEs of one round. One more may be under way: the one that publishes the round before.
const PIECES_MAX: usize = WRITE_DEPTH_MAX - 1;

const _: () = assert!(PIECE_BYTES_MAX <= READ_BYTES_MAX && PIECES_MAX * PIECE_BYTES_MAX >= ROUND_BYTES_MAX);

/// What a step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Bytes that were written.
    pub pushed_bytes: u64,
    /// Bytes that could be written at once, and were not in this round.
    pub backlog_bytes: u64,
    /// The replica has said something new. (That a line has changed here does not count: with a
    /// replica that stands still, and writers that do not, it always has.)
    pub moved: bool,
}

/// One shard's part.
#[derive(Default)]
struct Outlet {
    want: Option<Want>,
    /// Up to where bytes were written, of this want.
    next: u64,
    /// What was told last.
    line: Option<PushedLine>,
}

/// See the module.
pub struct Pusher {
    channel: Box<dyn WriteChannel>,
    regions: Arc<dyn Regions>,
    sources: Arc<Outgoing>,
    geometry: Geometry,
    memory: Memory,
    layout: Layout,
    outlets: Vec<Outlet>,
    ack: Arc<Memfd>,
    /// Receives the wants; None while a READ has it.
    landing: Option<Landing>,
    looking_since: Instant,
    /// Where the next round begins, so that no shard starves.
    first: usize,
    round: Vec<Write>,
    reads: Vec<Read>,
    done: Vec<Completion>,
    silence_max: Duration,
    clock: fn() -> Instant,
}

/// Where WRITEs go out from: lines that are put together here, and the logs themselves.
struct Outgoing {
    lines: Memfd,
    regions: Arc<dyn Regions>,
}

impl Regions for Outgoing {
    fn count(&self) -> usize {
        self.regions.count()
    }

    fn memory(&self, number: usize) -> &Memfd {
        if number == LINES as usize { &self.lines } else { self.regions.memory(number) }
    }
}

impl Pusher {
    /// Connect to an inbox of this layout, to which a replica has invited, and push a store to it,
    /// of which `regions` are the regions. A READ that is not answered for `silence_max` ends it.
    pub fn connect(
        fabric: &dyn ConnectsWriters,
        invitation: &Invitation,
        regions: Arc<dyn Regions>,
        (geometry, memory): (Geometry, Memory),
        layout: Layout,
        silence_max: Duration,
    ) -> Result<Pusher, FabricError> {
        let kind = fabric.kind();
        let no_memory = |error| FabricError::from_io(kind, "memory for pushing to a replica", &error);
        let lines =
            Memfd::new("remora-lines", layout.lines_bytes().next_multiple_of(4096), false).map_err(no_memory)?;
        let ack = Arc::new(Memfd::new("remora-ack", ACK_BYTES, false).map_err(no_memory)?);
        let sources = Arc::new(Outgoing { lines, regions: regions.clone() });
        let mut channel = fabric.connect(invitation, sources.clone())?;
        let landing = Some(channel.landing(layout.notes_read_bytes().next_multiple_of(4096))?);
        let outlets = (0..layout.shards()).map(|_| Outlet::default()).collect();
        let mut pusher = Pusher {
            channel,
            regions,
            sources,
            geometry,
            memory,
            layout,
            outlets,
            ack,
            landing,
            looking_since: Instant::now(),
            first: 0,
            round: Vec::new(),
            reads: Vec::new(),
            done: Vec::new(),
            silence_max,
            clock: Instant::now,
        };
        // So that the replica sees what there is, and can say what it wants.
        pusher.publish()?;
        Ok(pusher)
    }

    /// Go by another clock than the system's from now on: with the simulated fabric a run is then a
    /// function of its seed.
    pub fn set_clock(&mut self, clock: fn() -> Instant) {
        self.clock = clock;
    }

    /// What the replica has told, as in a grant's ack slot.
    pub fn ack(&self) -> &Arc<Memfd> {
        &self.ack
    }

    /// One step: start a round if none is under way, wait up to `wait` for its end, publish it.
    pub fn step(&mut self, wait: Duration) -> Result<Step, FabricError> {
        let mut step = Step::default();
        if let Some(landing) = self.landing.take() {
            self.push(&mut step)?;
            self.looking_since = (self.clock)();
            let bytes = self.layout.notes_read_bytes();
            self.reads.push(Read { region: NOTES, offset: 0, bytes, landing, tag: 0 });
            self.channel.submit(&mut self.reads)?;
        }
        let outcome = self.channel.poll(&mut self.done, wait);
        if let Some(completion) = self.done.pop() {
            completion.outcome?;
            step.moved = self.listen(&completion.landing);
            self.landing = Some(completion.landing);
            self.publish()?;
        }
        outcome?;
        let silence = (self.clock)().saturating_duration_since(self.looking_since);
        if self.landing.is_none() && silence > self.silence_max {
            let what = format!("the replica's inbox was not answered for {silence:?}");
            return Err(FabricError::new(self.channel.kind(), Cause::TimedOut, what));
        }
        Ok(step)
    }

    /// WRITE to the windows what is committed and wanted.
    fn push(&mut self, step: &mut Step) -> Result<(), FabricError> {
        let (shards, mut left) = (self.outlets.len(), ROUND_BYTES_MAX);
        for turn in 0..shards {
            let shard = (self.first + turn) % shards;
            let Outlet { want: Some(want), next, .. } = self.outlets[shard] else { continue };
            let line = ControlLine::of(self.regions.memory(LINES as usize).words(), shard);
            // What was given up is not wanted by anybody, whatever he says.
            let mut next = next.max(want.position).max(line.tail());
            let until = line.committed().min(want.position + self.layout.window_bytes());
            while next < until && left > 0 && self.round.len() < PIECES_MAX {
                let write = self.piece(shard, next, (until - next).min(left as u64) as usize);
                next += write.bytes as u64;
                left -= write.bytes;
                self.round.push(write);
            }
            self.outlets[shard].next = next;
            step.backlog_bytes += until.saturating_sub(next);
        }
        self.first = (self.first + 1) % shards;
        step.pushed_bytes = (ROUND_BYTES_MAX - left) as u64;
        self.channel.write(&self.round)?;
        self.round.clear();
        Ok(())
    }

    /// The longest WRITE from a position on, of at most `bytes_max`, that is in one piece on both
    /// sides.
    fn piece(&self, shard: usize, position: u64, bytes_max: usize) -> Write {
        let slab_bytes = self.geometry.slab_bytes;
        let (virtual_slab, within) = (position / slab_bytes, position % slab_bytes);
        let cells = u64::from(self.memory.table_cells);
        let cell =
            &self.regions.memory(TABLES as usize).words()[(shard as u64 * cells + virtual_slab % cells) as usize];
        // A cell that has changed leads to other bytes of the pool: the tail has passed the
        // position then, and says so behind it.
        let from = u64::from(Cell::from_bits(cell.load(Relaxed)).physical) * slab_bytes + within;
        let to_slab_end = (slab_bytes - within) as usize;
        let (offset, to_window_end) = self.layout.place(shard, position);
        let bytes = bytes_max.min(to_slab_end).min(to_window_end).min(PIECE_BYTES_MAX);
        Write { source: POOL as usize, from: from as usize, region: INBOX, offset: offset as u64, bytes }
    }

    /// What the replica has said: wants, and acks for the slot. True if any of it is new.
    fn listen(&mut self, landing: &Landing) -> bool {
        let words = landing.words(self.layout.notes_read_bytes());
        let mut moved = false;
        for (outlet, words) in self.outlets.iter_mut().zip(words.chunks_exact(WANT_BYTES / 8)) {
            let Some(want) = Want::load(words) else { continue };
            let run = outlet.want.map(|want| want.run);
            moved |= outlet.want != Some(want);
            outlet.want = Some(want);
            if run != Some(want.run) {
                outlet.next = want.position;
            }
        }
        // In any order, as a replica WRITEs them itself.
        for (to, from) in self.ack.words().iter().zip(&words[self.layout.wants_bytes() / 8..]) {
            let word = from.load(Relaxed);
            moved |= to.load(Relaxed) != word;
            to.store(word, Release);
        }
        moved
    }

    /// WRITE the lines that have changed, behind what they publish.
    fn publish(&mut self) -> Result<(), FabricError> {
        // The tail must be no older than what was read of the log.
        fence(Acquire);
        let mut changed: Option<(usize, usize)> = None;
        for (shard, outlet) in self.outlets.iter_mut().enumerate() {
            let control = ControlLine::of(self.regions.memory(LINES as usize).words(), shard);
            let line = PushedLine::of(&control, outlet.next, outlet.want.map_or(0, |want| want.run));
            let before = outlet.line.map(|line| line.term_and_committed());
            if before.is_some_and(|(term, committed)| elsewhere((term, committed), line.term_and_committed())) {
                let what = format!("shard {shard} has begun another term, or elsewhere: the replica is to join again");
                return Err(FabricError::new(self.channel.kind(), Cause::Elsewhere, what));
            }
            if outlet.line != Some(line) {
                // No WRITE from here is under way: the last one was submitted before the READ that
                // has just completed.
                line.store(&self.sources.lines.words()[shard * LINE_WORDS..][..LINE_WORDS]);
                outlet.line = Some(line);
                changed = Some((changed.map_or(shard, |(first, _)| first), shard));
            }
        }
        let Some((first, last)) = changed else { return Ok(()) };
        let (from, bytes) = (first * LINE_WORDS * 8, (last + 1 - first) * LINE_WORDS * 8);
        self.channel.write(&[Write { source: LINES as usize, from, region: INBOX, offset: from as u64, bytes }])
    }
}

/// Whether a log is not the one that it was before. Bytes that were read of it in between may be
/// anything, so they are not published. (Term 0 is that of a log which has not begun, and has no
/// bytes.)
fn elsewhere(before: (u64, u64), now: (u64, u64)) -> bool {
    before.0 != 0 && (before.0 != now.0 || now.1 < before.1)
}
