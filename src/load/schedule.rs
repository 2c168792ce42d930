//! When requests are due in an open loop: arrival `n` comes `n` intervals after the start, whatever the server does. Pure.
//!
//! Arrivals go to the connections of a thread in turn, so each connection can tell from its own count alone when its next
//! one is due: what the server keeps waiting needs no queue, and a late request still counts from its due time.

/// Arrivals of one thread. Times are nanoseconds since the run began.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    interval_ns: f64,
    offset_ns: f64,
    connections: u32,
}

impl Schedule {
    /// `rate` arrivals a second over `connections`. `phase`, from 0 to 1, shifts them by a part of an interval, so that
    /// several threads do not strike at once.
    pub fn new(rate: f64, connections: u32, phase: f64) -> Schedule {
        assert!(rate > 0.0 && connections > 0, "{rate} a second over {connections} connections");
        let interval_ns = 1e9 / rate;
        Schedule { interval_ns, offset_ns: phase * interval_ns, connections }
    }

    /// When arrival `number` of the thread is due.
    pub fn due_ns(&self, number: u64) -> u64 {
        (self.offset_ns + number as f64 * self.interval_ns) as u64
    }

    /// When arrival `number` of one of its connections is due.
    pub fn due_of_connection_ns(&self, connection: u32, number: u64) -> u64 {
        self.due_ns(number * u64::from(self.connections) + u64::from(connection))
    }

    /// The connection to which an arrival of the thread goes.
    pub fn connection_of(&self, number: u64) -> u32 {
        (number % u64::from(self.connections)) as u32
    }

    /// How many arrivals are due before `now_ns`.
    pub fn due_before(&self, now_ns: u64) -> u64 {
        let near = ((now_ns as f64 - self.offset_ns) / self.interval_ns).max(0.0) as u64;
        // The quotient may be rounded either way; the due times themselves decide.
        let mut count = near.saturating_sub(1);
        while self.due_ns(count) < now_ns {
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_evenly_spaced_and_do_not_drift() {
        let schedule = Schedule::new(3000.0, 4, 0.5);
        assert_eq!([0, 1, 2, 3].map(|number| schedule.due_ns(number)), [166_666, 500_000, 833_333, 1_166_666]);
        let day_of_arrivals = 3000 * 86_400;
        assert_eq!(schedule.due_ns(day_of_arrivals), 86_400_000_166_666);
    }

    #[test]
    fn a_connection_knows_its_own_arrivals() {
        let schedule = Schedule::new(1000.0, 3, 0.0);
        for number in 0..30 {
            let connection = schedule.connection_of(number);
            assert_eq!(schedule.due_of_connection_ns(connection, number / 3), schedule.due_ns(number));
        }
    }

    #[test]
    fn what_is_due_is_counted_exactly() {
        for (rate, phase) in [(1.0, 0.0), (7.0, 0.3), (333_333.3, 0.9), (1e9, 0.0)] {
            let schedule = Schedule::new(rate, 2, phase);
            assert_eq!(schedule.due_before(0), 0);
            for number in [0, 1, 2, 1000, 12_345] {
                let due = schedule.due_ns(number);
                assert_eq!(schedule.due_before(due), number, "{rate}: not due before its time");
                assert_eq!(schedule.due_before(due + 1), number + 1, "{rate}: due after it");
            }
        }
    }
}
