//! Who has a replica of a shard, one after the other: a server joins, takes over if it is to be the
//! primary, and then those leave that are not to have the shard.

use super::Step;
use super::draft::stays;
use crate::cluster::map::{Member, ServerId, Stage, Way};
use crate::cluster::report::Role;

impl Step<'_> {
    /// The members of all shards come nearer to what is wanted.
    pub fn change_members(&mut self) {
        let shards = 0..self.draft.map.shards.len();
        let mut ours: Vec<usize> = shards.filter(|shard| self.has_primary(*shard)).collect();
        for shard in &ours {
            self.note_progress(*shard);
        }
        // Those that lack most come first.
        let acks = usize::from(self.draft.map.policy.acks);
        ours.sort_by_key(|shard| self.live_members(*shard) >= acks);
        let mut copying = vec![0; self.alive.len()];
        for member in self.draft.map.shards.iter().flat_map(|shard| &shard.members) {
            if member.stage == Stage::Joining && self.is_alive(member.server) {
                copying[usize::from(member.server)] += 1;
            }
        }
        for shard in ours {
            self.take_out(shard);
            self.change_one(shard, &mut copying);
        }
    }

    /// The primary is alive, says so, and is to stay.
    fn has_primary(&self, shard: usize) -> bool {
        let place = &self.draft.map.shards[shard];
        let is_it = |primary: ServerId| self.held(primary, shard) == Some((Role::Primary, place.term));
        place.change.is_none() && !place.ended && place.primary.is_some_and(is_it)
    }

    /// Members that are to stay, and are alive.
    pub fn live_members(&self, shard: usize) -> usize {
        let members = &self.draft.map.shards[shard].members;
        members.iter().filter(|member| stays(member) && self.is_alive(member.server)).count()
    }

    /// How far members have come.
    fn note_progress(&mut self, shard: usize) {
        let (term, version) = (self.draft.map.shards[shard].term, self.draft.version);
        for at in 0..self.draft.map.shards[shard].members.len() {
            let member = self.draft.map.shards[shard].members[at];
            let Some(session) = self.session(member.server) else { continue };
            let failure = session.failure(shard, 0);
            let stage = match (member.stage, session.held(shard)) {
                (Stage::Joining | Stage::Whole, _) if failure.is_some() => Stage::Leaving(version),
                (Stage::Joining, Some((Role::Whole | Role::Current, at))) if at == term => Stage::Whole,
                // It was away, and is wanted as it is: what it has counts, since it never left.
                (Stage::Leaving(_), Some((Role::Primary | Role::Whole | Role::Current, _)))
                    if self.is_wanted(shard, member.server) =>
                {
                    Stage::Whole
                }
                (Stage::Leaving(_), _) if self.is_wanted(shard, member.server) => Stage::Joining,
                (stage, _) => stage,
            };
            if stage == member.stage {
                continue;
            }
            let name = self.draft.name(member.server);
            let words = match (stage, failure) {
                (Stage::Whole, _) if member.stage == Stage::Joining => format!("{name} has a whole replica"),
                (_, Some(why)) => format!("{name} leaves, because it could not follow: {why}"),
                _ => format!("{name} stays, and comes up to date"),
            };
            if member.stage == Stage::Joining && stage == Stage::Whole {
                // What fails from here on is another row of failures.
                self.memory.failed.remove(&(shard, member.server));
            }
            if failure.is_some() {
                self.memory.put_off(shard, member.server, term, self.now);
            }
            self.draft.map.shards[shard].members[at].stage = stage;
            self.draft.note(Some(shard), words);
        }
    }

    /// It is to have the shard, and nothing speaks against it now.
    fn is_wanted(&self, shard: usize, server: ServerId) -> bool {
        self.draft.map.shards[shard].target.contains(&server) && self.memory.may_try(shard, server, self.now)
    }

    /// Who was to go goes, once the primary has said that it counts it no more.
    fn take_out(&mut self, shard: usize) {
        let place = &self.draft.map.shards[shard];
        let session = place.primary.and_then(|primary| self.session(primary)).expect("it has a primary");
        let has_confirmed = |member: &Member| match member.stage {
            Stage::Leaving(since) | Stage::Gone(since) => session.has_confirmed(shard, since),
            Stage::Joining | Stage::Whole => false,
        };
        let gone: Vec<ServerId> = place.members.iter().filter(|one| has_confirmed(one)).map(|one| one.server).collect();
        for server in gone {
            self.draft.map.shards[shard].members.retain(|member| member.server != server);
            let words = format!("{} is no member any more: the primary has confirmed it", self.draft.name(server));
            self.draft.note(Some(shard), words);
        }
    }

    /// One change at most, and none while another one is under way.
    fn change_one(&mut self, shard: usize, copying: &mut [usize]) {
        let place = &self.draft.map.shards[shard];
        if place.members.iter().any(|member| member.stage == Stage::Joining && self.is_alive(member.server)) {
            return;
        }
        // Who leaves may have to wait for one that joins, but not for another one that leaves.
        let is_leaving = place.members.iter().any(|member| matches!(member.stage, Stage::Leaving(_)));
        let most = usize::from(self.draft.map.policy.copies_at_once).max(1);
        let is_new = |id: &&ServerId| place.primary != Some(**id) && place.member(**id).is_none();
        let may = |id: &&ServerId| {
            self.is_alive(**id) && copying[usize::from(**id)] < most && self.memory.may_try(shard, **id, self.now)
        };
        if let Some(joins) = place.target.iter().filter(is_new).find(may).copied() {
            copying[usize::from(joins)] += 1;
            let words = format!("{} joins, and copies", self.draft.name(joins));
            self.draft.map.shards[shard].join(joins);
            self.draft.note(Some(shard), words);
        } else if is_leaving {
            // One after the other.
        } else if let Some(heir) = self.successor(shard) {
            self.begin(shard, (heir, Way::HandOver, 0), "it is to be the primary");
        } else if let Some(leaves) = self.surplus(shard) {
            let words = format!("{} leaves: others are to have it, and do", self.draft.name(leaves));
            let version = self.draft.version;
            let members = self.draft.map.shards[shard].members.iter_mut();
            members.filter(|member| member.server == leaves).for_each(|member| member.stage = Stage::Leaving(version));
            self.draft.note(Some(shard), words);
        }
    }

    /// Who is to be the primary, and can take over now.
    fn successor(&self, shard: usize) -> Option<ServerId> {
        let place = &self.draft.map.shards[shard];
        let heir = *place.target.first()?;
        let is_whole = place.member(heir).is_some_and(|member| member.stage == Stage::Whole);
        let is_current = self.held(heir, shard) == Some((Role::Current, place.term));
        (is_whole && is_current && self.memory.may_try(shard, heir, self.now)).then_some(heir)
    }

    /// Somebody who is not to have the shard, once all that are to have it do. K never falls by
    /// that.
    fn surplus(&self, shard: usize) -> Option<ServerId> {
        let map = &self.draft.map;
        let place = &map.shards[shard];
        let is_replica =
            |id: &ServerId| place.member(*id).is_some_and(|member| member.stage == Stage::Whole) && self.is_alive(*id);
        let (first, others) = place.target.split_first()?;
        let is_done = place.primary == Some(*first) && others.iter().all(is_replica);
        if !is_done || others.len() < usize::from(map.policy.acks) {
            return None;
        }
        let is_over = |member: &&Member| stays(member) && !place.target.contains(&member.server);
        place.members.iter().find(is_over).map(|member| member.server)
    }
}
