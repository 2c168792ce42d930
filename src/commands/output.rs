//! What commands print. A standard output that takes nothing is an error like any other, not a
//! panic: a reader that has gone (`remora doctor | head -1`) ends the command quietly, a full disk
//! is told of.

use crate::sys::logging::{FLUSH_WAIT_MAX, flush, last_line};
use std::fmt;
use std::io::{self, ErrorKind, Write};

/// Exit status where the reader of standard output has gone: what a shell shows for a program that
/// SIGPIPE ended, as it ends those of the coreutils.
const READER_GONE_STATUS: u8 = 128 + 13;

/// Standard output takes nothing.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It is a pipe, and its reader has gone.
    #[error("the reader of standard output has gone")]
    ReaderGone,
    /// Anything else.
    #[error("cannot write to standard output: {0}; make room there, or send the output elsewhere")]
    Refused(io::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> OutputError {
        if error.kind() == ErrorKind::BrokenPipe { OutputError::ReaderGone } else { OutputError::Refused(error) }
    }
}

/// Print, and see that it has gone out.
pub fn print(text: fmt::Arguments<'_>) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    Ok(stdout.write_fmt(text).and_then(|()| stdout.flush())?)
}

/// What println! is elsewhere, with a result that is to be looked at.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::commands::output::print(format_args!("{}\n", format_args!($($words)*)))
    };
}
pub(crate) use say;

/// Exit status after `result`; an error is told on standard error first, and the log is given time
/// to be written.
pub fn finish(result: anyhow::Result<()>) -> u8 {
    let status = match &result {
        Ok(()) => 0,
        Err(error) if is_reader_gone(error) => READER_GONE_STATUS,
        Err(error) => {
            last_line(&format!("remora: {error:#}"));
            1
        }
    };
    flush(FLUSH_WAIT_MAX);
    status
}

/// Print what clap has to say, an error or the help that was asked for; returns the exit status.
pub fn finish_usage(usage: &clap::Error) -> u8 {
    let printed = usage.print().and_then(|()| io::stdout().flush());
    match printed {
        // Whoever does not listen to what is wrong is not told.
        _ if usage.use_stderr() => u8::try_from(usage.exit_code()).unwrap_or(2),
        Ok(()) => 0,
        Err(error) => finish(Err(OutputError::from(error).into())),
    }
}

fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(OutputError::ReaderGone)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_reader_that_has_gone_is_known_below_any_context() {
        let gone = || OutputError::from(io::Error::from(ErrorKind::BrokenPipe));
        assert!(is_reader_gone(&gone().into()));
        assert!(is_reader_gone(&Err::<(), _>(gone()).context("phase 1").context("demo").unwrap_err()));
        let full = OutputError::from(io::Error::from(ErrorKind::StorageFull));
        assert!(!is_reader_gone(&full.into()));
        // Of a connection, not of the output.
        assert!(!is_reader_gone(&io::Error::from(ErrorKind::BrokenPipe).into()));
    }
}
