//! Becoming the primary of some shards. First other servers that may have something of them stop
//! ([`super::super::claim`]), one of them perhaps the primary of until now, and what they have and
//! this server lacks comes over; then the term begins, and clients are served.

use super::{LOOK, Roles, Words};
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::base::time::UnixSeconds;
use crate::replication::claim::{Claim, ClaimError};
use crate::replication::follow::{Follow, Following};
use crate::replication::lineage::has_nothing;
use crate::replication::order::{Peer, Promotion};
use crate::replication::wire::{Seal, SealedShard};
use crate::store::line::BIRTH;
use crate::store::shard::Shard;
use crate::store::{History, TermStart};
use crate::sys::random::random;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for room for the record that begins a term: a turn of each worker.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// Longest wait for all replicas that are gathered from.
const GATHER_WAIT_MAX: Duration = Duration::from_secs(5);
/// So often at most are servers asked to stop that know of a later term.
const CLAIM_TRIES_MAX: u32 = 2;

/// What is to be here of a shard before its term begins.
struct Goal {
    shard: usize,
    /// The log of this term,
    term: Term,
    /// up to here,
    position: u64,
    /// and with nothing missing below that.
    is_whole: bool,
}

impl Goal {
    /// Bytes of it that are not here.
    fn missing(&self, here: &Shard) -> u64 {
        let is_log = Term(here.control().term()) == self.term;
        self.position.saturating_sub(if is_log { here.proven_until() } else { 0 })
    }
}

impl Roles {
    pub(super) fn promote(&mut self, shards: ShardSet, promotion: &Promotion) -> Words {
        let Promotion { gather, take_over, incomplete, term: reserved } = promotion;
        let store = self.node.store.clone();
        let own = self.own().within(shards);
        let shards = if reserved.is_some() { shards } else { shards.without(own) };
        if shards.is_empty() {
            return Err("this is the primary already".into());
        }
        let mut peers = gather.clone();
        if *take_over {
            for primary in self.primaries_of(shards)? {
                if !peers.iter().any(|peer| peer.address == primary) {
                    peers.push(Peer::whoever(primary));
                }
            }
        }
        let (claims, term) = self.claim(&peers, shards, *reserved)?;
        // A term that is reserved begins anew where this is the primary already.
        let again = own.within(shards);
        store.close_gates(again.iter(), None);
        let mut released = Vec::new();
        let all_stopped = if *take_over { primaries_stopped(&claims, shards) } else { Ok(()) };
        let began = all_stopped.and_then(|()| self.gather(&claims, shards, &mut released)).and_then(|()| {
            released.extend(self.release(shards)?);
            self.begin_term(shards, term, *incomplete, reserved.is_some())
        });
        match &began {
            Ok(_) => store.open_gates(shards.iter()),
            Err(_) => {
                self.give_back(released);
                store.open_gates(again.iter());
            }
        }
        self.show();
        let history = |shard: usize| store.shards()[shard].history();
        for claim in claims {
            let goes_on = began.is_ok().then(|| claim.goes_on(history));
            claim.settle(goes_on);
        }
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
    /// that this server has stopped for, and of the number that is `reserved` for it, if one is.
    /// Without that, whoever has discarded what it had, and got nothing since, is born: what others
    /// have is of another lineage.
    pub(super) fn next_term(&self, shards: ShardSet, reserved: Option<u32>) -> Result<Term, String> {
        let newest = self.latest_term(shards);
        if let Some(number) = reserved {
            let is_later = number > newest.number();
            let too_low =
                || format!("term {number} does not follow {newest}, which is known here: reserve a later one");
            return is_later.then(|| Term::numbered(number)).ok_or_else(too_low);
        }
        let term = if newest.is_valid() { newest.succeed() } else { Some(Term::birth()) };
        term.ok_or_else(|| format!("no term can follow {newest}: restart empty"))
    }

    /// Choose a term, and have these servers stop for it. If one does not, the others go on. Where
    /// nobody has stopped, because a later term is known there, they are asked again, for one above
    /// that; not where its number was `reserved`.
    fn claim(&mut self, peers: &[Peer], shards: ShardSet, reserved: Option<u32>) -> Result<(Vec<Claim>, Term), String> {
        for tries_left in (0..CLAIM_TRIES_MAX).rev() {
            let term = self.next_term(shards, reserved)?;
            // Who stops for this term stops for no other of its number: the next try needs a higher
            // one.
            shards.iter().for_each(|shard| self.promised[shard] = term);
            let (claims, failed) = self.ask(peers, shards, term);
            let Some((peer, error)) = failed.first() else { return Ok((claims, term)) };
            let why = cannot_gather(peer, &error.to_string());
            let knows_later = self.learn(shards, failed.iter().map(|(_, error)| error.known()));
            let asks_again = knows_later && claims.is_empty() && tries_left > 0 && reserved.is_none();
            claims.into_iter().for_each(|claim| claim.settle(None));
            if !asks_again {
                let advice = match (knows_later, reserved) {
                    (false, _) => "",
                    (true, None) => "; try again: the next term is later",
                    (true, Some(_)) => "; reserve a later term",
                };
                return Err(why + advice);
            }
            log::info!("{why}; asking for a later term");
        }
        unreachable!("the last try returns")
    }

    /// Others know of these terms, or have stopped for them: the next one that is begun here is
    /// later. True if any is later than what was known here. A number after which there is none is
    /// not believed.
    fn learn(&mut self, shards: ShardSet, known: impl Iterator<Item = Term>) -> bool {
        let latest = known.filter(|term| term.succeed().is_some()).max().unwrap_or_default();
        let is_later = latest.is_valid() && !self.latest_term(shards).follows(latest);
        if is_later {
            shards.iter().for_each(|shard| self.promised[shard] = self.promised[shard].max(latest));
        }
        is_later
    }

    /// Ask these servers to stop for this term. Returns those that have, and those that have not.
    fn ask<'p>(&mut self, peers: &'p [Peer], shards: ShardSet, term: Term) -> (Vec<Claim>, Vec<(&'p str, ClaimError)>) {
        let node = self.node.clone();
        let config = &node.config;
        let offer = config.offer.as_deref();
        let seal = Seal {
            shards,
            term,
            heir: config.follow.identity.replica,
            clients: offer.and_then(|offer| offer.clients()),
            replication: offer.map(|offer| offer.address()),
        };
        let asked = Claim::ask_all(peers, &config.follow.secret, &seal, &mut || self.answer_meanwhile(shards));
        let (mut claims, mut failed) = (Vec::new(), Vec::new());
        for (peer, asked) in peers.iter().zip(asked) {
            match asked {
                Ok(claim) => claims.push(claim),
                Err(error) => failed.push((&*peer.address, error)),
            }
        }
        (claims, failed)
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
        let here = self.node.store.shards();
        let empty: ShardSet = shards.iter().filter(|shard| has_nothing(&here[*shard])).collect();
        let mut from = vec![ShardSet::default(); claims.len()];
        let mut goals = Vec::new();
        for shard in shards.iter() {
            if let Some((claim, goal)) = self.furthest(claims, shard, empty.has(shard))? {
                from[claim].insert(shard);
                goals.push(goal);
            }
        }
        let mut gathering = Vec::new();
        for (claim, shards) in claims.iter().zip(from) {
            // Whoever is followed already goes on bringing it, unless it has yet to come so far.
            let brings = |follow: &Follow| follow.is_of_server(&claim.server) && follow.snapshot().state == "following";
            let known = self.followings.iter().find(|one| brings(one.follow()));
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
        gathered.and(stopped.into_iter().collect::<Result<(), _>>().map_err(|error| error.to_string()))?;
        // Where nothing was here, it was not known whose terms are of one history.
        empty.iter().try_for_each(|shard| self.furthest(claims, shard, false).map(drop))
    }

    /// Which of those who have stopped has most of a shard, and what is to be here; None where this
    /// server has no less. Logs are compared by the terms of their ends, and then by their lengths:
    /// whoever was told of a term may not have come to it. Where this server's log `is_empty`, one
    /// of any term may come over, and that of the latest does.
    fn furthest(&self, claims: &[Claim], shard: usize, is_empty: bool) -> Result<Option<(usize, Goal)>, String> {
        let ours = &self.node.store.shards()[shard];
        let (history, here) = (ours.history(), Term(ours.control().term()));
        let mut furthest = None;
        for (number, claim) in claims.iter().enumerate() {
            let Some(sealed) = claim.sealed(shard).filter(|sealed| sealed.position > 0) else { continue };
            match Beside::of(&history, here, sealed.term) {
                Beside::Behind => continue,
                Beside::Elsewhere if !is_empty && here.is_valid() => return Err(of_other_term(claim, sealed, here)),
                Beside::Elsewhere | Beside::OnTheWay => {}
            }
            let rank = (sealed.term, sealed.is_whole, sealed.position);
            let is_further = |best: &(usize, (Term, bool, u64))| rank > best.1;
            if furthest.as_ref().is_none_or(is_further) {
                furthest = Some((number, rank));
            }
        }
        let goal = |(number, (term, is_whole, position))| (number, Goal { shard, term, is_whole, position });
        Ok(furthest.map(goal).filter(|(_, goal)| goal.missing(ours) > 0))
    }

    fn gather_from(&self, peer: &str, shards: ShardSet) -> Result<Following, String> {
        let mut config = self.node.config.follow.of(peer);
        config.gathers = true;
        // Beside a session that there may be with this peer for other shards.
        config.identity.replica = random().map_err(|error| error.to_string())?;
        Following::start(config, None, shards, self.node.store.clone()).map_err(|error| error.to_string())
    }

    /// Wait until each shard is here up to its goal.
    fn wait_for(&self, goals: &[Goal], gathering: &[Following], until: Instant) -> Result<(), String> {
        let shards = self.node.store.shards();
        let missing = || goals.iter().map(|goal| goal.missing(&shards[goal.shard])).fold(0, u64::saturating_add);
        let is_whole = || goals.iter().all(|goal| !goal.is_whole || shards[goal.shard].is_whole());
        while missing() > 0 || !is_whole() {
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
                // A shard that is here, and not whole, is judged before its term begins.
                return match missing() {
                    0 => Ok(()),
                    bytes => Err(format!("{bytes} bytes were still to come after {GATHER_WAIT_MAX:?}; try again")),
                };
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Begin `term` in these shards. Their gates may be opened afterwards. Where nothing at all is
    /// here, only a term that is `reserved` is begun: whoever has reserved it knows that nobody has
    /// anything.
    pub(super) fn begin_term(&mut self, shards: ShardSet, term: Term, incomplete: bool, reserved: bool) -> Words {
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
        if !reserved && !these().any(is_any) {
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

/// How the end of another log stands beside that of the log here, by the terms of both.
#[derive(Debug, PartialEq, Eq)]
enum Beside {
    /// It has not come as far in the history: it has nothing that is not here.
    Behind,
    /// It is in the same term, or in a later one that this server has been told of.
    OnTheWay,
    /// It is in a term that is not known here.
    Elsewhere,
}

impl Beside {
    /// `here` is the term of the end of the log here. `history` may tell of later ones, to which
    /// the log has not come.
    fn of(history: &History, here: Term, theirs: Term) -> Beside {
        let has = |starts: &[TermStart]| starts.iter().any(|start| start.term == theirs);
        if theirs == here {
            Beside::OnTheWay
        } else if has(history.up_to(here)) {
            Beside::Behind
        } else if has(history.starts()) {
            Beside::OnTheWay
        } else {
            Beside::Elsewhere
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

fn of_other_term(claim: &Claim, sealed: &SealedShard, here: Term) -> String {
    let SealedShard { shard, term, .. } = sealed;
    if term.follows(here) {
        return format!(
            "{} is further in shard {shard}, of term {term} where this replica is of {here}: promote that one",
            claim.peer
        );
    }
    cannot_gather(&claim.peer, &format!("shard {shard} is of term {term} there, here of {here}"))
}

fn cannot_gather(peer: &str, why: &str) -> String {
    format!("gathering from {peer}: {why}; leave that replica out, or mend it")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who was told of a term may not have come to it: the others may have more of the one before.
    #[test]
    fn logs_are_compared_by_their_ends_not_by_what_was_told() {
        let term = |number| Term::of(number, 7);
        let start = |number, begins| TermStart { term: term(number), begins };
        let history = History::new(term(1), [start(4, 64), start(5, 80), start(6, 120)]);
        let beside = |here, theirs| Beside::of(&history, term(here), theirs);
        assert_eq!(beside(5, term(5)), Beside::OnTheWay, "the longer one counts");
        assert_eq!(beside(5, term(6)), Beside::OnTheWay, "it has come to what was only told here");
        assert_eq!((beside(5, term(4)), beside(6, term(5))), (Beside::Behind, Beside::Behind));
        assert_eq!((beside(6, term(7)), beside(6, Term::of(6, 8))), (Beside::Elsewhere, Beside::Elsewhere));
    }
}
