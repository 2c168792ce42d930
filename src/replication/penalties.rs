//! Which fabrics have failed this replica, by primary, and what follows from it: a fabric with a
//! penalty is tried behind those without. So a replica is never left without a fabric, and none
//! that fails is asked again for ever. Pure: the time is an argument.
//!
//! A penalty lasts longer with each failure, up to a bound; after it the fabric is tried again at
//! its own place. Failures are forgotten one by one while none is added. A fabric that is not ready
//! yet has done nothing wrong: it is asked again soon, and no failure is counted.

use crate::fabric::Kind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The penalty of a first failure. Often it is the primary that has gone, and not the fabric: then
/// this costs little.
pub const PENALTY_MIN: Duration = Duration::from_secs(2);
/// Each further failure makes it so many times as long.
const GROWTH: u32 = 4;
/// The longest penalty: an operator who has raised a limit waits no longer for it to be used.
pub const PENALTY_MAX: Duration = Duration::from_secs(600);
/// Most failures that are counted: the first with which a penalty is the longest.
const FAILURES_MAX: u32 = 6;
/// One failure is forgotten for each such span after a penalty's end.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
/// A fabric that is not ready is asked again after this.
pub const NOT_YET_PAUSE: Duration = Duration::from_secs(5);
/// Penalties that are remembered. To remember one more, the one that ends first is forgotten.
const PENALTIES_MAX: usize = 64;

/// One fabric of one primary.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Penalty {
    primary: String,
    fabric: Kind,
    failures: u32,
    until: Instant,
    why: String,
}

impl Penalty {
    /// Failures that are not forgotten at `now`.
    fn failures_at(&self, now: Instant) -> u32 {
        let spans = now.saturating_duration_since(self.until).as_secs() / FORGIVEN_AFTER.as_secs();
        self.failures.saturating_sub(spans.try_into().unwrap_or(u32::MAX))
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        self.until <= now && self.failures_at(now) == 0
    }
}

/// A penalty, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PenaltyView {
    /// Which fabric.
    pub fabric: Kind,
    /// Failures that are not forgotten; 0 where it was only not ready.
    pub failures: u32,
    /// Until it is tried at its own place again.
    pub left: Duration,
    /// The last failure.
    pub why: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Penalties(Vec<Penalty>);

impl Penalties {
    /// `fabric` has failed with `primary`.
    pub fn failed(&mut self, primary: &str, fabric: Kind, why: &str, now: Instant) {
        let failures = (self.find(primary, fabric).map_or(0, |known| known.failures_at(now)) + 1).min(FAILURES_MAX);
        let span = (PENALTY_MIN * GROWTH.pow(failures - 1)).min(PENALTY_MAX);
        self.put(Penalty { primary: primary.into(), fabric, failures, until: now + span, why: why.into() }, now);
    }

    /// `primary` is making `fabric` ready.
    pub fn not_yet(&mut self, primary: &str, fabric: Kind, why: &str, now: Instant) {
        let failures = self.find(primary, fabric).map_or(0, |known| known.failures_at(now));
        let until = now + NOT_YET_PAUSE;
        self.put(Penalty { primary: primary.into(), fabric, failures, until, why: why.into() }, now);
    }

    /// `wanted` in the order in which they are to be tried: those without a penalty first, then
    /// those whose penalty ends earlier.
    pub fn order(&self, primary: &str, wanted: &[Kind], now: Instant) -> Vec<Kind> {
        let mut order = wanted.to_vec();
        order.sort_by_key(|kind| self.find(primary, *kind).map(|known| known.until).filter(|until| *until > now));
        order
    }

    /// When one that is preferred to `used` can be tried again; None if none is waited for.
    pub fn again_at(&self, primary: &str, wanted: &[Kind], used: Kind, now: Instant) -> Option<Instant> {
        let preferred = wanted.iter().take_while(|kind| **kind != used);
        preferred
            .filter_map(|kind| self.find(primary, *kind))
            .map(|known| known.until)
            .filter(|until| *until > now)
            .min()
    }

    /// What is remembered of `primary`.
    pub fn view(&self, primary: &str, now: Instant) -> Vec<PenaltyView> {
        let known = self.0.iter().filter(|known| known.primary == primary && !known.is_forgotten(now));
        let view = |known: &Penalty| PenaltyView {
            fabric: known.fabric,
            failures: known.failures_at(now),
            left: known.until.saturating_duration_since(now),
            why: known.why.clone(),
        };
        known.map(view).collect()
    }

    fn find(&self, primary: &str, fabric: Kind) -> Option<&Penalty> {
        self.0.iter().find(|known| known.primary == primary && known.fabric == fabric)
    }

    fn put(&mut self, penalty: Penalty, now: Instant) {
        self.0.retain(|known| {
            !known.is_forgotten(now) && (&known.primary, known.fabric) != (&penalty.primary, penalty.fabric)
        });
        if self.0.len() >= PENALTIES_MAX
            && let Some(first) = (0..self.0.len()).min_by_key(|at| self.0[*at].until)
        {
            self.0.swap_remove(first);
        }
        self.0.push(penalty);
    }
}

/// The penalties of this process, as the thread that follows and statistics share them.
#[derive(Debug, Clone, Default)]
pub struct SharedPenalties(Arc<Mutex<Penalties>>);

impl SharedPenalties {
    /// For a moment.
    pub fn lock(&self) -> MutexGuard<'_, Penalties> {
        // Each change is whole before the next begins, so a thread that panicked has left nothing
        // half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [Kind; 3] = [Kind::Verbs, Kind::Shm, Kind::Tcp];
    const SECOND: Duration = Duration::from_secs(1);

    fn left(penalties: &Penalties, now: Instant) -> Vec<(Kind, u32, Duration)> {
        penalties.view("a:1", now).into_iter().map(|one| (one.fabric, one.failures, one.left)).collect()
    }

    #[test]
    fn a_fabric_that_failed_is_tried_behind_the_others_until_its_penalty_ends() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        assert_eq!(penalties.order("a:1", &WANTED, now), WANTED);
        penalties.failed("a:1", Kind::Verbs, "no memory", now);
        assert_eq!(penalties.order("a:1", &WANTED, now), [Kind::Shm, Kind::Tcp, Kind::Verbs]);
        assert_eq!(penalties.order("b:1", &WANTED, now), WANTED, "another primary's");
        assert_eq!(penalties.order("a:1", &[Kind::Verbs], now), [Kind::Verbs], "rather that than none");
        penalties.failed("a:1", Kind::Shm, "another host", now + SECOND);
        assert_eq!(penalties.order("a:1", &WANTED, now + SECOND), [Kind::Tcp, Kind::Verbs, Kind::Shm]);
        assert_eq!(penalties.order("a:1", &WANTED, now + PENALTY_MIN), [Kind::Verbs, Kind::Tcp, Kind::Shm]);
        assert_eq!(penalties.order("a:1", &WANTED, now + SECOND + PENALTY_MIN), WANTED);
    }

    #[test]
    fn penalties_grow_to_a_bound_and_are_forgiven_one_by_one() {
        let (mut penalties, mut now) = (Penalties::default(), Instant::now());
        for (failures, seconds) in [(1, 2), (2, 8), (3, 32), (4, 128), (5, 512), (6, 600), (6, 600)] {
            penalties.failed("a:1", Kind::Verbs, "no memory", now);
            assert_eq!(left(&penalties, now), [(Kind::Verbs, failures, seconds * SECOND)]);
            now += seconds * SECOND;
        }
        for failures in [6, 5, 4, 3, 2, 1] {
            assert_eq!(left(&penalties, now), [(Kind::Verbs, failures, Duration::ZERO)]);
            now += FORGIVEN_AFTER;
        }
        assert_eq!(left(&penalties, now), []);
        penalties.failed("a:1", Kind::Verbs, "no memory", now);
        assert_eq!(left(&penalties, now), [(Kind::Verbs, 1, PENALTY_MIN)], "as if it were the first");
    }

    #[test]
    fn one_that_is_not_ready_is_asked_again_soon_however_often() {
        let (mut penalties, mut now) = (Penalties::default(), Instant::now());
        for _ in 0..20 {
            penalties.not_yet("a:1", Kind::Verbs, "registering", now);
            assert_eq!(left(&penalties, now), [(Kind::Verbs, 0, NOT_YET_PAUSE)]);
            now += NOT_YET_PAUSE;
        }
        assert_eq!(left(&penalties, now), []);
        penalties.failed("a:1", Kind::Verbs, "no memory", now);
        penalties.not_yet("a:1", Kind::Verbs, "registering", now);
        assert_eq!(left(&penalties, now), [(Kind::Verbs, 1, NOT_YET_PAUSE)], "what it did before is remembered");
    }

    #[test]
    fn a_preferred_fabric_is_tried_again_when_its_penalty_ends() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        penalties.failed("a:1", Kind::Shm, "no memory", now);
        penalties.failed("a:1", Kind::Verbs, "no memory", now + SECOND);
        let again_at = |used, at| penalties.again_at("a:1", &WANTED, used, at);
        assert_eq!(again_at(Kind::Tcp, now), Some(now + PENALTY_MIN), "the earlier of both");
        assert_eq!(again_at(Kind::Shm, now), Some(now + SECOND + PENALTY_MIN));
        assert_eq!(again_at(Kind::Verbs, now), None, "nothing is preferred to it");
        assert_eq!(again_at(Kind::Tcp, now + 10 * SECOND), None);
        assert_eq!(penalties.again_at("b:1", &WANTED, Kind::Tcp, now), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        for number in 0..10 * PENALTIES_MAX as u64 {
            penalties.failed(&format!("a:{number}"), Kind::Verbs, "gone", now + Duration::from_millis(number));
        }
        assert_eq!(penalties.0.len(), PENALTIES_MAX);
        assert!(penalties.0.iter().any(|known| known.primary == "a:639"), "the newest stays");
    }
}
