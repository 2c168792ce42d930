//! `remora load` makes traffic for any server that speaks memcached's protocols or Redis' RESP:
//! this file goes from the command line to the summary. The status is 1 if an answer was wrong,
//! could not be read, or did not come.

mod report;

use crate::base::limits::{LOAD_CONNECTIONS_MAX, LOAD_DEPTH_MAX, LOAD_THREADS_MAX, OTHER_FILES_MAX};
use crate::load::drive::{Outcome, Phase, drive};
use crate::load::ledger::Ledger;
use crate::load::lengths::Lengths;
use crate::load::plan::{Traffic, filler};
use crate::load::question::Protocol;
use crate::load::schedule::Spacing;
use crate::load::secure::Trust;
use crate::load::stream::Target;
use crate::load::summary;
use crate::load::workload::{HEADER_BYTES, KeyChoice, Workload};
use crate::load::zipf::Zipf;
use crate::server::address;
use crate::sys::allowance::Allowance;
use crate::sys::logging::{self, FLUSH_WAIT_MAX};
use crate::sys::{privilege, signals};
use anyhow::{Context, anyhow, ensure};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const MEMCACHED_PORT: u16 = 11211;
const REDIS_PORT: u16 = 6379;

/// Load servers, measure, and check what they answer.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// host, host:port (11211 by default, 6379 with RESP) or unix:PATH; several: keys are spread
    /// over them, connections dealt out in turn
    #[arg(short, long, value_name = "SERVER", default_value = "127.0.0.1")]
    pub server: Vec<String>,
    /// By TLS, to servers whose certificates these authorities have signed (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Connections, to all servers together
    #[arg(short, long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(LOAD_CONNECTIONS_MAX)))]
    pub connections: u32,
    /// Threads
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(LOAD_THREADS_MAX)))]
    pub threads: u32,
    /// Most commands under way on each connection; a closed loop sends at least half as many at
    /// once
    #[arg(short = 'P', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(LOAD_DEPTH_MAX)))]
    pub pipeline: u32,
    /// End after so many seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1 << 30), conflicts_with = "requests")]
    pub seconds: u64,
    /// End after so many commands instead
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,
    /// Sets to gets, as commands
    #[arg(long, default_value = "1:9", value_name = "SETS:GETS", value_parser = ratio)]
    pub ratio: (u32, u32),
    /// Different keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub keys: u32,
    /// Keys by Zipf's law with this exponent, for example 0.99, instead of all equally often
    #[arg(long, value_name = "EXPONENT", value_parser = exponent)]
    pub zipf: Option<f64>,
    /// Length of values: N; MIN-MAX, all equally likely; or several of these, each with a weight:
    /// 100:70,1000-2000:30
    #[arg(long, default_value = "100", value_name = "LENGTHS")]
    pub value_bytes: Lengths,
    /// Expiry of what is set, in seconds; 0 for never
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=60 * 60 * 24 * 30))]
    pub ttl: u32,
    /// Keys of each get (text: one line, meta: so many mg, RESP: MGET)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(LOAD_DEPTH_MAX)))]
    pub multi_get: u32,
    /// First write every key once
    #[arg(long)]
    pub fill: bool,
    /// The protocol to speak
    #[arg(long, default_value = "text", value_enum)]
    pub protocol: Protocol,
    /// Open loop: so many commands a second; a command's latency counts from when it was due
    #[arg(long, value_name = "PER_SECOND", value_parser = per_second)]
    pub rate: Option<f64>,
    /// How an open loop's commands are spread over time
    #[arg(long, default_value = "even", value_enum, requires = "rate")]
    pub arrivals: Spacing,
    /// Check key, version and every byte of each value that is read. Writes every key first. Nobody
    /// else may use the keys load:* meanwhile
    #[arg(long)]
    pub verify: bool,
    /// Seed of the random numbers; the same seed makes the same keys and values
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write all figures as JSON to this file; - for standard output, which then has nothing else
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the run's latencies in milliseconds as an HdrHistogram percentile log
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Write a page with charts, for any browser; it refers to nothing outside itself
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

fn ratio(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once(':').and_then(|(sets, gets)| Some((sets.parse().ok()?, gets.parse().ok()?)));
    let parts = parts.filter(|(sets, gets): &(u32, u32)| *sets <= 1_000_000 && *gets <= 1_000_000 && sets + gets > 0);
    parts.ok_or_else(|| format!("\"{text}\" is no ratio; write sets:gets, for example 1:9"))
}

fn exponent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && *number <= 10.0);
    number.ok_or_else(|| format!("\"{text}\" is no exponent; write a number above 0 and up to 10, for example 0.99"))
}

fn per_second(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| (0.001..=1e9).contains(number));
    number.ok_or_else(|| format!("\"{text}\" is no rate; write commands a second, for example 50000"))
}

/// Fill if asked to, run, report.
pub fn run(args: &Args) -> anyhow::Result<()> {
    logging::start().context("cannot start the thread that writes to stderr; raise `ulimit -u`")?;
    check(args)?;
    report::check_files(args)?;
    let targets = targets(args)?;
    let traffic = traffic(args);
    let stop = Arc::new(AtomicBool::new(false));
    let asked_to_stop = Arc::clone(&stop);
    let reload = || log::info!("SIGHUP: nothing to read anew, ignored");
    signals::watch(move |_| asked_to_stop.store(true, Relaxed), reload).context("cannot watch for signals")?;
    let base = Phase {
        traffic: &traffic,
        targets: &targets,
        connections: args.connections,
        threads: args.threads,
        pipeline: args.pipeline,
        fill: true,
        rate: None,
        spacing: args.arrivals,
        duration: None,
        commands: None,
        stop: &stop,
    };
    let began = jiff::Timestamp::now();
    let mut phases = Vec::new();
    if args.fill || args.verify {
        phases.push(("fill", shown("fill", &base)?));
    }
    if !stop.load(Relaxed) {
        let duration = args.requests.is_none().then(|| Duration::from_secs(args.seconds));
        let phase = Phase { fill: false, rate: args.rate, duration, commands: args.requests, ..base };
        phases.push(("run", shown("run", &phase)?));
    }
    report::report(args, began, &phases)
}

fn check(args: &Args) -> anyhow::Result<()> {
    ensure!(args.threads <= args.connections, "--threads is more than --connections; a thread needs one at least");
    ensure!(
        args.server.len() <= args.connections as usize,
        "{} servers need as many --connections at least",
        args.server.len()
    );
    ensure!(
        !args.verify || args.value_bytes.min() >= HEADER_BYTES,
        "--verify needs --value-bytes of {HEADER_BYTES} at least: values carry their key and a checksum"
    );
    let in_flight = u64::from(args.pipeline) * u64::from(args.multi_get) * u64::from(args.connections);
    ensure!(in_flight <= 1 << 28, "--pipeline times --multi-get times --connections is {in_flight}; keep below 2^28");
    check_ledger(args, Allowance::read().available_bytes)?;
    // Each connection may need a second descriptor (see load/stream.rs).
    let files = u64::from(args.connections) * 2 + OTHER_FILES_MAX;
    privilege::raise_open_files(files).map_err(|limit| {
        anyhow!("{files} open files may be needed, and this process may have {limit}; `ulimit -n {files}`")
    })
}

/// What --verify keeps of each key must fit into memory: the system would end the process without a
/// word.
fn check_ledger(args: &Args, available_bytes: Option<u64>) -> anyhow::Result<()> {
    let needed_bytes = if args.verify { u64::from(args.keys) * Ledger::BYTES_PER_KEY } else { 0 };
    let (needed, available) = (needed_bytes >> 20, available_bytes.unwrap_or(u64::MAX) >> 20);
    ensure!(
        needed <= available,
        "--verify needs {needed} MiB for {} keys, and {available} MiB are available: lower --keys",
        args.keys
    );
    Ok(())
}

fn targets(args: &Args) -> anyhow::Result<Vec<Target>> {
    let all = args.server.iter().map(|text| target(text, args.protocol));
    let mut targets = all.collect::<anyhow::Result<Vec<_>>>().context("-s")?;
    if let Some(path) = &args.tls_ca {
        let hosts = args.server.iter().map(|text| host_of(text)).collect::<anyhow::Result<Vec<_>>>().context("-s")?;
        let trusts = Trust::read(path, &hosts).map_err(|why| anyhow!("--tls-ca: {why}"))?;
        targets.iter_mut().zip(trusts).for_each(|(target, trust)| target.trust = Some(trust));
    }
    Ok(targets)
}

/// What a server's certificate must be for.
fn host_of(text: &str) -> anyhow::Result<String> {
    Ok(if text.starts_with("unix:") { "localhost".into() } else { address::host(text)? })
}

fn target(text: &str, protocol: Protocol) -> anyhow::Result<Target> {
    let port = if protocol == Protocol::Resp { REDIS_PORT } else { MEMCACHED_PORT };
    let addresses = match text.strip_prefix("unix:") {
        Some(path) => vec![socket2::SockAddr::unix(path).with_context(|| format!("{path} is no path of a socket"))?],
        None => address::resolve(text, Some(port))?.into_iter().map(Into::into).collect(),
    };
    Ok(Target { name: text.to_string(), addresses, trust: None })
}

fn traffic(args: &Args) -> Traffic {
    let choice = args.zipf.map_or(KeyChoice::Uniform, |exponent| KeyChoice::Zipf(Zipf::new(args.keys, exponent)));
    let (sets, gets) = args.ratio;
    let workload = Workload {
        seed: args.seed,
        keys: args.keys,
        choice,
        value_bytes: args.value_bytes.clone(),
        gets_per_set: gets / sets.max(1),
    };
    Traffic {
        workload,
        protocol: args.protocol,
        sets,
        gets,
        keys_per_get: args.multi_get,
        ttl_seconds: args.ttl,
        ledger: args.verify.then(|| Ledger::new(args.keys)),
        filler: filler(args.seed, args.value_bytes.max()),
    }
}

/// Run a phase and show a line a second on stderr; on a terminal each line overwrites the one
/// before. The lines go through the log's queue, so that a stderr that nobody reads does not hold
/// up the load.
fn shown(name: &str, phase: &Phase<'_>) -> anyhow::Result<Outcome> {
    let is_terminal = std::io::stderr().is_terminal();
    let outcome = drive(phase, |interval| {
        let line = summary::progress(name, interval);
        if is_terminal { logging::write(format!("\r{line}\x1b[K").into_bytes()) } else { logging::line(&line) }
    });
    if is_terminal {
        logging::line("");
    }
    // So that these lines appear before the summary, which is printed past the queue.
    logging::flush(FLUSH_WAIT_MAX);
    Ok(outcome?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Cli, Command};
    use clap::Parser;

    fn args(line: &str) -> Args {
        let words = ["remora", "load"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Load(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_kept_to_verify_fits_into_memory() {
        let all = args("--verify --keys 4294967295");
        assert!(check_ledger(&all, Some(1 << 30)).unwrap_err().to_string().contains("lower --keys"));
        assert!(check_ledger(&all, Some(1 << 40)).is_ok() && check_ledger(&all, None).is_ok());
        assert!(check_ledger(&args("--keys 4294967295"), Some(1 << 30)).is_ok());
    }
}
