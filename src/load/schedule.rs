//! When commands are due in an open loop, whatever the server does. Pure.
//!
//! Each connection has arrivals of its own, which follow from their beginning alone. The thread's
//! schedule steps through them in the order of time; the connection steps through a copy of its own
//! when it comes to send: so commands that wait for the server need no queue, and a late command
//! still counts from its due time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How they are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Spacing {
    /// At equal distances
    Even,
    /// At random and independent of each other (a Poisson process), as from many users
    Poisson,
}

impl Spacing {
    /// As the operator writes it.
    pub fn name(self) -> &'static str {
        match self {
            Spacing::Even => "even",
            Spacing::Poisson => "poisson",
        }
    }
}

/// Due times of one connection's commands, one after the other, in nanoseconds since the run began.
#[derive(Debug, Clone)]
pub struct Arrivals {
    due_ns: f64,
    step: Step,
}

#[derive(Debug, Clone)]
enum Step {
    /// Each due time is computed from its number. A sum of many intervals would drift.
    Even {
        first_ns: f64,
        interval_ns: f64,
        number: u64,
    },
    Poisson {
        mean_ns: f64,
        rng: fastrand::Rng,
    },
}

impl Arrivals {
    /// Arrival `n` comes `first_ns + n * interval_ns` after the start.
    pub fn even(first_ns: f64, interval_ns: f64) -> Arrivals {
        assert!(interval_ns > 0.0, "an interval of {interval_ns} ns");
        Arrivals { due_ns: first_ns, step: Step::Even { first_ns, interval_ns, number: 0 } }
    }

    /// Intervals are distributed exponentially. Together, the processes of all connections are one
    /// of the sum of their rates.
    pub fn poisson(mean_ns: f64, rng: fastrand::Rng) -> Arrivals {
        assert!(mean_ns > 0.0, "an interval of {mean_ns} ns");
        let mut arrivals = Arrivals { due_ns: 0.0, step: Step::Poisson { mean_ns, rng } };
        arrivals.pass();
        arrivals
    }

    /// When the next is due.
    pub fn due_ns(&self) -> u64 {
        self.due_ns as u64
    }

    /// Go on to the one behind it.
    pub fn pass(&mut self) {
        match &mut self.step {
            Step::Even { first_ns, interval_ns, number } => {
                *number += 1;
                self.due_ns = *first_ns + *number as f64 * *interval_ns;
            }
            // 1 - x: above 0, so the logarithm is a number.
            Step::Poisson { mean_ns, rng } => self.due_ns -= *mean_ns * (1.0 - rng.f64()).ln(),
        }
    }
}

/// Arrivals of all connections of one thread.
#[derive(Debug)]
pub struct Schedule {
    arrivals: Vec<Arrivals>,
    /// When each connection's next is due; the earliest on top.
    next: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Schedule {
    /// Of connections that are numbered from 0.
    pub fn new(arrivals: Vec<Arrivals>) -> Schedule {
        assert!(!arrivals.is_empty(), "a schedule of no connection");
        let next = arrivals.iter().enumerate().map(|(at, arrivals)| Reverse((arrivals.due_ns(), at))).collect();
        Schedule { arrivals, next }
    }

    /// When the next arrival is due.
    pub fn due_ns(&self) -> u64 {
        self.next.peek().expect("one for each connection").0.0
    }

    /// Take the next arrival if it is due before `now_ns`: the connection whose it is.
    pub fn take_due(&mut self, now_ns: u64) -> Option<usize> {
        let mut next = self.next.peek_mut().filter(|next| next.0.0 < now_ns)?;
        // Changed in place; its new place in the order is found when the reference is dropped.
        let Reverse((due_ns, connection)) = &mut *next;
        self.arrivals[*connection].pass();
        *due_ns = self.arrivals[*connection].due_ns();
        Some(*connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3000 a second over 4 connections, the first after half an interval.
    fn even() -> Vec<Arrivals> {
        let interval_ns = 1e9 / 3000.0;
        (0..4).map(|at| Arrivals::even((0.5 + f64::from(at)) * interval_ns, 4.0 * interval_ns)).collect()
    }

    fn poisson(seed: u64) -> Vec<Arrivals> {
        (0..4).map(|at| Arrivals::poisson(4e9 / 3000.0, fastrand::Rng::with_seed(seed << 32 | at))).collect()
    }

    /// Due times and connections up to `end_ns`.
    fn taken(arrivals: Vec<Arrivals>, end_ns: u64) -> Vec<(u64, usize)> {
        let mut schedule = Schedule::new(arrivals);
        let next = || {
            let due_ns = schedule.due_ns();
            assert_eq!(schedule.take_due(due_ns), None, "not due before its time");
            schedule.take_due(end_ns).map(|connection| (due_ns, connection))
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn even_arrivals_go_round_and_do_not_drift() {
        let first = [(166_666, 0), (500_000, 1), (833_333, 2), (1_166_666, 3), (1_500_000, 0)];
        assert_eq!(taken(even(), 1_500_001), first);
        assert_eq!(taken(even(), 1_000_000_000).len(), 3000);
        let mut last = even().remove(0);
        let Step::Even { number, .. } = &mut last.step else { unreachable!("made so") };
        *number = 3000 * 86_400 / 4 - 1;
        last.pass();
        assert_eq!(last.due_ns(), 86_400_000_166_666);
    }

    #[test]
    fn a_connection_that_is_late_finds_the_same_due_times() {
        for arrivals in [even(), poisson(1)] {
            let mut own = arrivals.clone();
            for (due_ns, connection) in taken(arrivals, 1_000_000_000) {
                assert_eq!(own[connection].due_ns(), due_ns);
                own[connection].pass();
            }
        }
    }

    #[test]
    fn poisson_arrivals_are_as_many_as_told_and_as_irregular_as_chance() {
        let taken = taken(poisson(7), 100_000_000_000);
        assert!(taken.is_sorted());
        // Six standard deviations; the seed is fixed, so this passes always or never.
        assert!((taken.len() as f64 - 3e5).abs() < 6.0 * 3e5_f64.sqrt(), "{}", taken.len());
        // In windows of 10 ms come 30 on average, and the variance is as large as the mean.
        let mut windows = vec![0.0; 10_000];
        taken.iter().for_each(|(due_ns, _)| windows[(due_ns / 10_000_000) as usize] += 1.0);
        let variance = windows.iter().map(|count| (count - 30.0_f64).powi(2)).sum::<f64>() / 10_000.0;
        assert!((28.0..32.0).contains(&variance), "{variance}");
    }
}
