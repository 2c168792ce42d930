//! Requests out of input, answers into output: the loop over parser and engine. No I/O.
//!
//! It stops at the first thing that the connection must wait for, and says what that is: the
//! [`State`] that the connection is in then, if the client takes all answers. It stops, too, where
//! the output is full, and once the connection has had its share of the turn, which is counted in
//! work: requests, and keys of multi-gets.

mod elsewhere;
mod moved;

use super::Shared;
use super::connection::Progress;
use super::forward::Forwarder;
use super::state::State;
use super::users::Means;
use crate::base::limits::{BATCH_REQUESTS_MAX, PARK_MILLISECONDS_MAX};
use crate::engine::{Attempt, Context, Outcome, Output, Target};
use crate::protocol::request::GetForm;
use crate::protocol::{KeyScratch, Parsed, Protocol, Rejection, Request, parse_more_of_get};
use crate::store::Turn;
use arrayvec::ArrayVec;
use memchr::memchr;
use std::time::{Duration, Instant};

/// What execution needs and does not change.
pub struct Executor<'a> {
    /// Engine, configuration.
    pub shared: &'a Shared,
    /// What the connection speaks.
    pub protocol: Protocol,
    /// The worker's, where requests are forwarded.
    pub forwarder: Option<&'a mut Forwarder>,
}

/// The parser's room for decoded keys, one for each request of a batch.
pub type KeyScratches = [KeyScratch; BATCH_REQUESTS_MAX];

impl Executor<'_> {
    /// Execute what `input` holds. Returns how many bytes were consumed, and what is waited for. If
    /// that is input, `progress` says how much.
    pub fn run(
        &mut self,
        context: &mut Context<'_, '_>,
        keys: &mut KeyScratches,
        input: &[u8],
        progress: &mut Progress,
        output: &mut Output,
    ) -> (usize, State) {
        let requests_left = self.shared.config.requests_per_turn as usize;
        let consumed = skip(progress, input);
        progress.wanted_bytes = 0;
        let mut at = (consumed, requests_left);
        if !(output.needs_care() | progress.care.is_needed()) {
            let state = self.go_on::<false>(context, keys, input, &mut at, progress, output);
            if let Some(state) = state {
                return (at.0, state);
            }
        }
        self.go_on_carefully(context, keys, input, at, progress, output)
    }

    /// The rest of it, once some requests of this connection are under way to other servers.
    #[cold]
    #[inline(never)]
    fn go_on_carefully(
        &mut self,
        context: &mut Context<'_, '_>,
        keys: &mut KeyScratches,
        input: &[u8],
        at: (usize, usize),
        progress: &mut Progress,
        output: &mut Output,
    ) -> (usize, State) {
        let mut at = at;
        loop {
            let state = self.go_on::<true>(context, keys, input, &mut at, progress, output);
            if let Some(state) = state {
                return (at.0, state);
            }
        }
    }

    /// Execute what `input` holds from `at` on (bytes that are consumed, requests that may still be
    /// executed). None where it is to go on carefully. `CAREFUL`: some requests of this connection
    /// may be under way to other servers.
    #[inline(always)]
    fn go_on<const CAREFUL: bool>(
        &mut self,
        context: &mut Context<'_, '_>,
        keys: &mut KeyScratches,
        input: &[u8],
        at: &mut (usize, usize),
        progress: &mut Progress,
        output: &mut Output,
    ) -> Option<State> {
        loop {
            if at.0 == input.len() || progress.skip_bytes > 0 {
                return Some(State::Reading);
            }
            if at.1 == 0 {
                return Some(yield_turn(context));
            }
            let mut batch = Batch::new();
            let open_get = progress.open_get;
            let then = self.gather::<CAREFUL>(context.turn, &input[at.0..], open_get, keys, at.1, &mut batch);
            at.1 -= batch.len();
            match self.execute_batch::<CAREFUL>(context, &batch, input, &mut at.0, progress, output) {
                Flow::On => {}
                Flow::Carefully => return None,
                Flow::Stop(state) => return Some(state),
            }
            if output.is_full() {
                return Some(State::Yielded);
            }
            match then {
                Then::More => {}
                Then::Incomplete { wanted_bytes } => {
                    progress.wanted_bytes = wanted_bytes;
                    return Some(State::Reading);
                }
                Then::Admit => {
                    // The connection opens anew, in its next turn.
                    progress.protocol = None;
                    return Some(State::Yielded);
                }
                Then::Rejected(rejection) => {
                    if CAREFUL {
                        self.notice(progress, output);
                    }
                    let (bytes, state) = self.reject(context, &rejection, &input[at.0..], progress, output);
                    at.0 += bytes;
                    if state.is_some() {
                        return state;
                    }
                    at.1 -= 1;
                    if !CAREFUL && output.is_forwarding() {
                        return None;
                    }
                }
            }
        }
    }

    /// Execute a batch, which `input` holds from `consumed` on.
    #[inline(always)]
    fn execute_batch<const CAREFUL: bool>(
        &mut self,
        context: &mut Context<'_, '_>,
        batch: &Batch<'_>,
        input: &[u8],
        consumed: &mut usize,
        progress: &mut Progress,
        output: &mut Output,
    ) -> Flow {
        let shared = self.shared;
        for (request, bytes, target) in batch {
            if output.is_full() {
                return Flow::Stop(State::Yielded);
            }
            if context.keys_left == 0 {
                return Flow::Stop(yield_turn(context));
            }
            let mut target = *target;
            if CAREFUL {
                if Self::is_ahead(request, target, progress.resume, output) {
                    return Flow::Stop(Self::wait(context, progress));
                }
                self.notice(progress, output);
                if progress.care.take_serves_here() {
                    target = target.served_here();
                }
            }
            let outcome = shared.engine.execute(context, request, target, next_attempt(progress), output);
            if let Some(state) = self.follow(context, outcome, progress) {
                if let Outcome::Forward(key) = outcome {
                    let whole = &input[*consumed..][..*bytes];
                    match self.pass_on(context, (request, target), whole, key, progress, output) {
                        Flow::On => *consumed += bytes,
                        stops => return stops,
                    }
                    progress.open_get = None;
                    match progress.skip_line {
                        true => return Flow::Stop(State::Reading),
                        false if CAREFUL => continue,
                        false => return Flow::Carefully,
                    }
                }
                self.claim(outcome, progress);
                // A get that has stopped between two keys has filled the output, or looked up
                // enough of them.
                let is_enough = state == State::Yielded && !output.is_full();
                return Flow::Stop(if is_enough { yield_turn(context) } else { state });
            }
            *consumed += bytes;
            if CAREFUL {
                Self::end_parts(outcome, output);
            }
            if outcome != Outcome::Done {
                return Flow::Stop(self.stop_behind(request, outcome, progress, output));
            }
            progress.open_get = None;
        }
        Flow::On
    }

    /// Refuse what `input` begins with. Returns how many bytes of it went with that, and why
    /// execution stops; None to go on with the next request.
    fn reject(
        &mut self,
        context: &mut Context<'_, '_>,
        rejection: &Rejection<'_>,
        input: &[u8],
        progress: &mut Progress,
        output: &mut Output,
    ) -> (usize, Option<State>) {
        let outcome = self.shared.engine.reject(context, rejection, has_waited_enough(progress), output);
        if let Some(state) = self.follow(context, outcome, progress) {
            return (0, Some(state));
        }
        if let Some(key) = rejection.unlink {
            self.unlink_elsewhere(key, progress, output);
        }
        progress.skip_bytes = rejection.skip_bytes;
        (skip(progress, input), rejection.close.then_some(State::Ending { lingers: true }))
    }

    /// Why execution stops behind a request that was executed, but is not all that there is to it.
    #[cold]
    fn stop_behind(
        &self,
        request: &Request<'_>,
        outcome: Outcome,
        progress: &mut Progress,
        output: &mut Output,
    ) -> State {
        if let Request::Hello(preferences) = request {
            self.greet(*preferences, progress, output);
            return State::Yielded;
        }
        // A part of a get is all that there is of its line.
        progress.open_get = open_form(request).filter(|_| outcome == Outcome::Part);
        progress.skip_line = outcome == Outcome::DropLine;
        self.claim(outcome, progress);
        if matches!(outcome, Outcome::Watch(_)) { State::Yielded } else { State::Reading }
    }

    /// Note what the connection has from now on, beyond this request.
    #[cold]
    fn claim(&self, outcome: Outcome, progress: &mut Progress) {
        match outcome {
            Outcome::Dump(number) => progress.claims.hold_dump(&self.shared.engine, number),
            Outcome::Watch(number) => progress.claims.hold_watcher(&self.shared.engine, number),
            _ => {}
        }
    }

    /// What follows from an outcome; None to go on with the next request.
    #[inline(always)]
    fn follow(&self, context: &Context<'_, '_>, outcome: Outcome, progress: &mut Progress) -> Option<State> {
        let waited = progress.parked_at.is_some();
        let state = note(outcome, progress);
        if state == Some(State::Parked) && !waited && context.client.stays() {
            context.stats.parked_requests.increment();
            // The room may be another worker's to reclaim, and that one may be asleep.
            self.shared.wake_all();
        }
        state
    }

    /// Fill `batch` with the whole requests at the start of `input`, at most `requests_max`, their
    /// memory on its way. Inlined, as what follows from an outcome is: both are a part of every
    /// request, and are there twice.
    #[inline(always)]
    fn gather<'r, const CAREFUL: bool>(
        &self,
        turn: &Turn<'_>,
        input: &'r [u8],
        mut open_get: Option<GetForm>,
        keys: &'r mut KeyScratches,
        requests_max: usize,
        batch: &mut Batch<'r>,
    ) -> Then<'r> {
        let engine = &self.shared.engine;
        let limits = engine.parse_limits();
        let mut then = Then::More;
        let mut rest = input;
        for key in keys.iter_mut().take(requests_max) {
            if rest.is_empty() {
                break;
            }
            let parsed = match open_get.take() {
                None => self.protocol.parse(rest, limits, key),
                Some(form) => parse_more_of_get(rest, form),
            };
            match parsed {
                Parsed::Request(request, bytes) => {
                    let target = engine.target(&request);
                    batch.push((request, bytes, target));
                    rest = &rest[bytes..];
                }
                Parsed::Incomplete { wanted_bytes } => {
                    then = Then::Incomplete { wanted_bytes };
                    break;
                }
                Parsed::Rejected(rejection) => {
                    let is_to_admit = rejection.is_sasl() && self.shared.config.asks_by(Means::Sasl);
                    then = if is_to_admit { Then::Admit } else { Then::Rejected(rejection) };
                    break;
                }
            }
        }
        // The first buckets have arrived by now. A single request could only wait for its own.
        if batch.len() > 1 {
            // What goes to other servers looks at no record here.
            let stays = |target: &Target<'_>| !CAREFUL || target.takes_writes();
            let places = batch.iter().filter_map(|(_, _, target)| target.place().filter(|_| stays(target)));
            places.for_each(|place| engine.prefetch(turn, place));
        }
        then
    }
}

/// What a connection speaks that opens with `input`: its first byte says so. None where that is
/// another protocol than the `only` one.
pub fn spoken(only: Option<Protocol>, input: &[u8]) -> Option<Protocol> {
    input.first().map(|first| Protocol::of(*first)).filter(|spoken| only.is_none_or(|only| only == *spoken))
}

/// A client has spoken another protocol than the `only` one. Once is enough: such a client comes
/// again and again.
#[cold]
pub fn tell_of_other_protocol(only: Option<Protocol>) {
    static TOLD: std::sync::Once = std::sync::Once::new();
    let (spoken, option) = match only {
        Some(Protocol::Text) => ("memcached's binary protocol", "a server with -B ascii or -Y"),
        Some(Protocol::Binary) => ("a text protocol", "a server with -B binary or -S"),
        None => return,
    };
    TOLD.call_once(|| {
        log::warn!(
            "a client speaks {spoken}, which {option} does not serve: its connection is closed, as are all that do; have it use \
             the other protocol, or start the server with -B auto (not with -Y or -S)"
        );
    });
}

/// How far the connection's first request has come. What has gone on no longer waits for memory,
/// even where it is not done: should it find no room again, it waits anew.
#[inline(always)]
fn note(outcome: Outcome, progress: &mut Progress) -> Option<State> {
    let (offset, state) = match outcome {
        Outcome::Done | Outcome::Part | Outcome::DropLine | Outcome::Watch(_) | Outcome::Hello => (0, None),
        Outcome::Resume(offset) | Outcome::Dump(offset) => (offset, Some(State::Yielded)),
        Outcome::Close => (0, Some(State::Ending { lingers: false })),
        // It is not executed: [`Executor::pass_on`] says what comes next.
        Outcome::Forward(_) => return Some(State::Holding),
        Outcome::Elsewhere(_) => unreachable!("a client's request is answered, whatever becomes of it"),
        Outcome::Park(offset) => {
            progress.resume = offset;
            progress.parked_at.get_or_insert_with(Instant::now);
            return Some(State::Parked);
        }
    };
    (progress.resume, progress.parked_at, progress.is_last_try) = (offset, None, false);
    state
}

/// Requests parsed before the first of them is executed, each with its length in bytes and where
/// its key belongs.
type Batch<'r> = ArrayVec<(Request<'r>, usize, Target<'r>), BATCH_REQUESTS_MAX>;

/// How it goes on behind requests.
enum Flow {
    /// With the next one.
    On,
    /// The same, but each is looked at first: some are under way to other servers. Or with the same
    /// one, where the progress says.
    Carefully,
    /// The connection waits for this.
    Stop(State),
}

/// What stands behind a batch.
enum Then<'r> {
    /// Perhaps more requests, or nothing.
    More,
    /// The start of a request.
    Incomplete { wanted_bytes: usize },
    /// What is to be refused once the batch is done.
    Rejected(Rejection<'r>),
    /// A packet of SASL's, at a server whose clients say by SASL who they are (-S).
    Admit,
}

/// The connection has had its share of this turn.
fn yield_turn(context: &Context<'_, '_>) -> State {
    context.stats.conn_yields.increment();
    State::Yielded
}

fn next_attempt(progress: &Progress) -> Attempt {
    let last_try = has_waited_enough(progress);
    Attempt { resume: progress.resume, retried: progress.parked_at.is_some(), last_try }
}

fn open_form(request: &Request<'_>) -> Option<GetForm> {
    if let Request::Get(get) = request { Some(get.form) } else { None }
}

/// Drop what is to be dropped of `input`; returns how many bytes went.
fn skip(progress: &mut Progress, input: &[u8]) -> usize {
    if progress.skip_line {
        let newline = memchr(b'\n', input);
        progress.skip_line = newline.is_none();
        return newline.map_or(input.len(), |newline| newline + 1);
    }
    let bytes = progress.skip_bytes.min(input.len() as u64);
    progress.skip_bytes -= bytes;
    bytes as usize
}

fn has_waited_enough(progress: &Progress) -> bool {
    // The clock is looked at only for what is parked.
    let is_over = |since: Instant| since.elapsed() >= Duration::from_millis(PARK_MILLISECONDS_MAX);
    progress.parked_at.is_some_and(|since| progress.is_last_try || is_over(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipping_reaches_beyond_what_has_arrived() {
        let mut progress = Progress { skip_bytes: 10, ..Progress::default() };
        assert_eq!((skip(&mut progress, b"1234"), progress.skip_bytes), (4, 6));
        assert_eq!((skip(&mut progress, &[b'x'; 100]), progress.skip_bytes), (6, 0));
        assert_eq!(skip(&mut progress, &[b'x'; 100]), 0);
        progress.skip_line = true;
        assert_eq!((skip(&mut progress, b"keys and"), progress.skip_line), (8, true));
        assert_eq!((skip(&mut progress, b" keys\nget"), progress.skip_line), (6, false));
    }

    #[test]
    fn what_goes_on_no_longer_waits_for_memory() {
        for (outcome, state, offset) in [
            (Outcome::Resume(9), Some(State::Yielded), 9),
            (Outcome::Part, None, 0),
            (Outcome::DropLine, None, 0),
            (Outcome::Done, None, 0),
        ] {
            let mut progress = Progress::default();
            assert_eq!(note(Outcome::Park(5), &mut progress), Some(State::Parked));
            let since = progress.parked_at.expect("it waits");
            assert_eq!(note(Outcome::Park(7), &mut progress), Some(State::Parked));
            assert_eq!((progress.resume, progress.parked_at), (7, Some(since)));
            progress.is_last_try = true;
            assert_eq!((note(outcome, &mut progress), progress.resume), (state, offset), "{outcome:?}");
            assert!(progress.parked_at.is_none() && !progress.is_last_try, "{outcome:?}");
        }
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
