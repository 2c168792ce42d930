//! What a slot of the index says: a tag, a use counter, and the place of a record.

use super::{PLACE_MASK, PLACE_UNUSED_BITS, PRESENT, TAG_FROM_BIT, TAG_MASK, TAG_SHIFT, USES_MAX, USES_SHIFT};

/// A slot's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub(super) u64);

impl Slot {
    pub(super) fn new(hash: u64, position: u64) -> Self {
        Slot(PRESENT | tag(hash) | ((position / 8) & PLACE_MASK))
    }

    /// The position it points to: the one nearest to `reference`, which may lie before or behind
    /// it, less than [`super::LOG_BYTES_MAX`] away.
    #[inline]
    pub fn position(self, reference: u64) -> u64 {
        // The difference of the places, its sign in the word's highest bit; then in bytes, for a
        // place is eight of them.
        let ahead = (self.0.wrapping_sub(reference / 8) << PLACE_UNUSED_BITS) as i64 >> (PLACE_UNUSED_BITS - 3);
        (reference & !7).wrapping_add_signed(ahead)
    }

    /// Uses counted since the record was written, at most 3.
    pub fn uses(self) -> u64 {
        self.0 >> USES_SHIFT & USES_MAX
    }

    pub(super) fn with_uses(self, uses: u64) -> Self {
        Slot(self.0 & !(USES_MAX << USES_SHIFT) | uses << USES_SHIFT)
    }
}

/// The tag's bits are those that choose the bucket once there are more than 256: a split finds out
/// from the slot alone which entries move, without a look at their records. With 2^22 buckets (27
/// million items in one shard) 11 bits are left to tell keys apart: one false match in 300 lookups,
/// which the key's comparison finds.
pub(super) fn tag(hash: u64) -> u64 {
    ((hash >> TAG_FROM_BIT) & TAG_MASK) << TAG_SHIFT
}
