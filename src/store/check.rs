//! Is this a record of this place and term? Asked of bytes that come from another process, before
//! any of them reaches a log: every length is held against what the log can have, then the checksum
//! is computed. Pure.

use super::record::{Kind, PAD_BYTES_MAX, Record, Shape};
use super::seed::Seed;
use super::shape::Unreadable;
use crate::base::term::Term;
use crate::sys::sync::AtomicU64;

/// Why bytes are no record of their place and term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// No kind of record begins like this.
    #[error("no record begins here")]
    NoRecord,
    /// Its head would reach beyond its slab, or all of it beyond what a record of this log may
    /// have.
    #[error("a record longer than its place allows")]
    TooLong,
    /// The checksum, which covers position and term, does not hold: torn, of an earlier lap, or of
    /// another term.
    #[error("a record whose checksum does not hold at this position in this term")]
    Checksum,
    /// Lengths or contents that no record of its kind has.
    #[error("a record made as none of its kind is")]
    Malformed,
}

/// Why a record cannot be applied as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unusable {
    /// So many bytes from its start are needed.
    Cut(usize),
    Bad(BadRecord),
}

/// Where a record is to stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub shard: u32,
    pub position: u64,
    /// The term there, and where it began.
    pub term: (Term, u64),
    /// Bytes to the slab's end.
    pub slab_bytes_left: usize,
    /// [`super::Geometry::record_bytes_max`], and what it comes to with pads and reinserted
    /// records.
    pub record_bytes_max: usize,
}

/// The record at the start of `words`, if it is one of this site. A term record is seeded with
/// the term that it begins.
pub(super) fn check<'w>(words: &'w [AtomicU64], site: &Site) -> Result<Record<'w>, Unusable> {
    let shape = announced(words, site).map_err(|refusal| match refusal {
        Unusable::Cut(bytes) if bytes > site.slab_bytes_left => Unusable::Bad(BadRecord::TooLong),
        other => other,
    })?;
    let record = Record::read(words).filter(Record::is_in_one_run).ok_or(Unusable::Cut(shape.record_bytes()))?;
    let seeded_by = match shape.kind() {
        Kind::Term => Term(record.term_value().0),
        _ => site.term.0,
    };
    if !record.proves_itself(Seed::of(site.shard, site.position, seeded_by)) {
        return Err(Unusable::Bad(BadRecord::Checksum));
    }
    let sound = record.is_padded_with_zeroes()
        && (shape.kind() == Kind::Set || !record.meta().dead())
        && (shape.kind() != Kind::Term || begins_term(record.term_value(), site));
    if sound { Ok(record) } else { Err(Unusable::Bad(BadRecord::Malformed)) }
}

/// What its first words say that it is, if that is possible here.
fn announced(words: &[AtomicU64], site: &Site) -> Result<Shape, Unusable> {
    let shape = Shape::announced(words).map_err(|unreadable| match unreadable {
        Unreadable::NoRecord => Unusable::Bad(BadRecord::NoRecord),
        Unreadable::Cut { wanted_bytes } => Unusable::Cut(wanted_bytes),
    })?;
    if shape.head_bytes() > site.slab_bytes_left || shape.record_bytes() > site.record_bytes_max {
        return Err(Unusable::Bad(BadRecord::TooLong));
    }
    let ends_in_place = shape.kind() != Kind::Pad
        || shape.record_bytes() == site.slab_bytes_left && shape.record_bytes() <= PAD_BYTES_MAX;
    if shape.is_canonical() && ends_in_place { Ok(shape) } else { Err(Unusable::Bad(BadRecord::Malformed)) }
}

/// A term begins at its own record. It is a later one, or the very one that began here (the first
/// record of a log).
fn begins_term((term, begins): (u64, u64), site: &Site) -> bool {
    let (now, now_begins) = site.term;
    let term = Term(term);
    begins == site.position && (term.follows(now) || term == now && begins == now_begins)
}
