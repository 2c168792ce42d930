//! ms, md, ma, me: the meta commands but mg, in terms of what the classic commands do.
//!
//! q hides only the usual answer of a command that did what it was asked (HD; for ma also VA). NF,
//! NS and EX are always answered: memcached 1.6 does so for NF, too, whatever its documentation
//! leads one to expect.

use super::arithmetic::{CountOrder, Counted};
use super::removal::{Remains, RemoveOrder, Removed};
use super::storage::{StoreOrder, Stored};
use super::{Call, Engine, Outcome, expiry_of};
use crate::base::time::{Expiry, UnixSeconds};
use crate::protocol::classic::StoreVerb;
use crate::protocol::meta::{MetaRequest, MetaVerb, SetMode};
use crate::protocol::reply::{self, DebugFacts, MetaCode, MetaFacts};
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
            Err(unwritten) => self.refuse(call, unwritten, 0, false),
        }
    }

    fn meta_set(&self, call: &mut Call<'_, '_, '_>, request: &MetaRequest<'_>) -> Result<(), Unwritten> {
        let stored = self.store_item(call, &store_order(request, call.context.now))?;
        let out = call.out.bytes();
        match stored {
            Stored::Written { .. } if request.quiet => {}
            Stored::Written { cas, value_bytes } => {
                let facts = MetaFacts { cas, value_bytes, ..MetaFacts::default() };
                reply::meta_line(out, MetaCode::Done, request, Some(&facts));
            }
            Stored::Unmet => reply::meta_line(out, MetaCode::NotStored, request, None),
            Stored::Exists => reply::meta_line(out, MetaCode::Exists, request, None),
            Stored::NotFound => reply::meta_line(out, MetaCode::NotFound, request, None),
        }
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
        let code = match self.remove(call, &order)? {
            Removed::Done if request.quiet => return Ok(()),
            Removed::Done => MetaCode::Done,
            Removed::NotFound => MetaCode::NotFound,
            Removed::Exists => MetaCode::Exists,
        };
        reply::meta_line(call.out.bytes(), code, request, None);
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
        let out = call.out.bytes();
        let (number, facts) = match counted {
            Counted::Number { .. } if request.quiet => return Ok(()),
            Counted::Number { number, cas, created, expiry_before } => {
                let expiry = expiry_at_flag(request, Some(b't'), created, expiry_before, now);
                (number, MetaFacts { cas, ttl_seconds: expiry.remaining(now), ..MetaFacts::default() })
            }
            Counted::NotFound => {
                reply::meta_line(out, MetaCode::NotFound, request, None);
                return Ok(());
            }
            Counted::Exists => {
                reply::meta_line(out, MetaCode::Exists, request, None);
                return Ok(());
            }
            Counted::NonNumeric => {
                out.extend_from_slice(reply::NON_NUMERIC);
                return Ok(());
            }
        };
        if request.want_value {
            let mut text = itoa::Buffer::new();
            reply::meta_line(out, MetaCode::Value(text.format(number).len()), request, Some(&facts));
            reply::number_line(out, number);
        } else {
            reply::meta_line(out, MetaCode::Done, request, Some(&facts));
        }
        Ok(())
    }

    fn meta_debug(&self, call: &mut Call<'_, '_, '_>, request: &MetaRequest<'_>) {
        let (turn, now) = (call.context.turn, call.context.now);
        let at = self.locate(call, request.key);
        let out = call.out.bytes();
        match self.store.get(turn, &at, now) {
            None => out.extend_from_slice(reply::META_DEBUG_MISS),
            Some(item) => {
                let facts = DebugFacts {
                    expires_in: item.expiry().remaining(now),
                    idle_seconds: item.idle_seconds(now),
                    cas: item.cas(),
                    fetched: item.hit_before(),
                    record_bytes: item.record_bytes(),
                };
                reply::debug_line(out, request, &facts);
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
    for token in request.flag_tokens.split(|byte| *byte == b' ').filter(|token| !token.is_empty()) {
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
