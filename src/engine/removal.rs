//! delete and md: taking an item away, or, with md's I and x, keeping it but stale or empty.

use super::prefixes::Use;
use super::{Call, Context, Engine, Outcome};
use crate::base::time::Expiry;
use crate::protocol::answer::Removed;
use crate::protocol::request::Delete;
use crate::store::{Entry, Item, Located, NewItem, Unwritten};

/// What is to be removed.
#[derive(Default)]
pub(super) struct RemoveOrder<'a> {
    pub key: &'a [u8],
    /// Only if the item's CAS is this.
    pub compare_cas: Option<u64>,
    /// What stays of it, if anything.
    pub remains: Option<Remains>,
}

/// What stays of an item that is not removed altogether.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remains {
    /// I: marked stale, so that the next reader wins the right to refill it.
    pub stale: bool,
    /// x: without its value, and with these client flags.
    pub emptied: Option<u32>,
    /// T: the new expiry.
    pub expiry: Option<Expiry>,
    /// E: the new CAS.
    pub new_cas: Option<u64>,
}

impl Engine {
    /// delete.
    pub(super) fn delete(&self, call: &mut Call<'_, '_, '_>, request: &Delete<'_>) -> Outcome {
        let order = RemoveOrder { key: request.key, compare_cas: request.compare_cas, remains: None };
        match self.remove(call, &order) {
            Ok(removed) => {
                request.reply.removed(call.out.bytes(), removed);
                Outcome::Done
            }
            Err(unwritten) => self.refuse(call, unwritten, 0, request.reply),
        }
    }

    /// Remove, or leave what is to remain.
    pub(super) fn remove(&self, call: &mut Call<'_, '_, '_>, order: &RemoveOrder<'_>) -> Result<Removed, Unwritten> {
        let (turn, now, stats) = (call.context.turn, call.context.now, call.context.stats);
        let at = self.locate(call, order.key);
        let mut entry = self.store.lock(&at)?.entry(turn, now);
        let removed = match entry.item() {
            None => Removed::NotFound,
            Some(item) if order.compare_cas.is_some_and(|cas| cas != item.cas()) => Removed::Exists,
            Some(item) => {
                match order.remains {
                    None => drop(entry.delete()?),
                    Some(remains) => self.leave(call, &mut entry, &at, &item, remains)?,
                }
                Removed::Done
            }
        };
        drop(entry);
        match removed {
            Removed::Done if order.remains.is_some_and(|remains| remains.stale) => {}
            Removed::Done => stats.delete_hits.increment(),
            Removed::NotFound | Removed::Exists => stats.delete_misses.increment(),
        }
        self.prefixes.record(order.key, Use::Delete);
        Ok(removed)
    }

    /// Write what remains of `item`: a new record, since a stale item has another CAS and an
    /// emptied one no value.
    fn leave(
        &self,
        call: &mut Call<'_, '_, '_>,
        entry: &mut Entry<'_>,
        at: &Located<'_>,
        item: &Item<'_>,
        remains: Remains,
    ) -> Result<(), Unwritten> {
        let (now, scratch) = (call.context.now, &mut *call.context.scratch);
        scratch.clear();
        if remains.emptied.is_none() {
            item.value().copy_to(scratch);
        }
        let kept_expiry = if remains.emptied.is_some() { Expiry::NEVER } else { item.expiry() };
        let new = NewItem {
            value: scratch,
            client_flags: remains.emptied.unwrap_or_else(|| item.client_flags()),
            expiry: remains.expiry.unwrap_or(kept_expiry),
            // An item that is only emptied keeps its CAS; one marked stale must not.
            cas: remains.new_cas.or_else(|| (!remains.stale).then(|| item.cas())),
            stale: remains.stale,
            token_sent: false,
        };
        let was_hit = remains.emptied.is_none() && item.hit_before();
        entry.set(&self.store.draft(at, new, now))?;
        if let (true, Some(written)) = (was_hit, entry.item()) {
            written.note_use(now);
        }
        Ok(())
    }

    /// Take away an item whose replacement was refused; not counted as a delete.
    pub(super) fn unlink(&self, context: &Context<'_, '_>, key: &[u8]) -> Result<(), Unwritten> {
        let at = self.store.locate(key);
        self.store.lock(&at)?.entry(context.turn, context.now).delete()?;
        Ok(())
    }
}
