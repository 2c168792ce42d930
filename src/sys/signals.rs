//! Signals: one thread that waits for them and calls back. The first SIGTERM or SIGINT asks for an orderly end, a second
//! ends the process at once. SIGPIPE is ignored by Rust's own start-up code.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

/// Exit status after a second signal, the shell's own number for an interrupted program.
const INTERRUPTED_STATUS: i32 = 130;

/// Start the thread. `stop` is called once, at the first SIGTERM or SIGINT.
pub fn watch(stop: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let wait = move || {
        let mut stop = Some(stop);
        for signal in signals.forever() {
            if signal == SIGHUP {
                log::info!("SIGHUP: nothing to read anew, ignored");
                continue;
            }
            match stop.take() {
                Some(stop) => stop(),
                None => std::process::exit(INTERRUPTED_STATUS),
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}
