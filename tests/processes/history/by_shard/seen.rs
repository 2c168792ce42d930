//! Who was the primary of a shard, and when, by what the servers themselves have said whenever they
//! were asked, and by who died. Pure.
//!
//! A server that says twice in a row that it is a shard's primary was it in between: for another to
//! become it, the first must have stopped, and have been made it again by an order. What it was
//! before it was asked for the first time, and after the last, is open.
//!
//! A reign ends where a shard may have lost something: its primary has died, or a server that had
//! been ordered to become it. The next begins with the next order to promote somebody there. If the
//! primary of before is found to be it still, nothing was lost, and the reign goes on.

use super::SHARDS;
use super::tenures::{Tenure, Tenures};
use crate::support::history::event::NEVER;
use remora::base::shards::ShardSet;
use std::collections::HashMap;

/// What is known of a process that lives.
struct Process {
    /// Before the last question that it has answered.
    asked: u64,
    /// The shards in which it was ordered to become the primary, and has not told what came of it.
    ordered: ShardSet,
}

/// See the module.
pub struct Seen {
    pub tenures: Tenures,
    processes: HashMap<usize, Process>,
    /// Of each shard, the reign that goes on.
    pub reigns: [usize; SHARDS],
    /// When who may have been a shard's primary has died, and nobody was promoted since.
    ended: [Option<u64>; SHARDS],
    /// The highest term that was begun by an order, of each shard.
    terms: [u32; SHARDS],
    pub complaints: Vec<String>,
}

impl Seen {
    pub fn new() -> Seen {
        Seen {
            tenures: Tenures::new(SHARDS),
            processes: HashMap::new(),
            reigns: [0; SHARDS],
            ended: [None; SHARDS],
            terms: [0; SHARDS],
            complaints: Vec::new(),
        }
    }

    /// A process is about to begin.
    pub fn begins(&mut self, process: usize, now: u64) {
        self.processes.insert(process, Process { asked: now, ordered: ShardSet::default() });
    }

    /// It was asked between these moments, and is the primary of `own`, and does, or does not,
    /// carry out an order.
    pub fn look(&mut self, process: usize, asked: u64, answered: u64, own: ShardSet, is_busy: bool) {
        let known = self.processes.get_mut(&process).expect("it lives");
        let before = std::mem::replace(&mut known.asked, asked);
        if !is_busy {
            known.ordered = ShardSet::default();
        }
        for shard in 0..SHARDS {
            let open = self.tenures.open(shard, process);
            match (open, own.has(shard)) {
                (Some(tenure), true) => {
                    tenure.does_until = asked;
                    if self.ended[shard].is_some_and(|ended| ended < asked) {
                        self.ended[shard] = None;
                    }
                }
                (Some(tenure), false) => tenure.may_until = answered,
                (None, true) => {
                    let reign = self.reigns[shard];
                    let (does_from, does_until) = (answered, answered);
                    let tenure = Tenure { process, reign, may_from: before, does_from, does_until, may_until: NEVER };
                    self.tenures.add(shard, tenure);
                }
                (None, false) => continue,
            }
            self.complaints.extend(self.tenures.two_at_once(shard, process));
        }
    }

    /// Whether a promotion in these shards begins a reign: then no request may be under way when it
    /// is ordered.
    pub fn ends_a_reign(&self, shards: ShardSet) -> bool {
        shards.iter().any(|shard| self.ended[shard].is_some())
    }

    /// A process is about to be told to become the primary of these.
    pub fn ordered(&mut self, process: usize, shards: ShardSet) {
        self.processes.get_mut(&process).expect("it lives").ordered = shards;
        for shard in shards.iter().filter(|shard| self.ended[*shard].take().is_some()) {
            self.reigns[shard] += 1;
        }
    }

    /// It says that it has begun this term in these shards.
    pub fn began(&mut self, term: u32, shards: ShardSet) {
        for shard in shards.iter() {
            let before = std::mem::replace(&mut self.terms[shard], term);
            if before >= term {
                self.complaints.push(format!("shard {shard}: term {term} has begun, after term {before}"));
            }
        }
    }

    /// It was killed at some moment between these.
    pub fn died(&mut self, process: usize, before: u64, after: u64) {
        let Process { asked, ordered } = self.processes.remove(&process).expect("it has lived");
        for shard in 0..SHARDS {
            match self.tenures.open(shard, process) {
                Some(tenure) => tenure.may_until = after,
                None if ordered.has(shard) => {
                    let reign = self.reigns[shard];
                    let (does_from, does_until) = (NEVER, NEVER);
                    let tenure = Tenure { process, reign, may_from: asked, does_from, does_until, may_until: after };
                    self.tenures.add(shard, tenure);
                }
                None => continue,
            }
            self.ended[shard] = Some(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(shard: usize) -> ShardSet {
        ShardSet::one(shard)
    }

    /// Process 1 is the primary of shard 0, process 2 lives.
    fn seen() -> Seen {
        let mut seen = Seen::new();
        seen.begins(1, 0);
        seen.begins(2, 0);
        seen.look(1, 10, 11, one(0), false);
        seen.look(2, 12, 13, ShardSet::default(), false);
        seen
    }

    #[test]
    fn a_hand_over_goes_on_with_the_reign() {
        let mut seen = seen();
        seen.ordered(2, one(0));
        seen.look(2, 20, 21, one(0), false);
        seen.look(1, 22, 23, ShardSet::default(), false);
        assert_eq!((seen.reigns[0], seen.ends_a_reign(one(0)), seen.complaints.len()), (0, false, 0));
        seen.died(1, 30, 31);
        assert!(!seen.ends_a_reign(one(0)), "another one is the primary");
    }

    #[test]
    fn the_death_of_a_primary_or_of_an_heir_ends_a_reign_with_the_next_order() {
        for dies in [1, 2] {
            let mut seen = seen();
            seen.ordered(2, one(0));
            seen.died(dies, 20, 21);
            if dies == 2 {
                seen.look(1, 22, 23, ShardSet::default(), false);
            }
            assert!(seen.ends_a_reign(one(0)));
            seen.ordered(3 - dies, one(0));
            assert_eq!((seen.reigns[0], seen.ends_a_reign(one(0))), (1, false));
        }
    }

    #[test]
    fn an_heir_that_dies_before_its_primary_has_stopped_ends_nothing() {
        let mut seen = seen();
        seen.ordered(2, one(0));
        seen.died(2, 20, 21);
        seen.look(1, 22, 23, one(0), false);
        assert!(!seen.ends_a_reign(one(0)));
    }

    #[test]
    fn two_at_the_same_time_and_a_term_taken_twice_are_complaints() {
        let mut seen = seen();
        seen.look(2, 20, 21, one(0), false);
        assert_eq!(seen.complaints, Vec::<String>::new(), "the first may have stopped before");
        seen.look(1, 22, 23, one(0), false);
        seen.look(2, 24, 25, one(0), false);
        assert!(seen.complaints[0].contains("at the same time"), "{:?}", seen.complaints);
        seen.complaints.clear();
        seen.began(3, one(0));
        seen.began(4, one(0).with(one(1)));
        assert_eq!(seen.complaints.len(), 0);
        seen.began(4, one(1));
        assert_eq!(seen.complaints.len(), 1);
    }
}
