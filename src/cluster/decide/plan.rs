//! Who is to have which shard in the end: targets.
//!
//! A target stays as long as those that it names may have the shard, and nobody lacks a good part
//! of what is its own. So a locator that takes charge moves nothing, and nothing moves for ever.

use super::Step;
use super::draft::stays;
use crate::cluster::assign::{Candidate, Placement, assign};
use crate::cluster::map::{Server, ServerId, Shard, Wanted};

/// What was assigned last: the same again would give the same.
#[derive(PartialEq, Eq)]
pub struct Planned {
    candidates: Vec<Candidate>,
    before: Vec<Placement>,
    copies: usize,
}

/// What a server may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fitness {
    /// Its part.
    Fit,
    /// It is away, and what it has is kept for it, in shards that have enough without it.
    Missed,
    /// It is away by an operator's word, and what it has is kept for it.
    Kept,
    Unfit,
}

impl Step<'_> {
    /// Targets follow who is there.
    pub fn plan(&mut self) {
        self.note_dead();
        let fitness: Vec<Fitness> = self.draft.map.servers.iter().map(|server| self.fitness(server)).collect();
        let is_away = fitness.iter().any(|one| matches!(one, Fitness::Missed | Fitness::Kept));
        let shards = 0..self.draft.map.shards.len();
        let unfit: Vec<usize> = shards.filter(|shard| !self.holds(*shard, &fitness)).collect();
        if !unfit.is_empty() || (!is_away && self.somebody_lacks(&fitness)) {
            self.assign_anew(&fitness, is_away.then_some(&unfit));
        }
    }

    /// An operator wants everybody to have its part.
    pub fn rebalance(&mut self) {
        self.note_dead();
        let fitness: Vec<Fitness> = self.draft.map.servers.iter().map(|server| self.fitness(server)).collect();
        self.assign_anew(&fitness, None);
    }

    fn note_dead(&mut self) {
        for server in &self.draft.map.servers {
            if self.is_alive(server.id) {
                self.memory.dead.remove(&server.id);
            } else {
                self.memory.dead.entry(server.id).or_insert(self.now);
            }
        }
    }

    fn fitness(&self, server: &Server) -> Fitness {
        let since = self.memory.dead.get(&server.id).copied();
        let is_missed = |since| self.now < since + self.draft.map.policy.heal_delay_ms;
        match (server.wanted, since) {
            (Wanted::Draining | Wanted::Removed, _) => Fitness::Unfit,
            (Wanted::Serving | Wanted::Paused, None) => Fitness::Fit,
            (Wanted::Paused, Some(_)) => Fitness::Kept,
            (Wanted::Serving, Some(since)) if is_missed(since) => Fitness::Missed,
            (Wanted::Serving, Some(_)) => Fitness::Unfit,
        }
    }

    fn place_of(&self, id: ServerId) -> usize {
        self.draft.map.servers.binary_search_by_key(&id, |server| server.id).expect("a server of this map")
    }

    /// Whether the target of a shard can stay as it is.
    fn holds(&self, shard: usize, fitness: &[Fitness]) -> bool {
        let target = &self.draft.map.shards[shard].target;
        // Who is away is not waited for where fewer than K are left.
        let is_needy = self.live_members(shard) < usize::from(self.draft.map.policy.acks);
        let may = |one: Fitness| match one {
            Fitness::Fit | Fitness::Kept => true,
            Fitness::Missed => !is_needy,
            Fitness::Unfit => false,
        };
        let copies = self.copies(fitness, may);
        target.len() == copies && target.iter().all(|id| may(fitness[self.place_of(*id)]))
    }

    /// How many servers may have one shard.
    fn copies(&self, fitness: &[Fitness], may: impl Fn(Fitness) -> bool) -> usize {
        let most = usize::from(self.draft.map.policy.replicas) + 1;
        let mut hosts: Vec<&str> = Vec::new();
        for (server, _) in self.draft.map.servers.iter().zip(fitness).filter(|(_, one)| may(**one)) {
            if hosts.len() < most && !hosts.contains(&&*server.host) {
                hosts.push(&server.host);
            }
        }
        hosts.len()
    }

    /// A server has less than three quarters of its part.
    fn somebody_lacks(&self, fitness: &[Fitness]) -> bool {
        let map = &self.draft.map;
        let mut counts = vec![0_u64; map.servers.len()];
        map.shards.iter().flat_map(|shard| &shard.target).for_each(|id| counts[self.place_of(*id)] += 1);
        let fit = || map.servers.iter().enumerate().filter(|(at, _)| fitness[*at] == Fitness::Fit);
        let (total, shards): (u64, u64) = (counts.iter().sum(), map.shards.len() as u64);
        let memory: u64 = fit().map(|(_, server)| server.memory_mib).sum();
        let part = |server: &Server| (total * server.memory_mib / memory.max(1)).min(shards);
        fit().any(|(at, server)| 4 * counts[at] < 3 * part(server))
    }

    fn assign_anew(&mut self, fitness: &[Fitness], only: Option<&Vec<usize>>) {
        let map = &self.draft.map;
        let candidate = |(server, one): (&Server, &Fitness)| Candidate {
            name: server.name.clone(),
            host: server.host.clone(),
            zone: server.zone.clone(),
            memory: server.memory_mib.max(1),
            leaves: *one != Fitness::Fit,
        };
        let planned = Planned {
            candidates: map.servers.iter().zip(fitness).map(candidate).collect(),
            before: map.shards.iter().map(|shard| self.before(shard)).collect(),
            copies: usize::from(map.policy.replicas) + 1,
        };
        if self.memory.planned.as_ref() == Some(&planned) {
            return;
        }
        let after = assign(&planned.before, &planned.candidates, planned.copies);
        self.memory.planned = Some(planned);
        let ids: Vec<ServerId> = map.servers.iter().map(|server| server.id).collect();
        let mut moved = 0;
        for (shard, placement) in after.iter().enumerate() {
            let target: Vec<ServerId> = placement.holders.iter().map(|at| ids[*at]).collect();
            let place = &mut self.draft.map.shards[shard];
            if !target.is_empty() && place.target != target && only.is_none_or(|only| only.contains(&shard)) {
                moved += usize::from(
                    place.target.iter().any(|id| !target.contains(id)) || place.target.len() < target.len(),
                );
                place.target = target;
            }
        }
        if moved > 0 {
            self.draft.note(None, format!("other servers are to have {moved} of the shards: {}", self.there(fitness)));
        }
    }

    fn there(&self, fitness: &[Fitness]) -> String {
        let named = self.draft.map.servers.iter().zip(fitness).filter(|(_, one)| **one == Fitness::Fit);
        let names: Vec<&str> = named.map(|(server, _)| &*server.name).collect();
        match names.len() {
            0..=8 => format!("{} are there", names.join(", ")),
            many => format!("{many} servers are there"),
        }
    }

    /// Who is to have a shard, and behind them who has it as well.
    fn before(&self, shard: &Shard) -> Placement {
        let members = shard.members.iter().filter(|member| stays(member)).map(|member| member.server);
        let primary = shard.primary.filter(|_| !shard.ended);
        let heir = shard.change.map(|change| change.heir);
        let mut ids = shard.target.clone();
        for id in primary.into_iter().chain(heir).chain(members) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Placement { holders: ids.into_iter().map(|id| self.place_of(id)).collect() }
    }
}
