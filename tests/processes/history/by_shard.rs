//! Three servers, each the primary of a third of the shards and a replica in the rest. Clients
//! write to whoever takes it. Shards are handed over under load, servers stand still, and are
//! killed: nothing acknowledged is lost, and no shard has two primaries.
//!
//! A shard's history is judged as if there were no other shard. A hand-over does not cut it. So one
//! order must explain what both servers have answered, and no write may be missing in it, whether
//! it was acknowledged or not. A kill cuts it.

mod clients;
mod leader;
mod led;
mod record;
mod seen;
mod servers;
mod tenures;

use super::chains::run_chains;
use super::clients::Traffic;
use super::connection::Acks;
use remora::base::hash::shard_hash;
use remora::base::shards::ShardSet;
use servers::Servers;
pub use servers::signal;
use std::time::Duration;

pub const SHARDS: usize = 16;
const KILLS_DEFAULT: u64 = 4;
/// Kills of one chain.
const CHAIN_KILLS_MAX: u64 = 50;
/// Acknowledged writes that a fault waits for, at most.
const WRITES_MAX: u64 = 200;

/// So many keys that each has few writes in a reign: where no write is acknowledged, the cut may be
/// behind each of them, and the search is long.
const TRAFFIC: Traffic =
    Traffic { registers: 3000, counters: 200, batch_max: 16, acks: Acks::None, pause_max: Duration::from_millis(2) };
/// Nothing is evicted (-M), so nothing may be missing.
const ARGUMENTS: [&str; 9] =
    ["-M", "-m", "64", "--shards", "16", "--replication-timeout", "5", "--ack-timeout", "2000"];
/// What each server follows over, and offers.
const FABRICS: [[&str; 3]; 2] = [["shm,tcp", "tcp,shm", "shm,tcp"], ["tcp", "tcp", "tcp"]];
/// How writes are acknowledged; the seed chooses.
const ASKED: [(Acks, &str); 6] = [
    (Acks::Server, "1"),
    (Acks::Flag(1), "0"),
    (Acks::None, "0"),
    (Acks::Flag(2), "0"),
    (Acks::Wait(1), "0"),
    (Acks::Server, "2"),
];

/// The shard of a key.
pub fn shard_of(key: u32) -> usize {
    shard_of_name(&format!("key-{key}"), SHARDS)
}

/// The shard of a key of that name, among so many.
pub fn shard_of_name(name: &str, shards: usize) -> usize {
    ((u128::from(shard_hash(name.as_bytes())) * shards as u128) >> 64) as usize
}

#[derive(Debug, Default)]
struct Sum {
    kills: u64,
    hand_overs: u64,
    operations: usize,
    acknowledged: usize,
    unknown: usize,
}

struct Chain {
    servers: Servers,
}

impl Chain {
    fn start(seed: u64) -> Chain {
        let (acks, held) = ASKED[(seed as usize + 5) % ASKED.len()];
        let arguments: Vec<&str> = ARGUMENTS.iter().copied().chain(["--ack-replicas", held]).collect();
        let fabrics = FABRICS[seed as usize / 2 % 2];
        Chain { servers: Servers::start(seed, Traffic { acks, ..TRAFFIC }, fabrics, &arguments) }
    }

    /// Hand-overs and moments of standing still, then a kill.
    fn kill(&mut self) {
        for _ in 0..self.servers.random.usize(1..4) {
            match self.servers.random.u8(0..4) {
                0 => self.servers.stop_one(),
                _ => self.servers.hand_over_some(),
            }
            let writes = self.servers.random.u64(1..WRITES_MAX);
            self.servers.write(writes);
        }
        // Afterwards nothing is needed of one server alone.
        self.servers.settle();
        let writes = self.servers.random.u64(1..WRITES_MAX);
        self.servers.write(writes);
        let victim = self.servers.random.usize(0..3);
        let shards = self.servers.kill(victim);
        self.servers.sort();
        for shard in shards {
            self.servers.judge(shard, true);
        }
        self.servers.pass(0..200);
        self.servers.come_back(victim);
        self.servers.settle();
        for from in (0..3).filter(|server| *server != victim) {
            let own: Vec<usize> = self.servers.own(from).iter().collect();
            let some: ShardSet = own.into_iter().step_by(3).collect();
            if !some.is_empty() {
                self.servers.hand_over(from, victim, some);
            }
        }
    }

    fn complaints(&self) -> &[String] {
        &self.servers.record.complaints
    }

    fn end(&mut self) {
        self.servers.end();
        self.servers.sort();
        (0..SHARDS).for_each(|shard| self.servers.judge(shard, false));
    }
}

impl Sum {
    fn add(&mut self, chain: &Chain) {
        self.hand_overs += chain.servers.hand_overs;
        for judged in chain.servers.record.judged() {
            self.operations += judged.operations;
            self.acknowledged += judged.acknowledged;
            self.unknown += judged.unknown;
        }
    }
}

#[test]
fn one_writer_a_shard_and_nothing_acknowledged_is_lost() {
    let mut sum = Sum::default();
    run_chains("history::by_shard::one_writer", KILLS_DEFAULT, CHAIN_KILLS_MAX, |seed, kills, again| {
        let mut chain = Chain::start(seed);
        for done in 1..=kills {
            chain.kill();
            sum.kills += 1;
            assert!(chain.complaints().is_empty(), "{again}\nkill {done}\n{}", chain.complaints().join("\n"));
        }
        chain.servers.compare();
        chain.end();
        assert!(chain.complaints().is_empty(), "{again}\n{}", chain.complaints().join("\n"));
        sum.add(&chain);
        let Sum { kills: killed, hand_overs, operations, acknowledged, unknown } = sum;
        println!(
            "by shard: {killed} kills, {hand_overs} hand-overs, {operations} operations, {acknowledged} acknowledged writes: \
             none lost; {unknown} outcomes unknown"
        );
    });
    assert!(sum.kills > 0 && sum.hand_overs > sum.kills && sum.operations > 1000, "not all was judged: {sum:?}");
}

/// Were a shard promoted behind its primary's back, then this is what would be seen: both take
/// writes, and no one order explains them.
#[test]
fn two_primaries_of_a_shard_are_found_out() {
    let mut chain = Chain::start(3);
    let shards = chain.servers.own(1);
    chain.servers.usurp(2, shards);
    chain.servers.write(6000);
    chain.servers.end();
    chain.servers.sort();
    assert!(chain.complaints().is_empty(), "both may take writes, by what is known: {:?}", chain.complaints());
    (0..SHARDS).for_each(|shard| chain.servers.judge(shard, false));
    assert!(!chain.complaints().is_empty(), "no write was missed");
    assert!(chain.complaints().iter().all(|complaint| complaint.contains("in reign 1:")), "{:?}", chain.complaints());
}
