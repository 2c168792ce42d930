//! Requests that their owner has not done because it is not the primary, and those that have waited
//! too long.
//!
//! A gate may name a server that is not the primary yet, or no longer: while roles change hands.
//! Nothing was done then, so the request may be sent again, within a bound: to whom the gate names
//! by now; to the same one, after a pause; or it is executed here, where the gate is open by now.
//!
//! Requests of one client about one shard keep their order. So those that come back wait until all
//! that were sent behind them have come back, too. Where one of these was done, or may have been,
//! those before it fail: they were overtaken.

use super::pending::{Pending, Stage};
use super::{Forwarder, Settled, Settlement};
use crate::base::limits::{
    FORWARD_LOOK_MILLISECONDS, FORWARD_MILLISECONDS_MAX, FORWARD_NOT_MINE_MILLISECONDS_MAX,
    FORWARD_PAUSE_MILLISECONDS_MIN,
};
use crate::server::table::Token;
use crate::store::{Closed, Primary, Store};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const LOOK: Duration = Duration::from_millis(FORWARD_LOOK_MILLISECONDS);
const WITHIN: Duration = Duration::from_millis(FORWARD_MILLISECONDS_MAX);
const NOT_MINE_WITHIN: Duration = Duration::from_millis(FORWARD_NOT_MINE_MILLISECONDS_MAX);
const PAUSE: Duration = Duration::from_millis(FORWARD_PAUSE_MILLISECONDS_MIN);

/// A shard whose gate names a server that is not its primary, but has named another one.
pub(super) struct Redirect {
    shard: u32,
    by: Arc<Primary>,
    /// That one, where it is known how to reach it.
    pub(super) to: Option<Arc<Primary>>,
}

impl Redirect {
    /// Whether it is of that shard, as long as its gate names this server.
    pub(super) fn is_of(&self, shard: u32, named: &Arc<Primary>) -> bool {
        self.shard == shard && self.by == *named
    }
}

impl Forwarder {
    /// Its owner is not the primary, and says who is, as clients know that one, or nothing. The
    /// request is neither queued nor sent from here on.
    pub(super) fn note_not_mine(&mut self, tag: u32, named: &[u8]) {
        self.redirect(tag, named);
        let Some(pending) = self.pending.get_mut(tag) else { return };
        let now = Instant::now();
        let since = pending.first_not_mine.get_or_insert(now);
        pending.stage = Stage::NotMine { since: *since, last: now };
        self.owners[pending.owner as usize].note_gone(pending.bytes.len());
        self.not_mine += 1;
        self.look_at = now;
    }

    /// Heed what an owner has said that is not the primary: until the gate here names another one.
    fn redirect(&mut self, tag: u32, named: &[u8]) {
        let Some(&mut Pending { shard: Some(shard), owner, .. }) = self.pending.get_mut(tag) else { return };
        self.redirects.retain(|redirect| redirect.shard != shard);
        let store = self.engine.store();
        let by = store.primary_of(Closed { shard }).filter(|by| self.owners[owner as usize].is(by));
        let to = std::str::from_utf8(named).ok().and_then(|named| store.primary_at(named));
        if let (Some(by), Some(to)) = (by, to)
            && to.replication.is_some()
            && to != by
        {
            self.redirects.push(Redirect { shard, by, to: Some(to) });
        }
    }

    /// From now on nothing is forwarded about this shard, as long as its gate names the same server
    /// and that one is a replica.
    fn note_far(&mut self, shard: u32) {
        self.redirects.retain(|redirect| redirect.shard != shard);
        let by = self.engine.store().primary_of(Closed { shard });
        self.redirects.extend(by.map(|by| Redirect { shard, by, to: None }));
    }

    /// It is done, or may be: those before it that came back are not sent again.
    pub(super) fn note_overtaken(&mut self, tag: u32) {
        if self.not_mine == 0 {
            return;
        }
        let Some(&mut Pending { client, shard, place, .. }) = self.pending.get_mut(tag) else { return };
        for tag in self.back(client, shard).into_iter().filter(|(before, _)| *before < place).map(|(_, tag)| tag) {
            self.fail(tag, "a later request was done before this one, while its shard changed hands; nothing was done");
        }
    }

    /// Those of a client about a shard that came back, by their places.
    fn back(&self, client: Token, shard: Option<u32>) -> Vec<(u64, u32)> {
        let is_back =
            |pending: &Pending| pending.is_beside(client, shard) && matches!(pending.stage, Stage::NotMine { .. });
        let mut back: Vec<_> =
            self.pending.iter().filter(|(_, one)| is_back(one)).map(|(tag, one)| (one.place, tag)).collect();
        back.sort_unstable();
        back
    }

    /// Give up what has waited too long, and send again what may be. With `ending` nothing is
    /// waited for any more.
    pub(super) fn look(&mut self, store: &Store, now: Instant, ending: bool) {
        if now < self.look_at && !ending {
            return;
        }
        self.give_up_late(now, ending);
        if self.not_mine > 0 {
            self.send_again(store, now);
        }
        self.look_at = now + LOOK;
    }

    fn give_up_late(&mut self, now: Instant, ending: bool) {
        let is_late = |pending: &Pending| ending || now.saturating_duration_since(pending.since) >= WITHIN;
        let late: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, pending)| is_late(pending))
            .map(|(tag, pending)| (tag, pending.stage, pending.owner as usize, pending.since))
            .collect();
        for (tag, stage, owner, since) in late {
            let (name, waited) = (self.name(owner), now.saturating_duration_since(since).as_millis());
            let why = match stage {
                Stage::Sent => {
                    format!("forwarded to {name}, and no answer within {waited} ms: whether it was done is not known")
                }
                _ => format!("not forwarded to {name} within {waited} ms; nothing was done"),
            };
            if stage == Stage::Sent {
                self.note_overtaken(tag);
            }
            self.fail(tag, &why);
        }
    }

    fn send_again(&mut self, store: &Store, now: Instant) {
        let mut groups: Vec<(Token, Option<u32>)> = Vec::new();
        for (_, pending) in self.pending.iter() {
            let group = (pending.client, pending.shard);
            if matches!(pending.stage, Stage::NotMine { .. }) && !groups.contains(&group) {
                groups.push(group);
            }
        }
        for (client, shard) in groups {
            let is_out = |pending: &Pending| !matches!(pending.stage, Stage::NotMine { .. });
            // What is behind them may be done.
            if self.pending.iter().any(|(_, one)| one.is_beside(client, shard) && is_out(one)) {
                continue;
            }
            if let Some(shard) = shard {
                self.send_group_again(client, shard, store, now);
            }
        }
    }

    /// All of a client about a shard that is under way has come back: first what came first.
    fn send_group_again(&mut self, client: Token, shard: u32, store: &Store, now: Instant) {
        let is_here = store.is_open(shard);
        for (_, tag) in self.back(client, Some(shard)) {
            let Some(pending) = self.pending.get_mut(tag) else { continue };
            let Stage::NotMine { since, last } = pending.stage else { continue };
            let (owner, bytes) = (pending.owner as usize, pending.bytes.len());
            let is_over = now.saturating_duration_since(since) >= NOT_MINE_WITHIN;
            // In the middle of a chain nobody knows more, and this server does what it can.
            if is_over && self.is_far(shard) {
                self.note_far(shard);
            }
            if is_here || is_over && self.is_far(shard) {
                let Some(pending) = self.take_out(tag) else { continue };
                let (client, place) = (pending.client, pending.place);
                self.settled.push(Settled { client, place, fate: Settlement::Here(pending) });
                continue;
            }
            if is_over {
                self.fail(tag, &format!("shard {shard} has no primary now; nothing was done"));
                continue;
            }
            let Some(primary) = self.primary_of(store, shard) else { return };
            let is_other = !self.owners[owner].is(&primary);
            if !is_other && now.saturating_duration_since(last) < PAUSE {
                return;
            }
            let (owner, true) = self.owner(&primary, bytes) else { return };
            let Some(pending) = self.take_out(tag) else { continue };
            self.queue(Pending { owner, stage: Stage::Queued, ..pending });
        }
    }
}
