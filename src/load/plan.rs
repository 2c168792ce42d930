//! What a connection sends next: which command, which keys, which value. Pure: appends bytes to a
//! buffer, and to a queue what is to come back for them.
//!
//! Keys belong to servers by the frozen hash. With `--verify` each key also has one connection that
//! alone writes it, so that its last acknowledged version is known (see [`super::ledger`]); any
//! connection reads it.

use super::ledger::Ledger;
use super::question::Protocol;
use super::workload::{Workload, key_text, stream_of};
use crate::base::hash::shard_hash;
use std::collections::VecDeque;

/// Traffic of a whole run, shared by all connections.
pub struct Traffic {
    /// Keys and values.
    pub workload: Workload,
    /// Which protocol is spoken.
    pub protocol: Protocol,
    /// Sets among `sets` + `gets` commands.
    pub sets: u32,
    /// See `sets`.
    pub gets: u32,
    /// Keys of one get.
    pub keys_per_get: u32,
    /// Expiry of what is set, in seconds; 0 for never.
    pub ttl_seconds: u32,
    /// With `--verify`: what was written.
    pub ledger: Option<Ledger>,
    /// Without: bytes that values are cut from. As long as the longest.
    pub filler: Vec<u8>,
}

/// One of the connections to a server.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    /// Which of all connections.
    pub number: u32,
    /// Its server, of so many.
    pub server: u32,
    /// See `server`.
    pub servers: u32,
    /// Which of the connections to this server, of so many.
    pub index: u32,
    /// See `index`.
    pub of: u32,
}

/// One key whose answer is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Latency counts from here: when it was sent, or due. Nanoseconds since the run began.
    pub since_ns: u64,
    /// Its number.
    pub key: u32,
    /// Of a set, the version sent; of a get, the last that was acknowledged before. 0 without
    /// `--verify`.
    pub version: u32,
    /// Of a set, its value's length.
    pub value_bytes: u32,
    /// Written, not read.
    pub is_set: bool,
    /// No further key belongs to the same command.
    pub is_last: bool,
}

/// Random keys that are tried for one of its own, for each server; after that, the next of its own
/// behind the last one tried.
const DRAWS_PER_SERVER: u32 = 16;

/// See the module.
pub struct Planner<'a> {
    traffic: &'a Traffic,
    lane: Lane,
    rng: fastrand::Rng,
    /// Where filling has got to; None when it is over.
    filling: Option<u32>,
    value: Vec<u8>,
}

impl<'a> Planner<'a> {
    /// For one connection. With `fill` it writes each of its keys once and ends; else it goes on
    /// for ever.
    pub fn new(traffic: &'a Traffic, lane: Lane, fill: bool) -> Planner<'a> {
        let rng = stream_of(traffic.workload.seed, u64::from(lane.number));
        let value = Vec::with_capacity(traffic.workload.value_bytes.max() as usize);
        Planner { traffic, lane, rng, filling: fill.then_some(0), value }
    }

    /// The next command, counted from `since_ns`. False when filling has come to its end.
    pub fn next(&mut self, since_ns: u64, out: &mut Vec<u8>, asked: &mut VecDeque<Asked>) -> bool {
        if let Some(from) = self.filling {
            let Some(key) = self.lane.own_key_from(from, self.traffic.workload.keys) else { return false };
            self.filling = Some(key + 1);
            self.set(key, since_ns, out, asked);
        } else if self.rng.u32(..self.traffic.sets + self.traffic.gets) < self.traffic.sets {
            let key = self.pick(self.traffic.ledger.is_some());
            self.set(key, since_ns, out, asked);
        } else {
            self.get(since_ns, out, asked);
        }
        true
    }

    fn get(&mut self, since_ns: u64, out: &mut Vec<u8>, asked: &mut VecDeque<Asked>) {
        let Traffic { protocol, keys_per_get, .. } = *self.traffic;
        protocol.begin_get(keys_per_get, out);
        for left in (0..keys_per_get).rev() {
            let key = self.pick(false);
            protocol.add_key(key, out);
            let version = self.traffic.ledger.as_ref().map_or(0, |ledger| ledger.acknowledged(key));
            asked.push_back(Asked { since_ns, key, version, value_bytes: 0, is_set: false, is_last: left == 0 });
        }
        protocol.end_get(out);
    }

    fn set(&mut self, key: u32, since_ns: u64, out: &mut Vec<u8>, asked: &mut VecDeque<Asked>) {
        let traffic = self.traffic;
        let mut version = 0;
        let value = match &traffic.ledger {
            Some(ledger) => {
                version = ledger.issue(key);
                traffic.workload.value(key, version, &mut self.value);
                &self.value[..]
            }
            None => &traffic.filler[..traffic.workload.value_bytes.pick(&mut self.rng) as usize],
        };
        traffic.protocol.set(key, value, traffic.ttl_seconds, out);
        let value_bytes = value.len() as u32;
        asked.push_back(Asked { since_ns, key, version, value_bytes, is_set: true, is_last: true });
    }

    /// A key of this connection's server, with `own` one that it alone writes. Mostly as often as
    /// the workload says.
    fn pick(&mut self, own: bool) -> u32 {
        let workload = &self.traffic.workload;
        let mut key = 0;
        for _ in 0..DRAWS_PER_SERVER * self.lane.servers {
            key = workload.pick_key(&mut self.rng);
            if own {
                key = key - key % self.lane.of + self.lane.index;
                if key >= workload.keys {
                    continue;
                }
            }
            if self.lane.is_here(key) {
                return key;
            }
        }
        let from = |key| self.lane.own_key_from(key, workload.keys);
        from(key).or_else(|| from(0)).expect("checked by the run: each connection has a key of its own")
    }
}

impl Lane {
    fn is_here(&self, key: u32) -> bool {
        self.servers == 1 || shard_hash(&key_text(key)) % u64::from(self.servers) == u64::from(self.server)
    }

    /// The nearest key from `from` on that this connection alone writes.
    pub fn own_key_from(&self, from: u32, keys: u32) -> Option<u32> {
        let mut key = u64::from(from) + u64::from((self.index + self.of - from % self.of) % self.of);
        while key < u64::from(keys) {
            if self.is_here(key as u32) {
                return Some(key as u32);
            }
            key += u64::from(self.of);
        }
        None
    }
}

/// Bytes to cut values from.
pub fn filler(seed: u64, bytes: u32) -> Vec<u8> {
    let mut filler = vec![0; bytes as usize];
    fastrand::Rng::with_seed(seed).fill(&mut filler);
    filler
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::load::workload::KeyChoice;
    use std::collections::BTreeMap;

    pub(in crate::load) fn traffic(protocol: Protocol, verify: bool) -> Traffic {
        let value_bytes = (16..=40).into();
        let workload = Workload { seed: 3, keys: 100, choice: KeyChoice::Uniform, value_bytes, gets_per_set: 9 };
        let ledger = verify.then(|| Ledger::new(100));
        Traffic { workload, protocol, sets: 1, gets: 1, keys_per_get: 1, ttl_seconds: 0, ledger, filler: filler(3, 40) }
    }

    fn lane(number: u32, servers: u32, of: u32) -> Lane {
        Lane { number, server: number % servers, servers, index: number / servers, of }
    }

    #[test]
    fn filling_writes_each_key_once_where_it_belongs() {
        for (servers, of) in [(1, 1), (1, 7), (3, 1), (3, 4)] {
            let traffic = traffic(Protocol::Text, true);
            let mut written = BTreeMap::new();
            for number in 0..servers * of {
                let lane = lane(number, servers, of);
                let mut planner = Planner::new(&traffic, lane, true);
                let mut asked = VecDeque::new();
                while planner.next(5, &mut Vec::new(), &mut asked) {}
                for key in asked {
                    assert!(key.is_set && key.is_last && key.version == 1 && key.since_ns == 5);
                    let hash = shard_hash(format!("load:{:010}", key.key).as_bytes());
                    assert_eq!(hash % u64::from(servers), u64::from(lane.server));
                    *written.entry(key.key).or_insert(0) += 1;
                }
            }
            assert_eq!(written, (0..100).map(|key| (key, 1)).collect(), "{servers} servers, {of} connections");
        }
    }

    #[test]
    fn sets_keep_to_own_keys_and_gets_to_the_server() {
        let mut traffic = traffic(Protocol::Text, true);
        traffic.keys_per_get = 3;
        for number in 0..6 {
            let lane = lane(number, 2, 3);
            let mut planner = Planner::new(&traffic, lane, false);
            let mut asked = VecDeque::new();
            for _ in 0..500 {
                assert!(planner.next(0, &mut Vec::new(), &mut asked));
            }
            assert!(asked.iter().all(|asked| lane.is_here(asked.key)));
            assert!(asked.iter().filter(|asked| asked.is_set).all(|asked| asked.key % 3 == lane.index));
            let commands = asked.iter().filter(|asked| asked.is_last).count();
            let sets = asked.iter().filter(|asked| asked.is_set).count();
            assert_eq!((commands, asked.len()), (500, sets + 3 * (500 - sets)));
            assert!((180..320).contains(&sets), "{sets} sets of 500 at 1:1");
        }
    }

    #[test]
    fn a_connection_without_a_key_of_its_own_is_seen() {
        assert_eq!(lane(5, 1, 6).own_key_from(0, 5), None);
        assert_eq!(lane(4, 1, 6).own_key_from(0, 5), Some(4));
        assert_eq!(lane(1, 1, 3).own_key_from(1, 9), Some(1));
        assert_eq!(lane(1, 1, 3).own_key_from(2, 9), Some(4));
        assert_eq!(lane(2, 1, 3).own_key_from(7, 9), Some(8));
        assert_eq!(lane(0, 1, 3).own_key_from(7, 9), None);
    }
}
