//! An answer that is held until enough replicas have what it tells of, and when that ends.
//!
//! Takes what the replicas have applied (through [`Holders`], which the server looks up), the time,
//! and what has become of this server; says what becomes of the answer. Pure. The queue of a
//! connection's held answers is in [`super::Output`].

use super::Reign;
use crate::base::limits::ACK_MILLISECONDS_DEFAULT;
use crate::protocol::reply;
use std::time::{Duration, Instant};

/// How many replicas a write waits for, and how long, where the request says nothing.
#[derive(Debug, Clone, Copy)]
pub struct AckPolicy {
    /// 0: none.
    pub replicas: u8,
    /// Afterwards the client is told what is known.
    pub timeout: Duration,
}

impl Default for AckPolicy {
    fn default() -> AckPolicy {
        AckPolicy { replicas: 0, timeout: Duration::from_millis(ACK_MILLISECONDS_DEFAULT) }
    }
}

/// Who has applied what.
pub trait Holders {
    /// How many replicas have applied everything below `position` of a shard.
    fn holders(&self, shard: usize, position: u64) -> usize;
    /// How many have applied everything below `positions[n]` of each shard n.
    fn holders_of_all(&self, positions: &[u64]) -> usize;
}

/// What held answers are judged by.
pub struct Judge<'a> {
    /// The replicas.
    pub holders: &'a dyn Holders,
    /// The time.
    pub now: Instant,
    /// The server ends: nothing is waited for any more.
    pub ending: bool,
    /// The engine's now. After a change of the role its replicas report positions of another
    /// server's log, or of a log that has gone on from another server's: they say nothing about
    /// answers of an earlier reign. The role changes only after the turns under way have ended, so
    /// no such position is mistaken for one of the reign before.
    pub reign: Reign,
}

/// What must have been applied.
#[derive(Debug)]
pub enum Goal {
    /// One shard, up to a position.
    Shard {
        /// Which.
        shard: u32,
        /// Up to where.
        position: u64,
    },
    /// All shards, up to these positions.
    All(Box<[u64]>),
}

impl Goal {
    fn holders(&self, holders: &dyn Holders) -> usize {
        match self {
            Goal::Shard { shard, position } => holders.holders(*shard as usize, *position),
            Goal::All(positions) => holders.holders_of_all(positions),
        }
    }

    /// Memory beside its own.
    pub fn bytes(&self) -> usize {
        match self {
            Goal::Shard { .. } => 0,
            Goal::All(positions) => size_of_val(&**positions),
        }
    }
}

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The answer to a write: it goes out as it is, or an error in its place.
    Write,
    /// The answer to wait, made when it is due: how many replicas there are that have it all.
    Count,
}

/// An answer's wait.
#[derive(Debug)]
pub struct Held {
    /// What is held.
    pub kind: Kind,
    /// What must have been applied.
    pub goal: Goal,
    /// The reign in which that was written.
    pub reign: Reign,
    /// By how many.
    pub replicas: u8,
    /// Since when it is waited for.
    pub since: Instant,
    /// For how long at most.
    pub within: Duration,
}

/// What becomes of a held answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It waits.
    Waits,
    /// It goes out as it is.
    Stands,
    /// This count is the answer.
    Counted(usize),
    /// The time is over, and only so many replicas have it.
    TimedOut(usize),
    /// Whether enough replicas have it can no longer be known.
    Demoted,
}

impl Held {
    /// See [`Verdict`].
    pub fn verdict(&self, judge: &Judge<'_>) -> Verdict {
        if judge.reign != self.reign && self.kind == Kind::Write {
            return Verdict::Demoted;
        }
        let count = self.goal.holders(judge.holders);
        let enough = count >= usize::from(self.replicas);
        let over = || judge.ending || judge.now.saturating_duration_since(self.since) >= self.within;
        match self.kind {
            Kind::Write if enough => Verdict::Stands,
            Kind::Write if over() => Verdict::TimedOut(count),
            Kind::Count if enough || over() => Verdict::Counted(count),
            Kind::Write | Kind::Count => Verdict::Waits,
        }
    }

    /// Append what the client is told instead of the answer that was held.
    pub fn write_verdict(&self, verdict: Verdict, now: Instant, out: &mut Vec<u8>) {
        match verdict {
            Verdict::Waits | Verdict::Stands => {}
            Verdict::Counted(count) => reply::replicas_line(out, count),
            Verdict::TimedOut(count) => {
                let waited = now.saturating_duration_since(self.since).as_millis();
                reply::unacknowledged_line(out, count, self.replicas, waited);
            }
            Verdict::Demoted => out.extend_from_slice(reply::DEMOTED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many replicas, each of which has applied every shard up to a position.
    struct Applied(Vec<u64>);

    impl Holders for Applied {
        fn holders(&self, _shard: usize, position: u64) -> usize {
            self.0.iter().filter(|applied| **applied >= position).count()
        }

        fn holders_of_all(&self, positions: &[u64]) -> usize {
            self.0.iter().filter(|applied| positions.iter().all(|position| *applied >= position)).count()
        }
    }

    #[test]
    fn a_write_waits_for_enough_replicas_or_until_its_time_is_over() {
        let since = Instant::now();
        let held = |kind, replicas| Held {
            kind,
            goal: Goal::Shard { shard: 1, position: 100 },
            reign: Reign::default(),
            replicas,
            since,
            within: Duration::from_millis(50),
        };
        let applied = Applied(vec![99, 100, 101]);
        let judge = |milliseconds| Judge {
            holders: &applied,
            now: since + Duration::from_millis(milliseconds),
            ending: false,
            reign: Reign::default(),
        };
        assert_eq!(held(Kind::Write, 2).verdict(&judge(0)), Verdict::Stands);
        assert_eq!(held(Kind::Write, 3).verdict(&judge(49)), Verdict::Waits);
        assert_eq!(held(Kind::Write, 3).verdict(&judge(50)), Verdict::TimedOut(2));
        assert_eq!(held(Kind::Count, 2).verdict(&judge(0)), Verdict::Counted(2));
        assert_eq!(held(Kind::Count, 3).verdict(&judge(49)), Verdict::Waits);
        assert_eq!(held(Kind::Count, 3).verdict(&judge(50)), Verdict::Counted(2));
        let ending = Judge { ending: true, ..judge(0) };
        assert_eq!(held(Kind::Write, 3).verdict(&ending), Verdict::TimedOut(2));
        let replica = Reign::default().with_role(true);
        for reign in [replica, replica.with_role(false)] {
            let later = Judge { reign, ..judge(0) };
            assert_eq!(held(Kind::Write, 1).verdict(&later), Verdict::Demoted, "positions are of another log now");
            assert_eq!(held(Kind::Count, 1).verdict(&later), Verdict::Counted(2));
        }
    }

    #[test]
    fn all_shards_must_be_applied_by_the_same_replica() {
        let held = Held {
            kind: Kind::Write,
            goal: Goal::All([100, 101].into()),
            reign: Reign::default(),
            replicas: 1,
            since: Instant::now(),
            within: Duration::MAX,
        };
        for (applied, verdict) in [(vec![100, 100], Verdict::Waits), (vec![0, 101], Verdict::Stands)] {
            let applied = Applied(applied);
            let judge = Judge { holders: &applied, now: held.since, ending: false, reign: held.reign };
            assert_eq!(held.verdict(&judge), verdict);
        }
    }
}
