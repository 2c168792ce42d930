//! A cluster under faults: a locator and servers, each at a host of its own (a network namespace),
//! and a client for each shard. One fault after the other, by seed; after each the cluster heals by
//! itself within a bound, and all that was acknowledged is looked for.
//!
//! | must hold | how it is seen |
//! | --- | --- |
//! | no acknowledged write is lost | after each fault all keys are read, at the end at each server |
//! | no answer is older than a write that was acknowledged before | each key has one writer, which reads it at other servers all the while |
//! | nothing is executed twice | counters, counted up by the server |
//! | each shard takes writes again | the first acknowledged write after a fault is waited for |
//!
//! A primary that was away for a lease, and has not heard of the map of since, answers reads, also
//! of servers that forward them. These answers may be older: they are counted.
//!
//! Network namespaces take root. Without it the test is skipped, and says so.

mod faults;
mod field;
mod hosts;
mod lane;
mod site;

use super::chains::run_chains;
use crate::support::number;
use crate::support::wait::{Ends, wait_until};
use fastrand::Rng;
use faults::{Fault, KINDS, KINDS_SHORT, Kind};
use field::{Counts, Field};
use lane::Lane;
use remora::cluster::map::Policy;
use site::{CLIENTS, Setting, Site};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

const FAULTS_DEFAULT: u64 = 6;
/// Faults of one cluster.
const CHAIN_FAULTS_MAX: u64 = 12;
/// Acknowledged writes between two faults, at least.
const WRITES: u64 = 100;

/// In a short run: few shards, and short leases.
const SHORT: (usize, [u64; 1]) = (16, [500]);
/// In a long one.
const LONG: (usize, [u64; 3]) = (64, [500, 1000, 2000]);

/// What was done, and what came of it.
#[derive(Debug, Default)]
struct Sum {
    faults: BTreeMap<Kind, u64>,
    acknowledged: u64,
    reads: u64,
    unknown: u64,
    lost: u64,
    stale: u64,
    without_lease: u64,
    resumed: u64,
    /// Milliseconds without acknowledged writes, in shards whose primary was killed or stopped.
    after_kill: Vec<u64>,
    after_stop: Vec<u64>,
}

impl Sum {
    fn add(&mut self, counts: &Counts) {
        self.acknowledged += counts.acknowledged.load(SeqCst);
        self.reads += counts.reads.load(SeqCst);
        self.unknown += counts.unknown.load(SeqCst);
        self.lost += counts.lost.load(SeqCst);
        self.stale += counts.stale.load(SeqCst);
        self.without_lease += counts.without_lease.load(SeqCst);
    }

    fn print(&self) {
        let Sum { acknowledged, reads, unknown, lost, stale, without_lease, resumed, .. } = self;
        let faults: u64 = self.faults.values().sum();
        println!(
            "cluster: {faults} faults, {acknowledged} acknowledged writes, {reads} reads: {lost} lost, {stale} stale, \
             {without_lease} without a lease; {unknown} outcomes unknown; {resumed} resumed by an operator"
        );
        let kinds: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{} {count}", kind.name())).collect();
        println!("cluster faults: {}", kinds.join(", "));
        for (name, times) in [("kill", &self.after_kill), ("stop", &self.after_stop)] {
            if let Some((median, most, max)) = spread(times) {
                println!(
                    "cluster first acknowledged write after a {name}: {} shards, median {median} ms, 99 of 100 within \
                     {most} ms, all within {max} ms",
                    times.len()
                );
            }
        }
    }
}

/// Median, 99th percentile, largest.
fn spread(times: &[u64]) -> Option<(u64, u64, u64)> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |hundredths: usize| sorted.get((sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1)));
    Some((*at(50)?, *at(99)?, *sorted.last()?))
}

/// The faults of a chain: all kinds in some order, again and again; a few in a short run, or those
/// that are asked for.
struct Deck {
    kinds: Vec<Kind>,
    left: Vec<Kind>,
}

impl Deck {
    fn new(is_long: bool) -> Deck {
        let asked = std::env::var("REMORA_HISTORY_FAULTS").unwrap_or_default();
        let is_asked = |kind: &Kind| asked.is_empty() || asked.split(',').any(|name| name == kind.name());
        let all = if is_long || !asked.is_empty() { &KINDS[..] } else { &KINDS_SHORT };
        let kinds: Vec<Kind> = all.iter().copied().filter(is_asked).collect();
        assert!(!kinds.is_empty(), "REMORA_HISTORY_FAULTS={asked} names no fault");
        Deck { kinds, left: Vec::new() }
    }

    fn draw(&mut self, random: &mut Rng) -> Kind {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            random.shuffle(&mut self.left);
        }
        self.left.pop().expect("there are kinds")
    }
}

/// By seed: how many servers, copies, and how long leases last.
fn setting(seed: u64, is_long: bool) -> Setting {
    let (shards, leases): (usize, &[u64]) = if is_long { (LONG.0, &LONG.1) } else { (SHORT.0, &SHORT.1) };
    let lease_ms = number("REMORA_HISTORY_LEASE").unwrap_or(leases[seed as usize % leases.len()]);
    let replicas = 1 + (seed % 2) as u8;
    let policy = Policy { replicas, acks: 1, lease_ms, heal_delay_ms: 1000, ..Policy::default() };
    Setting { servers: 4 + (seed / 2 % 2) as usize, shards, policy }
}

/// A cluster that runs, with its clients.
struct Chain<'c> {
    site: Site,
    field: &'c Field,
    random: Rng,
    deaths: Vec<u32>,
}

impl Chain<'_> {
    /// A fault, and all is well afterwards.
    fn suffer(&mut self, kind: Kind, sum: &mut Sum) {
        let fault = Fault::draw(kind, self.site.setting.policy.lease_ms, &self.deaths, &mut self.random);
        println!("{fault:?}");
        self.deaths[fault.victim] += u32::from(kind.kills());
        *sum.faults.entry(kind).or_default() += 1;
        let led = if kind.kills() || kind.stops() { self.site.led_by(fault.victim) } else { Vec::new() };
        let away = fault.away().map_or_else(Vec::new, |server| self.site.led_by(server));
        self.field.set_away(&away);
        let field = self.field;
        fault.happen(&mut self.site, &mut self.random, || field.wait_for_first(&led));
        sum.resumed += u64::from(kind == Kind::RestartBesidePause && self.site.resume());
        let over = Instant::now();
        self.site.heal();
        self.field.set_away(&[]);
        println!("  well again after {} ms", over.elapsed().as_millis());
        wait_until("each shard takes writes", || match self.field.still_waiting() {
            0 => Ok(()),
            shards => Err(format!("{shards} do not")),
        });
        let times = self.field.take_times().into_iter().map(|microseconds| microseconds / 1000);
        match kind {
            Kind::Kill | Kind::Restart => sum.after_kill.extend(times),
            Kind::PauseLong => sum.after_stop.extend(times),
            _ => {}
        }
        self.look(None);
        let before = self.field.counts.acknowledged.load(SeqCst);
        wait_until("writes are acknowledged", || {
            let more = self.field.counts.acknowledged.load(SeqCst) - before;
            if more >= WRITES { Ok(()) } else { Err(format!("{more}")) }
        });
    }

    /// All that was acknowledged is there.
    fn look(&self, server: Option<usize>) {
        self.field.begin_round(server);
        wait_until("all lanes have looked", || {
            let looked = self.field.looked.load(SeqCst);
            let is_over = looked == self.field.shards() || !self.field.complaints().is_empty();
            if is_over { Ok(()) } else { Err(format!("{looked} have")) }
        });
    }
}

/// A cluster of one seed; what was wrong. None where there can be no hosts.
fn run(seed: u64, faults: u64, sum: &mut Sum) -> Option<Vec<String>> {
    let is_long = number("REMORA_HISTORY_KILLS").is_some();
    let site = Site::born(setting(seed, is_long))?;
    let servers = (0..site.setting.servers).map(|server| site.clients(server)).collect();
    let field = Field::new(servers, site.setting.shards);
    let deaths = vec![0; site.setting.servers];
    let mut chain = Chain { site, field: &field, random: Rng::with_seed(seed), deaths };
    let mut deck = Deck::new(is_long);
    std::thread::scope(|scope| {
        let _ends = Ends(&field.stopping);
        for shard in 0..field.shards() {
            let field = &field;
            let run = move || Lane::new(field, shard, seed).run();
            chain.site.hosts.spawn_at(CLIENTS, scope, run);
        }
        for _ in 0..faults {
            let kind = deck.draw(&mut chain.random);
            chain.suffer(kind, sum);
            if !field.complaints().is_empty() {
                return;
            }
        }
        (0..chain.site.setting.servers).for_each(|server| chain.look(Some(server)));
    });
    sum.add(&field.counts);
    let complaints = field.complaints();
    if !complaints.is_empty() {
        chain.site.keep_logs();
    }
    Some(complaints)
}

#[test]
fn nothing_acknowledged_is_lost_whatever_fails() {
    let mut sum = Sum::default();
    run_chains("history::cluster::", FAULTS_DEFAULT, CHAIN_FAULTS_MAX, |seed, faults, again| {
        let Some(complaints) = run(seed, faults, &mut sum) else { return };
        sum.print();
        assert!(complaints.is_empty(), "{again}\n{}", complaints.join("\n"));
    });
}
