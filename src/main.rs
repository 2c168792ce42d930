//! The command line, nothing else.
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic where nobody takes what is printed

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    use clap::Parser;
    use remora::commands::{Cli, output, run};
    remora::sys::logging::abort_on_panic();
    let status = match Cli::try_parse() {
        Ok(cli) => output::finish(run(cli)),
        Err(usage) => output::finish_usage(&usage),
    };
    status.into()
}

/// Under loom the library holds only what is model-checked; cargo builds the binary all the same.
#[cfg(loom)]
fn main() {}
