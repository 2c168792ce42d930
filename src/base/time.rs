//! Time as the cache knows it: whole seconds since the Unix epoch, absolute, so that every replica judges an expiry alike.

/// Seconds since the Unix epoch; 32 bits last until 2106. Never zero in a running server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct UnixSeconds(pub u32);

impl UnixSeconds {
    /// The wall clock, now.
    pub fn now() -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        UnixSeconds(since_epoch.map_or(1, |elapsed| elapsed.as_secs().clamp(1, u32::MAX as u64) as u32))
    }
}

/// When an item ceases to be: an absolute second, or never. Stored as its number, 0 meaning never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expiry(u32);

impl Expiry {
    /// The item stays until it is evicted or deleted.
    pub const NEVER: Expiry = Expiry(0);
    /// Already over, whatever the clock says.
    pub const PAST: Expiry = Expiry(1);

    /// Expires when the clock reaches `at`; a zero is taken as [`Expiry::PAST`], since it would read as never.
    pub fn at(at: UnixSeconds) -> Self {
        Expiry(at.0.max(1))
    }

    /// From the number that a record keeps.
    pub fn from_bits(bits: u32) -> Self {
        Expiry(bits)
    }

    /// The number that a record keeps.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// True once `now` has reached the expiry.
    pub fn has_passed(self, now: UnixSeconds) -> bool {
        self.0 != 0 && self.0 <= now.0
    }

    /// Seconds left at `now`, or None for never.
    pub fn remaining(self, now: UnixSeconds) -> Option<u32> {
        (self.0 != 0).then(|| self.0.saturating_sub(now.0))
    }
}
