//! The command line, nothing else.

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    use clap::Parser;
    use remora::commands::{Cli, run};
    use std::process::ExitCode;
    abort_on_panic();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("remora: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A thread that has panicked leaves what it held half done, so none goes on without it: a supervisor starts the process anew.
#[cfg(not(loom))]
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Under loom the library holds only what is model-checked; cargo builds the binary all the same.
#[cfg(loom)]
fn main() {}
