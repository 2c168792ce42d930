//! Becoming the primary of some shards. First other servers that may have something of them stop
//! ([`super::super::claim`]), one of them perhaps the primary of until now, and what they have and
//! this server lacks comes over; then the term begins, and clients are served.

use super::{LOOK, Roles, Words};
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::base::time::UnixSeconds;
use crate::replication::claim::Claim;
use crate::replication::follow::{Follow, Following};
use crate::replication::secret::random;
use crate::replication::wire::Seal;
use crate::store::line::BIRTH;
use crate::store::shard::Shard;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for room for the record that begins a term: a turn of each worker.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// Longest wait for all replicas that are gathered from.
const GATHER_WAIT_MAX: Duration = Duration::from_secs(5);
/// Up to where each shard is to be here before its term begins.
type Goals = Vec<(usize, u64)>;

impl Roles {
    pub(super) fn promote(&mut self, shards: ShardSet, gather: &[String], take_over: bool, incomplete: bool) -> Words {
        let shards = shards.without(self.own());
        if shards.is_empty() {
            return Err("this is the primary already".into());
        }
        let mut peers = gather.to_vec();
        if take_over {
            peers.extend(self.primaries_of(shards)?);
            peers.sort();
            peers.dedup();
        }
        let term = self.next_term(shards)?;
        // Who stops for this term stops for no other of its number: the next try needs a higher
        // one.
        shards.iter().for_each(|shard| self.promised[shard] = term);
        let claims = self.claim(&peers, shards, term)?;
        let mut released = Vec::new();
        let all_stopped = if take_over { primaries_stopped(&claims, shards) } else { Ok(()) };
        let began = all_stopped.and_then(|()| self.gather(&claims, shards, &mut released)).and_then(|()| {
            released.extend(self.release(shards)?);
            self.begin_term(shards, term, incomplete)
        });
        match &began {
            Ok(_) => self.node.store.open_gates(shards.iter()),
            Err(_) => self.give_back(released),
        }
        self.show();
        claims.into_iter().for_each(|claim| claim.settle(began.is_ok()));
        began
    }

    /// The servers that are followed in these shards, all of which must be followed. This server is
    /// near them: what is to come over while nobody takes writes is little.
    fn primaries_of(&self, shards: ShardSet) -> Result<Vec<String>, String> {
        let alone = shards.without(self.followed());
        if !alone.is_empty() {
            return Err(format!("this server follows nobody in shards {alone}: there is nobody to take over from"));
        }
        let brings = |follow: &&Arc<Follow>| !follow.shards().within(shards).is_empty();
        let until = Instant::now() + GATHER_WAIT_MAX;
        let mut primaries = Vec::new();
        for follow in self.followings.iter().map(Following::follow).filter(brings) {
            while !follow.snapshot().is_near {
                if Instant::now() >= until || self.node.is_ending() {
                    let view = follow.snapshot();
                    let far = format!("this replica is not near it: it lacks {} bytes", view.lag_bytes);
                    let why = if view.trouble.is_empty() { &far } else { &view.trouble };
                    return Err(cannot_gather(&view.primary, why));
                }
                std::thread::sleep(LOOK);
            }
            let refused = follow.snapshot().refused.within(shards);
            if !refused.is_empty() {
                return Err(cannot_gather(follow.primary(), &refused.to_string()));
            }
            primaries.push(follow.primary().into());
        }
        Ok(primaries)
    }

    /// The term that a promotion in these shards begins: later than any that is known there, or
    /// that this server has stopped for. Whoever has discarded what it had, and got nothing since,
    /// is born: what others have is of another lineage.
    pub(super) fn next_term(&self, shards: ShardSet) -> Result<Term, String> {
        let newest = shards.iter().map(|shard| self.latest_term(shard)).max().unwrap_or_default();
        let term = if newest.is_valid() { newest.succeed() } else { Some(Term::birth()) };
        term.ok_or_else(|| format!("no term can follow {newest}: restart empty"))
    }

    /// Have these servers stop. If one does not, the others go on.
    fn claim(&self, peers: &[String], shards: ShardSet, term: Term) -> Result<Vec<Claim>, String> {
        let config = &self.node.config;
        let offer = config.offer.as_deref();
        let seal = Seal {
            shards,
            term,
            heir: config.follow.identity.replica,
            client_port: offer.map_or(0, |offer| offer.client_port()),
            replication_port: offer.map_or(0, |offer| offer.address().port()),
        };
        let asked = Claim::ask_all(peers, &config.follow.secret, &seal);
        let (mut claims, mut failed) = (Vec::new(), None);
        for (peer, asked) in peers.iter().zip(asked) {
            match asked {
                Ok(claim) => claims.push(claim),
                Err(error) => failed = failed.or(Some(cannot_gather(peer, &error.to_string()))),
            }
        }
        match failed {
            None => Ok(claims),
            Some(why) => {
                claims.into_iter().for_each(|claim| claim.settle(false));
                Err(why)
            }
        }
    }

    /// Bring over what those who have stopped have and this server lacks, from each what it has
    /// most of. Nothing that is here is given up for that. The followings that had to let go for it
    /// are put into `released`.
    fn gather(
        &mut self,
        claims: &[Claim],
        shards: ShardSet,
        released: &mut Vec<(usize, ShardSet)>,
    ) -> Result<(), String> {
        let until = Instant::now() + GATHER_WAIT_MAX;
        let mut from = vec![ShardSet::default(); claims.len()];
        let mut goals = Goals::new();
        for shard in shards.iter() {
            if let Some((claim, position)) = self.furthest(claims, shard)? {
                from[claim].insert(shard);
                goals.push((shard, position));
            }
        }
        let mut gathering = Vec::new();
        for (claim, shards) in claims.iter().zip(from) {
            // Whoever is followed already goes on bringing it.
            let known = self.followings.iter().find(|one| one.follow().primary() == claim.peer);
            let brought = known.map_or(ShardSet::default(), |one| one.follow().shards());
            let rest = shards.without(brought);
            if !rest.is_empty() {
                released.extend(self.release(rest)?);
                let following = self.gather_from(&claim.peer, rest);
                gathering.push(following.map_err(|why| cannot_gather(&claim.peer, &why))?);
            }
        }
        let gathered = self.wait_for(&goals, &gathering, until);
        let stopped: Vec<_> = gathering.iter_mut().map(Following::stop).collect();
        gathered.and(stopped.into_iter().collect::<Result<(), _>>().map_err(|error| error.to_string()))
    }

    /// Which of those who have stopped has most of a shard, and up to where; None where this server
    /// has no less.
    fn furthest(&self, claims: &[Claim], shard: usize) -> Result<Option<(usize, u64)>, String> {
        let ours = &self.node.store.shards()[shard];
        let history = ours.history();
        let newest = history.newest();
        let here = ours.proven_until();
        let mut furthest = None;
        for (number, claim) in claims.iter().enumerate() {
            let Some(sealed) = claim.sealed(shard).filter(|sealed| sealed.position > 0) else { continue };
            // Whoever has not come as far in the history has nothing that is not here.
            if sealed.term != newest && history.starts().iter().any(|start| start.term == sealed.term) {
                continue;
            }
            if newest.is_valid() && sealed.term.follows(newest) {
                return Err(format!(
                    "{} is further in shard {shard}, of term {} where this replica is of {newest}: promote that one",
                    claim.peer, sealed.term
                ));
            }
            if newest.is_valid() && sealed.term != newest {
                let why = format!("shard {shard} is of term {} there, here of {newest}", sealed.term);
                return Err(cannot_gather(&claim.peer, &why));
            }
            let rank = (sealed.is_whole, sealed.term, sealed.position);
            let is_further = |best: &(usize, (bool, Term, u64))| rank > best.1;
            if furthest.as_ref().is_none_or(is_further) {
                furthest = Some((number, rank));
            }
        }
        Ok(furthest.map(|(number, (_, _, position))| (number, position)).filter(|best| best.1 > here))
    }

    fn gather_from(&self, peer: &str, shards: ShardSet) -> Result<Following, String> {
        let mut config = self.node.config.follow.of(peer);
        config.gathers = true;
        // Beside a session that there may be with this peer for other shards.
        config.identity.replica = random().map_err(|error| error.to_string())?;
        Following::start(config, None, shards, self.node.store.clone()).map_err(|error| error.to_string())
    }

    /// Wait until each shard is here up to its goal.
    fn wait_for(&self, goals: &Goals, gathering: &[Following], until: Instant) -> Result<(), String> {
        let shards = self.node.store.shards();
        let missing = || {
            let lacks = |(shard, position): &(usize, u64)| position.saturating_sub(shards[*shard].proven_until());
            goals.iter().map(lacks).fold(0, u64::saturating_add)
        };
        while missing() > 0 {
            for follow in gathering.iter().map(Following::follow) {
                let view = follow.snapshot();
                if view.failed_tries > 0 {
                    return Err(cannot_gather(&view.primary, &view.trouble));
                }
                if !view.refused.is_empty() {
                    return Err(cannot_gather(&view.primary, &view.refused.to_string()));
                }
            }
            if Instant::now() >= until || self.node.is_ending() {
                return Err(format!("{} bytes were still to come after {GATHER_WAIT_MAX:?}; try again", missing()));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Begin `term` in these shards. Their gates may be opened afterwards.
    pub(super) fn begin_term(&mut self, shards: ShardSet, term: Term, incomplete: bool) -> Words {
        let store = &self.node.store;
        let count = self.all().count();
        let these = || shards.iter().map(|shard| &store.shards()[shard]);
        let position = |is_it: &dyn Fn(&Shard) -> bool| shards.iter().find(|shard| is_it(&store.shards()[*shard]));
        let empty = these().filter(|shard| !shard.is_proven()).count();
        if let (Some(shard), false) = (position(&|shard| !shard.is_proven()), incomplete) {
            return Err(format!(
                "shard {shard} has nothing yet: this replica is joining; wait, promote another, or gather from one that has it; with \
                 --incomplete it begins empty there"
            ));
        }
        if let (Some(shard), false) = (position(&|shard| !shard.is_whole()), incomplete) {
            return Err(format!(
                "shard {shard} is not here up to where its primary was when this replica joined, and what was moved meanwhile is missing: \
                 promote another, or gather from one that has it; with --incomplete it is lost"
            ));
        }
        // For as long as this goes on nobody else can come to write.
        let mut alone = Vec::new();
        for shard in shards.iter() {
            let none = || format!("a thread still writes to shard {shard}; it will end, so try again");
            alone.push(store.follower(shard).ok_or_else(none)?);
        }
        let begun_at = Instant::now();
        while let Err(shard) = store.make_room_for_term(shards, UnixSeconds::now()) {
            if begun_at.elapsed() > ROOM_WAIT_MAX {
                return Err(format!(
                    "shard {shard} has no room for its term after {ROOM_WAIT_MAX:?}: a worker does not end \
                     its turn, or nothing may be evicted (-M); try again"
                ));
            }
            std::thread::sleep(LOOK);
        }
        let is_any = |shard: &Shard| shard.history().newest().is_valid() || shard.control().committed() > BIRTH;
        if !these().any(is_any) {
            return Err("this replica has never had anything of its primary's: it has nothing at all".into());
        }
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
}

/// Whether each shard's primary is among those who have stopped.
fn primaries_stopped(claims: &[Claim], shards: ShardSet) -> Result<(), String> {
    let has_stopped = |shard: &usize| claims.iter().filter_map(|claim| claim.sealed(*shard)).any(|one| one.was_primary);
    match shards.iter().find(|shard| !has_stopped(shard)) {
        None => Ok(()),
        Some(shard) => Err(format!(
            "nobody that was asked is the primary of shard {shard}: this replica follows a replica there; point it at the primary first (remora ctl replicate)"
        )),
    }
}

fn cannot_gather(peer: &str, why: &str) -> String {
    format!("gathering from {peer}: {why}; leave that replica out, or mend it")
}
