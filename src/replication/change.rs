//! Carrying out an order, step by step. A step either succeeds, or the roles of before are put back
//! and the order's outcome says why.
//!
//! Each shard has a role of its own. This server is a shard's **primary** while its gate is open,
//! its **replica** while a following has the shard, and else **detached**: it serves what it has.
//!
//! A shard has one writer at a time, because each change of role keeps to a sequence. **Becoming a
//! replica**: the gate is closed, so no client's write is taken any more
//! ([`crate::store::reign`]), then a follower may write. **Becoming the primary**: the follower has
//! let go of the shard for good, the term has begun, then the gate is opened.

use super::admission::Admitted;
use super::follow::{Follow, FollowConfig, Following};
use super::lineage::Discard;
use super::node::Node;
use super::order::{Change, Order};
use super::secret::random;
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::base::time::UnixSeconds;
use crate::store::line::BIRTH;
use crate::store::shard::Shard;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for room for the record that begins a term: a turn of each worker.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// Longest wait for all replicas that are gathered from.
const GATHER_WAIT_MAX: Duration = Duration::from_secs(5);
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
}

impl Roles {
    /// Of a primary; or of a replica in all shards, where a primary has admitted it.
    pub(super) fn begin(node: Arc<Node>, admitted: Option<Admitted>) -> std::io::Result<Roles> {
        let mut roles = Roles { node, followings: Vec::new() };
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
            Change::Promote { gather, incomplete } => self.promote(shards, gather, *incomplete),
            Change::Detach => self.detach(shards),
            Change::Replicate { primary, discard } => self.replicate(shards, primary, *discard),
        };
        self.show();
        changed
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

    fn promote(&mut self, shards: ShardSet, gather: &[String], incomplete: bool) -> Words {
        let shards = shards.without(self.own());
        if shards.is_empty() {
            return Err("this is the primary already".into());
        }
        let released = self.release(shards)?;
        let began = self.gather(gather, shards).and_then(|()| self.begin_term(shards, incomplete));
        if began.is_err() {
            self.give_back(released);
        }
        let words = began?;
        self.node.store.open_gates(shards.iter());
        Ok(words)
    }

    /// Bring over what each of these peers has and this replica lacks: follow it until nothing is
    /// missing. Nothing that is here is given up for that.
    fn gather(&mut self, peers: &[String], shards: ShardSet) -> Result<(), String> {
        let until = Instant::now() + GATHER_WAIT_MAX;
        for peer in peers {
            self.gather_from(peer, shards, until)
                .map_err(|why| format!("gathering from {peer}: {why}; leave that replica out, or mend it"))?;
        }
        Ok(())
    }

    fn gather_from(&mut self, peer: &str, shards: ShardSet, until: Instant) -> Result<(), String> {
        let mut config = self.node.config.follow.of(peer);
        config.gathers = true;
        // Beside a session that there may be with this peer for other shards.
        config.identity.replica = random().map_err(|error| error.to_string())?;
        let store = &self.node.store;
        let admitted = Admitted::at(&config, shards, store).map_err(|error| error.to_string())?;
        let mut following =
            Following::start(config, Some(admitted), shards, store.clone()).map_err(|error| error.to_string())?;
        let follow = following.follow().clone();
        self.node.set_follows(vec![follow.clone()], false);
        let has_all = self.wait_until_following(&follow, 0, until);
        let view = follow.snapshot();
        following.stop().map_err(|error| error.to_string())?;
        match has_all {
            true => Ok(()),
            false if view.failed_tries > 0 => Err(view.trouble),
            false => Err(format!("{} bytes were still to come after {GATHER_WAIT_MAX:?}", view.lag_bytes)),
        }
    }

    /// Wait until this replica has caught up with a primary. False if that fails, or takes too
    /// long. So many tries have failed before.
    fn wait_until_following(&self, follow: &Follow, failed_before: u64, until: Instant) -> bool {
        loop {
            let view = follow.snapshot();
            if view.state == "following" {
                return true;
            }
            if view.failed_tries > failed_before || Instant::now() >= until || self.node.is_ending() {
                return false;
            }
            std::thread::sleep(LOOK);
        }
    }

    fn begin_term(&mut self, shards: ShardSet, incomplete: bool) -> Words {
        let store = &self.node.store;
        let count = self.all().count();
        let these = || shards.iter().map(|shard| &store.shards()[shard]);
        let position = |is_it: &dyn Fn(&Shard) -> bool| shards.iter().find(|shard| is_it(&store.shards()[*shard]));
        let empty = these().filter(|shard| !shard.is_proven()).count();
        if let (Some(shard), false) = (position(&|shard| !shard.is_proven()), incomplete) {
            return Err(format!(
                "shard {} of {count} has nothing yet: this replica is joining; wait, promote another, or gather from one that has it; with \
                 --incomplete it begins empty there",
                shard + 1
            ));
        }
        if let (Some(shard), false) = (position(&|shard| !shard.is_whole()), incomplete) {
            return Err(format!(
                "shard {} of {count} is not here up to where its primary was when this replica joined, and what was moved meanwhile is missing: \
                 promote another, or gather from one that has it; with --incomplete it is lost",
                shard + 1
            ));
        }
        let newest = these().map(|shard| shard.history().newest()).max().unwrap_or_default();
        let begun_at = Instant::now();
        while let Err(shard) = store.make_room_for_term(shards, UnixSeconds::now()) {
            if begun_at.elapsed() > ROOM_WAIT_MAX {
                return Err(format!(
                    "shard {} of {count} has no room for its term after {ROOM_WAIT_MAX:?}: a worker does not end \
                     its turn, or nothing may be evicted (-M); try again",
                    shard + 1
                ));
            }
            std::thread::sleep(LOOK);
        }
        let ever_had = these().any(|shard| shard.control().committed() > BIRTH);
        if !newest.is_valid() && !ever_had {
            return Err("this replica has never had anything of its primary's: it has nothing at all".into());
        }
        // Who has discarded what it had, and got nothing since, is born: what others have is of
        // another lineage.
        let term = if newest.is_valid() { newest.succeed() } else { Some(Term::birth()) };
        let term = term.ok_or_else(|| format!("no term can follow {newest}: restart empty"))?;
        // What replicas of this one have acknowledged may be log that was given up since. They see
        // the new term, and acknowledge this log.
        let offer = self.node.config.offer.as_deref();
        store.begin_term(shards, term, &|shard| {
            offer.iter().for_each(|offer| offer.board().take_back(shard));
        });
        let where_to = self.in_shards(shards);
        log::info!("this is the primary now{where_to}, term {term}");
        match empty {
            0 => Ok(format!("the primary of term {term}{where_to}")),
            _ => Ok(format!("the primary of term {term}{where_to}; {empty} shards of {count} began empty")),
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
        let has_all = self.wait_until_following(&follow, 0, Instant::now() + FOLLOW_WAIT_MAX);
        let (state, counts) = (if has_all { "follows" } else { "joins" }, follow.snapshot().counts);
        let anew = counts.joined + counts.overrun + counts.diverged;
        Ok(format!(
            "{state} {primary} over {fabric}; {} shards went on from where they were, {anew} began anew",
            counts.continued
        ))
    }
}
