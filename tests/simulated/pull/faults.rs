//! Each fault of the network alone, and all of them.

use super::run::{Run, Seen};
use super::scene::forget;
use super::{FAR, LARGE, NO_EVICTION, SHARDS, SLABS, is_whole, runs, seeds};
use crate::pair::{Setup, primary, replica_of};
use fastrand::Rng;
use remora::fabric::sim::Faults;
use std::sync::Arc;

const STEPS: usize = 250;

/// Nothing that a fault of timing does may look like a broken record or end a session.
fn assert_harmless(seen: &Seen) {
    assert_untroubled(seen);
    assert!(!is_whole() || seen.counts.overrun > 0 && seen.hits > 0 && seen.laps > 0);
}

/// The same of a run that need not have been overrun.
fn assert_untroubled(seen: &Seen) {
    assert_eq!((seen.counts.bad_records, seen.counts.diverged, seen.closed, seen.broken, seen.stuck), (0, 0, 0, 0, 0));
}

#[test]
fn late() {
    assert_harmless(&runs(SLABS, 100, STEPS, |random| Faults {
        delay_polls_max: random.u32(1..6),
        ..Faults::default()
    }));
}

#[test]
fn out_of_turn() {
    assert_harmless(&runs(SHARDS, 200, STEPS, |random| Faults { reorder: random.f64(), ..Faults::default() }));
}

/// A torn or stale READ is older in part than the look behind it: the tail that this shows gives it
/// away. No record even fails its check.
#[test]
fn torn() {
    let torn = |random: &mut Rng| Faults { tear: 1.0, delay_polls_max: random.u32(0..3), ..Faults::default() };
    assert_harmless(&runs(SLABS, 100, STEPS, torn));
}

#[test]
fn stale() {
    let stale = |random: &mut Rng| Faults { stale: random.f64(), stale_polls_max: 20, ..Faults::default() };
    assert_harmless(&runs(SLABS, 100, STEPS, stale));
}

/// A card may fetch the bytes of a READ before those of READs ahead of it: a look is then older
/// than the piece before it, and older than the last look, so that positions go back. Neither is
/// taken for what it is not.
#[test]
fn taken_early() {
    let early =
        |random: &mut Rng| Faults { early: random.f64(), delay_polls_max: random.u32(1..6), ..Faults::default() };
    assert_harmless(&runs(SLABS, 100, STEPS, early));
}

/// Where a look of its own round vouches for most pieces. (Not with `early`: it takes a look when
/// it is submitted, and what is appended until the piece is taken may then be more than what counts
/// as far. No card is so far out of order.)
#[test]
fn far_from_being_overwritten() {
    let late = |random: &mut Rng| Faults {
        tear: random.f64(),
        reorder: random.f64(),
        delay_polls_max: random.u32(1..6),
        ..Faults::default()
    };
    let seen = runs(FAR, 1000, STEPS, late);
    assert_untroubled(&seen);
    assert!(!is_whole() || seen.hits > 0 && seen.laps > 0, "{seen:?}");
}

#[test]
fn lost() {
    let seen = runs(SHARDS, 200, STEPS, |random| Faults { drop: random.f64() * 0.05, ..Faults::default() });
    assert!(!is_whole() || seen.stuck > 0 && seen.remade > 0 && seen.counts.continued > 0);
    assert_eq!((seen.counts.bad_records, seen.counts.diverged), (0, 0));
}

#[test]
fn changed() {
    let changed =
        |random: &mut Rng| Faults { corrupt: random.f64() * 0.7, corrupt_from_region: 1, ..Faults::default() };
    let seen = runs(SLABS, 100, STEPS, changed);
    assert!(!is_whole() || seen.counts.bad_records > seen.broken && seen.broken > 0 && seen.remade > 0, "{seen:?}");
}

#[test]
fn cut() {
    let seen = runs(SLABS, 100, STEPS, |random| Faults { cut: random.f64() * 0.2, ..Faults::default() });
    assert!(!is_whole() || seen.closed > 0 && seen.remade > 0 && seen.counts.continued > 0);
    assert_eq!((seen.counts.bad_records, seen.counts.diverged), (0, 0));
}

/// Control lines have no checksum of their own, the fabric's will have to do. Where a line was
/// changed all the same, nothing appears that was not written, and who then joins anew has
/// everything.
#[test]
fn changed_lines() {
    let mut seen = Seen::default();
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let store = Arc::new(primary(SLABS));
        let replica = replica_of(&store);
        let mut run = Run::new(seed, SLABS, 100, &store, &replica);
        run.faults = Faults { corrupt: run.random.f64() * 0.3, ..Faults::default() };
        run.drive(STEPS);
        run.faults = Faults::default();
        run.ledger.assert_all_written(&replica, 100, run.writer.now());
        run.end_session();
        forget(&replica);
        run.settle();
        run.end_session();
        seen.add(&run.seen);
    }
    assert!(!is_whole() || seen.lines_refused > 0 && seen.broken > 0, "{seen:?}");
}

/// Some of everything; half of the time only what leaves the bytes as they are.
fn mixed(random: &mut Rng) -> Faults {
    let lossy = random.bool();
    let share = |random: &mut Rng, most: f64| if random.bool() { random.f64() * most } else { 0.0 };
    Faults {
        delay_polls_max: random.u32(0..4),
        reorder: share(random, 1.0),
        tear: share(random, 1.0),
        stale: share(random, 1.0),
        stale_polls_max: random.u32(0..30),
        early: share(random, 1.0),
        drop: if lossy { share(random, 0.06) } else { 0.0 },
        corrupt: if lossy { share(random, 0.2) } else { 0.0 },
        // Control lines have no checksum: they rely on the fabric's own. What comes of changed ones
        // is a test of its own.
        corrupt_from_region: 1,
        cut: if lossy { share(random, 0.05) } else { 0.0 },
        ..Faults::default()
    }
}

fn all(setup: Setup, keys: usize) {
    let seen = runs(setup, keys, STEPS, mixed);
    let Seen { counts, .. } = seen;
    let met = [seen.stuck, seen.closed, counts.bad_records, counts.joined, counts.continued, seen.waited, seen.laps];
    assert!(!is_whole() || met.iter().all(|count| *count > 0) && seen.second_chances > 0, "{seen:?}");
    // Without eviction nobody is overrun by bursts: they find no room.
    assert!(!is_whole() || !setup.evict || counts.overrun > 0);
}

#[test]
fn everything_over_small_slabs() {
    all(SLABS, 100);
}

#[test]
fn everything_over_several_shards() {
    all(SHARDS, 200);
}

#[test]
fn everything_with_long_records() {
    let seen = runs(LARGE, 30, STEPS, mixed);
    let met = [seen.counts.overrun, seen.counts.bad_records, seen.counts.continued, seen.waited, seen.laps];
    assert!(!is_whole() || met.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn everything_without_eviction() {
    all(NO_EVICTION, 100);
}
