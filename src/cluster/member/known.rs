//! What the threads of a member share: the latest map, the report of now, and the lease.
//!
//! **A lease goes with a map.** A server that was away, and is heard again, may have roles that
//! others have by now. The locator grants it a lease for the roles of its latest map all the same.
//! So a lease counts only once this server has ended what the map of that version takes away from
//! it ([`Known::settle`]). It counts from the sending of the report that has renewed it.

use crate::base::lease::Lease;
use crate::base::time::boot_milliseconds;
use crate::cluster::map::{Consistency, Map, WithoutLease};
use crate::cluster::report::Report;
use crate::replication::report::Report as Rows;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// See the module.
pub struct Known {
    own: String,
    shards: usize,
    /// Of the latest map. Follows it while the lock is held.
    version: AtomicU64,
    /// Where workers look.
    lease: Arc<Lease>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    map: Option<Arc<Map>>,
    /// The highest of any locator that was heard of.
    generation: u64,
    report: Arc<Report>,
    /// Rises with each report that differs from the one before.
    report_number: u64,
    /// It is sure of its roles until then.
    lease_until: u64,
    lease_milliseconds: u64,
    /// The version of a map, and until when the lease is once that map is settled.
    pending: Option<(u64, u64)>,
    /// What the map of this version takes away has ended here.
    settled: u64,
    /// Why a locator does not want this server.
    refused: Option<String>,
    is_ending: bool,
}

/// A locator has renewed the lease.
#[derive(Debug, Clone, Copy)]
pub struct Renewal {
    /// When the report was sent that has renewed it.
    pub sent: u64,
    /// For how long, from then on.
    pub milliseconds: u64,
    /// The locator's.
    pub generation: u64,
    /// Of the map with whose roles it goes.
    pub map_version: u64,
}

/// Why a map is not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotTaken {
    /// It is of another cluster.
    #[error("the map is of cluster {theirs}, this server is of cluster {ours}")]
    OtherCluster {
        /// The map's.
        theirs: String,
        /// Of the maps before.
        ours: String,
    },
    /// The store has not as many shards.
    #[error("the cluster has {theirs} shards, this server {ours}: start it with --shards {theirs}")]
    Shards {
        /// The map's.
        theirs: usize,
        /// The store's.
        ours: usize,
    },
    /// A later locator has been in charge since.
    #[error("the locator is of generation {theirs}, and one of {ours} was heard of")]
    Generation {
        /// The map's, or the lease's.
        theirs: u64,
        /// The highest.
        ours: u64,
    },
}

impl Known {
    /// Of the process with this incarnation, whose store has so many shards.
    /// Workers look at `lease`, which has ended until a locator grants one.
    pub fn new(own: String, shards: usize, lease: Arc<Lease>) -> Known {
        lease.set_until(0);
        Known { own, shards, version: AtomicU64::new(0), lease, state: Mutex::default(), changed: Condvar::new() }
    }

    /// This process's incarnation.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// The latest map.
    pub fn map(&self) -> Option<Arc<Map>> {
        self.state().map.clone()
    }

    /// The version of the latest map; 0: there is none. Takes no lock. Who asks for the map
    /// afterwards gets one of this version, or of a later one.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// The highest generation of a locator that was heard of.
    pub fn generation(&self) -> u64 {
        self.state().generation
    }

    /// A locator has told this map. One that is known already, or an older one of the same locator,
    /// changes nothing.
    pub fn take_map(&self, map: Map) -> Result<(), NotTaken> {
        let mut state = self.state();
        if map.shards.len() != self.shards {
            return Err(NotTaken::Shards { theirs: map.shards.len(), ours: self.shards });
        }
        if let Some(known) = &state.map
            && known.cluster != map.cluster
        {
            return Err(NotTaken::OtherCluster { theirs: map.cluster, ours: known.cluster.clone() });
        }
        if map.generation < state.generation {
            return Err(NotTaken::Generation { theirs: map.generation, ours: state.generation });
        }
        if !map.restored && state.map.as_ref().is_none_or(|known| map.version > known.version) {
            state.generation = map.generation;
            self.version.store(map.version, Release);
            state.map = Some(Arc::new(map));
            self.changed.notify_all();
        }
        Ok(())
    }

    /// A locator has renewed the lease.
    pub fn take_lease(&self, renewal: Renewal) -> Result<(), NotTaken> {
        let Renewal { sent, milliseconds, generation, map_version } = renewal;
        let mut state = self.state();
        if generation < state.generation {
            return Err(NotTaken::Generation { theirs: generation, ours: state.generation });
        }
        (state.generation, state.refused) = (generation, None);
        state.lease_milliseconds = milliseconds;
        let until = sent.saturating_add(milliseconds);
        if map_version <= state.settled {
            self.extend(&mut state, until);
        } else {
            let (version, before) = state.pending.unwrap_or((0, 0));
            state.pending = Some((map_version.max(version), until.max(before)));
        }
        Ok(())
    }

    /// What the map of this version takes away from this server has ended.
    pub fn settle(&self, version: u64) {
        let mut state = self.state();
        state.settled = state.settled.max(version);
        let settled = state.settled;
        if let Some((_, until)) = state.pending.take_if(|(version, _)| *version <= settled) {
            self.extend(&mut state, until);
        }
    }

    fn extend(&self, state: &mut State, until: u64) {
        state.lease_until = state.lease_until.max(until);
        self.lease.set_until(state.lease_until);
    }

    /// For how long a lease is granted, once one was.
    pub fn lease(&self) -> Option<Duration> {
        let milliseconds = self.state().lease_milliseconds;
        (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
    }

    /// A locator does not want this server.
    pub fn refuse(&self, words: String) {
        self.state().refused = Some(words);
    }

    /// What this server has come to.
    pub fn set_report(&self, report: Report) {
        let mut state = self.state();
        if *state.report != report {
            state.report = Arc::new(report);
            state.report_number += 1;
        }
    }

    /// The report of now, and its number.
    pub fn report(&self) -> (Arc<Report>, u64) {
        let state = self.state();
        (state.report.clone(), state.report_number)
    }

    /// Whether there is a report that differs from the one of this number.
    pub fn has_other_report(&self, number: u64) -> bool {
        self.state().report_number != number
    }

    /// Wait so long, or until there is another map than that of this version.
    pub fn rest(&self, pause: Duration, version: u64) {
        let is_same =
            |state: &mut State| !state.is_ending && state.map.as_ref().map_or(0, |map| map.version) == version;
        drop(self.changed.wait_timeout_while(self.state(), pause, is_same).unwrap_or_else(PoisonError::into_inner));
    }

    /// The process ends.
    pub fn end(&self) {
        self.state().is_ending = true;
        self.changed.notify_all();
    }

    /// Whether it does.
    pub fn is_ending(&self) -> bool {
        self.state().is_ending
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows for Known {
    fn rows(&self, emit: &mut dyn FnMut(&str, &str)) {
        let state = self.state();
        emit("cluster_incarnation", &self.own);
        let (id, version) = state.map.as_ref().map_or(("none", 0), |map| (&map.cluster, map.version));
        emit("cluster_id", id);
        emit("cluster_map_version", &version.to_string());
        emit("cluster_map_confirmed", &state.report.map_version.to_string());
        emit("cluster_generation", &state.generation.to_string());
        emit("cluster_lease_ms", &state.lease_until.saturating_sub(boot_milliseconds()).to_string());
        let policy = state.map.as_ref().map(|map| (map.policy.consistency, map.policy.without_lease));
        let (consistency, without_lease) = policy.unwrap_or_default();
        let is_strong = consistency == Consistency::Strong;
        emit("cluster_consistency", if is_strong { "strong" } else { "cached" });
        emit("cluster_without_lease", if without_lease == WithoutLease::Refuse { "refuse" } else { "serve" });
        emit("cluster_refused", state.refused.as_deref().unwrap_or("none"));
        emit("cluster_failures", &state.report.failures.len().to_string());
        if let Some(failure) = state.report.failures.first() {
            emit("cluster_failure", &format!("shards {}: {}", failure.shards, failure.words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::map::Policy;

    fn map(cluster: &str, version: u64, generation: u64) -> Map {
        Map { version, generation, ..Map::born(cluster.into(), 4, Policy::default()) }
    }

    fn renewal(sent: u64, milliseconds: u64, generation: u64) -> Renewal {
        Renewal { sent, milliseconds, generation, map_version: 0 }
    }

    #[test]
    fn maps_and_generations_never_go_back() {
        let known = Known::new("own".into(), 4, Arc::default());
        let version = || {
            let of_map = known.map().map_or(0, |map| map.version);
            assert_eq!(known.version(), of_map, "known without a lock");
            of_map
        };
        assert_eq!(known.take_map(map("c", 5, 2)), Ok(()));
        assert_eq!((known.take_map(map("c", 4, 2)), version()), (Ok(()), 5), "of before");
        assert_eq!(known.take_map(map("c", 9, 1)), Err(NotTaken::Generation { theirs: 1, ours: 2 }));
        assert_eq!(known.take_lease(renewal(0, 1000, 4)), Ok(()));
        assert_eq!(known.take_map(map("c", 9, 3)), Err(NotTaken::Generation { theirs: 3, ours: 4 }));
        assert_eq!(known.take_lease(renewal(0, 1000, 3)), Err(NotTaken::Generation { theirs: 3, ours: 4 }));
        assert_eq!((known.take_map(map("c", 9, 4)), version()), (Ok(()), 9));
        let other = NotTaken::OtherCluster { theirs: "d".into(), ours: "c".into() };
        assert_eq!((known.take_map(map("d", 10, 4)), version()), (Err(other), 9));
    }

    #[test]
    fn a_map_that_was_put_together_is_not_taken_before_it_was_gone_on_from() {
        let known = Known::new("own".into(), 4, Arc::default());
        assert_eq!(known.take_map(Map { restored: true, ..map("c", 9, 1) }), Ok(()));
        assert_eq!(known.map(), None);
        assert_eq!((known.take_map(map("c", 9, 1)), known.version()), (Ok(()), 9));
    }

    #[test]
    fn a_map_of_another_number_of_shards_is_not_taken() {
        let known = Known::new("own".into(), 8, Arc::default());
        let why = known.take_map(map("c", 1, 1)).unwrap_err();
        assert_eq!(why, NotTaken::Shards { theirs: 4, ours: 8 });
        assert!(why.to_string().contains("--shards 4") && known.map().is_none());
    }

    #[test]
    fn a_lease_counts_from_the_sending_of_the_report() {
        let known = Known::new("own".into(), 4, Arc::default());
        let left = || {
            let mut left = String::new();
            known.rows(&mut |name, value| {
                if name == "cluster_lease_ms" {
                    left = value.into()
                }
            });
            left.parse::<u64>().unwrap()
        };
        let now = boot_milliseconds();
        known.take_lease(renewal(now.saturating_sub(60_000), 90_000, 1)).unwrap();
        assert!((1..=30_000).contains(&left()), "{}", left());
        known.take_lease(renewal(now.saturating_sub(70_000), 60_000, 1)).unwrap();
        assert!(left() > 0, "an answer that comes late takes nothing away");
    }

    /// A server that was away is granted a lease for the roles of a map that has others in its
    /// place.
    #[test]
    fn a_lease_counts_once_what_its_map_takes_away_has_ended() {
        let lease = Arc::new(Lease::default());
        assert!(lease.is_in_force(), "without a cluster");
        let known = Known::new("own".into(), 4, lease.clone());
        assert!(!lease.is_in_force(), "before any was granted");
        let now = boot_milliseconds();
        let of_map = |sent, map_version| Renewal { sent, milliseconds: 60_000, generation: 1, map_version };
        known.settle(5);
        known.take_lease(of_map(now, 6)).unwrap();
        assert!(!lease.is_in_force(), "map 6 is not settled");
        known.take_lease(of_map(now, 7)).unwrap();
        known.settle(6);
        assert!(!lease.is_in_force(), "one of the two is for map 7");
        known.settle(7);
        assert!(lease.is_in_force());
        known.take_lease(of_map(now + 1, 7)).unwrap();
        assert_eq!(known.state().lease_until, now + 60_001, "at once");
    }
}
