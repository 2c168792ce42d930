//! The demo as a newcomer meets it: it ends by itself, says what it saw, and its status tells
//! whether all was right. That a wrong byte is found is tested where answers are judged:
//! src/load/workload.rs and src/load/session.rs.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// No single wait is longer: a demo that hangs fails its test.
const WAIT_MAX: Duration = Duration::from_secs(120);

struct Demo {
    child: Child,
    lines: Receiver<String>,
}

impl Demo {
    fn start(arguments: &[&str]) -> Demo {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.arg("demo").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the remora binary starts");
        let pipe = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = channel();
        let read = move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        };
        std::thread::Builder::new().name("demo-output".into()).spawn(read).expect("a thread");
        Demo { child, lines }
    }

    /// The lines up to one that begins with `begin`, or to the end of the output.
    fn lines_until(&self, begin: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(WAIT_MAX) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return lines,
                Err(RecvTimeoutError::Timeout) => panic!("no word from the demo after:\n{}", lines.join("\n")),
            }
            if lines.last().is_some_and(|line| line.starts_with(begin)) {
                return lines;
            }
        }
    }

    fn end(&mut self) -> (ExitStatus, String) {
        let mut errors = String::new();
        let stderr: Option<&mut ChildStderr> = self.child.stderr.as_mut();
        stderr.expect("stderr is piped").read_to_string(&mut errors).expect("text");
        (self.child.wait().expect("our own child"), errors)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From "demo: server pid N at ...".
fn server_pid(lines: &[String]) -> u32 {
    let first = lines.first().and_then(|line| line.strip_prefix("demo: primary pid "));
    first.and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("the first line names the server")
}

fn kill(pid: u32) {
    let status = Command::new("kill").arg("-KILL").arg(pid.to_string()).status();
    assert!(status.expect("kill(1) runs").success(), "pid {pid} is there");
}

/// Whether the process is gone, or a zombie that waits for its parent.
fn has_ended(pid: u32) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap_or_default();
    !status.contains("State:") || status.contains("State:\tZ")
}

fn ends_in_time(pid: u32) -> bool {
    let until = Instant::now() + WAIT_MAX;
    while !has_ended(pid) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    has_ended(pid)
}

#[test]
fn it_shows_every_phase_and_ends_with_all_checks_passed() {
    let mut demo = Demo::start(&["--memory", "16", "--seconds", "1"]);
    let lines = demo.lines_until("demo: all checks");
    let (status, errors) = demo.end();
    let all = lines.join("\n");
    assert!(status.success(), "{status}\n{all}\n{errors}");
    assert_eq!(lines.last().map(String::as_str), Some("demo: all checks passed"), "{all}\n{errors}");
    for phase in [
        "1 fill",
        "2 mixed",
        "3 lease",
        "4 count",
        "5 check",
        "6 replicas",
        "7 failover",
        "8 shards",
        "9 end",
        "10 cluster",
        "phase ",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(phase)), "{phase}:\n{all}");
    }
    is_a_whole_cluster(&lines);
    let lost_none = lines.iter().filter(|line| line.contains("acknowledged: ") && line.contains(", lost 0; ")).count();
    assert_eq!(lost_none, 2, "of the failover, and of the shards:\n{all}");
    assert!(lines.iter().any(|line| line.contains("one server takes each, the other refuses it")), "{all}");
    assert!(has_ended(server_pid(&lines)), "the server is left behind");
}

/// The cluster's part: what happened is drawn in its second, and nothing is lost.
fn is_a_whole_cluster(lines: &[String]) {
    let all = lines.join("\n");
    let happened = ["SIGKILL to \"two\"", "\"four\" has its part", "\"one\" has no shard"];
    for mark in happened {
        let drawn = |line: &&String| line.contains(" s [") && line.contains("<- ") && line.contains(mark);
        assert_eq!(lines.iter().filter(drawn).count(), 1, "{mark}:\n{all}");
    }
    assert!(lines.iter().any(|line| line.contains(", wrong 0, lost 0; ")), "{all}");
    assert!(lines.iter().any(|line| line.contains("and each is read back")), "{all}");
}

#[test]
fn a_cluster_is_shown_alone_and_loses_nothing() {
    let mut demo = Demo::start(&["--cluster", "--memory", "16", "--seconds", "4"]);
    let lines = demo.lines_until("demo: all checks");
    let (status, errors) = demo.end();
    assert!(status.success(), "{status}\n{}\n{errors}", lines.join("\n"));
    assert_eq!(lines.last().map(String::as_str), Some("demo: all checks passed"), "{errors}");
    is_a_whole_cluster(&lines);
}

#[test]
fn a_server_that_dies_is_said_with_status_1() {
    let mut demo = Demo::start(&["--memory", "16", "--seconds", "600"]);
    // The last line of the phase before: the next one takes the 600 seconds.
    let lines = demo.lines_until("            the 32 hot keys");
    kill(server_pid(&lines));
    let rest = demo.lines_until("demo: all checks");
    let (status, errors) = demo.end();
    assert_eq!(status.code(), Some(1), "{lines:?} {rest:?}\n{errors}");
    assert!(errors.contains("the primary has ended (signal: 9") && errors.contains("phase 2, mixed"), "{errors}");
}

#[test]
fn a_demo_that_is_killed_leaves_no_server_behind() {
    let mut demo = Demo::start(&["--memory", "8", "--seconds", "600"]);
    let pid = server_pid(&demo.lines_until("demo: primary pid"));
    assert!(!has_ended(pid));
    kill(demo.child.id());
    demo.child.wait().expect("our own child");
    assert!(ends_in_time(pid), "the server outlives the demo");
}
