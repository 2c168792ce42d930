//! A session over a fabric to which others are preferred: when does it end for one of them? When
//! the penalty of one is over, or when one can be used that could not be used on this host before.
//! Pure: the time, and whether a fabric can be used, are arguments.

use crate::fabric::Kind;
use std::time::{Duration, Instant};

/// How often a replica looks whether a fabric has become usable. A look may list the devices.
pub const USABLE_LOOK: Duration = Duration::from_secs(10);

/// See the module.
pub struct Preferred {
    again_at: Option<Instant>,
    unusable: Vec<Kind>,
    look_at: Instant,
}

impl Preferred {
    /// `again_at`: the first end of a penalty of one that is preferred. `preferred`: all of them,
    /// of which those count that cannot be used now.
    pub fn new(
        again_at: Option<Instant>,
        preferred: impl Iterator<Item = Kind>,
        is_usable: impl Fn(Kind) -> bool,
        now: Instant,
    ) -> Preferred {
        let unusable = preferred.filter(|kind| !is_usable(*kind)).collect();
        Preferred { again_at, unusable, look_at: now + USABLE_LOOK }
    }

    /// Whether one of them is to be tried now.
    pub fn is_due(&mut self, is_usable: impl Fn(Kind) -> bool, now: Instant) -> bool {
        if self.again_at.is_some_and(|at| now >= at) {
            return true;
        }
        if self.unusable.is_empty() || now < self.look_at {
            return false;
        }
        self.look_at = now + USABLE_LOOK;
        self.unusable.iter().any(|kind| is_usable(*kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFERRED: [Kind; 2] = [Kind::Verbs, Kind::Shm];

    #[test]
    fn a_penaltys_end_is_waited_for() {
        let now = Instant::now();
        let again_at = now + Duration::from_secs(2);
        let mut preferred = Preferred::new(Some(again_at), PREFERRED.into_iter(), |_| true, now);
        assert!(!preferred.is_due(|_| true, now));
        assert!(preferred.is_due(|_| true, again_at));
        let mut over = Preferred::new(Some(now), PREFERRED.into_iter(), |_| true, again_at);
        assert!(over.is_due(|_| true, again_at), "it ended while the channel was being connected");
    }

    #[test]
    fn a_fabric_whose_link_comes_up_again_is_noticed_and_asked_for_seldom() {
        let now = Instant::now();
        let mut preferred = Preferred::new(None, PREFERRED.into_iter(), |kind| kind == Kind::Shm, now);
        let never = |_| -> bool { panic!("looked at too often") };
        assert!(!preferred.is_due(never, now + USABLE_LOOK / 2));
        assert!(!preferred.is_due(|kind| kind == Kind::Shm, now + USABLE_LOOK), "shm could be used before as well");
        assert!(!preferred.is_due(never, now + USABLE_LOOK * 3 / 2));
        assert!(preferred.is_due(|kind| kind == Kind::Verbs, now + 2 * USABLE_LOOK));
    }

    #[test]
    fn where_nothing_is_preferred_nothing_is_looked_at() {
        let now = Instant::now();
        let mut preferred = Preferred::new(None, std::iter::empty(), |_| false, now);
        assert!(!preferred.is_due(|_| panic!("looked at"), now + 10 * USABLE_LOOK));
    }
}
