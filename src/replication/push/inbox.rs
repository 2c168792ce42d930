//! The replica's side of a push: the inbox, which is memory that was granted to the primary, as the
//! channel that a puller reads. A READ is a copy out of this memory. The primary may write to it at
//! any time, so only the copy is judged, like everything that comes over a channel.
//!
//! READs are answered in the order of their submission. One of log bytes that are not in the window
//! yet waits, as one over a network waits for its bytes: the primary is told what is wanted, and
//! pushes it. So the puller reads an inbox as it reads any other channel.
//!
//! Invariant: before the primary is told a want, everything that the want lets it overwrite has
//! been copied out.

use super::layout::{Layout, WANT_BYTES};
use super::notes::{LINE_WORDS, PushedLine, Want};
use super::{Invite, layout::InboxMemory, layout::slabs_per_shard};
use crate::fabric::{
    Cause, Channel, Completion, DEPTH_MAX, Exporter, FabricError, Grant, Invitation, Kind, Landing, Read, Token,
};
use crate::replication::regions::{LINES, TABLES};
use crate::store::line::CONTROL_LINE_BYTES;
use crate::store::line::POSITION_MAX;
use crate::store::log::Cell;
use crate::store::{Geometry, Memory};
use crate::sys::foreign::copy;
use crate::sys::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a busy inbox looks whether the primary is still there: over shared memory that is a
/// system call.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long a poll looks for what is pushed before it sleeps between its looks, and how long it
/// sleeps.
const BUSY_POLL: Duration = Duration::from_micros(50);
/// See [`BUSY_POLL`].
const NAP: Duration = Duration::from_micros(100);

/// One shard's part.
#[derive(Default)]
struct Shelf {
    /// The last line that was whole.
    line: Option<PushedLine>,
    /// The tail that the puller was shown last.
    shown_tail: u64,
    /// The first virtual slab of the cells that it was shown last.
    first_slab: u64,
    /// What the primary was told; None before the first want.
    told: Option<Want>,
}

/// A READ that is not answered yet.
struct Waiting {
    read: Read,
    asks: Asks,
}

/// What it is of.
enum Asks {
    Lines,
    Cells,
    Piece {
        shard: usize,
        /// The position that it begins at.
        begin: u64,
        copied_bytes: usize,
    },
}

/// See the module. The grant is dropped before the exporter.
pub struct Inbox {
    kind: Kind,
    grant: Box<dyn Grant>,
    _exporter: Box<dyn Exporter>,
    memory: Arc<InboxMemory>,
    layout: Layout,
    geometry: Geometry,
    memory_of_primary: Memory,
    shelves: Vec<Shelf>,
    waiting: VecDeque<Waiting>,
    done: Vec<Completion>,
    looked: Instant,
    over: Option<FabricError>,
}

impl Inbox {
    /// One for a store of this geometry, laid out as said, granted at `exporter` to who shows
    /// `token`; and what to tell the primary, but for the pause.
    pub fn grant(
        exporter: Box<dyn Exporter>,
        token: Token,
        geometry: Geometry,
        memory_of_primary: Memory,
        layout: Layout,
    ) -> Result<(Inbox, Invite), FabricError> {
        let kind = exporter.kind();
        let memory = InboxMemory::new(&layout);
        let memory = Arc::new(memory.map_err(|error| FabricError::from_io(kind, "memory for an inbox", &error))?);
        let grant = exporter.grant(token, memory.clone())?;
        let invitation = Invitation::new(&*exporter, token, &*grant);
        let invite = Invite { fabric: kind, window_bytes: layout.window_bytes(), pause_microseconds: 0, invitation };
        let shelves = (0..layout.shards()).map(|_| Shelf::default()).collect();
        let inbox = Inbox {
            kind,
            grant,
            _exporter: exporter,
            memory,
            layout,
            geometry,
            memory_of_primary,
            shelves,
            waiting: VecDeque::with_capacity(DEPTH_MAX),
            done: Vec::with_capacity(DEPTH_MAX),
            looked: Instant::now(),
            over: None,
        };
        Ok((inbox, invite))
    }

    fn check(&self) -> Result<(), FabricError> {
        self.over.clone().map_or(Ok(()), Err)
    }

    /// Whether the primary is there.
    fn look_at_times(&mut self) {
        if self.over.is_none() && self.looked.elapsed() >= LOOK_EVERY {
            self.over = self.grant.state().err();
            self.looked = Instant::now();
        }
    }

    fn fail(&mut self, what: String) -> FabricError {
        self.over.get_or_insert_with(|| FabricError::new(self.kind, Cause::Access, what)).clone()
    }

    /// Take over the line of a shard, if it is whole.
    fn refresh(&mut self, shard: usize) {
        let words = &self.memory.inbox().words()[shard * LINE_WORDS..][..LINE_WORDS];
        let shelf = &mut self.shelves[shard];
        shelf.line = PushedLine::load(words).or(shelf.line);
    }

    /// Answer a look: the lines of the shards that it is of, as a puller expects them. False while
    /// one of them has none yet.
    fn show_lines(&mut self, read: &Read) -> Result<bool, FabricError> {
        let first = (read.offset / CONTROL_LINE_BYTES as u64) as usize;
        let span = first..first + read.bytes / CONTROL_LINE_BYTES;
        if span.end > self.shelves.len() {
            return Err(self.fail(format!("a READ at byte {} of the control lines: there are none", read.offset)));
        }
        span.clone().for_each(|shard| self.refresh(shard));
        let shelves = &mut self.shelves[span];
        if shelves.iter().any(|shelf| shelf.line.is_none()) {
            return Ok(false);
        }
        let to = read.landing.words(read.bytes);
        for (shelf, to) in shelves.iter_mut().zip(to.chunks_exact(CONTROL_LINE_BYTES / 8)) {
            let line = shelf.line.as_ref().expect("there is one of each shard");
            line.show(to);
            shelf.shown_tail = line.tail();
        }
        Ok(true)
    }

    /// Cells: the inbox has no slabs, so it numbers them by itself. A shard's virtual slabs take
    /// turns in as many numbers as it has, so no more of them are shown at a time.
    fn show_cells(&mut self, read: &Read) -> Result<(), FabricError> {
        let cells = u64::from(self.memory_of_primary.table_cells);
        let slabs = slabs_per_shard(&self.geometry, &self.memory_of_primary);
        let (shard, first) = (read.offset / 8 / cells, read.offset / 8 % cells);
        let Some(shelf) = self.shelves.get_mut(shard as usize) else {
            return Err(self.fail(format!("a READ of cells at byte {}: there are none", read.offset)));
        };
        // Of the virtual slabs that have this cell, the puller means the first at or above the tail
        // that it was shown.
        let base = shelf.shown_tail.min(POSITION_MAX) / self.geometry.slab_bytes;
        shelf.first_slab = base + (first.wrapping_sub(base) & (cells - 1));
        for (word, ahead) in read.landing.words(read.bytes).iter().zip(0..) {
            let virtual_slab = shelf.first_slab + ahead;
            let number = if ahead < slabs { shard * slabs + virtual_slab % slabs } else { u32::MAX.into() };
            word.store(Cell { virtual_slab, physical: number as u32 }.to_bits(), Relaxed);
        }
        Ok(())
    }

    /// What a READ is of. A piece's place is one that [`Inbox::show_cells`] has shown.
    fn asks(&self, read: &Read) -> Asks {
        match read.region {
            LINES => Asks::Lines,
            TABLES => Asks::Cells,
            _ => {
                let (slabs, slab_bytes) =
                    (slabs_per_shard(&self.geometry, &self.memory_of_primary), self.geometry.slab_bytes);
                let (number, within) = (read.offset / slab_bytes, read.offset % slab_bytes);
                let (shard, number) = ((number / slabs) as usize, number % slabs);
                let first_slab = self.shelves.get(shard).map_or(0, |shelf| shelf.first_slab);
                let virtual_slab = first_slab + (number + slabs - first_slab % slabs) % slabs;
                Asks::Piece { shard, begin: virtual_slab * slab_bytes + within, copied_bytes: 0 }
            }
        }
    }

    /// Tell the primary that a shard's bytes are wanted from a position on. What lies before it may
    /// be overwritten.
    fn want(&mut self, shard: usize, position: u64) {
        let shelf = &mut self.shelves[shard];
        let run = match shelf.told {
            Some(told) if told.position <= position => told.run,
            told => told.map_or(1, |told| told.run.checked_add(1).unwrap_or(1)),
        };
        let want = Want { position, run };
        if shelf.told != Some(want) {
            want.store(&self.memory.notes().words()[shard * WANT_BYTES / 8..][..WANT_BYTES / 8]);
            shelf.told = Some(want);
        }
    }

    /// Up to where a shard's window holds what is wanted.
    fn pushed(&self, shard: usize) -> u64 {
        let Shelf { told: Some(told), line: Some(line), .. } = &self.shelves[shard] else { return 0 };
        let pushed = if line.run() == told.run { line.pushed() } else { 0 };
        pushed.min(told.position + self.layout.window_bytes()) / 8 * 8
    }

    /// Copy what there is of a piece of `bytes` bytes; true once all of it is copied.
    fn copy_some(&mut self, to: &[AtomicU64], shard: usize, begin: u64, copied_bytes: &mut usize) -> bool {
        let bytes = to.len() * 8;
        self.want(shard, begin + *copied_bytes as u64);
        self.refresh(shard);
        let there_bytes = self.pushed(shard).saturating_sub(begin).min(bytes as u64) as usize;
        while *copied_bytes < there_bytes {
            let (at, left) = self.layout.place(shard, begin + *copied_bytes as u64);
            let run = left.min(there_bytes - *copied_bytes) / 8;
            copy(&self.memory.inbox().words()[at / 8..][..run], &to[*copied_bytes / 8..][..run]);
            *copied_bytes += run * 8;
        }
        // Order: the look that judges this piece loads its lines after these words. And the copy is
        // done before the want is told that lets the primary overwrite them.
        fence(Acquire);
        self.want(shard, begin + *copied_bytes as u64);
        *copied_bytes == bytes
    }

    /// Answer READs, in their order, as far as what they ask for is there.
    fn answer(&mut self) {
        while let Some(mut next) = self.waiting.pop_front() {
            match self.carry_out(&mut next) {
                Ok(false) => return self.waiting.push_front(next),
                outcome => {
                    let Read { tag, landing, .. } = next.read;
                    self.done.push(Completion { tag, landing, outcome: outcome.map(drop) });
                }
            }
        }
    }

    /// False while it has to wait.
    fn carry_out(&mut self, next: &mut Waiting) -> Result<bool, FabricError> {
        self.check()?;
        let read = &next.read;
        match &mut next.asks {
            Asks::Lines => self.show_lines(read),
            Asks::Cells => self.show_cells(read).map(|()| true),
            Asks::Piece { shard, .. } if *shard >= self.shelves.len() => {
                Err(self.fail(format!("a READ at byte {} of the slabs: there is none", read.offset)))
            }
            Asks::Piece { shard, begin, copied_bytes } => {
                Ok(self.copy_some(read.landing.words(read.bytes), *shard, *begin, copied_bytes))
            }
        }
    }

    /// Take a READ. What it wants of a shard is told at once, unless another one wants something of
    /// that shard before it.
    fn take(&mut self, read: Read) {
        let asks = self.asks(&read);
        if let Asks::Piece { shard, begin, .. } = asks
            && shard < self.shelves.len()
            && !self.waiting.iter().any(|one| matches!(one.asks, Asks::Piece { shard: other, .. } if other == shard))
        {
            self.want(shard, begin);
        }
        self.waiting.push_back(Waiting { read, asks });
    }
}

impl Channel for Inbox {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn depth_max(&self) -> usize {
        DEPTH_MAX
    }

    fn landing(&mut self, bytes: usize) -> Result<Landing, FabricError> {
        Landing::new(bytes).map_err(|error| FabricError::from_io(self.kind, "memory for a landing", &error))
    }

    fn submit(&mut self, reads: &mut Vec<Read>) -> Result<(), FabricError> {
        self.look_at_times();
        self.check()?;
        assert!(
            self.done.len() + self.waiting.len() + reads.len() <= DEPTH_MAX,
            "more READs under way than were allowed"
        );
        reads.drain(..).for_each(|read| self.take(read));
        self.answer();
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Completion>, wait: Duration) -> Result<usize, FabricError> {
        let begun = Instant::now();
        loop {
            self.look_at_times();
            self.answer();
            if !self.done.is_empty() {
                break;
            }
            self.check()?;
            let waited = begun.elapsed();
            if waited >= wait {
                break;
            } else if waited < BUSY_POLL {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(NAP.min(wait - waited));
            }
        }
        let count = self.done.len();
        done.append(&mut self.done);
        Ok(count)
    }

    fn write_ack(&mut self, offset: usize, words: &[u64]) -> Result<bool, FabricError> {
        self.check()?;
        let slot = &self.memory.notes().words()[(self.layout.wants_bytes() + offset) / 8..];
        let store = |(to, word): (&AtomicU64, &u64)| to.store(*word, Release);
        slot[..words.len()].iter().zip(words).for_each(store);
        Ok(true)
    }
}
