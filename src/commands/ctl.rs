//! `remora ctl` asks a running server, at its port for clients, about replication, or orders it to
//! change its role, over its control socket.
//!
//! The server answers an order at once and carries it out afterwards. `stats replication` says what
//! has become of it, so that is asked again and again until the order is done or has failed. Where
//! this host (or network namespace) has no control socket of the server, the order goes to its port
//! for clients, and the server says whether it takes it.

mod cluster;
mod watch;

use super::output::{print, say};
use crate::base::limits::LOAD_WAIT_SECONDS_MAX;
use crate::base::shards::ShardSet;
use crate::base::term::CHOSEN_NUMBER_MAX;
use crate::load::client::{ClientError, Connection};
use crate::replication::order::{Change, Order, Peer, Promotion};
use crate::server::address;
use crate::server::control::{self, Trust};
use crate::sys::privilege::other_end_of;
use crate::sys::reach;
use anyhow::{Context, bail, ensure};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The first pause between two looks at an order that is under way, and the longest.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(1);
/// See [`LOOK_PAUSE_MIN`].
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(10);

/// Ask a running server, or order it to change its role.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the server serves its clients: HOST:PORT, or the path of its unix socket, with a slash
    /// in it
    #[arg(short, long, default_value = "127.0.0.1:11211", global = true)]
    pub server: String,
    /// What.
    #[command(subcommand)]
    pub what: What,
}

/// What is asked.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum What {
    /// Ask the locators of a cluster, or change what is wanted of it
    Cluster(cluster::Args),
    /// Show its role; for a primary its replicas and their lag, for a replica its primary and its
    /// own lag
    Replication {
        /// Print one JSON object, with the names of `stats replication`
        #[arg(long)]
        json: bool,
    },
    /// Make this replica the primary: it stops following, begins a new term, and takes writes
    Promote {
        /// First copy from the replica with this replication port what the promoted one lacks; may
        /// be given more than once
        #[arg(long, value_name = "HOST:PORT")]
        gather: Vec<String>,
        /// Take over from the primary that is followed, in step with it: it takes no more writes,
        /// all that it has comes over, and it follows afterwards. No write is lost
        #[arg(long)]
        take_over: bool,
        /// Promote it even if some of its shards are empty or not complete: what only others have
        /// of them is lost
        #[arg(long)]
        incomplete: bool,
        /// The number of the term, for programs that reserve terms before they use them: one above
        /// each that this server, and those that it gathers from, know of in these shards [default:
        /// the next one]
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..=i64::from(CHOSEN_NUMBER_MAX)))]
        term: Option<u32>,
        /// In which shards.
        #[command(flatten)]
        which: Which,
        /// How long to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop following: the replica serves what it has, and refuses writes
    Detach {
        /// In which shards.
        #[command(flatten)]
        which: Which,
        /// How long to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Make this server a read-only replica of the primary with this replication port. What only
    /// this server has is lost. A primary of another lineage (one that was restarted empty, or
    /// another cluster's) is refused where there is anything to lose
    Replicate {
        /// The primary's replication port
        #[arg(value_name = "HOST:PORT")]
        primary: String,
        /// Give up all that this server has if the primary is of another lineage
        #[arg(long)]
        discard: bool,
        /// In which shards.
        #[command(flatten)]
        which: Which,
        /// How long to wait.
        #[command(flatten)]
        wait: Wait,
    },
}

/// Which shards an order is about.
#[derive(Debug, Clone, clap::Args)]
pub struct Which {
    /// Only these shards: numbers and ranges, as in 0-127,200 [default: all]
    #[arg(long, value_name = "LIST")]
    pub shards: Option<ShardSet>,
}

/// How long to wait for an order.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Wait {
    /// Give up waiting for the order after so many seconds; the server goes on with it
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait: u64,
}

impl Which {
    fn order(&self, change: Change) -> Order {
        Order { change, shards: self.shards }
    }
}

/// memcached's port, where -s names none.
const PORT_DEFAULT: u16 = 11211;

/// Ask, and print the answer.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if let What::Cluster(args) = &args.what {
        return cluster::run(args);
    }
    let server = Target::of(&args.server)?;
    let (order, wait) = match &args.what {
        What::Cluster(_) => unreachable!("it was done above"),
        What::Replication { json } => {
            let rows = server.ask()?.stats("replication")?;
            let text = if *json { serde_json::to_string_pretty(&rows)? + "\n" } else { table(&rows) };
            return Ok(print(format_args!("{text}"))?);
        }
        What::Promote { gather, take_over, incomplete, term, which, wait } => {
            let (take_over, incomplete, term) = (*take_over, *incomplete, *term);
            let gather = gather.iter().cloned().map(Peer::whoever).collect();
            (which.order(Change::Promote(Promotion { gather, take_over, incomplete, term })), wait)
        }
        What::Detach { which, wait } => (which.order(Change::Detach), wait),
        What::Replicate { primary, discard, which, wait } => {
            (which.order(Change::Replicate { primary: primary.clone(), discard: *discard }), wait)
        }
    };
    check(&order)?;
    let outcome = carry_out(&mut server.command()?, &order, Duration::from_secs(wait.wait))?;
    Ok(say!("{}: {outcome}", args.server)?)
}

/// An order goes to the server as one line of words, so no address may be more than one word.
fn check(order: &Order) -> anyhow::Result<()> {
    let read = Order::parse(&order.to_string())?;
    ensure!(read == *order, "{order:?}: an address is one word, HOST:PORT");
    Ok(())
}

/// Where a server serves its clients.
pub enum Target {
    /// Addresses that a name stands for.
    Tcp(Vec<SocketAddr>),
    /// A unix socket.
    Unix(PathBuf),
}

/// Looking a name up and connecting take no longer, nor does any answer.
const WAIT_MAX: Duration = Duration::from_secs(LOAD_WAIT_SECONDS_MAX);

impl Target {
    /// As `-s` says it.
    pub fn of(text: &str) -> anyhow::Result<Target> {
        if text.contains('/') {
            return Ok(Target::Unix(text.into()));
        }
        Ok(Target::Tcp(address::resolve(text, Some(PORT_DEFAULT)).context("-s")?))
    }

    /// A connection for questions.
    pub fn ask(&self) -> anyhow::Result<Connection> {
        let until = Instant::now() + WAIT_MAX;
        let failed = |address: String, cause| ClientError::Connect { address, cause };
        match self {
            Target::Unix(path) => {
                let connected = socket2::SockAddr::unix(path).and_then(|path| reach::connect_unix(&path, until));
                let connected = connected.and_then(|stream| Connection::over_unix(stream, WAIT_MAX));
                Ok(connected.map_err(|cause| failed(path.display().to_string(), cause))?)
            }
            Target::Tcp(addresses) => {
                let connected = reach::connect(addresses, until);
                let stream = connected.map_err(|(address, cause)| {
                    failed(address.map_or("the server".into(), |address| address.to_string()), cause)
                })?;
                Ok(Connection::over_tcp(stream, WAIT_MAX)?)
            }
        }
    }

    /// A connection for orders: over the control socket, if this host has it.
    pub fn command(&self) -> anyhow::Result<Connection> {
        let until = Instant::now() + WAIT_MAX;
        let names: Vec<String> = match self {
            // Without the file nobody listens there, which asking tells.
            Target::Unix(path) => control::name_of_path(path).into_iter().collect(),
            Target::Tcp(addresses) => addresses.iter().flat_map(|address| control::names_of(*address)).collect(),
        };
        let mut refused = None;
        for name in names {
            let Some(stream) = control::connect_to(&name, until).context("the control socket")? else { continue };
            match self.trust(&stream, &name) {
                Ok(()) => return Ok(Connection::over_unix(stream, WAIT_MAX)?),
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        refused.map_or_else(|| self.ask(), Err)
    }

    /// Whether it is the server that has this control socket. Anybody can take the name.
    fn trust(&self, stream: &UnixStream, name: &str) -> anyhow::Result<()> {
        let peer = other_end_of(stream.as_fd()).context("the control socket")?;
        match control::trust(peer, rustix::process::geteuid().as_raw()) {
            Trust::Full => Ok(()),
            Trust::IfProcess(pid) => {
                let rows = self.ask().and_then(|mut server| Ok(server.stats("")?));
                let said = rows
                    .with_context(|| format!("cannot ask the server whether the control socket @{name} is its own"))?;
                let said = said.get("pid").map_or("none", String::as_str);
                ensure!(
                    said == pid.to_string(),
                    "the control socket @{name} is held by process {pid} of user {}, but the server is process {said}: no order was given; \
                     if that is the server in another PID namespace, run remora ctl in that one, or as the server's user; if not, end that process",
                    peer.uid
                );
                Ok(())
            }
            Trust::None => bail!(
                "the control socket @{name} is user {}'s: no order was given; it is for the server's own user and root: run remora ctl as one of them",
                peer.uid
            ),
        }
    }
}

/// Give an order and wait until it has been carried out. Returns the server's words for what it
/// did.
pub fn carry_out(connection: &mut Connection, order: &Order, wait_max: Duration) -> anyhow::Result<String> {
    let answer = connection.ask(&format!("replication {order}"))?;
    if answer != b"OK" {
        bail!("{}", String::from_utf8_lossy(answer));
    }
    let until = Instant::now() + wait_max;
    let mut pause = LOOK_PAUSE_MIN;
    loop {
        let rows = connection.stats("replication")?;
        let row = |name: &str| rows.get(name).map_or("", String::as_str);
        let words = row("order_outcome");
        match row("order").strip_prefix(order.name()).map(str::trim_start) {
            Some("done") => {
                let milliseconds = row("order_us").parse::<f64>().unwrap_or(0.0) / 1000.0;
                return Ok(format!("{words} ({milliseconds:.1} ms)"));
            }
            Some("running") if Instant::now() >= until => {
                bail!(
                    "{order} is still under way after {wait_max:?}; `remora ctl replication` shows what becomes of it"
                )
            }
            Some("running") => {}
            Some(_) => bail!("{words}"),
            None => bail!("another order has come after this one: {}", row("order")),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK_PAUSE_MAX);
    }
}

/// The columns of the table of replicas: the title, and the name of the row in `stats replication`
/// after `replica_N_`.
const COLUMNS: [(&str, &str); 10] = [
    ("replica", "name"),
    ("address", "address"),
    ("version", "version"),
    ("fabric", "fabric"),
    ("state", "state"),
    ("lag bytes", "lag_bytes"),
    ("lag us", "lag_us"),
    ("bytes/s", "bytes_per_second"),
    ("resyncs", "resyncs"),
    ("seconds", "seconds"),
];

/// The rows about the server itself, one a line; below them the replicas as a table.
fn table(rows: &BTreeMap<String, String>) -> String {
    let is_own =
        |name: &str| !name.strip_prefix("replica_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let mut text = String::new();
    for (name, value) in rows.iter().filter(|row| is_own(row.0)) {
        text += &format!("{name:<24} {value}\n");
    }
    // Counted by the rows that there are: the server's own count may be anything.
    let count = (0..).take_while(|number| rows.contains_key(&format!("replica_{number}_name"))).count();
    let cell = |number: usize, name: &str| rows.get(&format!("replica_{number}_{name}")).map_or("", String::as_str);
    let line = |cell: &dyn Fn(&(&'static str, &'static str)) -> String| {
        let cells = COLUMNS.iter().map(|column| format!("{:<20}", cell(column)));
        cells.collect::<String>().trim_end().to_string() + "\n"
    };
    if count > 0 {
        text += "\n";
        text += &line(&|column| column.0.to_string());
    }
    (0..count).for_each(|number| text += &line(&|column| cell(number, column.1).to_string()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_a_table_below_the_rest() {
        let rows = [("role", "primary"), ("replicas", "1"), ("replica_0_name", "two"), ("replica_0_lag_bytes", "17")];
        let rows = rows.map(|(name, value)| (name.to_string(), value.to_string())).into();
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["replicas", "1"]);
        assert!(lines[3].starts_with("replica ") && lines[4].starts_with("two ") && lines[4].contains(" 17"), "{text}");
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn a_server_that_claims_replicas_without_end_is_shown_those_it_names() {
        let rows = [("replicas", "18446744073709551615"), ("replica_0_name", "two"), ("replica_2_name", "four")];
        let rows = rows.map(|(name, value)| (name.to_string(), value.to_string())).into();
        assert_eq!(table(&rows).lines().count(), 4);
    }

    #[test]
    fn an_order_is_one_line_of_words() {
        let replicate = |primary: &str| Change::Replicate { primary: primary.into(), discard: false }.into();
        assert!(check(&replicate("host:7")).is_ok() && check(&Change::Detach.into()).is_ok());
        for primary in ["host:7\r\nflush_all", "a\r\nflush_all\r\nx:7", "a:1 b:2", " a:1", "a", ""] {
            assert!(check(&replicate(primary)).is_err(), "{primary:?}");
        }
        let promote = |peer: &str| {
            Change::Promote(Promotion { gather: vec![Peer::whoever(peer.into())], ..Promotion::default() }).into()
        };
        assert!(check(&promote("a:1 b:2")).is_err());
        assert!(check(&promote("incomplete")).is_err());
    }

    #[test]
    fn a_name_with_several_addresses_is_tried_until_one_answers() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let somebody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = somebody.local_addr().unwrap();
        let ask = |server: &str| Target::of(server).and_then(|target| target.ask());
        assert!(ask(&format!("{nobody},{address}")).is_ok());
        let error = ask(&nobody.to_string()).map(drop).unwrap_err().to_string();
        assert!(error.contains("does the server run"), "{error}");
    }
}
