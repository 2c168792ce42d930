//! A run over processes: a primary, two replicas, clients at all of them; and what can be done to
//! it.

use super::clients::{Clients, Traffic};
use super::site::{Seat, Site, View};
use crate::node::{LONG, Node, in_sync, same_items};
use crate::proxy::Proxy;
use crate::support::history::event::Place;
use crate::support::history::judge::{Judged, judge};
use fastrand::Rng;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Replicas beside a primary.
pub const REPLICAS: usize = 2;
/// What each replica tries, and offers, in this order: one follows over shared memory and one over
/// TCP.
pub const MIXED: [&str; REPLICAS] = ["shm,tcp", "tcp,shm"];
/// Both over TCP: then nothing can be read of a primary that is dead. Its shared memory outlives
/// it.
pub const APART: [&str; REPLICAS] = ["tcp", "tcp"];
/// Threads by which each pulls.
const PULLERS: [&str; REPLICAS] = ["1", "3"];
/// Connections that write.
const WRITERS: usize = 3;
/// Longest wait for an order: a promotion gathers for five seconds at most, and following begins
/// within one.
const ORDER_WAIT_MAX: Duration = Duration::from_secs(20);

/// A replica, and the proxy through which it follows: control connections are cut there.
pub struct Follower {
    pub node: Node,
    pub proxy: Proxy,
    /// How often it had begun anew by the last time that everything was settled.
    anew: u64,
}

/// How a primary's reign ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Going {
    /// kill -9; an empty process takes its place among the replicas.
    Killed,
    /// It stands still while another is promoted, goes on as a primary that nobody follows, and is
    /// made a replica then.
    Stopped,
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
    fabrics: [&'static str; REPLICAS],
    arguments: Vec<String>,
}

impl Run {
    /// With `arguments` for every process, for each may be the primary one day.
    pub fn start(
        seed: u64,
        traffic: Traffic,
        readers: usize,
        fabrics: [&'static str; REPLICAS],
        arguments: &[&str],
    ) -> Run {
        let site = Arc::new(Site::new(REPLICAS));
        let mut run = Run {
            random: Rng::with_seed(seed),
            primary: Node::primary(arguments),
            followers: (0..REPLICAS).map(|_| None).collect(),
            reign: 0,
            heirs: Vec::new(),
            clients: Clients::start(&site, seed, traffic, WRITERS, readers),
            site,
            traffic,
            fabrics,
            arguments: arguments.iter().map(|word| word.to_string()).collect(),
        };
        (0..REPLICAS).for_each(|number| run.start_follower(number));
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
        self.await_writers();
        let followers: Vec<&Follower> = self.followers.iter().flatten().collect();
        in_sync(&self.primary, &followers.iter().map(|follower| &follower.node).collect::<Vec<_>>());
        for (number, follower) in self.followers.iter_mut().enumerate() {
            let Some(follower) = follower else { continue };
            let anew = times_begun_anew(&follower.node);
            if self.site.view(number).is_none_or(|view| view.place == Place::Between) {
                self.site.settled(number, follower.node.server.tcp[0], self.reign);
            } else {
                // Its reads are judged by the rule that it never goes back.
                assert_eq!(anew, follower.anew, "it has begun anew without a reason: {:?}", follower.node.rows());
            }
            follower.anew = anew;
        }
    }

    /// Wait until the writers, which were stopped, have recorded every answer.
    fn await_writers(&self) {
        assert!(self.site.wait_for(LONG, |site| site.busy.load(SeqCst) == 0), "writers do not end");
    }

    /// The primary goes, at some moment while writers write; the replica `heir` is promoted, after
    /// it has gathered from the other if it should; the other follows it. Returns what came of the
    /// old primary. No writer is let in yet.
    pub fn promote(&mut self, heir: usize, gathers: bool, going: Going) -> Node {
        let other = 1 - heir;
        self.primary.server.signal(if going == Going::Killed { "KILL" } else { "STOP" });
        self.site.set_seat(None);
        if going == Going::Killed {
            self.await_writers();
        }
        self.heirs.push(match self.site.view(heir) {
            Some(View { place: Place::Replica(number), .. }) => Some(number),
            _ => None,
        });
        // Reads of the heir from now on belong to neither reign.
        self.site.set_view(heir, None);
        let heirs = self.followers[heir].take().expect("it lives");
        let others = self.followers[other].take().expect("it lives");
        let gather = if gathers { format!(" {}", others.node.port()) } else { String::new() };
        order(&heirs.node, &format!("promote{gather}"));
        self.reign += 1;
        let old = std::mem::replace(&mut self.primary, heirs.node);
        self.follow_anew(other, others.node);
        old
    }

    /// In the heir's place there is what came of the old primary: itself, or a new process.
    pub fn come_back(&mut self, number: usize, old: Node, going: Going) {
        match going {
            Going::Killed => {
                kill(old);
                self.start_follower(number);
            }
            Going::Stopped => {
                old.server.signal("CONT");
                self.pass(0..300);
                self.follow_anew(number, old);
            }
        }
    }

    /// The whole of it, with writers that go on at the new primary as soon as it is one.
    pub fn succeed(&mut self, heir: usize, gathers: bool, going: Going) {
        let old = self.promote(heir, gathers, going);
        self.open();
        self.come_back(heir, old, going);
    }

    /// A process that still runs follows the new primary.
    fn follow_anew(&mut self, number: usize, node: Node) {
        let proxy = Proxy::to(self.primary.port());
        self.site.unsettled(number, node.server.tcp[0], self.reign);
        order(&node, &format!("replicate {}", proxy.address));
        self.followers[number] = Some(Follower { node, proxy, anew: 0 });
    }

    /// Until so many writes more have been acknowledged, and then until some moment.
    pub fn write_acknowledged(&mut self, count: u64, milliseconds: std::ops::Range<u64>) {
        let until = self.site.acknowledged.load(SeqCst) + count;
        let written = self.site.wait_for(LONG, |site| site.acknowledged.load(SeqCst) >= until);
        assert!(written, "nothing is acknowledged: {:?}", self.primary.rows());
        self.pass(milliseconds);
    }

    /// Until so much has been recorded in all: a run is as long as there is to judge, however slow
    /// the machine.
    pub fn go_on_until(&self, operations: u64, replica_reads: u64) {
        let recorded = |site: &Site| (site.operations.load(SeqCst), site.replica_reads.load(SeqCst));
        let done = self.site.wait_for(LONG, |site| {
            let (done, read) = recorded(site);
            done >= operations && read >= replica_reads
        });
        assert!(done, "clients are stuck: {:?} of {:?}", recorded(&self.site), (operations, replica_reads));
    }

    pub fn start_follower(&mut self, number: usize) {
        let proxy = Proxy::to(self.primary.port());
        let mut words: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        words.extend(["--fabric", self.fabrics[number], "--pullers", PULLERS[number]]);
        let node = Node::standby(proxy.address, &words);
        self.site.unsettled(number, node.server.tcp[0], self.reign);
        self.followers[number] = Some(Follower { node, proxy, anew: 0 });
    }

    /// Wait until the clients have done something.
    pub fn pass(&mut self, milliseconds: std::ops::Range<u64>) {
        std::thread::sleep(Duration::from_millis(self.random.u64(milliseconds)));
    }

    /// Stop and go on: longer than the silence that counts as gone, now and then.
    pub fn stop_for_a_while(&mut self, node: impl Fn(&Run) -> &Node) {
        node(self).server.signal("STOP");
        if self.random.u8(0..4) == 0 {
            self.pass(3100..3700);
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

    /// Every process has the same, and nothing was evicted: then every miss can be judged.
    pub fn compare(&mut self) {
        self.settle();
        let nodes: Vec<&Node> = self.followers.iter().flatten().map(|follower| &follower.node).collect();
        let keys: Vec<String> = self.traffic.keys().map(|key| format!("key-{key}")).collect();
        assert!(same_items(&self.primary, &nodes, &keys) > 0);
        assert_eq!(self.primary.server.stat("evictions").as_deref(), Some("0"));
    }

    /// The end: the whole history is judged.
    pub fn judge(mut self) -> Result<Judged, Vec<String>> {
        self.compare();
        self.heirs.push(None);
        let (site, heirs) = (self.site.clone(), std::mem::take(&mut self.heirs));
        self.end();
        judge(&site.reigns(&heirs))
    }

    pub fn end(self) {
        self.clients.stop();
    }
}

/// Give an order, and wait until it is carried out. A server that has just stopped for another one
/// follows that by itself, in a moment; an order that comes before, or in between, is given again.
pub fn order(node: &Node, order: &str) {
    let until = Instant::now() + ORDER_WAIT_MAX;
    let give = || assert_eq!(node.order(order), "OK", "{order}");
    give();
    loop {
        let rows = node.rows();
        let outcome = rows["order"].split_once(' ').map_or("", |(_, outcome)| outcome);
        let comes_too_early = "wait for what becomes of its term";
        match outcome {
            "done" => return,
            "running" if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            failed if Instant::now() < until && failed.contains(comes_too_early) => give(),
            _ => panic!("{order}: {rows:?}"),
        }
    }
}

fn times_begun_anew(node: &Node) -> u64 {
    ["shards_joined", "shards_overrun", "shards_diverged"].map(|name| node.number(name)).iter().sum()
}

/// kill -9, and wait until it is gone.
pub fn kill(mut node: Node) {
    node.server.signal("KILL");
    node.server.wait();
}
