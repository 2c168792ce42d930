//! The log of `remora serve`: env_logger formats the lines, [`crate::sys::logging`] writes them in
//! a thread of its own.

use crate::sys::logging::{self, Pipe};
use anyhow::Context;
use env_logger::{Builder, DEFAULT_FILTER_ENV, Target};
use log::LevelFilter;

/// Start it. Without RUST_LOG the level is that of -v, and `verbosity` may change it while the
/// server runs.
pub fn start(verbose: u8) -> anyhow::Result<()> {
    logging::start().context("cannot start the thread that writes the log; raise `ulimit -u`")?;
    let mut builder = Builder::new();
    builder.target(Target::Pipe(Box::new(Pipe)));
    let asked = std::env::var(DEFAULT_FILTER_ENV).ok().filter(|filter| !filter.is_empty());
    // Checked here: env_logger itself would complain by eprintln!, which panics where stderr takes
    // nothing.
    let filter = asked.as_deref().map(|filter| env_filter::Builder::new().try_parse(filter).map(|_| filter));
    match filter {
        Some(Ok(filter)) => {
            builder.parse_filters(filter);
            // A second start in one process (an embedding, a test) keeps the first one's log.
            let _ = builder.try_init();
        }
        None | Some(Err(_)) => {
            builder.filter_level(LevelFilter::Debug);
            if builder.try_init().is_ok() {
                set_level(verbose);
            }
        }
    }
    if let (Some(Err(error)), Some(filter)) = (filter, &asked) {
        log::warn!(
            "{DEFAULT_FILTER_ENV}=\"{filter}\" is left out: {error}; write, for example, {DEFAULT_FILTER_ENV}=info"
        );
    }
    Ok(())
}

/// Say as much as so many -v ask for; where RUST_LOG is set, no more than that.
pub fn set_level(verbose: u8) {
    log::set_max_level(level_of(verbose));
}

fn level_of(verbose: u8) -> LevelFilter {
    match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    }
}
