//! The servers as processes, the leader's orders given to them, and what was seen of it.

use super::super::super::clients::Traffic;
use super::super::super::connection::Acks;
use super::super::super::run::kill;
use super::super::SHARDS;
use super::super::clients::Field;
use super::super::leader::{Action, Leader, Order, Sight, without_primary};
use super::super::record::Record;
use super::super::seen::Seen;
use super::super::servers::signal;
use super::faults::{Counts, Parties};
use super::view::{Rows, ask, began, view_of};
use crate::node::{LONG, Node, fixed_port, same_items};
use crate::proxy::Proxy;
use crate::support::{Client, Server};
use fastrand::Rng;
use remora::base::shards::ShardSet;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const WRITERS: usize = 4;
/// Written before the first fault.
const FIRST_WRITES: u64 = 200;
/// A shard is without a primary for no longer, whatever happens. A server waits up to 20 s for the
/// last word of an heir, and an heir up to 10 s for one that is to stop.
const WITHOUT_PRIMARY_MAX: Duration = LONG;
/// Longest wait for anything else, which may have to wait for that first.
const GO_ON_MAX: Duration = Duration::from_secs(2 * LONG.as_secs());
/// From one look at all servers to the next, where most of them do not answer.
const LOOK_MAX: Duration = Duration::from_secs(3);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// What a run is made of.
pub struct Setting {
    pub servers: usize,
    pub traffic: Traffic,
    /// So many servers may be lost at a time.
    pub lost_max: usize,
    pub arguments: Vec<String>,
    /// There is time for faults that last.
    pub is_long: bool,
    /// All follow over TCP: nothing can be read of a dead one's memory.
    pub is_apart: bool,
}

/// One server, as it was last seen.
struct Member {
    node: Option<Node>,
    /// The number of the process, of all that there were.
    process: usize,
    clients_port: u16,
    replication: SocketAddr,
    rows: Rows,
    returns_at: Option<Instant>,
    /// It was killed, and has not got everything since.
    is_lost: bool,
}

/// See the module.
pub struct Cluster {
    pub random: Rng,
    pub counts: Counts,
    pub leader: Leader,
    pub proxies: Vec<Proxy>,
    pub record: Record,
    /// Connections that stall, and when they are cut.
    pub cuts_due: Vec<(Instant, usize)>,
    /// Processes that stand still, and when they go on.
    pub goes_on_at: Vec<(Instant, u32)>,
    setting: Setting,
    field: Arc<Field>,
    members: Vec<Member>,
    processes: usize,
    seen: Seen,
    /// The number of the last term that a leader has reserved. Leaders pass it on.
    reserved: u32,
    judged: [usize; SHARDS],
    /// Outcomes of orders that were noted.
    noted: HashSet<String>,
    /// For how long each shard has had no primary that was seen.
    missed: [Duration; SHARDS],
    looked_at: Instant,
    has_faults: bool,
    begun: Instant,
    writers: Vec<JoinHandle<()>>,
}

fn all() -> ShardSet {
    ShardSet::all(SHARDS)
}

impl Cluster {
    pub fn start(seed: u64, setting: Setting) -> Cluster {
        let field = Arc::new(Field::new(WRITERS));
        let member = |_| Member {
            node: None,
            process: 0,
            clients_port: fixed_port(),
            replication: SocketAddr::from(([127, 0, 0, 1], fixed_port())),
            rows: Rows::new(),
            returns_at: None,
            is_lost: false,
        };
        let members: Vec<Member> = (0..setting.servers).map(member).collect();
        let mut cluster = Cluster {
            random: Rng::with_seed(seed),
            reserved: 1,
            counts: Counts::default(),
            leader: Leader::new(seed),
            proxies: members.iter().map(|member| Proxy::to(member.replication)).collect(),
            record: Record::new(),
            cuts_due: Vec::new(),
            goes_on_at: Vec::new(),
            writers: field.start_writers(seed, setting.traffic),
            field,
            members,
            processes: 0,
            seen: Seen::new(),
            judged: [0; SHARDS],
            noted: HashSet::new(),
            missed: [Duration::ZERO; SHARDS],
            looked_at: Instant::now(),
            has_faults: false,
            begun: Instant::now(),
            setting,
        };
        cluster.begin(0, None);
        (1..cluster.size()).for_each(|server| cluster.begin(server, Some(0)));
        cluster.settle();
        // Faults begin with the rounds.
        cluster.has_faults = false;
        cluster.write(FIRST_WRITES);
        // Each server has its part of the shards.
        for heir in 1..cluster.size() {
            let count = cluster.size();
            cluster.leader.wish(heir, (0..SHARDS).filter(|shard| shard % count == heir).collect());
            cluster.go_on("it has its part", |cluster| !cluster.leader.has_wish());
        }
        cluster.has_faults = true;
        cluster
    }

    pub fn size(&self) -> usize {
        self.setting.servers
    }

    pub fn is_long(&self) -> bool {
        self.setting.is_long
    }

    pub fn pid(&self, server: usize) -> Option<u32> {
        self.members[server].node.as_ref().map(|node| node.server.pid())
    }

    /// Where clients find it, while it lives.
    pub fn address(&self, server: usize) -> Option<SocketAddr> {
        self.members[server].node.as_ref().map(|node| node.server.tcp[0])
    }

    pub fn node(&self, server: usize) -> &Node {
        self.members[server].node.as_ref().expect("it lives")
    }

    /// An empty process under the server's ports.
    fn begin(&mut self, server: usize, follows: Option<usize>) {
        let (process, before) = (self.processes, self.field.site.now());
        self.processes += 1;
        let upstream = follows.map(|follows| self.way_to(follows).to_string());
        let member = &self.members[server];
        let (clients, replication) = (format!("127.0.0.1:{}", member.clients_port), member.replication.to_string());
        let mut words = vec!["-l", &clients, "--replication", &replication, "-t", "1"];
        words.extend(upstream.iter().flat_map(|upstream| ["--replica-of", upstream.as_str()]));
        words.extend(self.setting.arguments.iter().map(String::as_str));
        let fabrics = if self.setting.is_apart || server == 1 { "tcp" } else { "shm,tcp" };
        words.extend(["--fabric", fabrics, "--pullers", if server == 2 { "2" } else { "1" }]);
        let node = Node::of(Server::start_listening(&words, 1), "remora: replication on tcp ");
        self.seen.begins(process, before);
        if follows.is_none() {
            self.seen.ordered(process, all());
        }
        let address = node.server.tcp[0];
        self.field.change_servers(|servers| _ = servers.insert(process, address));
        let member = &mut self.members[server];
        (member.process, member.node, member.returns_at) = (process, Some(node), None);
    }

    /// kill -9. It comes back as an empty process, often at once. False where too many are lost
    /// already.
    pub fn kill(&mut self, server: usize) -> bool {
        let lost = self.members.iter().filter(|member| member.is_lost).count();
        if lost >= self.setting.lost_max || self.members[server].is_lost {
            return false;
        }
        let process = self.members[server].process;
        self.field.change_servers(|servers| _ = servers.remove(&process));
        let before = self.field.site.now();
        let pid = self.pid(server);
        kill(self.members[server].node.take().expect("it lives"));
        self.seen.died(process, before, self.field.site.now());
        self.goes_on_at.retain(|(_, stopped)| Some(*stopped) != pid);
        let away = if self.random.bool() { self.random.u64(0..100) } else { self.random.u64(100..800) };
        let member = &mut self.members[server];
        (member.is_lost, member.returns_at) = (true, Some(Instant::now() + Duration::from_millis(away)));
        self.counts.kills += 1;
        true
    }

    /// Whether nobody more can be killed for now.
    pub fn is_spent(&self) -> bool {
        self.members.iter().filter(|member| member.is_lost).count() >= self.setting.lost_max
    }

    /// What is due by time.
    fn tick(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.goes_on_at).into_iter().partition(|(at, _)| *at <= now);
        self.goes_on_at = later;
        Vec::into_iter(due).for_each(|(_, pid)| signal(pid, "CONT"));
        let (due, later) = std::mem::take(&mut self.cuts_due).into_iter().partition(|(at, _)| *at <= now);
        self.cuts_due = later;
        Vec::into_iter(due).for_each(|(_, server): (_, usize)| self.proxies[server].calm());
        for server in 0..self.size() {
            if self.members[server].returns_at.is_some_and(|at| at <= now) {
                self.come_back(server);
            }
        }
    }

    /// It follows whoever has lost nothing, if one of those goes on, and answers.
    fn come_back(&mut self, server: usize) {
        let stands_still = |one: usize| self.goes_on_at.iter().any(|(_, pid)| Some(*pid) == self.pid(one));
        let answers = |one: &usize| {
            !self.members[*one].is_lost && !stands_still(*one) && self.address(*one).and_then(ask).is_some()
        };
        let upstreams: Vec<usize> = (0..self.size()).filter(answers).collect();
        if !upstreams.is_empty() {
            let upstream = upstreams[self.random.usize(0..upstreams.len())];
            self.begin(server, Some(upstream));
        }
    }

    /// Ask all servers, and note what they say.
    fn look(&mut self) -> Vec<Sight> {
        let sights: Vec<Sight> = (0..self.size()).map(|server| self.look_at(server)).collect();
        let without = without_primary(all(), &sights);
        // A host that stands still makes nobody late.
        let passed = self.looked_at.elapsed().min(LOOK_MAX);
        self.looked_at = Instant::now();
        for shard in 0..SHARDS {
            let missed = if without.has(shard) { self.missed[shard] + passed } else { Duration::ZERO };
            self.missed[shard] = missed;
            self.counts.without_primary = self.counts.without_primary.max(missed);
            assert!(missed < WITHOUT_PRIMARY_MAX, "shard {shard} has no primary: {:#?}", self.all_rows());
        }
        sights
    }

    fn look_at(&mut self, server: usize) -> Sight {
        let Some(address) = self.address(server) else { return Sight::Gone };
        let asked = self.field.site.now();
        let Some(rows) = ask(address) else { return Sight::Silent };
        let answered = self.field.site.now();
        let at = |text: &str| {
            let is_it = |server: &usize| {
                let address = text.parse().ok();
                address == Some(self.members[*server].replication) || address == Some(self.proxies[*server].address)
            };
            (0..self.size()).find(is_it)
        };
        let view = view_of(&rows, at);
        self.seen.look(self.members[server].process, asked, answered, view.own, view.order == Order::Running);
        let outcome = format!("{server} {} {}", rows["order_outcome"], rows.get("order_us").map_or("", String::as_str));
        if view.order != Order::Running && self.noted.insert(outcome) {
            self.counts.failed += u64::from(view.order == Order::Failed);
            if let Some((term, shards)) = began(&rows, all()) {
                self.seen.began(term, shards);
            }
        }
        self.members[server].rows = rows;
        let complaints = &self.seen.complaints;
        assert!(complaints.is_empty(), "{}: {:#?}", complaints.join("\n"), self.all_rows());
        Sight::Seen(view)
    }

    fn all_rows(&self) -> Vec<(usize, bool, &Rows)> {
        self.members.iter().enumerate().map(|(server, one)| (server, one.node.is_some(), &one.rows)).collect()
    }

    /// One step of the leader.
    fn step(&mut self) -> Action {
        self.tick();
        let sights = self.look();
        let action = self.leader.step(self.begun.elapsed(), all(), &sights);
        match &action {
            Action::Promote { heir, shards, gathers, takes_over } => {
                let primary = sights.iter().position(|sight| match sight {
                    Sight::Seen(view) => *takes_over && !view.own.within(*shards).is_empty(),
                    _ => false,
                });
                self.promote(Parties { heir: *heir, primary, gathers: gathers.clone(), shards: *shards });
            }
            Action::Replicate { server, primary, shards } => {
                let words = format!("replicate shards={shards} {}", self.way_to(*primary));
                self.give(*server, &words);
            }
            Action::Wait | Action::Rest => std::thread::sleep(PAUSE),
        }
        self.pass(&action);
        action
    }

    /// Between two steps the leader may pause, or be replaced; more often behind an order.
    fn pass(&mut self, action: &Action) {
        let chances = if matches!(action, Action::Promote { .. } | Action::Replicate { .. }) { 5 } else { 200 };
        if !self.has_faults || self.random.u16(0..chances) > 0 {
            return;
        }
        if self.random.bool() {
            std::thread::sleep(Duration::from_millis(self.random.u64(0..100)));
        } else {
            self.leader = Leader::new(self.random.u64(..));
            self.counts.leaders += 1;
        }
    }

    /// A server's replication port, or the proxy in front of it, which may cut what heirs ask.
    fn way_to(&mut self, server: usize) -> SocketAddr {
        if self.random.bool() && self.proxies[server].expected() == 0 {
            self.proxies[server].address
        } else {
            self.members[server].replication
        }
    }

    fn promote(&mut self, parties: Parties) {
        let Parties { heir, primary, gathers, shards } = &parties;
        if self.seen.ends_a_reign(*shards) {
            // What was asked of a server in the reign before is answered before the next begins.
            self.go_on_all();
            self.field.pass_batches();
            if !matches!(self.look().get(*heir), Some(Sight::Seen(_))) {
                return;
            }
        }
        let mut words = format!("promote shards={shards}");
        if self.random.bool() {
            words += &format!(" term={}", self.reserve());
        }
        if primary.is_some() {
            words += " takeover";
        }
        for peer in gathers {
            let proxy = self.proxies[*peer].address;
            words += &format!(" {proxy}");
        }
        if self.has_faults {
            self.prepare_cuts(&parties);
        }
        self.seen.ordered(self.members[*heir].process, *shards);
        self.give(*heir, &words);
        match primary {
            Some(_) => self.counts.hand_overs += 1,
            None => self.counts.promotions += 1,
        }
        if self.has_faults {
            self.fault_within(&parties);
        }
    }

    /// A number for a term that is above all that any server shows. Some may have promised a later
    /// one: then the order fails, and the next one is of a later term.
    fn reserve(&mut self) -> u32 {
        let number = |rows: &Rows| rows.get("term")?.split('-').next()?.parse().ok();
        let shown = self.members.iter().filter_map(|member| number(&member.rows)).max().unwrap_or(1);
        self.reserved = self.reserved.max(shown) + 1;
        self.reserved
    }

    /// Nobody stands still.
    fn go_on_all(&mut self) {
        std::mem::take(&mut self.goes_on_at).into_iter().for_each(|(_, pid)| signal(pid, "CONT"));
    }

    fn give(&mut self, server: usize, words: &str) {
        // A leader before this one may have been faster: then it is busy.
        let taken = Client::control(self.node(server).server.tcp[0]).ask(&format!("replication {words}"));
        assert!(taken == "OK" || taken.contains("busy"), "{words}: {taken}");
    }

    /// The leader goes on until it is so.
    fn go_on(&mut self, what: &str, mut is_so: impl FnMut(&mut Cluster) -> bool) {
        let until = Instant::now() + GO_ON_MAX;
        while !is_so(self) {
            self.step();
            assert!(Instant::now() < until, "{what}: not within {GO_ON_MAX:?}: {:#?}", self.all_rows());
        }
    }

    /// Until so many writes more have been done, acknowledged where they ask for it.
    pub fn write(&mut self, count: u64) {
        let done = |cluster: &Cluster| match cluster.setting.traffic.acks {
            Acks::None => cluster.field.site.operations.load(SeqCst),
            _ => cluster.field.site.acknowledged.load(SeqCst),
        };
        let until = done(self) + count;
        self.go_on("clients write", |cluster| done(cluster) >= until);
    }

    /// Whether each server is followed by all others in its shards, in no others, and whether they
    /// hold all of it.
    fn is_meshed(&self) -> bool {
        self.members.iter().all(|member| {
            let rows = &member.rows;
            let own = &rows["shards_primary"];
            let expected = if own == "none" { 0 } else { self.size() - 1 };
            let row = |number: usize, name: &str| rows[&format!("replica_{number}_{name}")].as_str();
            let is_right = |number: usize| {
                let words = ["state", "lag_bytes", "counted"].map(|name| row(number, name));
                row(number, "shards") == own && words == ["following", "0", "yes"]
            };
            let follows = rows.get("state").is_none_or(|state| state == "following" && rows["lag_bytes"] == "0");
            member.node.is_some() && rows["replicas"] == expected.to_string() && (0..expected).all(is_right) && follows
        })
    }

    /// Faults end, clients stop, and all servers hold the same. Then all that is over is judged,
    /// and clients go on.
    pub fn settle(&mut self) {
        self.has_faults = false;
        self.go_on_all();
        self.proxies.iter().for_each(Proxy::calm);
        self.field.open(false);
        self.field.pass_batches();
        let mut rests = false;
        self.go_on("all servers hold all", |cluster| {
            let is_done = rests && cluster.is_meshed();
            rests = cluster.step() == Action::Rest;
            is_done
        });
        self.record.sort(self.field.site.take(), &self.seen.tenures);
        for shard in 0..SHARDS {
            while self.judged[shard] < self.seen.reigns[shard] {
                self.record.judge(shard, self.judged[shard]);
                self.judged[shard] += 1;
            }
        }
        self.members.iter_mut().for_each(|member| member.is_lost = false);
        self.has_faults = true;
        self.field.open(true);
    }

    /// All servers show the same, and nothing was evicted: then every miss can be judged.
    pub fn compare(&mut self) {
        self.settle();
        self.field.open(false);
        self.field.pass_batches();
        let keys: Vec<String> = self.setting.traffic.keys().map(|key| format!("key-{key}")).collect();
        let others: Vec<&Node> = (1..self.size()).map(|server| self.node(server)).collect();
        assert!(same_items(self.node(0), &others, &keys) > 0);
        for server in 0..self.size() {
            assert_eq!(self.node(server).server.stat("evictions").as_deref(), Some("0"));
        }
    }

    /// Clients end.
    pub fn end(&mut self) {
        self.field.site.stopping.store(true, SeqCst);
        let ended: Vec<_> = self.writers.drain(..).map(JoinHandle::join).collect();
        assert!(ended.iter().all(Result::is_ok), "a client has failed, see above");
        self.look();
        self.record.sort(self.field.site.take(), &self.seen.tenures);
    }

    /// Judge what is left of a shard.
    pub fn judge_all_of(&mut self, shard: usize) {
        (self.judged[shard]..=self.seen.reigns[shard]).for_each(|reign| self.record.judge(shard, reign));
    }

    pub fn complaints(&self) -> &[String] {
        &self.record.complaints
    }
}
