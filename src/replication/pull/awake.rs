//! The lanes that have something to do, by shard. The others sleep: nothing of theirs is under way,
//! and all that their line has shown is done. A look wakes a lane whose line has changed in another
//! word than its beat. So a lane that sleeps costs a comparison at each look, and its position in
//! each ack.

use crate::store::line::{BEAT, CONTROL_LINE_BYTES};
use crate::sys::sync::{AtomicU64, Ordering::Relaxed};

const LINE_WORDS: usize = CONTROL_LINE_BYTES / 8;

/// See the module.
pub struct Awake {
    /// The shards of those that are awake, in no order.
    lanes: Vec<usize>,
    is_awake: Vec<bool>,
    /// The lines as the lanes were shown them last.
    shown: Vec<[u64; LINE_WORDS]>,
    /// Where a round begins to look for pieces, so that no shard starves.
    first: usize,
}

impl Awake {
    /// None yet, of a store with so many shards.
    pub fn new(shards: usize) -> Awake {
        Awake {
            lanes: Vec::with_capacity(shards),
            is_awake: vec![false; shards],
            shown: vec![[0; LINE_WORDS]; shards],
            first: 0,
        }
    }

    /// A lane has come. It is awake, and was shown nothing.
    pub fn add(&mut self, lane: usize) {
        self.shown[lane] = [0; LINE_WORDS];
        self.wake(lane);
    }

    /// A lane has gone, or has ended: it has nothing to do any more.
    pub fn remove(&mut self, lane: usize) {
        self.is_awake[lane] = false;
        self.lanes.retain(|other| *other != lane);
    }

    /// A look has brought this lane's line. True if the lane is to be shown it: it is awake, or is
    /// awake from now on because the line has changed. (A beat changes ten times a second, and says
    /// nothing of the log.)
    pub fn looked(&mut self, lane: usize, words: &[AtomicU64]) -> bool {
        let shown = &mut self.shown[lane];
        let differs = |(at, (word, shown)): (usize, (&AtomicU64, &u64))| at != BEAT && word.load(Relaxed) != *shown;
        let has_changed = words.iter().zip(&*shown).enumerate().any(differs);
        if has_changed {
            shown.iter_mut().zip(words).for_each(|(shown, word)| *shown = word.load(Relaxed));
            self.wake(lane);
        }
        self.is_awake[lane]
    }

    fn wake(&mut self, lane: usize) {
        if !std::mem::replace(&mut self.is_awake[lane], true) {
            self.lanes.push(lane);
        }
    }

    /// Those that are awake.
    pub fn lanes(&self) -> &[usize] {
        &self.lanes
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// One of them; each comes first in turn.
    pub fn nth(&self, at: usize) -> usize {
        self.lanes[(self.first + at) % self.lanes.len()]
    }

    /// A round has been planned: the next one begins with another lane.
    pub fn turn(&mut self) {
        self.first = (self.first + 1) % self.lanes.len().max(1);
    }

    /// Those for which `stays` is not true sleep from now on.
    pub fn retain(&mut self, mut stays: impl FnMut(usize) -> bool) {
        let Awake { lanes, is_awake, .. } = self;
        lanes.retain(|lane| {
            is_awake[*lane] = stays(*lane);
            is_awake[*lane]
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(lanes: usize) -> Awake {
        let mut awake = Awake::new(lanes);
        (0..lanes).for_each(|lane| awake.add(lane));
        awake
    }

    fn line(word: u64) -> Vec<AtomicU64> {
        (0..LINE_WORDS as u64).map(|at| AtomicU64::new(if at == 3 { word } else { at })).collect()
    }

    #[test]
    fn a_lane_sleeps_until_its_line_changes() {
        let mut awake = all_of(3);
        assert!((0..3).all(|lane| awake.looked(lane, &line(7))));
        awake.retain(|lane| lane == 1);
        assert_eq!(awake.lanes(), [1]);
        assert_eq!([0, 1, 2].map(|lane| awake.looked(lane, &line(7))), [false, true, false]);
        assert!(awake.looked(2, &line(8)) && !awake.looked(0, &line(7)));
        assert_eq!(awake.lanes(), [1, 2]);
        awake.retain(|_| false);
        assert!(!awake.looked(2, &line(8)), "it was shown that before");
        let beaten = line(8);
        beaten[BEAT].fetch_add(2, Relaxed);
        assert!(!awake.looked(2, &beaten), "nothing but the beat has changed");
        awake.wake(0);
        assert_eq!(awake.lanes(), [0]);
    }

    #[test]
    fn a_lane_that_goes_is_left_out_and_one_that_comes_again_is_shown_its_line() {
        let mut awake = all_of(3);
        assert!(awake.looked(1, &line(7)));
        awake.remove(1);
        assert_eq!(awake.lanes(), [0, 2]);
        awake.add(1);
        awake.retain(|lane| lane != 1);
        assert!(awake.looked(1, &line(7)), "to this lane it is new");
    }

    #[test]
    fn each_lane_comes_first_in_turn() {
        let mut awake = all_of(4);
        awake.retain(|lane| lane != 2);
        let mut firsts: Vec<usize> = (0..3)
            .map(|_| {
                awake.turn();
                let mut order: Vec<usize> = (0..awake.count()).map(|at| awake.nth(at)).collect();
                let first = order[0];
                order.sort_unstable();
                assert_eq!(order, [0, 1, 3], "none is left out");
                first
            })
            .collect();
        firsts.sort_unstable();
        assert_eq!(firsts, [0, 1, 3]);
        awake.retain(|_| false);
        awake.turn();
        assert_eq!(awake.count(), 0);
    }
}
