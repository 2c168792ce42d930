//! What operators want of the cluster.

use super::draft::{Draft, names};
use super::listed::{Listed, push};
use super::liveness::{Session, describe};
use super::moving::move_shard;
use super::{Decisions, Memory, Millis, Step};
use crate::base::shards::ShardSet;
use crate::cluster::map::{Id, Map, Policy, Server, ServerId, Shard, Stage, Wanted};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Command {
    /// This server has its part of the shards from now on; None: all that have introduced
    /// themselves.
    Add {
        /// Its name.
        server: Option<String>,
    },
    /// Its shards go to others.
    Drain {
        /// Its name.
        server: String,
    },
    /// It is forgotten: it has no shards, or is gone for good.
    Remove {
        /// Its name.
        server: String,
    },
    /// Another server takes its place in every shard.
    Swap {
        /// Who has the places.
        old: String,
        /// Who gets them.
        new: String,
    },
    /// Each server is to have its part.
    Rebalance,
    /// The shards of which this server is the primary get another one. By force: it is taken for
    /// ended, and its shards go on with the members that are there, though writes be lost.
    Failover {
        /// Its name.
        server: String,
        /// Whether it is by force.
        force: bool,
    },
    /// It keeps what it has while it is away for maintenance.
    Pause {
        /// Its name.
        server: String,
    },
    /// The maintenance is over; None: go on after so many servers died together.
    Resume {
        /// Its name.
        server: Option<String>,
    },
    /// What is wanted of the whole cluster.
    Policy(Policy),
    /// This server becomes the primary of a shard.
    Move {
        /// Its number.
        shard: usize,
        /// The server's name.
        server: String,
    },
    /// All servers are to be as this list says.
    Push {
        /// Each once.
        servers: Vec<Listed>,
    },
}

impl Decisions {
    /// Take what an operator wants, or, as a dry run, say what it would come to. Ok: what is going
    /// to happen. Err: why it is refused.
    pub fn command(&mut self, command: Command, is_dry_run: bool, now: Millis) -> Result<String, String> {
        self.check_behind(&command, now)?;
        self.check_knows(&command, now)?;
        match &command {
            Command::Resume { server: None } => return self.confirm(is_dry_run),
            Command::Failover { server, force: true } => return self.force(server, is_dry_run, now),
            _ => {}
        }
        // As it will be once what was wanted earlier is written.
        let mut draft = Draft::new(&self.map, self.map.version + 1);
        for order in &self.orders {
            _ = apply(&mut draft, order, &self.sessions, now);
        }
        let words = apply(&mut draft, &command, &self.sessions, now)?;
        let mut memory =
            Memory { dead: self.memory.dead.clone(), terms: self.memory.terms.clone(), ..Memory::default() };
        let alive = Decisions::with_roles(&self.sessions, &draft.map, now);
        let mut step = Step { now, alive, memory: &mut memory, draft };
        step.plan();
        if command == Command::Rebalance {
            step.rebalance();
        }
        let after = step.draft.map;
        let words = format!("{words}; {}", self.moves(&after, now));
        if !is_dry_run {
            self.orders.push(command);
        }
        Ok(words)
    }

    /// Some commands need to know who is alive, which a locator does not that has just taken
    /// charge. Nor is a rebalancing kept for the time when it can be done.
    fn check_knows(&self, command: &Command, now: Millis) -> Result<(), String> {
        let moves = matches!(command, Command::Rebalance | Command::Move { .. });
        let needs =
            moves || matches!(command, Command::Remove { .. } | Command::Failover { .. } | Command::Push { .. });
        if needs && !self.is_settled(now) {
            return Err("this locator has just taken charge, and does not know yet who is alive: ask again soon".into());
        }
        match &self.memory.stopped {
            Some(stopped) if moves => Err(format!("nothing is moved now: {stopped}")),
            _ => Ok(()),
        }
    }

    fn confirm(&mut self, is_dry_run: bool) -> Result<String, String> {
        let stopped = self.memory.stopped.clone().ok_or("nothing is stopped: there is nothing to confirm")?;
        if !is_dry_run {
            self.memory.is_confirmed = true;
        }
        Ok(format!("those that are gone are taken for dead, and their shards go to others. Until now: {stopped}"))
    }

    fn force(&mut self, name: &str, is_dry_run: bool, now: Millis) -> Result<String, String> {
        let server = known(&self.map, name)?;
        let alive = Decisions::with_roles(&self.sessions, &self.map, now);
        let lives = |id: ServerId| id != server.id && alive[usize::from(id)].is_some();
        // Shards that wait go on, and nobody is taken for ended but who is missing.
        let leads = |shard: &usize| self.map.shards[*shard].primary == Some(server.id);
        let waiting: ShardSet = self.memory.waiting.keys().copied().filter(leads).collect();
        let shards = if waiting.is_empty() { (0..self.map.shards.len()).filter(leads).collect() } else { waiting };
        let acks = usize::from(self.map.policy.acks.max(1));
        let has_too_few = |shard: &usize| {
            let members = &self.map.shards[*shard].members;
            let there = members.iter().filter(|one| !matches!(one.stage, Stage::Gone(_)) && lives(one.server));
            there.count() < (members.len() + 1).saturating_sub(acks).max(1)
        };
        let (all, lossy) = (shards.count(), shards.iter().filter(has_too_few).count());
        if all == 0 {
            return Err(format!("{name} is the primary of no shard"));
        }
        if !is_dry_run {
            let process = if waiting.is_empty() { &server.incarnation } else { &server.missing };
            let process = process.clone();
            if let Some(process) = process {
                self.end(process);
            }
            self.memory.forced = self.memory.forced.with(shards);
        }
        Ok(format!(
            "{name} is not waited for any more: its {all} shards get a primary; in {lossy} of them too few members are \
             there, so acknowledged writes may be lost"
        ))
    }

    /// What operators want is in the next map.
    pub(super) fn apply_orders(&self, draft: &mut Draft, now: Millis) {
        for order in &self.orders {
            let before = draft.map.clone();
            let words = match apply(draft, order, &self.sessions, now) {
                Ok(words) => format!("an operator wants: {words}"),
                Err(why) => {
                    // None of it, where it is a list.
                    draft.map = before;
                    format!("what an operator wanted cannot be done any more: {why}")
                }
            };
            draft.note(None, words);
        }
    }

    /// What moves until all have what they are to have.
    fn moves(&self, map: &Map, now: Millis) -> String {
        let first = |shard: &&Shard| shard.target.first().copied();
        let changes =
            |shard: &&Shard| shard.primary.is_some() && first(shard).is_some() && shard.primary != first(shard);
        let primaries = map.shards.iter().filter(changes).count();
        format!("{}, and {primaries} shards to get another primary", self.copying(map, now).told())
    }

    pub(super) fn wants_rebalance(&self) -> bool {
        self.orders.contains(&Command::Rebalance)
    }
}

pub(super) fn known<'m>(map: &'m Map, name: &str) -> Result<&'m Server, String> {
    map.named(name).ok_or_else(|| format!("there is no server {name}"))
}

/// Change the draft as the command says; Ok: what it comes to, in words.
fn apply(draft: &mut Draft, command: &Command, sessions: &HashMap<Id, Session>, now: Millis) -> Result<String, String> {
    match command {
        Command::Add { server: Some(name) } => add(draft, name, sessions, now),
        Command::Add { server: None } => add_all(draft, sessions, now),
        Command::Drain { server } => drain(draft, server),
        Command::Remove { server } => remove(draft, server, sessions, now),
        Command::Swap { old, new } => swap(draft, old, new, sessions, now),
        Command::Rebalance => Ok("each server has its part".into()),
        Command::Failover { server, .. } => hand_over(draft, server),
        Command::Pause { server } => want(draft, server, Wanted::Paused, "keeps what it has while it is away"),
        Command::Resume { server } => {
            let name = server.as_deref().unwrap_or_default();
            match known(&draft.map, name)?.wanted {
                Wanted::Paused => want(draft, name, Wanted::Serving, "is served and missed as usual"),
                _ => Err(format!("{name} is not paused")),
            }
        }
        Command::Policy(policy) => change_policy(draft, policy),
        Command::Move { shard, server } => move_shard(draft, *shard, server),
        Command::Push { servers } => push(draft, servers, sessions, now),
    }
}

pub(super) fn want(draft: &mut Draft, name: &str, wanted: Wanted, words: &str) -> Result<String, String> {
    let id = known(&draft.map, name)?.id;
    draft.server_mut(id).wanted = wanted;
    Ok(format!("{name} {words}"))
}

pub(super) fn add(
    draft: &mut Draft,
    name: &str,
    sessions: &HashMap<Id, Session>,
    now: Millis,
) -> Result<String, String> {
    if let Some(server) = draft.map.named(name) {
        return match server.wanted {
            Wanted::Serving => Err(format!("{name} has its part already")),
            Wanted::Removed => Err(format!("{name} is being taken out: wait until it is")),
            Wanted::Paused | Wanted::Draining => want(draft, name, Wanted::Serving, "has its part"),
        };
    }
    let of_name = sessions.values().filter(|one| one.intro.name == name && one.is_alive(now));
    let session = of_name.max_by_key(|one| (one.lease_until, &one.intro.incarnation));
    let intro =
        session.ok_or_else(|| format!("{name} has not introduced itself: start it with --locators"))?.intro.clone();
    let ids = draft.map.servers.last().map_or(0, |server| server.id);
    let id = draft.map.next_server.max(ids.checked_add(1).ok_or("all numbers of servers are used up")?);
    draft.map.next_server = id.saturating_add(1);
    let mut server = Server {
        id,
        name: name.into(),
        incarnation: None,
        missing: None,
        clients: String::new(),
        replication: String::new(),
        host: String::new(),
        zone: String::new(),
        memory_mib: 1,
        wanted: Wanted::Serving,
    };
    describe(&mut server, intro);
    draft.map.servers.push(server);
    Ok(format!("{name} has its part"))
}

fn add_all(draft: &mut Draft, sessions: &HashMap<Id, Session>, now: Millis) -> Result<String, String> {
    let fresh = sessions.values().filter(|one| one.is_alive(now) && draft.map.named(&one.intro.name).is_none());
    let mut fresh: Vec<String> = fresh.map(|one| one.intro.name.clone()).collect();
    fresh.sort_unstable();
    fresh.dedup();
    if fresh.is_empty() {
        return Err("no server waits to be added".into());
    }
    for name in &fresh {
        add(draft, name, sessions, now)?;
    }
    Ok(format!("{} have their part", fresh.join(", ")))
}

pub(super) fn drain(draft: &mut Draft, name: &str) -> Result<String, String> {
    let id = known(&draft.map, name)?.id;
    let others = draft.map.servers.iter().filter(|other| other.id != id && other.wanted == Wanted::Serving);
    let mut hosts: Vec<&str> = others.map(|other| &*other.host).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let needed = usize::from(draft.map.policy.acks) + 1;
    if hosts.len() < needed {
        let left = hosts.len();
        return Err(format!(
            "without {name}, servers at {left} hosts are left, and {needed} are needed for a write to be acknowledged: \
             add a server, or change the policy first"
        ));
    }
    want(draft, name, Wanted::Draining, "gives its shards to others")
}

pub(super) fn remove(
    draft: &mut Draft,
    name: &str,
    sessions: &HashMap<Id, Session>,
    now: Millis,
) -> Result<String, String> {
    let server = known(&draft.map, name)?.clone();
    let is_alive = sessions.values().any(|one| one.intro.name == name && one.is_alive(now));
    let has = draft.map.shards.iter().filter(|shard| names(shard, server.id)).count();
    if is_alive && has > 0 {
        return Err(format!("{name} is alive and has {has} shards: drain it first"));
    }
    draft.mark_gone(server.id);
    let place = draft.server_mut(server.id);
    (place.wanted, place.incarnation, place.missing) = (Wanted::Removed, None, None);
    Ok(format!("{name} is gone for good"))
}

fn swap(
    draft: &mut Draft,
    old: &str,
    new: &str,
    sessions: &HashMap<Id, Session>,
    now: Millis,
) -> Result<String, String> {
    let from = known(&draft.map, old)?.id;
    if draft.map.named(new).is_none() {
        add(draft, new, sessions, now)?;
    }
    let to = known(&draft.map, new)?;
    if to.wanted != Wanted::Serving || to.incarnation.is_none() || to.id == from {
        return Err(format!(
            "{new} cannot take the place of {old}: it is no other server that is alive and has its part"
        ));
    }
    let (to, host) = (to.id, to.host.clone());
    if draft.map.shards.iter().any(|shard| names(shard, to)) {
        return Err(format!("{new} has shards already: it can only take the place of {old} while it has none"));
    }
    let mut moved = 0;
    for at in 0..draft.map.shards.len() {
        let target = &draft.map.shards[at].target;
        let Some(place) = target.iter().position(|id| *id == from) else { continue };
        let shares_host = |id: &ServerId| *id != from && draft.map.server(*id).is_some_and(|one| one.host == host);
        if target.iter().any(shares_host) {
            return Err(format!("{new} is at a host that has copies of the same shards"));
        }
        draft.map.shards[at].target[place] = to;
        moved += 1;
    }
    draft.server_mut(from).wanted = Wanted::Draining;
    Ok(format!("{new} takes the place of {old} in {moved} shards"))
}

/// Others are to be the primary where this server is.
fn hand_over(draft: &mut Draft, name: &str) -> Result<String, String> {
    let server = known(&draft.map, name)?;
    let id = server.id;
    if server.incarnation.is_none() {
        return Err(format!("{name} is dead: its shards are failed over without a command, or by --force"));
    }
    let (mut given, mut kept) = (0, 0);
    let is_there = |map: &Map, other: ServerId| other != id && map.is_alive(other);
    for at in 0..draft.map.shards.len() {
        let shard = &draft.map.shards[at];
        if shard.primary != Some(id) {
            continue;
        }
        let whole = |other: &ServerId| shard.member(*other).is_some_and(|member| member.stage == Stage::Whole);
        match shard.target.iter().position(|other| is_there(&draft.map, *other) && whole(other)) {
            Some(heir) => {
                draft.map.shards[at].target.swap(0, heir);
                given += 1;
            }
            None => kept += 1,
        }
    }
    if given == 0 {
        return Err(format!("{name} has no shard that a whole replica could take over ({kept} have none)"));
    }
    Ok(format!("{name} hands {given} shards over; {kept} stay, because they have no whole replica"))
}

fn change_policy(draft: &mut Draft, policy: &Policy) -> Result<String, String> {
    policy.check()?;
    let before = draft.map.acks_before.map_or(draft.map.policy.acks, |(before, _)| before.min(draft.map.policy.acks));
    if policy.acks > before {
        draft.map.acks_before = Some((before, draft.version));
    }
    draft.map.longest_lease_ms = draft.map.longest_lease_ms.max(policy.lease_ms);
    let changes = policy.changes(&draft.map.policy);
    draft.map.policy = policy.clone();
    Ok(match changes.is_empty() {
        true => "the policy is as it was".into(),
        false => format!("the policy changes: {}", changes.join(", ")),
    })
}
