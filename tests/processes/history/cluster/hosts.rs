//! Hosts on one machine: a network namespace each, and a router between them that can be told to
//! drop what comes from one, what goes to one, or what two of them send each other. Nothing of it
//! is in the machine's own network.
//!
//! ```text
//!   clients 10.0.1.2 ---+
//!   locator 10.0.2.2 ---+-- router, whose rules drop packets
//!   a       10.0.3.2 ---+
//! ```

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::Scope;

/// Which packets of a host are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Both,
    /// Those that it sends.
    Out,
    /// Those that are sent to it.
    In,
    /// Those between it and that host.
    With(usize),
}

/// The hosts of one test, by number.
pub struct Hosts {
    name: String,
    count: usize,
    /// The rules of the router, each behind "ip rule add" or "del".
    cuts: Vec<String>,
}

/// Err: what it said.
fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// From now on this thread, and what it starts, is in that namespace.
fn enter(namespace: &str) {
    let path = format!("/run/netns/{namespace}");
    let file = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may move there");
}

impl Hosts {
    /// So many hosts. None, with the reason said, where this process may not make any.
    pub fn new(count: usize) -> Option<Hosts> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("remora-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let mut hosts = Hosts { name, count: 0, cuts: Vec::new() };
        if let Err(why) = ip(&format!("netns add {}", hosts.router())) {
            println!("skipped: no network namespaces without root and iproute2: {why}");
            return None;
        }
        let router = hosts.router();
        // By the namespace's own files: a thread that is in it sees them.
        hosts.inside(&router, || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").ok());
        for host in 0..count {
            hosts.count = host + 1;
            hosts.add(host).unwrap_or_else(|why| panic!("{why}"));
        }
        Some(hosts)
    }

    fn add(&self, host: usize) -> Result<(), String> {
        let (router, name, number) = (self.router(), self.host(host), host + 1);
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {router} link add v{number} type veth peer name eth0 netns {name}"))?;
        ip(&format!("-n {router} addr add 10.0.{number}.1/24 dev v{number}"))?;
        ip(&format!("-n {router} link set v{number} up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} addr add {}/24 dev eth0", self.address(host)))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} route add default via 10.0.{number}.1"))
    }

    fn router(&self) -> String {
        format!("{}-router", self.name)
    }

    fn host(&self, host: usize) -> String {
        format!("{}-{host}", self.name)
    }

    pub fn address(&self, host: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, host as u8 + 1, 2))
    }

    /// Do something at a host: the sockets and processes that begin in it are of that host.
    pub fn at<T: Send>(&self, host: usize, act: impl FnOnce() -> T + Send) -> T {
        self.inside(&self.host(host), act)
    }

    fn inside<T: Send>(&self, namespace: &str, act: impl FnOnce() -> T + Send) -> T {
        let acting = || {
            enter(namespace);
            act()
        };
        let ended = std::thread::scope(|scope| scope.spawn(acting).join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A thread of a scope that is at a host.
    pub fn spawn_at<'s, 'e>(&self, host: usize, scope: &'s Scope<'s, 'e>, act: impl FnOnce() + Send + 's) {
        let namespace = self.host(host);
        scope.spawn(move || {
            enter(&namespace);
            act();
        });
    }

    /// From now on these packets are dropped, without a word.
    pub fn cut(&mut self, host: usize, way: Way) {
        let (interface, address) = (host + 1, self.address(host));
        let out = format!("iif v{interface} blackhole");
        let into = format!("to {address} blackhole");
        let rules = match way {
            Way::Both => vec![out, into],
            Way::Out => vec![out],
            Way::In => vec![into],
            Way::With(other) => {
                let (there, their) = (other + 1, self.address(other));
                vec![format!("iif v{interface} to {their} blackhole"), format!("iif v{there} to {address} blackhole")]
            }
        };
        for rule in rules {
            ip(&format!("-n {} rule add {rule}", self.router())).unwrap_or_else(|why| panic!("{why}"));
            self.cuts.push(rule);
        }
    }

    /// All packets go through again.
    pub fn mend(&mut self) {
        for rule in std::mem::take(&mut self.cuts) {
            ip(&format!("-n {} rule del {rule}", self.router())).unwrap_or_else(|why| panic!("{why}"));
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in (0..self.count).map(|host| self.host(host)).chain([self.router()]) {
            if let Err(why) = ip(&format!("netns del {name}")) {
                println!("{why}");
            }
        }
    }
}
