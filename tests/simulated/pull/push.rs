//! The same runs, the same ledger, pushed: what the primary writes to the replica's inbox late,
//! torn and cut, while logs wrap around, the replica is overrun and readers hold it up. Primary and
//! replica take their steps in any order.

use super::run::Seen;
use super::{LARGE, NO_EVICTION, SHARDS, SLABS, Setup, is_whole, runs_of};
use fastrand::Rng;
use remora::fabric::sim::Faults;

const STEPS: usize = 250;

fn pushed(setup: Setup, keys: usize, steps: usize, faults: impl Fn(&mut Rng) -> Faults) -> Seen {
    runs_of(|network| network.push = true, setup, keys, steps, faults)
}

/// Nothing is late but the two sides, by each other: no record fails its check, no session ends.
fn assert_harmless(seen: &Seen) {
    assert_eq!((seen.counts.bad_records, seen.counts.diverged, seen.closed, seen.broken, seen.stuck), (0, 0, 0, 0, 0));
    assert!(!is_whole() || seen.counts.overrun > 0 && seen.hits > 0 && seen.laps > 0, "{seen:?}");
}

#[test]
fn nothing_goes_wrong() {
    assert_harmless(&pushed(SLABS, 100, 400, |_| Faults::default()));
}

#[test]
fn several_shards() {
    assert_harmless(&pushed(SHARDS, 200, STEPS, |_| Faults::default()));
}

/// A WRITE takes what stands in the log when it is carried out, in parts even; the tail that is
/// published behind it says what is left of that.
#[test]
fn late_and_torn() {
    let unkind = |random: &mut Rng| Faults { delay_polls_max: random.u32(0..6), ..Faults::unkind() };
    assert_harmless(&pushed(SLABS, 100, STEPS, unkind));
    assert_harmless(&pushed(SHARDS, 200, STEPS, unkind));
}

/// Records longer than a piece, and windows that are a part of the log.
#[test]
fn long_records() {
    let seen = pushed(LARGE, 30, STEPS, |_| Faults::unkind());
    assert_eq!((seen.counts.bad_records, seen.counts.diverged, seen.closed), (0, 0, 0), "{seen:?}");
}

#[test]
fn without_eviction() {
    let seen = pushed(NO_EVICTION, 100, 3 * STEPS, |_| Faults::unkind());
    assert_eq!((seen.counts.bad_records, seen.counts.diverged, seen.closed), (0, 0, 0), "{seen:?}");
    assert!(!is_whole() || seen.second_chances > 0, "{seen:?}");
}

/// Channels that are cut, and READs of what is wanted that are lost: the next session goes on from
/// where the last one was.
#[test]
fn cut_and_lost() {
    let faults = |random: &mut Rng| Faults { cut: random.f64() * 0.05, drop: random.f64() * 0.02, ..Faults::unkind() };
    let seen = pushed(SHARDS, 200, STEPS, faults);
    assert!(!is_whole() || seen.closed > 0 && seen.remade > 0 && seen.counts.continued > 0, "{seen:?}");
    assert_eq!((seen.counts.bad_records, seen.counts.diverged), (0, 0));
}

/// Bits that are changed on their way: the record is wanted again, from a window that has moved on,
/// and comes; three times, then the channel ends.
#[test]
fn changed() {
    let faults = |random: &mut Rng| Faults { corrupt: random.f64() * 0.5, corrupt_from_region: 1, ..Faults::default() };
    let seen = pushed(SLABS, 100, STEPS, faults);
    assert!(!is_whole() || seen.counts.bad_records > seen.broken && seen.broken > 0 && seen.remade > 0, "{seen:?}");
}
