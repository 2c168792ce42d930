//! `remora demo` starts a primary and two replicas, loads the primary with real traffic, kills it
//! and promotes a replica. Then it shares the shards among three servers, hands some over under
//! load, and kills one. At last it shows a cluster, in which a locator decides all that: a server
//! is killed, one added, one drained (`--cluster` shows that alone, for longer). It prints what
//! happened, and ends by itself. Its status is 0 only if every answer was right, every replica held
//! what the primary held, no acknowledged write was lost, and no key's writes were taken by two
//! servers.
//!
//! The servers are child processes, so all traffic goes through real sockets. The demo needs no
//! root, no other package and no port that must be free.

mod cluster;
mod failover;
mod phases;
mod process;
mod replicas;
mod shards;

use crate::commands::output::say;
use crate::load::client::Connection;
use crate::load::ledger::Ledger;
use crate::load::report::TABLE_HEAD;
use crate::load::session::Session;
use crate::load::workload::{KeyChoice, Workload};
use crate::load::zipf::Zipf;
use anyhow::{Context, bail};
use phases::{Demo, KEYS_HOT};
use process::ServerProcess;
use replicas::Replica;
use std::net::SocketAddr;
use std::time::Duration;

/// Connections of the load. Each writes its own share of the keys.
const CONNECTIONS: u32 = 8;
/// Most threads of the load, and most workers of the server.
const THREADS_MAX: usize = 2;
/// The fill phase writes so many times what memory holds.
const FILL_FACTOR: u64 = 3;
/// Lengths of values.
const VALUE_BYTES: std::ops::RangeInclusive<u32> = 32..=2048;
/// Shards of the servers: some for each of three. A shard must have room for eight items of the
/// largest size, so that is less than usual.
const SHARDS: &str = "8";
const ITEM_BYTES_MAX: &str = "16k";
/// After a connection broke, how long to wait for the server's process to be seen dead.
const DEATH_MAX: Duration = Duration::from_millis(500);
/// Bytes of an item beside its value: its key and its record's header.
const ITEM_OVERHEAD_BYTES: u64 = 40;
/// Seconds of traffic of the cluster, besides the time that its changes take.
const CLUSTER_SECONDS: u64 = 4;
/// Zipf exponent of the keys' popularity: the one that YCSB uses.
const ZIPF_EXPONENT: f64 = 0.99;

/// Show the server at work, and check it.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Seconds of mixed traffic
    #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// The server's memory for items, in MiB
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(8..=4096))]
    pub memory: u64,
    /// Where random numbers begin; the same seed makes the same keys and values
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Show a cluster alone: a server is killed, one added, one drained, under load
    #[arg(long)]
    pub cluster: bool,
}

/// Run it all. An error says what was wrong, and in which phase.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.cluster {
        cluster::show(args, args.seconds, "demo: cluster: ")?;
        return Ok(say!("demo: all checks passed")?);
    }
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(THREADS_MAX);
    let workload = workload(args);
    let ledger = Ledger::new(workload.keys);
    let (memory, workers) = (args.memory.to_string(), threads.to_string());
    let arguments =
        ["-m", &memory, "-t", &workers, "--shards", SHARDS, "-I", ITEM_BYTES_MAX, "--replication", "127.0.0.1:0"];
    let mut server = ServerProcess::start("primary", &arguments)?;
    say!(
        "demo: primary pid {} at {}, {} MiB, {threads} worker(s); {CONNECTIONS} connections from {threads} thread(s)",
        server.pid(),
        server.address(),
        args.memory
    )?;
    let mut replicas = vec![follow("first", server.replication()?)?];
    let checked = check_all(args, threads, &workload, &ledger, &server, &mut replicas);
    let table = match checked {
        Ok(table) => table,
        // If the server died, its last words say more than the broken connection.
        Err(error) => return Err(server.fate(DEATH_MAX).into_iter().fold(error, anyhow::Error::context)),
    };
    if let Some(fate) = server.fate(Duration::ZERO) {
        bail!("phase 7, failover: before it was killed, {fate}");
    }
    failover::fail_over(&mut server, &mut replicas, workload.keys).context("phase 7, failover")?;
    let third = replicas[0].replication().and_then(|primary| follow("third", primary));
    replicas.push(third.context("phase 8, shards")?);
    shards::share(&mut replicas).context("phase 8, shards")?;
    replicas.into_iter().try_for_each(Replica::stop).context("phase 9, end")?;
    say!("9 end       SIGTERM to both: each ended with status 0")?;
    cluster::show(args, CLUSTER_SECONDS, "10 cluster  ").context("phase 10, cluster")?;
    say!("\n{TABLE_HEAD}\n{table}demo: all checks passed")?;
    Ok(())
}

fn workload(args: &Args) -> Workload {
    let mean_bytes = u64::from(VALUE_BYTES.start() + VALUE_BYTES.end()) / 2 + ITEM_OVERHEAD_BYTES;
    let keys = ((args.memory << 20) * FILL_FACTOR / mean_bytes).max(u64::from(KEYS_HOT));
    let keys = u32::try_from(keys).expect("--memory is bounded");
    let choice = KeyChoice::Zipf(Zipf::new(keys, ZIPF_EXPONENT));
    Workload { seed: args.seed, keys, choice, value_bytes: VALUE_BYTES.into(), gets_per_set: 9 }
}

/// Start a replica and print where it serves and over which fabric it follows.
fn follow(name: &'static str, primary: SocketAddr) -> anyhow::Result<Replica> {
    let mut replica = Replica::start(name, primary)?;
    let (pid, address, fabric) = (replica.pid(), replica.address(), replica.fabric()?);
    say!("demo: replica \"{name}\" pid {pid} at {address} follows over {fabric}")?;
    Ok(replica)
}

/// The phases that talk to the server; the rows of the summary.
fn check_all(
    args: &Args,
    threads: usize,
    workload: &Workload,
    ledger: &Ledger,
    server: &ServerProcess,
    replicas: &mut Vec<Replica>,
) -> anyhow::Result<String> {
    let open = || Connection::open(server.address(), phases::WAIT_MAX).context("while the demo began");
    let sessions = (0..CONNECTIONS)
        .map(|number| Ok(Session::new(open()?, workload, ledger, number, CONNECTIONS)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut demo = Demo { sessions, threads, stats: open()? };
    let fill = demo.fill().context("phase 1, fill")?;
    let replication = server.replication()?;
    let (mixed, second) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| demo.mixed(Duration::from_secs(args.seconds)).context("phase 2, mixed traffic"));
        // It joins while the traffic runs, which shows that joining stops nobody. It is started by
        // this thread, because a child process ends when the thread that started it ends.
        let second = follow("second", replication);
        (traffic.join().expect("the demo's own thread does not panic"), second)
    });
    let mixed = mixed?;
    replicas.push(second.context("phase 2, mixed traffic")?);
    demo.lease().context("phase 3, lease")?;
    demo.count().context("phase 4, count")?;
    let check = demo.check().context("phase 5, check")?;
    replicas::compare(server, replicas, workload.keys).context("phase 6, replicas")?;
    let rows = [("fill", fill), ("mixed", mixed), ("check", check)];
    Ok(rows.iter().map(|(name, tally)| tally.row(name) + "\n").collect())
}
