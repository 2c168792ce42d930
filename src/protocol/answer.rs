//! What commands come to, whichever protocol they were sent by: one type for each kind of command.
//! The engine finds it out; an encoder makes bytes of it.

use crate::base::time::Expiry;

/// set and its kin, ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The value is in the cache.
    Written {
        /// The item's CAS from now on.
        cas: u64,
        /// Bytes of its value.
        value_bytes: usize,
    },
    /// The condition of add, replace, append or prepend did not hold.
    NotStored,
    /// Someone else changed the item.
    Exists,
    /// No such item.
    NotFound,
}

/// incr, decr, ma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// The number now.
    Number {
        /// It.
        number: u64,
        /// The item's CAS from now on.
        cas: u64,
        /// Nothing was there.
        created: bool,
        /// The expiry of the item before this command.
        expiry_before: Expiry,
    },
    /// No such item.
    NotFound,
    /// The value that is there is no number.
    NonNumeric,
    /// Someone else changed the item.
    Exists,
}

/// delete, md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// The item was there.
    Done,
    /// No such item.
    NotFound,
    /// Someone else changed the item.
    Exists,
}

/// touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touched {
    /// The item was there.
    Done,
    /// No such item.
    NotFound,
}

/// What has nothing else to say than that it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// flush_all, verbosity, cache_memlimit, stats detail, an order.
    Ok,
    /// stats reset.
    Reset,
    /// mn.
    Noop,
}

/// What is told of an item that a meta command has met.
#[derive(Debug, Clone, Copy, Default)]
pub struct MetaFacts {
    /// f
    pub client_flags: u32,
    /// c
    pub cas: u64,
    /// t: seconds left, None for never (-1)
    pub ttl_seconds: Option<u32>,
    /// h: whether it was hit before this command
    pub hit_before: bool,
    /// l: seconds since the access before this command
    pub idle_seconds: u32,
    /// s: bytes of the value
    pub value_bytes: usize,
    /// W
    pub won: bool,
    /// X
    pub stale: bool,
    /// Z
    pub token_sent: bool,
}

/// What `me` tells of an item.
#[derive(Debug, Clone, Copy, Default)]
pub struct DebugFacts {
    /// Seconds left; None for never (-1).
    pub expires_in: Option<u32>,
    /// Seconds since the last access.
    pub idle_seconds: u32,
    /// The item's CAS.
    pub cas: u64,
    /// Whether it was ever read.
    pub fetched: bool,
    /// Bytes of the whole record.
    pub record_bytes: usize,
}

/// stats detail: what was done to keys of one prefix.
#[derive(Debug, Clone, Copy, Default)]
pub struct PrefixCounts {
    /// Reads.
    pub gets: u64,
    /// Of these, those that found something.
    pub hits: u64,
    /// Stores.
    pub sets: u64,
    /// Deletes.
    pub deletes: u64,
}
