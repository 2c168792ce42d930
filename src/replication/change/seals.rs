//! Another server is about to be promoted in some shards, and this one stops there: see
//! [`super::super::sealing`].

use super::Roles;
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::replication::follow::FollowConfig;
use crate::replication::sealing::{Heir, Settled};
use crate::replication::wire::{Seal, SealedShard};

/// Shards in which this server has stopped, and what it was there before.
pub(super) struct Sealed {
    term: Term,
    pub(super) shards: ShardSet,
    pub(super) heir: Heir,
    /// It was their primary.
    own: ShardSet,
    /// It followed in these.
    followed: Vec<(FollowConfig, ShardSet)>,
}

impl Roles {
    pub(super) fn stop_for(&mut self, seal: &Seal, heir: Heir) -> Result<Vec<SealedShard>, String> {
        let store = self.node.store.clone();
        self.check_there(seal.shards)?;
        for shard in seal.shards.iter() {
            let known = self.latest_term(ShardSet::one(shard));
            if !seal.term.follows(known) {
                return Err(format!("shard {shard} knows of term {known} already: {} comes too late", seal.term));
            }
        }
        if seal.term.succeed().is_none() {
            return Err(format!("no term can follow {}: if it is given up, nobody could go on", seal.term));
        }
        if let Some((pending, shards)) = self.pending(seal.shards) {
            return Err(format!(
                "shards {shards} have stopped for term {} and wait for what becomes of it",
                pending.term
            ));
        }
        let own = self.own().within(seal.shards);
        store.close_gates_for_heir(own.iter(), &heir.primary());
        let released = self.release(seal.shards.without(own)).inspect_err(|_| store.open_gates_again(own.iter()))?;
        // Nobody else may still write: what is told now is final.
        if let Some(shard) = seal.shards.iter().find(|shard| store.follower(*shard).is_none()) {
            self.give_back(released);
            store.open_gates_again(own.iter());
            return Err(format!("a thread still writes to shard {shard}; it will end, so try again"));
        }
        let config = |number: usize| self.followings[number].follow().config().clone();
        let followed = released.into_iter().map(|(number, shards)| (config(number), shards)).collect();
        seal.shards.iter().for_each(|shard| self.promised[shard] = seal.term);
        log::info!("stopped in shards {} for the server at {}", seal.shards, heir.clients_address);
        self.seals.push(Sealed { term: seal.term, shards: seal.shards, heir, own, followed });
        let told = |shard: usize| {
            let here = &store.shards()[shard];
            SealedShard {
                shard,
                term: Term(here.control().term()),
                position: here.proven_until(),
                is_whole: here.is_whole(),
                was_primary: own.has(shard),
            }
        };
        Ok(seal.shards.iter().map(told).collect())
    }

    pub(super) fn go_on_after(&mut self, term: Term, settled: Settled) {
        let Some(at) = self.seals.iter().position(|sealed| sealed.term == term) else { return };
        let Sealed { heir, own, followed, .. } = self.seals.remove(at);
        // An order may have given them another role meanwhile.
        let taken = self.own().with(self.followed());
        self.node.store.settle_gates(own.within(taken).iter(), false);
        self.settle_own(own.without(taken), settled);
        let (own, followed) =
            (own.without(taken), followed.into_iter().map(|(config, shards)| (config, shards.without(taken))));
        if settled == Settled::GivenUp {
            followed.for_each(|(config, shards)| self.follow_anew(config, None, shards));
            return self.take_up_again(own);
        }
        let shards = followed.fold(own, |all, (_, shards)| all.with(shards));
        let Some(address) = heir.replication_address.clone() else {
            return log::warn!("in shards {shards} this server follows nobody: the new primary offers no replication");
        };
        self.node.store.close_gates_for(shards.iter(), &heir.primary());
        self.follow_anew(self.node.config.follow.of(&address), Some(heir.server), shards);
    }

    /// What was written in shards of which this server was the primary, and waits for replicas: is
    /// it in the heir's log? Where the heir has given up, this server takes them up again.
    fn settle_own(&self, own: ShardSet, settled: Settled) {
        let goes_on = match settled {
            Settled::Begun(goes_on) => goes_on.within(own),
            Settled::Lost => ShardSet::default(),
            Settled::GivenUp => return,
        };
        self.node.store.settle_gates(goes_on.iter(), true);
        self.node.store.settle_gates(own.without(goes_on).iter(), false);
    }

    /// The heir has given up: this server is the primary again. It begins a term, because what the
    /// heir had been told was to be the end of the one before.
    fn take_up_again(&mut self, shards: ShardSet) {
        if shards.is_empty() {
            return;
        }
        let begun = self.next_term(shards, None).and_then(|term| self.begin_term(shards, term, false, false));
        match begun {
            Ok(_) => self.node.store.open_gates_again(shards.iter()),
            Err(why) => {
                self.node.store.settle_gates(shards.iter(), false);
                log::warn!("shards {shards} take no writes: {why}; promote a server there");
            }
        }
    }
}
