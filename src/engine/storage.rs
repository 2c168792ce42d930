//! set, add, replace, append, prepend, cas, and ms: one rule for all of them.
//!
//! [`decide`] is the table of what each verb does, given what is there; [`Engine::store_item`]
//! carries it out under the shard's lock. The record is made, checksum included, before the lock is
//! taken; only where what is there decides the bytes (an append that lost a race, a stale store) is
//! it made again under the lock.

use super::prefixes::Use;
use super::{Call, Engine, Outcome, expiry_of};
use crate::base::time::Expiry;
use crate::protocol::answer::Stored;
use crate::protocol::request::{Store, StoreVerb};
use crate::store::{Entry, Item, Located, NewItem, NoRoom, Unwritten};

/// What is to be stored, and under which conditions.
pub(super) struct StoreOrder<'a> {
    pub verb: StoreVerb,
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub client_flags: u32,
    pub expiry: Expiry,
    /// append, prepend: only onto an item of this CAS; 0 for any.
    pub onto_cas: u64,
    /// append, prepend: create what is not there.
    pub vivify: bool,
    /// cas: a CAS older than the item's stores all the same, but marks the item stale.
    pub accept_older: bool,
    /// The CAS to give the item.
    pub new_cas: Option<u64>,
    /// Where the new item is too large for the cache, take the old one away: it must not be served
    /// as if it were current.
    pub unlink_if_too_large: bool,
}

/// What to do, given what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Write the new value.
    Store,
    /// Write the new value, but keep the old expiry and token, and mark it stale.
    StoreStale,
    /// Write the old and the new value together.
    Join,
    Refuse(Stored),
}

/// memcached's outcomes. `old_cas` is that of the item that is there, if one is. A CAS of zero
/// never matches.
fn decide(order: &StoreOrder<'_>, old_cas: Option<u64>) -> Decision {
    match (order.verb, old_cas) {
        (StoreVerb::Set, _) | (StoreVerb::Add, None) | (StoreVerb::Replace, Some(_)) => Decision::Store,
        (StoreVerb::Add, Some(_)) | (StoreVerb::Replace, None) => Decision::Refuse(Stored::NotStored),
        (StoreVerb::Cas(_), None) => Decision::Refuse(Stored::NotFound),
        (StoreVerb::Cas(0), Some(_)) => Decision::Refuse(Stored::Exists),
        (StoreVerb::Cas(asked), Some(old)) if asked == old => Decision::Store,
        (StoreVerb::Cas(asked), Some(old)) if order.accept_older && asked < old => Decision::StoreStale,
        (StoreVerb::Cas(_), Some(_)) => Decision::Refuse(Stored::Exists),
        (StoreVerb::Append | StoreVerb::Prepend, Some(old)) if order.onto_cas == 0 || order.onto_cas == old => {
            Decision::Join
        }
        (StoreVerb::Append | StoreVerb::Prepend, Some(_)) => Decision::Refuse(Stored::Exists),
        (StoreVerb::Append | StoreVerb::Prepend, None) if order.vivify => Decision::Store,
        (StoreVerb::Append | StoreVerb::Prepend, None) => Decision::Refuse(Stored::NotStored),
    }
}

impl<'a> StoreOrder<'a> {
    fn new_item(&self) -> NewItem<'a> {
        NewItem {
            value: self.value,
            client_flags: self.client_flags,
            expiry: self.expiry,
            cas: self.new_cas,
            ..NewItem::default()
        }
    }

    /// Old and new value together keep the flags and the expiry of the old, and lose its stale mark
    /// and token.
    fn joined_item<'b>(&self, old: &Item<'_>, scratch: &'b mut Vec<u8>) -> NewItem<'b> {
        scratch.clear();
        if self.verb == StoreVerb::Prepend {
            scratch.extend_from_slice(self.value);
        }
        old.value().copy_to(scratch);
        if self.verb == StoreVerb::Append {
            scratch.extend_from_slice(self.value);
        }
        NewItem {
            value: scratch,
            client_flags: old.client_flags(),
            expiry: old.expiry(),
            cas: self.new_cas,
            ..NewItem::default()
        }
    }
}

impl Engine {
    /// set, add, replace, append, prepend, cas.
    pub(super) fn store_classic(&self, call: &mut Call<'_, '_, '_>, request: &Store<'_>) -> Outcome {
        let order = StoreOrder {
            verb: request.verb,
            key: request.key,
            value: request.value,
            client_flags: request.client_flags,
            expiry: expiry_of(request.exptime, call.context.now),
            onto_cas: request.onto_cas,
            vivify: false,
            accept_older: false,
            new_cas: None,
            unlink_if_too_large: request.verb == StoreVerb::Set,
        };
        match self.store_item(call, &order) {
            Ok(stored) => {
                request.reply.stored(call.out.bytes(), stored);
                Outcome::Done
            }
            Err(unwritten) => self.refuse(call, unwritten, 0, request.reply),
        }
    }

    /// Store, and count it.
    pub(super) fn store_item(&self, call: &mut Call<'_, '_, '_>, order: &StoreOrder<'_>) -> Result<Stored, Unwritten> {
        let at = self.locate(call, order.key);
        let stored = match order.verb {
            StoreVerb::Append | StoreVerb::Prepend => self.join(call, order, &at),
            _ => self.put(call, order, &at),
        }?;
        let stats = call.context.stats;
        stats.cmd_set.increment();
        if let StoreVerb::Cas(_) = order.verb {
            match stored {
                Stored::Written { .. } => stats.cas_hits.increment(),
                Stored::NotFound => stats.cas_misses.increment(),
                Stored::Exists | Stored::NotStored => stats.cas_badval.increment(),
            }
        }
        if self.prefixes.are_observed() {
            self.observe_store(call, order, &at, stored);
        }
        Ok(stored)
    }

    /// Uses of keys are counted by prefix, or noted for watchers.
    #[cold]
    fn observe_store(&self, call: &Call<'_, '_, '_>, order: &StoreOrder<'_>, at: &Located<'_>, stored: Stored) {
        self.prefixes.record(order.key, Use::Set);
        self.note_stored(call, at, order.verb, (order.value.len(), order.expiry), stored);
    }

    /// All verbs that write the value they bring.
    fn put(&self, call: &mut Call<'_, '_, '_>, order: &StoreOrder<'_>, at: &Located<'_>) -> Result<Stored, Unwritten> {
        let (turn, now) = (call.context.turn, call.context.now);
        let item = order.new_item();
        if call.looks_for_room() {
            // The checksum of a large value, made in vain for each try, would cost more than all
            // the rest.
            self.store.find_room(turn, at, &item, now)?;
        }
        let draft = self.store.draft(at, item, now);
        let mut entry = self.store.lock(at)?.entry(turn, now);
        // A set does not care what is there, so it does not look.
        let old = if order.verb == StoreVerb::Set { None } else { entry.item() };
        let written = match decide(order, old.map(|old| old.cas())) {
            Decision::Refuse(stored) => return Ok(stored),
            Decision::StoreStale => {
                let token_sent = old.is_some_and(|old| old.token_sent());
                let expiry = old.map_or(order.expiry, |old| old.expiry());
                entry.set(&self.store.draft(at, NewItem { expiry, stale: true, token_sent, ..item }, now))
            }
            Decision::Store | Decision::Join => entry.set(&draft),
        };
        if written == Err(NoRoom::TooLarge) && order.unlink_if_too_large {
            entry.delete()?;
        }
        Ok(Stored::Written { cas: written?, value_bytes: order.value.len() })
    }

    /// append and prepend. The old value is read, and the new record made, before the lock is
    /// taken; if another client was quicker, it is done again under the lock.
    fn join(&self, call: &mut Call<'_, '_, '_>, order: &StoreOrder<'_>, at: &Located<'_>) -> Result<Stored, Unwritten> {
        let (turn, now) = (call.context.turn, call.context.now);
        if call.looks_for_room() {
            // For the new part at least.
            self.store.find_room(turn, at, &order.new_item(), now)?;
        }
        let scratch = &mut *call.context.scratch;
        let seen = self.store.get(turn, at, now);
        let ahead = match &seen {
            Some(old) => order.joined_item(old, scratch),
            None => order.new_item(),
        };
        let draft = self.store.draft(at, ahead, now);
        let (ahead_bytes, ahead_expiry) = (ahead.value.len(), ahead.expiry);
        let mut entry = self.store.lock(at)?.entry(turn, now);
        let old = entry.item();
        match decide(order, old.map(|old| old.cas())) {
            Decision::Refuse(stored) => Ok(stored),
            _ if is_unchanged(seen.as_ref(), old.as_ref(), ahead_expiry) => {
                write_joined(&mut entry, &draft, ahead_bytes)
            }
            _ => {
                let again = old.as_ref().map_or_else(|| order.new_item(), |old| order.joined_item(old, scratch));
                write_joined(&mut entry, &self.store.draft(at, again, now), again.value.len())
            }
        }
    }
}

/// Old and new together may be too large where each alone is not: memcached then answers "not
/// stored", and the old value stays.
fn write_joined(
    entry: &mut Entry<'_>,
    draft: &crate::store::Draft<'_>,
    value_bytes: usize,
) -> Result<Stored, Unwritten> {
    match entry.set(draft) {
        Ok(cas) => Ok(Stored::Written { cas, value_bytes }),
        Err(NoRoom::TooLarge) => Ok(Stored::NotStored),
        Err(no_room) => Err(no_room.into()),
    }
}

/// Whether what was read without the lock is what is there under it: the same record, which cannot
/// have been overwritten within the turn, and no touch since its expiry was copied.
fn is_unchanged(seen: Option<&Item<'_>>, now: Option<&Item<'_>>, copied_expiry: Expiry) -> bool {
    match (seen, now) {
        (None, None) => true,
        (Some(seen), Some(now)) => seen.loan() == now.loan() && now.expiry() == copied_expiry,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(verb: StoreVerb) -> StoreOrder<'static> {
        StoreOrder {
            verb,
            key: b"key",
            value: b"value",
            client_flags: 0,
            expiry: Expiry::NEVER,
            onto_cas: 0,
            vivify: false,
            accept_older: false,
            new_cas: None,
            unlink_if_too_large: true,
        }
    }

    #[test]
    fn every_verb_decides_by_what_is_there() {
        use Decision::{Join, Refuse, Store};
        use Stored::{Exists, NotFound, NotStored};
        for (verb, on_miss, on_hit) in [
            (StoreVerb::Set, Store, Store),
            (StoreVerb::Add, Store, Refuse(NotStored)),
            (StoreVerb::Replace, Refuse(NotStored), Store),
            (StoreVerb::Append, Refuse(NotStored), Join),
            (StoreVerb::Prepend, Refuse(NotStored), Join),
            (StoreVerb::Cas(7), Refuse(NotFound), Store),
            (StoreVerb::Cas(6), Refuse(NotFound), Refuse(Exists)),
            (StoreVerb::Cas(8), Refuse(NotFound), Refuse(Exists)),
            (StoreVerb::Cas(0), Refuse(NotFound), Refuse(Exists)),
        ] {
            assert_eq!(decide(&order(verb), None), on_miss, "{verb:?} on a miss");
            assert_eq!(decide(&order(verb), Some(7)), on_hit, "{verb:?} on a hit");
        }
    }

    #[test]
    fn only_a_lower_cas_stores_stale() {
        let stale = |cas| StoreOrder { accept_older: true, ..order(StoreVerb::Cas(cas)) };
        assert_eq!(decide(&stale(6), Some(7)), Decision::StoreStale);
        assert_eq!(decide(&stale(7), Some(7)), Decision::Store);
        assert_eq!(decide(&stale(8), Some(7)), Decision::Refuse(Stored::Exists));
        assert_eq!(decide(&stale(0), Some(7)), Decision::Refuse(Stored::Exists), "zero is no CAS");
        assert_eq!(decide(&stale(6), None), Decision::Refuse(Stored::NotFound));
    }

    #[test]
    fn append_looks_at_the_cas_and_may_create() {
        for verb in [StoreVerb::Append, StoreVerb::Prepend] {
            let onto = |onto_cas| StoreOrder { onto_cas, ..order(verb) };
            assert_eq!(decide(&onto(7), Some(7)), Decision::Join);
            assert_eq!(decide(&onto(6), Some(7)), Decision::Refuse(Stored::Exists));
            assert_eq!(decide(&onto(6), None), Decision::Refuse(Stored::NotStored));
            let vivify = StoreOrder { vivify: true, ..order(verb) };
            assert_eq!(decide(&vivify, None), Decision::Store);
            assert_eq!(decide(&vivify, Some(7)), Decision::Join);
        }
    }
}
