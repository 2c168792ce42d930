//! Each command with a full disk, or a pipe without a reader, behind its outputs: it ends with a
//! status that says how, and never by a panic.

use super::pipes::{closed_pipe, full_disk};
use crate::support::{Client, Server, WAIT_MAX, command};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The status of a command whose reader has gone: what a shell shows for a program that SIGPIPE
/// ended.
const READER_GONE: i32 = 128 + 13;

/// Run `remora` to its end, within a bound.
fn run(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Output {
    let words = arguments.iter().map(OsStr::new).collect::<Vec<_>>();
    run_words(&words, stdout, stderr, &[])
}

fn run_words(words: &[&OsStr], stdout: Stdio, stderr: Stdio, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.args(words).envs(variables.iter().copied()).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let mut child = command.spawn().expect("the remora binary starts");
    ends(&mut child);
    child.wait_with_output().expect("its output")
}

/// What is written is little enough for a pipe, so it is read after the end.
fn ends(child: &mut Child) {
    let until = Instant::now() + WAIT_MAX;
    while child.try_wait().expect("our own child").is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            panic!("remora did not end within {WAIT_MAX:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ended by itself with this status: a panic would have ended it by a signal.
fn ended_with(what: &[&str], output: &Output, status: i32) {
    assert_eq!((output.status.code(), output.status.signal()), (Some(status), None), "{what:?} said {}", said(output));
}

/// What writes to standard output and succeeds, with a server to ask.
fn with_answers(test: impl Fn(&[&str])) {
    let server = Server::start(&["-t", "1", "--replication", "127.0.0.1:0"]);
    let address = server.tcp[0].to_string();
    for arguments in [
        &["doctor"][..],
        &["ctl", "-s", &address, "replication"],
        &["ctl", "-s", &address, "replication", "--json"],
        &["load", "-s", &address, "-n", "100", "-c", "1", "--keys", "10"],
        &["load", "-s", &address, "-n", "100", "-c", "1", "--keys", "10", "--json", "-"],
        &["--version"],
        &["serve", "--help"],
    ] {
        test(arguments);
    }
}

#[test]
fn a_reader_that_has_gone_ends_a_command_quietly() {
    with_answers(|arguments| {
        let output = run(arguments, closed_pipe(), Stdio::piped());
        ended_with(arguments, &output, READER_GONE);
        assert!(
            !said(&output).contains("error") && !said(&output).contains("anic"),
            "{arguments:?}: {}",
            said(&output)
        );
    });
}

#[test]
fn a_demo_whose_reader_has_gone_ends_its_servers() {
    let arguments = ["demo", "-s", "1", "-m", "8"];
    let output = run(&arguments, closed_pipe(), Stdio::piped());
    ended_with(&arguments, &output, READER_GONE);
    assert_eq!(said(&output), "");
}

#[test]
fn a_full_disk_behind_standard_output_is_told() {
    with_answers(|arguments| {
        let output = run(arguments, full_disk(), Stdio::piped());
        ended_with(arguments, &output, 1);
        let said = said(&output);
        assert!(said.contains("remora: cannot write to standard output: No space left"), "{arguments:?}: {said}");
    });
}

#[test]
fn a_command_whose_words_nobody_takes_still_answers() {
    with_answers(|arguments| {
        for stderr in [full_disk(), closed_pipe()] {
            let output = run(arguments, Stdio::piped(), stderr);
            ended_with(arguments, &output, 0);
            assert!(!output.stdout.is_empty(), "{arguments:?}");
        }
    });
}

#[test]
fn an_error_that_nobody_takes_is_still_a_status() {
    let nowhere = Server::start(&["-t", "1"]).tcp[0].to_string();
    for (arguments, status) in [
        (&["ctl", "-s", &nowhere, "replication"][..], 1),
        (&["ctl", "-s", "no port at all", "replication"], 1),
        (&["load", "-s", &nowhere, "-n", "1", "-c", "1"], 1),
        (&["serve", "-p", "0"], 1),
        (&["serve", "-l", "192.0.2.1:0"], 1),
        (&["serve", "--nonsense"], 2),
        (&["nonsense"], 2),
    ] {
        for stderr in [full_disk(), closed_pipe()] {
            ended_with(arguments, &run(arguments, Stdio::null(), stderr), status);
        }
    }
}

#[test]
fn a_server_serves_whatever_becomes_of_its_log() {
    for (stderr, filter) in [
        (full_disk(), "info"),
        (closed_pipe(), "info"),
        // The filter itself is nonsense, about which there is something to say before the log is
        // there.
        (full_disk(), "a=b=c"),
        (closed_pipe(), "remora=loud"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let arguments = ["-s", path.to_str().unwrap(), "-t", "1", "--replication", "127.0.0.1:0", "-l", "127.0.0.1:0"];
        let child = command(&arguments).stderr(stderr).env("RUST_LOG", filter).spawn();
        let mut server = Killed(child.expect("the remora binary starts"));
        let mut client = connected(&path);
        assert_eq!(client.set("key", b"value"), "STORED");
        assert_eq!(client.get("key").as_deref(), Some(&b"value"[..]));
        let pid = rustix::process::Pid::from_child(&server.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        ends(&mut server.0);
        assert!(server.0.wait().unwrap().success(), "with RUST_LOG={filter}");
    }
}

#[test]
fn a_filter_of_the_log_that_makes_no_sense_is_told() {
    let server = Server::start_with(&["-l", "127.0.0.1:0", "-t", "1"], 0, &[("RUST_LOG", "a=b=c")]);
    let line = std::iter::from_fn(|| server.next_log_line()).find(|line| line.contains("RUST_LOG"));
    assert!(line.is_some_and(|line| line.contains("a=b=c") && line.contains("RUST_LOG=info")));
}

#[test]
fn verbosity_changes_what_is_logged_while_the_server_runs() {
    let mut server = Server::start(&["-t", "1"]);
    assert_eq!(server.connect().ask("verbosity 2"), "OK");
    server.signal("HUP");
    let line = std::iter::from_fn(|| server.next_log_line()).find(|line| line.contains("SIGHUP"));
    assert!(line.is_some_and(|line| line.contains("INFO")));
    assert_eq!(server.connect().ask("verbosity 0"), "OK");
    server.signal("TERM");
    assert!(server.wait().success());
    let rest: Vec<String> = std::iter::from_fn(|| server.next_log_line()).collect();
    assert!(!rest.iter().any(|line| line.contains("SIGTERM")), "{rest:?}");
}

#[test]
fn a_name_that_is_no_text_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(OsStr::from_bytes(b"page-\xff.html"));
    let server = Server::start(&["-t", "1"]);
    let address = server.tcp[0].to_string();
    let words = ["load", "-s", &address, "-n", "10", "-c", "1", "--keys", "10", "--html"].map(OsStr::new);
    let words = [&words[..], &[path.as_os_str()]].concat();
    let output = run_words(&words, Stdio::piped(), Stdio::piped(), &[]);
    ended_with(&["load", "--html"], &output, 0);
    assert!(path.exists());
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn connected(path: &Path) -> Client {
    let until = Instant::now() + WAIT_MAX;
    while std::os::unix::net::UnixStream::connect(path).is_err() {
        assert!(Instant::now() < until, "no socket within {WAIT_MAX:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Client::unix(path)
}
