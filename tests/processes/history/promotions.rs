//! Primaries that die or stand still under acknowledged writes, and the replicas that are promoted
//! in their place: by seed.

use super::clients::Traffic;
use super::connection::Acks;
use super::faults::{ARGUMENTS, TRAFFIC, fault, seeds};
use super::run::{Going, MIXED, REPLICAS, Run, order};
use crate::node::side_by_side;
use crate::support::history::judge::Judged;

/// Primaries of one run.
const REIGNS: usize = 4;
/// Acknowledged writes before each succession, and after it.
const WRITES: u64 = 50;

/// How acknowledged writes are asked for, and how many replicas must have them.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Server(u32),
    Flag(u32),
    Wait(u32),
}

fn start(seed: u64, acks: Acks, held: &str) -> Run {
    let arguments: Vec<&str> = ARGUMENTS.iter().copied().chain(["--ack-replicas", held]).collect();
    Run::start(seed, Traffic { acks, ..TRAFFIC }, REPLICAS, MIXED, &arguments)
}

/// With one replica that must have a write, what one replica lacks the other has: the heir gathers.
/// With both there is nothing to gather.
fn run(seed: u64, asked: Asked) -> Judged {
    let (count, acks) = match asked {
        Asked::Server(count) => (count, Acks::Server),
        Asked::Flag(count) => (count, Acks::Flag(count)),
        Asked::Wait(count) => (count, Acks::Wait(count)),
    };
    let held = if acks == Acks::Server { count } else { 0 }.to_string();
    let mut run = start(seed, acks, &held);
    for _ in 1..REIGNS {
        fault(&mut run);
        // Settle first: afterwards nothing depends on a replica that has died.
        run.settle();
        run.open();
        run.write_acknowledged(WRITES, 0..200);
        let going = if run.random.u8(0..3) == 0 { Going::Stopped } else { Going::Killed };
        let heir = run.random.usize(0..2);
        run.succeed(heir, count == 1, going);
        run.write_acknowledged(WRITES, 0..200);
    }
    run.judge().unwrap_or_else(|complaints| panic!("{}", complaints.join("\n")))
}

fn runs(asked: [Asked; 2]) {
    let seeds = seeds();
    let cases: Vec<(u64, Asked)> =
        seeds.iter().zip(asked.iter().cycle()).map(|(seed, asked)| (*seed, *asked)).collect();
    side_by_side(&cases, |(seed, asked)| {
        println!("REMORA_SEED={seed}, {asked:?}");
        let judged = run(seed, asked);
        println!("REMORA_SEED={seed}, {asked:?}: {judged:?}");
        let least = WRITES as usize * 2 * (REIGNS - 1);
        assert!(judged.reigns == REIGNS && judged.acknowledged >= least, "not all was judged: {judged:?}");
    });
}

#[test]
fn what_one_replica_has_acknowledged_outlives_the_primary() {
    runs([Asked::Server(1), Asked::Flag(1)]);
}

#[test]
fn what_both_replicas_have_acknowledged_outlives_the_primary() {
    runs([Asked::Flag(2), Asked::Server(2)]);
}

#[test]
fn what_was_waited_for_outlives_the_primary() {
    runs([Asked::Wait(1), Asked::Wait(2)]);
}

/// Were the answers not held, then this is what would be seen: replicas that follow nobody while
/// writes are answered, and a primary that dies. (Replicas that only stand still do not lose them:
/// over shared memory they read what is there even after the primary's death.)
#[test]
fn a_primary_that_acknowledges_what_no_replica_has_is_found_out() {
    let mut run = start(1, Acks::Server, "0");
    run.followers.iter().flatten().for_each(|follower| order(&follower.node, "detach"));
    run.write_acknowledged(100, 0..1);
    run.succeed(0, true, Going::Killed);
    run.write_acknowledged(100, 100..200);
    let complaints = run.judge().expect_err("writes were lost");
    assert!(complaints.iter().all(|complaint| complaint.contains("in reign")), "{complaints:#?}");
}
