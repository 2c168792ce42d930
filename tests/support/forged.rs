//! What a primary offers, made by hand: memory of the test's own, laid out as rings with their
//! control lines, and filled with whatever a test likes.

use fastrand::Rng;
use remora::base::epoch::Epoch;
use remora::fabric::Regions;
use remora::store::record::{Draft, Kind, Meta, Source};
use remora::store::ring::{BIRTH, CONTROL_LINE_BYTES};
use remora::store::{EpochStart, Geometry};
use remora::sys::memory::Slab;
use std::sync::atomic::Ordering::{Relaxed, Release};

pub const EPOCH: Epoch = Epoch(0xABC << 24 | 1);

/// Small rings, whose length is no multiple of the slab's.
pub const GEOMETRY: Geometry =
    Geometry { shards: 2, ring_bytes: 64 << 10, slab_bytes: 24 << 10, record_bytes_max: 8 << 10, evict: true };

/// See the module.
pub struct Forged {
    pub geometry: Geometry,
    lines: Slab,
    rings: Vec<Slab>,
}

/// A control line.
#[derive(Debug, Clone, Copy)]
pub struct ForgedLine {
    pub epoch: u64,
    pub committed: u64,
    pub tail: u64,
    pub ring_bytes: u64,
}

impl Regions for Forged {
    fn count(&self) -> usize {
        1 + self.rings.len()
    }

    fn slab(&self, number: usize) -> &Slab {
        number.checked_sub(1).map_or(&self.lines, |number| &self.rings[number])
    }
}

impl Forged {
    /// Empty rings of [`EPOCH`].
    pub fn new(geometry: Geometry) -> Forged {
        let slab = |bytes: u64| Slab::new("forged", bytes as usize, false).expect("memory");
        let starts = || (0..geometry.ring_bytes).step_by(geometry.slab_bytes as usize);
        let ring = |_| starts().map(|start| slab(geometry.slab_bytes.min(geometry.ring_bytes - start)));
        let lines = slab(u64::from(geometry.shards) * CONTROL_LINE_BYTES as u64);
        let forged = Forged { geometry, lines, rings: (0..geometry.shards).flat_map(ring).collect() };
        for shard in 0..geometry.shards as usize {
            forged.show(shard, forged.line(BIRTH, BIRTH));
        }
        forged
    }

    /// An honest line, as far as positions can be honest.
    pub fn line(&self, tail: u64, committed: u64) -> ForgedLine {
        ForgedLine { epoch: EPOCH.0, committed, tail, ring_bytes: self.geometry.ring_bytes }
    }

    /// Publish a shard's control line.
    pub fn show(&self, shard: usize, line: ForgedLine) {
        let words = &self.lines.words()[shard * CONTROL_LINE_BYTES / 8..];
        for (word, value) in words.iter().zip([line.epoch, line.committed, line.tail, line.ring_bytes, BIRTH]) {
            word.store(value, Release);
        }
    }

    /// Fill all rings with random bytes.
    pub fn scribble(&self, random: &mut Rng) {
        self.rings.iter().flat_map(|slab| slab.words()).for_each(|word| word.store(random.u64(..), Relaxed));
    }

    /// Records of 64 bytes each, from position `begin` to `end`, in a ring of one slab.
    pub fn write_equal_records(&self, begin: u64, end: u64) {
        for position in (begin..end).step_by(64) {
            let key = format!("{position:08}");
            let draft = Draft::new(Kind::Set, key.as_bytes(), Meta::default(), 0, None, Source::Bytes(&[b'v'; 40]));
            let at = (position % self.geometry.ring_bytes) as usize / 8;
            draft.write(&self.rings[0].words()[at..][..draft.record_bytes() / 8], position, EPOCH.0);
        }
    }

    /// Append good records to the first slab of a shard, and then perhaps damage one word. Returns
    /// where they end.
    pub fn write_records(&self, shard: usize, count: usize, damage: Option<&mut Rng>) -> u64 {
        let slabs = self.geometry.ring_bytes.div_ceil(self.geometry.slab_bytes) as usize;
        let words = self.rings[shard * slabs].words();
        let mut position = BIRTH;
        for number in 0..count {
            let (key, value) = (format!("key-{number}"), vec![b'v'; number % 200]);
            let draft = Draft::new(Kind::Set, key.as_bytes(), Meta::default(), 0, None, Source::Bytes(&value));
            draft.write(&words[position as usize / 8..][..draft.record_bytes() / 8], position, EPOCH.0);
            position += draft.record_bytes() as u64;
        }
        if let Some(random) = damage.filter(|_| count > 0) {
            let at = random.u64(BIRTH / 8..position / 8) as usize;
            words[at].fetch_xor(1 << random.u32(0..64), Relaxed);
        }
        position
    }
}

/// The history that goes with it.
pub fn history(shards: u32) -> Vec<EpochStart> {
    vec![EpochStart { epoch: EPOCH, begins: vec![BIRTH; shards as usize] }]
}
