//! A phase of `remora load`: connections shared out to threads, driven until its end, counted once
//! a second.
//!
//! Each thread counts for itself. When the conductor raises the tick, a thread adds its counts to
//! its account, under that account's lock, and begins anew; so nothing is shared while requests go
//! back and forth.

use super::caller::Caller;
use super::client::ClientError;
use super::hand::Hand;
use super::plan::{Lane, Planner, Traffic};
use super::report::Tally;
use super::schedule::{Arrivals, Spacing};
use super::stream::{Stream, Target};
use super::workload::stream_of;
use crate::base::limits::{LOAD_INTERVALS_MAX, LOAD_TICK_MILLISECONDS, LOAD_WAIT_SECONDS_MAX};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A phase, as it is asked for.
pub struct Phase<'a> {
    /// What is sent.
    pub traffic: &'a Traffic,
    /// The servers.
    pub targets: &'a [Target],
    /// Over how many connections, to all servers together; at least one for each.
    pub connections: u32,
    /// How many threads drive them; no more than connections.
    pub threads: u32,
    /// Commands that a connection may have under way.
    pub pipeline: u32,
    /// Write each key once, then end.
    pub fill: bool,
    /// Commands a second (open loop); None for as many as are answered (closed loop).
    pub rate: Option<f64>,
    /// How these are spread over time.
    pub spacing: Spacing,
    /// End after this.
    pub duration: Option<Duration>,
    /// End after so many commands.
    pub commands: Option<u64>,
    /// Raised by anyone to end it.
    pub stop: &'a AtomicBool,
}

/// A second of it, or what was left of one.
pub struct Interval {
    /// When it ended, since the phase began.
    pub at: Duration,
    /// What was counted; `elapsed` is the interval's length.
    pub tally: Tally,
}

/// What an interval leaves for the report.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// When it ended, since the phase began.
    pub at: Duration,
    /// Requests a second.
    pub rate: f64,
    /// Median latency.
    pub p50: Duration,
    /// Latency of the slowest hundredth.
    pub p99: Duration,
    /// Wrong answers.
    pub wrong: u64,
}

/// The outcome of a phase.
#[derive(Default)]
pub struct Outcome {
    /// All counts.
    pub tally: Tally,
    /// Processor time of the threads; None where the system does not tell.
    pub cpu: Option<Duration>,
    /// Open loop: commands that were due and were not begun before the end.
    pub unsent: u64,
    /// The version and the suite of TLS.
    pub tls: Option<String>,
    /// Second by second.
    pub points: Vec<Point>,
    /// Why it ended early.
    pub error: Option<DriveError>,
}

impl Outcome {
    /// Processor time of the threads for each of so many; None where nothing was done or the system
    /// does not tell.
    pub fn cpu_ns_per(&self, count: u64) -> Option<u64> {
        self.cpu.filter(|_| count > 0).map(|cpu| cpu.as_nanos() as u64 / count)
    }
}

/// What ended a run.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// A connection that cannot go on.
    #[error("connection {number} to {server}: {cause}")]
    Connection {
        /// Which of all connections.
        number: u32,
        /// As the operator named it.
        server: String,
        /// Why.
        cause: ClientError,
    },
    /// More connections than keys, or nearly.
    #[error("connection {0} has no key of its own to write; give more --keys or fewer --connections")]
    NoKey(u32),
    /// The system refused.
    #[error("cannot wait for sockets: {0}; raise `ulimit -n`")]
    Poll(#[from] io::Error),
}

/// What a thread and the conductor share.
#[derive(Default)]
pub struct Account {
    counted: Mutex<Counted>,
    handed_over: Condvar,
}

#[derive(Default)]
struct Counted {
    tally: Tally,
    /// How many ticks had been raised when the counts were handed over.
    ticks: u32,
}

impl Account {
    /// Hand over a thread's counts, and begin them anew. `ticks`: how often they were asked for.
    pub fn add(&self, tally: &mut Tally, ticks: u32) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.tally.add(tally);
        counted.ticks = ticks;
        tally.clear();
        self.handed_over.notify_one();
    }

    /// Add what was handed over to `all`. Wait until `deadline` for what tick number `ticks` has
    /// asked for.
    fn move_to(&self, all: &mut Tally, ticks: u32, deadline: Instant) {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.handed_over.wait_timeout_while(counted, left, |counted| counted.ticks < ticks);
        let mut counted = waited.unwrap_or_else(PoisonError::into_inner).0;
        all.add(&counted.tally);
        counted.tally.clear();
    }
}

/// What a thread says at its end.
pub struct Farewell {
    /// Its processor time.
    pub cpu: Option<Duration>,
    /// Commands due and not begun.
    pub unsent: u64,
    /// Why it ended early.
    pub error: Option<DriveError>,
}

/// How long the conductor waits for the counts of a second; what comes later counts to the next.
/// Some ticks of a thread: where processors are busy it is late, and a second without its counts
/// would look like a server that stood still.
const HANDING_OVER_MAX: Duration = Duration::from_millis(5 * LOAD_TICK_MILLISECONDS);
const INTERVAL: Duration = Duration::from_secs(1);
/// A last interval that is shorter counts in the sums alone: it is too short to tell a rate.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Run a phase. `watch` is called once a second.
pub fn drive(phase: &Phase<'_>, mut watch: impl FnMut(&Interval)) -> Result<Outcome, DriveError> {
    let accounts: Vec<Account> = (0..phase.threads).map(|_| Account::default()).collect();
    let tick = AtomicU32::new(0);
    let callers = (0..phase.threads).map(|thread| open(phase, thread)).collect::<Result<Vec<_>, _>>()?;
    let started = Instant::now();
    let tls = callers.iter().flatten().next().and_then(|caller| caller.stream.terms());
    let mut outcome = Outcome { tls, ..Outcome::default() };
    let (mut interval, mut counted_at) = (Tally::default(), Duration::ZERO);
    let mut count = |outcome: &mut Outcome| {
        let (ticks, deadline) = (tick.load(Relaxed), Instant::now() + HANDING_OVER_MAX);
        accounts.iter().for_each(|account| account.move_to(&mut interval, ticks, deadline));
        let at = started.elapsed();
        interval.elapsed = at - counted_at;
        counted_at = at;
        outcome.tally.add(&interval);
        outcome.tally.elapsed = at;
        let done = Interval { at, tally: std::mem::take(&mut interval) };
        let is_long_enough = done.tally.elapsed >= INTERVAL_MIN || outcome.points.is_empty();
        if is_long_enough && outcome.points.len() < LOAD_INTERVALS_MAX {
            outcome.points.push(done.point());
        }
        if is_long_enough {
            watch(&done);
        }
    };
    std::thread::scope(|scope| {
        let (sender, farewells) = channel();
        for (number, callers) in callers.into_iter().enumerate() {
            let (sender, account, tick) = (sender.clone(), &accounts[number], &tick);
            let work = move || {
                let farewell = match Hand::new(phase, started, callers, phase.share_of(number as u32)) {
                    Ok(hand) => hand.run(account, tick),
                    Err(error) => Farewell { cpu: None, unsent: 0, error: Some(error.into()) },
                };
                // The conductor waits for all of them, so it is there to hear.
                let _ = sender.send(farewell);
            };
            let thread = std::thread::Builder::new().name(format!("load-{number}"));
            thread.spawn_scoped(scope, work).expect("the system gives a few threads");
        }
        drop(sender);
        let (mut cpu, mut next) = (Some(Duration::ZERO), started + INTERVAL);
        loop {
            match farewells.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Farewell { cpu: spent, unsent, error }) => {
                    cpu = cpu.zip(spent).map(|(all, spent)| all + spent);
                    outcome.unsent += unsent;
                    outcome.error = outcome.error.take().or(error);
                }
                Err(RecvTimeoutError::Timeout) => {
                    tick.fetch_add(1, Relaxed);
                    count(&mut outcome);
                    next += INTERVAL;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        outcome.cpu = cpu;
    });
    count(&mut outcome);
    Ok(outcome)
}

impl Interval {
    fn point(&self) -> Point {
        let tally = &self.tally;
        let (p50, p99) = (tally.latency_at(0.5), tally.latency_at(0.99));
        Point { at: self.at, rate: tally.rate(), p50, p99, wrong: tally.wrong }
    }
}

impl Phase<'_> {
    fn lane_of(&self, number: u32) -> Lane {
        let servers = self.targets.len() as u32;
        let (server, index) = (number % servers, number / servers);
        Lane { number, server, servers, index, of: (self.connections - server).div_ceil(servers) }
    }

    fn share_of(&self, thread: u32) -> u64 {
        let (threads, thread) = (u64::from(self.threads), u64::from(thread));
        self.commands.map_or(u64::MAX, |all| all / threads + u64::from(thread < all % threads))
    }

    /// Each connection has an equal share of the rate. Where they are even, all connections of all
    /// threads take turns.
    fn arrivals_of(&self, number: u32) -> Option<Arrivals> {
        let interval_ns = 1e9 / self.rate?;
        let of_connection_ns = interval_ns * f64::from(self.connections);
        Some(match self.spacing {
            Spacing::Even => Arrivals::even(interval_ns * f64::from(number), of_connection_ns),
            Spacing::Poisson => {
                // Not the random numbers that choose the keys.
                let place = u64::from(number) | 1 << 63;
                Arrivals::poisson(of_connection_ns, stream_of(self.traffic.workload.seed, place))
            }
        })
    }
}

/// Open the connections of one thread. Connections are dealt out to the threads in turn.
pub fn open<'a>(phase: &Phase<'a>, thread: u32) -> Result<Vec<Caller<'a>>, DriveError> {
    let mut callers = Vec::new();
    for number in (thread..phase.connections).step_by(phase.threads as usize) {
        let lane = phase.lane_of(number);
        if lane.own_key_from(0, phase.traffic.workload.keys).is_none() {
            return Err(DriveError::NoKey(number));
        }
        let target = &phase.targets[lane.server as usize];
        let failed = |cause| DriveError::Connection { number, server: target.name.clone(), cause };
        let wait_max = Duration::from_secs(LOAD_WAIT_SECONDS_MAX);
        let stream = Stream::open(target, wait_max, callers.len() as u32).map_err(failed)?;
        let planner = Planner::new(phase.traffic, lane, phase.fill);
        let (whom, arrivals) = ((number, target.name.as_str()), phase.arrivals_of(number));
        callers.push(Caller::new(whom, stream, phase.traffic, planner, phase.pipeline, arrivals));
    }
    Ok(callers)
}
