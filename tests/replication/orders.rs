//! What is refused of an order, in which words, and that then nothing has changed.

use crate::node::Node;
use std::process::{Command, Output};

/// `remora ctl` for a server, not yet run.
pub fn command(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.args(["ctl", "-s", &node.server.tcp[0].to_string()]).args(arguments);
    command
}

fn run(node: &Node, arguments: &[&str]) -> Output {
    command(node, arguments).output().expect("it runs")
}

/// `remora ctl`, which must succeed; what it says.
pub fn ctl(node: &Node, arguments: &[&str]) -> String {
    let output = run(node, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The same, but it must fail, with these words among what it says.
pub fn ctl_fails(node: &Node, arguments: &[&str], words: &str) {
    let output = run(node, arguments);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && said.contains(words), "{arguments:?}: {said} instead of {words}");
}
