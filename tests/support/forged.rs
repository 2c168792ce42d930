//! What a primary offers, made by hand: memory of the test's own, laid out as logs with their
//! control lines, and filled with whatever a test likes.

use fastrand::Rng;
use remora::base::term::Term;
use remora::fabric::Regions;
use remora::store::line::{BIRTH, CONTROL_LINE_BYTES};
use remora::store::log::Cell;
use remora::store::record::{Draft, Kind, Meta, Source};
use remora::store::seed::Seed;
use remora::store::{Geometry, History, Memory};
use remora::sys::memory::Memfd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release};

pub const TERM: Term = Term::of(1, 0xABC);

/// Small, in slabs of which a shard has several.
pub const GEOMETRY: Geometry = Geometry { shards: 2, slab_bytes: 16 << 10, record_bytes_max: 8 << 10, evict: true };

/// Of each shard.
pub const SLABS: u64 = 4;
const CELLS: u64 = 8;

/// What goes with it.
pub fn memory(geometry: &Geometry) -> Memory {
    Memory { slabs: geometry.shards * SLABS as u32, table_cells: CELLS as u32 }
}

/// Bytes of log that a shard can have.
pub fn capacity_bytes(geometry: &Geometry) -> u64 {
    SLABS * geometry.slab_bytes
}

/// See the module.
pub struct Forged {
    pub geometry: Geometry,
    lines: Memfd,
    tables: Memfd,
    pool: Memfd,
}

/// A control line.
#[derive(Debug, Clone, Copy)]
pub struct ForgedLine {
    pub term: u64,
    pub committed: u64,
    pub tail: u64,
    pub capacity_bytes: u64,
    pub owes_until: u64,
    pub beat: u64,
}

impl Regions for Forged {
    fn count(&self) -> usize {
        3
    }

    fn memory(&self, number: usize) -> &Memfd {
        [&self.lines, &self.tables, &self.pool][number]
    }
}

impl Forged {
    /// Empty logs of [`TERM`].
    pub fn new(geometry: Geometry) -> Forged {
        let slab = |bytes: u64| Memfd::new("forged", bytes as usize, false).expect("memory");
        let lines = slab(u64::from(geometry.shards) * CONTROL_LINE_BYTES as u64);
        let tables = slab(u64::from(geometry.shards) * CELLS * 8);
        let pool = slab(u64::from(geometry.shards) * capacity_bytes(&geometry));
        let forged = Forged { geometry, lines, tables, pool };
        for virtual_slab in 0..CELLS {
            (0..geometry.shards).for_each(|shard| forged.map(shard.into(), virtual_slab));
        }
        for shard in 0..geometry.shards as usize {
            forged.show(shard, forged.line(BIRTH, BIRTH));
        }
        forged
    }

    /// An honest line, as far as positions can be honest.
    pub fn line(&self, tail: u64, committed: u64) -> ForgedLine {
        let capacity_bytes = capacity_bytes(&self.geometry);
        ForgedLine { term: TERM.0, committed, tail, capacity_bytes, owes_until: 0, beat: 0 }
    }

    /// Publish a shard's control line.
    pub fn show(&self, shard: usize, line: ForgedLine) {
        let words = &self.lines.words()[shard * CONTROL_LINE_BYTES / 8..];
        let values = [line.term, line.committed, line.tail, line.capacity_bytes, BIRTH, line.owes_until, line.beat];
        for (word, value) in words.iter().zip(values) {
            word.store(value, Release);
        }
    }

    /// A shard's virtual slabs take turns in its part of the pool.
    pub fn map(&self, shard: u64, virtual_slab: u64) {
        let cell = Cell { virtual_slab, physical: (shard * SLABS + virtual_slab % SLABS) as u32 };
        self.tables.words()[(shard * CELLS + virtual_slab % CELLS) as usize].store(cell.to_bits(), Release);
    }

    /// Fill all cells with random words.
    pub fn scribble_tables(&self, random: &mut Rng) {
        self.tables.words().iter().for_each(|word| word.store(random.u64(..), Relaxed));
    }

    /// Fill all logs with random bytes.
    pub fn scribble(&self, random: &mut Rng) {
        self.pool.words().iter().for_each(|word| word.store(random.u64(..), Relaxed));
    }

    /// The words of a shard from a position to the end of its slab.
    fn words_at(&self, shard: u64, position: u64) -> &[AtomicU64] {
        let capacity_bytes = capacity_bytes(&self.geometry);
        let begin = (shard * capacity_bytes + position % capacity_bytes) / 8;
        let words = (self.geometry.slab_bytes - position % self.geometry.slab_bytes) / 8;
        &self.pool.words()[begin as usize..][..words as usize]
    }

    /// Records of 64 bytes each, from position `begin` to `end`, in the first shard.
    pub fn write_equal_records(&self, begin: u64, end: u64) {
        for position in (begin..end).step_by(64) {
            let key = format!("{position:08}");
            let draft = Draft::new(Kind::Set, key.as_bytes(), Meta::default(), 0, None, Source::Bytes(&[b'v'; 40]));
            draft.write(self.words_at(0, position), Seed::of(0, position, TERM));
        }
    }

    /// Append good records to the first slab of a shard, and then perhaps damage one word. Returns
    /// where they end.
    pub fn write_records(&self, shard: usize, count: usize, damage: Option<&mut Rng>) -> u64 {
        let words = self.words_at(shard as u64, 0);
        let mut position = BIRTH;
        for number in 0..count {
            let (key, value) = (format!("key-{number}"), vec![b'v'; number % 200]);
            let draft = Draft::new(Kind::Set, key.as_bytes(), Meta::default(), 0, None, Source::Bytes(&value));
            draft.write(
                &words[position as usize / 8..][..draft.record_bytes() / 8],
                Seed::of(shard as u32, position, TERM),
            );
            position += draft.record_bytes() as u64;
        }
        if let Some(random) = damage.filter(|_| count > 0) {
            let at = random.u64(BIRTH / 8..position / 8) as usize;
            words[at].fetch_xor(1 << random.u32(0..64), Relaxed);
        }
        position
    }
}

/// The histories that go with it.
pub fn histories(shards: u32) -> Vec<History> {
    vec![History::born(TERM, BIRTH); shards as usize]
}
