//! `remora serve` turns memcached's flags into a store, an engine and a server.
//!
//! The order matters: sockets are bound and limits are raised while the process still has root's
//! rights, if it was started with them; then it gives them up; then it takes memory and starts the
//! threads that serve. Only the log's writer runs from the beginning, so that its queue is there
//! for the first word; giving up rights holds for it, too. Clients can connect only then: a replica
//! whose primary is not there yet has no store. It refuses connections, so that health checks fail
//! and nobody waits for an answer.

mod access;
mod args;
pub mod cluster;
mod config;
mod ending;
mod file;
mod listeners;
pub mod logger;
mod options;
mod pidfile;
mod reload;
mod replication;
mod suboptions;
mod words;

use super::doctor::memory;
use super::output::{self, say};
use super::size;
use crate::base::limits::{
    INPUT_BYTES_TOTAL_MIN, OTHER_FILES_MAX, OTHER_FILES_PER_WORKER, OUTPUT_BYTES_TOTAL_MIN, WORKERS_MAX,
};
use crate::base::term::Term;
use crate::base::time::Clock;
use crate::engine::{Engine, LogSizes, Settings, Switches};
use crate::protocol::Protocol;
use crate::replication::attach::Joined;
use crate::server::listen::{Bound, ListenConfig};
use crate::server::tls::{Asks, TlsOptions};
use crate::server::{Server, ServerConfig};
use crate::store::{Store, StoreConfig};
use crate::sys::allowance::Allowance;
use crate::sys::daemon::{Detached, Side, detach};
use crate::sys::{logging, privilege, signals};
use anyhow::{Context, bail, ensure};
pub use args::Args;
use clap::FromArgMatches;
use config::Config;
use ending::Ending;
use listeners::Listeners;
use pidfile::PidFile;
use reload::Reload;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// memcached's default port.
const PORT_DEFAULT: u16 = 11211;

/// What is printed for -i.
const LICENSES: &str = concat!(
    "remora ",
    env!("CARGO_PKG_VERSION"),
    ", under either of two licences, at your choice.\n\n",
    include_str!("../../LICENSE-MIT"),
    "\n",
    include_str!("../../LICENSE-APACHE"),
);

/// What the command line, the variables and the file say, and what of it is taken without effect.
struct Given {
    args: Args,
    config: Config,
    idle: Vec<String>,
    /// What -o says of TLS.
    tls: Option<TlsOptions>,
    /// What -o says of watchers.
    log_sizes: LogSizes,
}

/// The command line of `remora serve` alone.
pub fn command() -> clap::Command {
    <Args as clap::Args>::augment_args(clap::Command::new("remora serve")).no_binary_name(true)
}

/// The words as getopt has them.
pub use words::without_blanks;

/// Serve until a signal ends it. `words` are those behind `serve`.
pub fn run(words: &[OsString]) -> anyhow::Result<()> {
    let given = Given::read(words, None)?;
    if given.args.license {
        return Ok(say!("{LICENSES}")?);
    }
    if given.args.print_config {
        return Ok(output::print(format_args!("{}", given.config.to_toml()))?);
    }
    if !given.args.daemon {
        return serve(words, given, None);
    }
    match detach(given.args.enable_coredumps).context("-d")? {
        Side::Child(detached) => serve(words, given, Some(detached)),
        Side::Parent(true) => Ok(()),
        Side::Parent(false) => bail!("-d: the daemon has ended before it served; what it said stands above"),
    }
}

impl Given {
    /// `path`: the file of --config, where it is known already.
    fn read(words: &[OsString], path: Option<&Path>) -> anyhow::Result<Given> {
        let config = Config::read(words, &|name| std::env::var_os(name), path)?;
        let mut idle = options::judge(&command(), &config.matches)?;
        let mut args = Args::from_arg_matches(&config.matches)?;
        let extended = suboptions::read(&args.extended)?;
        if let Some(seconds) =
            extended.idle_timeout_seconds.filter(|_| config.rank("extended") >= config.rank("idle-timeout"))
        {
            args.idle_timeout = seconds;
        }
        let is_given = config.rank("protocol") > 0;
        let usual = if args.enable_sasl && !is_given { listeners::BINARY } else { &args.protocol };
        let spoken = listeners::protocol(&args.listen, usual, args.unix_socket.is_some())?;
        args.protocol = access::protocol(&args, spoken)?.to_string();
        idle.extend(extended.idle.iter().map(|name| format!("-o {name}")));
        Ok(Given { args, config, idle, tls: extended.tls, log_sizes: extended.log_sizes })
    }
}

/// `detached`: this is a daemon whose parent waits until it serves.
fn serve(words: &[OsString], given: Given, detached: Option<Detached>) -> anyhow::Result<()> {
    let Given { args, config, idle, tls, log_sizes } = given;
    logger::start(args.verbose)?;
    // A replica may wait for its primary before it can heed one.
    signals::survive_hangup().context("cannot watch for signals")?;
    let workers = worker_count(args.threads)?;
    let item_bytes_asked = size::parse_item(&args.max_item_size).map_err(anyhow::Error::msg).context("-I")?;
    let replication = replication::Plan::new(&args.replication, !args.no_pin)?;
    cluster::check(&args)?;
    raise_limits(&args, workers)?;
    let (listen, tagged) = listen_config(&args)?;
    let mut bound = Bound::bind(&listen, workers)?;
    tell_idle(idle, tagged);
    drop_rights(&args)?;
    // By the rights that it keeps: it is to be able to read them anew.
    let users = access::users(&args)?;
    let tls = access::tls(&args, tls, &listen.security)?;
    let served: Vec<_> = bound.tcp.iter().copied().zip(listen.security.iter().copied()).collect();
    access::warn_of_openness(&args, &served, tls.as_ref().map_or(Asks::Never, |tls| tls.options().asks));
    let joined = replication.join()?;
    let store = Arc::new(make_store(&args, item_bytes_asked, workers, joined.as_ref())?);
    warn_of_memory(&store);
    let item_bytes_max = match &joined {
        None => item_bytes_asked,
        Some(_) => store.geometry().record_bytes_max as usize,
    };
    let without_orders = bound.listen_for_orders()?;
    let mut rows = setting_rows(&args, &bound);
    rows.extend(access::tls_rows(tls.as_deref()));
    rows.extend(replication.setting_rows(&without_orders));
    let clients = bound.tcp.first().copied();
    let engine = Engine::new(store.clone(), Settings { item_bytes_max, workers, rows }).with_log_sizes(log_sizes);
    let engine = Arc::new(engine.with_acks(replication.acks()).with_switches(switches(&args)));
    let replicating = replication.start(joined, &store, &engine, clients, &args)?;
    let ending = Ending::new(Duration::from_secs(args.shutdown_timeout));
    let begun = ending.clone();
    let mut reload = Reload::new(words, &config, store.clone(), users.clone(), tls.clone());
    signals::watch(move |signal| begun.begin(signal), move || reload.reload()).context("cannot watch for signals")?;
    let config = server_config(&args, workers, store.stats().capacity_bytes as usize);
    let config = ServerConfig { users, tls, ..config };
    let server = Server::start(config, bound.listen()?, engine.clone(), replication.board().clone())
        .context("cannot start the workers; raise `ulimit -n` and -u")?;
    ending.started(server.stopper());
    announce(&server)?;
    replicating.announce();
    let pidfile = args.pidfile.clone().and_then(PidFile::write);
    if let Some(detached) = detached {
        logging::flush(logging::FLUSH_WAIT_MAX);
        detached.serves(args.verbose > 0).context("-d: cannot let go of the terminal")?;
    }
    server.join();
    store.serve(false);
    if !store.writable().is_empty() {
        ending.wait_for_replicas(|| replicating.attached_replicas(), || replicating.absent_replicas());
    }
    pidfile.into_iter().for_each(PidFile::remove);
    Ok(())
}

fn server_config(args: &Args, workers: usize, memory_bytes: usize) -> ServerConfig {
    ServerConfig {
        workers,
        connections_max: args.conn_limit as usize,
        requests_per_turn: args.max_reqs_per_event,
        protocol: match args.protocol.as_str() {
            listeners::ASCII => Some(Protocol::Text),
            listeners::BINARY => Some(Protocol::Binary),
            _ => None,
        },
        idle_timeout_seconds: args.idle_timeout,
        input_bytes_total_max: INPUT_BYTES_TOTAL_MIN.max(memory_bytes / 4),
        output_bytes_total_max: OUTPUT_BYTES_TOTAL_MIN.max(memory_bytes / 4),
        pin: !args.no_pin,
        clock: if cfg!(feature = "debugtime") { Clock::changeable() } else { Clock::default() },
        ..ServerConfig::default()
    }
}

/// What clients may do.
fn switches(args: &Args) -> Switches {
    let usual = Switches::default();
    Switches {
        flush: !args.disable_flush_all,
        dumps: !args.disable_dumping,
        watch: !args.disable_watch,
        shutdown: args.enable_shutdown,
        prefix_delimiter: args.prefix_delimiter.unwrap_or(usual.prefix_delimiter),
        counts_prefixes: args.prefix_delimiter.is_some(),
    }
}

/// One line for all that is taken and changes nothing.
fn tell_idle(mut idle: Vec<String>, tagged: bool) {
    if tagged {
        idle.push("tag[] in -l".to_string());
    }
    if !idle.is_empty() {
        log::warn!("taken, without effect here: {}; docs/COMPATIBILITY.md says why", idle.join(", "));
    }
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
        shards: cluster::shards(args),
        // In a cluster no shard takes writes before the map says so.
        term: (!args.cluster.locators.is_empty()).then_some(Term::NONE),
        hugepages: !args.no_hugepages,
        ..StoreConfig::default()
    })
    .context("cannot make the store")
}

fn worker_count(asked: Option<usize>) -> anyhow::Result<usize> {
    let count = asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(4, |cores| cores.get()));
    if !(1..=WORKERS_MAX).contains(&count) {
        bail!("-t {count} is not possible; choose 1 to {WORKERS_MAX}, as a rule one for each core");
    }
    Ok(count)
}

/// What root may raise, before it is root no more.
fn raise_limits(args: &Args, workers: usize) -> anyhow::Result<()> {
    raise_open_files(args.conn_limit, workers)?;
    ensure!(
        !args.enable_coredumps || privilege::raise_core_limit(),
        "-r: there would be no core dump, for this process may have none; raise the limit (`ulimit -Hc unlimited`, \
         LimitCORE=infinity in a unit), start as root, or leave -r out"
    );
    if args.lock_memory {
        privilege::raise_locked_limit();
    }
    Ok(())
}

fn raise_open_files(conn_limit: u64, workers: usize) -> anyhow::Result<()> {
    let wanted = conn_limit + OTHER_FILES_MAX + OTHER_FILES_PER_WORKER * workers as u64;
    privilege::raise_open_files(wanted).map_err(|limit| {
        anyhow::anyhow!(
            "-c {conn_limit} needs {wanted} open files, and this process may have {limit}; \
             raise the limit (`ulimit -n {wanted}`, LimitNOFILE= in a unit) or lower -c"
        )
    })
}

/// Where to listen, and whether there are tags.
fn listen_config(args: &Args) -> anyhow::Result<(ListenConfig, bool)> {
    let asked_for_tcp = args.port.is_some() || !args.listen.is_empty();
    let mut listeners = Listeners::default();
    if asked_for_tcp || args.unix_socket.is_none() {
        let port = match args.port {
            None => Some(PORT_DEFAULT),
            Some(0) => None,
            Some(port) => Some(u16::try_from(port).unwrap_or(0)),
        };
        listeners = listeners::read(&lists(args), port, args.enable_ssl)?;
    }
    let Listeners { tcp, security, tagged } = listeners;
    let udp = datagrams(args)?;
    if tcp.is_empty() && udp.is_empty() && args.unix_socket.is_none() {
        bail!(
            "nowhere to listen: -p 0 switches TCP off; give a port, an address with -l host:port, or a socket with -s"
        );
    }
    let unix = args.unix_socket.clone();
    let (unix_mode, backlog) = (args.unix_mask, args.listen_backlog);
    Ok((ListenConfig { tcp, security, udp, unix, unix_mode, backlog }, tagged))
}

/// Where datagrams come in.
fn datagrams(args: &Args) -> anyhow::Result<Vec<SocketAddr>> {
    if args.udp_port == 0 {
        return Ok(Vec::new());
    }
    ensure!(
        args.replication.ack_replicas == 0,
        "-U (--udp-port): an answer over UDP does not wait for replicas, as --ack-replicas asks; leave one of them out"
    );
    ensure!(
        args.auth_file.is_none() && !args.enable_sasl && !args.enable_ssl,
        "-U (--udp-port): nobody says who he is over UDP, as -Y (--auth-file), -S (--enable-sasl) and -Z (--enable-ssl) ask; \
         leave one of them out"
    );
    Ok(listeners::read(&lists(args), Some(u16::try_from(args.udp_port).unwrap_or(0)), false)?.tcp)
}

/// What -l says, or what it stands for.
fn lists(args: &Args) -> Vec<String> {
    if args.listen.is_empty() { vec!["127.0.0.1".to_string()] } else { args.listen.clone() }
}

/// Become the user of -u; then what depends on who this is. memcached refuses to run as root
/// without -u. Remora warns and goes on: in a container there is often no other user, and root has
/// few rights there.
fn drop_rights(args: &Args) -> anyhow::Result<()> {
    match args.user.as_deref() {
        Some(user) if privilege::is_root() => privilege::drop_to(user).context("-u")?,
        Some(user) => log::info!("-u {user} is for a start as root; this process is not root's, and stays what it is"),
        None if privilege::is_root() => log::warn!("running as root; name a user with -u"),
        None => {}
    }
    if args.enable_coredumps
        && let Err(error) = privilege::allow_core_dumps()
    {
        log::warn!("-r: there will be no core dump: {error}");
    }
    if args.lock_memory
        && let Err(error) = privilege::lock_memory()
    {
        log::warn!("-k: memory is not locked: {error}");
    }
    Ok(())
}

/// The rows of `stats settings` that only the command line knows, by memcached's names.
fn setting_rows(args: &Args, bound: &Bound) -> Vec<(&'static str, String)> {
    let port = bound.tcp.first().map_or(0, SocketAddr::port);
    let inter = if args.listen.is_empty() { "127.0.0.1".to_string() } else { args.listen.join(",") };
    let path = bound.unix.as_ref().map_or("NULL".to_string(), |file| file.path().display().to_string());
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_string();
    vec![
        ("maxconns", args.conn_limit.to_string()),
        ("tcpport", port.to_string()),
        ("udpport", bound.udp.first().map_or(0, SocketAddr::port).to_string()),
        ("inter", inter),
        ("evictions", if args.disable_evictions { "off" } else { "on" }.to_string()),
        ("domain_socket", path),
        ("umask", format!("{:o}", args.unix_mask)),
        ("cas_enabled", yes(true)),
        (
            "binding_protocol",
            if args.protocol == listeners::AUTO { "auto-negotiate" } else { &args.protocol }.to_string(),
        ),
        ("auth_enabled_sasl", yes(args.enable_sasl)),
        ("auth_enabled_ascii", args.auth_file.as_ref().map_or(yes(false), |file| file.display().to_string())),
        ("tcp_backlog", args.listen_backlog.to_string()),
        ("reqs_per_event", args.max_reqs_per_event.to_string()),
        ("idle_timeout", args.idle_timeout.to_string()),
    ]
}

/// One line per listener on stderr, whatever the log's level: with port 0 it is the only way to
/// learn the port. And, as memcached does, the file that MEMCACHED_PORT_FILENAME names. It is
/// written under another name and renamed, so that nobody reads half of it.
fn announce(server: &Server) -> anyhow::Result<()> {
    for address in server.tcp_addresses() {
        logging::line(&format!("remora: listening on tcp {address}"));
    }
    for address in server.udp_addresses() {
        logging::line(&format!("remora: listening on udp {address}"));
    }
    if let Some(path) = server.unix_path() {
        logging::line(&format!("remora: listening on unix {}", path.display()));
    }
    let Some(name) = std::env::var_os("MEMCACHED_PORT_FILENAME") else { return Ok(()) };
    let family = |address: &SocketAddr| if address.is_ipv4() { "INET" } else { "INET6" };
    let line = |(kind, address): (&str, &SocketAddr)| format!("{kind} {}: {}\n", family(address), address.port());
    let udp = server.udp_addresses().iter().map(|address| ("UDP", address));
    let lines: String = server.tcp_addresses().iter().map(|address| ("TCP", address)).chain(udp).map(line).collect();
    let mut unfinished = name.clone();
    unfinished.push(".lck");
    std::fs::write(&unfinished, lines)
        .and_then(|()| std::fs::rename(&unfinished, &name))
        .with_context(|| format!("cannot write the file that MEMCACHED_PORT_FILENAME names, {}", name.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::from_arg_matches(&command().get_matches_from(line.split_whitespace())).unwrap()
    }

    fn tcp(line: &str) -> Vec<String> {
        listen_config(&args(line)).unwrap().0.tcp.iter().map(SocketAddr::to_string).collect()
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
    fn a_count_of_workers_has_bounds() {
        assert!(worker_count(Some(0)).is_err() && worker_count(Some(3)).is_ok_and(|count| count == 3));
    }

    #[test]
    fn what_is_without_effect_is_gathered() {
        let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let read = |line: &str| Given::read(&words(line), None);
        let given = read("-f 1.1 -o idle_timeout=7,slab_reassign,hashpower=20 -o lru_maintainer").unwrap();
        assert_eq!(given.args.idle_timeout, 7);
        assert_eq!(given.idle, ["-f", "-o slab_reassign", "-o hashpower", "-o lru_maintainer"]);
        assert!(read("-o ext_path=/x").is_err_and(|error| error.to_string().contains("ext_path")));
    }
}
