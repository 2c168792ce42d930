//! One thread of `remora load`: its connections, served as their sockets become ready and as the
//! schedule demands.
//!
//! The clock is looked at once for a few connections served, never for a request. Every wait ends
//! after a tick at the latest, when silent servers and the end of the run are looked for.

use super::caller::Caller;
use super::client::ClientError;
use super::drive::{Account, DriveError, Farewell, Phase};
use super::report::Tally;
use super::schedule::{Arrivals, Schedule};
use super::stream::Stream;
use crate::base::limits::{LOAD_SERVED_PER_CLOCK, LOAD_TICK_MILLISECONDS, READ_BUFFER_BYTES};
use crate::sys::poll::Poller;
use std::io;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(LOAD_TICK_MILLISECONDS);

/// See the module.
pub struct Hand<'a> {
    stop: &'a AtomicBool,
    started: Instant,
    poller: Poller,
    callers: Vec<Caller<'a>>,
    schedule: Option<Schedule>,
    /// Commands that may still be begun.
    budget: u64,
    /// When no more commands are begun.
    deadline_ns: u64,
    now_ns: u64,
    check_at_ns: u64,
    /// Arrivals of the schedule that are still to be given to connections.
    arrivals_left: u64,
    /// Connections that had nothing to send until an arrival came.
    woken: Vec<usize>,
    is_stopping: bool,
    /// Callers whose plan goes on.
    unfinished: usize,
    seen_tick: u32,
    tally: Tally,
    buffer: Vec<u8>,
}

impl<'a> Hand<'a> {
    /// For its share of the connections and of the commands.
    pub fn new(phase: &Phase<'a>, started: Instant, callers: Vec<Caller<'a>>, budget: u64) -> io::Result<Hand<'a>> {
        let poller = Poller::new()?;
        for caller in &callers {
            caller.stream.watch(&poller)?;
        }
        let arrivals: Option<Vec<Arrivals>> = callers.iter().map(|caller| caller.arrivals().cloned()).collect();
        let schedule = arrivals.map(Schedule::new);
        let (unfinished, woken) = (callers.len(), Vec::with_capacity(callers.len()));
        Ok(Hand {
            stop: phase.stop,
            started,
            poller,
            callers,
            schedule,
            budget,
            deadline_ns: phase.duration.map_or(u64::MAX, |duration| duration.as_nanos() as u64),
            now_ns: 0,
            check_at_ns: 0,
            arrivals_left: budget,
            woken,
            is_stopping: false,
            unfinished,
            seen_tick: 0,
            tally: Tally::default(),
            buffer: vec![0; READ_BUFFER_BYTES],
        })
    }

    /// Work to the end, adding the counts to `account` whenever `tick` is raised.
    pub fn run(mut self, account: &Account, tick: &AtomicU32) -> Farewell {
        if self.schedule.is_some() {
            // By default the kernel may wake a thread 50 us late. If it refuses to be more exact,
            // that is put up with.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        }
        let before = cpu_time();
        let error = self.work(account, tick).err();
        if error.is_some() {
            self.stop.store(true, Relaxed);
        }
        // All counts have been handed over, whatever tick asks for them.
        account.add(&mut self.tally, u32::MAX);
        let cpu = before.zip(cpu_time()).map(|(before, after)| after.saturating_sub(before));
        Farewell { cpu, unsent: self.callers.iter().map(Caller::unsent).sum(), error }
    }

    fn work(&mut self, account: &Account, tick: &AtomicU32) -> Result<(), DriveError> {
        self.look_at_clock()?;
        for at in 0..self.callers.len() {
            self.serve(at)?;
        }
        while !self.is_over() {
            self.poller.wait(self.nap())?;
            for event in 0..self.poller.ready() {
                if event % LOAD_SERVED_PER_CLOCK == 0 {
                    self.look_at_clock()?;
                }
                self.answer(self.poller.token(event))?;
            }
            if self.poller.ready() == 0 || self.schedule.is_some() {
                self.look_at_clock()?;
            }
            let raised = tick.load(Relaxed);
            if raised != self.seen_tick {
                self.seen_tick = raised;
                account.add(&mut self.tally, raised);
            }
        }
        Ok(())
    }

    /// The time, and what it brings: arrivals, the end, servers that were silent for too long.
    fn look_at_clock(&mut self) -> Result<(), DriveError> {
        self.now_ns = self.started.elapsed().as_nanos() as u64;
        if self.is_stopping {
            return self.check_progress();
        }
        self.arrive()?;
        self.is_stopping = self.now_ns >= self.deadline_ns || self.stop.load(Relaxed);
        self.check_progress()
    }

    /// Give what has become due to its connections.
    fn arrive(&mut self) -> Result<(), DriveError> {
        let Some(schedule) = &mut self.schedule else { return Ok(()) };
        let before_ns = self.now_ns.min(self.deadline_ns);
        while self.arrivals_left > 0
            && let Some(at) = schedule.take_due(before_ns)
        {
            self.arrivals_left -= 1;
            let caller = &mut self.callers[at];
            if caller.unsent() == 0 {
                self.woken.push(at);
            }
            caller.owe();
        }
        // Afterwards, so that what is due together goes out together. Who was behind already is
        // served as answers come.
        for next in 0..self.woken.len() {
            self.serve(self.woken[next])?;
        }
        self.woken.clear();
        Ok(())
    }

    fn answer(&mut self, token: u64) -> Result<(), DriveError> {
        let at = Stream::number_of(token) as usize;
        let caller = &mut self.callers[at];
        let received = caller.receive(self.now_ns, &mut self.buffer, &mut self.tally);
        received.map_err(|cause| broken(caller, cause))?;
        self.serve(at)
    }

    /// Let a connection begin what it may, and send it.
    fn serve(&mut self, at: usize) -> Result<(), DriveError> {
        let caller = &mut self.callers[at];
        if !self.is_stopping {
            self.unfinished -= usize::from(caller.compose(self.now_ns, &mut self.budget));
        }
        caller.flush(&self.poller).map_err(|cause| broken(caller, cause))
    }

    fn is_over(&self) -> bool {
        let is_last = self.is_stopping || self.budget == 0 || self.unfinished == 0;
        is_last && self.callers.iter().all(Caller::is_idle)
    }

    fn nap(&self) -> Duration {
        match &self.schedule {
            Some(schedule) if !self.is_stopping && self.arrivals_left > 0 => {
                let due_ns = schedule.due_ns().min(self.deadline_ns);
                TICK.min(Duration::from_nanos(due_ns.saturating_sub(self.now_ns)))
            }
            _ => TICK.min(Duration::from_nanos(self.deadline_ns.saturating_sub(self.now_ns)).max(TICK / 50)),
        }
    }

    fn check_progress(&mut self) -> Result<(), DriveError> {
        if self.now_ns < self.check_at_ns {
            return Ok(());
        }
        self.check_at_ns = self.now_ns + TICK.as_nanos() as u64;
        let silent = self.callers.iter().map(|caller| (caller, caller.check_progress(self.now_ns)));
        let mut silent = silent.filter_map(|(caller, progress)| progress.err().map(|cause| broken(caller, cause)));
        silent.next().map_or(Ok(()), Err)
    }
}

fn broken(caller: &Caller<'_>, cause: ClientError) -> DriveError {
    DriveError::Connection { number: caller.number, server: caller.server.to_string(), cause }
}

/// Processor time of this thread by the scheduler's account, in which the first number is
/// nanoseconds.
fn cpu_time() -> Option<Duration> {
    let account = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    account.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
