//! Signals: one thread that waits for them and calls back. The first SIGTERM, SIGINT or SIGUSR1
//! (memcached's graceful end) asks for an orderly end; a second ends the process at once. SIGPIPE
//! is ignored by Rust's own start-up code.

use super::logging;
use rustix::process::{Signal, getpid, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long the process waits for its log after a second signal, which asks it to end at once.
const LAST_WORDS_MAX: Duration = Duration::from_millis(100);

/// A signal that asks for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// SIGINT.
    Int,
    /// SIGUSR1.
    Usr1,
}

/// Send it to this process.
pub fn raise(ending: Ending) -> io::Result<()> {
    let signal = match ending {
        Ending::Int => Signal::INT,
        Ending::Usr1 => Signal::USR1,
    };
    Ok(kill_process(getpid(), signal)?)
}

/// A SIGHUP ends this process no more. Until [`watch`] is called it does nothing.
pub fn survive_hangup() -> io::Result<()> {
    signal_hook::flag::register(SIGHUP, Arc::default()).map(drop)
}

/// Start the thread. `stop` is called once, with the name of the first SIGTERM, SIGINT or SIGUSR1;
/// `reload` for each SIGHUP before that.
pub fn watch(
    stop: impl FnOnce(&'static str) + Send + 'static,
    mut reload: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGHUP])?;
    let wait = move || {
        let mut stop = Some(stop);
        for signal in signals.forever() {
            let name = signal_name(signal).unwrap_or("a signal");
            if signal == SIGHUP {
                if stop.is_some() {
                    reload();
                }
                continue;
            }
            match stop.take() {
                Some(stop) => stop(name),
                None => {
                    log::warn!("{name} while the end is under way: ending at once");
                    logging::flush(LAST_WORDS_MAX);
                    // The shell's own number for a program that the signal ended.
                    std::process::exit(128 + signal);
                }
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}
