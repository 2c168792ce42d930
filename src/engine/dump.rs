//! Dumps: `lru_crawler metadump` and `mgdump`, `stats cachedump`. Each walks all items, a part of
//! them in each turn, as much as gets may look up in one and as the output has room for.
//!
//! How far a dump has come is kept here, under a number that the connection gives back when it goes
//! on. It ends with its connection ([`Engine::end_dump`]). There are [`DUMPS_MAX`] at most. One
//! that nobody has gone on with for [`DUMP_IDLE_SECONDS`] gives way to a new one: its client takes
//! nothing, or next to nothing.

use super::{Call, Engine, Outcome};
use crate::base::limits::{DUMP_IDLE_SECONDS, DUMPS_MAX, KEY_BYTES_MAX};
use crate::base::time::UnixSeconds;
use crate::protocol::request::{Dump, DumpedClasses};
use crate::protocol::text::dump::{DumpForm, DumpedItem};
use crate::protocol::{Refusal, Reply};
use crate::store::{Browse, Item};
use std::sync::{Mutex, MutexGuard};

/// The dumps under way.
#[derive(Default)]
pub(super) struct Dumps(Mutex<Table>);

#[derive(Default)]
struct Table {
    last_number: u32,
    dumps: Vec<Begun>,
}

/// How far a dump has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Begun {
    /// Not 0.
    number: u32,
    at: Browse,
    /// Items that it has shown.
    shown: u64,
    used_at: UnixSeconds,
}

impl Begun {
    /// Nobody goes on with it.
    fn is_left(&self, now: UnixSeconds) -> bool {
        now.0.saturating_sub(self.used_at.0) >= DUMP_IDLE_SECONDS
    }
}

impl Dumps {
    /// Whether there is one that somebody goes on with.
    pub(super) fn are_under_way(&self, now: UnixSeconds) -> bool {
        self.lock().dumps.iter().any(|dump| !dump.is_left(now))
    }

    /// A new one; None where there are enough.
    fn begin(&self, now: UnixSeconds) -> Option<Begun> {
        let mut table = self.lock();
        if table.dumps.len() >= DUMPS_MAX {
            let left = table.dumps.iter().position(|dump| dump.is_left(now))?;
            table.dumps.swap_remove(left);
        }
        table.last_number = table.last_number.checked_add(1).unwrap_or(1);
        let begun = Begun { number: table.last_number, at: Browse::default(), shown: 0, used_at: now };
        table.dumps.push(begun);
        Some(begun)
    }

    /// The one of this number; None where it had to give way.
    fn find(&self, number: u32) -> Option<Begun> {
        self.lock().dumps.iter().find(|dump| dump.number == number).copied()
    }

    /// It has come so far.
    fn keep(&self, dump: Begun) {
        if let Some(kept) = self.lock().dumps.iter_mut().find(|kept| kept.number == dump.number) {
            *kept = dump;
        }
    }

    /// It is over.
    fn end(&self, number: u32) {
        self.lock().dumps.retain(|dump| dump.number != number);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Engine {
    /// A dump, or the next part of it.
    pub(super) fn dump(&self, call: &mut Call<'_, '_, '_>, dump: Dump, resume: u32) -> Outcome {
        if !self.switches.dumps {
            return call.refused(Reply::Text, forbidden(dump.form));
        }
        match dump.classes {
            DumpedClasses::Invalid => return call.refused(Reply::Text, Refusal::BadClass),
            DumpedClasses::None => return call.refused(Reply::Text, Refusal::NothingToCrawl),
            DumpedClasses::Empty => {
                dump.form.begin(call.out.bytes());
                dump.form.end(call.out.bytes());
                return Outcome::Done;
            }
            DumpedClasses::All => {}
        }
        if !call.context.client.stays() {
            return call.refused(Reply::Text, Refusal::TooMuchForUdp);
        }
        let now = call.context.now;
        let begun = if resume == 0 { self.dumps.begin(now) } else { self.dumps.find(resume) };
        let Some(mut begun) = begun else {
            return call.refused(Reply::Text, if resume == 0 { Refusal::CrawlerBusy } else { Refusal::CrawlerLocked });
        };
        if resume == 0 {
            call.context.stats.dumps.increment();
            dump.form.begin(call.out.bytes());
        }
        if self.go_on_with(call, dump.form, &mut begun) {
            self.dumps.end(begun.number);
            dump.form.end(call.out.bytes());
            return Outcome::Done;
        }
        self.dumps.keep(Begun { used_at: now, ..begun });
        Outcome::Dump(begun.number)
    }

    /// Nobody goes on with this dump: the connection that asked for it has ended. It may be over.
    pub fn end_dump(&self, number: u32) {
        self.dumps.end(number);
    }

    /// Show items until the output is full or this turn has had enough; true once all are shown.
    fn go_on_with(&self, call: &mut Call<'_, '_, '_>, form: DumpForm, begun: &mut Begun) -> bool {
        let (turn, now) = (call.context.turn, call.context.now);
        let items_max = match form {
            DumpForm::Cache { items_max } if items_max > 0 => items_max.into(),
            _ => u64::MAX,
        };
        let mut items = Vec::new();
        while begun.shown < items_max {
            if call.out.is_full() || call.context.keys_left == 0 {
                return false;
            }
            if !self.store.browse(turn, &mut begun.at, now, &mut items) {
                return true;
            }
            call.context.keys_left = call.context.keys_left.saturating_sub(1 + items.len() as u32);
            for item in items.drain(..) {
                if begun.shown < items_max && show(call, form, &item) {
                    begun.shown += 1;
                }
            }
        }
        true
    }
}

/// True if it has a line in this form.
fn show(call: &mut Call<'_, '_, '_>, form: DumpForm, item: &Item<'_>) -> bool {
    let now = call.context.now;
    let mut key = [0; KEY_BYTES_MAX];
    let item = DumpedItem {
        key: item.copy_key(&mut key),
        expires_at: item.expiry().to_bits(),
        used_at: now.0.saturating_sub(item.idle_seconds(now)),
        cas: item.cas(),
        fetched: item.hit_before(),
        record_bytes: item.record_bytes(),
        value_bytes: item.value_bytes(),
        client_flags: item.client_flags(),
    };
    form.item(call.out.bytes(), &item)
}

fn forbidden(form: DumpForm) -> Refusal {
    match form {
        DumpForm::Meta => Refusal::MetadumpOff,
        DumpForm::Requests => Refusal::MgdumpOff,
        DumpForm::Cache { .. } => Refusal::CachedumpOff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_left_gives_way_and_is_not_gone_on_with() {
        let (dumps, begin) = (Dumps::default(), UnixSeconds(1000));
        let all: Vec<Begun> = (0..DUMPS_MAX).map(|_| dumps.begin(begin).expect("there is room")).collect();
        assert_eq!(dumps.begin(UnixSeconds(1000 + DUMP_IDLE_SECONDS - 1)), None, "all may still go on");
        let late = UnixSeconds(1000 + DUMP_IDLE_SECONDS);
        assert!(dumps.are_under_way(begin) && !dumps.are_under_way(late));
        all[1..].iter().for_each(|dump| dumps.keep(Begun { used_at: late, ..*dump }));
        let new = dumps.begin(late).expect("one is left");
        assert_eq!((dumps.find(all[0].number), dumps.find(new.number)), (None, Some(new)));
        dumps.keep(Begun { used_at: late, ..all[0] });
        assert_eq!(dumps.begin(late), None, "what gave way does not come back");
        dumps.end(new.number);
        assert!(dumps.begin(late).is_some_and(|next| next.number > new.number));
    }
}
