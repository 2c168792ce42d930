//! `-m` against what this host, and the control group of this test, really have.

use crate::support::Server;
use remora::sys::allowance::Allowance;
use std::process::{Command, Output};

fn doctor(mebibytes: u64) -> (Output, String) {
    let arguments = ["doctor", "-m", &mebibytes.to_string()];
    let output = Command::new(env!("CARGO_BIN_EXE_remora")).args(arguments).output().expect("the remora binary starts");
    let report = String::from_utf8_lossy(&output.stdout);
    let line = report.lines().find(|line| line.starts_with("memory ")).expect("a line about memory").to_string();
    (output, line)
}

/// On plain pages, as all these servers are unless REMORA_TEST_HUGEPAGES says otherwise: no limit
/// counts reserved ones.
#[test]
fn a_server_that_is_given_all_there_is_starts_with_a_warning() {
    let most = Allowance::read().most_bytes().expect("this host has memory") >> 20;
    let arguments = ["-l", "127.0.0.1:0", "-t", "1", "-m", &most.to_string()];
    let server = Server::start_listening(&arguments, 0);
    let mut said = Vec::new();
    while !said.last().is_some_and(|line: &String| line.starts_with("remora: listening on tcp ")) {
        said.push(server.next_log_line().unwrap_or_else(|| panic!("it does not listen, but said {said:?}")));
    }
    assert!(said.iter().any(|line| line.contains("a full cache has") && line.contains("; lower -m, or ")), "{said:?}");
}

#[test]
fn doctor_judges_what_a_server_is_to_be_given() {
    let (_, small) = doctor(1);
    assert!(small.contains(" ok ") && small.contains("is to be had"), "{small}");
    let (output, huge) = doctor(1 << 24);
    assert!(huge.contains("BROKEN") && huge.contains("a full cache has 16777216 MiB of items"), "{huge}");
    assert_eq!(output.status.code(), Some(1));
}
