//! Which shards a session follows, which it has asked for, and which it asks for again: a shard
//! whose lane has ended is subscribed to again on the same session, because the primary then tells
//! what has become of it. Pure: the time is an argument.

use super::{RETRY_PAUSE_MAX, RETRY_PAUSE_MIN};
use crate::base::shards::ShardSet;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A shard whose lane has lasted so long is subscribed to again at once.
const LANE_GOOD: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Subscriptions {
    /// The primary was asked, and has not answered yet.
    asked: ShardSet,
    /// The first of those was asked then.
    asked_at: Instant,
    /// They have a lane.
    follows: ShardSet,
    /// They cannot follow the log that the primary has told of.
    refused: ShardSet,
    ended: HashMap<usize, Ended>,
}

/// A lane that has ended, or that could not begin.
struct Ended {
    at: Instant,
    pause: Duration,
    /// The primary was told that the shard is not followed.
    is_left: bool,
}

impl Subscriptions {
    /// Of a session that has asked for nothing yet.
    pub fn new(now: Instant) -> Subscriptions {
        let none = ShardSet::default();
        Subscriptions { asked: none, asked_at: now, follows: none, refused: none, ended: HashMap::new() }
    }

    /// What is to be asked for now, of what is wanted. It counts as asked from now on.
    pub fn ask(&mut self, wanted: ShardSet, now: Instant) -> ShardSet {
        let waits = |shard: &usize| self.ended.get(shard).is_some_and(|ended| now < ended.at + ended.pause);
        let missing = wanted.without(self.asked).without(self.follows);
        let missing: ShardSet = missing.iter().filter(|shard| !waits(shard)).collect();
        if self.asked.is_empty() {
            self.asked_at = now;
        }
        self.asked = self.asked.with(missing);
        self.note_left(missing, false);
        missing
    }

    /// For how long the primary has owed an answer.
    pub fn unanswered(&self, now: Instant) -> Duration {
        if self.asked.is_empty() { Duration::ZERO } else { now.saturating_duration_since(self.asked_at) }
    }

    /// Whether an answer is to come.
    pub fn awaits_answer(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The primary has answered. False if it was not asked.
    pub fn answered(&mut self, shard: usize, now: Instant) -> bool {
        let was_asked = self.asked.has(shard);
        self.asked.remove(shard);
        self.asked_at = now;
        was_asked
    }

    /// The shard has a lane.
    pub fn add(&mut self, shard: usize) {
        self.follows.insert(shard);
        self.refused.remove(shard);
    }

    /// What is not wanted any more, and is followed or was when its lane ended: the primary is to
    /// be told. It counts as followed no more.
    pub fn drop_unwanted(&mut self, wanted: ShardSet) -> ShardSet {
        let unwanted = self.follows.with(self.ended_and(|ended| !ended.is_left)).without(wanted);
        self.follows = self.follows.within(wanted);
        self.refused = self.refused.within(wanted);
        self.ended.retain(|shard, _| wanted.has(*shard));
        unwanted
    }

    /// What has no lane and is not asked for now: the primary is to be told, once. It counts on
    /// this replica in the other shards meanwhile.
    pub fn leave(&mut self) -> ShardSet {
        let left = self.ended_and(|ended| !ended.is_left).without(self.asked).without(self.follows);
        self.note_left(left, true);
        left
    }

    fn note_left(&mut self, shards: ShardSet, is_left: bool) {
        let these = self.ended.iter_mut().filter(|(shard, _)| shards.has(**shard));
        these.for_each(|(_, ended)| ended.is_left = is_left);
    }

    fn ended_and(&self, is_so: impl Fn(&Ended) -> bool) -> ShardSet {
        self.ended.iter().filter(|(_, ended)| is_so(ended)).map(|(shard, _)| *shard).collect()
    }

    /// A lane has ended. It is asked for again at once where it had lasted; else after a pause,
    /// which grows up to [`RETRY_PAUSE_MAX`] where it fails again and again.
    pub fn ended(&mut self, shard: usize, has_failed: bool, now: Instant) {
        self.follows.remove(shard);
        let recent = self.ended.get(&shard).filter(|before| now < before.at + before.pause + LANE_GOOD);
        let pause = match recent {
            None => Duration::ZERO,
            Some(before) if has_failed => (before.pause * 2).clamp(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX),
            Some(_) => RETRY_PAUSE_MIN,
        };
        self.ended.insert(shard, Ended { at: now, pause, is_left: false });
    }

    /// The shard cannot follow what the primary has told of. It is asked for again, ever more
    /// seldom: the primary may come to have another log.
    pub fn refuse(&mut self, shard: usize, now: Instant) {
        let before = self.ended.get(&shard).map_or(Duration::ZERO, |before| before.pause);
        let pause = (before * 2).clamp(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX);
        self.refused.insert(shard);
        self.ended.insert(shard, Ended { at: now, pause, is_left: false });
    }

    /// What cannot follow.
    pub fn refused(&self) -> ShardSet {
        self.refused
    }

    /// Whether all that is wanted, and can be followed, is followed.
    pub fn has_all(&self, wanted: ShardSet) -> bool {
        wanted.without(self.follows).without(self.refused).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> ShardSet {
        text.parse().unwrap()
    }

    #[test]
    fn each_shard_is_asked_for_once_and_dropped_once() {
        let now = Instant::now();
        let mut all = Subscriptions::new(now);
        assert_eq!(all.ask(set("0-3"), now), set("0-3"));
        assert!(all.ask(set("0-3"), now).is_empty() && all.awaits_answer() && !all.has_all(set("0-3")));
        (0..4).for_each(|shard| {
            assert!(all.answered(shard, now));
            all.add(shard);
        });
        assert!(all.has_all(set("0-3")) && !all.awaits_answer() && !all.answered(2, now));
        assert_eq!(all.drop_unwanted(set("0-1,7")), set("2-3"));
        assert!(all.drop_unwanted(set("0-1,7")).is_empty());
        assert_eq!(all.ask(set("0-1,7"), now), set("7"));
        let later = now + Duration::from_secs(3);
        assert_eq!(all.unanswered(later), Duration::from_secs(3));
    }

    /// The primary counts on it until it is told otherwise.
    #[test]
    fn a_shard_whose_lane_has_ended_is_dropped_once_as_well() {
        let now = Instant::now();
        let mut all = Subscriptions::new(now);
        all.ask(set("0-3"), now);
        (0..4).for_each(|shard| {
            assert!(all.answered(shard, now));
            all.add(shard);
        });
        all.ended(2, false, now);
        all.ended(3, true, now);
        assert_eq!(all.drop_unwanted(set("0,3")), set("1-2"));
        assert!(all.drop_unwanted(set("0,3")).is_empty());
        assert_eq!(all.drop_unwanted(set("0")), set("3"));
    }

    /// Else the primary would wait for it there, and count it nowhere.
    #[test]
    fn a_shard_whose_lane_does_not_come_back_at_once_is_left_until_it_does() {
        let mut now = Instant::now();
        let mut all = Subscriptions::new(now);
        let follow = |all: &mut Subscriptions, now| {
            all.ask(set("0-3"), now).iter().for_each(|shard| {
                assert!(all.answered(shard, now));
                all.add(shard);
            });
        };
        follow(&mut all, now);
        all.ended(2, true, now);
        assert_eq!(all.ask(set("0-3"), now), set("2"));
        assert!(all.leave().is_empty(), "it was asked for again at once");
        assert!(all.answered(2, now));
        all.add(2);
        all.ended(2, true, now);
        assert!(all.ask(set("0-3"), now).is_empty());
        assert_eq!((all.leave(), all.leave()), (set("2"), ShardSet::default()));
        assert!(all.drop_unwanted(set("0-1,3")).is_empty(), "the primary was told");
        now += RETRY_PAUSE_MIN;
        follow(&mut all, now);
        assert_eq!((all.leave(), all.has_all(set("0-3"))), (ShardSet::default(), true));
    }

    #[test]
    fn a_shard_that_cannot_follow_is_left_and_asked_for_ever_more_seldom() {
        let (begun, mut now) = (Instant::now(), Instant::now());
        let mut all = Subscriptions::new(now);
        let mut tries = 0;
        while now < begun + Duration::from_secs(60) {
            let before = tries;
            for shard in all.ask(set("0-1"), now).iter() {
                assert!(all.answered(shard, now));
                if shard == 0 {
                    all.add(0)
                } else {
                    all.refuse(1, now)
                }
                tries += usize::from(shard == 1);
            }
            let is_refused_now = tries > before;
            assert_eq!(all.leave(), if is_refused_now { set("1") } else { ShardSet::default() });
            assert!(all.leave().is_empty(), "it was told");
            assert!(all.has_all(set("0-1")) && all.refused() == set("1"));
            now += Duration::from_millis(100);
        }
        assert!((12..25).contains(&tries), "{tries}");
        all.add(1);
        assert!(all.refused().is_empty());
    }

    #[test]
    fn a_lane_that_ends_again_and_again_is_asked_for_ever_more_seldom() {
        let (mut now, one) = (Instant::now(), set("5"));
        let mut all = Subscriptions::new(now);
        let follow = |all: &mut Subscriptions, now| {
            assert_eq!(all.ask(one, now), one);
            assert!(all.answered(5, now));
            all.add(5);
        };
        follow(&mut all, now);
        all.ended(5, true, now);
        // It may have been the first in years.
        follow(&mut all, now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            all.ended(5, true, now);
            let begun = now;
            while all.ask(one, now).is_empty() {
                now += Duration::from_millis(1);
            }
            pauses.push(now - begun);
            assert!(all.answered(5, now));
            all.add(5);
        }
        assert_eq!(pauses[0], RETRY_PAUSE_MIN);
        assert!(pauses.windows(2).all(|two| two[1] == (two[0] * 2).min(RETRY_PAUSE_MAX)), "{pauses:?}");
        // An end that is no failure does not add up.
        all.ended(5, false, now);
        now += RETRY_PAUSE_MIN;
        follow(&mut all, now);
        now += Duration::from_secs(10);
        all.ended(5, true, now);
        follow(&mut all, now);
    }
}
