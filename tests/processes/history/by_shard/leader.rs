//! A leader: who decides which server is the primary of which shards, in place of an operator.
//! Pure: what was seen of the servers and the time come in, one order at most goes out.
//!
//! It holds no truth of its own. Each step follows from what the servers say at that moment, so a
//! leader may stop anywhere, and another one that knows nothing goes on:
//!
//! | what is seen | what follows |
//! | --- | --- |
//! | a server carries out an order | look again: one order at a time |
//! | a shard without a primary, and a server that does not answer | look again: that one may be the primary, or have more |
//! | a shard without a primary, and all that live answer | one of them is promoted, and gathers from all the others |
//! | a hand-over is wished for, the heir follows the primary | the heir takes over |
//! | a server does not follow a shard's primary | it is told to |
//!
//! An heir that cannot have a shard (it lacks a term that another has) is not tried for ever: with
//! each failure another one is asked, and after all of them have failed, for one shard at a time.
//! Members of a shard's set are not known here, so nobody who lives is left out of a gathering.

use fastrand::Rng;
use remora::base::shards::ShardSet;
use std::time::Duration;

/// After an order has failed, before the next.
const PAUSE: Duration = Duration::from_millis(50);
/// A hand-over that fails so often is given up.
const TRIES_MAX: u32 = 4;

/// What has become of a server's last order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// There was none.
    None,
    Running,
    Done,
    Failed,
}

/// What one server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// It is the primary of these.
    pub own: ShardSet,
    /// Whom it follows in which shards, ready or not. None: nobody whom the leader knows.
    pub follows: Vec<(Option<usize>, ShardSet)>,
    pub order: Order,
}

/// What can be told of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// Its process has ended, for certain.
    Gone,
    /// It does not answer, and may do anything.
    Silent,
    Seen(View),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look again.
    Wait,
    Promote {
        heir: usize,
        shards: ShardSet,
        gathers: Vec<usize>,
        takes_over: bool,
    },
    Replicate {
        server: usize,
        primary: usize,
        shards: ShardSet,
    },
    /// All servers are there, each shard has a primary, and all others follow it.
    Rest,
}

/// A hand-over that somebody wants.
#[derive(Debug, Clone, Copy)]
struct Wish {
    heir: usize,
    shards: ShardSet,
    tries: u32,
}

/// See the module.
pub struct Leader {
    random: Rng,
    wish: Option<Wish>,
    /// The shards that had no primary in the look before.
    lost: ShardSet,
    /// Whom it has given an order that it has not seen the end of.
    ordered: Option<usize>,
    /// Promotions without a primary that have failed one after the other.
    failures: usize,
    not_before: Duration,
}

impl View {
    fn follows(&self, server: usize) -> ShardSet {
        let theirs = self.follows.iter().filter(|(whom, _)| *whom == Some(server));
        theirs.fold(ShardSet::default(), |all, (_, shards)| all.with(*shards))
    }
}

/// The servers that answer.
fn seen(sights: &[Sight]) -> impl Iterator<Item = (usize, &View)> {
    sights.iter().enumerate().filter_map(|(server, sight)| match sight {
        Sight::Seen(view) => Some((server, view)),
        _ => None,
    })
}

/// The shards that a server says that it is the primary of.
fn taken(sights: &[Sight]) -> ShardSet {
    seen(sights).fold(ShardSet::default(), |all, (_, view)| all.with(view.own))
}

/// The shards of `all` that nobody who answers is the primary of.
pub fn without_primary(all: ShardSet, sights: &[Sight]) -> ShardSet {
    all.without(taken(sights))
}

impl Leader {
    pub fn new(seed: u64) -> Leader {
        Leader {
            random: Rng::with_seed(seed),
            wish: None,
            lost: ShardSet::default(),
            ordered: None,
            failures: 0,
            not_before: Duration::ZERO,
        }
    }

    /// Somebody wants this server to have these shards.
    pub fn wish(&mut self, heir: usize, shards: ShardSet) {
        self.wish = Some(Wish { heir, shards, tries: 0 });
    }

    pub fn has_wish(&self) -> bool {
        self.wish.is_some()
    }

    /// What is to be done at `now`, by what was just seen of each server.
    pub fn step(&mut self, now: Duration, all: ShardSet, sights: &[Sight]) -> Action {
        self.note_outcome(now, sights);
        let lost = without_primary(all, sights);
        // Servers are asked one after the other, so a role that changed hands meanwhile may be seen
        // at neither. It is seen at the next look.
        let twice = std::mem::replace(&mut self.lost, lost).within(lost);
        let is_busy = seen(sights).any(|(_, view)| view.order == Order::Running);
        if is_busy || now < self.not_before {
            return Action::Wait;
        }
        let action = if lost.is_empty() { self.hand_over(sights) } else { self.succeed(twice, sights) };
        let action = action.unwrap_or_else(|| self.follow(lost, sights));
        self.ordered = match action {
            Action::Promote { heir: server, .. } | Action::Replicate { server, .. } => Some(server),
            Action::Wait | Action::Rest => None,
        };
        action
    }

    fn note_outcome(&mut self, now: Duration, sights: &[Sight]) {
        let Some(server) = self.ordered else { return };
        let outcome = match &sights[server] {
            Sight::Gone => Order::Failed,
            Sight::Silent => return,
            Sight::Seen(view) => view.order,
        };
        match outcome {
            Order::Running => return,
            Order::Done => self.failures = 0,
            Order::None | Order::Failed => {
                self.failures += 1;
                self.not_before = now + PAUSE;
                if let Some(wish) = &mut self.wish {
                    wish.tries += 1;
                }
            }
        }
        self.ordered = None;
    }

    /// Somebody who lives becomes the primary of what has none. None: nothing can be done about it.
    fn succeed(&mut self, lost: ShardSet, sights: &[Sight]) -> Option<Action> {
        self.wish = None;
        if sights.contains(&Sight::Silent) || lost.is_empty() {
            return Some(Action::Wait);
        }
        let living: Vec<usize> = seen(sights).map(|(server, _)| server).collect();
        let heir = match self.failures {
            0 => living[self.random.usize(0..living.len())],
            failures => living[failures % living.len()],
        };
        let shards: Vec<usize> = lost.iter().collect();
        let shards = match self.failures / living.len() {
            0 if self.random.bool() => lost,
            0 => shards.iter().copied().step_by(2).collect(),
            rounds => ShardSet::one(shards[rounds % shards.len()]),
        };
        let gathers = living.into_iter().filter(|server| *server != heir).collect();
        Some(Action::Promote { heir, shards, gathers, takes_over: false })
    }

    fn hand_over(&mut self, sights: &[Sight]) -> Option<Action> {
        let Wish { heir, shards, tries } = self.wish?;
        let Sight::Seen(view) = &sights[heir] else { return None };
        let shards = shards.without(view.own);
        // The primaries of these shards.
        let from: Vec<(usize, ShardSet)> = seen(sights)
            .map(|(server, one)| (server, one.own.within(shards)))
            .filter(|(_, shards)| !shards.is_empty())
            .collect();
        let Some((primary, theirs)) = from.first().copied().filter(|_| tries < TRIES_MAX) else {
            self.wish = None;
            return None;
        };
        if !theirs.without(view.follows(primary)).is_empty() {
            // It is told to follow first.
            return None;
        }
        let others = seen(sights).map(|(server, _)| server).filter(|server| ![heir, primary].contains(server));
        let gathers = if self.random.bool() { others.collect() } else { Vec::new() };
        Some(Action::Promote { heir, shards: theirs, gathers, takes_over: true })
    }

    /// Who does not follow a primary follows it.
    fn follow(&mut self, lost: ShardSet, sights: &[Sight]) -> Action {
        let mut missing = Vec::new();
        for (primary, theirs) in seen(sights).filter(|(_, view)| !view.own.is_empty()) {
            for (server, view) in seen(sights).filter(|(server, _)| *server != primary) {
                let shards = theirs.own.without(view.own).without(view.follows(primary));
                if !shards.is_empty() {
                    missing.push(Action::Replicate { server, primary, shards });
                }
            }
        }
        // Where one cannot be told, others are.
        match missing.len() {
            0 if lost.is_empty() && seen(sights).count() == sights.len() => Action::Rest,
            0 => Action::Wait,
            many => missing.swap_remove(self.random.usize(0..many)),
        }
    }
}

#[cfg(test)]
#[path = "leader_tests.rs"]
mod tests;
