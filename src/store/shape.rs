//! Kind and lengths of a record: all that is needed to find its parts. One word of the record, and
//! read in one piece.
//!
//! ```text
//! bits   0      4        5      6       7            15             32
//!        | kind | flags? | cas? | long? | key length | value length |
//! ```
//!
//! A value too long for its 17 bits sets *long*, and its length stands behind the key. Of the 16
//! kinds 6 are taken; a reader refuses the others.

use crate::base::limits::KEY_BYTES_MAX;
use crate::sys::sync::{AtomicU64, Ordering::Relaxed};
use crate::sys::words::WordSpan;

/// Bytes before the key.
pub const HEADER_BYTES: usize = 16;
/// The longest value whose length the shape itself can hold.
pub const SHORT_VALUE_BYTES_MAX: usize = (1 << (32 - VALUE_SHIFT)) - 1;

/// A term record's value: the term, and the position where it begins, its own.
pub const TERM_VALUE_BYTES: usize = 16;

const KIND_MASK: u32 = 15;
const FLAGS_BIT: u32 = 4;
const CAS_BIT: u32 = 5;
const LONG_BIT: u32 = 6;
const KEY_SHIFT: u32 = 7;
const VALUE_SHIFT: u32 = 15;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An item.
    Set = 1,
    /// The item under this key is gone.
    Delete = 2,
    /// The metadata of the item under this key is now this record's.
    Touch = 3,
    /// Every item at an earlier position is gone, or will be: the meta word says when.
    Flush = 4,
    /// A new term begins here; the value says which.
    Term = 5,
    /// Nothing, up to the end of the slab. Its bytes after the header mean nothing.
    Pad = 6,
}

/// Why words show no shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// No record looks like this.
    NoRecord,
    /// So many bytes from its start are needed to tell.
    Cut {
        /// A multiple of 8.
        wanted_bytes: usize,
    },
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    bits: u32,
    value_bytes: u32,
}

impl Shape {
    /// A record of this kind and these lengths.
    #[inline]
    pub fn new(kind: Kind, key_bytes: usize, value_bytes: usize, has_flags: bool, has_cas: bool) -> Self {
        assert!(key_bytes <= u8::MAX as usize && value_bytes <= u32::MAX as usize, "lengths that no record can have");
        let long = value_bytes > SHORT_VALUE_BYTES_MAX;
        let bits = kind as u32
            | u32::from(has_flags) << FLAGS_BIT
            | u32::from(has_cas) << CAS_BIT
            | u32::from(long) << LONG_BIT
            | (key_bytes as u32) << KEY_SHIFT
            | if long { 0 } else { (value_bytes as u32) << VALUE_SHIFT };
        Shape { bits, value_bytes: value_bytes as u32 }
    }

    /// Read the shape of the record at the start of `words`; None if no record looks like this or
    /// its head would not fit. (The value may go on elsewhere.)
    #[inline]
    pub fn read(words: &[AtomicU64]) -> Option<Shape> {
        let shape = Shape::announced(words).ok()?;
        (shape.value_at() <= words.len() * 8).then_some(shape)
    }

    /// The same, but of a record whose head may not be here as a whole.
    #[inline]
    pub fn announced(words: &[AtomicU64]) -> Result<Shape, Unreadable> {
        let header = words.get(1).ok_or(Unreadable::Cut { wanted_bytes: HEADER_BYTES })?;
        let bits = (header.load(Relaxed) >> 32) as u32;
        let kind = bits & KIND_MASK;
        if kind == 0 || kind > Kind::Pad as u32 {
            return Err(Unreadable::NoRecord);
        }
        let mut shape = Shape { bits, value_bytes: bits >> VALUE_SHIFT };
        if shape.is_long() {
            let at = shape.length_at();
            if at + 4 > words.len() * 8 {
                return Err(Unreadable::Cut { wanted_bytes: (at + 4).next_multiple_of(8) });
            }
            shape.value_bytes = read_u32(words, at);
        }
        Ok(shape)
    }

    /// Whether a record of this kind is made like this: no part that it has no use for, and each
    /// length where it belongs.
    pub fn is_canonical(self) -> bool {
        let has_options = self.has_flags() || self.has_explicit_cas();
        let parts = (self.key_bytes(), self.value_bytes());
        let by_kind = match self.kind() {
            Kind::Set => (1..=KEY_BYTES_MAX).contains(&parts.0),
            Kind::Delete | Kind::Touch => (1..=KEY_BYTES_MAX).contains(&parts.0) && parts.1 == 0 && !has_options,
            Kind::Flush => parts == (0, 0) && !has_options,
            Kind::Term => parts == (0, TERM_VALUE_BYTES) && !has_options,
            Kind::Pad => parts.0 == 0 && !has_options,
        };
        let length_in_place = if self.is_long() { self.bits >> VALUE_SHIFT == 0 } else { true };
        by_kind && length_in_place && self.is_long() == (self.value_bytes() > SHORT_VALUE_BYTES_MAX)
    }

    /// The word's bits.
    pub fn to_bits(self) -> u32 {
        self.bits
    }

    /// What the record is.
    #[inline]
    pub fn kind(self) -> Kind {
        match self.bits & KIND_MASK {
            1 => Kind::Set,
            2 => Kind::Delete,
            3 => Kind::Touch,
            4 => Kind::Flush,
            5 => Kind::Term,
            _ => Kind::Pad,
        }
    }

    /// Bytes of the key; 0 for flush, term and pad.
    #[inline]
    pub fn key_bytes(self) -> usize {
        (self.bits >> KEY_SHIFT & 0xFF) as usize
    }

    /// Bytes of the value; for a pad, of what it skips.
    #[inline]
    pub fn value_bytes(self) -> usize {
        self.value_bytes as usize
    }

    /// Does it carry the client's flags?
    #[inline]
    pub fn has_flags(self) -> bool {
        self.bit(FLAGS_BIT) != 0
    }

    /// Does it carry a CAS of its own?
    #[inline]
    pub fn has_explicit_cas(self) -> bool {
        self.bit(CAS_BIT) != 0
    }

    /// Does the length of the value stand behind the key?
    #[inline]
    pub fn is_long(self) -> bool {
        self.bit(LONG_BIT) != 0
    }

    fn bit(self, at: u32) -> usize {
        (self.bits >> at & 1) as usize
    }

    /// Where the client's flags are, if there are some.
    pub fn flags_at(self) -> usize {
        HEADER_BYTES + self.key_bytes()
    }

    fn length_at(self) -> usize {
        self.flags_at() + 4 * self.bit(FLAGS_BIT)
    }

    /// Where the CAS is, if there is one.
    pub fn cas_at(self) -> usize {
        self.length_at() + 4 * self.bit(LONG_BIT)
    }

    /// Where the value is.
    #[inline]
    pub fn value_at(self) -> usize {
        self.cas_at() + 8 * self.bit(CAS_BIT)
    }

    /// Bytes that must lie in one slab: all but the value; of a term record, all of it.
    #[inline]
    pub fn head_bytes(self) -> usize {
        if self.kind() == Kind::Term { self.record_bytes() } else { self.value_at() }
    }

    /// Bytes that the record takes in the log.
    #[inline]
    pub fn record_bytes(self) -> usize {
        (self.value_at() + self.value_bytes()).next_multiple_of(8)
    }

    /// The record without padding: where its checksum ends. A pad's ends with its header.
    pub fn checked_bytes(self) -> usize {
        self.value_at() + if self.kind() == Kind::Pad { 0 } else { self.value_bytes() }
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shape")
            .field("kind", &self.kind())
            .field("key_bytes", &self.key_bytes())
            .field("value_bytes", &self.value_bytes())
            .field("has_flags", &self.has_flags())
            .field("has_explicit_cas", &self.has_explicit_cas())
            .finish()
    }
}

/// The number at byte `at` of `words`.
pub fn read_u32(words: &[AtomicU64], at: usize) -> u32 {
    let mut bytes = [0; 4];
    WordSpan::new(words, at, 4).copy_to_slice(&mut bytes);
    u32::from_le_bytes(bytes)
}
