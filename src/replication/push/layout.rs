//! An inbox's memory: two regions, and what is where in them. It follows from the number of shards
//! and a window's length alone.
//!
//! ```text
//! region 0, READ:   wants: 16 bytes a shard, to a multiple of 64 | the ack slot, as replication/ack.rs draws it
//! region 1, WRITE:  lines: 64 bytes a shard, to a multiple of 4096 | window of shard 0 | window of shard 1 | ...
//! ```
//! A position lies in its shard's window at (position mod window).

use crate::fabric::{ACK_BYTES, Access, Descriptor, Regions};
use crate::store::line::CONTROL_LINE_BYTES;
use crate::store::sizing::SHARDS_MAX;
use crate::store::{Geometry, Memory};
use crate::sys::memory::Memfd;
use std::io;

/// The region that the primary READs.
pub const NOTES: u32 = 0;
/// The region that the primary WRITEs to.
pub const INBOX: u32 = 1;
/// Bytes of all windows together: on top of a replica's `-m`.
pub const WINDOWS_BYTES_MAX: u64 = 64 << 20;
/// Longest window of a shard: several round trips of the fastest networks, and what is in it stays
/// in a cache.
pub const WINDOW_BYTES_MAX: u64 = 2 << 20;
/// Bytes of a want.
pub const WANT_BYTES: usize = 16;
/// Windows are whole cache lines.
const WINDOW_STEP: u64 = 64;
/// Pages, for the lines.
const PAGE_BYTES: usize = 4096;

const _: () = assert!(WINDOWS_BYTES_MAX / SHARDS_MAX as u64 >= WINDOW_STEP);

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    shards: usize,
    window_bytes: u64,
}

impl Layout {
    /// The one that a replica makes for such a store.
    pub fn of(geometry: &Geometry, memory: &Memory) -> Layout {
        let shards = geometry.shards as usize;
        let share = (WINDOWS_BYTES_MAX / shards as u64).min(window_bytes_max(geometry, memory));
        Layout { shards, window_bytes: share / WINDOW_STEP * WINDOW_STEP }
    }

    /// One with windows of a length that a replica has said; None if that cannot be.
    pub fn told(geometry: &Geometry, memory: &Memory, window_bytes: u64) -> Option<Layout> {
        let shards = geometry.shards as usize;
        let all = window_bytes.checked_mul(shards as u64)?;
        let possible =
            window_bytes > 0 && window_bytes.is_multiple_of(8) && window_bytes <= window_bytes_max(geometry, memory);
        (possible && all <= WINDOWS_BYTES_MAX).then_some(Layout { shards, window_bytes })
    }

    /// How many shards.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// Length of each window.
    pub fn window_bytes(&self) -> u64 {
        self.window_bytes
    }

    /// Bytes of the wants, where the ack slot begins.
    pub fn wants_bytes(&self) -> usize {
        (self.shards * WANT_BYTES).next_multiple_of(64)
    }

    /// The part of the notes that is used: the wants, and of the ack slot the summary and one
    /// position for each shard.
    pub fn notes_read_bytes(&self) -> usize {
        self.wants_bytes() + 64 * (1 + self.shards.div_ceil(8))
    }

    /// Bytes of all lines.
    pub fn lines_bytes(&self) -> usize {
        self.shards * CONTROL_LINE_BYTES
    }

    /// Length of the regions.
    pub fn region_bytes(&self) -> [usize; 2] {
        let notes = (self.wants_bytes() + ACK_BYTES).next_multiple_of(PAGE_BYTES);
        [notes, self.windows_at() + self.shards * self.window_bytes as usize]
    }

    fn windows_at(&self) -> usize {
        self.lines_bytes().next_multiple_of(PAGE_BYTES)
    }

    /// Where in the inbox a position of a shard lies, and how many bytes are left of the window
    /// from there.
    pub fn place(&self, shard: usize, position: u64) -> (usize, usize) {
        assert!(shard < self.shards);
        let within = (position % self.window_bytes) as usize;
        let window = self.window_bytes as usize;
        (self.windows_at() + shard * window + within, window - within)
    }

    /// Whether the regions that a replica has told are those of an inbox of this layout.
    pub fn is_of(&self, regions: &[Descriptor]) -> bool {
        regions.iter().map(|region| region.bytes).eq(self.region_bytes().map(|bytes| bytes as u64))
    }
}

/// Slabs of the inbox's own numbering that each shard has: consecutive ones, so that a window lies
/// in them at one place only.
pub fn slabs_per_shard(geometry: &Geometry, memory: &Memory) -> u64 {
    (memory.slabs / geometry.shards.max(1)).into()
}

/// No window is longer than this, nor than a shard.
fn window_bytes_max(geometry: &Geometry, memory: &Memory) -> u64 {
    (slabs_per_shard(geometry, memory) * geometry.slab_bytes).min(WINDOW_BYTES_MAX)
}

/// The replica's memory.
pub struct InboxMemory {
    notes: Memfd,
    inbox: Memfd,
}

impl InboxMemory {
    /// Zeroed.
    pub fn new(layout: &Layout) -> io::Result<InboxMemory> {
        let [notes, inbox] = layout.region_bytes();
        Ok(InboxMemory {
            notes: Memfd::new("remora-notes", notes, false)?,
            inbox: Memfd::for_writers("remora-inbox", inbox)?,
        })
    }

    /// Region 0.
    pub fn notes(&self) -> &Memfd {
        &self.notes
    }

    /// Region 1.
    pub fn inbox(&self) -> &Memfd {
        &self.inbox
    }
}

impl Regions for InboxMemory {
    fn count(&self) -> usize {
        2
    }

    fn memory(&self, number: usize) -> &Memfd {
        [&self.notes, &self.inbox][number]
    }

    fn access(&self, number: usize) -> Access {
        [Access::Read, Access::Write][number]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(shards: u32, slabs: u32) -> (Geometry, Memory) {
        let geometry = Geometry { shards, slab_bytes: 4096, record_bytes_max: 1024, evict: true };
        (geometry, Memory { slabs, table_cells: slabs.next_power_of_two() })
    }

    #[test]
    fn an_inbox_is_bounded_and_every_place_lies_in_its_own_window() {
        for (shards, slabs) in [(1, 8), (1, 1 << 24), (16, 3909), (64, 1 << 20), (1024, 1 << 26)] {
            let (geometry, memory) = store(shards, slabs);
            let layout = Layout::of(&geometry, &memory);
            assert!(layout.window_bytes() <= u64::from(slabs / shards) * 4096 && layout.window_bytes() >= WINDOW_STEP);
            assert!(layout.window_bytes() * u64::from(shards) <= WINDOWS_BYTES_MAX);
            assert_eq!(Layout::told(&geometry, &memory, layout.window_bytes()), Some(layout));
            let [notes, inbox] = layout.region_bytes();
            assert!(layout.notes_read_bytes() <= notes);
            for shard in [0, shards as usize - 1] {
                for position in [64, layout.window_bytes() - 8, 7 * layout.window_bytes(), (1 << 62) - 8] {
                    let (at, left) = layout.place(shard, position);
                    assert!(at >= layout.lines_bytes() && at + left <= inbox && left > 0 && left % 8 == 0);
                    assert_eq!(layout.place(shard, position + layout.window_bytes()), (at, left));
                }
            }
        }
    }

    #[test]
    fn a_window_that_cannot_be_is_refused() {
        let (geometry, memory) = store(4, 1024);
        for wrong in [0, 12, (1 << 20) + 8, WINDOWS_BYTES_MAX, u64::MAX / 8 * 8] {
            assert_eq!(Layout::told(&geometry, &memory, wrong), None, "{wrong}");
        }
    }
}
