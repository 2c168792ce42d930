//! memcached as a peer: whatever Remora is held to, it must pass as well, so that no test asks for
//! more or less than the original does. Runs on a port of the kernel's choice, is ended by its own
//! pid.
#![allow(dead_code)] // each test binary uses its own part of this

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_WAIT_MAX: Duration = Duration::from_secs(20);

pub struct Memcached {
    child: Child,
    pub address: SocketAddr,
}

/// What brings a memcached that is new enough; a test that finds none says so.
pub const REMEDY: &str = "tools/peers memcached fetches it";

/// Where memcached is: what the environment names, else what tools/peers fetched, else the
/// system's.
fn program() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/memcached");
    match std::env::var_os("REMORA_MEMCACHED") {
        Some(named) => named.into(),
        None if fetched.exists() => fetched,
        None => "memcached".into(),
    }
}

/// The version that memcached says it is, or None if there is none.
pub fn version() -> Option<String> {
    let output = Command::new(program()).arg("-V").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

impl Memcached {
    /// Start with `arguments` besides the address. memcached writes the ports it got to a file that
    /// it is told of.
    pub fn start(arguments: &[&str]) -> Memcached {
        Memcached::start_with(arguments, &[])
    }

    /// The same, with variables in its environment.
    pub fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Memcached {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port_file = folder.path().join("port");
        let mut command = Command::new(program());
        command.args(["-u", "root", "-U", "0", "-p", "-1", "-l", "127.0.0.1"]).args(arguments);
        command.env("MEMCACHED_PORT_FILENAME", &port_file).envs(variables.iter().copied()).stdin(Stdio::null());
        let child = command.spawn().expect("memcached starts");
        let started = Instant::now();
        let port = loop {
            let written = std::fs::read_to_string(&port_file).unwrap_or_default();
            if let Some(line) = written.lines().find_map(|line| line.strip_prefix("TCP INET: ")) {
                break line.trim().parse::<u16>().expect("a port");
            }
            assert!(started.elapsed() < START_WAIT_MAX, "memcached did not say its port");
            std::thread::sleep(Duration::from_millis(5));
        };
        Memcached { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
