//! The pullers of one replica, in one thread: each takes steps with its share of the shards, some
//! more, some less. They are asked as if they were one.

use fastrand::Rng;
use remora::fabric::FabricError;
use remora::replication::ack::Tag;
use remora::replication::pull::{Counts, Lag, LaneEnd, PullError, Puller, Sign, Step};
use remora::replication::shares::Shares;
use remora::store::{Follower, History};
use std::collections::BTreeSet;
use std::time::Duration;

/// What ends a session: a puller has ended, or a lane has, and then all join again.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("{0}")]
    Puller(#[from] PullError),
    #[error("{0}")]
    Lane(#[from] LaneEnd),
}

/// See the module.
pub struct Pullers<'s> {
    all: Vec<Puller<'s>>,
    shares: Shares,
    /// The shards without a lane.
    dropped: BTreeSet<usize>,
    random: Rng,
}

impl<'s> Pullers<'s> {
    /// In the order of their shares.
    pub fn new(all: Vec<Puller<'s>>, shards: usize, seed: u64) -> Pullers<'s> {
        let shares = Shares::new(shards, all.len());
        Pullers { all, shares, dropped: BTreeSet::new(), random: Rng::with_seed(seed) }
    }

    /// One that is alone takes a step. Of several each takes one, or none, or a few. What has ended
    /// lanes is left to [`Pullers::ended`].
    pub fn step(&mut self, wait: Duration) -> Result<Step, PullError> {
        if let [alone] = &mut self.all[..] {
            return alone.step(wait);
        }
        let mut together = Step { moved: false, applied: false };
        for puller in &mut self.all {
            for _ in 0..self.random.usize(0..4) {
                let step = puller.step(wait)?;
                together = Step { moved: together.moved || step.moved, applied: together.applied || step.applied };
            }
        }
        Ok(together)
    }

    /// The lanes that have ended.
    pub fn ended(&self) -> impl Iterator<Item = &(usize, LaneEnd)> {
        self.all.iter().flat_map(Puller::ended)
    }

    /// See [`Puller::drop_lane`].
    pub fn drop_lane(&mut self, shard: usize) {
        self.all[self.shares.owner(shard)].drop_lane(shard);
        assert!(self.dropped.insert(shard), "shard {shard} had a lane");
    }

    /// The number of the one that has this shard.
    pub fn owner(&self, shard: usize) -> usize {
        self.shares.owner(shard)
    }

    /// A shard that was dropped has a lane again, which goes on from where the last one was.
    pub fn add_again(&mut self, shard: usize, follower: Follower<'s>, theirs: History, tag: Tag) {
        assert!(self.dropped.remove(&shard), "it was dropped");
        self.all[self.shares.owner(shard)].add(shard, follower, theirs, tag);
    }

    /// The shards without a lane.
    pub fn dropped(&self) -> Vec<usize> {
        self.dropped.iter().copied().collect()
    }

    /// Of all together.
    pub fn counts(&self) -> Counts {
        self.all.iter().fold(Counts::default(), |sum, puller| sum.plus(&puller.counts()))
    }

    /// Of all together.
    pub fn lag(&self) -> Lag {
        self.all.iter().fold(Lag::default(), |sum, puller| sum.with(puller.lag()))
    }

    /// Of all together.
    pub fn sign(&self) -> Sign {
        self.all.iter().map(Puller::sign).reduce(Sign::with).unwrap_or_default()
    }

    /// All shards have a lane, and all are.
    pub fn is_caught_up(&self) -> bool {
        self.dropped.is_empty() && self.all.iter().all(Puller::is_caught_up)
    }

    /// All tell the primary where they stand.
    pub fn summarize(&mut self) -> Result<(), FabricError> {
        self.all.iter_mut().try_for_each(Puller::summarize)
    }
}
