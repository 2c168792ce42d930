//! Requests of a worker's connections that wait for memory to be reclaimed, and when to try them
//! again.
//!
//! Room comes when every worker has ended its turn, so the first try follows in the next turn.
//! Where that brings nothing, each try makes the next one later, up to
//! [`PARK_PAUSE_MICROSECONDS_MAX`]: a retry costs parsing and hashing, and takes the lock that
//! reclaim needs. Pure: takes the time, says when.

use super::table::Token;
use crate::base::limits::{PARK_PAUSE_MICROSECONDS_MAX, PARK_PAUSE_MICROSECONDS_MIN};
use std::time::{Duration, Instant};

const PAUSE_MIN: Duration = Duration::from_micros(PARK_PAUSE_MICROSECONDS_MIN);
const PAUSE_MAX: Duration = Duration::from_micros(PARK_PAUSE_MICROSECONDS_MAX);

/// See the module.
#[derive(Default)]
pub struct Parking {
    /// Each once. One may have been closed, or have been answered, since.
    tokens: Vec<Token>,
    /// Of these, how many were tried in this turn.
    tried: usize,
    pause: Duration,
    due: Option<Instant>,
}

impl Parking {
    /// When to look again; None where nothing waits for memory.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A connection's request has found no room. Not for one that is listed already.
    pub fn park(&mut self, token: Token) {
        self.tokens.push(token);
    }

    /// Move the connections to `serving`, if it is time to try them.
    pub fn take_due(&mut self, now: impl FnOnce() -> Instant, serving: &mut Vec<Token>) {
        self.tried = 0;
        if !self.tokens.is_empty() && self.due.is_none_or(|due| now() >= due) {
            self.tried = self.tokens.len();
            serving.append(&mut self.tokens);
        }
    }

    /// The turn ends. `maintenance_is_due` where the store has asked for another look at a shard.
    pub fn end_turn(&mut self, now: impl FnOnce() -> Instant, maintenance_is_due: bool) {
        if self.tokens.is_empty() && !maintenance_is_due {
            self.due = None;
            return;
        }
        let now = now();
        match self.due {
            Some(due) if now < due => {}
            // It has become time within this turn: the next one tries them.
            Some(_) if self.tried == 0 && !self.tokens.is_empty() => {}
            Some(_) if self.tokens.len() >= self.tried => {
                self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                self.due = Some(now + self.pause);
            }
            // It has just begun, or some got through: others may as well.
            _ => {
                self.pause = Duration::ZERO;
                self.due = Some(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns may be longer than the pauses between tries.
    #[test]
    fn a_retry_that_becomes_due_within_a_turn_follows_in_the_next() {
        let (mut parking, begin) = (Parking::default(), Instant::now());
        let mut serving = Vec::new();
        parking.park(Token::other(1));
        parking.end_turn(|| begin, false);
        parking.take_due(|| begin, &mut serving);
        parking.park(serving.pop().expect("it is tried"));
        parking.end_turn(|| begin, false);
        let due = parking.due().expect("it waits");
        for turn in 0..3 {
            parking.take_due(|| due - Duration::from_nanos(1), &mut serving);
            parking.end_turn(|| due + PAUSE_MAX, false);
            assert_eq!((serving.len(), parking.due()), (0, Some(due)), "turn {turn}");
        }
        parking.take_due(|| due + PAUSE_MAX, &mut serving);
        assert_eq!(serving.len(), 1);
    }

    #[test]
    fn the_first_retry_follows_at_once_and_each_further_one_later() {
        let (mut parking, mut now) = (Parking::default(), Instant::now());
        parking.end_turn(|| now, false);
        assert_eq!(parking.due(), None);
        parking.park(Token::other(1));
        parking.end_turn(|| now, false);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let due = parking.due().expect("it waits");
            pauses.push(due - now);
            let mut serving = Vec::new();
            if due > now {
                parking.take_due(|| now, &mut serving);
                assert!(serving.is_empty(), "not before its time");
                parking.end_turn(|| now, false);
                assert_eq!(parking.due(), Some(due), "a turn for something else changes nothing");
            }
            now = due;
            parking.take_due(|| now, &mut serving);
            assert_eq!(serving.len(), 1);
            parking.park(serving[0]);
            parking.end_turn(|| now, true);
        }
        assert!(pauses[0].is_zero() && pauses[1] == PAUSE_MIN, "{pauses:?}");
        assert!(pauses.is_sorted() && pauses.last() == Some(&PAUSE_MAX), "{pauses:?}");
    }

    #[test]
    fn where_one_gets_through_the_others_are_tried_at_once() {
        let (mut parking, now) = (Parking::default(), Instant::now());
        parking.park(Token::other(1));
        parking.park(Token::other(2));
        parking.end_turn(|| now, true);
        let mut serving = Vec::new();
        for left in [2, 1, 0] {
            serving.clear();
            parking.take_due(|| now + PAUSE_MAX, &mut serving);
            serving.drain(..).take(left).for_each(|token| parking.park(token));
            parking.end_turn(|| now, false);
        }
        assert_eq!(parking.due(), None);
    }
}
