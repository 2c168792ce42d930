//! Replicas that stop, die and are cut off, and primaries that stop, while clients write and read: by seed.

use crate::clients::Traffic;
use crate::connection::Acks;
use crate::node::side_by_side;
use crate::number;
use crate::run::{MIXED, REPLICAS, Run};
use std::time::Duration;

const SEEDS: [u64; 2] = [1, 2];
const FAULTS: usize = 8;

pub const TRAFFIC: Traffic =
    Traffic { registers: 200, counters: 8, batch_max: 8, acks: Acks::None, pause_max: Duration::from_millis(2) };

/// No run writes a tenth of the memory: nothing is evicted, so every miss can be judged, and no replica is overrun, so none goes back.
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
        for _ in 0..FAULTS {
            fault(&mut run);
            if run.random.u8(0..3) == 0 {
                run.settle();
                run.open();
            }
        }
        let judged = run.judge().unwrap_or_else(|complaints| panic!("{}", complaints.join("\n")));
        println!("{judged:?}");
        assert!(judged.operations > 5_000 && judged.replica_reads > 1_000, "too little to judge: {judged:?}");
    });
}
