//! The list of servers that operators want, all at once: what differs from it is added, drained or
//! removed.

use super::Millis;
use super::command::{add, drain, known, remove, want};
use super::draft::{Draft, names};
use super::liveness::Session;
use crate::cluster::map::{Id, Server, Wanted};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// A server as operators want it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Where it is to be; None: wherever it says that it is.
    pub zone: Option<String>,
    /// What it is to be.
    pub wanted: Wanted,
}

/// Bring the draft to what is listed. Servers are added first: others may be drained because these
/// are there. One that is not listed is drained, and taken out once it has nothing, by the next
/// push. Ok: what is done.
pub(super) fn push(
    draft: &mut Draft,
    list: &[Listed],
    sessions: &HashMap<Id, Session>,
    now: Millis,
) -> Result<String, String> {
    if list.is_empty() {
        return Err("the list has no server: nobody would have the shards".into());
    }
    for (at, one) in list.iter().enumerate() {
        if list[..at].iter().any(|other| other.name == one.name) {
            return Err(format!("{} is listed twice", one.name));
        }
        check_zone(draft, one, sessions, now)?;
    }
    let mut done = Vec::new();
    let serves = |one: &&Listed| one.wanted == Wanted::Serving;
    for one in list.iter().filter(serves) {
        let is_so = draft.map.named(&one.name).is_some_and(|server| server.wanted == Wanted::Serving);
        if !is_so {
            done.push(add(draft, &one.name, sessions, now)?);
        }
    }
    for one in list.iter().filter(|one| !serves(one)) {
        match (draft.map.named(&one.name).map(|server| server.wanted), one.wanted) {
            (Some(is), wanted) if is == wanted => {}
            (None, Wanted::Removed) => {}
            (None, _) => return Err(format!("{} is no server of the cluster: it can only be added", one.name)),
            (_, Wanted::Draining) => done.push(drain(draft, &one.name)?),
            (_, Wanted::Removed) => done.push(remove(draft, &one.name, sessions, now)?),
            (_, wanted) => done.push(want(draft, &one.name, wanted, "keeps what it has while it is away")?),
        }
    }
    let is_listed = |server: &Server| list.iter().any(|one| one.name == server.name);
    let others: Vec<String> =
        draft.map.servers.iter().filter(|server| !is_listed(server)).map(|server| server.name.clone()).collect();
    for name in others {
        done.extend(leave_out(draft, &name, sessions, now)?);
    }
    Ok(if done.is_empty() { "the servers are as they are listed".into() } else { done.join("; ") })
}

/// A server that is not listed. None: it is going already.
fn leave_out(
    draft: &mut Draft,
    name: &str,
    sessions: &HashMap<Id, Session>,
    now: Millis,
) -> Result<Option<String>, String> {
    let server = known(&draft.map, name)?;
    let (id, wanted) = (server.id, server.wanted);
    let has_nothing = !draft.map.shards.iter().any(|shard| names(shard, id));
    match wanted {
        Wanted::Removed => Ok(None),
        _ if has_nothing => remove(draft, name, sessions, now).map(Some),
        Wanted::Draining => Ok(None),
        Wanted::Serving | Wanted::Paused => drain(draft, name).map(Some),
    }
}

/// A server says by itself where it is: a list that says otherwise is wrong, or the server is.
fn check_zone(draft: &Draft, one: &Listed, sessions: &HashMap<Id, Session>, now: Millis) -> Result<(), String> {
    let Some(wanted) = &one.zone else { return Ok(()) };
    let told = sessions.values().find(|session| session.intro.name == one.name && session.is_alive(now));
    let told = told.map(|session| &session.intro.zone);
    match draft.map.named(&one.name).map(|server| &server.zone).or(told) {
        Some(zone) if zone != wanted => Err(format!(
            "{} is in zone \"{zone}\", and listed in \"{wanted}\": start it with --zone {wanted}",
            one.name
        )),
        _ => Ok(()),
    }
}
