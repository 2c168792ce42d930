//! Debian's memcached as a peer: whatever Remora is held to, it must pass as well, so that no test asks for more or
//! less than the original does. Found on the PATH, on a port of the kernel's choice, ended by its own pid.
#![allow(dead_code)] // each test binary uses its own part of this

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_WAIT_MAX: Duration = Duration::from_secs(20);

pub struct Memcached {
    child: Child,
    pub address: SocketAddr,
}

/// The version that memcached says it is, or None if there is none.
pub fn version() -> Option<String> {
    let output = Command::new("memcached").arg("-V").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

impl Memcached {
    /// Start with `arguments` besides the address. memcached writes the ports it got to a file that it is told of.
    pub fn start(arguments: &[&str]) -> Memcached {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port_file = folder.path().join("port");
        let mut command = Command::new("memcached");
        command.args(["-u", "root", "-U", "0", "-p", "-1", "-l", "127.0.0.1"]).args(arguments);
        command.env("MEMCACHED_PORT_FILENAME", &port_file).stdin(Stdio::null());
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
