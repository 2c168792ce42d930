//! To whom a request goes: whom its shard's gate names, or who has been named instead by that one.
//!
//! Looking that up takes a lock, and compares addresses. So it is looked up once for each shard as
//! long as no gate changes ([`Ways`]): what is known is of one reign of the store, and each change
//! of a gate begins another one. A gate that is opening has a moment in which its reign has begun
//! and it is closed still; so whoever asks has found it closed.

use super::Forwarder;
use super::again::Redirect;
use super::owner::Owner;
use crate::base::limits::FORWARD_OWNERS_MAX;
use crate::base::shards::ShardSet;
use crate::store::{Closed, Primary, Reign, Store};
use std::sync::Arc;

impl Forwarder {
    /// Who executes what is about a shard that takes no writes here, where that server is known and
    /// can be asked.
    pub fn primary_of(&self, store: &Store, shard: u32) -> Option<Arc<Primary>> {
        if store.is_open(shard) {
            return None;
        }
        let primary = store.primary_of(Closed { shard })?;
        match self.redirects.iter().find(|redirect| redirect.is_of(shard, &primary, store.reign())) {
            Some(Redirect { to: Some(to), .. }) => Some(to.clone()),
            Some(_) if self.is_far(shard) => None,
            _ => primary.replication.is_some().then_some(primary),
        }
    }

    /// The number of that server, and whether it takes one more request of so many bytes. None as
    /// above. As long as no gate changes, who it is is looked up once.
    pub fn way(&mut self, store: &Store, shard: u32, bytes: usize) -> Option<(u32, bool)> {
        if store.is_open(shard) {
            return None;
        }
        let reign = store.reign();
        if !self.redirects.is_empty() {
            self.redirects.retain(|redirect| redirect.is_believed(reign));
        }
        let is_plain = self.redirects.is_empty();
        if is_plain && let Some(owner) = self.ways.get(shard, reign) {
            return Some((owner, self.has_room(owner, bytes)));
        }
        let primary = self.primary_of(store, shard)?;
        let (owner, has_room) = self.owner(&primary, bytes);
        if is_plain && (owner as usize) < self.owners.len() {
            self.ways.set(shard, reign, owner);
        }
        Some((owner, has_room))
    }

    /// Whoever is followed in this shard is a replica itself.
    pub(super) fn is_far(&self, shard: u32) -> bool {
        self.chain.distance(ShardSet::one(shard as usize)).depth > 1
    }

    /// Those of all shards that take no writes here, each once; None where one of them is not
    /// known, or there is none.
    pub fn all_primaries(&self, store: &Store) -> Option<Vec<Arc<Primary>>> {
        let mut all: Vec<Arc<Primary>> = Vec::new();
        for shard in (0..store.shards().len() as u32).filter(|shard| !store.is_open(*shard)) {
            let primary = self.primary_of(store, shard)?;
            if !all.iter().any(|known| known.replication == primary.replication) {
                all.push(primary);
            }
        }
        (!all.is_empty()).then_some(all)
    }

    /// The number of that server, and whether it takes one more request of so many bytes.
    pub fn owner(&mut self, primary: &Arc<Primary>, bytes: usize) -> (u32, bool) {
        let known = self.owners.iter().position(|owner| owner.is(primary));
        let at = known.unwrap_or_else(|| self.add_owner(primary));
        (at as u32, self.has_room(at as u32, bytes))
    }

    /// Whether this one takes one more request of so many bytes.
    fn has_room(&self, owner: u32, bytes: usize) -> bool {
        self.owners.get(owner as usize).is_some_and(|owner| owner.has_room(bytes)) && self.pending.has_room()
    }

    /// In a free place, or in that of one that nobody waits for; beyond all if there is none.
    fn add_owner(&mut self, primary: &Arc<Primary>) -> usize {
        let owner = Owner::new(primary.clone());
        if self.owners.len() < FORWARD_OWNERS_MAX {
            self.owners.push(owner);
            return self.owners.len() - 1;
        }
        let Some(spare) = self.owners.iter().position(Owner::is_spare) else { return FORWARD_OWNERS_MAX };
        self.note_down(spare);
        self.ways.forget(spare as u32);
        self.owners[spare] = owner;
        spare
    }
}

/// By shard, who executes what is about it.
#[derive(Default)]
pub struct Ways {
    reign: Option<Reign>,
    /// By shard, the owner's number.
    owners: Vec<Option<u32>>,
}

impl Ways {
    /// Who executes what is about this shard, if that is known of this reign.
    pub fn get(&self, shard: u32, reign: Reign) -> Option<u32> {
        if self.reign != Some(reign) {
            return None;
        }
        *self.owners.get(shard as usize)?
    }

    /// It is this one, by a gate that was looked at after `reign` was.
    pub fn set(&mut self, shard: u32, reign: Reign, owner: u32) {
        if self.reign.replace(reign) != Some(reign) {
            self.owners.clear();
        }
        let places = self.owners.len().max(shard as usize + 1);
        self.owners.resize(places, None);
        self.owners[shard as usize] = Some(owner);
    }

    /// This number becomes another server's.
    pub fn forget(&mut self, owner: u32) {
        self.owners.iter_mut().filter(|known| **known == Some(owner)).for_each(|known| *known = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_known_for_one_reign_and_one_owner() {
        let (mut ways, first) = (Ways::default(), Reign::BIRTH);
        assert_eq!(ways.get(0, first), None);
        ways.set(2, first, 7);
        ways.set(0, first, 8);
        assert_eq!([0, 1, 2, 3].map(|shard| ways.get(shard, first)), [Some(8), None, Some(7), None]);
        assert_eq!(ways.get(2, first.next()), None);
        ways.forget(7);
        assert_eq!([0, 2].map(|shard| ways.get(shard, first)), [Some(8), None]);
        ways.set(1, first.next(), 9);
        assert_eq!([0, 1].map(|shard| ways.get(shard, first.next())), [None, Some(9)]);
        assert_eq!(ways.get(0, first), None);
    }
}
