//! The demo's shards: three servers, each the primary of some shards and a replica of the others in
//! the rest. Clients write to whoever takes it. Shards are handed over and back meanwhile, and one
//! server is killed. Then the demo looks for every acknowledged write, and at who takes a key's.

use super::phases::WAIT_MAX;
use super::replicas::{Replica, catch_up, count_found};
use crate::base::hash::shard_hash;
use crate::base::shards::ShardSet;
use crate::commands::output::say;
use crate::load::client::Connection;
use crate::load::report::grouped;
use crate::replication::order::{Change, Order, Peer, Promotion};
use anyhow::{Context, ensure};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Clients, each with one write under way at a time, and most writes of one client. Those of all
/// must stay far below what memory holds, or some would be evicted.
const CLIENTS: usize = 4;
const WRITES_MAX: u32 = 4000;
/// How long clients write before each change, and after the last one.
const WRITING: Duration = Duration::from_millis(300);
/// Pause between two tries of a write that nobody takes.
const TRY_PAUSE: Duration = Duration::from_millis(1);
/// Longest wait for a write to be taken.
const INTERRUPTION_MAX: Duration = Duration::from_secs(20);
/// Keys of each client that are written to every server at the end: one is to take them.
const KEYS_WRITTEN_ONCE_MORE: usize = 100;

/// What the clients know from the beginning.
struct Servers<'a> {
    addresses: Vec<SocketAddr>,
    shards: usize,
    stopping: &'a AtomicBool,
    /// A server is about to be killed.
    killing: &'a AtomicBool,
}

/// What one client did.
struct Written {
    client: usize,
    /// The numbers of the acknowledged writes.
    acknowledged: Vec<u32>,
    /// Writes without an answer, and those whose answer said that no replica has them.
    in_doubt: u64,
    /// Refusals that it followed to another server.
    redirected: u64,
    /// The longest that a write took before the kill, and after it.
    longest: [Duration; 2],
}

/// One client.
struct Writer<'a> {
    servers: &'a Servers<'a>,
    connections: Vec<Option<Connection>>,
    /// The server that takes a shard's writes, by what was answered.
    takers: Vec<usize>,
    written: Written,
}

/// Share the shards among three servers, of which the first has them all. The one that is killed is
/// taken out.
pub fn share(servers: &mut Vec<Replica>) -> anyhow::Result<()> {
    let all = servers[0].primary_of()?;
    let thirds: Vec<ShardSet> = (0..3).map(|third| all.iter().filter(|shard| shard % 3 == third).collect()).collect();
    catch_up(servers[0].connection(), 2)?;
    for heir in [1, 2] {
        promote(servers, heir, thirds[heir], true, &[3 - heir])?;
    }
    let names: Vec<&str> = servers.iter().map(|server| server.name).collect();
    say!(
        "8 shards    \"{}\", \"{}\" and \"{}\" are each the primary of a third of {} shards, and replicas of each other",
        names[0],
        names[1],
        names[2],
        all.count()
    )?;
    let (stopping, killing) = (AtomicBool::new(false), AtomicBool::new(false));
    let addresses = servers.iter().map(Replica::address).collect();
    let known = Servers { addresses, shards: all.count(), stopping: &stopping, killing: &killing };
    let written = std::thread::scope(|scope| {
        let known = &known;
        let clients = (0..CLIENTS).map(|client| {
            let thread = std::thread::Builder::new().name(format!("writer-{client}"));
            thread.spawn_scoped(scope, move || Writer::new(client, known).run()).context("cannot start a thread")
        });
        let clients = clients.collect::<anyhow::Result<Vec<_>>>();
        let changed = change(servers, thirds[0], known);
        if changed.is_ok() {
            std::thread::sleep(WRITING);
        }
        stopping.store(true, Relaxed);
        let written = clients?.into_iter().map(|client| client.join().expect("no client panics"));
        let written = written.collect::<anyhow::Result<Vec<_>>>();
        changed.and(written)
    })?;
    tell_found(&written, servers)?;
    tell_takers(&written, servers)
}

/// There and back, and the kill.
fn change(servers: &mut Vec<Replica>, firsts: ShardSet, known: &Servers<'_>) -> anyhow::Result<()> {
    let half: ShardSet = firsts.iter().take(firsts.count().div_ceil(2)).collect();
    let mut took = Vec::new();
    for heir in [1, 0] {
        std::thread::sleep(WRITING);
        let begun_at = Instant::now();
        promote(servers, heir, half, true, &[2])?;
        took.push(begun_at.elapsed().as_secs_f64() * 1e3);
    }
    say!(
        "            {} of the shards of \"{}\" are handed to \"{}\" under load, in {:.1} ms, and back, in {:.1} ms",
        half.count(),
        servers[0].name,
        servers[1].name,
        took[0],
        took[1]
    )?;
    std::thread::sleep(WRITING);
    let lost = servers[2].primary_of()?;
    let mut victim = servers.pop().context("there are three")?;
    known.killing.store(true, Relaxed);
    let killed_at = Instant::now();
    victim.kill()?;
    let ones: ShardSet = lost.iter().take(lost.count() / 2).collect();
    promote(servers, 0, ones, false, &[1])?;
    promote(servers, 1, lost.without(ones), false, &[0])?;
    Ok(say!(
        "            SIGKILL to \"{}\" (pid {}): its shards go on, half each, at \"{}\" and \"{}\" {:.1} ms later",
        victim.name,
        victim.pid(),
        servers[0].name,
        servers[1].name,
        killed_at.elapsed().as_secs_f64() * 1e3
    )?)
}

/// Those that are gathered from follow it afterwards.
fn promote(
    servers: &mut [Replica],
    heir: usize,
    shards: ShardSet,
    take_over: bool,
    gather: &[usize],
) -> anyhow::Result<()> {
    if shards.is_empty() {
        return Ok(());
    }
    let peer = |server: &usize| Ok(Peer::whoever(servers[*server].replication()?.to_string()));
    let gather = gather.iter().map(peer).collect::<anyhow::Result<Vec<_>>>()?;
    let change = Change::Promote(Promotion { gather, take_over, ..Promotion::default() });
    servers[heir].order(&Order { change, shards: Some(shards) })?;
    Ok(())
}

impl<'a> Writer<'a> {
    fn new(client: usize, servers: &'a Servers<'a>) -> Writer<'a> {
        let written =
            Written { client, acknowledged: Vec::new(), in_doubt: 0, redirected: 0, longest: [Duration::ZERO; 2] };
        let connections = servers.addresses.iter().map(|_| None).collect();
        Writer { servers, connections, takers: vec![0; servers.shards], written }
    }

    /// Write until told to stop, each key to who takes it.
    fn run(mut self) -> anyhow::Result<Written> {
        for number in 0..WRITES_MAX {
            if self.servers.stopping.load(Relaxed) {
                break;
            }
            let begun_at = Instant::now();
            while !self.write(number) {
                let waited = begun_at.elapsed();
                ensure!(waited < INTERRUPTION_MAX, "client {}: no write was taken in {waited:?}", self.written.client);
            }
            let longest = &mut self.written.longest[usize::from(self.servers.killing.load(Relaxed))];
            *longest = begun_at.elapsed().max(*longest);
            std::thread::sleep(TRY_PAUSE);
        }
        Ok(self.written)
    }

    /// True once the number is done with. False: another server is to be asked.
    fn write(&mut self, number: u32) -> bool {
        let (key, value) = (key(self.written.client, number), value(self.written.client, number));
        let shard = ((u128::from(shard_hash(key.as_bytes())) * self.servers.shards as u128) >> 64) as usize;
        let at = self.takers[shard];
        let others = (at + 1) % self.servers.addresses.len();
        if self.connections[at].is_none() {
            self.connections[at] = Connection::open(self.servers.addresses[at], WAIT_MAX).ok();
        }
        let Some(connection) = &mut self.connections[at] else {
            // It is gone.
            self.takers[shard] = others;
            return false;
        };
        match connection.ask(&format!("ms {key} {} A1\r\n{value}", value.len())) {
            Ok(b"HD") => self.written.acknowledged.push(number),
            Ok(refusal) if refusal.starts_with(b"SERVER_ERROR read-only") => {
                let named = String::from_utf8_lossy(refusal).rsplit(' ').next().and_then(|word| word.parse().ok());
                let named = self.servers.addresses.iter().position(|address| Some(*address) == named);
                self.takers[shard] = named.unwrap_or(others);
                self.written.redirected += 1;
                std::thread::sleep(TRY_PAUSE);
                return false;
            }
            Ok(_) => self.written.in_doubt += 1,
            // Whether it was done, nobody knows. A number is not used again.
            Err(_) => {
                self.connections[at] = None;
                self.written.in_doubt += 1;
            }
        }
        true
    }
}

fn key(client: usize, number: u32) -> String {
    format!("demo:shards:{client}:{number}")
}

fn value(client: usize, number: u32) -> String {
    format!("written by client {client} as number {number}, to whoever takes it")
}

/// Look for every acknowledged write at all servers that are left.
fn tell_found(written: &[Written], servers: &mut [Replica]) -> anyhow::Result<()> {
    for server in servers.iter_mut() {
        catch_up(server.connection(), 1)?;
    }
    let acknowledged: u64 = written.iter().map(|written| written.acknowledged.len() as u64).sum();
    let in_doubt: u64 = written.iter().map(|written| written.in_doubt).sum();
    let redirected: u64 = written.iter().map(|written| written.redirected).sum();
    let longest = |which: usize| {
        let longest = written.iter().map(|written| written.longest[which]).max().unwrap_or_default();
        longest.as_secs_f64() * 1e3
    };
    let mut found = acknowledged;
    for server in servers {
        let mut here = 0;
        for written in written {
            here += written.found_at(server.connection())?;
        }
        found = found.min(here);
    }
    say!(
        "            {} refusals led {CLIENTS} clients to who takes a key; a write took at most {:.0} ms before the kill, {:.0} ms after\n            \
         acknowledged: {} writes; found {}, lost {}; {} more were in doubt, and no client was told otherwise",
        grouped(redirected),
        longest(0),
        longest(1),
        grouped(acknowledged),
        grouped(found),
        grouped(acknowledged - found),
        grouped(in_doubt),
    )?;
    ensure!(acknowledged > 0 && redirected > 0, "no write was acknowledged, or none was refused");
    ensure!(found == acknowledged, "{} writes were acknowledged, and are lost", acknowledged - found);
    Ok(())
}

impl Written {
    /// How many of the acknowledged writes are there, unchanged.
    fn found_at(&self, connection: &mut Connection) -> anyhow::Result<u64> {
        count_found(connection, &self.acknowledged, |number| (key(self.client, number), value(self.client, number)))
    }
}

/// Each key is written to all servers: one takes it.
fn tell_takers(written: &[Written], servers: &mut [Replica]) -> anyhow::Result<()> {
    let mut keys = 0;
    for written in written {
        for number in written.acknowledged.iter().rev().take(KEYS_WRITTEN_ONCE_MORE) {
            let key = key(written.client, *number);
            let mut takers = Vec::new();
            for server in servers.iter_mut() {
                let answer = server.connection().ask(&format!("ms {key} 1\r\nx"))?;
                let is_refused = answer.starts_with(b"SERVER_ERROR read-only replica");
                ensure!(is_refused || answer == b"HD", "{key}: {}", String::from_utf8_lossy(answer));
                takers.extend((!is_refused).then_some(server.name));
            }
            ensure!(takers.len() == 1, "{key}: a write is taken by {takers:?}, not by one server");
            keys += 1;
        }
    }
    Ok(say!(
        "            {} keys written to both once more: one server takes each, the other refuses it",
        grouped(keys)
    )?)
}
