//! Sessions driven by threads, closed loop: each session has one batch under way, and makes the
//! next when its answers are in.
//!
//! Latencies are those of a closed loop: a slow server is asked less often. (An open loop, with
//! requests at a given rate, would be another driver over the same sessions.)

use super::client::ClientError;
use super::report::Tally;
use super::session::Session;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

/// A connection that cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("connection {session}: {cause}")]
pub struct RunError {
    /// Which session.
    pub session: u32,
    /// Why.
    #[source]
    pub cause: ClientError,
}

/// Drive all sessions with so many threads. `script` joins requests to a session's batch; a session
/// that is given none has come to its end. Returns when all have, or with the first error, at which
/// the others stop after their batch.
pub fn drive<'a, S>(sessions: &mut [Session<'a>], threads: usize, script: S) -> Result<Tally, RunError>
where
    S: Fn(&mut Session<'a>) + Sync,
{
    let stop = AtomicBool::new(false);
    let per_thread = sessions.len().div_ceil(threads.max(1)).max(1);
    let (script, stop) = (&script, &stop);
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for (number, share) in sessions.chunks_mut(per_thread).enumerate() {
            let work = move || {
                let outcome = turns(share, script, stop);
                if outcome.is_err() {
                    stop.store(true, Relaxed);
                }
                outcome
            };
            let thread = std::thread::Builder::new().name(format!("load-{number}"));
            running.push(thread.spawn_scoped(scope, work).expect("the system gives a few threads"));
        }
        let mut all = Tally::default();
        let mut first_error = None;
        for thread in running {
            match thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok(tally) => all.add(&tally),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(all), Err)
    })
}

/// All batches of a thread's sessions go out before the answers to the first are taken: the server
/// has the others to do meanwhile.
fn turns<'a>(
    sessions: &mut [Session<'a>],
    script: &(impl Fn(&mut Session<'a>) + Sync),
    stop: &AtomicBool,
) -> Result<Tally, RunError> {
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut busy = true;
    while busy && !stop.load(Relaxed) {
        busy = false;
        for session in sessions.iter_mut() {
            script(session);
            if !session.is_idle() {
                busy = true;
                session.send().map_err(|cause| RunError { session: session.number(), cause })?;
            }
        }
        for session in sessions.iter_mut().filter(|session| !session.is_idle()) {
            session.receive(&mut tally).map_err(|cause| RunError { session: session.number(), cause })?;
        }
    }
    tally.elapsed = started.elapsed();
    Ok(tally)
}
