//! The demo's replicas. One is there from the start, one joins while there is traffic. At the end,
//! what each of them holds is compared with what the primary holds, byte for byte.

use super::phases::WAIT_MAX;
use super::process::ServerProcess;
use crate::base::shards::ShardSet;
use crate::commands::ctl;
use crate::commands::output::say;
use crate::load::client::Connection;
use crate::load::report::grouped;
use crate::load::workload::key_text;
use crate::replication::order::Order;
use anyhow::{Context, bail, ensure};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Longest wait for a replica to have everything once nothing is written any more.
const CATCH_UP_MAX: Duration = Duration::from_secs(20);
/// Pause between two looks at whether it has.
const LOOK: Duration = Duration::from_millis(10);
/// Keys asked for at a time.
const KEYS_PER_BATCH: u32 = 64;
/// Keys that differ are asked for again so many times: the primary may have reclaimed meanwhile.
const ROUNDS_MAX: usize = 50;

/// One replica.
pub struct Replica {
    /// What it calls itself.
    pub name: &'static str,
    process: ServerProcess,
    connection: Connection,
}

/// What a replica reports at the end.
struct Standing {
    fabric: String,
    pulled_bytes: u64,
    records: u64,
    resyncs: u64,
}

impl Replica {
    /// Start one that follows the primary with this replication port.
    pub fn start(name: &'static str, primary: SocketAddr) -> anyhow::Result<Replica> {
        let primary = primary.to_string();
        let arguments = ["--replica-of", &primary, "--replica-name", name, "-t", "1", "--replication", "127.0.0.1:0"];
        let process = ServerProcess::start(name, &arguments).with_context(|| format!("the replica \"{name}\""))?;
        let connection = Connection::open(process.address(), WAIT_MAX)?;
        Ok(Replica { name, process, connection })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its address for clients.
    pub fn address(&self) -> SocketAddr {
        self.process.address()
    }

    /// Its replication port.
    pub fn replication(&self) -> anyhow::Result<SocketAddr> {
        self.process.replication()
    }

    /// A connection to it.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Order it to change its role. Returns its answer.
    pub fn order(&mut self, order: &Order) -> anyhow::Result<String> {
        let mut connection = ctl::Target::Tcp(vec![self.process.address()]).command()?;
        ctl::carry_out(&mut connection, order, CATCH_UP_MAX).with_context(|| format!("\"{}\": {order}", self.name))
    }

    /// The shards that it is the primary of.
    pub fn primary_of(&mut self) -> anyhow::Result<ShardSet> {
        let shards = self.rows()?.remove("shards_primary").unwrap_or_default();
        if shards == "none" {
            return Ok(ShardSet::default());
        }
        shards.parse().with_context(|| format!("\"{}\": the shards of which it is the primary", self.name))
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// SIGTERM, and status 0.
    pub fn stop(self) -> anyhow::Result<()> {
        let status = self.process.stop()?;
        ensure!(status.success(), "the replica \"{}\" ended with {status} after SIGTERM, expected status 0", self.name);
        Ok(())
    }

    fn rows(&mut self) -> anyhow::Result<BTreeMap<String, String>> {
        self.connection.stats("replication").with_context(|| format!("stats replication of \"{}\"", self.name))
    }

    /// The fabric that it has chosen, once it follows.
    pub fn fabric(&mut self) -> anyhow::Result<String> {
        let until = Instant::now() + CATCH_UP_MAX;
        loop {
            let fabric = self.rows()?.remove("fabric").unwrap_or_default();
            if !fabric.is_empty() {
                return Ok(fabric);
            }
            ensure!(Instant::now() < until, "the replica \"{}\" has no fabric after {CATCH_UP_MAX:?}", self.name);
            std::thread::sleep(LOOK);
        }
    }

    fn standing(&mut self) -> anyhow::Result<Standing> {
        let rows = self.rows()?;
        let number = |name: &str| -> anyhow::Result<u64> {
            let value = rows.get(name).with_context(|| format!("stats replication has no row {name}"))?;
            value.parse().with_context(|| format!("stats replication: {name} is no number"))
        };
        ensure!(number("bad_records")? == 0, "the replica \"{}\" saw broken records", self.name);
        Ok(Standing {
            fabric: rows.get("fabric").cloned().unwrap_or_default(),
            pulled_bytes: number("pulled_bytes")?,
            records: number("records")?,
            resyncs: number("shards_overrun")? + number("shards_diverged")?,
        })
    }

    /// A write is refused, in words that name the primary.
    fn refuses_writes(&mut self, primary: SocketAddr) -> anyhow::Result<()> {
        let answer = String::from_utf8_lossy(self.connection.ask("set demo:refused 0 0 1\r\nx")?).into_owned();
        let expected = format!("SERVER_ERROR read-only replica: write to the primary at {primary}");
        ensure!(
            answer == expected,
            "a set at the replica \"{}\" was answered \"{answer}\", expected \"{expected}\"",
            self.name
        );
        Ok(())
    }
}

/// Writing has ended: wait until every replica has everything, then compare all keys below `keys`
/// on each replica with the primary.
pub fn compare(primary: &ServerProcess, replicas: &mut [Replica], keys: u32) -> anyhow::Result<()> {
    let mut connection = Connection::open(primary.address(), WAIT_MAX)?;
    let waited = catch_up(&mut connection, replicas.len())?;
    say!("6 replicas  {} replicas had all of it {:.0} ms after the check", replicas.len(), waited.as_secs_f64() * 1e3)?;
    for replica in replicas {
        let same = compare_one(&mut connection, replica, keys)?;
        replica.refuses_writes(primary.address())?;
        let standing = replica.standing()?;
        say!(
            "            {}: {} keys of {} are there, byte for byte the primary's, no other; a write is refused\n            \
             over {}; {} MiB and {} records pulled, {} resyncs",
            replica.name,
            grouped(same),
            grouped(keys.into()),
            standing.fabric,
            grouped(standing.pulled_bytes >> 20),
            grouped(standing.records),
            standing.resyncs,
        )?;
    }
    Ok(())
}

/// Wait until the primary knows that every replica has applied everything.
pub fn catch_up(primary: &mut Connection, replicas: usize) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    loop {
        let rows = primary.stats("replication").context("stats replication of the primary")?;
        let row = |number: usize, name: &str| rows.get(&format!("replica_{number}_{name}")).map(String::as_str);
        let has_all = |number| row(number, "state") == Some("following") && row(number, "lag_bytes") == Some("0");
        if (0..replicas).all(has_all) {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > CATCH_UP_MAX {
            bail!(
                "the replicas do not have everything {CATCH_UP_MAX:?} after the last write; the primary says: {rows:?}"
            );
        }
        std::thread::sleep(LOOK);
    }
}

/// How many of these numbers' items are there, unchanged; `item` tells the key and value of one.
pub fn count_found(
    connection: &mut Connection,
    numbers: &[u32],
    item: impl Fn(u32) -> (String, String),
) -> anyhow::Result<u64> {
    let mut found = 0;
    for batch in numbers.chunks(KEYS_PER_BATCH as usize) {
        for number in batch {
            connection.requests().extend_from_slice(format!("get {}\r\n", item(*number).0).as_bytes());
        }
        connection.send()?;
        for number in batch {
            let (key, value) = item(*number);
            found += u64::from(connection.get_answer(key.as_bytes())? == Some(value.as_bytes()));
        }
    }
    Ok(found)
}

/// How many keys both have with the same value. An error if the two differ in any key.
pub fn compare_one(primary: &mut Connection, replica: &mut Replica, keys: u32) -> anyhow::Result<u64> {
    let mut asked: Vec<u32> = (0..keys).collect();
    let (mut same, mut rounds) = (0, 0);
    loop {
        let mut differing = Vec::new();
        for batch in asked.chunks(KEYS_PER_BATCH as usize) {
            let (ours, theirs) = (values(primary, batch)?, values(&mut replica.connection, batch)?);
            for ((key, ours), theirs) in batch.iter().zip(ours).zip(theirs) {
                match (ours == theirs, ours) {
                    (true, Some(_)) => same += 1,
                    (true, None) => {}
                    (false, _) => differing.push(*key),
                }
            }
        }
        rounds += 1;
        let Some(first) = differing.first() else { return Ok(same) };
        let key = String::from_utf8_lossy(&key_text(*first)).into_owned();
        ensure!(
            rounds < ROUNDS_MAX,
            "{} keys of the replica \"{}\" are not the primary's, the first: {key}",
            differing.len(),
            replica.name
        );
        asked = differing;
        std::thread::sleep(LOOK);
    }
}

fn values(connection: &mut Connection, keys: &[u32]) -> anyhow::Result<Vec<Option<Vec<u8>>>> {
    for key in keys {
        let requests = connection.requests();
        requests.extend_from_slice(b"get ");
        requests.extend_from_slice(&key_text(*key));
        requests.extend_from_slice(b"\r\n");
    }
    connection.send()?;
    let answer = |key: &u32| Ok(connection.get_answer(&key_text(*key))?.map(<[u8]>::to_vec));
    keys.iter().map(answer).collect()
}
