//! Where this process stands in chains of replicas: its own number, how many links it is away from
//! the root, how far behind the root it is, and through which servers its log comes. (The *root* is
//! the server that takes writes; each server *above* this one is nearer to the root.) The thread
//! that follows writes what it hears from above; sessions tell it to the replicas below, once a
//! second, each for the shards that its replica subscribes to.
//!
//! A process may follow several servers, each with other shards, and take writes in the rest: so it
//! has a [`Standing`] for each following, and the [`Chain`] says which shards come by which.
//!
//! **Path.** The servers through which shards come: this one, the one that it follows, and so on. A
//! server refuses a replica that is on the path of what it subscribes to: it would follow itself.
//!
//! **Lag.** The sum of what each link has measured. Time in which nothing was heard from above
//! counts as lag.

use super::HEARTBEAT;
use crate::base::shards::ShardSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A heartbeat that is at most so old counts as current. One comes each second, and a busy host may
/// delay it.
const FRESH: Duration = HEARTBEAT.saturating_mul(3);

/// A server's number: random, made at its start.
pub type ServerNumber = [u8; 16];

/// How far from the root; all zero at the root itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Distance {
    /// Links from here to the root.
    pub depth: u32,
    /// Behind, in bytes: the sum over all links.
    pub lag_bytes: u64,
    /// Behind, in time: the same.
    pub lag_microseconds: u64,
}

impl Distance {
    /// Of shards that come by one link and others that come by another: the longer way, what lacks
    /// in all, and the longer time.
    fn beside(self, other: Distance) -> Distance {
        Distance {
            depth: self.depth.max(other.depth),
            lag_bytes: self.lag_bytes.saturating_add(other.lag_bytes),
            lag_microseconds: self.lag_microseconds.max(other.lag_microseconds),
        }
    }
}

/// Where a process stands with the shards that it follows at one server.
#[derive(Debug)]
pub struct Standing {
    below: Mutex<Below>,
}

/// What is known of that server, and of the link to it.
#[derive(Debug, Clone)]
struct Below {
    upstream: Distance,
    path: Vec<ServerNumber>,
    heard_at: Instant,
    lag_bytes: u64,
    lag_microseconds: u64,
    measured_at: Instant,
}

impl Default for Standing {
    /// Of a following that begins. The server that is followed counts as the root until it is
    /// heard.
    fn default() -> Standing {
        let now = Instant::now();
        Standing {
            below: Mutex::new(Below {
                upstream: Distance::default(),
                path: Vec::new(),
                heard_at: now,
                lag_bytes: 0,
                lag_microseconds: 0,
                measured_at: now,
            }),
        }
    }
}

impl Standing {
    /// The server that this process follows has told its own distance, and the path.
    pub fn heard(&self, upstream: Distance, path: Vec<ServerNumber>) {
        let mut below = self.below();
        (below.upstream, below.path, below.heard_at) = (upstream, path, Instant::now());
    }

    /// The session with that server begins or has ended. So much is known of the path, and nothing
    /// after its end: then nothing comes through it.
    pub fn comes_through(&self, path: Vec<ServerNumber>) {
        self.below().path = path;
    }

    /// Other shards come by the same server; the servers through which those come.
    pub fn comes_also_through(&self, path: &[ServerNumber]) {
        let mut below = self.below();
        let new: Vec<ServerNumber> = path.iter().filter(|server| !below.path.contains(server)).copied().collect();
        below.path.extend(new);
    }

    /// This process is so far behind the server that it follows.
    pub fn measured(&self, lag_bytes: u64, lag: Duration) {
        let mut below = self.below();
        (below.lag_bytes, below.lag_microseconds) = (lag_bytes, lag.as_micros() as u64);
        below.measured_at = Instant::now();
    }

    /// How far from the root it is now.
    pub fn distance(&self) -> Distance {
        self.distance_at(Instant::now())
    }

    fn distance_at(&self, now: Instant) -> Distance {
        let below = self.below();
        let unheard = |since: Instant| match now.saturating_duration_since(since) {
            age if age > FRESH => age.as_micros() as u64,
            _ => 0,
        };
        let upstream = below.upstream;
        Distance {
            depth: upstream.depth.saturating_add(1),
            lag_bytes: upstream.lag_bytes.saturating_add(below.lag_bytes),
            lag_microseconds: upstream
                .lag_microseconds
                .saturating_add(below.lag_microseconds)
                .saturating_add(unheard(below.heard_at).max(unheard(below.measured_at))),
        }
    }

    fn below(&self) -> MutexGuard<'_, Below> {
        self.below.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Chain {
    own: ServerNumber,
    /// The shards that are followed, each in one of these; in the others this process takes writes.
    comes_by: Mutex<Vec<(ShardSet, Arc<Standing>)>>,
}

impl Chain {
    /// Of the process with this number. It follows nobody.
    pub fn new(own: ServerNumber) -> Chain {
        Chain { own, comes_by: Mutex::default() }
    }

    /// This process.
    pub fn own(&self) -> ServerNumber {
        self.own
    }

    /// Whether `server` is this process.
    pub fn is(&self, server: &ServerNumber) -> bool {
        self.own == *server
    }

    /// From now on these shards come by these followings, and this process takes the writes of the
    /// others.
    pub fn set(&self, comes_by: Vec<(ShardSet, Arc<Standing>)>) {
        *self.comes_by() = comes_by;
    }

    /// Whether this process is one of these servers.
    pub fn is_on(&self, path: &[ServerNumber]) -> bool {
        path.contains(&self.own)
    }

    /// How far from the root these shards are.
    pub fn distance(&self, of: ShardSet) -> Distance {
        self.of(of).iter().map(|standing| standing.distance()).fold(Distance::default(), Distance::beside)
    }

    /// The servers through which these shards come, this one first.
    pub fn path(&self, of: ShardSet) -> Vec<ServerNumber> {
        let mut path = vec![self.own];
        for standing in self.of(of) {
            for server in &standing.below().path {
                if !path.contains(server) {
                    path.push(*server);
                }
            }
        }
        path
    }

    /// The followings by which any of these shards come.
    fn of(&self, shards: ShardSet) -> Vec<Arc<Standing>> {
        let comes_by = self.comes_by();
        let those = comes_by.iter().filter(|(others, _)| !others.within(shards).is_empty());
        those.map(|(_, standing)| standing.clone()).collect()
    }

    fn comes_by(&self) -> MutexGuard<'_, Vec<(ShardSet, Arc<Standing>)>> {
        self.comes_by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(depth: u32, lag_bytes: u64, lag_microseconds: u64, path: &[u8]) -> Arc<Standing> {
        let standing = Standing::default();
        let path = path.iter().map(|number| [*number; 16]).collect();
        standing.heard(Distance { depth, lag_bytes, lag_microseconds }, path);
        Arc::new(standing)
    }

    #[test]
    fn lag_adds_up_along_a_chain() {
        let standing = Standing::default();
        standing.measured(100, Duration::from_millis(1));
        let to_root = Distance { depth: 1, lag_bytes: 100, lag_microseconds: 1000 };
        assert_eq!(standing.distance(), to_root, "the server that is followed counts as the root until it is heard");
        standing.heard(Distance { depth: 2, lag_bytes: 1000, lag_microseconds: 70 }, vec![]);
        standing.measured(100, Duration::from_micros(5));
        assert_eq!(standing.distance(), Distance { depth: 3, lag_bytes: 1100, lag_microseconds: 75 });
    }

    #[test]
    fn each_shard_comes_by_its_own_way() {
        let chain = Chain::new([1; 16]);
        assert!(chain.is(&[1; 16]) && !chain.is(&[2; 16]));
        let (all, low, high) = (ShardSet::all(8), ShardSet::all(4), ShardSet::all(8).without(ShardSet::all(4)));
        let told = |of| (chain.distance(of), chain.path(of).iter().map(|server| server[0]).collect::<Vec<_>>());
        let root = (Distance::default(), vec![1]);
        assert_eq!(told(all), root, "it follows nobody");
        let (by_two, by_three) = (standing(0, 10, 100, &[2]), standing(2, 5, 200, &[3, 4, 2]));
        chain.set(vec![(high, by_two), (low, by_three.clone())]);
        let of_high = (Distance { depth: 1, lag_bytes: 10, lag_microseconds: 100 }, vec![1, 2]);
        let of_low = (Distance { depth: 3, lag_bytes: 5, lag_microseconds: 200 }, vec![1, 3, 4, 2]);
        assert_eq!([told(high), told(low)], [of_high, of_low.clone()]);
        let of_all = (Distance { depth: 3, lag_bytes: 15, lag_microseconds: 200 }, vec![1, 2, 3, 4]);
        assert_eq!(told(all), of_all, "each server once");
        chain.set(vec![(low, by_three)]);
        assert_eq!([told(high), told(all)], [root.clone(), of_low]);
        chain.set(vec![]);
        assert_eq!(told(all), root);
    }

    /// In a row each tells the path of the one above, with itself ahead. When a session has ended,
    /// nothing comes through that server.
    #[test]
    fn a_path_is_as_long_as_its_session() {
        let (chain, above) = (Chain::new([1; 16]), standing(4, 0, 0, &[2, 3]));
        chain.set(vec![(ShardSet::all(1), above.clone())]);
        assert_eq!(chain.path(ShardSet::all(1)), [[1; 16], [2; 16], [3; 16]]);
        above.comes_through(Vec::new());
        assert_eq!(chain.path(ShardSet::all(1)), [[1; 16]]);
        assert_eq!(chain.distance(ShardSet::all(1)).depth, 5, "it is as far from the root as it was");
    }

    #[test]
    fn time_in_which_nothing_is_heard_is_lag() {
        let standing = Standing::default();
        standing.heard(Distance::default(), vec![]);
        standing.measured(0, Duration::ZERO);
        let heard_at = standing.below().heard_at;
        assert_eq!(standing.distance_at(heard_at + FRESH / 2), Distance { depth: 1, ..Distance::default() });
        let later = standing.distance_at(heard_at + Duration::from_secs(100));
        assert_eq!(later, Distance { depth: 1, lag_bytes: 0, lag_microseconds: 100_000_000 });
    }

    #[test]
    fn what_no_chain_has_overflows_nothing() {
        let standing = Arc::new(Standing::default());
        standing.heard(Distance { depth: u32::MAX, lag_bytes: u64::MAX, lag_microseconds: u64::MAX }, vec![]);
        standing.measured(u64::MAX, Duration::from_secs(1));
        assert_eq!(standing.distance_at(Instant::now() + Duration::from_secs(9)).depth, u32::MAX);
        let chain = Chain::new([1; 16]);
        chain.set(vec![(ShardSet::all(1), standing.clone()), ("1".parse().unwrap(), standing)]);
        assert_eq!(chain.distance(ShardSet::all(2)).lag_bytes, u64::MAX);
    }
}
