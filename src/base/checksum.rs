//! CRC32C (Castagnoli), seeded by place: a record's checksum covers its position and epoch, so that the same bytes
//! at another place, or of another epoch, do not pass.

/// Running CRC32C over the body of a record, before its place is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BodyChecksum(u32);

impl BodyChecksum {
    /// Continue over `bytes`.
    #[must_use]
    pub fn update(self, bytes: &[u8]) -> Self {
        BodyChecksum(crc32c::crc32c_append(self.0, bytes))
    }

    /// Bind the body to a place. Done under the shard's lock, so it is short: 16 bytes.
    pub fn at(self, position: u64, epoch: u64) -> u32 {
        let mut place = [0; 16];
        place[..8].copy_from_slice(&position.to_le_bytes());
        place[8..].copy_from_slice(&epoch.to_le_bytes());
        crc32c::crc32c_append(self.0, &place)
    }
}
