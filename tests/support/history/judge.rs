//! A whole history: every key, reign after reign. Pure.
//!
//! Misses are judged like everything else, so the runs have memory enough that nothing is evicted.

use super::event::{Event, Operation, Outcome, Place, Reign, Value};
use super::search::{State, search};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What was judged.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    pub reigns: usize,
    pub operations: usize,
    /// Of those, reads of replicas.
    pub replica_reads: usize,
    pub acknowledged: usize,
    /// Writes of which nobody was told whether they were done.
    pub unknown: usize,
}

/// What is known of a key at the end of the reigns that were judged.
#[derive(Default)]
struct Line {
    /// What the item can be.
    ends: BTreeSet<State>,
    /// When each value was begun to be written.
    written: HashMap<Value, u64>,
    /// Its values are counters, so the same value may come twice.
    counts: bool,
    /// There was a complaint already, so it is judged no more.
    is_wrong: bool,
}

/// Judges one reign after the other.
#[derive(Default)]
pub struct Judge {
    keys: BTreeMap<u32, Line>,
    pub judged: Judged,
}

impl Judge {
    /// The next reign; every complaint, one a key.
    pub fn reign(&mut self, reign: &Reign) -> Vec<String> {
        self.count(reign);
        let complaints = malformed(reign);
        if !complaints.is_empty() {
            return complaints;
        }
        let mut events: BTreeMap<u32, Vec<&Event>> = BTreeMap::new();
        reign.events.iter().for_each(|event| events.entry(event.key).or_default().push(event));
        let number = self.judged.reigns;
        let mut complaints = Vec::new();
        for (key, events) in events {
            let line = self.keys.entry(key).or_insert_with(|| Line { ends: [None].into(), ..Line::default() });
            if line.is_wrong {
                continue;
            }
            if let Err(complaint) = line.reign(&events, reign.heir) {
                line.is_wrong = true;
                complaints.push(format!("key {key} in reign {number}: {complaint}"));
            }
        }
        complaints
    }

    /// Whether the next reign can have begun with this item.
    pub fn may_be(&self, key: u32, state: State) -> bool {
        self.keys.get(&key).map_or(state.is_none(), |line| line.ends.contains(&state))
    }

    fn count(&mut self, reign: &Reign) {
        let count = |which: &dyn Fn(&Event) -> bool| reign.events.iter().filter(|event| which(event)).count();
        let Judged { reigns, operations, replica_reads, acknowledged, unknown } = &mut self.judged;
        *reigns += 1;
        *operations += reign.events.len();
        *replica_reads += count(&|event| event.place != Place::Primary);
        *acknowledged += count(&|event| event.acknowledged && event.has_changed());
        *unknown += count(&|event| !event.is_known() && event.operation != Operation::Get);
    }
}

/// A history from its beginning; every complaint.
pub fn judge(reigns: &[Reign]) -> Result<Judged, Vec<String>> {
    let mut judge = Judge::default();
    let complaints: Vec<String> = reigns.iter().flat_map(|reign| judge.reign(reign)).collect();
    if complaints.is_empty() { Ok(judge.judged) } else { Err(complaints) }
}

/// What makes a record useless: answers out of order, writes to a replica, a session at two
/// servers.
fn malformed(reign: &Reign) -> Vec<String> {
    let mut complaints = Vec::new();
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
    complaints
}

impl Line {
    fn reign(&mut self, events: &[&Event], heir: Option<u32>) -> Result<(), String> {
        self.counts |= events.iter().any(|event| matches!(event.operation, Operation::Incr(_)));
        if !self.counts {
            self.check_values(events)?;
        }
        let ordered: Vec<&Event> = events.iter().copied().filter(|event| event.place != Place::Between).collect();
        let ends = search(&ordered, heir, &self.ends);
        self.ends = ends.map_err(|wrong| format!("it began with one of {:?}: {wrong:?}", self.ends))?;
        Ok(())
    }

    /// Each value was written once, and before it was seen. Of a replica that changes sides this is
    /// all that is asked; of others it follows from the order, but says more.
    fn check_values(&mut self, events: &[&Event]) -> Result<(), String> {
        for event in events {
            let Some(value) = event.operation.writes() else { continue };
            if self.written.insert(value, event.invoked).is_some() {
                return Err(format!("{value} is written twice, so nothing can be told: {event}"));
            }
        }
        for event in events {
            let (Operation::Get, Outcome::Hit(value)) = (event.operation, event.outcome) else { continue };
            if self.written.get(&value).is_none_or(|invoked| *invoked > event.returned) {
                return Err(format!("a value that nobody had written: {event}"));
            }
        }
        Ok(())
    }
}
