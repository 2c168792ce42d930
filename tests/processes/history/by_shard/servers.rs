//! Three servers, each the primary of some shards and a replica of the others in the rest; what can
//! be done to them; and what was recorded meanwhile, by shard and reign.

use super::super::clients::Traffic;
use super::super::run::{kill, order};
use super::SHARDS;
use super::clients::Field;
use super::record::Record;
use super::tenures::Tenures;
use crate::node::{LONG, Node, in_sync, same_items, wait_for_row, wait_until};
use fastrand::Rng;
use remora::base::shards::ShardSet;
use std::ops::Range;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::time::Duration;

const SERVERS: usize = 3;
const WRITERS: usize = 4;
/// A shard has two replicas, and each server pulls by so many threads from each of the others.
const PULLERS: [&str; SERVERS] = ["1", "2", "1"];
/// Written before the first hand-over: nobody is promoted with nothing.
const FIRST_WRITES: u64 = 200;

/// See the module.
pub struct Servers {
    pub random: Rng,
    pub field: Arc<Field>,
    nodes: Vec<Option<Node>>,
    /// The number of the process that each server is.
    processes: Vec<usize>,
    begun: usize,
    /// The server that is each shard's primary.
    owners: [usize; SHARDS],
    tenures: Tenures,
    arguments: Vec<String>,
    fabrics: [&'static str; SERVERS],
    traffic: Traffic,
    writers: Vec<JoinHandle<()>>,
    pub record: Record,
    pub hand_overs: u64,
}

impl Servers {
    pub fn start(seed: u64, traffic: Traffic, fabrics: [&'static str; SERVERS], arguments: &[&str]) -> Servers {
        let field = Arc::new(Field::new(WRITERS));
        let mut servers = Servers {
            random: Rng::with_seed(seed),
            nodes: (0..SERVERS).map(|_| None).collect(),
            processes: vec![0; SERVERS],
            begun: 0,
            owners: [0; SHARDS],
            tenures: Tenures::new(SHARDS),
            arguments: arguments.iter().map(|word| word.to_string()).collect(),
            fabrics,
            traffic,
            writers: field.start_writers(seed, traffic),
            record: Record::new(),
            hand_overs: 0,
            field,
        };
        let first = Node::primary(&servers.words(0));
        servers.ordered(0, &ShardSet::all(SHARDS));
        servers.begin(0, first);
        servers.carried_out(0, &ShardSet::all(SHARDS));
        (1..SERVERS).for_each(|server| servers.start_replica(server, 0));
        in_sync(servers.node(0), &[servers.node(1), servers.node(2)]);
        servers.field.open(true);
        servers.write(FIRST_WRITES);
        for heir in 1..SERVERS {
            let third = (0..SHARDS).filter(|shard| shard % SERVERS == heir).collect();
            servers.hand_over(0, heir, third);
        }
        servers
    }

    fn words(&self, server: usize) -> Vec<&str> {
        let arguments = self.arguments.iter().map(String::as_str);
        arguments.chain(["--fabric", self.fabrics[server], "--pullers", PULLERS[server]]).collect()
    }

    pub fn node(&self, server: usize) -> &Node {
        self.nodes[server].as_ref().expect("it lives")
    }

    /// An empty process, which follows a server in all shards.
    fn start_replica(&mut self, server: usize, follows: usize) {
        let node = Node::standby(self.node(follows).port(), &self.words(server));
        self.begin(server, node);
    }

    fn begin(&mut self, server: usize, node: Node) {
        self.processes[server] = self.begun;
        self.begun += 1;
        let (process, address) = (self.processes[server], node.server.tcp[0]);
        self.field.change_servers(|servers| _ = servers.insert(process, address));
        self.nodes[server] = Some(node);
    }

    /// The shards that a server is the primary of.
    pub fn own(&self, server: usize) -> ShardSet {
        (0..SHARDS).filter(|shard| self.owners[*shard] == server).collect()
    }

    /// Some of them: one at least, and not all if there are several.
    fn some_of(&mut self, shards: ShardSet) -> ShardSet {
        let mut shards: Vec<usize> = shards.iter().collect();
        self.random.shuffle(&mut shards);
        let count = self.random.usize(1..=shards.len().div_ceil(2));
        shards.into_iter().take(count).collect()
    }

    fn ordered(&mut self, heir: usize, shards: &ShardSet) {
        let now = self.field.site.now();
        shards.iter().for_each(|shard| self.tenures.ordered(shard, self.processes[heir], now));
    }

    fn carried_out(&mut self, heir: usize, shards: &ShardSet) {
        let now = self.field.site.now();
        for shard in shards.iter() {
            self.tenures.carried_out(shard, now);
            self.owners[shard] = heir;
        }
    }

    /// Another server takes shards over while clients write. The third one follows it, because it
    /// is gathered from as well, or by an order of its own. One of them may stand still for a
    /// moment.
    pub fn hand_over(&mut self, from: usize, heir: usize, shards: ShardSet) {
        let third = SERVERS - from - heir;
        let gathers = self.random.bool();
        let gather = if gathers { format!(" {}", self.node(third).port()) } else { String::new() };
        let stops = (self.random.u8(0..3) == 0).then(|| (self.random.usize(0..SERVERS), self.random.u64(1..200)));
        self.ordered(heir, &shards);
        std::thread::scope(|scope| {
            if let Some((server, milliseconds)) = stops {
                let pid = self.node(server).server.pid();
                scope.spawn(move || stop_for(pid, milliseconds));
            }
            self.take_over(heir, &format!("promote shards={shards} takeover{gather}"));
        });
        self.carried_out(heir, &shards);
        if !gathers {
            order(self.node(third), &format!("replicate shards={shards} {}", self.node(heir).port()));
        }
        self.hand_overs += 1;
    }

    /// An heir, or who is gathered from, may be behind by a term that has just begun: then the
    /// order fails, and all is as before. It is given again.
    fn take_over(&self, heir: usize, words: &str) {
        let node = self.node(heir);
        wait_until("it takes over", || {
            assert_eq!(node.order(words), "OK", "{words}");
            let outcome = wait_for_row(node, "order", |row| !row.ends_with("running"));
            match outcome.as_str() {
                "promote done" => Ok(()),
                failed if failed.contains(" is of term ") => Err(outcome),
                _ => panic!("{words}: {:?}", node.rows()),
            }
        });
    }

    /// From one server to another, by chance.
    pub fn hand_over_some(&mut self) {
        let from = self.random.usize(0..SERVERS);
        let heir = (from + self.random.usize(1..SERVERS)) % SERVERS;
        if !self.own(from).is_empty() {
            let shards = self.some_of(self.own(from));
            self.hand_over(from, heir, shards);
        }
    }

    /// Another one becomes the primary, and the one before is not told: this is not how it is done.
    pub fn usurp(&mut self, heir: usize, shards: ShardSet) {
        let now = self.field.site.now();
        order(self.node(heir), &format!("promote shards={shards}"));
        // Both of them are believed to be what they say.
        shards.iter().for_each(|shard| self.tenures.ordered(shard, self.processes[heir], now));
        let done = u64::MAX;
        shards.iter().for_each(|shard| self.tenures.carried_out(shard, done));
    }

    /// kill -9 while clients write. Half of its shards goes to each of the others, which gather
    /// from each other. Returns the shards.
    pub fn kill(&mut self, victim: usize) -> Vec<usize> {
        // No batch reaches from one reign into the next, so each is known to be of one.
        self.field.pass_batches();
        self.pass(0..100);
        let process = self.processes[victim];
        self.field.change_servers(|servers| _ = servers.remove(&process));
        let before = self.field.site.now();
        kill(self.nodes[victim].take().expect("it lives"));
        let mut lost = self.tenures.died(process, before, self.field.site.now());
        let shards = lost.clone();
        self.random.shuffle(&mut lost);
        let (one, other) = ((victim + 1) % SERVERS, (victim + 2) % SERVERS);
        let (ones, others) = lost.split_at(lost.len() / 2);
        for (heir, other, shards) in [(one, other, ones), (other, one, others)] {
            let shards: ShardSet = shards.iter().copied().collect();
            if shards.is_empty() {
                continue;
            }
            self.ordered(heir, &shards);
            order(self.node(heir), &format!("promote shards={shards} {}", self.node(other).port()));
            self.carried_out(heir, &shards);
        }
        self.field.pass_batches();
        shards
    }

    /// In its place there is an empty process, which follows both others.
    pub fn come_back(&mut self, victim: usize) {
        let (one, other) = ((victim + 1) % SERVERS, (victim + 2) % SERVERS);
        self.start_replica(victim, one);
        let (shards, port) = (self.own(other), self.node(other).port());
        if !shards.is_empty() {
            order(self.node(victim), &format!("replicate shards={shards} {port}"));
        }
    }

    /// While nobody writes: whether each server is followed by both others in its shards, in no
    /// others, and whether they hold all of it.
    fn meshed(&self) -> Result<(), String> {
        for server in 0..SERVERS {
            let (own, rows) = (self.own(server), self.node(server).rows());
            let expected = if own.is_empty() { 0 } else { SERVERS - 1 };
            let row = |number: usize, name: &str| rows[&format!("replica_{number}_{name}")].as_str();
            let is_right = |number: usize| {
                row(number, "state") == "following"
                    && row(number, "shards") == own.to_string()
                    && row(number, "lag_bytes") == "0"
            };
            let follows = own.count() == SHARDS || rows["state"] == "following" && rows["lag_bytes"] == "0";
            let is_primary = rows["shards_primary"] == own.to_string();
            if rows["replicas"] != expected.to_string() || !(0..expected).all(is_right) || !follows || !is_primary {
                return Err(format!("server {server}, primary of {own}: {rows:?}"));
            }
        }
        Ok(())
    }

    /// Clients stop, and all servers hold the same; then clients go on. Nothing depends on one
    /// server alone then, and each knows the latest terms.
    pub fn settle(&self) {
        self.field.open(false);
        self.field.pass_batches();
        wait_until("each server's replicas hold all", || self.meshed());
        self.field.open(true);
    }

    /// Until so many writes more have been done, acknowledged where they ask for it.
    pub fn write(&self, count: u64) {
        let done = |field: &Field| match self.traffic.acks {
            super::Acks::None => field.site.operations.load(SeqCst),
            _ => field.site.acknowledged.load(SeqCst),
        };
        let until = done(&self.field) + count;
        let written = self.field.site.wait_for(LONG, |_| done(&self.field) >= until);
        assert!(
            written,
            "nothing is acknowledged: {:?}",
            self.nodes.iter().flatten().map(Node::rows).collect::<Vec<_>>()
        );
    }

    pub fn pass(&mut self, milliseconds: Range<u64>) {
        std::thread::sleep(Duration::from_millis(self.random.u64(milliseconds)));
    }

    pub fn stop_one(&mut self) {
        let (server, milliseconds) = (self.random.usize(0..SERVERS), self.random.u64(20..300));
        stop_for(self.node(server).server.pid(), milliseconds);
    }

    /// All servers show the same, and nothing was evicted: then every miss can be judged.
    pub fn compare(&self) {
        self.settle();
        self.field.open(false);
        self.field.pass_batches();
        let keys: Vec<String> = self.traffic.keys().map(|key| format!("key-{key}")).collect();
        assert!(same_items(self.node(0), &[self.node(1), self.node(2)], &keys) > 0);
        (0..SERVERS).for_each(|server| {
            assert_eq!(self.node(server).server.stat("evictions").as_deref(), Some("0"));
        });
    }

    pub fn end(&mut self) {
        self.field.site.stopping.store(true, SeqCst);
        let ended: Vec<_> = self.writers.drain(..).map(JoinHandle::join).collect();
        assert!(ended.iter().all(Result::is_ok), "a client has failed, see above");
    }

    /// Sort what was recorded.
    pub fn sort(&mut self) {
        self.record.sort(self.field.site.take(), &self.tenures);
    }

    /// Judge a shard's reign that is over, or the last one.
    pub fn judge(&mut self, shard: usize, is_over: bool) {
        let reign = self.tenures.reign(shard) - usize::from(is_over);
        self.record.judge(shard, reign);
    }
}

/// Have a process stand still for so long.
pub fn stop_for(pid: u32, milliseconds: u64) {
    signal(pid, "STOP");
    std::thread::sleep(Duration::from_millis(milliseconds));
    signal(pid, "CONT");
}

/// Have a process take a signal.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.expect("kill(1) runs").success(), "pid {pid} takes SIG{name}");
}
