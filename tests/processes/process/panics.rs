//! A panic ends the process, and its message is the log's last line, whether or not there is room
//! for it.
//!
//! Nothing in the server panics when told to. So the test starts this binary once more, as a
//! process that does what the server's `main` does and then panics.

use super::pipes::full_pipe;
use remora::sys::logging;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

const ROLE: &str = "REMORA_TEST_PANICS";

fn panicking(lines: &str, stderr: Stdio) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "process::panics::in_a_process_of_its_own", "--nocapture"]).env(ROLE, lines);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    command
}

/// Does nothing unless the other test starts it as a process of its own.
#[test]
fn in_a_process_of_its_own() {
    let Ok(lines) = std::env::var(ROLE) else { return };
    logging::abort_on_panic();
    logging::start().unwrap();
    let lines: usize = lines.parse().unwrap();
    (0..lines).for_each(|number| logging::line(&format!("line {number}")));
    std::thread::Builder::new()
        .name("worker-7".into())
        .spawn(|| panic!("the end of {}", 6 * 7))
        .unwrap()
        .join()
        .unwrap();
}

const SIGABRT: i32 = 6;

#[test]
fn the_message_is_the_last_line_behind_all_that_was_queued() {
    let output = panicking("200", Stdio::piped()).env("RUST_BACKTRACE", "0").output().unwrap();
    assert_eq!(output.status.signal(), Some(SIGABRT));
    let said = String::from_utf8_lossy(&output.stderr);
    let line = |number: usize| said.find(&format!("line {number}\n"));
    let message = said.find("remora: thread \"worker-7\": panicked at ").unwrap_or_else(|| panic!("{said}"));
    assert!(said[message..].contains("panics.rs") && said[message..].contains("the end of 42"), "{said}");
    assert!((0..200).all(|number| line(number).is_some_and(|at| at < message)), "{said}");
}

#[test]
fn a_log_that_nobody_reads_does_not_keep_a_panic_from_ending_the_process() {
    for lines in ["0", "5000"] {
        let (_unread, stderr) = full_pipe();
        let status = panicking(lines, stderr).status().unwrap();
        assert_eq!(status.signal(), Some(SIGABRT), "after {lines} lines");
    }
}
