//! What clients have recorded, sorted by shard and reign, and judged shard by shard, as if there
//! were no other.

use super::tenures::{Belongs, Tenures};
use super::{SHARDS, shard_of};
use crate::support::history::event::{Event, Place, Reign};
use crate::support::history::judge::{Judge, Judged};
use std::collections::BTreeMap;

/// See the module.
pub struct Record {
    /// By shard and reign, what was not judged yet.
    recorded: BTreeMap<(usize, usize), Vec<Event>>,
    /// One for each shard.
    judges: Vec<Judge>,
    pub complaints: Vec<String>,
}

impl Record {
    pub fn new() -> Record {
        Record {
            recorded: BTreeMap::new(),
            judges: (0..SHARDS).map(|_| Judge::default()).collect(),
            complaints: Vec::new(),
        }
    }

    /// Sort what each process was asked. Each write that was taken by who was not the primary is a
    /// complaint.
    pub fn sort(&mut self, taken: Vec<(usize, Vec<Event>)>, tenures: &Tenures) {
        for (process, events) in taken {
            for mut event in events {
                let shard = shard_of(event.key);
                match tenures.place(shard, process, &event) {
                    Ok(Belongs::Primary(reign)) => self.recorded.entry((shard, reign)).or_default().push(event),
                    Ok(Belongs::Between(reign)) => {
                        (event.place, event.session) = (Place::Between, event.session | 1 << 31);
                        self.recorded.entry((shard, reign)).or_default().push(event);
                    }
                    Ok(Belongs::Nowhere) => {}
                    Err(why) => self.complaints.push(why),
                }
            }
        }
    }

    /// Judge a shard's next reign.
    pub fn judge(&mut self, shard: usize, reign: usize) {
        let reign = Reign { events: self.recorded.remove(&(shard, reign)).unwrap_or_default(), heir: None };
        let complaints = self.judges[shard].reign(&reign);
        self.complaints.extend(complaints.into_iter().map(|complaint| format!("shard {shard}: {complaint}")));
    }

    pub fn judged(&self) -> impl Iterator<Item = Judged> {
        self.judges.iter().map(|judge| judge.judged)
    }
}
