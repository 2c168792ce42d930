//! The command line, nothing else.

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    use clap::Parser;
    use remora::commands::{Cli, run};
    use std::process::ExitCode;
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("remora: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Under loom the library holds only what is model-checked; cargo builds the binary all the same.
#[cfg(loom)]
fn main() {}
