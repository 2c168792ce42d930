//! Which server has which copies of which shards. Pure: the same servers and the same placements of
//! before give the same placements, on every machine.
//!
//! What is wanted, in this order:
//!
//! 1. Each shard has as many copies as are asked for, each at another host, and one of them is the
//!    primary. A server that is leaving has none.
//! 2. Each server has its part of the copies, and of the primaries, by its memory.
//! 3. The copies of a shard are in different zones.
//! 4. As few copies as possible move.
//! 5. What one server has is shared with all others alike: so where it dies, all others take a part
//!    of what it did.
//!
//! How it is done: what is there stays; copies that are missing go to the servers that lack most;
//! then, while a server has too many and another one too few, a copy moves along the shortest way
//! from the one to the other, over servers that hand one on each ([`Work::level`]). So a server
//! that is added takes its part and nobody else moves anything.

use std::cmp::Reverse;
use std::collections::VecDeque;

/// Servers that share shards with one server, at most, where there are more to choose from: half of
/// them on either side of it in the ring of all servers. Each is a session, and threads.
pub const NEIGHBOURS_MAX: usize = 16;

/// One server, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Unique; servers are taken in the order of their names where nothing else tells.
    pub name: String,
    /// Where it runs: no two copies of a shard are at one.
    pub host: String,
    /// What fails together; empty where nothing is known.
    pub zone: String,
    /// In any unit; above 0.
    pub memory: u64,
    /// It is to have no shard: it leaves, or has left.
    pub leaves: bool,
}

/// Who has a shard, as places among the candidates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The primary first; empty where nobody has it.
    pub holders: Vec<usize>,
}

impl Placement {
    /// Whoever takes its writes.
    pub fn primary(&self) -> Option<usize> {
        self.holders.first().copied()
    }
}

/// What is to change in one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Who gets a copy.
    pub added: Vec<usize>,
    /// Whose copy goes.
    pub removed: Vec<usize>,
    /// Another one becomes the primary.
    pub hands_over: bool,
}

/// What is to change from `before` to `after`, in each shard.
pub fn changes(before: &[Placement], after: &[Placement]) -> Vec<Change> {
    let without = |one: &Placement, other: &Placement| {
        one.holders.iter().filter(|holder| !other.holders.contains(holder)).copied().collect()
    };
    let change = |(before, after): (&Placement, &Placement)| Change {
        added: without(after, before),
        removed: without(before, after),
        hands_over: before.primary() != after.primary(),
    };
    before.iter().zip(after).map(change).collect()
}

/// Assign the shards of `before` to `servers`, so many copies of each. There are fewer copies where
/// there are fewer hosts, and none without a server.
pub fn assign(before: &[Placement], servers: &[Candidate], copies: usize) -> Vec<Placement> {
    let mut work = Work::new(before, servers, copies);
    work.keep(before);
    work.fill();
    work.level(Of::Copies);
    work.spread();
    work.choose_primaries(before);
    work.level(Of::Primaries);
    work.after
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Copies,
    Primaries,
}

struct Work<'a> {
    servers: &'a [Candidate],
    before: &'a [Placement],
    after: Vec<Placement>,
    copies: usize,
    /// Each server's place in the ring of those that stay.
    ring: Vec<Option<usize>>,
    stays: usize,
    /// Numbers for hosts and for zones, which are compared often.
    hosts: Vec<usize>,
    zones: Vec<usize>,
    held: Vec<Vec<usize>>,
    /// Of each two servers, how many shards both have.
    shared: Vec<Vec<usize>>,
    quota: Vec<usize>,
}

/// Equal texts get equal numbers.
fn numbered<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<usize> {
    let mut known: Vec<&str> = Vec::new();
    texts
        .map(|text| {
            known.iter().position(|one| *one == text).unwrap_or_else(|| {
                known.push(text);
                known.len() - 1
            })
        })
        .collect()
}

impl<'a> Work<'a> {
    fn new(before: &'a [Placement], servers: &'a [Candidate], copies: usize) -> Work<'a> {
        let hosts = numbered(servers.iter().map(|server| &*server.host));
        let zones = numbered(servers.iter().map(|server| &*server.zone));
        let mut staying: Vec<usize> = (0..servers.len()).filter(|server| !servers[*server].leaves).collect();
        let mut hosts_there: Vec<usize> = staying.iter().map(|server| hosts[*server]).collect();
        hosts_there.sort_unstable();
        hosts_there.dedup();
        // Neighbours are of different zones: each zone's servers stand at equal distances.
        staying.sort_by(|one, other| servers[*one].name.cmp(&servers[*other].name));
        let rank = |server: usize| {
            let of_zone: Vec<usize> = staying.iter().filter(|one| zones[**one] == zones[server]).copied().collect();
            let at = of_zone.iter().position(|one| *one == server).unwrap_or(0);
            (((2 * at + 1) << 32) / (2 * of_zone.len()).max(1), zones[server])
        };
        let mut in_ring = staying.clone();
        in_ring.sort_by_cached_key(|server| rank(*server));
        let mut ring = vec![None; servers.len()];
        in_ring.iter().enumerate().for_each(|(place, server)| ring[*server] = Some(place));
        Work {
            servers,
            before,
            after: vec![Placement::default(); before.len()],
            copies: copies.min(hosts_there.len()),
            stays: staying.len(),
            ring,
            hosts,
            zones,
            held: vec![Vec::new(); servers.len()],
            shared: vec![vec![0; servers.len()]; servers.len()],
            quota: vec![0; servers.len()],
        }
    }

    /// Whether both may have copies of one shard.
    fn may_share(&self, one: usize, other: usize) -> bool {
        let (Some(here), Some(there)) = (self.ring[one], self.ring[other]) else { return false };
        let apart = here.abs_diff(there);
        let is_near = self.stays <= NEIGHBOURS_MAX + 1 || apart.min(self.stays - apart) <= NEIGHBOURS_MAX / 2;
        self.hosts[one] != self.hosts[other] && is_near
    }

    /// Whether `server` may have a copy of `shard` beside its holders, of which `but` is to lose
    /// its own.
    fn may_have(&self, server: usize, shard: usize, but: Option<usize>) -> bool {
        self.ring[server].is_some()
            && self.after[shard]
                .holders
                .iter()
                .all(|holder| Some(*holder) == but || (*holder != server && self.may_share(*holder, server)))
    }

    fn had(&self, server: usize, shard: usize) -> bool {
        self.before[shard].holders.contains(&server)
    }

    fn give(&mut self, server: usize, shard: usize) {
        for holder in &self.after[shard].holders {
            self.shared[server][*holder] += 1;
            self.shared[*holder][server] += 1;
        }
        self.after[shard].holders.push(server);
        self.held[server].push(shard);
    }

    fn take(&mut self, server: usize, shard: usize) {
        self.after[shard].holders.retain(|holder| *holder != server);
        self.held[server].retain(|held| *held != shard);
        for holder in &self.after[shard].holders {
            self.shared[server][*holder] -= 1;
            self.shared[*holder][server] -= 1;
        }
    }

    /// What is there stays, as far as it may.
    fn keep(&mut self, before: &[Placement]) {
        for (shard, placement) in before.iter().enumerate() {
            for holder in &placement.holders {
                if self.after[shard].holders.len() < self.copies && self.may_have(*holder, shard, None) {
                    self.give(*holder, shard);
                }
            }
        }
    }

    /// Each shard's missing copies go to those that lack most, in other zones where there are any.
    fn fill(&mut self) {
        self.quota = self.quotas(self.copies * self.after.len(), &vec![self.after.len(); self.servers.len()]);
        for shard in 0..self.after.len() {
            while self.after[shard].holders.len() < self.copies {
                let allowed = (0..self.servers.len()).filter(|server| self.may_have(*server, shard, None));
                let lacks = |server: usize| self.quota[server] as i64 - self.held[server].len() as i64;
                let rank = |server: &usize| {
                    let (lacks, is_new_zone) = (lacks(*server), !self.has_zone(shard, self.zones[*server], None));
                    let lacks_part = lacks * 1024 / self.quota[*server].max(1) as i64;
                    let sharing = Reverse(self.sharing(*server, shard, None));
                    // Of equal ones the first by name.
                    (lacks > 0, is_new_zone, sharing, lacks_part, Reverse(&self.servers[*server].name))
                };
                let best = allowed.max_by_key(rank);
                let Some(best) = best else { break };
                self.give(best, shard);
            }
        }
    }

    fn has_zone(&self, shard: usize, zone: usize, but: Option<usize>) -> bool {
        self.after[shard].holders.iter().any(|holder| Some(*holder) != but && self.zones[*holder] == zone)
    }

    /// How much `server` has in common with the holders of `shard` already, for its size.
    fn sharing(&self, server: usize, shard: usize, but: Option<usize>) -> usize {
        let others = self.after[shard].holders.iter().filter(|holder| Some(**holder) != but);
        let part =
            |other: &usize| (self.shared[server][*other] << 20) / (self.quota[server] * self.quota[*other]).max(1);
        others.map(part).sum()
    }

    /// How many each server should have of so many, by its memory, but never more than `most` of
    /// it. What is over where parts are rounded goes to those that have it already.
    fn quotas(&self, total: usize, most: &[usize]) -> Vec<usize> {
        let (mut quota, mut left) = (vec![0; self.servers.len()], total);
        let mut open: Vec<usize> = (0..self.servers.len()).filter(|server| self.ring[*server].is_some()).collect();
        while !open.is_empty() {
            let memory: u128 = open.iter().map(|server| u128::from(self.servers[*server].memory)).sum();
            let part = |server: usize| left as u128 * u128::from(self.servers[server].memory) / memory.max(1);
            let full: Vec<usize> =
                open.iter().filter(|server| part(**server) >= most[**server] as u128).copied().collect();
            if full.is_empty() {
                open.iter().for_each(|server| quota[*server] = part(*server) as usize);
                break;
            }
            for server in full {
                quota[server] = most[server].min(left);
                left -= quota[server];
                open.retain(|one| *one != server);
            }
        }
        let mut over = left.saturating_sub(open.iter().map(|server| quota[*server]).sum());
        let has_more = |server: usize| self.count(server, Of::Copies) > quota[server];
        open.sort_by_key(|server| (!has_more(*server), self.servers[*server].name.clone()));
        for server in open.iter().cycle().take(over * open.len().max(1)).copied() {
            if over > 0 && quota[server] < most[server] {
                quota[server] += 1;
                over -= 1;
            }
        }
        quota
    }

    fn count(&self, server: usize, of: Of) -> usize {
        match of {
            Of::Copies => self.held[server].len(),
            Of::Primaries => self.led(server).count(),
        }
    }

    fn led(&self, server: usize) -> impl Iterator<Item = usize> {
        self.held[server].iter().copied().filter(move |shard| self.after[*shard].primary() == Some(server))
    }

    /// Whether this copy of `from` may pass to `to`.
    fn may_pass(&self, shard: usize, from: usize, to: usize) -> bool {
        self.may_have(to, shard, Some(from)) && !self.after[shard].holders.contains(&to)
    }

    /// Whether there is a shard of `from` that can pass to `to`. This is asked far more often than
    /// which one is best.
    fn can_pass(&self, of: Of, from: usize, to: usize) -> bool {
        match of {
            Of::Copies => self.held[from].iter().any(|shard| self.may_pass(*shard, from, to)),
            Of::Primaries => self.led(from).any(|shard| self.after[shard].holders.contains(&to)),
        }
    }

    /// A shard of `from` that can pass to `to`: best one whose copy at `from` is new as well.
    fn passes(&self, of: Of, from: usize, to: usize) -> Option<usize> {
        match of {
            Of::Copies => {
                let may = |shard: &&usize| self.may_pass(**shard, from, to);
                let cost = |shard: &&usize| {
                    let zone_is_new = !self.has_zone(**shard, self.zones[to], Some(from));
                    let sharing = self.sharing(to, **shard, Some(from));
                    (self.had(from, **shard) && !self.had(to, **shard), !zone_is_new, sharing, **shard)
                };
                self.held[from].iter().filter(may).min_by_key(cost).copied()
            }
            Of::Primaries => {
                let shared = self.led(from).filter(|shard| self.after[*shard].holders.contains(&to));
                shared.min_by_key(|shard| (!self.had(to, *shard), *shard))
            }
        }
    }

    fn pass(&mut self, of: Of, shard: usize, from: usize, to: usize) {
        match of {
            Of::Copies => {
                self.take(from, shard);
                self.give(to, shard);
            }
            Of::Primaries => {
                let holders = &mut self.after[shard].holders;
                let at = holders.iter().position(|holder| *holder == to).expect("it is a holder");
                holders.swap(0, at);
            }
        }
    }

    /// While one has too many and another one too few, pass one on along the shortest way between
    /// them.
    fn level(&mut self, of: Of) {
        if of == Of::Primaries {
            let most: Vec<usize> = self.held.iter().map(Vec::len).collect();
            self.quota = self.quotas(self.after.iter().filter(|one| one.primary().is_some()).count(), &most);
        }
        while let Some(way) = self.shortest_way(of) {
            for step in way.windows(2).rev() {
                let shard = self.passes(of, step[0], step[1]).expect("it was found a moment ago");
                self.pass(of, shard, step[0], step[1]);
            }
        }
    }

    /// Servers from one that has too many to one that has too few, each of which can pass one to
    /// the next.
    fn shortest_way(&self, of: Of) -> Option<Vec<usize>> {
        let counts: Vec<usize> = (0..self.servers.len()).map(|server| self.count(server, of)).collect();
        let mut came_from: Vec<Option<usize>> = vec![None; self.servers.len()];
        let mut reached: Vec<bool> =
            (0..self.servers.len()).map(|server| counts[server] > self.quota[server]).collect();
        let mut queue: VecDeque<usize> = (0..self.servers.len()).filter(|server| reached[*server]).collect();
        while let Some(from) = queue.pop_front() {
            for to in 0..self.servers.len() {
                if reached[to] || self.ring[to].is_none() || !self.can_pass(of, from, to) {
                    continue;
                }
                reached[to] = true;
                came_from[to] = Some(from);
                if counts[to] < self.quota[to] {
                    let mut way = vec![to];
                    while let Some(before) = came_from[*way.last().expect("it has one")] {
                        way.push(before);
                    }
                    way.reverse();
                    return Some(way);
                }
                queue.push_back(to);
            }
        }
        None
    }

    /// Where two copies of a shard are in one zone, and another zone has none, one of them changes
    /// places with a copy of another shard there, if that one is no worse off.
    fn spread(&mut self) {
        for shard in 0..self.after.len() {
            for from in self.after[shard].holders.clone() {
                if self.has_zone(shard, self.zones[from], Some(from))
                    && let Some((to, other)) = self.exchange(shard, from)
                {
                    self.pass(Of::Copies, shard, from, to);
                    self.pass(Of::Copies, other, to, from);
                }
            }
        }
    }

    /// Whose copy of which shard goes to `from`, for its copy of `shard`.
    fn exchange(&self, shard: usize, from: usize) -> Option<(usize, usize)> {
        let servers = (0..self.servers.len())
            .filter(|to| !self.has_zone(shard, self.zones[*to], None) && self.may_have(*to, shard, Some(from)));
        let exchanges = servers.flat_map(|to| self.held[to].iter().map(move |other| (to, *other)));
        let is_fair = |(to, other): &(usize, usize)| {
            let has_from = self.after[*other].holders.contains(&from);
            !has_from && self.may_have(from, *other, Some(*to)) && !self.has_zone(*other, self.zones[from], Some(*to))
        };
        exchanges.filter(is_fair).min_by_key(|(to, other)| (self.had(*to, *other), *other, *to))
    }

    /// Whoever was the primary stays it where it has a copy; else one that has had a copy becomes
    /// it, the one that was listed first.
    fn choose_primaries(&mut self, before: &[Placement]) {
        for (placement, before) in self.after.iter_mut().zip(before) {
            let rank = |holder: &usize| before.holders.iter().position(|one| one == holder).unwrap_or(usize::MAX);
            placement.holders.sort_by_key(rank);
        }
    }
}

#[cfg(test)]
#[path = "assign_tests.rs"]
mod tests;
