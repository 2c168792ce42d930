//! Flags over variables over a file; what is printed is such a file; SIGHUP reads it anew.

use crate::support::command;
use crate::support::wait::{expect_eq, wait_until};
use crate::support::{Server, refused};
use rustix::process::{Pid, Signal};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// What `--print-config` prints.
fn printed(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.args(["serve", "--print-config"]).args(arguments).envs(variables.iter().copied());
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The lines without where they come from.
fn values(toml: &str) -> Vec<&str> {
    toml.lines().map(|line| line.rsplit_once(" # ").map_or(line, |(value, _)| value)).collect()
}

/// A row of `stats settings`.
fn setting(server: &Server, name: &str) -> String {
    let rows = server.connect().rows("stats settings");
    let row = rows.iter().find_map(|row| row.strip_prefix(&format!("STAT {name} ")));
    row.unwrap_or_else(|| panic!("no {name} in {rows:?}")).to_string()
}

/// Wait for the line of the log that contains `words`.
fn logged(server: &Server, words: &str) -> String {
    let mut said = Vec::new();
    while let Some(line) = server.next_log_line() {
        if line.contains(words) {
            return line;
        }
        said.push(line);
    }
    panic!("no \"{words}\" in {said:?}");
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the file is written");
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.toml"), folder.path().join("second.toml"));
    write(
        &first,
        "memory-limit = 100\nconn-limit = 50\nlisten = [\"127.0.0.1:0\", \"[::1]:0\"]\ndisable-flush-all = true\n",
    );
    let first = first.to_str().unwrap();
    let toml = printed(&["--config", first, "-p", "7", "-vv"], &[("REMORA_CONN_LIMIT", "60")]);
    for line in [
        "port = 7 # command line",
        "conn-limit = 60 # variable REMORA_CONN_LIMIT",
        &format!("memory-limit = 100 # {first}:1"),
        &format!("disable-flush-all = true # {first}:4"),
        "verbose = 2 # command line",
        "max-reqs-per-event = 256 # default",
    ] {
        assert!(toml.lines().any(|told| told == line), "{line} in {toml}");
    }
    write(&second, &toml);
    assert_eq!(values(&printed(&["--config", second.to_str().unwrap()], &[])), values(&toml));
}

#[test]
fn it_serves_by_a_file_and_variables() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("remora.toml");
    write(&path, "listen = \"127.0.0.1:0\"\nconn-limit = 50\nthreads = 2\nextended = \"idle_timeout=77\"\n");
    let variables = [("REMORA_CONFIG", path.to_str().unwrap()), ("REMORA_CONN_LIMIT", "60")];
    let server = Server::start_with(&["-t", "1"], 1, &variables);
    let told = ["maxconns", "num_threads", "idle_timeout"].map(|name| setting(&server, name));
    assert_eq!(told, ["60", "1", "77"]);
}

#[test]
fn what_is_wrong_in_it_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("remora.toml");
    for (text, words) in [
        ("# caches\nmemory-limt = 64\n", ":2: there is no option memory-limt; the nearest is memory-limit"),
        ("threads = 1\nport = 70000\n", ":2: invalid value '70000'"),
        ("threads = \n", ":1: this is no TOML"),
    ] {
        write(&path, text);
        let (status, said) = refused(&["--config", path.to_str().unwrap()]);
        assert!(!status.success() && said.contains(words), "{text:?} should say {words:?}, said: {said}");
    }
}

#[test]
fn sighup_reads_it_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("remora.toml");
    write(&path, "memory-limit = 64\nmemory-max = 128\n");
    let server = Server::start(&["--config", path.to_str().unwrap(), "-t", "1"]);
    assert_eq!(setting(&server, "maxbytes"), (64 << 20).to_string());
    write(&path, "memory-limit = 100\nmemory-max = 128\nverbose = 1\nconn-limit = 7\nthreads = 5\n");
    server.signal("HUP");
    // In the order of the names. What the command line says stays, so nothing is said of threads.
    for words in [
        "conn-limit stays 1024 until the next start, not 7",
        "memory-limit was 64, and is 100",
        "verbose was 0, and is 1",
    ] {
        assert!(logged(&server, "SIGHUP").contains(words), "{words}");
    }
    assert_eq!((setting(&server, "maxbytes"), setting(&server, "verbosity")), ((100 << 20).to_string(), "1".into()));
    assert!(logged(&server, "SIGHUP").contains("has been read"), "information is logged from now on");
    write(&path, "memory-limit = 64\nnonsense = 1\n");
    server.signal("HUP");
    let said = logged(&server, "SIGHUP");
    assert!(said.contains(":2: there is no option nonsense") && said.contains("all stays as it is"), "{said}");
    write(&path, "memory-limit = 1000\nmemory-max = 128\nverbose = 1\nconn-limit = 7\n");
    server.signal("HUP");
    assert!(logged(&server, "SIGHUP").contains("conn-limit stays 1024"), "told again");
    assert!(logged(&server, "SIGHUP").contains("memory-limit stays 100 until the next start, not 1000"));
    assert_eq!(setting(&server, "maxbytes"), (100 << 20).to_string());
}

#[test]
fn without_a_file_sighup_changes_nothing() {
    let server = Server::start(&["-t", "1", "-v"]);
    server.signal("HUP");
    assert!(logged(&server, "SIGHUP").contains("there is no --config FILE"));
    wait_until("it serves on", || expect_eq("the answer", server.connect().ask("mn"), "MN".to_string()));
}

/// A replica waits for its primary, and has not begun to serve.
#[test]
fn sighup_does_not_end_who_is_starting() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    // Whoever started the tests may ignore the signal (nohup), and so would the server.
    let server = command(&["-l", "127.0.0.1:0", "--replica-of", &nobody.to_string()]);
    let mut child = Command::new("env");
    child.arg("--default-signal=HUP").arg(server.get_program()).args(server.get_args());
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("env(1) starts it");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines().map(|line| line.expect("text"));
    assert!(said.any(|line| line.contains("trying again")), "it waits");
    let signal = |signal| rustix::process::kill_process(Pid::from_child(&child), signal).expect("it lives");
    signal(Signal::HUP);
    // Tries come seldom, but more than one is said.
    let tries = said.by_ref().take(3).filter(|line| line.contains("trying again")).count();
    assert_eq!(tries, 3, "it goes on");
    signal(Signal::KILL);
    child.wait().expect("it ends");
}
