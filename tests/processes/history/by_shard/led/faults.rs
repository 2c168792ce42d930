//! What is done to servers and connections while a leader's orders are carried out, and how often.

use super::cluster::Cluster;
use super::view;
use crate::proxy::{ALL, Fate};
use remora::base::shards::ShardSet;
use std::fmt;
use std::time::{Duration, Instant};

/// A control connection is cut within so many bytes, if it is: a handshake, a seal and its answer.
const CUT_BYTES_MAX: usize = 2500;
/// Longest wait for somebody to stop for an heir.
const STOPPED_WAIT_MAX: Duration = Duration::from_millis(100);

#[derive(Debug, Default, Clone)]
pub struct Counts {
    pub kills: u64,
    /// Kills of the heir, the primary, or one that is gathered from, while an order is under way.
    pub kills_within: u64,
    pub promotions: u64,
    pub hand_overs: u64,
    /// Orders that failed.
    pub failed: u64,
    pub stops: u64,
    pub cuts: u64,
    /// Leaders that were replaced.
    pub leaders: u64,
    /// The longest time for which a shard had no primary that was seen.
    pub without_primary: Duration,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.kills += other.kills;
        self.kills_within += other.kills_within;
        self.promotions += other.promotions;
        self.hand_overs += other.hand_overs;
        self.failed += other.failed;
        self.stops += other.stops;
        self.cuts += other.cuts;
        self.leaders += other.leaders;
        self.without_primary = self.without_primary.max(other.without_primary);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { kills, kills_within, promotions, hand_overs, failed, stops, cuts, leaders, without_primary } =
            self;
        write!(
            f,
            "{kills} kills ({kills_within} within orders), {promotions} promotions, {hand_overs} hand-overs, {failed} orders failed, \
             {stops} stops, {cuts} cuts, {leaders} leaders, {} ms without a primary at most",
            without_primary.as_millis()
        )
    }
}

/// Who takes part in a promotion.
pub struct Parties {
    pub heir: usize,
    pub primary: Option<usize>,
    pub gathers: Vec<usize>,
    pub shards: ShardSet,
}

impl Cluster {
    /// The connections to those who are to stop for the heir may be cut, or stall, at some byte.
    pub fn prepare_cuts(&mut self, parties: &Parties) {
        for peer in parties.gathers.iter().chain(&parties.primary) {
            if self.proxies[*peer].expected() > 0 || self.random.u8(0..8) > 0 {
                continue;
            }
            let bytes = self.random.usize(0..CUT_BYTES_MAX);
            let (up, down) = if self.random.bool() { (bytes, ALL) } else { (ALL, bytes) };
            let stalls = self.random.u8(0..3) == 0;
            let fate = if stalls { Fate::Stalls { up, down } } else { Fate::Cut { up, down } };
            self.proxies[*peer].expect([fate]);
            self.counts.cuts += 1;
            if stalls {
                let until = Instant::now() + Duration::from_millis(self.random.u64(0..400));
                self.cuts_due.push((until, *peer));
            }
        }
    }

    /// While the order is carried out something happens to one of those who take part, or nothing.
    pub fn fault_within(&mut self, parties: &Parties) {
        let mut all = parties.gathers.clone();
        all.extend([parties.heir].into_iter().chain(parties.primary));
        let one = all[self.random.usize(0..all.len())];
        match self.random.u8(0..10) {
            0..3 => {
                self.moment(parties);
                if self.kill(one) {
                    self.counts.kills_within += 1;
                }
            }
            3 | 4 => {
                self.moment(parties);
                self.stop(one);
            }
            5 => {
                self.moment(parties);
                self.proxies[one].cut();
                self.counts.cuts += 1;
            }
            _ => {}
        }
    }

    /// Some moment of an order: by time, or once somebody has stopped for the heir.
    fn moment(&mut self, parties: &Parties) {
        if self.random.bool() {
            std::thread::sleep(Duration::from_micros(self.random.u64(0..8_000)));
            return;
        }
        let watched = parties.primary.or(parties.gathers.first().copied());
        let Some(address) = watched.and_then(|server| self.address(server)) else { return };
        let until = Instant::now() + STOPPED_WAIT_MAX;
        while Instant::now() < until {
            let rows = view::ask(address);
            let has_shards = |rows: &view::Rows| {
                let follows = rows.get("shards").map_or(ShardSet::default(), |shards| view::shards_of(shards));
                !view::shards_of(&rows["shards_primary"]).with(follows).within(parties.shards).is_empty()
            };
            if rows.is_none_or(|rows| !has_shards(&rows)) {
                return;
            }
        }
    }

    /// It stands still for a while, beginning now.
    pub fn stop(&mut self, server: usize) {
        let Some(pid) = self.pid(server) else { return };
        let milliseconds = match self.random.u8(0..24) {
            // Longer than a silence that ends sessions.
            0 if self.is_long() => self.random.u64(5500..7000),
            0..3 => self.random.u64(1000..2000),
            _ => self.random.u64(20..400),
        };
        self.node(server).server.signal("STOP");
        self.counts.stops += 1;
        self.goes_on_at.push((Instant::now() + Duration::from_millis(milliseconds), pid));
    }

    pub fn stop_some(&mut self) {
        let server = self.random.usize(0..self.size());
        self.stop(server);
    }

    pub fn kill_some(&mut self) {
        let server = self.random.usize(0..self.size());
        self.kill(server);
    }

    pub fn hand_over_some(&mut self) {
        let heir = self.random.usize(0..self.size());
        let first = self.random.usize(0..super::SHARDS);
        let count = self.random.usize(1..=4);
        let shards = (first..first + count).map(|shard| shard % super::SHARDS).collect();
        self.leader.wish(heir, shards);
    }
}
