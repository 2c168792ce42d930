//! One connection of `remora load`: commands go out as the plan and the pace allow, answers are
//! judged as they come.
//!
//! Owns its socket, its queue of what is due, and its place in the schedule. Never blocks, and
//! allocates nothing once its buffers have grown.

use super::answers::{Answers, Outcome};
use super::client::ClientError;
use super::plan::{Asked, Planner, Traffic};
use super::report::Tally;
use super::schedule::Arrivals;
use super::stream::Stream;
use super::workload::key_text;
use crate::base::limits::{LOAD_OUTPUT_BYTES_MAX, LOAD_WAIT_SECONDS_MAX};
use crate::sys::poll::Poller;
use std::collections::VecDeque;
use std::time::Duration;

/// See the module.
pub struct Caller<'a> {
    /// The socket.
    pub stream: Stream,
    /// Which of all connections, and to whom.
    pub number: u32,
    /// See `number`.
    pub server: &'a str,
    traffic: &'a Traffic,
    planner: Planner<'a>,
    answers: Answers,
    asked: VecDeque<Asked>,
    pipeline: u32,
    in_flight: u32,
    /// Commands begun.
    begun: u64,
    /// Commands that were due so far; in a closed loop, more than will ever be begun.
    owed: u64,
    /// Open loop: when the next command to be begun is, or was, due.
    arrivals: Option<Arrivals>,
    is_finished: bool,
    progress_ns: u64,
}

impl<'a> Caller<'a> {
    /// A connection that asks nothing yet. With `arrivals` only what [`Self::owe`] allows is begun.
    pub fn new(
        (number, server): (u32, &'a str),
        stream: Stream,
        traffic: &'a Traffic,
        planner: Planner<'a>,
        pipeline: u32,
        arrivals: Option<Arrivals>,
    ) -> Caller<'a> {
        let answers = Answers::new(traffic.protocol, traffic.ledger.is_some());
        let asked = VecDeque::with_capacity((pipeline * traffic.keys_per_get) as usize);
        let owed = if arrivals.is_some() { 0 } else { u64::MAX };
        let (in_flight, begun, is_finished, progress_ns) = (0, 0, false, 0);
        Caller {
            stream,
            number,
            server,
            traffic,
            planner,
            answers,
            asked,
            pipeline,
            in_flight,
            begun,
            owed,
            arrivals,
            is_finished,
            progress_ns,
        }
    }

    /// Open loop: when the next command to be begun is due, and those behind it.
    pub fn arrivals(&self) -> Option<&Arrivals> {
        self.arrivals.as_ref()
    }

    /// One more command is due.
    pub fn owe(&mut self) {
        self.owed += 1;
    }

    /// Commands that were due and have not been begun.
    pub fn unsent(&self) -> u64 {
        if self.arrivals.is_none() { 0 } else { self.owed - self.begun }
    }

    /// Whether every answer has come.
    pub fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// Begin what may be begun, at most `budget` commands, which is reduced by as many. True when
    /// the plan has just come to its end.
    pub fn compose(&mut self, now_ns: u64, budget: &mut u64) -> bool {
        if self.is_finished {
            return false;
        }
        if self.asked.is_empty() {
            self.progress_ns = now_ns;
        }
        // In a closed loop, at least half of the pipeline at once: one by one, commands would
        // follow the answers in ever smaller pieces, and both sides would have a system call for
        // each.
        if self.arrivals.is_none() && self.in_flight > self.pipeline / 2 {
            return false;
        }
        while self.in_flight < self.pipeline
            && self.begun < self.owed
            && *budget > 0
            && self.stream.unsent_bytes() < LOAD_OUTPUT_BYTES_MAX
        {
            let since_ns = self.arrivals.as_ref().map_or(now_ns, Arrivals::due_ns);
            if !self.planner.next(since_ns, &mut self.stream.out, &mut self.asked) {
                self.is_finished = true;
                return true;
            }
            if let Some(arrivals) = &mut self.arrivals {
                arrivals.pass();
            }
            self.begun += 1;
            self.in_flight += 1;
            *budget -= 1;
        }
        false
    }

    /// Send what is to be sent.
    pub fn flush(&mut self, poller: &Poller) -> Result<(), ClientError> {
        if self.stream.unsent_bytes() > 0 { self.stream.flush(poller) } else { Ok(()) }
    }

    /// Take one read of answers, and judge them.
    pub fn receive(&mut self, now_ns: u64, buffer: &mut [u8], tally: &mut Tally) -> Result<(), ClientError> {
        self.receive_once(now_ns, buffer, tally)?;
        while self.stream.has_more() {
            self.receive_once(now_ns, buffer, tally)?;
        }
        Ok(())
    }

    fn receive_once(&mut self, now_ns: u64, buffer: &mut [u8], tally: &mut Tally) -> Result<(), ClientError> {
        let Some(bytes) = self.stream.receive(buffer)? else { return Ok(()) };
        self.progress_ns = now_ns;
        let (traffic, place, in_flight) = (self.traffic, (self.number, self.server), &mut self.in_flight);
        self.answers.take(bytes, &mut self.asked, |asked, outcome| {
            judge(traffic, place, asked, outcome, tally);
            if asked.is_last {
                *in_flight -= 1;
                tally.answered_after(now_ns.saturating_sub(asked.since_ns));
            }
        })
    }

    /// An error if answers are due and none has come for too long.
    pub fn check_progress(&self, now_ns: u64) -> Result<(), ClientError> {
        let waited_max = Duration::from_secs(LOAD_WAIT_SECONDS_MAX);
        if self.is_idle() || Duration::from_nanos(now_ns.saturating_sub(self.progress_ns)) < waited_max {
            return Ok(());
        }
        Err(ClientError::Timeout { doing: "reading", waited_max })
    }
}

fn judge(traffic: &Traffic, (number, server): (u32, &str), asked: &Asked, outcome: Outcome<'_>, tally: &mut Tally) {
    match (outcome, &traffic.ledger) {
        (Outcome::Stored, ledger) => {
            tally.sets += 1;
            tally.value_bytes_written += u64::from(asked.value_bytes);
            if let Some(ledger) = ledger {
                ledger.acknowledge(asked.key, asked.version);
            }
        }
        (Outcome::Missed, _) => tally.misses += 1,
        (Outcome::Hit(Some(value)), Some(ledger)) => {
            let possible = asked.version..=ledger.issued(asked.key);
            match traffic.workload.verify(asked.key, possible, value) {
                Ok(_) => tally.hits += 1,
                Err(fault) => tally.wrong(|| {
                    let key = key_text(asked.key);
                    format!("get {} on connection {number} to {server}: {fault}", String::from_utf8_lossy(&key))
                }),
            }
        }
        (Outcome::Hit(_), _) => tally.hits += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan;
    use crate::load::question::Protocol;

    #[test]
    fn values_are_held_against_what_was_written() {
        let traffic = plan::tests::traffic(Protocol::Text, true);
        let ledger = traffic.ledger.as_ref().unwrap();
        let mut tally = Tally::default();
        let mut asked = Asked { since_ns: 0, key: 7, version: 0, value_bytes: 16, is_set: true, is_last: true };
        for version in 1..=2 {
            asked.version = ledger.issue(7);
            assert_eq!(asked.version, version);
            judge(&traffic, (4, "there"), &asked, Outcome::Stored, &mut tally);
        }
        assert_eq!((tally.sets, tally.value_bytes_written, ledger.acknowledged(7)), (2, 32, 2));
        asked.is_set = false;
        let mut value = Vec::new();
        traffic.workload.value(7, 2, &mut value);
        judge(&traffic, (4, "there"), &asked, Outcome::Hit(Some(&value)), &mut tally);
        judge(&traffic, (4, "there"), &asked, Outcome::Missed, &mut tally);
        assert_eq!((tally.hits, tally.misses, tally.wrong), (1, 1, 0));
        value[15] ^= 1;
        judge(&traffic, (4, "there"), &asked, Outcome::Hit(Some(&value)), &mut tally);
        traffic.workload.value(7, 1, &mut value);
        judge(&traffic, (4, "there"), &asked, Outcome::Hit(Some(&value)), &mut tally);
        assert_eq!((tally.hits, tally.wrong), (1, 2));
        let first = tally.first_wrong.unwrap();
        assert!(first.contains("load:0000000007 on connection 4 to there") && first.contains("checksum"), "{first}");
    }
}
