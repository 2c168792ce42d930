//! What a map asks of one server, shard by shard. Pure.

use super::map::{Change, Map, Member, ServerId, Shard, Stage, Way};

/// What a server is to be in one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// The primary, in the term of this number, that it is already.
    Primary {
        /// Its number.
        term: u32,
    },
    /// The primary in a term that is to begin.
    Heir {
        /// Its number.
        term: u32,
        /// A server whose log has not come to this term is not whole, whatever it takes itself for:
        /// it has been away, and joins anew.
        least_term: u32,
        /// Who is to stop for it first, all of them: whoever of these has more, it has that from
        /// there.
        gather: Vec<ServerId>,
        /// Enough are alive for it. If not, it fails.
        is_enough: bool,
        /// How.
        way: Way,
    },
    /// A replica of that server.
    Replica {
        /// Whom it follows.
        of: ServerId,
    },
    /// It takes no writes and follows nobody, and keeps what it has, until somebody is the primary
    /// again or it is told to go.
    Wait,
    /// It is to have nothing, and to say that this server is the primary.
    Absent {
        /// If there is one that is alive.
        primary: Option<ServerId>,
    },
}

/// What the map asks of `server` in `shard`. Nobody is asked for anything whose process is not the
/// one in the map: the caller has looked.
pub fn duty(map: &Map, server: ServerId, shard: usize) -> Duty {
    let place = &map.shards[shard];
    let primary = map.living_primary(place);
    if let Some(change) = place.change.filter(|change| change.heir == server && change.gone == 0) {
        return heir(map, server, place, change);
    }
    if primary == Some(server) {
        // It was away, and somebody else becomes the primary without asking it.
        let is_passed_over = place.change.is_some_and(|change| change.way != Way::HandOver);
        return if is_passed_over { Duty::Wait } else { Duty::Primary { term: place.term } };
    }
    match (place.member(server), primary) {
        // Who is leaving keeps what it has until it is taken out: it may be asked for it.
        (Some(member), _) if matches!(member.stage, Stage::Leaving(_)) => Duty::Wait,
        (Some(member), primary) if matches!(member.stage, Stage::Gone(_)) => Duty::Absent { primary },
        (Some(_), Some(primary)) => Duty::Replica { of: primary },
        (Some(_), None) => Duty::Wait,
        (None, primary) => Duty::Absent { primary },
    }
}

/// What the map asks of an heir.
fn heir(map: &Map, server: ServerId, place: &Shard, change: Change) -> Duty {
    let is_there = |member: &&Member| !matches!(member.stage, Stage::Gone(_)) && map.is_alive(member.server);
    let members: Vec<ServerId> = place.members.iter().filter(is_there).map(|member| member.server).collect();
    let old = map.living_primary(place);
    let is_enough = members.len() >= usize::from(change.least) && (change.way != Way::HandOver || old.is_some());
    let may_have_more = |other: &ServerId| change.way != Way::GoesOn && *other != server;
    let gather = members.into_iter().chain(old).filter(may_have_more).collect();
    let joins = place.member(server).is_some_and(|member| member.stage == Stage::Joining);
    let least_term = if joins { place.term } else { 0 };
    Duty::Heir { term: change.term, least_term, gather, is_enough, way: change.way }
}
