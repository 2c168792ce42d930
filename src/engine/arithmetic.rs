//! incr, decr and ma.
//!
//! The number is read, changed and written as a new record under the shard's lock. What is kept is
//! what memcached keeps when it changes a number in place: flags, expiry, stale mark, token and
//! "was hit". It pads a number that became shorter with blanks; Remora does not (its documentation
//! tells clients not to rely on it).

use super::{Call, Engine, Outcome, expiry_of};
use crate::base::limits::NUMBER_TEXT_BYTES_MAX;
use crate::base::time::Expiry;
use crate::protocol::answer::Counted;
use crate::protocol::request::Arithmetic;
use crate::store::{Entry, Item, Located, NewItem, Unwritten};

/// What is to be counted.
pub(super) struct CountOrder<'a> {
    pub key: &'a [u8],
    pub increment: bool,
    pub delta: u64,
    /// Only if the item's CAS is this; 0 for any.
    pub compare_cas: u64,
    /// The CAS to give the item.
    pub new_cas: Option<u64>,
    /// A new expiry for an item that is there.
    pub expiry: Option<Expiry>,
    /// What to create on a miss.
    pub create: Option<(u64, Expiry)>,
}

impl Engine {
    /// incr, decr.
    pub(super) fn arithmetic(&self, call: &mut Call<'_, '_, '_>, request: &Arithmetic<'_>) -> Outcome {
        let order = CountOrder {
            key: request.key,
            increment: request.increment,
            delta: request.delta,
            compare_cas: request.compare_cas,
            new_cas: None,
            expiry: None,
            create: request.create.map(|(initial, exptime)| (initial, expiry_of(exptime, call.context.now))),
        };
        match self.count(call, &order) {
            Ok(counted) => {
                request.reply.counted(call.out.bytes(), counted);
                Outcome::Done
            }
            Err(unwritten) => self.refuse(call, unwritten, 0, request.reply),
        }
    }

    /// Count up or down, or create.
    pub(super) fn count(&self, call: &mut Call<'_, '_, '_>, order: &CountOrder<'_>) -> Result<Counted, Unwritten> {
        let (turn, now, stats) = (call.context.turn, call.context.now, call.context.stats);
        let at = self.locate(call, order.key);
        let mut entry = self.store.lock(&at)?.entry(turn, now);
        let Some(old) = entry.item() else {
            let Some((initial, expiry)) = order.create else {
                if order.increment { &stats.incr_misses } else { &stats.decr_misses }.increment();
                return Ok(Counted::NotFound);
            };
            let item = NewItem { expiry, cas: order.new_cas, ..NewItem::default() };
            let cas = self.write_number(call, &mut entry, &at, initial, item)?;
            stats.cmd_set.increment();
            return Ok(Counted::Number { number: initial, cas, created: true, expiry_before: Expiry::NEVER });
        };
        if old.value_bytes() == 0 {
            return Ok(Counted::NonNumeric);
        }
        if order.compare_cas != 0 && order.compare_cas != old.cas() {
            return Ok(Counted::Exists);
        }
        let Some(number) = read_number(&old, call.context.scratch) else {
            return Ok(Counted::NonNumeric);
        };
        let number = change(number, order.increment, order.delta);
        let (was_hit, expiry_before) = (old.hit_before(), old.expiry());
        let item = NewItem {
            client_flags: old.client_flags(),
            expiry: order.expiry.unwrap_or(expiry_before),
            cas: order.new_cas,
            stale: old.stale(),
            token_sent: old.token_sent(),
            ..NewItem::default()
        };
        let cas = self.write_number(call, &mut entry, &at, number, item)?;
        if let (true, Some(written)) = (was_hit, entry.item()) {
            written.note_use(now);
        }
        if order.increment { &stats.incr_hits } else { &stats.decr_hits }.increment();
        Ok(Counted::Number { number, cas, created: false, expiry_before })
    }

    /// Write `number` as the value of `item`; returns its CAS.
    fn write_number(
        &self,
        call: &Call<'_, '_, '_>,
        entry: &mut Entry<'_>,
        at: &Located<'_>,
        number: u64,
        item: NewItem<'_>,
    ) -> Result<u64, Unwritten> {
        let mut text = itoa::Buffer::new();
        let value = text.format(number).as_bytes();
        Ok(entry.set(&self.store.draft(at, NewItem { value, ..item }, call.context.now))?)
    }
}

/// The number in a value.
fn read_number(item: &Item<'_>, scratch: &mut Vec<u8>) -> Option<u64> {
    if item.value_bytes() > NUMBER_TEXT_BYTES_MAX {
        return None;
    }
    scratch.clear();
    item.value().copy_to(scratch);
    parse_number(scratch)
}

/// As memcached reads a number: blanks before it, a plus sign, and whatever follows a blank behind
/// it are let pass. A minus sign and a number beyond 64 bits are not.
fn parse_number(text: &[u8]) -> Option<u64> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let from = text.iter().position(|byte| !is_blank(byte))?;
    let text = text[from..].strip_prefix(b"+").unwrap_or(&text[from..]);
    let digits = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    if digits == 0 || text.get(digits).is_some_and(|byte| !is_blank(byte)) {
        return None;
    }
    text[..digits].iter().try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// Up wraps at 2^64, down stops at zero.
fn change(number: u64, increment: bool, delta: u64) -> u64 {
    if increment { number.wrapping_add(delta) } else { number.saturating_sub(delta) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_memcached_reads_them() {
        for (text, expected) in [
            (&b"0"[..], Some(0)),
            (b"42", Some(42)),
            (b"007", Some(7)),
            (b" 12", Some(12)),
            (b"12 ab", Some(12)),
            (b"13   ", Some(13)),
            (b"+1", Some(1)),
            (b"18446744073709551615", Some(u64::MAX)),
            (b"18446744073709551616", None),
            (b"99999999999999999999", None),
            (b"100000000000000000000", None),
            (b"-1", None),
            (b"12ab", None),
            (b"ab", None),
            (b"", None),
            (b"   ", None),
            (b"+", None),
            (b"1.5", None),
        ] {
            assert_eq!(parse_number(text), expected, "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn up_wraps_and_down_stops() {
        assert_eq!(change(u64::MAX, true, 1), 0);
        assert_eq!(change(5, true, u64::MAX), 4);
        assert_eq!(change(5, false, 6), 0);
        assert_eq!(change(5, false, 5), 0);
        assert_eq!(change(10, false, 1), 9);
    }
}
