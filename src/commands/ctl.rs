//! `remora ctl`: ask a running server, over its clients' port, or order it to change its role, over its control socket.
//!
//! The server takes an order and says so; what becomes of it is in `stats replication`, which is asked until it is over. A server without a
//! control socket here is one on another host, or in another network namespace: it is ordered over its clients' port, and says what it takes.

use crate::base::limits::LOAD_WAIT_SECONDS_MAX;
use crate::load::client::{ClientError, Connection};
use crate::replication::order::Order;
use crate::server::control;
use crate::sys::reach;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The first pause between two looks at an order that is under way, and the longest.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(1);
/// See [`LOOK_PAUSE_MIN`].
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(10);

/// Ask a running server, or order it to change its role.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the server serves its clients: HOST:PORT, or the path of its unix socket, with a slash in it
    #[arg(short, long, default_value = "127.0.0.1:11211", global = true)]
    pub server: String,
    /// What.
    #[command(subcommand)]
    pub what: What,
}

/// What is asked.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum What {
    /// Its role; of a primary, its replicas with their lag; of a replica, whom it follows and how far it is
    Replication {
        /// As one JSON object, with the names of `stats replication`
        #[arg(long)]
        json: bool,
    },
    /// Make this replica the primary: it follows nobody any more, begins an epoch of its own, and takes writes
    Promote {
        /// Replication port of a replica from which the one that is promoted first brings over what it lacks; repeat it for more
        #[arg(long, value_name = "HOST:PORT")]
        gather: Vec<String>,
        /// Promote even if some shards have nothing yet, or not all: what other replicas have of them is lost
        #[arg(long)]
        incomplete: bool,
        /// How it is waited for.
        #[command(flatten)]
        wait: Wait,
    },
    /// Have this replica follow nobody; it serves what it has, and refuses writes
    Detach {
        /// How it is waited for.
        #[command(flatten)]
        wait: Wait,
    },
    /// Make this server a read-only replica of the primary whose replication port this is. A primary that is told so loses what the other never had
    Replicate {
        /// The primary's replication port
        #[arg(value_name = "HOST:PORT")]
        primary: String,
        /// How it is waited for.
        #[command(flatten)]
        wait: Wait,
    },
}

/// How an order is waited for.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Wait {
    /// Longest wait for the order to be carried out, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait: u64,
}

/// Ask, and print the answer.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let server = Place::of(&args.server)?;
    let (order, wait) = match &args.what {
        What::Replication { json } => {
            let rows = server.ask()?.stats("replication")?;
            print!("{}", if *json { serde_json::to_string_pretty(&rows)? + "\n" } else { table(&rows) });
            return Ok(());
        }
        What::Promote { gather, incomplete, wait } => {
            (Order::Promote { gather: gather.clone(), incomplete: *incomplete }, wait)
        }
        What::Detach { wait } => (Order::Detach, wait),
        What::Replicate { primary, wait } => (Order::Replicate { primary: primary.clone() }, wait),
    };
    println!("{}: {}", args.server, carry_out(&mut server.command()?, &order, Duration::from_secs(wait.wait))?);
    Ok(())
}

/// Where a server serves its clients.
pub enum Place {
    /// Addresses that a name stands for.
    Tcp(Vec<SocketAddr>),
    /// A unix socket.
    Unix(PathBuf),
}

/// Looking a name up and connecting take no longer, nor does any answer.
const WAIT_MAX: Duration = Duration::from_secs(LOAD_WAIT_SECONDS_MAX);

impl Place {
    /// As `-s` says it.
    pub fn of(text: &str) -> anyhow::Result<Place> {
        if text.contains('/') {
            return Ok(Place::Unix(text.into()));
        }
        let until = Instant::now() + WAIT_MAX;
        Ok(Place::Tcp(reach::resolve(text, until).with_context(|| format!("-s {text}"))?))
    }

    /// A connection for questions.
    pub fn ask(&self) -> anyhow::Result<Connection> {
        let until = Instant::now() + WAIT_MAX;
        let failed = |address: String, cause| ClientError::Connect { address, cause };
        match self {
            Place::Unix(path) => {
                let connected = socket2::SockAddr::unix(path).and_then(|path| reach::connect_unix(&path, until));
                let connected = connected.and_then(|stream| Connection::over_unix(stream, WAIT_MAX));
                Ok(connected.map_err(|cause| failed(path.display().to_string(), cause))?)
            }
            Place::Tcp(addresses) => {
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
        let found = match self {
            Place::Unix(path) => control::connect_to(&control::name_of_path(path), until)?,
            Place::Tcp(addresses) => {
                let found = addresses.iter().map(|address| control::connect(*address, until).transpose());
                found.flatten().next().transpose().context("the control socket")?
            }
        };
        match found {
            Some(stream) => Ok(Connection::over_unix(stream, WAIT_MAX)?),
            None => self.ask(),
        }
    }
}

/// Give an order and wait until it has been carried out; in words what was done.
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

/// The columns of the table of replicas: title, and the name of the row.
const COLUMNS: [(&str, &str); 9] = [
    ("replica", "name"),
    ("address", "address"),
    ("fabric", "fabric"),
    ("state", "state"),
    ("lag bytes", "lag_bytes"),
    ("lag us", "lag_us"),
    ("bytes/s", "bytes_per_second"),
    ("resyncs", "resyncs"),
    ("seconds", "seconds"),
];

/// The rows of the server itself, one a line; then the replicas as a table.
fn table(rows: &BTreeMap<String, String>) -> String {
    let is_own =
        |name: &str| !name.strip_prefix("replica_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let mut text = String::new();
    for (name, value) in rows.iter().filter(|row| is_own(row.0)) {
        text += &format!("{name:<24} {value}\n");
    }
    let count = rows.get("replicas").and_then(|count| count.parse().ok()).unwrap_or(0);
    let cell = |number: usize, name: &str| rows.get(&format!("replica_{number}_{name}")).map_or("", String::as_str);
    let line = |cell: &dyn Fn(&(&'static str, &'static str)) -> String| {
        let cells = COLUMNS.iter().map(|column| format!("{:<20}", cell(column)));
        cells.collect::<String>().trim_end().to_string() + "\n"
    };
    if count > 0 {
        text += "\n";
        text += &line(&|column| column.0.to_string());
    }
    (0..count).for_each(|number: usize| text += &line(&|column| cell(number, column.1).to_string()));
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
}
