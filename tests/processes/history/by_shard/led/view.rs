//! What a server says of itself in `stats replication`, asked over a connection of its own with a
//! short patience: who does not answer may be standing still.

use super::super::leader::{Order, View};
use remora::base::shards::ShardSet;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_millis(500);

pub type Rows = BTreeMap<String, String>;

/// The rows; None where nobody answers.
pub fn ask(address: SocketAddr) -> Option<Rows> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"stats replication\r\n").ok()?;
    let (mut rows, mut lines) = (Rows::new(), BufReader::new(stream).lines());
    loop {
        let line = lines.next()?.ok()?;
        let Some(row) = line.strip_prefix("STAT ") else { return (line == "END").then_some(rows) };
        let (name, value) = row.split_once(' ')?;
        rows.insert(name.into(), value.into());
    }
}

/// A set of shards as rows show it.
pub fn shards_of(text: &str) -> ShardSet {
    if text == "none" { ShardSet::default() } else { text.parse().unwrap_or_else(|_| panic!("shards: {text}")) }
}

/// For the leader. `server_at` knows the servers by their replication ports.
pub fn view_of(rows: &Rows, server_at: impl Fn(&str) -> Option<usize>) -> View {
    let order = match rows["order"].split_once(' ').map_or("none", |(_, outcome)| outcome) {
        "none" => Order::None,
        "running" => Order::Running,
        "done" => Order::Done,
        _ => Order::Failed,
    };
    let follows = |address: &str, shards: &str| Some((server_at(rows.get(address)?), shards_of(rows.get(shards)?)));
    let several =
        (0..).map_while(|number| follows(&format!("primary_{number}_address"), &format!("primary_{number}_shards")));
    let mut all: Vec<_> = several.collect();
    if all.is_empty() && rows.get("state").is_some_and(|state| state != "detached") {
        all.extend(follows("primary", "shards"));
    }
    View { own: shards_of(&rows["shards_primary"]), follows: all, order }
}

/// The term that the last order has begun, and in which shards.
pub fn began(rows: &Rows, all: ShardSet) -> Option<(u32, ShardSet)> {
    if rows["order"] != "promote done" {
        return None;
    }
    let words = rows["order_outcome"].strip_prefix("the primary of term ")?;
    let number = words.split('-').next()?.parse().ok()?;
    let shards =
        words.split_once(" in shards ").map_or(all, |(_, shards)| shards_of(shards.split(';').next().unwrap_or("")));
    Some((number, shards))
}
