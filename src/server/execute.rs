//! Requests out of input, answers into output: the loop over parser and engine. No I/O.
//!
//! It stops at the first thing that the connection must wait for, and says what that is.

use super::Shared;
use super::connection::Progress;
use crate::base::limits::{BATCH_REQUESTS_MAX, PARK_MILLISECONDS_MAX};
use crate::engine::{Attempt, Context, Engine, Outcome, Output, Plan};
use crate::protocol::{KeyScratch, Parsed, Rejection, Request, parse};
use crate::store::Turn;
use arrayvec::ArrayVec;
use std::time::{Duration, Instant};

/// Why execution stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The input is used up, or its rest is not a whole request until it is so long.
    NeedMore {
        /// Counted from the first byte that was not consumed.
        wanted_bytes: usize,
    },
    /// Others have their turn (-R).
    Yield,
    /// The output is full; there may be more to execute once it is flushed.
    Full,
    /// The first request waits for memory to be reclaimed.
    Parked,
    /// quit.
    Quit,
    /// Refused for good.
    Refused,
}

/// What execution needs and does not change from one connection to the next.
pub struct Executor<'a> {
    /// Engine, configuration.
    pub shared: &'a Shared,
}

/// The parser's room for decoded keys, one for each request of a batch.
pub type KeyScratches = [KeyScratch; BATCH_REQUESTS_MAX];

impl Executor<'_> {
    /// Execute what `input` holds. Returns how many bytes were consumed, and why it stopped.
    pub fn run(
        &self,
        context: &mut Context<'_, '_>,
        keys: &mut KeyScratches,
        input: &[u8],
        progress: &mut Progress,
        output: &mut Output,
    ) -> (usize, Stop) {
        let engine = &self.shared.engine;
        let mut requests_left = self.shared.config.requests_per_turn as usize;
        let mut consumed = skip(progress, input.len());
        loop {
            if consumed == input.len() || progress.skip_bytes > 0 {
                return (consumed, Stop::NeedMore { wanted_bytes: 1 });
            }
            if requests_left == 0 {
                context.stats.conn_yields.increment();
                return (consumed, Stop::Yield);
            }
            let mut batch = Batch::new();
            let then = gather(engine, context.turn, &input[consumed..], keys, requests_left, &mut batch);
            requests_left -= batch.len();
            for (request, bytes, plan) in &batch {
                if output.is_full() {
                    return (consumed, Stop::Full);
                }
                let last_try = has_waited_enough(progress);
                let attempt = Attempt { resume: progress.resume, last_try };
                let outcome = engine.execute(context, request, *plan, attempt, output);
                if let Some(stop) = self.settle(context, outcome, progress) {
                    return (consumed, stop);
                }
                consumed += bytes;
            }
            if output.is_full() {
                return (consumed, Stop::Full);
            }
            match then {
                Then::More => {}
                Then::Incomplete { wanted_bytes } => return (consumed, Stop::NeedMore { wanted_bytes }),
                Then::Rejected(rejection) => {
                    let last_try = has_waited_enough(progress);
                    let outcome = engine.reject(context, &rejection, last_try, output);
                    if let Some(stop) = self.settle(context, outcome, progress) {
                        return (consumed, stop);
                    }
                    requests_left -= 1;
                    progress.skip_bytes = rejection.skip_bytes;
                    consumed += skip(progress, input.len() - consumed);
                    if rejection.close {
                        return (consumed, Stop::Refused);
                    }
                }
            }
        }
    }

    /// What follows from an outcome; None to go on with the next request.
    fn settle(&self, context: &Context<'_, '_>, outcome: Outcome, progress: &mut Progress) -> Option<Stop> {
        match outcome {
            Outcome::Done => {
                progress.resume = 0;
                progress.parked_at = None;
                None
            }
            Outcome::Resume(offset) => {
                progress.resume = offset;
                Some(Stop::Full)
            }
            Outcome::Park(offset) => {
                progress.resume = offset;
                if progress.parked_at.is_none() {
                    progress.parked_at = Some(Instant::now());
                    context.stats.parked_requests.increment();
                    // The room may be another worker's to reclaim, and that one may be asleep.
                    self.shared.wake_all();
                }
                Some(Stop::Parked)
            }
            Outcome::Close => Some(Stop::Quit),
        }
    }
}

/// Requests parsed and planned before the first of them is executed, each with its length in bytes.
type Batch<'r> = ArrayVec<(Request<'r>, usize, Plan<'r>), BATCH_REQUESTS_MAX>;

/// What stands behind a batch.
enum Then<'r> {
    /// Perhaps more requests, or nothing.
    More,
    /// The start of a request.
    Incomplete { wanted_bytes: usize },
    /// What is to be refused once the batch is done.
    Rejected(Rejection<'r>),
}

/// Fill `batch` with the whole requests at the start of `input`, at most `requests_max`, their memory on its way.
fn gather<'r>(
    engine: &Engine,
    turn: &Turn<'_>,
    input: &'r [u8],
    keys: &'r mut KeyScratches,
    requests_max: usize,
    batch: &mut Batch<'r>,
) -> Then<'r> {
    let limits = engine.parse_limits();
    let mut then = Then::More;
    let mut rest = input;
    for key in keys.iter_mut().take(requests_max) {
        if rest.is_empty() {
            break;
        }
        match parse(rest, limits, key) {
            Parsed::Request(request, bytes) => {
                let plan = engine.plan(&request);
                batch.push((request, bytes, plan));
                rest = &rest[bytes..];
            }
            Parsed::Incomplete { wanted_bytes } => {
                then = Then::Incomplete { wanted_bytes };
                break;
            }
            Parsed::Rejected(rejection) => {
                then = Then::Rejected(rejection);
                break;
            }
        }
    }
    // The first buckets have arrived by now. A single request could only wait for its own.
    if batch.len() > 1 {
        batch.iter().filter_map(|(_, _, plan)| plan.place()).for_each(|place| engine.prefetch(turn, place));
    }
    then
}

/// Drop what is to be dropped of `available` bytes; returns how many went.
fn skip(progress: &mut Progress, available: usize) -> usize {
    let bytes = progress.skip_bytes.min(available as u64);
    progress.skip_bytes -= bytes;
    bytes as usize
}

fn has_waited_enough(progress: &Progress) -> bool {
    // The clock is looked at only for what is parked.
    progress.parked_at.is_some_and(|since| since.elapsed() >= Duration::from_millis(PARK_MILLISECONDS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipping_reaches_beyond_what_has_arrived() {
        let mut progress = Progress { skip_bytes: 10, ..Progress::default() };
        assert_eq!((skip(&mut progress, 4), progress.skip_bytes), (4, 6));
        assert_eq!((skip(&mut progress, 100), progress.skip_bytes), (6, 0));
        assert_eq!(skip(&mut progress, 100), 0);
    }

    #[test]
    fn a_parked_request_gets_its_last_try_after_the_bound() {
        let now = Instant::now();
        let parked = |milliseconds| Progress {
            parked_at: now.checked_sub(Duration::from_millis(milliseconds)),
            ..Progress::default()
        };
        assert!(!has_waited_enough(&Progress::default()));
        assert!(!has_waited_enough(&parked(0)));
        assert!(has_waited_enough(&parked(PARK_MILLISECONDS_MAX)));
    }
}
