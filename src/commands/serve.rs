//! `remora serve` turns memcached's flags into a store, an engine and a server.
//!
//! The order matters: sockets are bound and limits are raised while the process still has root's
//! rights, if it was started with them; then it gives them up; then it takes memory and starts the
//! threads that serve. Only the log's writer runs from the beginning, so that its queue is there
//! for the first word; giving up rights holds for it, too. Clients can connect only then: a replica
//! whose primary is not there yet has no store. It refuses connections, so that health checks fail
//! and nobody waits for an answer.

mod ending;
mod logger;
mod replication;

use super::doctor::memory;
use super::size;
use crate::base::limits::{
    INPUT_BYTES_TOTAL_MIN, ITEM_BYTES_DEFAULT, OTHER_FILES_MAX, OUTPUT_BYTES_TOTAL_MIN, REQUESTS_PER_TURN_DEFAULT,
    WORKERS_MAX,
};
use crate::base::time::Clock;
use crate::engine::{Engine, Settings};
use crate::replication::attach::Joined;
use crate::server::listen::{Bound, ListenConfig};
use crate::server::{Server, ServerConfig, address};
use crate::store::{Store, StoreConfig};
use crate::sys::allowance::Allowance;
use crate::sys::{logging, privilege, signals};
use anyhow::{Context, bail, ensure};
use ending::Ending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// memcached's default port.
const PORT_DEFAULT: u16 = 11211;

/// Serve a cache. Flags are memcached's where it has them.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TCP port; 0 for no TCP, -1 for one of the kernel's choice [default: 11211, none with -s]
    #[arg(short, long, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..=65535))]
    pub port: Option<i32>,
    /// UDP port; only 0 is taken: UDP is not served
    #[arg(short = 'U', long, default_value_t = 0, hide = true, value_parser = clap::value_parser!(u16).range(0..=0))]
    pub udp_port: u16,
    /// Addresses: host or host:port, an IPv6 host in brackets; repeat it or use commas; port 0 for
    /// one of the kernel's choice [default: 127.0.0.1]
    #[arg(short, long)]
    pub listen: Vec<String>,
    /// Unix socket to listen on; no TCP then unless -p or -l is given
    #[arg(short = 's', long)]
    pub unix_socket: Option<PathBuf>,
    /// Permissions of the unix socket, in octal
    #[arg(short = 'a', long, default_value = "0700", value_parser = octal)]
    pub unix_mask: u32,
    /// Memory for items, in MiB [default: 64; of a replica: what its primary has]
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub memory_limit: Option<u64>,
    /// To what cache_memlimit may raise -m, in MiB [default: -m; what is above -m costs nothing
    /// until it is used, except over RDMA and with reserved huge pages]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub memory_max: Option<u64>,
    /// Answer with an error when memory is full, instead of evicting
    #[arg(short = 'M', long)]
    pub disable_evictions: bool,
    /// Most connections at a time
    #[arg(short, long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub conn_limit: u64,
    /// Worker threads [default: one for each core]
    #[arg(short, long)]
    pub threads: Option<usize>,
    /// Largest item: bytes, or with k, m or g
    #[arg(short = 'I', long, default_value_t = ITEM_BYTES_DEFAULT.to_string(), value_name = "SIZE")]
    pub max_item_size: String,
    /// Become this user once the sockets are bound (for a start as root)
    #[arg(short, long)]
    pub user: Option<String>,
    /// Connections that wait to be accepted, per socket
    #[arg(short = 'b', long, default_value_t = 1024, value_parser = clap::value_parser!(i32).range(1..))]
    pub listen_backlog: i32,
    /// Seconds after which an idle connection is closed; 0 for never
    #[arg(long, default_value_t = 0)]
    pub idle_timeout: u32,
    /// memcached's extended options, with commas between: idle_timeout=N
    #[arg(short = 'o', long, value_delimiter = ',')]
    pub extended: Vec<String>,
    /// Requests of one connection before the others have their turn
    #[arg(short = 'R', long, default_value_t = REQUESTS_PER_TURN_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_reqs_per_event: u32,
    /// Say more: -v information, -vv debugging (RUST_LOG has the last word)
    #[arg(short, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Bind no thread to cores
    #[arg(long)]
    pub no_pin: bool,
    /// Shards, a power of two [default: by memory and workers]
    #[arg(long)]
    pub shards: Option<usize>,
    /// Plain pages only
    #[arg(long)]
    pub no_hugepages: bool,
    /// At the end (SIGTERM, SIGINT, SIGUSR1), seconds to wait until replicas have all answered
    /// writes; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub shutdown_timeout: u64,
    /// Replicas.
    #[command(flatten)]
    pub replication: replication::ReplicationArgs,
}

fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("\"{text}\" is no permission; write it in octal, for example 0770"))
}

/// Serve until a signal ends it.
pub fn run(args: Args) -> anyhow::Result<()> {
    logger::start(args.verbose)?;
    let args = apply_extended(args)?;
    let workers = worker_count(args.threads)?;
    let item_bytes_asked = size::parse_item(&args.max_item_size).map_err(anyhow::Error::msg).context("-I")?;
    let replication = replication::Plan::new(&args.replication, !args.no_pin)?;
    raise_open_files(args.conn_limit, workers)?;
    let listen = listen_config(&args)?;
    let mut bound = Bound::bind(&listen, workers)?;
    drop_rights(args.user.as_deref())?;
    let joined = replication.join()?;
    let store = Arc::new(make_store(&args, item_bytes_asked, workers, joined.as_ref())?);
    let geometry = store.geometry();
    let memory_bytes = store.stats().capacity_bytes as usize;
    warn_of_memory(&store);
    let item_bytes_max = match &joined {
        None => item_bytes_asked,
        Some(_) => geometry.record_bytes_max as usize,
    };
    let without_orders = bound.listen_for_orders()?;
    let mut rows = setting_rows(&args, &bound, workers, item_bytes_max);
    rows.extend(replication.setting_rows(&without_orders));
    let config = ServerConfig {
        workers,
        connections_max: args.conn_limit as usize,
        requests_per_turn: args.max_reqs_per_event,
        idle_timeout_seconds: args.idle_timeout,
        input_bytes_total_max: INPUT_BYTES_TOTAL_MIN.max(memory_bytes / 4),
        output_bytes_total_max: OUTPUT_BYTES_TOTAL_MIN.max(memory_bytes / 4),
        pin: !args.no_pin,
        clock: Clock::default(),
    };
    let clients = bound.tcp.first().copied();
    let engine = Engine::new(store.clone(), Settings { item_bytes_max, workers, rows });
    let engine = Arc::new(engine.with_acks(replication.acks()));
    let replicating = replication.start(joined, &store, &engine, clients)?;
    let ending = Ending::new(Duration::from_secs(args.shutdown_timeout));
    let begun = ending.clone();
    signals::watch(move |signal| begun.begin(signal)).context("cannot watch for signals")?;
    let server = Server::start(config, bound.listen()?, engine.clone(), replication.board().clone())
        .context("cannot start the workers; raise `ulimit -n` and -u")?;
    ending.started(server.stopper());
    announce(&server)?;
    replicating.announce();
    server.join();
    store.serve(false);
    if !store.writable().is_empty() {
        ending.wait_for_replicas(|| replicating.attached_replicas(), || replicating.absent_replicas());
    }
    Ok(())
}

/// The system gives memory when it is used, not when it is asked for. So a server may start with a
/// -m that it can never fill, and is warned of it here.
fn warn_of_memory(store: &Store) {
    let stats = store.stats();
    // Reserved huge pages are taken already, and no limit counts them.
    let counted_bytes = if stats.slabs_hugetlb > 0 { 0 } else { stats.pool_bytes };
    if let Some(words) = memory::trouble(counted_bytes, &Allowance::read()) {
        log::warn!("{words}");
    }
}

/// -m of a primary, in MiB.
const MEMORY_MEBIBYTES_DEFAULT: u64 = 64;

fn memory_bytes_max(args: &Args, mebibytes: u64) -> anyhow::Result<Option<usize>> {
    let Some(most) = args.memory_max else { return Ok(None) };
    ensure!(most >= mebibytes, "--memory-max {most} is less than -m {mebibytes}: it is to what -m may be raised");
    Ok(Some(usize::try_from(most << 20).context("--memory-max is too large for this machine")?))
}

/// A replica's store is laid out as its primary's is.
fn make_store(args: &Args, item_bytes_max: usize, workers: usize, joined: Option<&Joined>) -> anyhow::Result<Store> {
    if let Some(joined) = joined {
        let geometry = joined.welcome.geometry;
        // Not checked yet: the store judges whether such a geometry is possible. Until then any
        // number may stand there.
        let slabs = joined.welcome.memory.slabs;
        let needed = geometry.slab_bytes.saturating_mul(slabs.into()).div_ceil(1 << 20);
        let most = args.memory_max.or(args.memory_limit);
        if let Some(given) = most.filter(|given| *given < needed) {
            let option = if args.memory_max.is_some() { "--memory-max" } else { "-m" };
            bail!(
                "{option} {given} is less than the {needed} MiB that the primary has, or may have one day: a replica has \
                 room for as much; leave {option} out"
            );
        }
        return Store::with_geometry(geometry, slabs, workers, !args.no_hugepages, None)
            .context("cannot hold what the primary holds");
    }
    let mebibytes = args.memory_limit.unwrap_or(MEMORY_MEBIBYTES_DEFAULT);
    Store::new(StoreConfig {
        memory_bytes: usize::try_from(mebibytes << 20).context("-m is too large for this machine")?,
        memory_bytes_max: memory_bytes_max(args, mebibytes)?,
        item_bytes_max,
        evict: !args.disable_evictions,
        workers,
        shards: args.shards,
        hugepages: !args.no_hugepages,
        ..StoreConfig::default()
    })
    .context("cannot make the store")
}

fn apply_extended(mut args: Args) -> anyhow::Result<Args> {
    for option in &args.extended {
        match option.split_once('=') {
            Some(("idle_timeout", seconds)) => {
                args.idle_timeout = seconds.parse().with_context(|| format!("-o {option}: write whole seconds"))?;
            }
            // What Remora always does, and memcached does by default.
            None if option == "maxconns_fast" => {}
            _ => bail!("-o {option} is not known; Remora takes -o idle_timeout=SECONDS and -o maxconns_fast"),
        }
    }
    Ok(args)
}

fn worker_count(asked: Option<usize>) -> anyhow::Result<usize> {
    let count = asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(4, |cores| cores.get()));
    if !(1..=WORKERS_MAX).contains(&count) {
        bail!("-t {count} is not possible; choose 1 to {WORKERS_MAX}, as a rule one for each core");
    }
    Ok(count)
}

fn raise_open_files(conn_limit: u64, workers: usize) -> anyhow::Result<()> {
    let wanted = conn_limit + OTHER_FILES_MAX + 8 * workers as u64;
    privilege::raise_open_files(wanted).map_err(|limit| {
        anyhow::anyhow!(
            "-c {conn_limit} needs {wanted} open files, and this process may have {limit}; \
             raise the limit (`ulimit -n {wanted}`, LimitNOFILE= in a unit) or lower -c"
        )
    })
}

fn listen_config(args: &Args) -> anyhow::Result<ListenConfig> {
    let asked_for_tcp = args.port.is_some() || !args.listen.is_empty();
    let mut tcp: Vec<SocketAddr> = Vec::new();
    if asked_for_tcp || args.unix_socket.is_none() {
        let port = match args.port {
            None => Some(PORT_DEFAULT),
            Some(0) => None,
            Some(port) => Some(u16::try_from(port).unwrap_or(0)),
        };
        let local = ["127.0.0.1".to_string()];
        for text in if args.listen.is_empty() { &local[..] } else { &args.listen[..] } {
            tcp.extend(address::resolve(text, port).context("-l")?);
        }
    }
    if tcp.is_empty() && args.unix_socket.is_none() {
        bail!(
            "nowhere to listen: -p 0 switches TCP off; give a port, an address with -l host:port, or a socket with -s"
        );
    }
    Ok(ListenConfig { tcp, unix: args.unix_socket.clone(), unix_mode: args.unix_mask, backlog: args.listen_backlog })
}

/// memcached refuses to run as root without -u. Remora warns and goes on: in a container there is
/// often no other user, and root has few rights there.
fn drop_rights(user: Option<&str>) -> anyhow::Result<()> {
    match user {
        Some(user) => privilege::drop_to(user).context("-u")?,
        None if privilege::is_root() => log::warn!("running as root; name a user with -u"),
        None => {}
    }
    Ok(())
}

/// The rows of `stats settings` that only the command line knows, by memcached's names.
fn setting_rows(args: &Args, bound: &Bound, workers: usize, item_bytes_max: usize) -> Vec<(&'static str, String)> {
    let port = bound.tcp.first().map_or(0, SocketAddr::port);
    let inter = if args.listen.is_empty() { "127.0.0.1".to_string() } else { args.listen.join(",") };
    let path = bound.unix.as_ref().map_or("NULL".to_string(), |file| file.path().display().to_string());
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_string();
    vec![
        ("maxconns", args.conn_limit.to_string()),
        ("tcpport", port.to_string()),
        ("udpport", "0".to_string()),
        ("inter", inter),
        ("oldest", "0".to_string()),
        ("evictions", if args.disable_evictions { "off" } else { "on" }.to_string()),
        ("domain_socket", path),
        ("umask", format!("{:o}", args.unix_mask)),
        ("num_threads", workers.to_string()),
        ("cas_enabled", yes(true)),
        ("flush_enabled", yes(true)),
        ("tcp_backlog", args.listen_backlog.to_string()),
        ("reqs_per_event", args.max_reqs_per_event.to_string()),
        ("maxconns_fast", yes(true)),
        ("idle_timeout", args.idle_timeout.to_string()),
        ("item_size_max", item_bytes_max.to_string()),
    ]
}

/// One line per listener on stderr, whatever the log's level: with port 0 it is the only way to
/// learn the port. And, as memcached does, the file that MEMCACHED_PORT_FILENAME names. It is
/// written under another name and renamed, so that nobody reads half of it.
fn announce(server: &Server) -> anyhow::Result<()> {
    for address in server.tcp_addresses() {
        logging::line(&format!("remora: listening on tcp {address}"));
    }
    if let Some(path) = server.unix_path() {
        logging::line(&format!("remora: listening on unix {}", path.display()));
    }
    let Some(name) = std::env::var_os("MEMCACHED_PORT_FILENAME") else { return Ok(()) };
    let family = |address: &SocketAddr| if address.is_ipv4() { "INET" } else { "INET6" };
    let line = |address: &SocketAddr| format!("TCP {}: {}\n", family(address), address.port());
    let lines: String = server.tcp_addresses().iter().map(line).collect();
    let mut unfinished = name.clone();
    unfinished.push(".lck");
    std::fs::write(&unfinished, lines)
        .and_then(|()| std::fs::rename(&unfinished, &name))
        .with_context(|| format!("cannot write the file that MEMCACHED_PORT_FILENAME names, {}", name.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn args(line: &str) -> Args {
        let words = ["remora", "serve"].into_iter().chain(line.split_whitespace());
        match crate::commands::Cli::try_parse_from(words).unwrap().command {
            crate::commands::Command::Serve(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn tcp(line: &str) -> Vec<String> {
        listen_config(&args(line)).unwrap().tcp.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn memcacheds_flags_are_read() {
        let args = args("-p 0 -l 127.0.0.1:0 -m 100 -c 10 -t 2 -I 2m -a 0770 -R 5 -b 7 -M -U 0 -vv -u nobody");
        assert_eq!((args.port, args.memory_limit, args.conn_limit, args.threads), (Some(0), Some(100), 10, Some(2)));
        assert_eq!((args.unix_mask, args.max_reqs_per_event, args.listen_backlog, args.verbose), (0o770, 5, 7, 2));
        assert!(args.disable_evictions && args.user.as_deref() == Some("nobody") && args.max_item_size == "2m");
    }

    #[test]
    fn where_to_listen() {
        assert_eq!(tcp(""), ["127.0.0.1:11211"]);
        assert_eq!(tcp("-p 5"), ["127.0.0.1:5"]);
        assert_eq!(tcp("-p -1"), ["127.0.0.1:0"]);
        assert_eq!(tcp("-p 5 -l 127.0.0.2,127.0.0.3:6 -l [::1]"), ["127.0.0.2:5", "127.0.0.3:6", "[::1]:5"]);
        assert!(tcp("-s /tmp/x").is_empty());
        assert_eq!(tcp("-s /tmp/x -p 5"), ["127.0.0.1:5"]);
        assert!(listen_config(&args("-p 0")).unwrap_err().to_string().contains("nowhere to listen"));
    }

    #[test]
    fn extended_options_are_taken_or_refused_by_name() {
        let with = |line| apply_extended(args(line));
        assert_eq!(with("-o idle_timeout=7,maxconns_fast").unwrap().idle_timeout, 7);
        assert!(with("-o idle_timeout=x").unwrap_err().to_string().contains("whole seconds"));
        assert!(with("-o ext_path=/x").unwrap_err().to_string().contains("ext_path"));
        assert!(worker_count(Some(0)).is_err() && worker_count(Some(3)).is_ok_and(|count| count == 3));
    }
}
