//! The command line, nothing else.
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic where nobody takes what is printed

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    remora::sys::logging::abort_on_panic();
    remora::commands::run(std::env::args_os()).into()
}

/// Under loom the library holds only what is model-checked; cargo builds the binary all the same.
#[cfg(loom)]
fn main() {}
