//! Requests out of input, answers into output: the loop over parser and engine. No I/O.
//!
//! It stops at the first thing that the connection must wait for, and says what that is.

use super::Shared;
use super::connection::Progress;
use crate::base::limits::PARK_MILLISECONDS_MAX;
use crate::engine::{Context, Outcome, Output};
use crate::protocol::{KeyScratch, ParseLimits, Parsed, parse};
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
    /// The parser's.
    pub key: &'a mut KeyScratch,
    /// Monotonic time of this turn.
    pub instant: Instant,
}

impl Executor<'_> {
    /// Execute what `input` holds. Returns how many bytes were consumed, and why it stopped.
    pub fn run(
        &mut self,
        context: &mut Context<'_, '_>,
        input: &[u8],
        progress: &mut Progress,
        output: &mut Output,
    ) -> (usize, Stop) {
        let engine = &self.shared.engine;
        let limits: ParseLimits = engine.parse_limits();
        let mut requests_left = self.shared.config.requests_per_turn;
        let mut consumed = skip(progress, input.len());
        loop {
            let rest = &input[consumed..];
            if rest.is_empty() || progress.skip_bytes > 0 {
                return (consumed, Stop::NeedMore { wanted_bytes: 1 });
            }
            if output.is_full() {
                return (consumed, Stop::Full);
            }
            if requests_left == 0 {
                context.stats.conn_yields.increment();
                return (consumed, Stop::Yield);
            }
            requests_left -= 1;
            let last_try = has_waited_enough(progress, self.instant);
            let (outcome, bytes, close) = match parse(rest, limits, self.key) {
                Parsed::Incomplete { wanted_bytes } => {
                    return (consumed, Stop::NeedMore { wanted_bytes });
                }
                Parsed::Request(request, bytes) => {
                    (engine.execute(context, &request, progress.resume, last_try, output), bytes as u64, false)
                }
                Parsed::Rejected(rejection) => {
                    (engine.reject(context, &rejection, last_try, output), rejection.skip_bytes, rejection.close)
                }
            };
            match outcome {
                Outcome::Done => {
                    progress.resume = 0;
                    progress.parked_at = None;
                    progress.skip_bytes = bytes;
                    consumed += skip(progress, rest.len());
                    if close {
                        return (consumed, Stop::Refused);
                    }
                }
                Outcome::Resume(offset) => {
                    progress.resume = offset;
                    return (consumed, Stop::Full);
                }
                Outcome::Park(offset) => {
                    progress.resume = offset;
                    if progress.parked_at.is_none() {
                        progress.parked_at = Some(self.instant);
                        context.stats.parked_requests.increment();
                        // The room may be another worker's to reclaim, and that one may be asleep.
                        self.shared.wake_all();
                    }
                    return (consumed, Stop::Parked);
                }
                Outcome::Close => {
                    return (consumed, if close { Stop::Refused } else { Stop::Quit });
                }
            }
        }
    }
}

/// Drop what is to be dropped of `available` bytes; returns how many went.
fn skip(progress: &mut Progress, available: usize) -> usize {
    let bytes = progress.skip_bytes.min(available as u64);
    progress.skip_bytes -= bytes;
    bytes as usize
}

fn has_waited_enough(progress: &Progress, now: Instant) -> bool {
    let limit = Duration::from_millis(PARK_MILLISECONDS_MAX);
    progress.parked_at.is_some_and(|since| now.saturating_duration_since(since) >= limit)
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
        assert!(!has_waited_enough(&Progress::default(), now));
        assert!(!has_waited_enough(&parked(PARK_MILLISECONDS_MAX - 1), now));
        assert!(has_waited_enough(&parked(PARK_MILLISECONDS_MAX), now));
    }
}
