//! The same runs, the same ledger, with several pullers: each has its share of the shards and a
//! channel of its own, on which something else goes wrong. They take their steps in any order. The
//! primary reads each position from the slot of the puller that has the shard, and is told of
//! nothing that is not applied.

use super::run::Seen;
use super::{SHARDS, Setup, is_whole, runs_of};
use fastrand::Rng;
use remora::fabric::sim::Faults;

const STEPS: usize = 250;

/// More shards than are easily shared: by three in shares of two and three.
const EIGHT: Setup = Setup { shard_bytes: 32 << 10, shards: 8, ..SHARDS };

fn several(setup: Setup, faults: impl Fn(&mut Rng) -> Faults) -> Vec<Seen> {
    let of = |pullers| runs_of(|network| network.pullers = pullers, setup, 200, STEPS, &faults);
    [2, 3].map(of).into()
}

/// Nothing is late but the pullers, by each other: no record fails its check, no session ends.
#[test]
fn nothing_goes_wrong() {
    for setup in [SHARDS, EIGHT] {
        for seen in several(setup, |_| Faults::default()) {
            let Seen { counts, .. } = seen;
            assert_eq!((counts.bad_records, counts.diverged, seen.closed, seen.broken, seen.stuck), (0, 0, 0, 0, 0));
            assert!(!is_whole() || counts.overrun > 0 && seen.hits > 0 && seen.laps > 0, "{seen:?}");
        }
    }
}

#[test]
fn late_torn_and_out_of_turn() {
    let unkind = |random: &mut Rng| Faults { delay_polls_max: random.u32(0..6), ..Faults::unkind() };
    for seen in several(EIGHT, unkind) {
        let Seen { counts, .. } = seen;
        assert_eq!((counts.bad_records, counts.diverged, seen.closed, seen.broken, seen.stuck), (0, 0, 0, 0, 0));
    }
}

/// One channel ends, or loses a READ, and the session ends for all pullers; each shard goes on from
/// where its puller was.
#[test]
fn lost_and_cut() {
    for seen in several(EIGHT, |random| Faults { drop: random.f64() * 0.03, ..Faults::default() }) {
        assert!(!is_whole() || seen.stuck > 0 && seen.remade > 0 && seen.counts.continued > 0, "{seen:?}");
        assert_eq!((seen.counts.bad_records, seen.counts.diverged), (0, 0));
    }
    for seen in several(EIGHT, |random| Faults { cut: random.f64() * 0.1, ..Faults::unkind() }) {
        assert!(!is_whole() || seen.closed > 0 && seen.remade > 0 && seen.counts.continued > 0, "{seen:?}");
        assert_eq!((seen.counts.bad_records, seen.counts.diverged), (0, 0));
    }
}

#[test]
fn changed() {
    for seen in
        several(SHARDS, |random| Faults { corrupt: random.f64() * 0.5, corrupt_from_region: 1, ..Faults::default() })
    {
        assert!(!is_whole() || seen.counts.bad_records > seen.broken && seen.broken > 0 && seen.remade > 0, "{seen:?}");
    }
}
