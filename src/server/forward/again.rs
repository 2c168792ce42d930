//! Requests that their owner has not done because it is not the primary, and those that have waited
//! too long.
//!
//! A gate may name a server that is not the primary yet, or no longer: while roles change hands.
//! Nothing was done then, so the request may be sent again, within a bound: to whom the gate names
//! by now; to the same one, after a pause; or it is executed here, where the gate is open by now
//! ([`super::serving`]).
//!
//! Requests of one client about one shard keep their order. So those that come back wait until all
//! that were sent behind them have come back, too. Where one of these was done, or may have been,
//! those before it fail: they were overtaken.

use super::Forwarder;
use super::back::Group;
use super::pending::{Pending, Stage};
use crate::base::limits::{
    FORWARD_LOOK_MILLISECONDS, FORWARD_MILLISECONDS_MAX, FORWARD_NOT_MINE_MILLISECONDS_MAX,
    FORWARD_PAUSE_MILLISECONDS_MIN,
};
use crate::server::table::Token;
use crate::store::{Closed, Primary, Reign, Store};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const LOOK: Duration = Duration::from_millis(FORWARD_LOOK_MILLISECONDS);
pub(super) const WITHIN: Duration = Duration::from_millis(FORWARD_MILLISECONDS_MAX);
const NOT_MINE_WITHIN: Duration = Duration::from_millis(FORWARD_NOT_MINE_MILLISECONDS_MAX);
const PAUSE: Duration = Duration::from_millis(FORWARD_PAUSE_MILLISECONDS_MIN);

/// A shard whose gate names a server that is not its primary, but has named another one.
pub(super) struct Redirect {
    shard: u32,
    by: Arc<Primary>,
    /// That one, where it is known how to reach it.
    pub(super) to: Option<Arc<Primary>>,
    /// Of the last change of gates here before it was heard.
    reign: Reign,
    heard: Instant,
}

impl Redirect {
    /// Whether it is of that shard, as long as its gate names this server.
    pub(super) fn is_of(&self, shard: u32, named: &Arc<Primary>, reign: Reign) -> bool {
        self.shard == shard && self.by == *named && self.is_believed(reign)
    }

    /// Whether no gate has changed since it was heard, where `reign` is the store's. The server
    /// that the gate names may become the primary, and the other one not know that it is none any
    /// more: so a name is not believed for long. That the gate's own server is far stays true.
    pub(super) fn is_believed(&self, reign: Reign) -> bool {
        self.to.is_none() || self.reign == reign && self.heard.elapsed() < NOT_MINE_WITHIN
    }
}

impl Forwarder {
    /// Its owner is not the primary, and says who is, as clients know that one, or nothing. The
    /// request counts as its owner's until it is sent to another one.
    pub(super) fn note_not_mine(&mut self, tag: u32, named: &[u8]) {
        self.redirect(tag, named);
        let Some(pending) = self.pending.get_mut(tag) else { return };
        let now = Instant::now();
        pending.stage = Stage::NotMine { last: now, resume: None };
        if pending.first_not_mine.is_none() {
            pending.first_not_mine = Some(now);
            self.back.add(pending.client, pending.shard, tag);
        }
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
            self.redirects.push(Redirect { shard, by, to: Some(to), reign: store.reign(), heard: Instant::now() });
        }
    }

    /// From now on nothing is forwarded about this shard, as long as its gate names the same server
    /// and that one is a replica.
    fn note_far(&mut self, shard: u32) {
        self.redirects.retain(|redirect| redirect.shard != shard);
        let store = self.engine.store();
        let (by, reign, heard) = (store.primary_of(Closed { shard }), store.reign(), Instant::now());
        self.redirects.extend(by.map(|by| Redirect { shard, by, to: None, reign, heard }));
    }

    /// It is done, or may be: those before it that came back are not sent again.
    pub(super) fn note_overtaken(&mut self, tag: u32) {
        if self.back.is_empty() {
            return;
        }
        let Some(&mut Pending { client, shard, place, .. }) = self.pending.get_mut(tag) else { return };
        for tag in self.back(client, shard).into_iter().filter(|(before, _)| *before < place).map(|(_, tag)| tag) {
            self.fail(tag, "a later request was done before this one, while its shard changed hands; nothing was done");
        }
    }

    /// Those of a client about a shard that are to be sent again, by their places.
    fn back(&mut self, client: Token, shard: Option<u32>) -> Vec<(u64, u32)> {
        let Forwarder { back, pending, .. } = self;
        let place_of = |tag: &u32| {
            let one = pending.get_mut(*tag)?;
            matches!(one.stage, Stage::NotMine { .. }).then_some((one.place, *tag))
        };
        let mut places: Vec<_> = back.tags(client, shard).iter().filter_map(place_of).collect();
        places.sort_unstable();
        places
    }

    /// Give up what has waited too long, and send again what may be. With `ending` nothing is
    /// waited for any more.
    pub(super) fn look(&mut self, store: &Store, now: Instant, ending: bool) {
        if now < self.look_at && !ending {
            return;
        }
        self.give_up_late(now, ending);
        if !self.back.is_empty() {
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
        let mut silent: Vec<usize> = Vec::new();
        for (tag, stage, owner, since) in late {
            let (name, waited) = (self.name(owner), now.saturating_duration_since(since).as_millis());
            let why = match stage {
                Stage::Sent => {
                    format!("forwarded to {name}, and no answer within {waited} ms: whether it was done is not known")
                }
                Stage::NotMine { resume: Some(_), .. } => {
                    format!("there was no room for it within {waited} ms; nothing was done")
                }
                _ => format!("not forwarded to {name} within {waited} ms; nothing was done"),
            };
            if stage == Stage::Sent {
                self.note_overtaken(tag);
                if !silent.contains(&owner) {
                    silent.push(owner);
                }
            }
            self.fail(tag, &why);
        }
        // Their answers may still come.
        silent.into_iter().for_each(|owner| self.link_ended(owner, "an answer has not come in time"));
    }

    /// Send again what has come back, of those of whom nothing else is under way about that shard:
    /// what is behind them may be done.
    fn send_again(&mut self, store: &Store, now: Instant) {
        let mut groups: HashSet<Group> = self.back.groups().copied().collect();
        for (_, pending) in self.pending.iter().filter(|(_, one)| !matches!(one.stage, Stage::NotMine { .. })) {
            groups.remove(&(pending.client, pending.shard));
        }
        for (client, shard) in groups {
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
            let (Stage::NotMine { last, .. }, Some(since)) = (pending.stage, pending.first_not_mine) else { continue };
            let (before, bytes) = (pending.owner, pending.bytes.len());
            if is_here {
                self.here.push(tag);
                continue;
            }
            if now.saturating_duration_since(since) >= NOT_MINE_WITHIN {
                if self.is_far(shard) {
                    self.note_far(shard);
                }
                self.fail(tag, &format!("shard {shard} has no primary now; nothing was done"));
                continue;
            }
            let Some(primary) = self.primary_of(store, shard) else { return };
            if self.owners[before as usize].is(&primary) {
                if now.saturating_duration_since(last) < PAUSE {
                    return;
                }
                self.requeue(tag, before, bytes);
                continue;
            }
            let (owner, true) = self.owner(&primary, bytes) else { return };
            self.requeue(tag, owner, bytes);
        }
    }

    /// It is this owner's from here on. It keeps its tag: the last owner has answered.
    fn requeue(&mut self, tag: u32, owner: u32, bytes: usize) {
        let Some(pending) = self.pending.get_mut(tag) else { return };
        pending.stage = Stage::Queued;
        let before = std::mem::replace(&mut pending.owner, owner);
        self.owners[before as usize].note_gone(bytes);
        self.owners[owner as usize].note_queued(tag, bytes);
    }
}
