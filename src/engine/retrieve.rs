//! get, gets, gat, gats; and get, gat, touch of the binary protocol, which name one key.
//!
//! A get walks its keys by offset. When the output is full, or it has looked up as many keys as it
//! may in one turn, it stops behind a key and is resumed there; END is written only at the end. A
//! long get comes in parts, each of which is a request of its own here. Plain reads take no lock;
//! gat locks the shard of one key at a time.

use super::output::Mark;
use super::prefixes::Use;
use super::target::Gate;
use super::{Call, Engine, Outcome, Output, expiry_of};
use crate::base::limits::{KEYS_AHEAD_MAX, LOAN_BYTES_MIN};
use crate::base::time::Expiry;
use crate::protocol::answer::Touched;
use crate::protocol::binary;
use crate::protocol::read_from::ReadFrom;
use crate::protocol::request::{Get, GetOne, NextKey, Touch};
use crate::protocol::text::encode;
use crate::protocol::{Refusal, Reply};
use crate::store::{Item, Located, MetaChange, Place, Unwritten};
use arrayvec::ArrayVec;

type KeysAhead<'k> = ArrayVec<(Located<'k>, u32), KEYS_AHEAD_MAX>;

impl Engine {
    /// get, gets, gat, gats, from the key at `resume` on.
    ///
    /// A bad key, a lack of room, or a gat of what is written elsewhere replaces the whole answer
    /// by one error line, as in memcached.
    /// What was already flushed to the client cannot be taken back: then the error line stands
    /// where END would.
    pub(super) fn get<'c>(&self, call: &mut Call<'c, '_, '_>, request: &Get<'c>, resume: u32) -> Outcome {
        let begin = (resume == 0 && !request.continues).then(|| call.out.mark());
        let touch = request.form.touch.map(|exptime| expiry_of(exptime, call.context.now));
        let mut ahead = KeysAhead::new();
        let mut from = resume;
        loop {
            let then = self.look_ahead(call, request, from, &mut ahead);
            call.context.keys_left = call.context.keys_left.saturating_sub(ahead.len() as u32);
            for (at, next) in &ahead {
                if let Err(unwritten) = self.get_one(call, at, request.form.with_cas, touch) {
                    if call.would_park(unwritten) {
                        return Outcome::Park(from);
                    }
                    if matches!(unwritten, Unwritten::Closed(_)) && self.forwards(call) {
                        return Outcome::Forward(from);
                    }
                    take_back(call, begin);
                    return fail(request, self.refuse(call, unwritten, from, Reply::Text));
                }
                from = *next;
                if call.out.is_full() {
                    return Outcome::Resume(from);
                }
            }
            match then {
                NextKey::Key(..) if call.context.keys_left == 0 => return Outcome::Resume(from),
                NextKey::Key(..) if ahead.is_empty() => {
                    if begin.is_some() && request.keys.has_bad() {
                        take_back(call, begin);
                        return fail(request, call.refused(Reply::Text, Refusal::BadFormat));
                    }
                    return Outcome::Forward(from);
                }
                NextKey::Key(..) => {
                    ahead.clear();
                    // Only the key at which this has begun is served here in any case.
                    call.target.gate = Gate::Open;
                }
                NextKey::End if !request.ends => return Outcome::Part,
                NextKey::End => {
                    encode::end(call.out.bytes());
                    return Outcome::Done;
                }
                NextKey::Bad => {
                    take_back(call, begin);
                    call.context.turn.forget_appended();
                    return fail(request, call.refused(Reply::Text, Refusal::BadFormat));
                }
            }
        }
    }

    /// Fill `ahead` with the next keys from offset `from` on, each with the offset behind it, and
    /// have their memory fetched. Returns what follows them: a key that is another server's ends
    /// them, and there are none where the first one is.
    fn look_ahead<'k>(
        &self,
        call: &Call<'k, '_, '_>,
        get: &Get<'k>,
        from: u32,
        ahead: &mut KeysAhead<'k>,
    ) -> NextKey<'k> {
        let keys = &get.keys;
        let mut then = match call.target.at {
            Some(first) if from == 0 => {
                ahead.push((first, call.target.next));
                keys.next(call.target.next)
            }
            _ => {
                let first = keys.next(from);
                if self.is_forwarded(call, get, &first) {
                    return first;
                }
                first
            }
        };
        while let (NextKey::Key(key, next), false) = (&then, ahead.is_full()) {
            let at = self.store.locate(key);
            self.store.prefetch_bucket(at.place);
            ahead.push((at, *next));
            then = keys.next(*next);
        }
        // A single key was fetched ahead with the other requests of its batch.
        if ahead.len() > 1 {
            ahead.iter().for_each(|(at, _)| self.store.prefetch_record(call.context.turn, at.place));
            if self.switches.forwards {
                self.cut_at_forwarded(call, get, ahead, &mut then);
            }
        }
        then
    }

    /// Whether a further key of a get is another server's.
    #[cold]
    fn is_forwarded(&self, call: &Call<'_, '_, '_>, get: &Get<'_>, key: &NextKey<'_>) -> bool {
        let NextKey::Key(key, _) = key else { return false };
        self.forwards(call) && self.is_anothers(call, get, self.store.locate(key).place)
    }

    /// Whether this key of a get, where requests are forwarded, is not answered here.
    fn is_anothers(&self, call: &Call<'_, '_, '_>, get: &Get<'_>, place: Place) -> bool {
        let read_from = if get.form.touch.is_some() { ReadFrom::default() } else { call.context.client.read_from() };
        self.is_elsewhere(call, place) && !self.is_read_here(call, read_from, place)
    }

    /// End `ahead` before the first key, but for the one at its front, that is another server's.
    #[cold]
    fn cut_at_forwarded<'k>(
        &self,
        call: &Call<'k, '_, '_>,
        get: &Get<'k>,
        ahead: &mut KeysAhead<'k>,
        then: &mut NextKey<'k>,
    ) {
        let client = call.context.client;
        if !client.stays() || client.is_forwarder() {
            return;
        }
        let is_anothers = |(at, _): &(Located<'_>, u32)| self.is_anothers(call, get, at.place);
        if let Some(cut) = ahead.iter().skip(1).position(is_anothers) {
            let (at, next) = ahead[cut + 1];
            *then = NextKey::Key(at.key, next);
            ahead.truncate(cut + 1);
        }
    }

    /// One key of a get or, with `touch`, of a gat.
    fn get_one(
        &self,
        call: &mut Call<'_, '_, '_>,
        at: &Located<'_>,
        with_cas: bool,
        touch: Option<Expiry>,
    ) -> Result<(), Unwritten> {
        if let Some(item) = self.find(call, at, touch)? {
            let cas = with_cas.then(|| item.cas());
            encode::value_line(call.out.bytes(), at.key, item.client_flags(), item.value_bytes(), cas);
            append_value(call.out, &item);
            encode::value_end(call.out.bytes());
        }
        Ok(())
    }

    /// get, gat, touch of the binary protocol.
    pub(super) fn get_single(&self, call: &mut Call<'_, '_, '_>, request: &GetOne<'_>) -> Outcome {
        let GetOne { key, touch, head } = *request;
        let at = self.locate(call, key);
        let touch = touch.map(|exptime| expiry_of(exptime, call.context.now));
        match self.find(call, &at, touch) {
            Ok(None) => binary::encode::missed(call.out.bytes(), head, key),
            Ok(Some(item)) => {
                let (flags, value_bytes) = (item.client_flags(), item.value_bytes());
                binary::encode::found(call.out.bytes(), head, key, flags, value_bytes, item.cas());
                if head.tells_value() {
                    append_value(call.out, &item);
                }
            }
            Err(unwritten) => return self.refuse(call, unwritten, 0, Reply::Binary(head)),
        }
        Outcome::Done
    }

    /// The item under a key, which was used with that and, with `touch`, has a new expiry.
    #[inline(always)]
    fn find<'t, 'w: 't>(
        &'t self,
        call: &Call<'_, 'w, '_>,
        at: &'t Located<'t>,
        touch: Option<Expiry>,
    ) -> Result<Option<Item<'t>>, Unwritten> {
        let (turn, now, stats) = (call.context.turn, call.context.now, call.context.stats);
        let found = match touch {
            None => {
                stats.cmd_get.increment();
                match self.store.look(turn, at, now) {
                    Ok(item) => {
                        stats.get_hits.increment();
                        Some(item)
                    }
                    Err(absence) => {
                        stats.count_miss(absence);
                        None
                    }
                }
            }
            Some(expiry) => self.touch_item(call, at, expiry)?,
        };
        if self.prefixes.are_observed() {
            self.observe_get(call, at, found.is_some());
        }
        if let Some(item) = &found {
            call.note_use(item, self.store.takes_writes(at.place));
        }
        Ok(found)
    }

    /// Uses of keys are counted by prefix, or noted for watchers.
    #[cold]
    fn observe_get(&self, call: &Call<'_, '_, '_>, at: &Located<'_>, hit: bool) {
        self.prefixes.record(at.key, Use::Get { hit });
        self.note_get(call, at);
    }

    /// touch. Inlined: it is so short that the call would show.
    #[inline(always)]
    pub(super) fn touch(&self, call: &mut Call<'_, '_, '_>, request: &Touch<'_>) -> Outcome {
        let at = self.locate(call, request.key);
        let expiry = expiry_of(request.exptime, call.context.now);
        let touched = match self.touch_item(call, &at, expiry) {
            Ok(Some(item)) => {
                item.note_use(call.context.now);
                Touched::Done
            }
            Ok(None) => Touched::NotFound,
            Err(unwritten) => return self.refuse(call, unwritten, 0, request.reply),
        };
        request.reply.touched(call.out.bytes(), touched);
        Outcome::Done
    }

    /// Give the item a new expiry; its CAS stays. Returns the item, even when the new expiry has
    /// passed already.
    fn touch_item<'t, 'w: 't>(
        &'t self,
        call: &Call<'_, 'w, '_>,
        at: &'t Located<'t>,
        expiry: Expiry,
    ) -> Result<Option<Item<'t>>, Unwritten> {
        let (turn, now, stats) = (call.context.turn, call.context.now, call.context.stats);
        let mut entry = self.store.lock(at)?.entry(turn, now);
        let found = entry.item();
        if found.is_some() {
            entry.change_meta(MetaChange { expiry: Some(expiry), ..MetaChange::default() })?;
        }
        stats.cmd_touch.increment();
        if found.is_some() { &stats.touch_hits } else { &stats.touch_misses }.increment();
        Ok(found)
    }
}

/// Withdraw what a get has answered so far, if that is still possible.
fn take_back(call: &mut Call<'_, '_, '_>, begin: Option<Mark>) {
    if let Some(begin) = begin {
        call.out.withdraw(begin);
    }
}

/// A get has ended in an error line. If its line goes on, the rest of it must be dropped.
fn fail(request: &Get<'_>, answered: Outcome) -> Outcome {
    if request.ends { answered } else { Outcome::DropLine }
}

/// A value: copied when small, lent from the log when large.
pub(super) fn append_value(out: &mut Output, item: &Item<'_>) {
    if item.value_bytes() >= LOAN_BYTES_MIN {
        out.lend(item.loan());
    } else {
        item.value().copy_to(out.bytes());
    }
}
