//! One shard's primary goes to a server that an operator names. The shard's target changes, and
//! nothing else: the server joins, copies, takes over and others leave as ever, so no write is
//! lost.

use super::command::known;
use super::draft::{Draft, stays};
use crate::cluster::map::{Map, ServerId, Shard, Wanted};

/// This server is to be the shard's primary. Where it has a replica that is to stay, the two change
/// places; otherwise it gets the place of the one that was to be the primary. Ok: what comes of it.
pub(super) fn move_shard(draft: &mut Draft, shard: usize, name: &str) -> Result<String, String> {
    let map = &draft.map;
    let count = map.shards.len();
    let place =
        map.shards.get(shard).ok_or_else(|| format!("there is no shard {shard}: they are 0 to {}", count - 1))?;
    let server = known(map, name)?;
    if server.wanted != Wanted::Serving || server.incarnation.is_none() {
        return Err(format!("{name} cannot take shard {shard}: it is dead, or is not to have its part of the shards"));
    }
    let mut target = target_of(place).ok_or_else(|| format!("shard {shard} has no primary yet"))?;
    if target[0] == server.id {
        let is_it = place.primary == Some(server.id);
        return Err(format!("{name} {} the primary of shard {shard}", if is_it { "is" } else { "is to become" }));
    }
    match target.iter().position(|id| *id == server.id) {
        Some(at) => target.swap(0, at),
        None => {
            if let Some(other) = at_same_host(map, &target[1..], server.id) {
                return Err(format!("{name} is at the same host as {other}, which has a copy of shard {shard}"));
            }
            target[0] = server.id;
        }
    }
    draft.map.shards[shard].target = target;
    Ok(format!("{name} takes over shard {shard}"))
}

/// Who is to have a shard, the primary first; where nobody has said so, who has it.
fn target_of(place: &Shard) -> Option<Vec<ServerId>> {
    if !place.target.is_empty() {
        return Some(place.target.clone());
    }
    let members = place.members.iter().filter(|member| stays(member)).map(|member| member.server);
    Some(place.primary.into_iter().chain(members).collect()).filter(|_| place.primary.is_some())
}

/// One of these that is at the host of this server.
fn at_same_host<'m>(map: &'m Map, others: &[ServerId], id: ServerId) -> Option<&'m str> {
    let host = &map.server(id)?.host;
    let mut others = others.iter().filter_map(|other| map.server(*other));
    others.find(|other| other.host == *host).map(|other| &*other.name)
}
