//! Replicas that were attached a moment ago and are not now. As a rule such a replica comes back:
//! its connection broke, and it tries again.

use super::REPLICAS_MAX;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// See the module. Remembers the last [`REPLICAS_MAX`] that have gone.
#[derive(Default)]
pub struct Absences(Mutex<Vec<Absent>>);

struct Absent {
    replica: [u8; 16],
    name: String,
    since: Instant,
}

impl Absences {
    /// It has lost its data channel.
    pub fn left(&self, replica: [u8; 16], name: &str) {
        let mut absent = self.all();
        absent.retain(|one| one.replica != replica);
        if absent.len() >= REPLICAS_MAX {
            absent.remove(0);
        }
        absent.push(Absent { replica, name: name.into(), since: Instant::now() });
    }

    /// It has a data channel.
    pub fn is_back(&self, replica: [u8; 16]) {
        self.all().retain(|one| one.replica != replica);
    }

    /// The names of those that have gone less than `within` ago.
    pub fn names(&self, within: Duration) -> Vec<String> {
        self.all().iter().filter(|one| one.since.elapsed() < within).map(|one| one.name.clone()).collect()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Absent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_gone_is_absent_until_it_is_back_or_forgotten() {
        let (absences, an_hour) = (Absences::default(), Duration::from_secs(3600));
        for (id, name) in [(1, "one"), (2, "two"), (1, "one")] {
            absences.left([id; 16], name);
        }
        assert_eq!(absences.names(an_hour), ["two", "one"]);
        assert!(absences.names(Duration::ZERO).is_empty());
        absences.is_back([2; 16]);
        assert_eq!(absences.names(an_hour), ["one"]);
        (0..=REPLICAS_MAX as u8).for_each(|id| absences.left([id + 10; 16], "many"));
        assert_eq!(absences.names(an_hour), ["many"; REPLICAS_MAX]);
    }
}
