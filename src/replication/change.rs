//! Carrying out an order, step by step. A step either succeeds, or the roles of before are put back
//! and the order's outcome says why.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`promote`] | becoming the primary |
//! | [`seals`] | another server becomes the primary, and this one stops for it |
//!
//! Each shard has a role of its own. This server is a shard's **primary** while its gate is open,
//! its **replica** while a following has the shard, and else **detached**: it serves what it has.
//!
//! A shard has one writer at a time, because each change of role keeps to a sequence. **Becoming a
//! replica**: the gate is closed, so no client's write is taken any more
//! ([`crate::store::reign`]), then a follower may write. **Becoming the primary**: the follower has
//! let go of the shard for good, the term has begun, then the gate is opened.

mod promote;
mod seals;

use super::admission::Admitted;
use super::follow::{Follow, FollowConfig, Following};
use super::lineage::Discard;
use super::node::Node;
use super::order::{Change, Order};
use super::sealing::{Heir, Settled};
use super::wire::{Seal, SealedShard};
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use seals::Sealed;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An order to follow waits so long for the replica to catch up, so that its outcome can say so.
/// Joining may take longer, and then goes on.
const FOLLOW_WAIT_MAX: Duration = Duration::from_secs(1);
/// Pause between two looks while waiting.
const LOOK: Duration = Duration::from_micros(200);

/// The outcome of an order, in words for people: what was done, or why nothing was.
type Words = Result<String, String>;

/// The roles of this process's shards; the control thread's.
pub(super) struct Roles {
    node: Arc<Node>,
    /// One for each primary that is followed, with the shards that it brings. No shard is in two.
    followings: Vec<Following>,
    /// What other servers have sealed, and not settled yet.
    seals: Vec<Sealed>,
    /// The latest term that this server has stopped for, of each shard.
    promised: Vec<Term>,
}

impl Roles {
    /// Of a primary; or of a replica in all shards, where a primary has admitted it.
    pub(super) fn begin(node: Arc<Node>, admitted: Option<Admitted>) -> std::io::Result<Roles> {
        let promised = vec![Term::NONE; node.store.shards().len()];
        let mut roles = Roles { node, followings: Vec::new(), seals: Vec::new(), promised };
        if let Some(admitted) = admitted {
            let (all, clients_address) = (roles.all(), admitted.client_address());
            roles.node.store.close_gates(all.iter(), Some(&clients_address));
            let config = roles.node.config.follow.clone();
            roles.start(config, Some(admitted), all)?;
            roles.show();
        }
        Ok(roles)
    }

    /// Carry out an order; in words what was done, or why it was not.
    pub(super) fn change(&mut self, order: &Order) -> Words {
        let all = self.all();
        let shards = match order.shards {
            None => all,
            Some(shards) if shards.without(all).is_empty() => shards,
            Some(_) => return Err(format!("this server has {} shards: {all}", all.count())),
        };
        let changed = match &order.change {
            Change::Promote { gather, take_over, incomplete } => self.promote(shards, gather, *take_over, *incomplete),
            Change::Detach => self.detach(shards),
            Change::Replicate { primary, discard } => self.replicate(shards, primary, *discard),
        };
        self.show();
        changed
    }

    /// Stop in the shards of a seal, for the server that is to be promoted there.
    pub(super) fn seal(&mut self, seal: &Seal, heir: Heir) -> Result<Vec<SealedShard>, String> {
        let sealed = self.stop_for(seal, heir);
        self.show();
        sealed
    }

    /// What has become of a term that this server has stopped for.
    pub(super) fn settle(&mut self, term: Term, settled: Settled) {
        self.go_on_after(term, settled);
        self.show();
    }

    fn all(&self) -> ShardSet {
        ShardSet::all(self.node.store.shards().len())
    }

    /// The shards of which this server is the primary.
    fn own(&self) -> ShardSet {
        self.node.store.writable()
    }

    /// Begin to follow.
    fn start(
        &mut self,
        config: FollowConfig,
        admitted: Option<Admitted>,
        shards: ShardSet,
    ) -> std::io::Result<Arc<Follow>> {
        let following = Following::start(config, admitted, shards, self.node.store.clone())?;
        let follow = following.follow().clone();
        self.followings.push(following);
        Ok(follow)
    }

    /// Have all followings let go of these shards. Returns which have had which. After an error all
    /// is as before.
    fn release(&mut self, shards: ShardSet) -> Result<Vec<(usize, ShardSet)>, String> {
        let mut released = Vec::new();
        for (number, following) in self.followings.iter().enumerate() {
            let theirs = following.follow().shards().within(shards);
            if theirs.is_empty() {
                continue;
            }
            released.push((number, theirs));
            if let Err(error) = following.release(theirs) {
                self.give_back(released);
                return Err(error.to_string());
            }
        }
        Ok(released)
    }

    /// What [`Roles::release`] has taken.
    fn give_back(&self, released: Vec<(usize, ShardSet)>) {
        released.into_iter().for_each(|(number, shards)| self.followings[number].add(shards));
    }

    /// End the followings that have no shards left, and let others see the rest.
    fn show(&mut self) {
        let (ended, rest) =
            std::mem::take(&mut self.followings).into_iter().partition(|one| one.follow().shards().is_empty());
        self.followings = rest;
        let mut ended: Vec<Following> = ended;
        for following in &mut ended {
            // It has let go of all shards.
            let _ = following.stop();
            following.follow().note_detached();
        }
        let follows = self.followings.iter().map(|one| one.follow().clone()).collect();
        let is_primary = self.own() == self.all();
        self.node.set_follows(follows, is_primary);
        let comes_by = self.followings.iter().map(|one| (one.follow().shards(), one.follow().standing().clone()));
        self.node.config.follow.chain.set(comes_by.collect());
    }

    /// Follow in these shards at one more server, or at one that is followed already; nobody writes
    /// to them. Trouble is the following's to tell, and it goes on trying.
    fn follow_anew(&mut self, config: FollowConfig, shards: ShardSet) {
        if shards.is_empty() {
            return;
        }
        match self.followings.iter().find(|one| one.follow().primary() == config.primary) {
            Some(following) => following.add(shards),
            None => {
                let primary = config.primary.clone();
                if let Err(error) = self.start(config, None, shards) {
                    log::warn!("replication from {primary}: cannot start a thread: {error}; raise `ulimit -u`");
                }
            }
        }
    }

    fn detach(&mut self, shards: ShardSet) -> Words {
        let shards = shards.without(self.own());
        if shards.is_empty() {
            return Err("this is the primary: it follows nobody".into());
        }
        self.release(shards)?;
        self.node.store.close_gates(shards.iter(), None);
        Ok(format!("follows nobody{}, and serves what it has", self.in_shards(shards)))
    }

    /// In words, where it is not all of them.
    fn in_shards(&self, shards: ShardSet) -> String {
        if shards == self.all() { String::new() } else { format!(" in shards {shards}") }
    }

    /// Wait until this replica has caught up with a primary. False if that fails, or takes too
    /// long.
    fn wait_until_following(&self, follow: &Follow, until: Instant) -> bool {
        loop {
            let view = follow.snapshot();
            if view.state == "following" {
                return true;
            }
            if view.failed_tries > 0 || Instant::now() >= until || self.node.is_ending() {
                return false;
            }
            std::thread::sleep(LOOK);
        }
    }

    fn replicate(&mut self, shards: ShardSet, primary: &str, discard: bool) -> Words {
        let known = self.followings.iter().position(|one| one.follow().primary() == primary);
        if let Some(known) = known {
            let follow = self.followings[known].follow();
            if shards.without(follow.shards()).is_empty() && follow.snapshot().state == "following" {
                return Ok(format!("follows {primary} already"));
            }
            return self.follow_again(known, shards, discard);
        }
        // Nothing has changed before this succeeds: if that primary cannot be followed, this server
        // keeps its roles.
        let mut config = self.node.config.follow.of(primary);
        let asked = if discard { Discard::Always } else { config.discard.clone() };
        let usual = std::mem::replace(&mut config.discard, asked);
        let admitted = Admitted::at(&config, shards, &self.node.store).map_err(|error| error.to_string())?;
        if discard && usual == Discard::Never {
            let histories = &admitted.welcome().histories;
            config.discard = Discard::For(shards.iter().map(|shard| histories[shard].origin()).collect());
        }
        self.follow_admitted(config, admitted, shards)
    }

    /// The following of a primary is replaced by one that has these shards as well.
    fn follow_again(&mut self, known: usize, shards: ShardSet, discard: bool) -> Words {
        let mut following = self.followings.remove(known);
        let before = following.follow().shards();
        if let Err(error) = following.stop() {
            self.followings.push(following);
            return Err(error.to_string());
        }
        let config = following.follow().config().clone();
        drop(following);
        let words = self.replicate(shards.with(before), &config.primary, discard);
        if words.is_err() {
            self.start(config, None, before).map_err(|error| format!("cannot follow again: {error}"))?;
        }
        words
    }

    fn follow_admitted(&mut self, config: FollowConfig, admitted: Admitted, shards: ShardSet) -> Words {
        let (clients_address, fabric) = (admitted.client_address(), admitted.fabric().to_string());
        let primary = config.primary.clone();
        let own = self.own().within(shards);
        let store = self.node.store.clone();
        store.close_gates(own.iter(), Some(&clients_address));
        let mut released = Vec::new();
        // A primary that was empty when it was looked at may have taken a write since.
        let followed = admitted.check(&config, shards, &store).map_err(|error| error.to_string()).and_then(|()| {
            released = self.release(shards.without(own))?;
            store.close_gates(shards.iter(), Some(&clients_address));
            let started = self.start(config, Some(admitted), shards);
            started.map_err(|error| format!("cannot follow {primary}: {error}; raise `ulimit -u`"))
        });
        if followed.is_err() {
            self.give_back(released);
            store.open_gates(own.iter());
        }
        let follow = followed?;
        self.show();
        let has_all = self.wait_until_following(&follow, Instant::now() + FOLLOW_WAIT_MAX);
        let (state, counts) = (if has_all { "follows" } else { "joins" }, follow.snapshot().counts);
        let anew = counts.joined + counts.overrun + counts.diverged;
        Ok(format!(
            "{state} {primary} over {fabric}; {} shards went on from where they were, {anew} began anew",
            counts.continued
        ))
    }
}
