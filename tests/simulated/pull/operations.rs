//! A channel that is cut behind, or loses, each operation of a short run in turn.

use super::run::{Run, Seen};
use super::{SLABS, number};
use crate::pair::{primary, replica_of};
use remora::fabric::sim::Faults;
use std::sync::Arc;

/// A run whose first channel has `faults`.
fn run(seed: u64, faults: Faults) -> Seen {
    let store = Arc::new(primary(SLABS));
    let replica = replica_of(&store);
    let mut run = Run::new(seed, SLABS, 50, &store, &replica);
    run.write(300);
    run.faults = faults;
    for _ in 0..25 {
        run.pull();
        run.faults = Faults::default();
        run.write(2);
    }
    run.settle();
    run.end_session();
    run.seen
}

/// Until the run is over before it comes to the operation; returns how many there were.
fn each(seed: u64, fault: impl Fn(u64) -> Faults) -> u64 {
    for operation in 1.. {
        println!("REMORA_SEED={seed}, operation {operation}");
        let seen = run(seed, fault(operation));
        if seen.closed + seen.stuck == 0 {
            return operation - 1;
        }
    }
    unreachable!("there are fewer operations than numbers")
}

#[test]
fn a_channel_is_cut_at_every_operation() {
    let seed = number("REMORA_SEED").unwrap_or(1);
    assert!(run(seed, Faults { cut_after: Some(0), ..Faults::default() }).closed > 0);
    for slow in [0, 2] {
        let fault = |after| Faults { cut_after: Some(after), delay_polls_max: slow, ..Faults::default() };
        let operations = each(seed, fault);
        assert!(operations > 20, "{operations}");
    }
}

/// A WRITE does not complete, so it cannot be found missing: operations that are one are no READ,
/// and harmless.
#[test]
fn each_read_is_lost_in_turn() {
    let seed = number("REMORA_SEED").unwrap_or(1);
    let mut stuck = 0;
    for operation in 1..60 {
        println!("REMORA_SEED={seed}, operation {operation}");
        let seen = run(seed, Faults { drop_at: Some(operation), ..Faults::default() });
        assert!(seen.closed == 0 && seen.counts.bad_records == 0);
        stuck += seen.stuck;
    }
    assert!(stuck > 20, "{stuck}");
}
