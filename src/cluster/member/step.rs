//! What a server is to do next, so that it has what the map asks for. Shards in which the same is
//! to be done are one step. Nothing here does anything.

use super::group;
use super::holdings::Holdings;
use crate::base::shards::ShardSet;
use crate::cluster::duty::{Duty, duty};
use crate::cluster::map::{Id, Map, Server, ServerId, Way};
use crate::cluster::report::Failure;
use crate::replication::order::{Change, Promotion};
use crate::replication::standing::ServerNumber;
use crate::store::Store;
use crate::store::reign::Closed;

/// One thing to do, by one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub change: Change,
    /// In which shards.
    pub shards: ShardSet,
}

impl Step {
    /// The number of the term that it begins; 0: none.
    pub fn term(&self) -> u32 {
        match &self.change {
            Change::Promote(promotion) => promotion.term.unwrap_or(0),
            _ => 0,
        }
    }

    /// What is done first: first of all nobody writes who is not to, then writes are taken where
    /// nobody takes them.
    fn urgency(&self) -> u8 {
        match &self.change {
            Change::Close => 0,
            Change::Promote(_) => 1,
            Change::Follow { .. } => 2,
            _ => 3,
        }
    }
}

/// All that there is to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The most urgent first.
    pub steps: Vec<Step>,
    /// What the map asks for and this server cannot come to.
    pub failures: Vec<Failure>,
}

/// What a map has for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The roles of this server.
    Alive(ServerId),
    /// It is taken for dead, and no other process of that server is there: it may have its roles
    /// again.
    Missing(ServerId),
    /// None: another process has this server's roles, or nobody knows it.
    Nowhere,
}

impl Place {
    /// Of the process with this incarnation.
    pub fn of(map: &Map, own: &str) -> Place {
        let find = |is_it: &dyn Fn(&Server) -> bool| map.servers.iter().find(|server| is_it(server));
        let is_own = |id: &Option<Id>| id.as_deref() == Some(own);
        if let Some(server) = find(&|server| is_own(&server.incarnation)) {
            return Place::Alive(server.id);
        }
        let missing = find(&|server| server.incarnation.is_none() && is_own(&server.missing));
        missing.map_or(Place::Nowhere, |server| Place::Missing(server.id))
    }

    /// The server that it is, if it has roles.
    pub fn server(self) -> Option<ServerId> {
        match self {
            Place::Alive(server) => Some(server),
            Place::Missing(_) | Place::Nowhere => None,
        }
    }

    /// What the map asks of it in a shard.
    pub fn duty(self, map: &Map, shard: usize) -> Duty {
        let place = &map.shards[shard];
        let primary = place.primary.filter(|primary| map.is_alive(*primary) && !place.ended);
        match self {
            Place::Alive(server) => duty(map, server, shard),
            // Nobody else takes these writes yet.
            Place::Missing(server) if place.primary == Some(server) && place.change.is_none() && !place.ended => {
                Duty::Primary { term: place.term }
            }
            Place::Missing(server) if place.primary == Some(server) || place.member(server).is_some() => Duty::Wait,
            Place::Missing(_) | Place::Nowhere => Duty::Absent { primary },
        }
    }
}

/// The number of the process with this incarnation.
pub fn number_of(incarnation: &str) -> Option<ServerNumber> {
    let is_number = incarnation.len() == 32 && incarnation.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(incarnation, 16).ok().filter(|_| is_number)?;
    Some(number.to_be_bytes())
}

/// The incarnation of the process with this number.
pub fn incarnation_of(number: ServerNumber) -> String {
    format!("{:032x}", u128::from_be_bytes(number))
}

/// What is to be done where the map asks for this in each shard, and the server has that.
pub fn plan(map: &Map, duties: &[Duty], here: &Holdings, store: &Store) -> Plan {
    let mut groups = Vec::new();
    let mut lost = Vec::new();
    for (shard, duty) in duties.iter().enumerate() {
        let named = store.primary_of(Closed { shard: shard as u32 });
        if let Some(change) = change(map, duty, here, shard, named.as_deref()) {
            group(&mut groups, change, shard);
        } else if let Duty::Primary { term } = duty
            && !here.primary().has(shard)
        {
            group(&mut lost, *term, shard);
        }
    }
    let mut steps: Vec<_> = groups.into_iter().map(|(change, shards)| Step { change, shards }).collect();
    steps.sort_by_key(Step::urgency);
    let words = "this server is not the primary there any more: a new term is to begin";
    let failures = lost.into_iter().map(|(term, shards): (u32, ShardSet)| Failure {
        shards: shards.to_string(),
        term,
        words: words.into(),
    });
    Plan { failures: failures.collect(), steps }
}

/// What is to be done in one shard, where the closed gate names `named`; None: nothing.
fn change(map: &Map, duty: &Duty, here: &Holdings, shard: usize, named: Option<&str>) -> Option<Change> {
    let is_primary = here.primary().has(shard);
    match duty {
        Duty::Primary { .. } => None,
        Duty::Heir { term, .. } if is_primary && here.term(shard) >= *term => None,
        Duty::Heir { term, gather, way } => {
            let address = |server: &ServerId| Some(map.server(*server)?.replication.clone());
            Some(Change::Promote(Promotion {
                gather: gather.iter().filter_map(address).collect(),
                take_over: *way == Way::HandOver,
                incomplete: matches!(way, Way::Unclean | Way::Empty),
                term: Some(*term),
            }))
        }
        Duty::Wait => is_primary.then_some(Change::Close),
        Duty::Replica { of } => {
            let primary = map.server(*of)?;
            let server = number_of(primary.incarnation.as_deref()?)?;
            if here.is_foreign(shard) {
                // What is here is of another lineage than the shard's primary, and the map counts.
                return Some(Change::Empty { clients: Some(primary.clients.clone()) });
            }
            let follows = !is_primary && here.follows(shard, &primary.replication, server);
            let (primary, clients) = (primary.replication.clone(), primary.clients.clone());
            (!follows).then_some(Change::Follow { primary, server, clients })
        }
        Duty::Absent { primary } => {
            let clients = primary.and_then(|primary| map.server(primary)).map(|primary| primary.clients.clone());
            let is_done = here.is_empty(shard) && named == clients.as_deref();
            (!is_done).then_some(Change::Empty { clients })
        }
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
