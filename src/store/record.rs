//! One entry of a log, byte by byte. Every record starts on a multiple of 8; all numbers are
//! little-endian.
//!
//! ```text
//!  0        8        12       16
//!  | meta   | crc    | shape  | key ... | flags? 4 | length? 4 | cas? 8 | value ... | zeroes to 8 |
//! ```
//!
//! *meta* is the one word that may change after publication ([`Meta`]); for kinds other than set it
//! does not, and the checksum covers it. *crc* is CRC32C over shape, (meta,) key, the optional
//! fields and value, then the record's place (shard and position) and term: a torn record, an old
//! lap, another shard or another term fails. *shape* says what it is and how long its parts are
//! ([`Shape`]). The fixed header is 16 bytes.

use super::seed::Seed;
use super::shape::read_u32;
pub use super::shape::{HEADER_BYTES, Kind, Shape, TERM_VALUE_BYTES};
use super::value::Value;
use crate::base::limits::KEY_BYTES_MAX;
use crate::base::time::{Expiry, UnixSeconds};
use crate::sys::checksum::BodyChecksum;
use crate::sys::sync::{AtomicU64, Ordering::Relaxed};
use crate::sys::words::{WordSpan, WordWriter};

/// Bytes that the optional fields can add.
pub const OPTIONAL_BYTES_MAX: usize = 16;

/// A pad stands where not even a head fits: header, key and optional fields. So it is shorter than
/// the longest of them.
pub const PAD_BYTES_MAX: usize = (HEADER_BYTES + KEY_BYTES_MAX + OPTIONAL_BYTES_MAX) / 8 * 8;

/// The changeable word: expiry 32 bits, last access 28 bits (seconds, modulo 2^28: eight years),
/// fetched, stale, token sent, dead.
///
/// *Dead* says that the record is no item any more: it was replaced, deleted, or found expired or
/// flushed. Each store sets it for itself, as it executes or replays what ended the item: a replica
/// clears it in what it copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta(u64);

impl Meta {
    const ACCESS_MASK: u64 = (1 << 28) - 1;
    const FETCHED: u64 = 1 << 60;
    const STALE: u64 = 1 << 61;
    const TOKEN_SENT: u64 = 1 << 62;
    const DEAD: u64 = 1 << 63;

    /// For an item written at `now`.
    pub fn new(expiry: Expiry, now: UnixSeconds) -> Self {
        Meta(u64::from(expiry.to_bits())).accessed(now)
    }

    /// From its word.
    pub fn from_bits(bits: u64) -> Self {
        Meta(bits)
    }

    /// Its word.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// When the item expires.
    pub fn expiry(self) -> Expiry {
        Expiry::from_bits(self.0 as u32)
    }

    /// With another expiry.
    #[must_use]
    pub fn with_expiry(self, expiry: Expiry) -> Self {
        Meta(self.0 & !u64::from(u32::MAX) | u64::from(expiry.to_bits()))
    }

    /// With the last access at `now`.
    #[must_use]
    pub fn accessed(self, now: UnixSeconds) -> Self {
        Meta(self.0 & !(Self::ACCESS_MASK << 32) | (u64::from(now.0) & Self::ACCESS_MASK) << 32)
    }

    /// Seconds since the last access.
    pub fn idle_seconds(self, now: UnixSeconds) -> u32 {
        (u64::from(now.0).wrapping_sub(self.0 >> 32) & Self::ACCESS_MASK) as u32
    }

    /// Was it fetched since it was written?
    pub fn fetched(self) -> bool {
        self.0 & Self::FETCHED != 0
    }

    /// Marked as fetched.
    #[must_use]
    pub fn with_fetched(self) -> Self {
        Meta(self.0 | Self::FETCHED)
    }

    /// Is it marked stale?
    pub fn stale(self) -> bool {
        self.0 & Self::STALE != 0
    }

    /// Stale or not.
    #[must_use]
    pub fn with_stale(self, stale: bool) -> Self {
        Meta(if stale { self.0 | Self::STALE } else { self.0 & !Self::STALE })
    }

    /// Has a client won the right to refill it?
    pub fn token_sent(self) -> bool {
        self.0 & Self::TOKEN_SENT != 0
    }

    /// With the expiry, the stale mark and the token of `other`: what a touch record changes.
    #[must_use]
    pub fn touched_by(self, other: Meta) -> Self {
        let touched = u64::from(u32::MAX) | Self::STALE | Self::TOKEN_SENT;
        Meta(self.0 & !touched | other.0 & touched)
    }

    /// Is the record no item any more?
    pub fn dead(self) -> bool {
        self.0 & Self::DEAD != 0
    }

    /// As it was when the record was alive.
    #[must_use]
    pub fn alive(self) -> Self {
        Meta(self.0 & !Self::DEAD)
    }

    /// Token given out or not.
    #[must_use]
    pub fn with_token_sent(self, sent: bool) -> Self {
        Meta(if sent { self.0 | Self::TOKEN_SENT } else { self.0 & !Self::TOKEN_SENT })
    }
}

/// A record as it lies in a log: its head, which ends where the value begins, is in `words`. So is
/// its value, or the value goes on in the following slabs ([`super::value::Value`]).
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// From the record's start to the end of its slab, or of what is there of it.
    words: &'a [AtomicU64],
    /// Its kind and lengths.
    pub shape: Shape,
}

impl<'a> Record<'a> {
    /// The record at the start of `words`; None if there is none.
    #[inline]
    pub fn read(words: &'a [AtomicU64]) -> Option<Record<'a>> {
        Some(Record { words, shape: Shape::read(words)? })
    }

    /// The one that was just written.
    pub(super) fn of(words: &'a [AtomicU64], shape: Shape) -> Record<'a> {
        Record { words, shape }
    }

    /// From its start to the end of its slab.
    #[inline]
    pub(super) fn words(&self) -> &'a [AtomicU64] {
        self.words
    }

    /// Does all of it lie in its words?
    pub fn is_in_one_run(&self) -> bool {
        self.shape.record_bytes() <= self.words.len() * 8
    }

    /// The changeable word.
    pub fn meta_word(&self) -> &'a AtomicU64 {
        &self.words[0]
    }

    /// The changeable word's content.
    pub fn meta(&self) -> Meta {
        Meta(self.words[0].load(Relaxed))
    }

    /// Mark it as no item any more. Readers may note a use in the same word meanwhile, so nothing
    /// else of it changes.
    pub(super) fn mark_dead(&self) {
        self.words[0].fetch_or(Meta::DEAD, Relaxed);
    }

    /// Take that mark away.
    pub(super) fn mark_alive(&self) {
        self.words[0].fetch_and(!Meta::DEAD, Relaxed);
    }

    /// The key.
    pub fn key(&self) -> WordSpan<'a> {
        WordSpan::new(self.words, HEADER_BYTES, self.shape.key_bytes())
    }

    /// The client's flags, 0 if the record has none.
    pub fn client_flags(&self) -> u32 {
        if self.shape.has_flags() { read_u32(self.words, self.shape.flags_at()) } else { 0 }
    }

    /// The CAS that was given or kept; None where the position is the CAS.
    #[inline]
    pub fn explicit_cas(&self) -> Option<u64> {
        self.shape.has_explicit_cas().then(|| self.read_cas())
    }

    #[inline(never)]
    fn read_cas(&self) -> u64 {
        let at = self.shape.cas_at();
        u64::from(read_u32(self.words, at)) | u64::from(read_u32(self.words, at + 4)) << 32
    }

    /// Where the value starts within the record, in bytes.
    pub fn value_at(&self) -> usize {
        self.shape.value_at()
    }

    /// The value of a record that lies in one run.
    pub fn value(&self) -> WordSpan<'a> {
        WordSpan::new(self.words, self.shape.value_at(), self.shape.value_bytes())
    }

    /// Does it end with zeroes where its parts do not end on a word? The checksum leaves them out.
    /// (A pad's are any.)
    pub fn is_padded_with_zeroes(&self) -> bool {
        let used = self.shape.value_at() + self.shape.value_bytes();
        self.shape.kind() == Kind::Pad
            || used.is_multiple_of(8)
            || self.words[used / 8].load(Relaxed) >> (used % 8 * 8) == 0
    }

    /// Of a flush record: the second at which it is due; None where it took what was before it.
    pub fn flush_due(&self) -> Option<UnixSeconds> {
        let due = self.meta().expiry();
        (due != Expiry::NEVER).then(|| UnixSeconds(due.to_bits()))
    }

    /// A term record's value: the term and where it begins.
    pub fn term_value(&self) -> (u64, u64) {
        let at = self.shape.value_at() / 8;
        (self.words[at].load(Relaxed), self.words[at + 1].load(Relaxed))
    }

    /// Does the checksum of a record that lies in one run hold for this place and term? What
    /// replicas and tests ask before they believe.
    pub fn proves_itself(&self, seed: Seed) -> bool {
        let mut checksum = BodyChecksum::default().update(&self.shape.to_bits().to_le_bytes());
        if self.shape.kind() != Kind::Set {
            checksum = checksum.update(&self.words[0].load(Relaxed).to_le_bytes());
        }
        let body = WordSpan::new(self.words, HEADER_BYTES, self.shape.checked_bytes() - HEADER_BYTES);
        checksum_span(checksum, body).at(seed.stamp, seed.term.0) == self.words[1].load(Relaxed) as u32
    }
}

fn checksum_span(checksum: BodyChecksum, span: WordSpan<'_>) -> BodyChecksum {
    if span.len() > LONG_SPAN_BYTES { checksum_long(checksum, span) } else { checksum_pieces::<512>(checksum, span) }
}

/// Its own function, so that short records do not pay for clearing its buffer.
#[inline(never)]
fn checksum_long(checksum: BodyChecksum, span: WordSpan<'_>) -> BodyChecksum {
    checksum_pieces::<4096>(checksum, span)
}

/// Spans longer than this are summed in pieces of 4 KiB, long enough for the checksum's fast way.
const LONG_SPAN_BYTES: usize = 1024;

#[inline(always)]
fn checksum_pieces<const BYTES: usize>(mut checksum: BodyChecksum, span: WordSpan<'_>) -> BodyChecksum {
    let mut buffer = [0; BYTES];
    let mut from = 0;
    while from < span.len() {
        let piece = span.slice(from, buffer.len());
        piece.copy_to_slice(&mut buffer[..piece.len()]);
        checksum = checksum.update(&buffer[..piece.len()]);
        from += piece.len();
    }
    checksum
}

/// Where a new record's value comes from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// From a client.
    Bytes(&'a [u8]),
    /// From another record (reclaim appends it again), where its value is in one run,
    Span(WordSpan<'a>),
    /// or in several.
    Value(Value<'a>),
}

/// A record about to be written: complete, but for its place. Made before the shard's lock is
/// taken.
pub struct Draft<'a> {
    shape: Shape,
    meta: Meta,
    key: &'a [u8],
    optional: [u8; OPTIONAL_BYTES_MAX],
    optional_bytes: usize,
    value: Source<'a>,
    checksum: BodyChecksum,
}

impl<'a> Draft<'a> {
    /// A record of `kind`; `cas` only where the position will not do.
    pub fn new(kind: Kind, key: &'a [u8], meta: Meta, client_flags: u32, cas: Option<u64>, value: Source<'a>) -> Self {
        let value_bytes = match value {
            Source::Bytes(bytes) => bytes.len(),
            Source::Span(span) => span.len(),
            Source::Value(value) => value.len(),
        };
        let shape = Shape::new(kind, key.len(), value_bytes, client_flags != 0, cas.is_some());
        let mut optional = [0; OPTIONAL_BYTES_MAX];
        let mut optional_bytes = 0;
        let mut add = |bytes: &[u8]| {
            optional[optional_bytes..optional_bytes + bytes.len()].copy_from_slice(bytes);
            optional_bytes += bytes.len();
        };
        if shape.has_flags() {
            add(&client_flags.to_le_bytes());
        }
        if shape.is_long() {
            add(&(value_bytes as u32).to_le_bytes());
        }
        if let Some(cas) = cas {
            add(&cas.to_le_bytes());
        }
        let (shape_bytes, meta_bytes) = (shape.to_bits().to_le_bytes(), meta.to_bits().to_le_bytes());
        // Of an item the meta word changes later.
        let checked_meta: &[u8] = if kind == Kind::Set { b"" } else { &meta_bytes };
        let value_here: &[u8] = if let Source::Bytes(bytes) = value { bytes } else { b"" };
        let parts = [&shape_bytes, checked_meta, key, &optional[..optional_bytes], value_here];
        let checksum = BodyChecksum::default().update_all(parts);
        let checksum = match value {
            Source::Bytes(_) => checksum,
            Source::Span(span) => checksum_span(checksum, span),
            Source::Value(value) => value.runs().fold(checksum, checksum_span),
        };
        Draft { shape, meta, key, optional, optional_bytes, value, checksum }
    }

    /// A record of a key alone: delete, touch.
    pub fn of_key(kind: Kind, key: &'a [u8], meta: Meta) -> Self {
        Draft::new(kind, key, meta, 0, None, Source::Bytes(b""))
    }

    /// A pad of `pad_bytes` in all, at least a header and at most [`PAD_BYTES_MAX`].
    pub fn pad(pad_bytes: usize) -> Draft<'static> {
        let shape = Shape::new(Kind::Pad, 0, pad_bytes - HEADER_BYTES, false, false);
        let (meta, optional) = (Meta::default(), [0; OPTIONAL_BYTES_MAX]);
        let checksum =
            BodyChecksum::default().update(&shape.to_bits().to_le_bytes()).update(&meta.to_bits().to_le_bytes());
        Draft { shape, meta, key: b"", optional, optional_bytes: 0, value: Source::Bytes(b""), checksum }
    }

    /// Bytes that the record will take.
    pub fn record_bytes(&self) -> usize {
        self.shape.record_bytes()
    }

    /// Kind and lengths.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// When the item expires.
    pub(super) fn expiry(&self) -> Expiry {
        self.meta.expiry()
    }

    /// Write it to the start of `words`, which nobody else reads or writes yet, as the record of
    /// this place and term.
    pub fn write<'w>(&self, words: &'w [AtomicU64], seed: Seed) -> Record<'w> {
        let body_at = self.write_header(words, seed);
        let mut writer = WordWriter::new(&words[body_at..]);
        self.for_each_part(|bytes| writer.put(bytes));
        writer.finish();
        Record { words, shape: self.shape }
    }

    /// Write what stands before the key; returns at which word that is.
    #[inline]
    pub(super) fn write_header(&self, words: &[AtomicU64], seed: Seed) -> usize {
        words[0].store(self.meta.to_bits(), Relaxed);
        let crc = self.checksum.at(seed.stamp, seed.term.0);
        words[1].store(u64::from(crc) | u64::from(self.shape.to_bits()) << 32, Relaxed);
        HEADER_BYTES / 8
    }

    /// Key, optional fields and value, piece by piece.
    #[inline]
    pub(super) fn for_each_part(&self, mut put: impl FnMut(&[u8])) {
        put(self.key);
        if self.optional_bytes > 0 {
            put(&self.optional[..self.optional_bytes]);
        }
        match self.value {
            Source::Bytes(bytes) => put(bytes),
            Source::Span(span) => span.for_each_piece(put),
            Source::Value(value) => value.runs().for_each(|run| run.for_each_piece(&mut put)),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::term::Term;
    use crate::store::shape::SHORT_VALUE_BYTES_MAX;

    fn seed(position: u64, term: u64) -> Seed {
        Seed::of(3, position, Term(term))
    }

    fn memory(bytes: usize) -> Vec<AtomicU64> {
        (0..bytes / 8).map(|_| AtomicU64::new(u64::MAX)).collect()
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let now = UnixSeconds(1_800_000_000);
        for value_bytes in [0, 1, 7, 8, 100, SHORT_VALUE_BYTES_MAX, SHORT_VALUE_BYTES_MAX + 1] {
            for flags in [0, 7] {
                for cas in [None, Some(u64::MAX - 1)] {
                    let value = vec![0xAB; value_bytes];
                    let meta = Meta::new(Expiry::at(UnixSeconds(5)), now).with_stale(true);
                    let draft = Draft::new(Kind::Set, b"some-key", meta, flags, cas, Source::Bytes(&value));
                    let words = memory(draft.record_bytes());
                    draft.write(&words, seed(64, 1));
                    let record = Record::read(&words).unwrap();
                    assert_eq!(record.shape, draft.shape());
                    assert!(record.key().equals(b"some-key") && record.value().equals(&value));
                    assert_eq!((record.client_flags(), record.explicit_cas(), record.meta()), (flags, cas, meta));
                    assert!(record.proves_itself(seed(64, 1)));
                }
            }
        }
    }

    #[test]
    fn the_header_is_sixteen_bytes() {
        let draft = Draft::new(Kind::Set, &[b'k'; 20], Meta::default(), 0, None, Source::Bytes(&[0; 100]));
        assert_eq!(draft.record_bytes(), 136);
    }

    #[test]
    fn another_place_another_term_or_one_changed_bit_fails_the_check() {
        let draft = Draft::new(Kind::Set, b"key", Meta::default(), 9, Some(3), Source::Bytes(b"some value"));
        let words = memory(draft.record_bytes());
        draft.write(&words, seed(640, 2));
        let record = Record::read(&words).unwrap();
        assert!(record.proves_itself(seed(640, 2)));
        assert!(!record.proves_itself(seed(648, 2)) && !record.proves_itself(seed(640, 3)));
        assert!(!record.proves_itself(Seed::of(2, 640, Term(2))));
        let checked_bits = 64..(record.shape.value_at() + record.shape.value_bytes()) * 8;
        for bit in checked_bits {
            let word = &words[bit / 64];
            word.fetch_xor(1 << (bit % 64), Relaxed);
            let record = Record::read(&words).filter(Record::is_in_one_run);
            let survives = record.is_some_and(|record| record.proves_itself(seed(640, 2)));
            assert!(!survives, "bit {bit}");
            word.fetch_xor(1 << (bit % 64), Relaxed);
        }
        words[0].store(77, Relaxed);
        assert!(record.proves_itself(seed(640, 2)), "the meta word of an item is outside the checksum");
    }

    #[test]
    fn a_touch_proves_its_meta_word_too() {
        let draft = Draft::of_key(Kind::Touch, b"key", Meta::new(Expiry::PAST, UnixSeconds(9)));
        let words = memory(draft.record_bytes());
        draft.write(&words, seed(64, 1));
        words[0].fetch_xor(1, Relaxed);
        assert!(!Record::read(&words).unwrap().proves_itself(seed(64, 1)));
    }

    #[test]
    fn a_pad_takes_exactly_what_it_should() {
        for bytes in (HEADER_BYTES..=PAD_BYTES_MAX).step_by(8) {
            let draft = Draft::pad(bytes);
            assert_eq!(draft.record_bytes(), bytes);
            let words = memory(bytes);
            draft.write(&words, seed(64, 1));
            let record = Record::read(&words).unwrap();
            assert!(record.shape.record_bytes() == bytes && record.proves_itself(seed(64, 1)));
        }
    }

    #[test]
    fn idle_seconds_survive_the_wrap_of_their_28_bits() {
        let meta = Meta::default().accessed(UnixSeconds((1 << 28) - 2));
        assert_eq!(meta.idle_seconds(UnixSeconds((1 << 28) + 3)), 5);
    }
}
