//! ms, md, ma, me: the meta commands but mg, in terms of what the classic commands do.

use super::arithmetic::CountOrder;
use super::removal::{Remains, RemoveOrder};
use super::storage::StoreOrder;
use super::{Call, Engine, Outcome, expiry_of};
use crate::base::time::{Expiry, UnixSeconds};
use crate::protocol::Reply;
use crate::protocol::answer::{Counted, DebugFacts};
use crate::protocol::request::StoreVerb;
use crate::protocol::text::encode;
use crate::protocol::text::meta::{MetaRequest, MetaVerb, SetMode, flag_tokens};
use crate::store::Unwritten;

impl Engine {
    /// Any meta command.
    pub(super) fn meta(&self, call: &mut Call<'_, '_, '_>, request: &MetaRequest<'_>) -> Outcome {
        let done = match request.verb {
            MetaVerb::Get => self.meta_get(call, request),
            MetaVerb::Set => self.meta_set(call, request),
            MetaVerb::Delete => self.meta_delete(call, request),
            MetaVerb::Arithmetic => self.meta_arithmetic(call, request),
            MetaVerb::Debug => {
                self.meta_debug(call, request);
                Ok(())
            }
        };
        match done {
            Ok(()) => Outcome::Done,
            // Errors are answered in spite of q.
            Err(unwritten) => self.refuse(call, unwritten, 0, Reply::Text),
        }
    }

    fn meta_set(&self, call: &mut Call<'_, '_, '_>, request: &MetaRequest<'_>) -> Result<(), Unwritten> {
        let stored = self.store_item(call, &store_order(request, call.context.now))?;
        encode::meta_stored(call.out.bytes(), request, stored);
        Ok(())
    }

    fn meta_delete(&self, call: &mut Call<'_, '_, '_>, request: &MetaRequest<'_>) -> Result<(), Unwritten> {
        let remains = (request.invalidate || request.remove_value).then(|| Remains {
            stale: request.invalidate,
            emptied: request.remove_value.then_some(request.client_flags),
            expiry: request.ttl.map(|ttl| expiry_of(ttl, call.context.now)),
            new_cas: request.new_cas,
        });
        let order = RemoveOrder { key: request.key, compare_cas: request.compare_cas, remains };
        let removed = self.remove(call, &order)?;
        encode::meta_removed(call.out.bytes(), request, removed);
        Ok(())
    }

    fn meta_arithmetic(&self, call: &mut Call<'_, '_, '_>, request: &MetaRequest<'_>) -> Result<(), Unwritten> {
        let now = call.context.now;
        let order = CountOrder {
            key: request.key,
            increment: !request.decrement,
            delta: request.delta,
            compare_cas: request.compare_cas.unwrap_or(0),
            new_cas: request.new_cas,
            expiry: request.ttl.map(|ttl| expiry_of(ttl, now)),
            create: request.vivify.map(|_| (request.initial, expiry_at_flag(request, None, true, Expiry::NEVER, now))),
        };
        let counted = self.count(call, &order)?;
        let ttl_seconds = match counted {
            Counted::Number { created, expiry_before, .. } => {
                expiry_at_flag(request, Some(b't'), created, expiry_before, now).remaining(now)
            }
            _ => None,
        };
        encode::meta_counted(call.out.bytes(), request, counted, ttl_seconds);
        Ok(())
    }

    fn meta_debug(&self, call: &mut Call<'_, '_, '_>, request: &MetaRequest<'_>) {
        let (turn, now) = (call.context.turn, call.context.now);
        let at = self.locate(call, request.key);
        let out = call.out.bytes();
        match self.store.get(turn, &at, now) {
            None => encode::debug_missed(out),
            Some(item) => {
                let facts = DebugFacts {
                    expires_in: item.expiry().remaining(now),
                    idle_seconds: item.idle_seconds(now),
                    cas: item.cas(),
                    fetched: item.hit_before(),
                    record_bytes: item.record_bytes(),
                };
                encode::debug_line(out, request, &facts);
            }
        }
        call.context.stats.cmd_meta.increment();
    }
}

/// What ms means. A CAS to compare with turns set and replace into cas; add ignores it; append and
/// prepend honour it.
fn store_order<'a>(request: &MetaRequest<'a>, now: UnixSeconds) -> StoreOrder<'a> {
    let verb = match (request.set_mode, request.compare_cas) {
        (SetMode::Set | SetMode::Replace, Some(cas)) => StoreVerb::Cas(cas),
        (SetMode::Set, None) => StoreVerb::Set,
        (SetMode::Replace, None) => StoreVerb::Replace,
        (SetMode::Add, _) => StoreVerb::Add,
        (SetMode::Append, _) => StoreVerb::Append,
        (SetMode::Prepend, _) => StoreVerb::Prepend,
    };
    // Append and prepend take the time to live of what they create from N alone.
    let joins = matches!(verb, StoreVerb::Append | StoreVerb::Prepend);
    let exptime = if joins { request.vivify.or(request.ttl) } else { request.ttl };
    StoreOrder {
        verb,
        key: request.key,
        value: request.value,
        client_flags: request.client_flags,
        expiry: exptime.map_or(Expiry::NEVER, |exptime| expiry_of(exptime, now)),
        onto_cas: if joins { request.compare_cas.unwrap_or(0) } else { 0 },
        vivify: joins && request.vivify.is_some(),
        accept_older: request.invalidate,
        new_cas: request.new_cas,
        unlink_if_too_large: true,
    }
}

/// The item's expiry as the flag `until` finds it, or, with None, behind all flags: memcached
/// carries out T, and N for an item just created, in the order in which the flags stand, and t and
/// R see what stood before them.
pub(super) fn expiry_at_flag(
    request: &MetaRequest<'_>,
    until: Option<u8>,
    created: bool,
    before: Expiry,
    now: UnixSeconds,
) -> Expiry {
    let mut expiry = before;
    for token in flag_tokens(request.flag_tokens) {
        let set = match token[0] {
            flag if Some(flag) == until => break,
            b'T' => request.ttl,
            b'N' if created => request.vivify,
            _ => None,
        };
        expiry = set.map_or(expiry, |exptime| expiry_of(exptime, now));
    }
    expiry
}
