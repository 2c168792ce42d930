//! Admitted replicas: each session has a slot among [`REPLICAS_MAX`], and gives it back when it
//! ends.

use super::super::ack::AckSlots;
use super::super::link::Link;
use super::super::standing::ServerNumber;
use super::super::wire::Join;
use super::{Held, Offer, REPLICAS_MAX, Slot};
use crate::fabric::{FabricError, GrantState};
use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A session's slot. Dropping it gives the slot back, and ends the channels first.
pub struct SlotGuard<'o> {
    offer: &'o Offer,
    session: u64,
    replica: ServerNumber,
    /// It has been counted as admitted.
    is_counted: Cell<bool>,
}

impl Offer {
    /// A slot for the replica at the other end; None if all are taken. An older session of it
    /// loses its slot and its channel first.
    pub(in crate::replication) fn admit(&self, link: &Link, join: &Join) -> io::Result<Option<SlotGuard<'_>>> {
        let (address, handle) = (link.peer(), link.handle()?);
        let replaced = self.take_slot(|slot| slot.join.replica == join.replica);
        drop(replaced);
        let mut slots = self.slots();
        if slots.len() >= REPLICAS_MAX || self.is_ending() {
            return Ok(None);
        }
        let session = self.sessions.fetch_add(1, Relaxed) + 1;
        let now = Instant::now();
        let join = join.clone();
        let replica = join.replica;
        slots.push(Slot { session, join, address, link: handle, since: now, held: None, rate: (now, 0) });
        Ok(Some(SlotGuard { offer: self, session, replica, is_counted: Cell::new(false) }))
    }

    /// Take a slot away. The caller drops it without holding the lock: ending a channel may take a
    /// while, and `stats` takes the lock.
    fn take_slot(&self, is_it: impl Fn(&Slot) -> bool) -> Option<Slot> {
        let mut slots = self.slots();
        let slot = slots.iter().position(is_it).map(|at| slots.remove(at))?;
        self.config.board.take_down(slot.session);
        drop(slots);
        // Its session tells the replica at once why.
        Link::end_waits(&slot.link);
        if slot.held.is_some() {
            self.absences.left(slot.join.replica, &slot.join.name);
        }
        Some(slot)
    }
}

impl SlotGuard<'_> {
    /// Its number.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Its replica's number.
    pub(in crate::replication) fn replica(&self) -> &ServerNumber {
        &self.replica
    }

    /// Count it: its replica has not declined.
    pub(in crate::replication) fn count(&self) {
        if !self.is_counted.replace(true) {
            self.offer.counters.admitted.fetch_add(1, Relaxed);
        }
    }

    /// Put data channels into this place. Those that were there are ended first. False if the place
    /// is lost.
    pub(in crate::replication) fn hold(&self, held: Held) -> bool {
        let of_this = |slot: &&mut Slot| slot.session == self.session;
        let before = self.offer.slots().iter_mut().find(of_this).and_then(|slot| slot.held.take());
        drop(before);
        match self.offer.slots().iter_mut().find(of_this) {
            Some(slot) => {
                self.offer.config.board.put_up(self.session, self.replica, held.acks.clone());
                slot.held = Some(held);
                self.offer.absences.is_back(self.replica);
                self.offer.declined().retain(|name| *name != slot.join.name);
                true
            }
            None => false,
        }
    }

    /// What its replica acknowledges; None if the place is lost, or has no channels yet.
    pub(in crate::replication) fn acks(&self) -> Option<Arc<AckSlots>> {
        let slots = self.offer.slots();
        let slot = slots.iter().find(|slot| slot.session == self.session)?;
        slot.held.as_ref().map(|held| held.acks.clone())
    }

    /// Whether the place is lost.
    pub(in crate::replication) fn is_lost(&self) -> bool {
        !self.offer.slots().iter().any(|slot| slot.session == self.session)
    }

    /// The state of its channels; None if the place is lost.
    pub(in crate::replication) fn state(&self) -> Result<Option<GrantState>, FabricError> {
        let mut slots = self.offer.slots();
        let Some(slot) = slots.iter_mut().find(|slot| slot.session == self.session) else {
            return Ok(None);
        };
        match &mut slot.held {
            Some(held) => held.state().map(Some),
            None => Ok(Some(GrantState::Waiting)),
        }
    }
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        drop(self.offer.take_slot(|slot| slot.session == self.session));
        if self.is_counted.get() {
            self.offer.counters.ended.fetch_add(1, Relaxed);
        }
    }
}
