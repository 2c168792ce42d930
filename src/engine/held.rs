//! An answer that is held until enough replicas have what it tells of, and when that ends.
//!
//! Takes what the replicas have applied (through [`Holders`], which the server looks up), the time,
//! and what has become of the shards ([`Reigns`]); says what becomes of the answer. Pure. The queue
//! of a connection's held answers is in [`super::Output`].

use crate::base::limits::ACK_MILLISECONDS_DEFAULT;
use crate::protocol::reply::Fault;
use crate::protocol::text::encode;
use crate::protocol::{Refusal, Reply};
use crate::store::{Reign, Store};
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
}

/// The reign of each shard; see [`crate::store::reign`].
pub trait Reigns {
    /// Of this one, now.
    fn reign(&self, shard: usize) -> Reign;
}

impl Reigns for Store {
    fn reign(&self, shard: usize) -> Reign {
        self.shards()[shard].reign()
    }
}

/// What held answers are judged by.
pub struct Judge<'a> {
    /// The replicas.
    pub holders: &'a dyn Holders,
    /// The time.
    pub now: Instant,
    /// The server ends: nothing is waited for any more.
    pub ending: bool,
    /// The reigns of now. After a change of a shard's gate its replicas report positions of another
    /// server's log, or of a log that has gone on from another server's: they say nothing about
    /// what was written before.
    pub reigns: &'a dyn Reigns,
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
    /// All shards, up to these positions, each by replicas of its own; 0 for one that does not
    /// count.
    All(Box<[u64]>),
}

impl Goal {
    /// How many replicas have it; of several shards, how many have the one that fewest have. A
    /// replica may have some shards of this server alone, and others of other servers.
    fn holders(&self, holders: &dyn Holders) -> usize {
        match self {
            Goal::Shard { shard, position } => holders.holders(*shard as usize, *position),
            Goal::All(positions) => {
                let asked = positions.iter().enumerate().filter(|(_, position)| **position > 0);
                asked.map(|(shard, position)| holders.holders(shard, *position)).min().unwrap_or(0)
            }
        }
    }

    /// Whether the gate of one of its shards has changed since `reign` was the store's.
    fn has_lost_a_shard(&self, reigns: &dyn Reigns, reign: Reign) -> bool {
        match self {
            Goal::Shard { shard, .. } => reigns.reign(*shard as usize) > reign,
            Goal::All(positions) => {
                let has_changed = |(shard, position): (usize, &u64)| *position > 0 && reigns.reign(shard) > reign;
                positions.iter().enumerate().any(has_changed)
            }
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
    /// The answer to a write: it goes out as it is, or an error in its place, told like this.
    Write(Reply),
    /// The answer to wait, made when it is due: how many replicas have it, as [`Goal`] counts them.
    Count,
}

/// An answer's wait.
#[derive(Debug)]
pub struct Held {
    /// What is held.
    pub kind: Kind,
    /// What must have been applied.
    pub goal: Goal,
    /// The store's reign before that was written. (One number for all shards: reigns are counted
    /// for the whole store.)
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
        let count = self.goal.holders(judge.holders);
        // Asked last: a shard may be closed, and followed, while this is judged. A position of what
        // is followed is told only once the gate is closed.
        if self.goal.has_lost_a_shard(judge.reigns, self.reign) {
            return Verdict::Demoted;
        }
        let enough = count >= usize::from(self.replicas);
        let over = || judge.ending || judge.now.saturating_duration_since(self.since) >= self.within;
        match self.kind {
            Kind::Write(_) if enough => Verdict::Stands,
            Kind::Write(_) if over() => Verdict::TimedOut(count),
            Kind::Count if enough || over() => Verdict::Counted(count),
            Kind::Write(_) | Kind::Count => Verdict::Waits,
        }
    }

    /// Append what the client is told instead of the answer that was held.
    pub fn write_verdict(&self, verdict: Verdict, now: Instant, out: &mut Vec<u8>) {
        let reply = match self.kind {
            Kind::Write(reply) => reply,
            Kind::Count => Reply::Text,
        };
        match verdict {
            Verdict::Waits | Verdict::Stands => {}
            Verdict::Counted(count) => encode::replicas(out, count),
            Verdict::TimedOut(count) => {
                let waited = now.saturating_duration_since(self.since).as_millis();
                let wanted = self.replicas;
                let why = format_args!(
                    "not acknowledged: {count} of {wanted} replicas have it after {waited} ms; it is stored here"
                );
                reply.refused_because(out, Fault::Server, why);
            }
            Verdict::Demoted => reply.refused(out, Refusal::Demoted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreConfig;

    /// So many replicas, each of which has applied every shard up to a position.
    struct Applied(Vec<u64>);

    impl Holders for Applied {
        fn holders(&self, _shard: usize, position: u64) -> usize {
            self.0.iter().filter(|applied| **applied >= position).count()
        }
    }

    /// The reign of each shard.
    struct Reached(Vec<Reign>);

    impl Reigns for Reached {
        fn reign(&self, shard: usize) -> Reign {
            self.0[shard]
        }
    }

    const WRITE: Kind = Kind::Write(Reply::Text);

    /// As a store begins.
    const FIRST: Reign = Reign::BIRTH;

    #[test]
    fn a_write_waits_for_enough_replicas_or_until_its_time_is_over() {
        let since = Instant::now();
        let held = |kind, replicas| Held {
            kind,
            goal: Goal::Shard { shard: 1, position: 100 },
            reign: FIRST,
            replicas,
            since,
            within: Duration::from_millis(50),
        };
        let (applied, reigns) = (Applied(vec![99, 100, 101]), Reached(vec![FIRST.next(), FIRST]));
        let judge = |milliseconds| Judge {
            holders: &applied,
            now: since + Duration::from_millis(milliseconds),
            ending: false,
            reigns: &reigns,
        };
        assert_eq!(held(WRITE, 2).verdict(&judge(0)), Verdict::Stands);
        assert_eq!(held(WRITE, 3).verdict(&judge(49)), Verdict::Waits);
        assert_eq!(held(WRITE, 3).verdict(&judge(50)), Verdict::TimedOut(2));
        assert_eq!(held(Kind::Count, 2).verdict(&judge(0)), Verdict::Counted(2));
        assert_eq!(held(Kind::Count, 3).verdict(&judge(49)), Verdict::Waits);
        assert_eq!(held(Kind::Count, 3).verdict(&judge(50)), Verdict::Counted(2));
        let ending = Judge { ending: true, ..judge(0) };
        assert_eq!(held(WRITE, 3).verdict(&ending), Verdict::TimedOut(2));
    }

    #[test]
    fn what_is_judged_after_its_gate_has_changed_is_in_doubt_whoever_has_it() {
        let held =
            |kind, goal, reign| Held { kind, goal, reign, replicas: 1, since: Instant::now(), within: Duration::MAX };
        let shard = |shard| Goal::Shard { shard, position: 100 };
        let all = |positions: [u64; 3]| Goal::All(positions.into());
        let (second, third) = (FIRST.next(), FIRST.next().next());
        // Shard 1 was closed, then opened again.
        let (applied, reigns) = (Applied(vec![100]), Reached(vec![FIRST, third, FIRST]));
        let judge = Judge { holders: &applied, now: Instant::now(), ending: false, reigns: &reigns };
        for kind in [WRITE, Kind::Count] {
            let has_it = if kind == WRITE { Verdict::Stands } else { Verdict::Counted(1) };
            for (goal, reign, verdict) in [
                (shard(1), FIRST, Verdict::Demoted),
                (shard(1), second, Verdict::Demoted),
                (shard(1), third, has_it),
                (shard(0), FIRST, has_it),
                (all([100, 100, 100]), second, Verdict::Demoted),
                (all([100, 100, 100]), third, has_it),
                (all([100, 0, 100]), FIRST, has_it),
            ] {
                let held = held(kind, goal, reign);
                assert_eq!(held.verdict(&judge), verdict, "{held:?}");
            }
        }
    }

    /// Gates that change while they are looked at: whoever counts the holders after that counts
    /// those of another log.
    struct Closing<'a>(&'a Store);

    impl Holders for Closing<'_> {
        fn holders(&self, shard: usize, _position: u64) -> usize {
            self.0.close_gates([shard], None);
            1
        }
    }

    #[test]
    fn a_gate_that_is_closed_while_an_answer_is_judged_leaves_it_in_doubt() {
        for goal in [Goal::Shard { shard: 1, position: 100 }, Goal::All([100, 100].into())] {
            let config = StoreConfig { memory_bytes: 1 << 20, shards: Some(2), ..StoreConfig::default() };
            let store = Store::new(StoreConfig { item_bytes_max: 1 << 10, ..config }).unwrap();
            let reign = store.reign();
            let judge = Judge { holders: &Closing(&store), now: Instant::now(), ending: false, reigns: &store };
            let (since, within) = (judge.now, Duration::MAX);
            let held = Held { kind: WRITE, goal, reign, replicas: 1, since, within };
            assert_eq!(held.verdict(&judge), Verdict::Demoted);
        }
    }

    /// So many replicas have everything of each shard.
    struct Having([usize; 3]);

    impl Holders for Having {
        fn holders(&self, shard: usize, _position: u64) -> usize {
            self.0[shard]
        }
    }

    /// Which replicas these are does not matter: those of one shard need not have another.
    #[test]
    fn each_shard_is_held_by_enough_replicas_of_its_own() {
        let held = Held {
            kind: WRITE,
            goal: Goal::All([100, 101, 0].into()),
            reign: FIRST,
            replicas: 2,
            since: Instant::now(),
            within: Duration::MAX,
        };
        for (having, kind, verdict) in [
            ([2, 2, 0], WRITE, Verdict::Stands),
            ([2, 3, 0], Kind::Count, Verdict::Counted(2)),
            ([2, 1, 0], WRITE, Verdict::Waits),
            ([0, 3, 3], Kind::Count, Verdict::Waits),
        ] {
            let (having, reigns) = (Having(having), Reached(vec![FIRST; 3]));
            let judge = Judge { holders: &having, now: held.since, ending: false, reigns: &reigns };
            let held = Held { kind, goal: Goal::All([100, 101, 0].into()), ..held };
            assert_eq!(held.verdict(&judge), verdict);
        }
    }
}
