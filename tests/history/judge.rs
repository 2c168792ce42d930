//! A whole history: every key, reign after reign. Pure.
//!
//! Misses are judged like everything else, so the runs have memory enough that nothing is evicted.

use crate::event::{Event, Operation, Outcome, Place, Reign, Value};
use crate::search::{State, search};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What was judged.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    pub reigns: usize,
    pub keys: usize,
    pub operations: usize,
    /// Of those, reads of replicas.
    pub replica_reads: usize,
    pub acknowledged: usize,
    /// Writes of which nobody was told whether they were done.
    pub unknown: usize,
}

/// Judge it; every complaint, one a key.
pub fn judge(reigns: &[Reign]) -> Result<Judged, Vec<String>> {
    let mut complaints = malformed(reigns);
    let mut keys: BTreeMap<u32, Vec<Vec<&Event>>> = BTreeMap::new();
    for (number, reign) in reigns.iter().enumerate() {
        for event in &reign.events {
            let of_key = keys.entry(event.key).or_insert_with(|| vec![Vec::new(); reigns.len()]);
            of_key[number].push(event);
        }
    }
    if complaints.is_empty() {
        complaints = keys.iter().filter_map(|(key, events)| wrong_key(*key, events, reigns)).collect();
    }
    if !complaints.is_empty() {
        return Err(complaints);
    }
    let events = || reigns.iter().flat_map(|reign| &reign.events);
    let count = |which: &dyn Fn(&Event) -> bool| events().filter(|event| which(event)).count();
    Ok(Judged {
        reigns: reigns.len(),
        keys: keys.len(),
        operations: count(&|_| true),
        replica_reads: count(&|event| event.place != Place::Primary),
        acknowledged: count(&|event| event.acknowledged),
        unknown: count(&|event| !event.is_known() && event.operation != Operation::Get),
    })
}

/// What makes a record useless: answers out of order, writes to a replica, a session at two servers.
fn malformed(reigns: &[Reign]) -> Vec<String> {
    let mut complaints = Vec::new();
    for reign in reigns {
        let mut last: HashMap<u32, &Event> = HashMap::new();
        for event in &reign.events {
            let complaint = match last.insert(event.session, event) {
                _ if event.returned < event.invoked => "an answer before its request",
                _ if event.place != Place::Primary && event.operation != Operation::Get => "a write to a replica",
                Some(before) if before.invoked > event.invoked || before.returned > event.returned => "out of order",
                Some(before) if before.place != event.place => "a session at two places",
                _ => continue,
            };
            complaints.push(format!("{complaint}: {event}"));
        }
    }
    complaints
}

fn wrong_key(key: u32, reigns_of_key: &[Vec<&Event>], reigns: &[Reign]) -> Option<String> {
    let mut begin: BTreeSet<State> = [None].into();
    let mut written: HashMap<Value, u64> = HashMap::new();
    let counts = reigns_of_key.iter().flatten().any(|event| matches!(event.operation, Operation::Incr(_)));
    for (number, (events, reign)) in reigns_of_key.iter().zip(reigns).enumerate() {
        for event in events {
            let value = event.operation.writes().or(
                if let (true, Operation::Incr(_), Outcome::Hit(sum)) = (counts, event.operation, event.outcome) {
                    Some(sum)
                } else {
                    None
                },
            );
            let Some(value) = value else { continue };
            if written.insert(value, event.invoked).is_some() && !counts {
                return Some(format!("key {key}: {value} is written twice, so nothing can be told: {event}"));
            }
        }
        if let Some(event) = events.iter().find(|event| !counts && shows_nothing_written(event, &written)) {
            return Some(format!("key {key}: a value that nobody had written: {event}"));
        }
        let judged: Vec<&Event> = events.iter().copied().filter(|event| event.place != Place::Between).collect();
        begin = match search(&judged, reign.heir, &begin) {
            Ok(ends) => ends,
            Err(wrong) => {
                return Some(format!("key {key} in reign {number}, that began with one of {begin:?}: {wrong:?}"));
            }
        };
    }
    None
}

/// All that can be asked of a replica that changes sides; of others it follows from the order, but says less.
fn shows_nothing_written(event: &Event, written: &HashMap<Value, u64>) -> bool {
    let (Operation::Get, Outcome::Hit(value)) = (event.operation, event.outcome) else { return false };
    written.get(&value).is_none_or(|invoked| *invoked > event.returned)
}
