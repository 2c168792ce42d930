//! The flags of `remora serve`: memcached's, by its letters and names, and Remora's own.

use super::listeners::{ASCII, AUTO, BINARY};
use super::{cluster, replication, suboptions};
use crate::base::limits::{ITEM_BYTES_DEFAULT, REQUESTS_PER_TURN_DEFAULT};
use std::path::PathBuf;

/// The first line of `-h`, and of `-V`. Who looks for memcached looks for its name and number.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (memcached 1.6.45 compatible)");
const OPENING: &str = concat!("remora ", env!("CARGO_PKG_VERSION"), " (memcached 1.6.45 compatible)");

/// The last lines of the help.
const CLOSING: &str = "Each option may also be set by a variable (REMORA_MEMORY_LIMIT=64), or in the file of --config \
    (memory-limit = 64), but for --print-config and those that print something; --config itself by a variable alone. The command line \
    wins over a variable, and that over the file. An empty variable counts as not set.";

/// Serve a cache. Flags are memcached's where it has them.
#[derive(Debug, Clone, clap::Args)]
#[command(version = VERSION, display_name = "remora", before_help = OPENING)]
#[command(args_override_self = true, infer_long_args = true, after_help = CLOSING)]
pub struct Args {
    /// Read options from this file: TOML, with their long names as keys. SIGHUP reads it anew
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print what all options are, and where each comes from, as such a file, and end
    #[arg(long)]
    pub print_config: bool,
    /// TCP port; 0 for no TCP, -1 for one of the kernel's choice [default: 11211, none with -s]
    #[arg(short, long, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..=65535))]
    pub port: Option<i32>,
    /// UDP port, at the addresses of -l; 0 for no UDP, -1 for one of the kernel's choice
    #[arg(short = 'U', long, default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..=65535))]
    pub udp_port: i32,
    /// Addresses: host or host:port, an IPv6 host in brackets, * for all; repeat it or use commas;
    /// port 0 for one of the kernel's choice [default: 127.0.0.1]
    #[arg(short, long)]
    pub listen: Vec<String>,
    /// Unix socket to listen on; no TCP then unless -p or -l is given
    #[arg(short = 's', long)]
    pub unix_socket: Option<PathBuf>,
    /// Permissions of the unix socket, in octal
    #[arg(short = 'a', long, default_value = "0700", value_parser = octal)]
    pub unix_mask: u32,
    /// Have clients say who they are: a file with lines user:password. SIGHUP reads it anew
    #[arg(short = 'Y', long, value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
    /// Have clients say who they are by SASL (PLAIN), in the binary protocol, which alone is spoken
    #[arg(short = 'S', long)]
    pub enable_sasl: bool,
    /// With -S: a file with lines user:password [default: what MEMCACHED_SASL_PWDB names]. SIGHUP
    /// reads it anew
    #[arg(long, value_name = "FILE")]
    pub sasl_pwdb: Option<PathBuf>,
    /// Talk TLS with clients; -o ssl_chain_cert=FILE and its kin say how
    #[arg(short = 'Z', long)]
    pub enable_ssl: bool,
    /// Let clients end the server (shutdown)
    #[arg(short = 'A', long)]
    pub enable_shutdown: bool,
    /// Detach from the terminal; the process that was started ends once the daemon serves
    #[arg(short, long)]
    pub daemon: bool,
    /// Write the process's number into this file; it is removed at the end
    #[arg(short = 'P', long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Let core dumps be as large as they like
    #[arg(short = 'r', long)]
    pub enable_coredumps: bool,
    /// Become this user once the sockets are bound (for a start as root)
    #[arg(short, long)]
    pub user: Option<String>,
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
    /// Keep memory that is used from being swapped out
    #[arg(short = 'k', long)]
    pub lock_memory: bool,
    /// Most connections at a time
    #[arg(short, long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub conn_limit: u64,
    /// Worker threads [default: one for each core]
    #[arg(short, long)]
    pub threads: Option<usize>,
    /// Largest item: bytes, or with k, m or g
    #[arg(short = 'I', long, default_value_t = ITEM_BYTES_DEFAULT.to_string(), value_name = "SIZE")]
    pub max_item_size: String,
    /// Count uses of keys by prefix from the start (stats detail), and take this character for a
    /// prefix's end [default: a colon, and counting is off]
    #[arg(short = 'D', long, value_name = "CHAR", value_parser = delimiter)]
    pub prefix_delimiter: Option<u8>,
    /// Refuse flush_all
    #[arg(short = 'F', long)]
    pub disable_flush_all: bool,
    /// Refuse what shows keys (stats detail)
    #[arg(short = 'X', long)]
    pub disable_dumping: bool,
    /// Refuse watch
    #[arg(short = 'W', long)]
    pub disable_watch: bool,
    /// What clients must speak: ascii, binary, or auto, which is whatever each begins with
    #[arg(short = 'B', long, value_name = "NAME", default_value = AUTO, value_parser = [AUTO, ASCII, BINARY])]
    pub protocol: String,
    /// Connections that wait to be accepted, per socket
    #[arg(short = 'b', long, default_value_t = 1024, value_parser = clap::value_parser!(i32).range(1..))]
    pub listen_backlog: i32,
    /// Seconds after which an idle connection is closed; 0 for never
    #[arg(long, default_value_t = 0)]
    pub idle_timeout: u32,
    /// memcached's extended options, with commas between; --help lists them
    #[arg(short = 'o', long, value_name = "NAME[=VALUE],...", long_help = suboptions::text())]
    pub extended: Vec<String>,
    /// Requests of one connection before the others have their turn
    #[arg(short = 'R', long, default_value_t = REQUESTS_PER_TURN_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_reqs_per_event: u32,
    /// Say more: -v information, -vv debugging (RUST_LOG has the last word)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print the licences and end
    #[arg(short = 'i', long)]
    pub license: bool,
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
    /// What memcached has and this server has not.
    #[command(flatten)]
    pub absent: Absent,
    /// Replicas.
    #[command(flatten)]
    pub replication: replication::ReplicationArgs,
    /// A cluster.
    #[command(flatten)]
    pub cluster: cluster::ClusterArgs,
}

/// Flags of memcached's that change nothing here, or are refused:
/// [`super::options::OPTIONS`] says which, and why.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "memcached's, without effect or refused (docs/COMPATIBILITY.md)")]
pub struct Absent {
    /// Growth of slab classes: without effect
    #[arg(short = 'f', long, value_name = "FACTOR", value_parser = growth_factor)]
    pub slab_growth_factor: Option<f64>,
    /// Least size of a chunk: without effect
    #[arg(short = 'n', long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    pub slab_min_size: Option<u32>,
    /// Large pages: without effect, they are always tried
    #[arg(short = 'L', long)]
    pub enable_largepages: bool,
    /// No CAS: without effect, items have their numbers anyway
    #[arg(short = 'C', long)]
    pub disable_cas: bool,
    /// Threads by NAPI number: without effect
    #[arg(short = 'N', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub napi_ids: Option<u32>,
    /// Memory that outlives the process: refused
    #[arg(short = 'e', long, value_name = "FILE")]
    pub memory_file: Option<PathBuf>,
}

fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("\"{text}\" is no permission; write it in octal, for example 0770"))
}

/// The first byte counts, as in memcached.
fn delimiter(text: &str) -> Result<u8, String> {
    text.bytes().next().ok_or_else(|| "it is empty; write one character, for example /".to_string())
}

fn growth_factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor: &f64| *factor > 1.0 && factor.is_finite());
    factor.ok_or_else(|| format!("\"{text}\" is no factor greater than 1; write, for example, 1.25"))
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

    #[test]
    fn memcacheds_flags_are_read() {
        let args = args("-p 0 -l 127.0.0.1:0 -m 100 -c 10 -t 2 -I 2m -a 0770 -R 5 -b 7 -M -U 0 -vv -u nobody");
        assert_eq!((args.port, args.memory_limit, args.conn_limit, args.threads), (Some(0), Some(100), 10, Some(2)));
        assert_eq!((args.unix_mask, args.max_reqs_per_event, args.listen_backlog, args.verbose), (0o770, 5, 7, 2));
        assert!(args.disable_evictions && args.user.as_deref() == Some("nobody") && args.max_item_size == "2m");
    }

    #[test]
    fn flags_are_written_as_getopt_takes_them() {
        let args = args("-dvv -m64 -P/run/pid -D/ --memory-l=128 -p 1 --port 2 --verbose --disable-f -l a -l b,c");
        assert!(args.daemon && args.disable_flush_all && args.verbose == 3, "letters together, names cut short");
        assert_eq!((args.memory_limit, args.port), (Some(128), Some(2)), "the last one counts");
        assert_eq!((args.prefix_delimiter, args.listen), (Some(b'/'), vec!["a".to_string(), "b,c".to_string()]));
    }
}
