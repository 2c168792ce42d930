//! Servers whose roles a leader decides ([`super::leader`]): three or five, with faults at every
//! step of a hand-over or a promotion. The leader pauses between any two of its steps, and is
//! replaced by one that knows what the servers say and nothing else.
//!
//! | what happens, by seed | to whom |
//! | --- | --- |
//! | kill -9, and an empty process under the same ports, often within 100 ms | the primary, the heir, one that is gathered from, at any moment of the order, or once somebody has stopped for the heir; anybody in between |
//! | SIGSTOP | the same |
//! | a control connection is cut, or stalls, after so many bytes or at some moment | the heir's to those whom it gathers from, and those by which servers follow |
//!
//! Not more servers are lost at a time than acknowledgements allow. Then nothing acknowledged is
//! missing; without acknowledgements nothing is missing where no primary has died. No two servers
//! take a shard's writes, no term is begun twice, each shard has a primary again within a bound,
//! and all servers end with the same items.

mod cluster;
mod faults;
mod view;

use super::super::chains::run_chains;
use super::super::clients::Traffic;
use super::super::connection::Acks;
use super::{ARGUMENTS, SHARDS, TRAFFIC};
use crate::support::number;
use cluster::{Cluster, Setting};

const KILLS_DEFAULT: u64 = 10;
/// Kills of one chain, in a short run and in a long one.
const CHAIN_KILLS_MAX: [u64; 2] = [2, 20];
/// Writes between two faults, at most.
const WRITES_MAX: u64 = 150;

/// Servers, how writes are acknowledged, by how many replicas.
const SETTINGS: [(usize, Acks, &str, usize); 8] = [
    (3, Acks::Server, "1", 1),
    (5, Acks::Flag(2), "0", 2),
    (3, Acks::None, "0", 0),
    (5, Acks::Wait(1), "0", 1),
    (3, Acks::Flag(2), "0", 2),
    (5, Acks::None, "0", 0),
    (3, Acks::Wait(1), "0", 1),
    (5, Acks::Server, "2", 2),
];

/// What was done, and what came of it.
#[derive(Debug, Default)]
struct Sum {
    faults: faults::Counts,
    operations: usize,
    acknowledged: usize,
    unknown: usize,
}

impl Sum {
    fn add(&mut self, cluster: &Cluster) {
        self.faults.add(&cluster.counts);
        for judged in cluster.record.judged() {
            self.operations += judged.operations;
            self.acknowledged += judged.acknowledged;
            self.unknown += judged.unknown;
        }
    }
}

fn start(seed: u64, is_long: bool) -> Cluster {
    let (servers, acks, held, replicas) = SETTINGS[(seed as usize + 7) % SETTINGS.len()];
    // Where fewer than that are there, an answer is late rather than wrong.
    let arguments = ARGUMENTS.iter().map(|word| if *word == "2000" { "500" } else { *word });
    let arguments = arguments.chain(["--ack-replicas", held]).map(String::from).collect();
    let traffic = Traffic { acks, ..TRAFFIC };
    let is_apart = seed / SETTINGS.len() as u64 % 2 == 1;
    Cluster::start(seed, Setting { servers, traffic, lost_max: replicas.max(1), arguments, is_long, is_apart })
}

/// Hand-overs, stops and kills; then everything is judged that is over.
fn round(cluster: &mut Cluster, kills: u64) {
    let until = cluster.counts.kills + kills;
    loop {
        match cluster.random.u8(0..6) {
            0 => cluster.stop_some(),
            1 => cluster.kill_some(),
            _ => cluster.hand_over_some(),
        }
        let writes = cluster.random.u64(1..WRITES_MAX);
        cluster.write(writes);
        if cluster.is_spent() || cluster.random.u8(0..6) == 0 {
            break;
        }
    }
    if cluster.counts.kills < until {
        cluster.kill_some();
    }
    cluster.settle();
}

#[test]
fn by_whatever_leader_each_shard_has_one_primary_and_nothing_acknowledged_is_lost() {
    let mut sum = Sum::default();
    let is_long = number("REMORA_HISTORY_KILLS").is_some();
    let chain_kills_max = CHAIN_KILLS_MAX[usize::from(is_long)];
    run_chains("history::by_shard::led", KILLS_DEFAULT, chain_kills_max, |seed, kills, again| {
        let mut cluster = start(seed, is_long);
        while cluster.counts.kills < kills {
            round(&mut cluster, 1);
            let complaints = cluster.complaints();
            assert!(complaints.is_empty(), "{again}\nkill {}\n{}", cluster.counts.kills, complaints.join("\n"));
        }
        cluster.compare();
        cluster.end();
        (0..SHARDS).for_each(|shard| cluster.judge_all_of(shard));
        let complaints = cluster.complaints();
        assert!(complaints.is_empty(), "{again}\n{}", complaints.join("\n"));
        sum.add(&cluster);
        let Sum { faults, operations, acknowledged, unknown } = &sum;
        println!(
            "led: {faults}, {operations} operations, {acknowledged} acknowledged writes: none lost; {unknown} outcomes unknown"
        );
    });
    assert!(sum.faults.kills > 0 && sum.faults.promotions > 0, "not all was judged: {sum:?}");
    assert!(sum.faults.hand_overs > 0 && sum.operations > 1000, "not all was judged: {sum:?}");
}
