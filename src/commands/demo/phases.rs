//! The demo's phases that talk to the server. Each makes traffic, prints what it measured, and
//! returns an error if anything was wrong.

use crate::base::limits::{LOAD_PIPELINE_MAX, LOAD_WAIT_SECONDS_MAX};
use crate::commands::output::say;
use crate::load::client::Connection;
use crate::load::report::{Tally, grouped};
use crate::load::run::drive;
use crate::load::session::{Scrutiny, Session};
use crate::load::workload::Operation;
use anyhow::{Context, bail, ensure};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest wait for any progress on a connection.
pub const WAIT_MAX: Duration = Duration::from_secs(LOAD_WAIT_SECONDS_MAX);
/// So many keys are read all the time: those with the lowest numbers, which are also the most
/// popular in mixed traffic.
pub const KEYS_HOT: u32 = 32;
/// While filling, one request in so many reads a hot key.
const FILL_REQUESTS_PER_READ: u8 = 8;
/// Clients that want the same missing keys, and how many such keys.
const LEASE_CLIENTS: usize = 4;
const LEASE_KEYS: u32 = 100;
/// How many times each connection adds one to the same number.
const COUNTS_PER_CONNECTION: u64 = 5000;
const COUNTER: &str = "demo:count";

/// What the phases share.
pub struct Demo<'a> {
    /// The connections of the load.
    pub sessions: Vec<Session<'a>>,
    /// Threads that drive them.
    pub threads: usize,
    /// A connection to ask for stats.
    pub stats: Connection,
}

impl<'a> Demo<'a> {
    /// Write more than memory holds and read the hot keys meanwhile: reclaim must evict, and give
    /// the hot keys a second chance.
    pub fn fill(&mut self) -> anyhow::Result<Tally> {
        let tally = self.drive(|session| {
            while session.has_room() {
                if session.rng.u8(..FILL_REQUESTS_PER_READ) == 0 {
                    let key = session.rng.u32(..KEYS_HOT);
                    session.get(key);
                    continue;
                }
                let Some(key) = session.next_own_key() else { return };
                session.set(key);
            }
        })?;
        let stats = self.numbers()?;
        say!(
            "1 fill      {} items, {} MiB of values into {} MiB, in {:.1} s\n            \
             evicted {}, second chances {}, write amplification {}",
            grouped(tally.sets),
            grouped(tally.value_bytes_written >> 20),
            stats.of("limit_maxbytes")? >> 20,
            tally.elapsed.as_secs_f64(),
            grouped(stats.of("evictions")?),
            grouped(stats.of("log_reinserted_items")?),
            stats.text("log_write_amplification")?,
        )?;
        let (items, evicted) = (stats.of("curr_items")?, stats.of("evictions")? + stats.of("reclaimed")?);
        ensure!(stats.of("evictions")? > 0, "{} items were written and none was evicted", tally.sets);
        ensure!(stats.of("log_reinserted_items")? > 0, "hot keys were read all along and none had a second chance");
        ensure!(
            items + evicted == tally.sets,
            "{} items were written, but {items} are there and {evicted} went",
            tally.sets
        );
        self.hot_keys()?;
        say!("            the {KEYS_HOT} hot keys, read all along, are all still there")?;
        Ok(tally)
    }

    /// Gets and sets. A few keys are far more popular than the rest; a key that is not found is
    /// written again.
    pub fn mixed(&mut self, duration: Duration) -> anyhow::Result<Tally> {
        let before = self.numbers()?;
        let until = Instant::now() + duration;
        let tally = self.drive(|session| {
            while session.has_room() && Instant::now() < until {
                if let Some(key) = session.take_missed() {
                    session.set(key);
                    continue;
                }
                match session.workload().next(&mut session.rng) {
                    Operation::Get(key) => session.get(key),
                    Operation::Set(key) => session.set(session.own_key(key)),
                }
            }
        })?;
        let stats = self.numbers()?;
        let reads = tally.hits + tally.misses;
        say!(
            "2 mixed     {} requests in {:.1} s: {} a second; {:.1} % of {} reads hit, each checked, {} wrong\n            \
             evicted {}, second chances {}",
            grouped(tally.requests()),
            tally.elapsed.as_secs_f64(),
            grouped(tally.rate() as u64),
            100.0 * tally.hits as f64 / reads.max(1) as f64,
            grouped(reads),
            tally.wrong,
            grouped(stats.of("evictions")? - before.of("evictions")?),
            grouped(stats.of("log_reinserted_items")? - before.of("log_reinserted_items")?),
        )?;
        ensure!(tally.hits > 0 && tally.sets > 0, "no traffic: {} hits, {} sets", tally.hits, tally.sets);
        Ok(tally)
    }

    /// Several clients ask for the same missing keys: for each key one client is told to fetch it,
    /// the others to wait.
    pub fn lease(&mut self) -> anyhow::Result<()> {
        let wants = self.side_by_side(LEASE_CLIENTS, want_leases)?;
        for key in 0..LEASE_KEYS {
            let winners: Vec<usize> = (0..wants.len()).filter(|client| wants[*client][key as usize]).collect();
            let [winner] = winners[..] else {
                bail!("{} of {LEASE_CLIENTS} clients won {}, expected one", winners.len(), lease_key(key));
            };
            let connection = self.sessions[winner].connection();
            let header = connection.ask(&format!("ms {} 8 T60\r\nrefilled", lease_key(key)))?;
            ensure!(header == b"HD", "the winner could not refill {}", lease_key(key));
        }
        self.side_by_side(LEASE_CLIENTS, |connection| {
            for key in 0..LEASE_KEYS {
                let key = lease_key(key);
                connection.requests().extend_from_slice(format!("mg {key} v\r\n").as_bytes());
                connection.send()?;
                let answer = connection.meta_answer()?;
                let right = answer.value == Some(b"refilled") && answer.flags.is_empty();
                ensure!(right, "{key} was refilled, but came back as {answer:?}");
            }
            Ok(())
        })?;
        let others = LEASE_CLIENTS - 1;
        say!(
            "3 lease     {LEASE_KEYS} missing keys, wanted by {LEASE_CLIENTS} clients at once: one won each (W), {others} \
             were told to wait (Z); refilled, all hit"
        )?;
        Ok(())
    }

    /// All connections add to one number at once: no addition may be lost, and no result may come
    /// twice.
    pub fn count(&mut self) -> anyhow::Result<()> {
        let connections = self.sessions.len();
        let first = self.sessions[0].connection();
        let stored = first.ask(&format!("set {COUNTER} 0 0 1\r\n0"))?;
        ensure!(stored == b"STORED", "the counter was not stored");
        let mut results: Vec<u64> = self.side_by_side(connections, count_up)?.into_iter().flatten().collect();
        results.sort_unstable();
        let total = COUNTS_PER_CONNECTION * connections as u64;
        if let Some((at, result)) = (1..).zip(&results).find(|(expected, result)| expected != *result) {
            bail!("result number {at} in order is {result}: an addition was lost or counted twice");
        }
        let first = self.sessions[0].connection();
        first.requests().extend_from_slice(format!("get {COUNTER}\r\n").as_bytes());
        first.send()?;
        let sum = first.get_answer(COUNTER.as_bytes())?.map(|value| String::from_utf8_lossy(value).into_owned());
        ensure!(sum.as_deref() == Some(total.to_string().as_str()), "the sum is {sum:?}, expected {total}");
        say!(
            "4 count     {connections} connections added 1 to one number {} times each, at once: the sum is {}, exactly",
            grouped(COUNTS_PER_CONNECTION),
            grouped(total)
        )?;
        Ok(())
    }

    /// Writing has ended: read every key and compare its value with what was written last, byte for
    /// byte.
    pub fn check(&mut self) -> anyhow::Result<Tally> {
        self.delete_extras()?;
        self.hot_keys()?;
        let before = self.numbers()?;
        self.begin(Scrutiny::EveryByte);
        let tally = self.drive(|session| {
            while session.has_room() {
                let Some(key) = session.next_own_key() else { return };
                session.get(key);
            }
        })?;
        let after = self.numbers()?;
        say!(
            "5 check     {} keys read: {} are there, byte for byte as last written; {} are not, all of them evicted",
            grouped(tally.requests()),
            grouped(tally.hits),
            grouped(tally.misses)
        )?;
        // Reclaim may have run meanwhile, so there may be fewer items at the end than at the
        // beginning.
        let (most, least) = (before.of("curr_items")?, after.of("curr_items")?);
        ensure!((least..=most).contains(&tally.hits), "{} keys answer, but curr_items is {most}", tally.hits);
        let evictions = after.of("evictions")?;
        ensure!(tally.misses <= evictions, "{} keys are missing, but only {evictions} were evicted", tally.misses);
        Ok(tally)
    }

    /// All hot keys must be there, byte for byte.
    fn hot_keys(&mut self) -> anyhow::Result<()> {
        self.begin(Scrutiny::EveryByte);
        let tally = self.drive(|session| {
            while session.has_room() {
                let Some(key) = session.next_own_key().filter(|key| *key < KEYS_HOT) else { return };
                session.get(key);
            }
        })?;
        self.begin(Scrutiny::Checksum);
        ensure!(tally.misses == 0, "{} of {KEYS_HOT} hot keys were evicted although they were in use", tally.misses);
        ensure!(tally.hits == u64::from(KEYS_HOT), "{} of {KEYS_HOT} hot keys were read", tally.hits);
        Ok(())
    }

    /// Delete what the phases wrote beside the workload, so that the items of the workload can be
    /// counted.
    fn delete_extras(&mut self) -> anyhow::Result<()> {
        let connection = self.sessions[0].connection();
        for key in (0..LEASE_KEYS).map(lease_key).chain([COUNTER.to_string()]) {
            let answer = connection.ask(&format!("delete {key}"))?;
            ensure!(answer == b"DELETED", "delete {key}: {}", String::from_utf8_lossy(answer));
        }
        Ok(())
    }

    fn begin(&mut self, scrutiny: Scrutiny) {
        for session in &mut self.sessions {
            session.cursor = 0;
            session.scrutiny = scrutiny;
        }
    }

    fn drive(&mut self, script: impl Fn(&mut Session<'a>) + Sync) -> anyhow::Result<Tally> {
        let tally = drive(&mut self.sessions, self.threads, script)?;
        if let Some(first) = &tally.first_wrong {
            bail!("{} of {} reads were wrong, the first: {first}", tally.wrong, tally.requests() - tally.sets);
        }
        Ok(tally)
    }

    /// Run `work` on so many connections, each in a thread of its own.
    fn side_by_side<R: Send>(
        &mut self,
        clients: usize,
        work: impl Fn(&mut Connection) -> anyhow::Result<R> + Sync,
    ) -> anyhow::Result<Vec<R>> {
        let work = &work;
        std::thread::scope(|scope| {
            let mut running = Vec::new();
            for (number, session) in self.sessions.iter_mut().take(clients).enumerate() {
                let thread = std::thread::Builder::new().name(format!("client-{number}"));
                let run = move || work(session.connection()).with_context(|| format!("connection {number}"));
                running.push(thread.spawn_scoped(scope, run).context("cannot start a thread")?);
            }
            let outcomes = running.into_iter().map(|thread| thread.join().expect("no client panics"));
            outcomes.collect()
        })
    }

    fn numbers(&mut self) -> anyhow::Result<Numbers> {
        Ok(Numbers(self.stats.stats("").context("stats")?))
    }
}

fn lease_key(key: u32) -> String {
    format!("demo:lease:{key}")
}

/// Ask for each of the missing keys. Returns for each key whether this client is to fetch it.
fn want_leases(connection: &mut Connection) -> anyhow::Result<Vec<bool>> {
    let mut won = Vec::new();
    for key in (0..LEASE_KEYS).map(lease_key) {
        connection.requests().extend_from_slice(format!("mg {key} v N60\r\n").as_bytes());
        connection.send()?;
        let answer = connection.meta_answer()?;
        let flags = (answer.has(b'W'), answer.has(b'Z'));
        ensure!(
            flags.0 != flags.1 && answer.value == Some(b""),
            "{key} is missing, so W or Z was to come, with an empty value; it was {answer:?}"
        );
        won.push(flags.0);
    }
    Ok(won)
}

/// Add one so many times. Returns what the server answered each time.
fn count_up(connection: &mut Connection) -> anyhow::Result<Vec<u64>> {
    let mut results = Vec::new();
    while (results.len() as u64) < COUNTS_PER_CONNECTION {
        let batch = (COUNTS_PER_CONNECTION - results.len() as u64).min(LOAD_PIPELINE_MAX as u64);
        for _ in 0..batch {
            connection.requests().extend_from_slice(format!("incr {COUNTER} 1\r\n").as_bytes());
        }
        connection.send()?;
        for _ in 0..batch {
            let line = connection.line()?;
            let text = String::from_utf8_lossy(line);
            let result = text.parse().with_context(|| format!("incr answered \"{text}\""))?;
            ensure!(results.last().is_none_or(|before| *before < result), "incr went back to {result}");
            results.push(result);
        }
    }
    Ok(results)
}

/// The answer to `stats`.
struct Numbers(BTreeMap<String, String>);

impl Numbers {
    fn text(&self, name: &str) -> anyhow::Result<&str> {
        self.0.get(name).map(String::as_str).with_context(|| format!("stats has no row {name}"))
    }

    fn of(&self, name: &str) -> anyhow::Result<u64> {
        self.text(name)?.parse().with_context(|| format!("stats: {name} is no number"))
    }
}
