//! The pullers of one replica, in one thread: each takes steps with its share of the shards, some
//! more, some less. They are asked as if they were one.

use fastrand::Rng;
use remora::base::term::Term;
use remora::fabric::FabricError;
use remora::replication::pull::{Counts, Lag, PullError, Puller, Sign, Step};
use std::time::Duration;

/// See the module.
pub struct Pullers<'s> {
    all: Vec<Puller<'s>>,
    random: Rng,
}

impl<'s> Pullers<'s> {
    /// In the order of their shares.
    pub fn new(all: Vec<Puller<'s>>, seed: u64) -> Pullers<'s> {
        Pullers { all, random: Rng::with_seed(seed) }
    }

    /// One that is alone takes a step. Of several each takes one, or none, or a few.
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

    /// See [`Puller::known`].
    pub fn known(&self) -> Vec<Option<Term>> {
        self.all.iter().flat_map(Puller::known).collect()
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

    /// All are.
    pub fn is_caught_up(&self) -> bool {
        self.all.iter().all(Puller::is_caught_up)
    }

    /// All tell the primary where they stand.
    pub fn summarize(&mut self) -> Result<(), FabricError> {
        self.all.iter_mut().try_for_each(Puller::summarize)
    }
}
