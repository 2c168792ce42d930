//! Carrying out an order, step by step. A step either succeeds, or the role of before is put back
//! and the order's outcome says why.
//!
//! A store has one writer at a time, because each change of role keeps to a sequence. **Becoming a
//! replica**: the gates are closed, so no client's write is taken any more
//! ([`crate::store::reign`]), then a follower may write. **Becoming the primary**: the follower has
//! let go of the store for good, the term has begun in every shard, then the gates are opened.

use super::admission::Admitted;
use super::follow::{FollowConfig, Following, Known};
use super::lineage::Discard;
use super::node::Node;
use super::order::Order;
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::base::time::UnixSeconds;
use crate::store::History;
use crate::store::line::BIRTH;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for room for the record that begins a term: a turn of each worker.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// Longest wait for each replica that is gathered from.
const GATHER_WAIT_MAX: Duration = Duration::from_secs(5);
/// An order to follow waits so long for the replica to catch up, so that its outcome can say so.
/// Joining may take longer, and then goes on.
const FOLLOW_WAIT_MAX: Duration = Duration::from_secs(1);
/// Pause between two looks while waiting.
const LOOK: Duration = Duration::from_micros(200);

/// The outcome of an order, in words for people: what was done, or why nothing was.
type Words = Result<String, String>;

/// What this process is; the control thread's.
pub(super) struct Role {
    node: Arc<Node>,
    now: Now,
}

enum Now {
    Primary,
    Follows(Following),
    /// Follows nobody, and can go on from this later. (The thread that followed may still be
    /// ending, if it did not let go of the store in time.)
    Detached(Known),
}

impl Role {
    pub(super) fn begin(node: Arc<Node>, admitted: Option<Admitted>) -> std::io::Result<Role> {
        let mut role = Role { node, now: Now::Primary };
        if let Some(admitted) = admitted {
            let clients_address = admitted.client_address();
            role.refuse_writes(Some(&clients_address));
            let known = vec![None; role.node.store.shards().len()];
            let config = role.node.config.follow.clone();
            role.follow(config, Some(admitted), known)?;
        }
        Ok(role)
    }

    /// Carry out an order; in words what was done, or why it was not.
    pub(super) fn change(&mut self, order: &Order) -> Words {
        match order {
            Order::Promote { gather, incomplete } => self.promote(gather, *incomplete),
            Order::Detach => self.detach(),
            Order::Replicate { primary, discard } => self.replicate(primary, *discard),
        }
    }

    /// Nobody's write is taken from now on; clients are told to write to `primary`.
    fn refuse_writes(&self, primary: Option<&str>) {
        let store = &self.node.store;
        store.close_gates(0..store.shards().len(), primary);
    }

    fn all_shards(&self) -> ShardSet {
        ShardSet::all(self.node.store.shards().len())
    }

    fn take_writes(&self) {
        let store = &self.node.store;
        store.open_gates(0..store.shards().len());
    }

    fn follow(&mut self, config: FollowConfig, admitted: Option<Admitted>, known: Known) -> std::io::Result<()> {
        let offer = self.node.config.offer.clone();
        let started = Following::start(config, admitted, known.clone(), self.node.store.clone(), offer);
        // Where no thread could be started, nobody writes to the store.
        self.now = Now::Detached(known);
        let following = started?;
        let standing = following.follow().standing().clone();
        self.node.config.follow.chain.set(self.all_shards(), Some(standing));
        self.node.set_follow(Some(following.follow().clone()));
        self.now = Now::Follows(following);
        Ok(())
    }

    /// Stop following, if it does; what there is to go on from. Not for a primary.
    fn stop_following(&mut self) -> Result<Known, String> {
        match &mut self.now {
            Now::Primary => unreachable!("a primary follows nobody"),
            Now::Detached(known) => Ok(known.clone()),
            Now::Follows(following) => {
                let known = following.stop().map_err(|error| error.to_string())?;
                self.now = Now::Detached(known.clone());
                Ok(known)
            }
        }
    }

    fn detach(&mut self) -> Words {
        if let Now::Primary = self.now {
            return Err("this is the primary: it follows nobody".into());
        }
        self.stop_following()?;
        self.refuse_writes(None);
        if let Some(follow) = self.node.follow() {
            follow.note_detached();
        }
        Ok("follows nobody, and serves what it has".into())
    }

    fn promote(&mut self, gather: &[String], incomplete: bool) -> Words {
        let before = match &self.now {
            Now::Primary => return Err("this is the primary already".into()),
            Now::Follows(following) => Some(following.follow().config().clone()),
            Now::Detached(_) => None,
        };
        self.stop_following()?;
        let began = gather.iter().try_for_each(|peer| self.gather(peer)).and_then(|()| self.begin_term(incomplete));
        if let (Err(_), Some(config), Now::Detached(known)) = (&began, before, &self.now) {
            let known = known.clone();
            self.follow(config, None, known).map_err(|error| format!("cannot follow again: {error}"))?;
        }
        let words = began?;
        self.now = Now::Primary;
        self.node.set_follow(None);
        self.node.config.follow.chain.set(self.all_shards(), None);
        self.take_writes();
        Ok(words)
    }

    /// Bring over what `peer` has and this replica lacks: follow `peer` until nothing is missing.
    fn gather(&mut self, peer: &str) -> Result<(), String> {
        let failed = |why: String| format!("gathering from {peer}: {why}; leave that replica out, or mend it");
        let config = self.node.config.follow.of(peer);
        let admitted = Admitted::at(&config, &self.node.store).map_err(|error| failed(error.to_string()))?;
        let (theirs, ours) = (admitted.term(), self.node.store.newest_term());
        if theirs != ours {
            return Err(failed(format!("it is of term {theirs}, this replica of {ours}")));
        }
        let known = self.stop_following()?;
        self.follow(config, Some(admitted), known).map_err(|error| failed(error.to_string()))?;
        let until = Instant::now() + GATHER_WAIT_MAX;
        let has_all = self.wait_until_following(until);
        let view = self.node.follow().map(|follow| follow.snapshot()).unwrap_or_default();
        self.stop_following().map_err(failed)?;
        match has_all {
            true => Ok(()),
            false if view.failed_tries > 0 => Err(failed(view.trouble)),
            false => Err(failed(format!("{} bytes were still to come after {GATHER_WAIT_MAX:?}", view.lag_bytes))),
        }
    }

    /// Wait until this replica has caught up with its primary. False if that fails, or takes too
    /// long.
    fn wait_until_following(&self, until: Instant) -> bool {
        let Some(follow) = self.node.follow() else { return false };
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

    fn begin_term(&mut self, incomplete: bool) -> Words {
        let Now::Detached(known) = &self.now else { unreachable!("it has stopped following") };
        let store = &self.node.store;
        let shards = known.len();
        let empty = known.iter().filter(|term| term.is_none()).count();
        if let (Some(shard), false) = (known.iter().position(Option::is_none), incomplete) {
            return Err(format!(
                "shard {} of {shards} has nothing yet: this replica is joining; wait, promote another, or gather from one that has it; with \
                 --incomplete it begins empty there",
                shard + 1
            ));
        }
        if let (Some(shard), false) = (store.shards().iter().position(|shard| !shard.is_whole()), incomplete) {
            return Err(format!(
                "shard {} of {shards} is not here up to where its primary was when this replica joined, and what was moved meanwhile is missing: \
                 promote another, or gather from one that has it; with --incomplete it is lost",
                shard + 1
            ));
        }
        let newest = store.newest_term();
        let begun_at = Instant::now();
        while let Err(shard) = store.make_room_for_term(self.all_shards(), UnixSeconds::now()) {
            if begun_at.elapsed() > ROOM_WAIT_MAX {
                return Err(format!(
                    "shard {} of {shards} has no room for its term after {ROOM_WAIT_MAX:?}: a worker does not end \
                     its turn, or nothing may be evicted (-M); try again",
                    shard + 1
                ));
            }
            std::thread::sleep(LOOK);
        }
        let ever_had = store.shards().iter().any(|shard| shard.control().committed() > BIRTH);
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
        store.begin_term(self.all_shards(), term, &|shard| {
            offer.iter().for_each(|offer| offer.board().take_back(shard));
        });
        log::info!("this is the primary now, term {term}");
        match empty {
            0 => Ok(format!("the primary of term {term}")),
            _ => Ok(format!("the primary of term {term}; {empty} shards of {shards} began empty")),
        }
    }

    fn replicate(&mut self, primary: &str, discard: bool) -> Words {
        if let (Now::Follows(following), Some(follow)) = (&self.now, self.node.follow())
            && following.follow().primary() == primary
            && follow.snapshot().state == "following"
        {
            return Ok(format!("follows {primary} already"));
        }
        // Nothing has changed before this succeeds: if that primary cannot be followed, this server
        // keeps its role.
        let mut config = self.node.config.follow.of(primary);
        let asked = if discard { Discard::Always } else { config.discard };
        let usual = std::mem::replace(&mut config.discard, asked);
        let admitted = Admitted::at(&config, &self.node.store).map_err(|error| error.to_string())?;
        if discard && usual == Discard::Never {
            let origins = admitted.welcome().histories.iter().map(History::origin);
            config.discard = Discard::For(origins.max().unwrap_or_default());
        }
        let (clients_address, fabric) = (admitted.client_address(), admitted.fabric().to_string());
        let was_primary = matches!(self.now, Now::Primary);
        let known = if was_primary { self.abdicate(&clients_address) } else { self.stop_following()? };
        // A primary that was empty when it was looked at may have taken a write since.
        if let (true, Err(error)) = (was_primary, admitted.check(&config, &self.node.store)) {
            self.now = Now::Primary;
            self.take_writes();
            return Err(error.to_string());
        }
        self.refuse_writes(Some(&clients_address));
        if let Err(error) = self.follow(config, Some(admitted), known) {
            if was_primary {
                self.now = Now::Primary;
                self.take_writes();
            }
            return Err(format!("cannot follow {primary}: {error}; raise `ulimit -u`"));
        }
        let has_all = self.wait_until_following(Instant::now() + FOLLOW_WAIT_MAX);
        let view = self.node.follow().map(|follow| follow.snapshot()).unwrap_or_default();
        let (state, counts) = (if has_all { "follows" } else { "joins" }, view.counts);
        let anew = counts.joined + counts.overrun + counts.diverged;
        Ok(format!(
            "{state} {primary} over {fabric}; {} shards went on from where they were, {anew} began anew",
            counts.continued
        ))
    }

    /// A primary stops taking writes. Returns from where each shard can go on as a replica.
    fn abdicate(&mut self, clients_address: &str) -> Known {
        self.refuse_writes(Some(clients_address));
        let known = self.node.store.terms_of_shards();
        self.now = Now::Detached(known.clone());
        known
    }
}
