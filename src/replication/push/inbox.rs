//! The replica's side of a push: the inbox, which is memory that was granted to the primary, as the
//! channel that a puller reads. A READ is a copy out of this memory. The primary may write to it at
//! any time, so only the copy is judged, like everything that comes over a channel.
//!
//! Invariant: before the primary is told a want, everything that the want lets it overwrite has
//! been copied out.

use super::layout::{Layout, WANT_BYTES};
use super::notes::{CONTROL_WORDS, LINE_WORDS, PushedLine, Want};
use super::{Invite, layout::InboxMemory, layout::slabs_per_shard};
use crate::fabric::{
    Cause, Channel, Completion, DEPTH_MAX, Exporter, FabricError, Grant, Invitation, Kind, Landing, Read, Token,
};
use crate::replication::regions::{LINES, TABLES};
use crate::store::log::Cell;
use crate::store::{Geometry, Memory};
use crate::sys::foreign::copy;
use crate::sys::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a busy inbox looks whether the primary is still there: over shared memory that is a
/// system call.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Longest sleep within a poll, while the primary's first lines are awaited.
const NAP: Duration = Duration::from_micros(100);

/// One shard's part.
#[derive(Default)]
struct Shelf {
    /// The last line that was whole.
    line: Option<PushedLine>,
    /// What the primary was told; None before the first want.
    told: Option<Want>,
    /// From where on the lane reads.
    wanted: u64,
    /// Up to where READs have been copied.
    copied: u64,
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
    done: Vec<Completion>,
    /// READs that wait for the primary's first lines.
    early: Vec<Read>,
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
        let invitation = Invitation {
            address: exporter.address(),
            token,
            regions: grant.descriptors().to_vec(),
            ack: grant.ack_descriptor(),
        };
        let invite = Invite { fabric: kind, window_bytes: layout.window_bytes(), pause_microseconds: 0, invitation };
        let shelves = (0..layout.shards()).map(|_| Shelf::default()).collect();
        let (done, early) = (Vec::new(), Vec::new());
        let looked = Instant::now();
        let inbox = Inbox {
            kind,
            grant,
            _exporter: exporter,
            memory,
            layout,
            geometry,
            memory_of_primary,
            shelves,
            done,
            early,
            looked,
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

    /// Take over the lines that are whole. True once every shard has one.
    fn refresh(&mut self) -> bool {
        let words = self.memory.inbox().words();
        for (shelf, words) in self.shelves.iter_mut().zip(words.chunks_exact(LINE_WORDS)) {
            shelf.line = PushedLine::load(words).or(shelf.line);
        }
        self.shelves.iter().all(|shelf| shelf.line.is_some())
    }

    /// Answer a look: the lines, as a puller expects them. False while a shard has none yet.
    fn show_lines(&mut self, read: &Read) -> bool {
        if !self.refresh() {
            return false;
        }
        let to = read.landing.words(read.bytes);
        for (shelf, to) in self.shelves.iter().zip(to.chunks_exact(LINE_WORDS)) {
            let line = shelf.line.as_ref().expect("there is one of each shard");
            to.iter().zip(line.control()).for_each(|(to, word)| to.store(*word, Relaxed));
            to[CONTROL_WORDS..].iter().for_each(|to| to.store(0, Relaxed));
        }
        true
    }

    /// Cells: the inbox has no slabs, so it numbers them by itself. A shard's virtual slabs take
    /// turns in as many as it has.
    fn show_cells(&mut self, read: &Read) -> Result<(), FabricError> {
        let cells = u64::from(self.memory_of_primary.table_cells);
        let slabs = slabs_per_shard(&self.geometry, &self.memory_of_primary);
        let (shard, first) = (read.offset / 8 / cells, read.offset / 8 % cells);
        let Some(shelf) = self.shelves.get(shard as usize) else {
            return Err(self.fail(format!("a READ of cells at byte {}: there are none", read.offset)));
        };
        let base = shelf.wanted / self.geometry.slab_bytes;
        for (word, at) in read.landing.words(read.bytes).iter().zip(first..) {
            // The virtual slab of this cell that is at the wanted position, or next behind it.
            let virtual_slab = base + (at.wrapping_sub(base) & (cells - 1));
            let physical = (shard * slabs + virtual_slab % slabs) as u32;
            word.store(Cell { virtual_slab, physical }.to_bits(), Relaxed);
        }
        Ok(())
    }

    /// A piece: of which shard and position follows from its place, as nothing is read but what
    /// lies within a window of what was told.
    fn copy_piece(&mut self, read: &Read) -> Result<(), FabricError> {
        let span = slabs_per_shard(&self.geometry, &self.memory_of_primary) * self.geometry.slab_bytes;
        let (shard, place) = (read.offset / span, read.offset % span);
        let Some(shelf) = self.shelves.get_mut(shard as usize) else {
            return Err(self.fail(format!("a READ at byte {} of the slabs: there is none", read.offset)));
        };
        let base = shelf.told.map_or(0, |want| want.position);
        let begin = base + (place + span - base % span) % span;
        let end = begin + read.bytes as u64;
        if shelf.told.is_none() || end - base > self.layout.window_bytes() {
            return Err(self.fail(format!("a READ of shard {shard} at {begin}, which is not in its window")));
        }
        shelf.copied = end;
        let to = read.landing.words(read.bytes);
        let mut copied = 0;
        while copied < read.bytes {
            let (at, left) = self.layout.place(shard as usize, begin + copied as u64);
            let bytes = left.min(read.bytes - copied);
            copy(&self.memory.inbox().words()[at / 8..][..bytes / 8], &to[copied / 8..][..bytes / 8]);
            copied += bytes;
        }
        // Order: the look that judges this piece loads its lines after these words. And the copy is
        // done before the want is told that lets the primary overwrite them.
        fence(Acquire);
        Ok(())
    }

    /// Tell the primary what is wanted of a shard.
    fn tell(&mut self, shard: usize, run: u32) {
        let shelf = &mut self.shelves[shard];
        let want = Want { position: shelf.wanted, run };
        if shelf.told != Some(want) {
            want.store(&self.memory.notes().words()[shard * WANT_BYTES / 8..][..WANT_BYTES / 8]);
            shelf.told = Some(want);
        }
    }

    fn carry_out(&mut self, read: Read) {
        let outcome = match read.region {
            _ if self.over.is_some() => self.check(),
            LINES => match self.early.is_empty() && self.show_lines(&read) {
                true => Ok(()),
                false => return self.early.push(read),
            },
            TABLES => self.show_cells(&read),
            _ => self.copy_piece(&read),
        };
        self.done.push(Completion { tag: read.tag, landing: read.landing, outcome });
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
            self.done.len() + self.early.len() + reads.len() <= DEPTH_MAX,
            "more READs under way than were allowed"
        );
        reads.drain(..).for_each(|read| self.carry_out(read));
        // All READs that were planned are copied, so the primary may overwrite what they have read.
        for shard in 0..self.shelves.len() {
            let shelf = &mut self.shelves[shard];
            shelf.wanted = shelf.wanted.max(shelf.copied);
            if let Some(told) = shelf.told {
                self.tell(shard, told.run);
            }
        }
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Completion>, wait: Duration) -> Result<usize, FabricError> {
        self.look_at_times();
        if self.done.is_empty() && !self.early.is_empty() && self.over.is_none() {
            if !self.refresh() {
                std::thread::sleep(wait.min(NAP));
            }
            let early = std::mem::take(&mut self.early);
            early.into_iter().for_each(|read| self.carry_out(read));
        }
        if self.done.is_empty() {
            self.check()?;
        }
        let count = self.done.len();
        done.append(&mut self.done);
        Ok(count)
    }

    fn write_ack(&mut self, offset: usize, words: &[u64]) -> Result<(), FabricError> {
        self.check()?;
        let slot = &self.memory.notes().words()[(self.layout.wants_bytes() + offset) / 8..];
        let store = |(to, word): (&AtomicU64, &u64)| to.store(*word, Release);
        slot[..words.len()].iter().zip(words).for_each(store);
        Ok(())
    }

    fn reach(&mut self, shard: usize, from: u64) -> u64 {
        let shelf = &mut self.shelves[shard];
        match shelf.told {
            Some(told) if from >= shelf.wanted => {
                shelf.wanted = from;
                // If a READ beyond what is copied has been planned, the want is told once that READ
                // is submitted.
                if from <= shelf.copied {
                    self.tell(shard, told.run);
                }
            }
            told => {
                (shelf.wanted, shelf.copied) = (from, from);
                self.tell(shard, told.map_or(1, |told| told.run.checked_add(1).unwrap_or(1)));
            }
        }
        let shelf = &self.shelves[shard];
        let told = shelf.told.expect("told above");
        let pushed = shelf.line.filter(|line| line.run() == told.run).map_or(0, |line| line.pushed());
        pushed.min(told.position + self.layout.window_bytes())
    }
}
