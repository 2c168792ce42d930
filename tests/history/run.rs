//! A run over processes: a primary, two replicas, one over shared memory and one over TCP, clients at all of them; and what can be done to it.

use crate::clients::{Clients, Traffic};
use crate::connection::COUNTERS_FROM;
use crate::judge::{Judged, judge};
use crate::node::{LONG, Node, in_sync, same_items};
use crate::proxy::Proxy;
use crate::site::{Seat, Site};
use fastrand::Rng;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// Over which fabric each replica follows.
pub const FABRICS: [&str; 2] = ["shm", "tcp"];
/// Of every process. No run writes a tenth of the memory: nothing is evicted, so every miss can be judged, and no replica is overrun, so none goes back.
pub const ARGUMENTS: [&str; 4] = ["-m", "64", "--replication-timeout", "1"];

/// A replica, and the proxy before whom it follows: control connections are cut there.
pub struct Follower {
    pub node: Node,
    pub proxy: Proxy,
}

/// See the module.
pub struct Run {
    pub random: Rng,
    pub site: Arc<Site>,
    pub primary: Node,
    pub followers: Vec<Option<Follower>>,
    /// The number of the reign, and of those that ended the heir's last time as a replica.
    pub reign: usize,
    pub heirs: Vec<Option<u32>>,
    clients: Clients,
    traffic: Traffic,
    arguments: Vec<String>,
}

impl Run {
    pub fn start(seed: u64, traffic: Traffic, arguments: &[&str]) -> Run {
        let arguments: Vec<String> = ARGUMENTS.iter().chain(arguments).map(|word| word.to_string()).collect();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let site = Arc::new(Site::new(FABRICS.len()));
        let mut run = Run {
            random: Rng::with_seed(seed),
            primary: Node::primary(&words),
            followers: FABRICS.iter().map(|_| None).collect(),
            reign: 0,
            heirs: Vec::new(),
            clients: Clients::start(&site, seed, traffic, 3, FABRICS.len()),
            site,
            traffic,
            arguments,
        };
        (0..FABRICS.len()).for_each(|number| run.start_follower(number));
        run.settle();
        run.open();
        run
    }

    /// Writers may go on.
    pub fn open(&self) {
        self.site.set_seat(Some(Seat { address: self.primary.server.tcp[0], reign: self.reign }));
    }

    /// Writers stop, and all replicas come up: from here on none of them goes back.
    pub fn settle(&mut self) {
        self.site.set_seat(None);
        assert!(self.site.wait_for(LONG, |site| site.busy.load(SeqCst) == 0), "writers do not end");
        let followers: Vec<&Follower> = self.followers.iter().flatten().collect();
        in_sync(&self.primary, &followers.iter().map(|follower| &follower.node).collect::<Vec<_>>());
        for (number, follower) in self.followers.iter().enumerate() {
            let Some(follower) = follower else { continue };
            let counts = ["shards_overrun", "shards_diverged"].map(|name| follower.node.number(name));
            assert_eq!(counts, [0, 0], "a replica has begun anew: {:?}", follower.node.rows());
            // Who has not begun anew has not gone back either.
            if self.site.view(number).is_none_or(|view| view.place == crate::event::Place::Between) {
                self.site.settled(number, follower.node.server.tcp[0], self.reign);
            }
        }
    }

    pub fn start_follower(&mut self, number: usize) {
        let proxy = Proxy::to(self.primary.port());
        let mut words: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        words.extend(["--fabric", FABRICS[number]]);
        let node = Node::standby(proxy.address, &words);
        self.site.unsettled(number, node.server.tcp[0], self.reign);
        self.followers[number] = Some(Follower { node, proxy });
    }

    /// Until the clients have done something.
    pub fn pass(&mut self, milliseconds: std::ops::Range<u64>) {
        std::thread::sleep(Duration::from_millis(self.random.u64(milliseconds)));
    }

    /// Stop and go on: longer than the silence that counts as gone, now and then.
    pub fn stop_for_a_while(&mut self, node: impl Fn(&Run) -> &Node) {
        node(self).server.signal("STOP");
        if self.random.u8(0..4) == 0 {
            self.pass(1100..1700);
        } else {
            self.pass(20..300);
        }
        node(self).server.signal("CONT");
    }

    /// The replica dies, and another begins in its place, while writers go on.
    pub fn replace_follower(&mut self, number: usize) {
        self.site.set_view(number, None);
        if let Some(follower) = self.followers[number].take() {
            kill(follower.node);
        }
        self.pass(0..100);
        self.start_follower(number);
        self.pass(0..200);
    }

    /// The end: every process has the same, and the whole history is one.
    pub fn judge(mut self) -> Judged {
        self.settle();
        let nodes: Vec<&Node> = self.followers.iter().flatten().map(|follower| &follower.node).collect();
        let keys: Vec<String> = (0..self.traffic.registers)
            .chain(COUNTERS_FROM..COUNTERS_FROM + self.traffic.counters)
            .map(|key| format!("key-{key}"))
            .collect();
        assert!(same_items(&self.primary, &nodes, &keys) > 0);
        assert_eq!(self.primary.server.stat("evictions").as_deref(), Some("0"), "then misses cannot be judged");
        self.clients.stop();
        self.heirs.push(None);
        let judged = judge(&self.site.reigns(&self.heirs));
        judged.unwrap_or_else(|complaints| panic!("{}", complaints.join("\n")))
    }
}

/// kill -9, and wait until it is gone.
pub fn kill(mut node: Node) {
    node.server.signal("KILL");
    node.server.wait();
}
