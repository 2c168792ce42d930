//! `remora ctl`: ask a running server, over its clients' port.

use crate::base::limits::LOAD_WAIT_SECONDS_MAX;
use crate::load::client::Connection;
use anyhow::Context;
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Ask a running server.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The server's port for clients
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
}

/// Ask, and print the answer.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let addresses = args.server.to_socket_addrs().with_context(|| format!("-s {}", args.server))?;
    let address: SocketAddr =
        addresses.into_iter().next().with_context(|| format!("{} has no address", args.server))?;
    let mut connection = Connection::open(address, Duration::from_secs(LOAD_WAIT_SECONDS_MAX))?;
    match args.what {
        What::Replication { json } => {
            let rows = connection.stats("replication")?;
            print!("{}", if json { serde_json::to_string_pretty(&rows)? + "\n" } else { table(&rows) });
        }
    }
    Ok(())
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

/// What is no replica's, one row a line; then the replicas as a table.
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
