//! What the threads of a member share: the latest map, the report of now, and the lease.

pub use crate::base::time::boot_milliseconds;
use crate::cluster::map::Map;
use crate::cluster::report::Report;
use crate::replication::report::Report as Rows;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// See the module.
pub struct Known {
    own: String,
    shards: usize,
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
    /// Why a locator does not want this server.
    refused: Option<String>,
    is_ending: bool,
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
    pub fn new(own: String, shards: usize) -> Known {
        Known { own, shards, state: Mutex::default(), changed: Condvar::new() }
    }

    /// This process's incarnation.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// The latest map.
    pub fn map(&self) -> Option<Arc<Map>> {
        self.state().map.clone()
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
        if state.map.as_ref().is_none_or(|known| map.version > known.version) {
            state.generation = map.generation;
            state.map = Some(Arc::new(map));
            self.changed.notify_all();
        }
        Ok(())
    }

    /// A locator has renewed the lease, by a report that was sent at that moment.
    pub fn take_lease(&self, sent: u64, milliseconds: u64, generation: u64) -> Result<(), NotTaken> {
        let mut state = self.state();
        if generation < state.generation {
            return Err(NotTaken::Generation { theirs: generation, ours: state.generation });
        }
        (state.generation, state.refused) = (generation, None);
        state.lease_until = state.lease_until.max(sent.saturating_add(milliseconds));
        state.lease_milliseconds = milliseconds;
        Ok(())
    }

    /// For how long a lease is granted, once one was.
    pub fn lease(&self) -> Option<Duration> {
        let milliseconds = self.state().lease_milliseconds;
        (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
    }

    /// Until when this server is sure of its roles, by [`boot_milliseconds`].
    pub fn lease_until(&self) -> u64 {
        self.state().lease_until
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

    #[test]
    fn maps_and_generations_never_go_back() {
        let known = Known::new("own".into(), 4);
        let version = || known.map().map_or(0, |map| map.version);
        assert_eq!(known.take_map(map("c", 5, 2)), Ok(()));
        assert_eq!((known.take_map(map("c", 4, 2)), version()), (Ok(()), 5), "of before");
        assert_eq!(known.take_map(map("c", 9, 1)), Err(NotTaken::Generation { theirs: 1, ours: 2 }));
        assert_eq!(known.take_lease(0, 1000, 4), Ok(()));
        assert_eq!(known.take_map(map("c", 9, 3)), Err(NotTaken::Generation { theirs: 3, ours: 4 }));
        assert_eq!(known.take_lease(0, 1000, 3), Err(NotTaken::Generation { theirs: 3, ours: 4 }));
        assert_eq!((known.take_map(map("c", 9, 4)), version()), (Ok(()), 9));
        let other = NotTaken::OtherCluster { theirs: "d".into(), ours: "c".into() };
        assert_eq!((known.take_map(map("d", 10, 4)), version()), (Err(other), 9));
    }

    #[test]
    fn a_map_of_another_number_of_shards_is_not_taken() {
        let known = Known::new("own".into(), 8);
        let why = known.take_map(map("c", 1, 1)).unwrap_err();
        assert_eq!(why, NotTaken::Shards { theirs: 4, ours: 8 });
        assert!(why.to_string().contains("--shards 4") && known.map().is_none());
    }

    #[test]
    fn a_lease_counts_from_the_sending_of_the_report() {
        let known = Known::new("own".into(), 4);
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
        known.take_lease(now.saturating_sub(60_000), 90_000, 1).unwrap();
        assert!((1..=30_000).contains(&left()), "{}", left());
        known.take_lease(now.saturating_sub(70_000), 60_000, 1).unwrap();
        assert!(left() > 0, "an answer that comes late takes nothing away");
    }
}
