//! mg: the one read with effects.
//!
//! Most mg are plain reads, without a lock. One that must change something (T, N on a miss, a token
//! to be won) is decided again under the shard's lock, so that of many clients exactly one wins.

use super::meta::expiry_at_flag;
use super::prefixes::Use;
use super::retrieve::append_value;
use super::{Call, Engine, expiry_of};
use crate::base::time::{Expiry, UnixSeconds};
use crate::protocol::Exptime;
use crate::protocol::answer::MetaFacts;
use crate::protocol::text::encode;
use crate::protocol::text::meta::MetaRequest;
use crate::store::{Absence, Closed, Item, Located, MetaChange, NewItem, Unwritten};

/// A hit, ready to be answered: the facts as they were before the command, and the item if it has a
/// value.
struct Hit<'t> {
    facts: MetaFacts,
    item: Option<Item<'t>>,
}

impl Engine {
    pub(super) fn meta_get(&self, call: &mut Call<'_, '_, '_>, request: &MetaRequest<'_>) -> Result<(), Unwritten> {
        let (turn, now) = (call.context.turn, call.context.now);
        let at = self.locate(call, request.key);
        let looked = self.store.look(turn, &at, now);
        let seen = looked.ok();
        let mut facts = seen.map(|item| facts_before(request, &item, now));
        if let (true, Some(facts)) = (call.target.is_closed(), &mut facts) {
            win_nothing(facts);
        }
        let hit = match (&facts, seen) {
            (Some(facts), Some(_)) if facts.won || request.ttl.is_some() => self.change(call, request, &at)?,
            (None, _) if request.vivify.is_some() && call.target.is_closed() => {
                return Err(Closed { shard: at.place.shard() }.into());
            }
            (None, _) if request.vivify.is_some() => self.change(call, request, &at)?,
            (Some(facts), item) => Some(Hit { facts: *facts, item }),
            (None, _) => None,
        };
        let missed = hit.is_none().then(|| looked.err().unwrap_or(Absence::Unknown));
        self.count_meta_get(call, request, missed);
        let Some(hit) = hit else {
            encode::meta_missed(call.out.bytes(), request);
            return Ok(());
        };
        if let (Some(item), false) = (&hit.item, request.no_bump) {
            call.note_use(item, !call.target.is_closed());
        }
        answer_hit(call, request, &hit);
        Ok(())
    }

    /// What must change does so under the lock; None for a miss that creates nothing.
    fn change<'t, 'w: 't>(
        &'t self,
        call: &Call<'_, 'w, '_>,
        request: &MetaRequest<'_>,
        at: &'t Located<'t>,
    ) -> Result<Option<Hit<'t>>, Unwritten> {
        let (turn, now) = (call.context.turn, call.context.now);
        let mut entry = self.store.lock(at)?.entry(turn, now);
        if let Some(item) = entry.item() {
            let facts = facts_before(request, &item, now);
            let change = MetaChange {
                expiry: request.ttl.map(|ttl| expiry_of(ttl, now)),
                token_sent: facts.won.then_some(true),
                stale: None,
            };
            if change.expiry.is_some() || change.token_sent.is_some() {
                entry.change_meta(change)?;
            }
            return Ok(Some(Hit { facts, item: Some(item) }));
        }
        if request.vivify.is_none() {
            return Ok(None);
        }
        let new = NewItem {
            expiry: expiry_at_flag(request, None, true, Expiry::NEVER, now),
            cas: request.new_cas,
            token_sent: true,
            ..NewItem::default()
        };
        let cas = entry.set(&self.store.draft(at, new, now))?;
        let ttl_seconds = expiry_at_flag(request, Some(b't'), true, Expiry::NEVER, now).remaining(now);
        let facts = MetaFacts { cas, ttl_seconds, won: true, ..MetaFacts::default() };
        Ok(Some(Hit { facts, item: entry.item() }))
    }

    /// A hit with T counts as a touch, as in memcached; a miss always as a get.
    fn count_meta_get(&self, call: &Call<'_, '_, '_>, request: &MetaRequest<'_>, missed: Option<Absence>) {
        let stats = call.context.stats;
        match missed {
            None if request.ttl.is_some() => {
                stats.cmd_touch.increment();
                stats.touch_hits.increment();
            }
            None => {
                stats.cmd_get.increment();
                stats.get_hits.increment();
            }
            Some(absence) => {
                stats.cmd_get.increment();
                stats.count_miss(absence);
            }
        }
        self.prefixes.record(request.key, Use::Get { hit: missed.is_none() });
    }
}

fn answer_hit(call: &mut Call<'_, '_, '_>, request: &MetaRequest<'_>, hit: &Hit<'_>) {
    let with_value = request.want_value && request.compare_cas != Some(hit.facts.cas);
    encode::meta_found(call.out.bytes(), request, &hit.facts, with_value);
    if with_value {
        // One that was created with an expiry that has passed already is empty, and gone.
        if let Some(item) = &hit.item {
            append_value(call.out, item);
        }
        encode::value_end(call.out.bytes());
    }
}

/// Where nothing is written there is no token to give: the answer is that of a primary where
/// another client has it.
fn win_nothing(facts: &mut MetaFacts) {
    facts.token_sent |= facts.won;
    facts.won = false;
}

/// The facts of an item before this command changes it. `won` says that this client is to have the
/// token: if the item is stale, or R finds it close to its end, and nobody has the token yet.
fn facts_before(request: &MetaRequest<'_>, item: &Item<'_>, now: UnixSeconds) -> MetaFacts {
    let (expiry, stale, token_sent) = (item.expiry(), item.stale(), item.token_sent());
    let recache = request.recache_seconds.is_some_and(|seconds| {
        let threshold = expiry_of(Exptime(seconds.into()), now);
        let seen = expiry_at_flag(request, Some(b'R'), false, expiry, now);
        seen != Expiry::NEVER && seen.to_bits() < threshold.to_bits()
    });
    MetaFacts {
        client_flags: item.client_flags(),
        cas: item.cas(),
        ttl_seconds: expiry_at_flag(request, Some(b't'), false, expiry, now).remaining(now),
        hit_before: item.hit_before(),
        idle_seconds: item.idle_seconds(now),
        value_bytes: item.value_bytes(),
        won: !token_sent && (stale || recache),
        stale,
        token_sent,
    }
}
