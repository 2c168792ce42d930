//! READs that were submitted and have not come back: what each is of, and since when one is
//! overdue.
//!
//! Numbers are the puller's, and none is given twice. So a READ whose lane is gone is nobody's when
//! it comes back, also where its shard has a lane again.

use std::time::Instant;

/// What a READ is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The control lines: the look of a round.
    Look(u64),
    /// A shard's table.
    Cells(usize),
    /// A shard's log.
    Piece(usize),
}

struct One {
    number: u64,
    of: Of,
    /// The round that it is part of.
    round: u64,
    /// When the look of that round, or of a later one, had arrived, and this had not.
    overtaken_at: Option<Instant>,
}

/// See the module. Bounded by the depth of the channel.
#[derive(Default)]
pub struct UnderWay {
    all: Vec<One>,
    numbers_given: u64,
}

impl UnderWay {
    /// How many.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The number of the READ that is begun next.
    pub fn next_number(&self) -> u64 {
        self.numbers_given + 1
    }

    /// The READ with the next number is begun, in this round.
    pub fn begin(&mut self, of: Of, round: u64) {
        self.numbers_given += 1;
        self.all.push(One { number: self.numbers_given, of, round, overtaken_at: None });
    }

    /// A READ has come back. Panics where there is none of this number: a channel brings each back
    /// once.
    pub fn came_back(&mut self, number: u64) -> Of {
        let at = self.all.iter().position(|one| one.number == number).expect("it was begun, and comes back once");
        self.all.swap_remove(at).of
    }

    /// The look of `round` has arrived at `now`. What is of that round, or an earlier one, should
    /// have.
    pub fn looked(&mut self, round: u64, now: Instant) {
        for one in self.all.iter_mut().filter(|one| one.round <= round) {
            one.overtaken_at.get_or_insert(now);
        }
    }

    /// Since when a READ has been missing whose round's look has arrived. If that lasts, it is
    /// lost.
    pub fn overdue_since(&self) -> Option<Instant> {
        self.all.iter().filter_map(|one| one.overtaken_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn begin(reads: &mut UnderWay, of: Of, round: u64) -> u64 {
        let number = reads.next_number();
        reads.begin(of, round);
        number
    }

    #[test]
    fn each_comes_back_as_what_it_is_of_and_no_number_is_given_twice() {
        let mut reads = UnderWay::default();
        let first = begin(&mut reads, Of::Piece(3), 1);
        let second = begin(&mut reads, Of::Cells(3), 1);
        let third = begin(&mut reads, Of::Look(1), 1);
        assert_eq!((reads.came_back(second), reads.came_back(first)), (Of::Cells(3), Of::Piece(3)));
        let fourth = begin(&mut reads, Of::Piece(3), 2);
        assert!(first < second && second < third && third < fourth);
        assert_eq!((reads.count(), reads.came_back(third)), (2, Of::Look(1)));
    }

    #[test]
    fn what_a_look_has_overtaken_is_overdue_since_then() {
        let (mut reads, begun, second) = (UnderWay::default(), Instant::now(), Duration::from_secs(1));
        let read = begin(&mut reads, Of::Cells(0), 7);
        reads.looked(6, begun);
        assert_eq!(reads.overdue_since(), None, "that look was before it");
        reads.looked(7, begun);
        reads.looked(8, begun + second);
        assert_eq!(reads.overdue_since(), Some(begun));
        begin(&mut reads, Of::Piece(1), 9);
        reads.looked(9, begun + 2 * second);
        assert_eq!(reads.came_back(read), Of::Cells(0));
        assert_eq!(reads.overdue_since(), Some(begun + 2 * second));
    }
}
