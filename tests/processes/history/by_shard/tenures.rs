//! Who was the primary of a shard, and when, by what was ordered and by who died; and by that,
//! whether a server may have given an answer, and to which reign the answer belongs.
//!
//! A hand-over loses nothing, so it cuts no reign: the order of a shard's writes goes on at another
//! server. Only a death cuts.
//!
//! [`super::seen`] finds out the same by asking.

use crate::support::history::event::{Event, NEVER, Operation};

/// One server, the primary of one shard for a time. It may have taken writes from the order on, and
/// up to the moment when another had carried out its own; it certainly did for the time between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    pub process: usize,
    pub reign: usize,
    pub may_from: u64,
    pub does_from: u64,
    pub does_until: u64,
    pub may_until: u64,
}

/// To which reign an event belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongs {
    /// It was answered by who was the primary.
    Primary(usize),
    /// A read at a server that may have been a replica meanwhile.
    Between(usize),
    /// A request without an answer to a server that was not the primary: it was not executed.
    Nowhere,
}

/// See the module.
pub struct Tenures(Vec<Vec<Tenure>>);

impl Tenures {
    pub fn new(shards: usize) -> Tenures {
        Tenures(vec![Vec::new(); shards])
    }

    /// This process is about to be made the primary. A primary that lives goes on up to some moment
    /// of this.
    pub fn ordered(&mut self, shard: usize, process: usize, now: u64) {
        let reign = match self.0[shard].last_mut() {
            None => 0,
            // It has died: what nobody had acknowledged may be lost.
            Some(last) if last.may_until != NEVER => last.reign + 1,
            Some(last) => {
                last.does_until = now;
                last.reign
            }
        };
        let begun = Tenure { process, reign, may_from: now, does_from: NEVER, does_until: NEVER, may_until: NEVER };
        self.0[shard].push(begun);
    }

    /// It is the primary now, and who was it before is not.
    pub fn carried_out(&mut self, shard: usize, now: u64) {
        let (last, before) = self.0[shard].split_last_mut().expect("it was ordered");
        last.does_from = now;
        before.iter_mut().for_each(|one| one.may_until = one.may_until.min(now));
    }

    /// It was killed at some moment between these. Returns the shards that have lost their primary.
    pub fn died(&mut self, process: usize, before: u64, after: u64) -> Vec<usize> {
        let mut lost = Vec::new();
        for (shard, tenures) in self.0.iter_mut().enumerate() {
            let Some(last) = tenures.last_mut().filter(|last| last.process == process) else { continue };
            (last.does_until, last.may_until) = (before, after);
            lost.push(shard);
        }
        lost
    }

    pub fn add(&mut self, shard: usize, tenure: Tenure) {
        self.0[shard].push(tenure);
    }

    /// The tenure of this process that goes on, as far as is known.
    pub fn open(&mut self, shard: usize, process: usize) -> Option<&mut Tenure> {
        self.0[shard].iter_mut().rev().find(|one| one.process == process && one.may_until == NEVER)
    }

    /// Another process that was certainly the primary at the same time as this one.
    pub fn two_at_once(&self, shard: usize, process: usize) -> Option<String> {
        let tenures = &self.0[shard];
        let this = tenures.iter().rfind(|one| one.process == process)?;
        let meets = |one: &&Tenure| one.does_from.max(this.does_from) < one.does_until.min(this.does_until);
        let other = tenures.iter().rev().filter(|one| one.process != process).find(meets)?;
        Some(format!("shard {shard}: two primaries at the same time: {other:?}, {this:?}"))
    }

    /// The reign that goes on.
    pub fn reign(&self, shard: usize) -> usize {
        self.0[shard].last().map_or(0, |last| last.reign)
    }

    /// Where an event belongs that this process has answered, or was to answer. Err: it has taken a
    /// write and was not the primary at any moment of it.
    pub fn place(&self, shard: usize, process: usize, event: &Event) -> Result<Belongs, String> {
        let tenures = &self.0[shard];
        let theirs = || tenures.iter().filter(|one| one.process == process);
        if event.operation == Operation::Get {
            let is_within = |one: &&Tenure| one.does_from <= event.invoked && event.returned <= one.does_until;
            if let Some(tenure) = theirs().find(is_within) {
                return Ok(Belongs::Primary(tenure.reign));
            }
            let begun = tenures.iter().filter(|one| one.may_from <= event.returned).map(|one| one.reign);
            return Ok(Belongs::Between(begun.max().unwrap_or(0)));
        }
        let meets = |one: &&Tenure| one.may_from <= event.returned && event.invoked <= one.may_until;
        let mut reigns: Vec<usize> = theirs().filter(meets).map(|one| one.reign).collect();
        reigns.sort_unstable();
        reigns.dedup();
        match reigns[..] {
            [reign] => Ok(Belongs::Primary(reign)),
            [] if !event.is_known() => Ok(Belongs::Nowhere),
            [] => Err(format!("shard {shard}: process {process} was not the primary: {event}; {tenures:?}")),
            _ => panic!("shard {shard}, process {process}: a request in two reigns: {event}; {tenures:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::history::event::{Outcome, Place};

    fn event(operation: Operation, outcome: Outcome, invoked: u64, returned: u64) -> Event {
        let (session, place, key, acknowledged) = (1, Place::Primary, 1, false);
        Event { session, place, key, operation, invoked, returned, outcome, acknowledged }
    }

    fn set(invoked: u64, returned: u64) -> Event {
        event(Operation::Set(1), Outcome::Done, invoked, returned)
    }

    /// Process 1 from 10 on, process 2 from 20 to 30 on, which dies at 50; then process 3.
    fn tenures() -> Tenures {
        let mut tenures = Tenures::new(1);
        for (process, ordered, carried_out) in [(1, 0, 10), (2, 20, 30)] {
            tenures.ordered(0, process, ordered);
            tenures.carried_out(0, carried_out);
        }
        assert_eq!((tenures.died(2, 50, 51), tenures.died(1, 50, 51)), (vec![0], vec![]));
        tenures.ordered(0, 3, 60);
        tenures.carried_out(0, 70);
        tenures
    }

    #[test]
    fn a_write_belongs_to_who_may_have_been_the_primary() {
        let tenures = tenures();
        for (process, invoked, returned, reign) in
            [(1, 5, 6, 0), (1, 29, 99, 0), (2, 1, 20, 0), (2, 51, 52, 0), (3, 65, 66, 1)]
        {
            let placed = tenures.place(0, process, &set(invoked, returned));
            assert_eq!(placed, Ok(Belongs::Primary(reign)), "{process}, {invoked}-{returned}");
        }
        for (process, invoked, returned) in [(1, 31, 32), (2, 5, 19), (2, 52, 53), (3, 5, 59), (4, 5, 6)] {
            assert!(tenures.place(0, process, &set(invoked, returned)).is_err(), "{process}, {invoked}-{returned}");
        }
        let unknown = event(Operation::Set(1), Outcome::Unknown, 31, NEVER);
        assert_eq!(tenures.place(0, 1, &unknown), Ok(Belongs::Nowhere));
        assert_eq!(tenures.place(0, 2, &unknown), Ok(Belongs::Primary(0)));
        assert_eq!(tenures.reign(0), 1);
    }

    #[test]
    fn a_read_is_the_primarys_only_where_nobody_was_changing() {
        let tenures = tenures();
        let read = |process, invoked, returned| {
            tenures.place(0, process, &event(Operation::Get, Outcome::Miss, invoked, returned)).expect("a read")
        };
        assert_eq!((read(1, 10, 20), read(1, 10, 21)), (Belongs::Primary(0), Belongs::Between(0)));
        assert_eq!((read(2, 30, 50), read(2, 29, 40)), (Belongs::Primary(0), Belongs::Between(0)));
        assert_eq!((read(3, 70, 80), read(3, 40, 65), read(3, 40, 59)), {
            (Belongs::Primary(1), Belongs::Between(1), Belongs::Between(0))
        });
    }
}
