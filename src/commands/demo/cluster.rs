//! The cluster demo: a locator in this process, three servers, and clients that know a list of
//! servers and nothing else. Then one server is killed, one is added, one is drained, and what the
//! clients meet is drawn second by second. In the end every key is read back.

mod clients;
mod timeline;

use super::Args;
use super::process::ServerProcess;
use crate::cluster::client::{Question, ask};
use crate::cluster::decide::{Command, Status};
use crate::cluster::locator::{Locator, LocatorConfig, Stop};
use crate::cluster::map::Policy;
use crate::cluster::store;
use crate::commands::output::say;
use crate::load::report::grouped;
use crate::load::workload::{KeyChoice, Workload};
use crate::load::zipf::Zipf;
use crate::replication::secret::Secret;
use crate::sys::random::random;
use anyhow::{Context, ensure};
use clients::{CLIENTS, Client, Shared};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use timeline::{Counted, line};

/// Shards of the cluster.
const SHARDS: usize = 16;
/// The servers that the cluster is born with: the clients' list.
const FIRST: [&str; 3] = ["one", "two", "three"];
const KILLED: &str = "two";
const ADDED: &str = "four";
const DRAINED: &str = "one";
/// Values are short, and the keys few enough that no server evicts: a key that is missing is lost.
const VALUE_BYTES: std::ops::RangeInclusive<u32> = 32..=512;
const KEYS_PER_MIB: u32 = 256;
/// Two replicas, so that writes find one while a server is missing.
const REPLICAS: u8 = 2;
const LEASE_MILLISECONDS: u64 = 1000;
const HEAL_DELAY_MILLISECONDS: u64 = 1000;
/// How often it is looked how the cluster stands.
const LOOK: Duration = Duration::from_millis(100);
/// Longest wait for the cluster to come to anything.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Parts into which the traffic's time is cut: before each of three events, and after the last.
const PARTS: u32 = 4;

/// A folder that goes when this is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left there is small, and in a folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The cluster, and what an operator has at hand.
struct Cluster {
    // Servers end before the locator does.
    servers: BTreeMap<&'static str, ServerProcess>,
    memory: String,
    locator: Vec<String>,
    _locator: Locator,
    _folder: Folder,
}

/// Show a cluster for about so many seconds; `begin` is how the first line begins. An error says
/// what was wrong.
pub fn show(args: &Args, seconds: u64, begin: &str) -> anyhow::Result<()> {
    let mut cluster = Cluster::born(args, begin)?;
    let memory = u32::try_from(args.memory).expect("--memory is bounded");
    let keys = memory * KEYS_PER_MIB;
    let choice = KeyChoice::Zipf(Zipf::new(keys, super::ZIPF_EXPONENT));
    let workload = Workload { seed: args.seed, keys, choice, value_bytes: VALUE_BYTES.into(), gets_per_set: 9 };
    let list: Vec<SocketAddr> = FIRST.iter().map(|name| cluster.servers[name].address()).collect();
    let shared = Shared::new(&workload, list);
    let mut clients: Vec<Client<'_>> = (0..CLIENTS).map(|number| Client::new(&shared, number)).collect();
    for client in &mut clients {
        client.fill().context("while the keys were written for the first time")?;
    }
    say!(
        "            {CLIENTS} clients have one list, of \"{}\"; {} keys are written; now 9 reads for each write",
        FIRST.join("\", \""),
        grouped(keys.into())
    )?;
    let before = shared.counted();
    std::thread::scope(|scope| {
        for client in &mut clients {
            let thread = std::thread::Builder::new().name("demo-client".into());
            let started = thread.spawn_scoped(scope, move || client.run());
            if let Err(error) = started {
                shared.stopping.store(true, Relaxed);
                return Err(error).context("cannot start a thread");
            }
        }
        let watching = Watching::begin(&shared, before);
        let happened = happen(&mut cluster, watching, Duration::from_secs(seconds) / PARTS);
        shared.stopping.store(true, Relaxed);
        happened
    })?;
    let counted = shared.counted().since(&before);
    let reader = clients.first_mut().context("there are clients")?;
    let (acknowledged, lost) = reader.read_back().context("while the keys were read back")?;
    let wrong = shared.counted().wrong;
    say!(
        "            requests {}, errors {}, wrong {}, lost {}; a client had no answer for {} ms at most\n            \
         {} keys were acknowledged, and each is read back",
        grouped(counted.requests()),
        grouped(counted.errors),
        grouped(wrong),
        grouped(lost),
        shared.longest().as_millis(),
        grouped(acknowledged),
    )?;
    ensure!(counted.hits > 0 && counted.writes > 0, "no traffic: {counted:?}");
    ensure!(lost == 0, "{lost} of {acknowledged} keys do not have what was acknowledged");
    ensure!(wrong == 0, "{wrong} wrong answers, the first: {}", shared.first_wrong().unwrap_or_default());
    Ok(())
}

/// A kill, a server that is added, and one that is drained.
fn happen(cluster: &mut Cluster, mut watching: Watching<'_>, pause: Duration) -> anyhow::Result<()> {
    watching.pause(pause)?;
    cluster.servers.get_mut(KILLED).context("it runs")?.kill()?;
    watching.mark(format!("SIGKILL to \"{KILLED}\""));
    let is_gone = |status: &Status| status.servers.iter().any(|one| one.name == KILLED && !one.alive);
    watching.wait(cluster, "its shards have other primaries", |status| is_gone(status) && leads(status))?;
    watching.mark("its shards have other primaries".into());
    watching.wait(cluster, "they have other replicas", |status| is_gone(status) && is_settled(status))?;
    watching.pause(pause)?;
    cluster.start(ADDED)?;
    watching.mark(format!("\"{ADDED}\" is started"));
    watching.wait(cluster, "it has found the locator", |status| holds(status, ADDED).is_some())?;
    cluster.order(Command::Add { server: Some(ADDED.into()) })?;
    let has_part = |status: &Status| holds(status, ADDED).is_some_and(|shards| shards > 0);
    watching.wait(cluster, "it has its part", |status| has_part(status) && is_settled(status))?;
    watching.mark(format!("\"{ADDED}\" has its part"));
    watching.pause(pause)?;
    cluster.order(Command::Drain { server: DRAINED.into() })?;
    watching.mark(format!("\"{DRAINED}\" is drained"));
    let is_empty = |status: &Status| holds(status, DRAINED) == Some(0);
    watching.wait(cluster, "others have its shards", |status| is_empty(status) && is_settled(status))?;
    watching.mark(format!("\"{DRAINED}\" has no shard, and passes requests on"));
    watching.pause(pause)?;
    watching.end()
}

/// Each shard has a primary.
fn leads(status: &Status) -> bool {
    status.shards.without_primary == 0
}

/// Nothing is left to be moved.
fn is_settled(status: &Status) -> bool {
    status.shards.are_settled()
}

/// In how many shards a server has a part; None: it has not found the locator.
fn holds(status: &Status, name: &str) -> Option<usize> {
    status.servers.iter().find(|one| one.name == name && one.alive).map(|one| one.primary + one.replica)
}

impl Cluster {
    fn born(args: &Args, begin: &str) -> anyhow::Result<Cluster> {
        let number = u64::from_ne_bytes(random().context("the kernel gives no random bytes")?);
        let folder = Folder(std::env::temp_dir().join(format!("remora-demo-{}-{number:016x}", std::process::id())));
        let place = folder.0.to_str().context("the folder for temporary files has no name in UTF-8")?;
        let config = LocatorConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            secret: Secret::none(),
            name: "demo".into(),
            store: store::open(place)?,
        };
        let locator = Locator::start(config, Stop::default())?;
        let address = locator.address().to_string();
        let (servers, memory) = (BTreeMap::new(), args.memory.to_string());
        let mut cluster = Cluster { servers, memory, locator: vec![address], _locator: locator, _folder: folder };
        FIRST.iter().try_for_each(|name| cluster.start(name))?;
        let policy = Policy {
            replicas: REPLICAS,
            lease_ms: LEASE_MILLISECONDS,
            heal_delay_ms: HEAL_DELAY_MILLISECONDS,
            ..Policy::default()
        };
        cluster.ask(&Question::Init { shards: SHARDS, policy })?;
        cluster.wait("all servers have found the locator", |status| status.servers.len() == FIRST.len(), rest)?;
        cluster.order(Command::Add { server: None })?;
        cluster.wait("the cluster is born", is_settled, rest)?;
        let named = |name: &&str| format!("\"{name}\" pid {}", cluster.servers[*name].pid());
        let named: Vec<String> = FIRST.iter().map(named).collect();
        say!(
            "{begin}a locator at {}; {}; {SHARDS} shards, {REPLICAS} replicas each",
            cluster.locator[0],
            named.join(", ")
        )?;
        Ok(cluster)
    }

    fn start(&mut self, name: &'static str) -> anyhow::Result<()> {
        let shards = SHARDS.to_string();
        let place = ["--locators", &self.locator[0], "--replica-name", name, "--host", name];
        let usual = ["-t", "1", "-m", &self.memory, "--shards", &shards, "-I", super::ITEM_BYTES_MAX];
        let acknowledged = ["--replication", "127.0.0.1:0", "--ack-replicas", "1", "--ack-timeout", "2000"];
        self.servers.insert(name, ServerProcess::start(name, &[&usual[..], &acknowledged, &place].concat())?);
        Ok(())
    }

    fn ask(&self, question: &Question) -> anyhow::Result<String> {
        Ok(ask(&self.locator, &Secret::none(), question, Instant::now() + WAIT_MAX)?)
    }

    /// A locator that could not run for a while, as on a busy machine, has an operator ask again.
    fn order(&self, command: Command) -> anyhow::Result<()> {
        let question = Question::Change { command, dry_run: false };
        let until = Instant::now() + WAIT_MAX;
        loop {
            match self.ask(&question) {
                Err(error) if error.to_string().contains("ask again") && Instant::now() < until => rest()?,
                answer => return answer.map(drop),
            }
        }
    }

    fn status(&self) -> anyhow::Result<Status> {
        Ok(serde_json::from_str(&self.ask(&Question::Status)?)?)
    }

    /// Wait until it is so, and do this between two looks.
    fn wait(
        &self,
        what: &str,
        is_so: impl Fn(&Status) -> bool,
        mut look: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + WAIT_MAX;
        loop {
            let status = self.status()?;
            if is_so(&status) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "not within {WAIT_MAX:?}: {what}; {status:?}");
            look()?;
        }
    }
}

/// Nobody is shown anything yet.
fn rest() -> anyhow::Result<()> {
    std::thread::sleep(LOOK);
    Ok(())
}

/// Draws what clients meet while something happens.
struct Watching<'a> {
    shared: &'a Shared<'a>,
    begun_at: Instant,
    second: u64,
    before: Counted,
    marks: Vec<String>,
}

impl<'a> Watching<'a> {
    fn begin(shared: &'a Shared<'a>, before: Counted) -> Watching<'a> {
        Watching { shared, begun_at: Instant::now(), second: 0, before, marks: Vec::new() }
    }

    /// This happens now.
    fn mark(&mut self, what: String) {
        self.marks.push(what);
    }

    /// A line for each second that is over.
    fn look(&mut self) -> anyhow::Result<()> {
        if self.begun_at.elapsed().as_secs() > self.second {
            self.draw()?;
        }
        std::thread::sleep(LOOK);
        Ok(())
    }

    fn draw(&mut self) -> anyhow::Result<()> {
        let counted = self.shared.counted();
        say!("{}", line(self.second, &counted.since(&self.before), &self.marks))?;
        (self.before, self.second) = (counted, self.begun_at.elapsed().as_secs());
        self.marks.clear();
        Ok(())
    }

    fn pause(&mut self, pause: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            self.look()?;
        }
        Ok(())
    }

    fn wait(&mut self, cluster: &Cluster, what: &str, is_so: impl Fn(&Status) -> bool) -> anyhow::Result<()> {
        cluster.wait(what, is_so, || self.look())
    }

    /// The last line.
    fn end(mut self) -> anyhow::Result<()> {
        self.draw()
    }
}
