//! The demo's failover. Clients write; the primary is killed meanwhile; one replica is promoted,
//! the other follows it, and the clients go on. Then the demo looks for every acknowledged write.
//!
//! Each write asks to be acknowledged by at least one replica (flag A1), which may be either of the
//! two. So the replica that is to be promoted first gathers from the other what it lacks.

use super::phases::WAIT_MAX;
use super::process::ServerProcess;
use super::replicas::{Replica, catch_up, compare_one, count_found};
use crate::commands::output::{OutputError, say};
use crate::load::client::{ClientError, Connection};
use crate::load::report::grouped;
use crate::replication::order::{Change, Peer, Promotion};
use anyhow::{Context, bail, ensure};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Clients, each with one write under way at a time.
const CLIENTS: usize = 4;
/// Most writes of one client. Those of all clients must stay far below what memory holds, or some
/// would be evicted.
const WRITES_MAX: u32 = 4000;
/// How long clients write before the primary is killed, and again after the new primary has taken a
/// write.
const WRITING: Duration = Duration::from_millis(700);
/// Pause between two tries to write at the replica that is to become the primary.
const TRY_PAUSE: Duration = Duration::from_millis(1);
/// Longest wait for the clients to be served again.
const INTERRUPTION_MAX: Duration = Duration::from_secs(20);

/// What one client did.
struct Written {
    client: usize,
    /// The numbers of the acknowledged writes, and how many of them came before the kill.
    acknowledged: Vec<u32>,
    before_kill: usize,
    /// Writes without an answer, and those whose answer said that no replica has them.
    in_doubt: u64,
    /// When the new primary took this client's first write.
    resumed_at: Instant,
}

/// Kill the primary under load and go on with the first replica in its place.
pub fn fail_over(primary: &mut ServerProcess, replicas: &mut [Replica], keys: u32) -> anyhow::Result<()> {
    let [next, other] = replicas else { bail!("a failover is shown with two replicas") };
    let (from, to) = (primary.address(), next.address());
    let stopping = &AtomicBool::new(false);
    let mut running = None;
    let outcome = std::thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|client| {
            let thread = std::thread::Builder::new().name(format!("writer-{client}"));
            thread.spawn_scoped(scope, move || write(client, from, to, stopping)).context("cannot start a thread")
        });
        let clients = clients.collect::<anyhow::Result<Vec<_>>>();
        let switched = switch_over(primary, next, other);
        if switched.is_ok() {
            std::thread::sleep(WRITING);
        }
        stopping.store(true, Relaxed);
        let written = clients?.into_iter().map(|client| client.join().expect("no client panics"));
        running = Some(switched?);
        written.collect::<anyhow::Result<Vec<_>>>()
    });
    let (written, times) = (outcome?, running.expect("set where the clients succeeded"));
    times.tell(&written, primary.pid(), next.name, other.name)?;
    tell_found(&written, next, other)?;
    let mut connection = Connection::open(next.address(), WAIT_MAX)?;
    catch_up(&mut connection, 1)?;
    let same = compare_one(&mut connection, other, keys)?;
    say!("            both hold the same {} keys of the load, byte for byte", grouped(same))?;
    Ok(())
}

/// When each step of the failover was done, and what the servers answered to the orders.
struct Times {
    killed_at: Instant,
    promoted_at: Instant,
    moved_at: Instant,
    promotion: String,
}

fn switch_over(primary: &mut ServerProcess, next: &mut Replica, other: &mut Replica) -> anyhow::Result<Times> {
    std::thread::sleep(WRITING);
    let killed_at = Instant::now();
    primary.kill()?;
    let promotion = next.order(
        &Change::Promote(Promotion {
            gather: vec![Peer::whoever(other.replication()?.to_string())],
            ..Promotion::default()
        })
        .into(),
    )?;
    let promoted_at = Instant::now();
    other.order(&Change::Replicate { primary: next.replication()?.to_string(), discard: false }.into())?;
    Ok(Times { killed_at, promoted_at, moved_at: Instant::now(), promotion })
}

impl Times {
    fn tell(&self, written: &[Written], pid: u32, next: &str, other: &str) -> Result<(), OutputError> {
        let since = |at: Instant| at.saturating_duration_since(self.killed_at).as_secs_f64() * 1e3;
        let resumed_at = written.iter().map(|written| written.resumed_at).min().unwrap_or(self.promoted_at);
        say!(
            "7 failover  {CLIENTS} clients write; each write is acknowledged once a replica holds it; SIGKILL to the primary (pid {pid})\n            \
             {:.1} ms later \"{next}\" has what \"{other}\" had and is {}\n            \
             {:.1} ms after the kill \"{other}\" follows it; the first write was taken {:.1} ms after the kill",
            since(self.promoted_at),
            self.promotion,
            since(self.moved_at),
            since(resumed_at),
        )
    }
}

/// Write until told to stop: first to `from`, and to `to` once `from` is gone.
fn write(client: usize, from: SocketAddr, to: SocketAddr, stopping: &AtomicBool) -> anyhow::Result<Written> {
    let failed = || format!("client {client}");
    let mut connection = Connection::open(from, WAIT_MAX).with_context(failed)?;
    let mut written =
        Written { client, acknowledged: Vec::new(), before_kill: 0, in_doubt: 0, resumed_at: Instant::now() };
    let mut next = 0;
    while next < WRITES_MAX && written.write(next, &mut connection).is_ok() {
        next += 1;
        ensure!(!stopping.load(Relaxed), "client {client}: the primary was to be killed, and answers");
    }
    written.in_doubt += u64::from(next < WRITES_MAX);
    written.before_kill = written.acknowledged.len();
    let until = Instant::now() + INTERRUPTION_MAX;
    let mut connection = Connection::open(to, WAIT_MAX).with_context(failed)?;
    // A number whose write is in doubt is not used again.
    let numbers = (next + 1..).take(WRITES_MAX as usize);
    for number in numbers {
        while !written.write(number, &mut connection).with_context(failed)? {
            ensure!(Instant::now() < until, "client {client}: no write was taken within {INTERRUPTION_MAX:?}");
            std::thread::sleep(TRY_PAUSE);
        }
        if written.acknowledged.len() == written.before_kill + 1 {
            written.resumed_at = Instant::now();
        }
        if stopping.load(Relaxed) {
            break;
        }
    }
    Ok(written)
}

impl Written {
    /// Write number `number`. False if the server refused because it is not the primary.
    fn write(&mut self, number: u32, connection: &mut Connection) -> Result<bool, ClientError> {
        let (key, value) = (key(self.client, number), value(self.client, number));
        let answer = connection.ask(&format!("ms {key} {} A1\r\n{value}", value.len()))?;
        match answer {
            b"HD" => self.acknowledged.push(number),
            refusal if refusal.starts_with(b"SERVER_ERROR read-only") => return Ok(false),
            // Stored, but no replica acknowledged it in time, and the answer says so.
            _ => self.in_doubt += 1,
        }
        Ok(true)
    }
}

fn key(client: usize, number: u32) -> String {
    format!("demo:failover:{client}:{number}")
}

fn value(client: usize, number: u32) -> String {
    format!("written by client {client} as number {number}, and acknowledged")
}

/// Look for every acknowledged write at both servers.
fn tell_found(written: &[Written], next: &mut Replica, other: &mut Replica) -> anyhow::Result<()> {
    catch_up(&mut Connection::open(next.address(), WAIT_MAX)?, 1)?;
    let sum = |count: &dyn Fn(&Written) -> u64| written.iter().map(count).sum::<u64>();
    let acknowledged = sum(&|written| written.acknowledged.len() as u64);
    let before = sum(&|written| written.before_kill as u64);
    let in_doubt = sum(&|written| written.in_doubt);
    let mut found = acknowledged;
    for replica in [next, other] {
        let mut here = 0;
        for client in written {
            here += client.found_at(replica.connection())?;
        }
        found = found.min(here);
    }
    say!(
        "            acknowledged: {} writes, {} before the kill and {} after; found {}, lost {}; {} more were in doubt, and no client was told otherwise",
        grouped(acknowledged),
        grouped(before),
        grouped(acknowledged - before),
        grouped(found),
        grouped(acknowledged - found),
        grouped(in_doubt),
    )?;
    ensure!(before > 0 && acknowledged > before, "no write was acknowledged before the kill, or none after");
    ensure!(found == acknowledged, "{} writes were acknowledged, and are lost", acknowledged - found);
    Ok(())
}

impl Written {
    /// How many of the acknowledged writes are there, unchanged.
    fn found_at(&self, connection: &mut Connection) -> anyhow::Result<u64> {
        count_found(connection, &self.acknowledged, |number| (key(self.client, number), value(self.client, number)))
    }
}
