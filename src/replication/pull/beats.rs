//! When the beats of the share's shards were last seen to move. While they do, what is here is of
//! now, but for the lag. Pure.

use crate::store::line::{COPIED, SERVES};
use std::time::Instant;

/// See the module.
pub struct Beats {
    /// One for each shard, in order.
    shards: Vec<Beat>,
    /// Of all of them together.
    sign: Sign,
}

#[derive(Clone, Copy, Default)]
struct Beat {
    /// As the last look showed it; None before the first.
    shown: Option<u64>,
    moved_at: Option<Instant>,
}

/// What the beats of several shards say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sign {
    /// All of them were seen to move since this moment; None: one was never seen to.
    pub moved_at: Option<Instant>,
    /// Whoever takes the writes serves clients, in all shards; None before the first look.
    pub serves: Option<bool>,
}

impl Sign {
    /// Of other shards as well.
    #[must_use]
    pub fn with(self, other: Sign) -> Sign {
        Sign {
            moved_at: self.moved_at.zip(other.moved_at).map(|(one, other)| one.min(other)),
            serves: self.serves.zip(other.serves).map(|(one, other)| one && other),
        }
    }
}

impl Beats {
    /// Of so many shards.
    pub fn new(shards: usize) -> Beats {
        Beats { shards: vec![Beat::default(); shards], sign: Sign::default() }
    }

    /// A look that was begun at a moment shows a shard's beat. True if that is another one than
    /// before.
    pub fn looked(&mut self, shard: usize, beat: u64, at: Instant) -> bool {
        let before = &mut self.shards[shard];
        let has_changed = before.shown != Some(beat);
        if has_changed {
            // What is seen for the first time may have stood still for long.
            before.moved_at = before.shown.map(|_| at);
            before.shown = Some(beat);
        }
        has_changed
    }

    /// Whether the change that [`Beats::looked`] has just shown proves that the giver of this line
    /// lived, took writes and served clients after the look before. Not so the first beat that is
    /// seen, and not a copy.
    pub fn proves_life(&self, shard: usize) -> bool {
        let Beat { shown, moved_at } = self.shards[shard];
        moved_at.is_some() && shown.is_some_and(|beat| beat & (SERVES | COPIED) == SERVES)
    }

    /// This shard is followed anew: what was seen of it before says nothing.
    pub fn forget(&mut self, shard: usize) {
        self.shards[shard] = Beat::default();
    }

    /// A look has shown some that have changed. `is_followed` tells which shards count.
    pub fn sum_up(&mut self, is_followed: impl Fn(usize) -> bool) {
        let sign = |beat: &Beat| Sign { moved_at: beat.moved_at, serves: beat.shown.map(|shown| shown & SERVES != 0) };
        let followed = self.shards.iter().enumerate().filter(|(shard, _)| is_followed(*shard));
        self.sign = followed.map(|(_, beat)| sign(beat)).reduce(Sign::with).unwrap_or_default();
    }

    /// Of all shards, as it was summed up last.
    pub fn sign(&self) -> Sign {
        self.sign
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_here_is_as_old_as_the_beat_that_stands_still() {
        let mut beats = Beats::new(2);
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        let mut look = |now, shown: [u64; 2]| {
            let changed = [0, 1].map(|shard| beats.looked(shard, shown[shard], at(now)));
            beats.sum_up(|_| true);
            (changed, beats.sign())
        };
        assert_eq!(look(0, [5, 7]), ([true, true], Sign { moved_at: None, serves: Some(true) }));
        assert_eq!(look(10, [7, 7]), ([true, false], Sign { moved_at: None, serves: Some(true) }));
        assert_eq!(look(20, [7, 9]), ([false, true], Sign { moved_at: Some(at(10)), serves: Some(true) }));
        assert_eq!(look(30, [9, 9]), ([true, false], Sign { moved_at: Some(at(20)), serves: Some(true) }));
        assert_eq!(look(40, [9, 10]), ([false, true], Sign { moved_at: Some(at(30)), serves: Some(false) }));
        let never = Sign::default();
        assert_eq!(beats.sign().with(never), never, "another puller has seen nothing yet");
        beats.sum_up(|shard| shard == 1);
        assert_eq!(beats.sign(), Sign { moved_at: Some(at(40)), serves: Some(false) }, "the other is not followed");
        beats.forget(1);
        beats.sum_up(|shard| shard == 1);
        assert_eq!(beats.sign(), never);
    }

    #[test]
    fn a_beat_that_moves_proves_life_unless_it_is_a_copy_or_nobody_serves() {
        let mut beats = Beats::new(1);
        let mut proves = |shown| beats.looked(0, shown, Instant::now()) && beats.proves_life(0);
        assert!(!proves(5), "it may have stood still for long");
        assert!(proves(7) && !proves(7) && proves(9));
        assert!(!proves(11 | COPIED) && !proves(13 | COPIED), "of whoever passes it on nothing is known");
        assert!(proves(15) && !proves(16), "it serves no more");
        beats.forget(0);
        assert!(!beats.proves_life(0));
    }
}
