//! Carrying out an order, step by step. A step either succeeds, or the roles of before are put back
//! and the order's outcome says why.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`promote`] | becoming the primary |
//! | [`assigned`] | what a cluster's map asks for: follow from now on, or have nothing |
//! | [`seals`] | another server becomes the primary, and this one stops for it |
//!
//! Each shard has a role of its own. This server is a shard's **primary** while its gate is open,
//! its **replica** while a following has the shard, and else **detached**: it serves what it has.
//!
//! A shard has one writer at a time, because each change of role keeps to a sequence. **Becoming a
//! replica**: the gate is closed, so no client's write is taken any more
//! ([`crate::store::reign`]), then a follower may write. **Becoming the primary**: the follower has
//! let go of the shard for good, the term has begun, then the gate is opened.

mod assigned;
mod promote;
mod seals;

use super::admission::{Admitted, Sought};
use super::attach::AttachError;
use super::follow::{Follow, FollowConfig, Following};
use super::lineage::Discard;
use super::node::{Node, Task};
use super::order::{Change, Order};
use super::reached::Holder;
use super::report::FollowView;
use super::sealing::{Heir, Settled};
use super::standing::ServerNumber;
use super::wire::{NotSealed, Seal, SealedShard};
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use seals::Sealed;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
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
    /// The latest term that this server has stopped for, or was told that others have, of each
    /// shard. It begins a later one alone.
    promised: Vec<Term>,
    /// What there is to do.
    tasks: Receiver<Task>,
}

impl Roles {
    /// Of a primary; or of a replica in all shards, where a primary has admitted it.
    pub(super) fn begin(node: Arc<Node>, admitted: Option<Admitted>, tasks: Receiver<Task>) -> std::io::Result<Roles> {
        let promised = vec![Term::NONE; node.store.shards().len()];
        let mut roles = Roles { node, followings: Vec::new(), seals: Vec::new(), promised, tasks };
        if let Some(admitted) = admitted {
            let (all, clients_address) = (roles.all(), admitted.client_address());
            roles.node.store.close_gates(all.iter(), Some(&clients_address));
            let config = roles.node.config.follow.clone();
            roles.start(config, Some(admitted), all)?;
            roles.show();
        }
        Ok(roles)
    }

    /// What there is to do.
    pub(super) fn tasks(&self) -> &Receiver<Task> {
        &self.tasks
    }

    /// Carry out an order; in words what was done, or why it was not.
    pub(super) fn change(&mut self, order: &Order) -> Words {
        let shards = order.shards.unwrap_or(self.all());
        self.check_there(shards)?;
        if let Some((pending, shards)) = self.pending(shards) {
            return Err(format!(
                "shards {shards} have stopped for the server at {}, and wait for what becomes of its term: try again in some seconds",
                pending.heir.clients_address
            ));
        }
        let changed = match &order.change {
            Change::Promote(promotion) => self.promote(shards, promotion),
            Change::Detach => self.detach(shards),
            Change::Replicate { primary, discard } => self.replicate(shards, primary, *discard),
            Change::Follow { primary, server, clients } => self.follow_from_now(shards, primary, *server, clients),
            Change::Close => Ok(self.close(shards)),
            Change::Empty { clients } => self.empty(shards, clients.as_deref()),
        };
        self.show();
        changed
    }

    /// Stop in the shards of a seal, for the server that is to be promoted there.
    pub(super) fn seal(&mut self, seal: &Seal, heir: Heir) -> Result<Vec<SealedShard>, NotSealed> {
        let known = self.latest_term(seal.shards);
        let sealed = self.stop_for(seal, heir);
        self.show();
        sealed.map_err(|words| NotSealed { known, words })
    }

    /// What has become of a term that this server has stopped for.
    pub(super) fn settle(&mut self, term: Term, settled: Settled) {
        self.go_on_after(term, settled);
        self.show();
    }

    fn all(&self) -> ShardSet {
        ShardSet::all(self.node.store.shards().len())
    }

    /// Whether this server has these shards.
    fn check_there(&self, shards: ShardSet) -> Result<(), String> {
        let all = self.all();
        match shards.without(all).is_empty() {
            true => Ok(()),
            false => Err(format!("this server has {} shards: {all}", all.count())),
        }
    }

    /// A seal that is not settled yet, and which of these shards it is of.
    fn pending(&self, shards: ShardSet) -> Option<(&Sealed, ShardSet)> {
        let of = |sealed: &Sealed| sealed.shards.within(shards);
        self.seals.iter().map(|sealed| (sealed, of(sealed))).find(|(_, shards)| !shards.is_empty())
    }

    /// The latest term that is known of any of these shards, or promised there.
    fn latest_term(&self, shards: ShardSet) -> Term {
        let of = |shard: usize| self.node.store.shards()[shard].history().newest().max(self.promised[shard]);
        shards.within(self.all()).iter().map(of).max().unwrap_or_default()
    }

    /// The shards in which this server follows.
    fn followed(&self) -> ShardSet {
        self.followings.iter().fold(ShardSet::default(), |all, one| all.with(one.follow().shards()))
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
        let (ended, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.followings).into_iter().partition(|one| one.follow().shards().is_empty());
        self.followings = rest;
        for mut following in ended {
            following.follow().note_detached();
            // One that has not let go yet is asked again after the next change.
            if following.stop().is_err() {
                self.followings.push(following);
            }
        }
        let follows = self.followings.iter().map(|one| one.follow().clone()).collect();
        let is_primary = self.own() == self.all();
        self.node.set_follows(follows, is_primary);
        let comes_by = self.followings.iter().map(|one| (one.follow().shards(), one.follow().standing().clone()));
        self.node.config.follow.chain.set(comes_by.collect());
    }

    /// Follow in these shards at one more server, or at one that is followed already; nobody writes
    /// to them. Trouble is the following's to tell, and it goes on trying.
    fn follow_anew(&mut self, config: FollowConfig, server: Option<ServerNumber>, shards: ShardSet) {
        if shards.is_empty() {
            return;
        }
        // One server may have several names.
        let is_it = |follow: &Follow| {
            follow.primary() == config.primary || server.is_some_and(|server| follow.is_of_server(&server))
        };
        match self.followings.iter().find(|one| !one.is_stopping() && is_it(one.follow())) {
            Some(following) => following.add(shards),
            None => {
                let primary = config.primary.clone();
                if let Err(error) = self.start(config, None, shards) {
                    log::warn!("replication from {primary}: cannot start a thread: {error}; raise `ulimit -u`");
                }
            }
        }
    }

    /// A following may turn out to be of a server that another one follows: where it was begun by a
    /// name that had not led to anybody yet. It stands back then, and the other one takes over its
    /// shards.
    pub(super) fn join_twins(&mut self) {
        let stays = |one: &usize| !self.followings[*one].is_stopping();
        let all = || (0..self.followings.len()).filter(stays);
        let is_twin =
            |one: usize, other: usize| self.followings[one].follow().is_twin_of(self.followings[other].follow());
        let pair = all().find_map(|one| all().find(|other| is_twin(one, *other)).map(|other| (one, other)));
        let Some((one, other)) = pair else { return };
        let shards = self.followings[one].follow().shards();
        // Where it does not let go in time it keeps them, and this is tried again.
        if self.release(shards).is_ok() {
            self.followings[other].add(shards);
            self.show();
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

    /// Wait until this replica has caught up with a primary, in the shards that can follow it; not
    /// if that fails, or takes too long. How it stands then.
    fn wait_until_following(&self, follow: &Follow, until: Instant) -> FollowView {
        loop {
            let view = follow.snapshot();
            let is_over = ["following", "refused"].contains(&view.state) || view.failed_tries > 0;
            if is_over || Instant::now() >= until || self.node.is_ending() {
                return view;
            }
            std::thread::sleep(LOOK);
        }
    }

    fn replicate(&mut self, shards: ShardSet, primary: &str, discard: bool) -> Words {
        let config = self.node.config.follow.of(primary);
        let is_it = |one: &Following| !one.is_stopping() && one.follow().primary() == primary;
        let known = self.followings.iter().position(is_it);
        if let Some(known) = known {
            let follow = self.followings[known].follow();
            if shards.without(follow.shards()).is_empty() && follow.snapshot().state == "following" {
                return Ok(format!("follows {primary} already"));
            }
            return self.follow_again(known, config, Sought { shards, each: shards }, discard);
        }
        self.follow_at(config, Sought { shards, each: shards }, discard)
    }

    /// Follow a primary that is not followed by this name. With `discard` what is here may be given
    /// up in each shard that is asked for, if the primary is of another lineage.
    fn follow_at(&mut self, mut config: FollowConfig, sought: Sought, discard: bool) -> Words {
        // Nothing has changed before this succeeds: if that primary cannot be followed, this server
        // keeps its roles.
        let joined = match config.join(&Holder::new(&config.primary)) {
            Ok(joined) => joined,
            Err(AttachError::Twin { server, holder }) => {
                let known = self.followings.iter().position(|one| one.follow().is(&holder));
                let known = known.ok_or_else(|| AttachError::Twin { server, holder }.to_string())?;
                return self.follow_again(known, config, sought, discard);
            }
            Err(error) => return Err(error.to_string()),
        };
        let of = |shard: usize| joined.welcome.histories.get(shard).map(|theirs| (shard, theirs.origin()));
        let allowed = sought.each.iter().filter(|_| discard).filter_map(of);
        config.discard = match config.discard {
            Discard::Always => Discard::Always,
            Discard::For(before) => Discard::For(before.into_iter().chain(allowed).collect()),
            Discard::Never => Discard::For(allowed.collect()),
        };
        let admitted = Admitted::of(joined, &config, sought, &self.node.store).map_err(|error| error.to_string())?;
        self.follow_admitted(config, admitted, sought)
    }

    /// The following of a primary is replaced by one that has these shards as well.
    fn follow_again(&mut self, known: usize, config: FollowConfig, sought: Sought, discard: bool) -> Words {
        let mut following = self.followings.remove(known);
        let (before, usual) = (following.follow().shards(), following.follow().config().clone());
        let stopped = following.stop();
        if stopped.is_err() {
            // It is ended once it has let go.
            self.followings.push(following);
        }
        let config = FollowConfig { discard: usual.discard.clone(), ..config };
        let words = match stopped {
            Ok(()) => self.follow_at(config, Sought { shards: sought.shards.with(before), ..sought }, discard),
            Err(error) => Err(error.to_string()),
        };
        if words.is_err() {
            self.start(usual, None, before).map_err(|error| format!("cannot follow again: {error}"))?;
        }
        words
    }

    fn follow_admitted(&mut self, config: FollowConfig, admitted: Admitted, sought: Sought) -> Words {
        let (clients_address, fabric) = (admitted.client_address(), admitted.fabric().to_string());
        let primary = config.primary.clone();
        let shards = sought.shards;
        let own = self.own().within(shards);
        let store = self.node.store.clone();
        store.close_gates(own.iter(), Some(&clients_address));
        let mut released = Vec::new();
        // A primary that was empty when it was looked at may have taken a write since.
        let followed = admitted.check(&config, sought, &store).map_err(|error| error.to_string()).and_then(|()| {
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
        let view = self.wait_until_following(&follow, Instant::now() + FOLLOW_WAIT_MAX);
        Ok(followed_words(&view, &fabric))
    }
}

/// What an order to follow has come to: what became of the shards, and what of theirs is gone.
fn followed_words(view: &FollowView, fabric: &str) -> String {
    let FollowView { primary, counts, refused, .. } = view;
    let verb = if ["following", "refused"].contains(&view.state) { "follows" } else { "joins" };
    let anew = counts.joined + counts.overrun + counts.diverged;
    let mut words = format!(
        "{verb} {primary} over {fabric}; {} shards went on from where they were, {anew} began anew",
        counts.continued
    );
    if counts.truncated > 0 {
        words += &format!(", {} went back to where their logs part", counts.truncated);
    }
    if counts.diverged_bytes > 0 {
        let (records, bytes) = (counts.diverged_records, counts.diverged_bytes);
        words += &format!("; dropped, because that primary never had it: {records} records, {bytes} bytes");
    }
    if counts.discarded > 0 {
        words += &format!("; discarded, of another lineage: what {} shards had", counts.discarded);
    }
    if !refused.is_empty() {
        words += &format!("; not followed: {refused}");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::pull::Counts;

    #[test]
    fn an_order_to_follow_says_what_is_gone() {
        let counts =
            Counts { continued: 3, truncated: 2, diverged_records: 7, diverged_bytes: 800, ..Counts::default() };
        let view = FollowView { primary: "b:1".into(), state: "following", counts, ..FollowView::default() };
        assert_eq!(
            followed_words(&view, "tcp"),
            "follows b:1 over tcp; 3 shards went on from where they were, 0 began anew, 2 went back to where their logs part; \
             dropped, because that primary never had it: 7 records, 800 bytes"
        );
        let counts = Counts { diverged: 4, discarded: 4, ..Counts::default() };
        let view = FollowView { primary: "b:1".into(), state: "joining", counts, ..FollowView::default() };
        assert_eq!(
            followed_words(&view, "shm"),
            "joins b:1 over shm; 0 shards went on from where they were, 4 began anew; discarded, of another lineage: what 4 shards had"
        );
    }
}
