//! Name servers that say nothing. The C library would ask them for minutes; nobody here waits so
//! long, and each says what it waited for.

use crate::node::Node;
use crate::support::{Server, command as serve};
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Where a socket takes questions and answers none. Nobody else's, whatever resolver this host has.
const SILENT: &str = "127.77.0.1";
/// What the C library would wait for one name: four and a half minutes.
const PATIENCE: &str = "options timeout:30 attempts:3";
/// Far less than the first answer that the C library would wait for.
const SHORT: Duration = Duration::from_secs(25);

/// `command`, where the host's name server is the silent one: in a mount namespace of its own.
fn among_silent_servers(folder: &Path, command: &Command) -> Command {
    let configuration = folder.join("resolv.conf");
    std::fs::write(&configuration, format!("nameserver {SILENT}\n{PATIENCE}\n")).expect("a file");
    let mut wrapped = Command::new("unshare");
    wrapped.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""]).arg(configuration);
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped
}

/// Needs root, for the port and the namespace.
#[test]
fn silent_name_servers_are_given_up() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: only root can have a name server of its own");
        return;
    }
    let _silent = UdpSocket::bind((SILENT, 53)).expect("the name servers' port at an address of nobody's");
    let folder = tempfile::tempdir().expect("a folder");
    let primary = serve(&["-l", "127.0.0.1:0", "--replication", "127.0.0.1:0", "-t", "1", "-m", "16"]);
    let mut wrapped = among_silent_servers(folder.path(), &primary);
    wrapped.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let primary = Node::of(Server::run(wrapped, 1), "remora: replication on tcp ");

    // A primary that is to be followed, and replicas to gather from.
    let begun_at = Instant::now();
    let server = primary.server.tcp[0].to_string();
    let mut order = Command::new(env!("CARGO_BIN_EXE_remora"));
    order.args(["ctl", "-s", &server, "replicate", "far.example:7"]);
    let ordered = order.output().expect("it runs");
    let said = String::from_utf8_lossy(&ordered.stderr).into_owned();
    assert!(said.contains("far.example:7: the name servers have not answered within"), "{said}");
    assert!(begun_at.elapsed() < SHORT, "{:?}", begun_at.elapsed());
    assert_eq!(primary.client().set("key", b"1"), "STORED");

    // Commands.
    for arguments in [["ctl", "-s", "far.example:7", "replication"], ["load", "-s", "far.example:7", "--fill"]] {
        let begun_at = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.args(arguments);
        let ended = among_silent_servers(folder.path(), &command).output().expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains("/etc/resolv.conf"), "{arguments:?}: {said}");
        assert!(begun_at.elapsed() < SHORT, "{arguments:?}: {:?}", begun_at.elapsed());
    }
}
