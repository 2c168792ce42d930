//! Clients as threads: writers, that ask whoever is the primary for everything, and readers of one
//! replica each.

use super::connection::{Acks, COUNTERS_FROM, Connection, End};
use super::site::{Seat, Site, View};
use crate::support::history::event::{Operation, Place};
use fastrand::Rng;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::time::Duration;

/// Between looks for a primary, or for a replica, that is not there.
const PAUSE: Duration = Duration::from_millis(1);

/// What the clients ask.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    pub registers: u32,
    pub counters: u32,
    /// Requests sent at a time, at most.
    pub batch_max: usize,
    pub acks: Acks,
    /// Between the batches of a writer, at most.
    pub pause_max: Duration,
}

impl Traffic {
    /// Every key that they use.
    pub fn keys(self) -> impl Iterator<Item = u32> {
        (0..self.registers).chain(COUNTERS_FROM..COUNTERS_FROM + self.counters)
    }
}

/// See the module.
pub struct Clients {
    site: Arc<Site>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub fn start(site: &Arc<Site>, seed: u64, traffic: Traffic, writers: usize, readers: usize) -> Clients {
        let thread = |name: String, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name).spawn(run).expect("a thread")
        };
        let mut threads = Vec::new();
        for number in 0..writers {
            let (site, random) = (site.clone(), Rng::with_seed(seed << 8 | number as u64));
            threads.push(thread(format!("writer-{number}"), Box::new(move || write(&site, random, traffic))));
        }
        for replica in 0..readers {
            let (site, random) = (site.clone(), Rng::with_seed(seed << 8 | 128 | replica as u64));
            threads.push(thread(format!("reader-{replica}"), Box::new(move || read(&site, replica, random, traffic))));
        }
        Clients { site: site.clone(), threads }
    }

    /// End them. What one of them has found wrong fails the test.
    pub fn stop(self) {
        self.site.stopping.store(true, SeqCst);
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        assert!(ended.iter().all(Result::is_ok), "a client has failed, see above");
    }
}

/// One connection after the other, each to who is the primary then.
fn write(site: &Site, mut random: Rng, traffic: Traffic) {
    while !site.is_stopping() {
        site.busy.fetch_add(1, SeqCst);
        if let Some(seat) = site.seat()
            && let Ok(connection) = Connection::open(seat.address, traffic.acks)
        {
            write_to(site, seat, connection, &mut random, traffic);
        }
        site.busy.fetch_sub(1, SeqCst);
        std::thread::sleep(PAUSE);
    }
}

/// Write until the connection breaks, or another primary has the seat.
fn write_to(site: &Site, seat: Seat, mut connection: Connection, random: &mut Rng, traffic: Traffic) {
    let session = site.number();
    while !site.is_stopping() && site.seat() == Some(seat) {
        let asked = batch(site, &connection, random, traffic);
        let (events, end) = connection.ask(session, Place::Primary, &asked, || site.now());
        site.note(seat.reign, events);
        if end == End::Broken {
            return;
        }
        std::thread::sleep(traffic.pause_max.mul_f64(random.f64()));
    }
}

fn batch(site: &Site, connection: &Connection, random: &mut Rng, traffic: Traffic) -> Vec<(u32, Operation)> {
    // Within a batch, by what CAS a key is asked for again is not known yet.
    let mut compared = HashSet::new();
    let length = random.usize(1..=traffic.batch_max);
    let mut one = || {
        let key = key(random, traffic);
        (key, operation(site, connection, random, &mut compared, key))
    };
    (0..length).map(|_| one()).collect()
}

/// A key: one in eight is a counter.
pub fn key(random: &mut Rng, traffic: Traffic) -> u32 {
    if traffic.counters > 0 && random.u8(0..8) == 0 {
        return COUNTERS_FROM + random.u32(0..traffic.counters);
    }
    random.u32(0..traffic.registers)
}

/// What is asked of a key. `compared` has the keys that are compared in the same batch.
pub fn operation(
    site: &Site,
    connection: &Connection,
    random: &mut Rng,
    compared: &mut HashSet<u32>,
    key: u32,
) -> Operation {
    if key >= COUNTERS_FROM {
        return match random.u8(0..20) {
            0..14 => Operation::Incr(random.u64(1..9)),
            14..17 => Operation::Get,
            17..19 => Operation::Set(site.value() << 20),
            _ => Operation::Delete,
        };
    }
    match random.u8(0..20) {
        0..10 => Operation::Set(site.value()),
        10..15 => Operation::Get,
        15..17 => Operation::Delete,
        _ => match connection.seen.get(&key) {
            Some((expected, _)) if compared.insert(key) => Operation::Cas { expected: *expected, value: site.value() },
            _ => Operation::Get,
        },
    }
}

fn read(site: &Site, replica: usize, mut random: Rng, traffic: Traffic) {
    let mut open: Option<(View, u32, Connection)> = None;
    while !site.is_stopping() {
        let Some(view) = site.view(replica) else {
            std::thread::sleep(PAUSE);
            continue;
        };
        if open.as_ref().is_none_or(|(of, ..)| *of != view) {
            let Ok(connection) = Connection::open(view.address, Acks::None) else {
                std::thread::sleep(PAUSE);
                continue;
            };
            open = Some((view, site.number(), connection));
        }
        let Some((_, session, connection)) = &mut open else { continue };
        let mut key = || match random.u32(0..traffic.registers + traffic.counters) {
            register if register < traffic.registers => register,
            counter => COUNTERS_FROM + counter - traffic.registers,
        };
        let asked: Vec<(u32, Operation)> = (0..traffic.batch_max).map(|_| (key(), Operation::Get)).collect();
        let (mut events, end) = connection.ask(*session, view.place, &asked, || site.now());
        let after = site.view(replica);
        if after != Some(view) {
            // The replica changed sides while it was asked, so its answer belongs to neither reign.
            let session = site.number();
            events.iter_mut().for_each(|event| (event.session, event.place) = (session, Place::Between));
        }
        // Of what is between two reigns it is only asked whether it had been written: in the later
        // or before.
        site.note(after.map_or(view.reign, |after| after.reign.max(view.reign)), events);
        if end == End::Broken {
            open = None;
        }
        std::thread::sleep(traffic.pause_max.mul_f64(random.f64()));
    }
}
