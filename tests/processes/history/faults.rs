//! Replicas that stop, die and are cut off, and primaries that stop, while clients write and read:
//! by seed.

use super::clients::Traffic;
use super::connection::Acks;
use super::run::{MIXED, REPLICAS, Run};
use crate::node::side_by_side;
use crate::support::number;
use std::time::Duration;

const SEEDS: [u64; 2] = [1, 2];
const FAULTS: u64 = 8;
/// What there must be to judge, and how much of it each fault has around it.
const OPERATIONS: u64 = 5_000;
const REPLICA_READS: u64 = 1_000;

pub const TRAFFIC: Traffic =
    Traffic { registers: 200, counters: 8, batch_max: 8, acks: Acks::None, pause_max: Duration::from_millis(2) };

/// No run writes a tenth of the memory: nothing is evicted, so every miss can be judged, and no
/// replica is overrun, so none goes back.
pub const ARGUMENTS: [&str; 6] = ["-m", "64", "--replication-timeout", "3", "--ack-timeout", "1000"];

pub fn seeds() -> Vec<u64> {
    number("REMORA_SEED").map_or(SEEDS.to_vec(), |seed| vec![seed])
}

/// One fault that the primary outlives.
pub fn fault(run: &mut Run) {
    let follower = run.random.usize(0..REPLICAS);
    match run.random.u8(0..10) {
        0..3 => run.stop_for_a_while(|run| &run.followers[follower].as_ref().expect("it lives").node),
        3..5 => run.stop_for_a_while(|run| &run.primary),
        5..8 => run.followers[follower].as_ref().expect("it lives").proxy.cut(),
        _ => run.replace_follower(follower),
    }
    run.pass(0..200);
}

#[test]
fn replicas_show_the_primarys_history_whatever_happens_to_them() {
    side_by_side(&seeds(), |seed| {
        println!("REMORA_SEED={seed}");
        let mut run = Run::start(seed, TRAFFIC, REPLICAS, MIXED, &ARGUMENTS);
        for done in 1..=FAULTS {
            fault(&mut run);
            run.go_on_until(OPERATIONS * done / FAULTS, REPLICA_READS * done / FAULTS);
            if run.random.u8(0..3) == 0 {
                run.settle();
                run.open();
            }
        }
        let judged = run.judge().unwrap_or_else(|complaints| panic!("{}", complaints.join("\n")));
        println!("{judged:?}");
        let counts = (judged.operations as u64, judged.replica_reads as u64);
        assert!(counts.0 >= OPERATIONS && counts.1 >= REPLICA_READS, "not all was judged: {judged:?}");
    });
}
