//! With `-M`: finding what has expired without moving the log.
//!
//! A write that is refused because live items fill the memory may be refused for the sake of items
//! that have expired, and that nobody has looked at. So it has the log walked once, from tail to
//! head, in bounded steps, by maintenance; what has expired is taken out, and the write is tried
//! again. A crawl notes when the next item expires. Before that no other is begun, so writes that
//! are refused again and again cost nothing, and the log stays as it is.

use super::record::{Kind, Record};
use super::shard::Shard;
use super::writer::Writer;
use crate::base::time::UnixSeconds;
use crate::sys::sync::Ordering::Relaxed;

/// Bytes walked in one turn, and at least one record: some 2,000 small records.
const CRAWL_BYTES: u64 = 256 << 10;

/// A walk under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crawl {
    at: u64,
    until: u64,
}

impl Shard {
    /// A write lacks `missing_bytes`. True if expired items may be as much: then maintenance looks
    /// for them.
    pub(super) fn look_for_expired(&self, writer: &mut Writer, missing_bytes: u64, now: UnixSeconds) -> bool {
        writer.live.advance(now);
        if writer.crawl.is_none() {
            let expiries = &mut writer.live.expiries;
            if expiries.passed_bytes() < missing_bytes || !expiries.any_may_have_passed(now) {
                return false;
            }
            expiries.forget_soonest();
            writer.crawl = Some(Crawl { at: self.tail(), until: self.head() });
        }
        self.want_attention(true);
        true
    }

    /// Go on with the walk, if one is under way.
    pub(super) fn crawl(&self, writer: &mut Writer, now: UnixSeconds) {
        let Some(Crawl { at, until }) = writer.crawl else { return };
        // Reclaim may have come further meanwhile: what it moved stands behind the end, and was
        // noted.
        let begin = at.max(self.tail());
        let mut at = self.log.settle(begin);
        while at < until && at - begin < CRAWL_BYTES {
            let record = self.record(at);
            if record.shape.kind() == Kind::Set && !record.meta().dead() {
                self.crawl_over(writer, &record, at, now);
            }
            at = self.log.settle(at + record.shape.record_bytes() as u64);
        }
        writer.crawl = (at < until).then_some(Crawl { at, until });
    }

    /// Take out an item that has expired or was flushed; of one that is alive, only its expiry is
    /// looked at.
    fn crawl_over(&self, writer: &mut Writer, record: &Record<'_>, at: u64, now: UnixSeconds) {
        let expiry = record.meta().expiry();
        if !expiry.has_passed(now) && at >= self.flushed_below.load(Relaxed) {
            writer.live.expiries.note_soonest(expiry);
        } else if let (hash, Some(slot)) = self.slot_of(writer, record, at) {
            let item = self.item((slot, (at, *record)));
            self.unlink(writer, &item, hash, false);
        }
    }
}
