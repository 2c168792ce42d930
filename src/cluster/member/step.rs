//! What a server is to do next, so that it has what the map asks for. Shards in which the same is
//! to be done are one step. Nothing here does anything.

use super::group;
use super::holdings::Holdings;
use crate::base::shards::ShardSet;
use crate::cluster::duty::{Duty, duty};
use crate::cluster::map::{Id, Map, Server, ServerId, Way};
use crate::cluster::report::Failure;
use crate::replication::order::{Change, Peer, Promotion};
use crate::replication::standing::ServerNumber;
use crate::store::Store;
use crate::store::reign::{Closed, Primary};

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

/// The terms that this server was asked to begin and has not: of each shard the last one, and why.
/// It never begins one of these afterwards, for the locator goes on without it.
#[derive(Debug, Clone)]
pub struct GivenUp(Vec<(u32, String)>);

impl GivenUp {
    /// None, in so many shards.
    pub fn none(shards: usize) -> GivenUp {
        GivenUp(vec![(0, String::new()); shards])
    }

    /// This term is not begun in these shards.
    pub fn note(&mut self, shards: ShardSet, term: u32, words: &str) {
        for shard in shards.iter() {
            let last = &mut self.0[shard];
            if last.0 < term {
                *last = (term, words.into());
            }
        }
    }

    /// Why this term is not begun in a shard, if it was asked for and failed.
    fn why(&self, shard: usize, term: u32) -> Option<&str> {
        let (last, words) = &self.0[shard];
        (*last >= term).then_some(&**words)
    }
}

/// What is to be done where the map asks for this in each shard, and the server has that. A term
/// that it cannot begin is given up.
pub fn plan(map: &Map, duties: &[Duty], here: &Holdings, store: &Store, given_up: &mut GivenUp) -> Plan {
    let (mut groups, mut failed) = (Vec::new(), Vec::new());
    for (shard, duty) in duties.iter().enumerate() {
        let named = store.primary_of(Closed { shard: shard as u32 });
        if let Some((term, words)) = cannot(duty, here, shard) {
            given_up.note(ShardSet::one(shard), term, words);
        }
        match (change(map, duty, here, shard, named.as_deref()), duty) {
            (Some(_), Duty::Heir { term, .. }) if given_up.why(shard, *term).is_some() => {
                let words = given_up.why(shard, *term).unwrap_or_default().to_string();
                group(&mut failed, (*term, words), shard);
            }
            (Some(change), _) => group(&mut groups, change, shard),
            (None, Duty::Primary { term }) if !here.primary().has(shard) => {
                let words = "this server is not the primary there any more: a new term is to begin";
                group(&mut failed, (*term, words.to_string()), shard);
            }
            (None, _) => {}
        }
    }
    let mut steps: Vec<_> = groups.into_iter().map(|(change, shards)| Step { change, shards }).collect();
    steps.sort_by_key(Step::urgency);
    let failure =
        |((term, words), shards): ((u32, String), ShardSet)| Failure { shards: shards.to_string(), term, words };
    Plan { failures: failed.into_iter().map(failure).collect(), steps }
}

/// Whether this server takes writes only where these duties say so: what they take away from it has
/// ended.
pub fn is_settled(duties: &[Duty], here: &Holdings) -> bool {
    let is_its = |shard: usize| match &duties[shard] {
        // One whose hand-over has failed goes on in a later term than the map's.
        Duty::Primary { term } => here.term(shard) >= *term,
        Duty::Heir { term, .. } => here.term(shard) == *term,
        Duty::Replica { .. } | Duty::Wait | Duty::Absent { .. } => false,
    };
    here.primary().iter().all(is_its)
}

/// Why a term cannot be begun in a shard, whatever is tried.
fn cannot(duty: &Duty, here: &Holdings, shard: usize) -> Option<(u32, &'static str)> {
    let Duty::Heir { term, least_term, is_enough, .. } = duty else { return None };
    let is_begun = here.primary().has(shard) && here.term(shard) == *term;
    match () {
        () if is_begun => None,
        () if !is_enough => Some((*term, "too few of the members are alive")),
        () if here.term(shard) < *least_term => Some((*term, "this server has been away, and joins anew")),
        () => None,
    }
}

/// What is to be done in one shard, where the closed gate names `named`; None: nothing.
fn change(map: &Map, duty: &Duty, here: &Holdings, shard: usize, named: Option<&Primary>) -> Option<Change> {
    let is_primary = here.primary().has(shard);
    match duty {
        Duty::Primary { .. } => None,
        Duty::Heir { term, .. } if is_primary && here.term(shard) == *term => None,
        // What is here is of nobody's lineage: an heir that begins empty does not serve it.
        Duty::Heir { way: Way::Empty, .. } if !here.is_empty(shard) => Some(Change::Empty { primary: None }),
        Duty::Heir { term, gather, way, .. } => {
            // One whose process has ended since this map is not replaced by the next one there.
            let peer = |server: &ServerId| {
                let server = map.server(*server)?;
                let number = server.incarnation.as_deref().and_then(number_of);
                Some(Peer { address: server.replication.clone(), server: number })
            };
            Some(Change::Promote(Promotion {
                gather: gather.iter().filter_map(peer).collect(),
                take_over: *way == Way::HandOver,
                incomplete: matches!(way, Way::Unclean | Way::Empty),
                term: Some(*term),
            }))
        }
        Duty::Wait => is_primary.then_some(Change::Close),
        Duty::Replica { of } => {
            let primary = map.server(*of)?;
            let server = number_of(primary.incarnation.as_deref()?)?;
            if here.is_foreign(shard, &primary.replication, server) {
                // What is here is of another lineage than the shard's primary, and the map counts.
                return Some(Change::Empty { primary: Some(named_by(primary)) });
            }
            let follows = !is_primary && here.follows(shard, &primary.replication, server);
            let (primary, clients) = (primary.replication.clone(), primary.clients.clone());
            (!follows).then_some(Change::Follow { primary, server, clients })
        }
        Duty::Absent { primary } => {
            let primary = primary.and_then(|primary| map.server(primary)).map(named_by);
            let is_done = here.is_empty(shard) && named == primary.as_ref();
            (!is_done).then_some(Change::Empty { primary })
        }
    }
}

/// How the gates of its shards name that server elsewhere.
fn named_by(server: &Server) -> Primary {
    Primary { clients: (*server.clients).into(), replication: Some((*server.replication).into()) }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
