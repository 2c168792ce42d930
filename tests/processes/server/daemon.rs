//! `-d` and `-P`: the server lets go of whoever started it, and can be found by its file.

use crate::support::wait::wait_until;
use crate::support::{Client, Server, command};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

/// A daemon that is killed when the test ends, however that ends.
struct Daemon {
    pid: u32,
    port: u16,
}

impl Daemon {
    /// Start it as a script does, and find it by the files that it writes.
    fn start(folder: &Path, arguments: &[&str]) -> Daemon {
        let (pid, ports) = (folder.join("pid"), folder.join("ports"));
        let output = started(&[&["-P", pid.to_str().unwrap(), "-l", "127.0.0.1:0"], arguments].concat(), &ports);
        assert!(output.status.success(), "{output:?}");
        // Nothing is waited for: all that a script needs is there once the first process has ended.
        let pid = std::fs::read_to_string(pid).expect("the file of -P is there").trim().parse().expect("a number");
        let ports = std::fs::read_to_string(ports).expect("the port is told");
        let port = ports.trim().strip_prefix("TCP INET: ").and_then(|port| port.parse().ok()).expect("a port");
        Daemon { pid, port }
    }

    fn client(&self) -> Client {
        Client::tcp(SocketAddr::from(([127, 0, 0, 1], self.port)))
    }

    fn kill(&self, signal: &str) {
        let _ = Command::new("kill").args([signal, &self.pid.to_string()]).status();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill("-KILL");
    }
}

fn started(arguments: &[&str], ports: &Path) -> Output {
    let mut command = command(&[&["-d"], arguments].concat());
    command.env("MEMCACHED_PORT_FILENAME", ports);
    command.output().expect("the binary starts")
}

#[test]
fn it_lets_go_of_its_terminal_and_removes_its_file_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), &["-t", "1"]);
    assert_eq!(daemon.client().set("key", b"value"), "STORED");
    let about = |what: &str| std::fs::read_link(format!("/proc/{}/{what}", daemon.pid)).expect("it lives");
    assert_eq!(about("cwd"), Path::new("/"));
    for stream in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(about(stream), Path::new("/dev/null"), "{stream}");
    }
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid)).unwrap();
    let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().to_string();
    assert_eq!(session, daemon.pid.to_string(), "a session of its own");
    let mut client = daemon.client();
    daemon.kill("-TERM");
    assert_eq!(client.until_closed(), b"");
    wait_until("the file is removed", || if folder.path().join("pid").exists() { Err("it is there") } else { Ok(()) });
}

#[test]
fn with_r_and_v_it_keeps_its_folder_and_its_streams() {
    let folder = tempfile::tempdir().unwrap();
    let error = std::fs::File::create(folder.path().join("log")).unwrap();
    let ports = folder.path().join("ports");
    let pid = folder.path().join("pid");
    let mut command = command(&["-d", "-r", "-v", "-l", "127.0.0.1:0", "-P", pid.to_str().unwrap()]);
    command.env("MEMCACHED_PORT_FILENAME", ports).current_dir(folder.path()).stderr(error);
    assert!(command.status().expect("the binary starts").success());
    let daemon = Daemon { pid: std::fs::read_to_string(pid).unwrap().trim().parse().unwrap(), port: 0 };
    let about = |what: &str| std::fs::read_link(format!("/proc/{}/{what}", daemon.pid)).expect("it lives");
    assert_eq!(about("cwd"), folder.path().canonicalize().unwrap());
    assert_eq!(about("fd/2"), folder.path().canonicalize().unwrap().join("log"));
}

#[test]
fn one_that_cannot_serve_is_told_of_by_the_process_that_was_started() {
    let folder = tempfile::tempdir().unwrap();
    let first = Server::start(&["-t", "1"]);
    let output = started(&["-l", &first.tcp[0].to_string()], &folder.path().join("ports"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("is in use") && said.contains("-d: the daemon has ended"),
        "{said}"
    );
    assert!(!folder.path().join("ports").exists());
}

/// Without -d, too; and the file may be another's by then.
#[test]
fn a_file_that_is_another_process_s_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pid");
    let mut server = Server::start(&["-P", path.to_str().unwrap()]);
    let number = || std::fs::read_to_string(&path).unwrap_or_default();
    wait_until("it is written", || if number() == format!("{}\n", server.pid()) { Ok(()) } else { Err(number()) });
    std::fs::write(&path, "1\n").unwrap();
    server.signal("TERM");
    assert!(server.wait().success());
    assert_eq!(number(), "1\n");
}
