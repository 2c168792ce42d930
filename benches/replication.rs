//! What replication can do on one fabric, both ends in one process: how fast a replica copies what
//! is there, beside a plain copy between the same two memories; how fast it applies small records,
//! beside how fast one core writes them; how late it has what is written.
//!
//!     cargo bench --bench replication -- [--fabric shm|tcp|verbs] [--mode pull|push] [--listen ADDR:PORT] [--memory MIB] [--rounds N] [--pullers N] [--only NAME]
//!
//! Each round measures everything once, in turn, so that ratios are of one time; medians are
//! printed. Processor time, but for lag.
//!
//! `pullers` shows what more of them gain: a full copy by one, by two, by four and so on up to
//! `--pullers` (4), in time that passes, and the processor time of all for a record. It takes a
//! core for each.
//!
//! `sides` is for comparing the modes: the time a full copy takes, and the processor time that it
//! and a trickle of writes cost on each side. The primary's side is all of this process but the
//! replica's thread and the writer's: with pull what a fabric needs of it, with push the thread
//! that writes.
#![allow(unsafe_code)]

#[path = "replication/watched.rs"]
mod watched;

use anyhow::{Context, bail};
use remora::base::time::UnixSeconds;
use remora::fabric::{self, Channel, ConnectOptions, Exporter, Grant, Invitation, Kind, Token};
use remora::replication::ack::Tag;
use remora::replication::pull::Puller;
use remora::replication::push::Mode;
use remora::replication::push::inbox::Inbox;
use remora::replication::push::layout::Layout;
use remora::replication::push::pusher::Pusher;
use remora::replication::push::pushing::Pushing;
use remora::replication::regions;
use remora::replication::shares::{PULLERS_MAX, Shares};
use remora::store::{NewItem, Participant, Store, StoreConfig};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use watched::Watched;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const SILENCE_MAX: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_millis(10);
/// Time between two stamps of the lag measurement, and how many.
const STAMP_EVERY: Duration = Duration::from_millis(2);
const STAMPS: usize = 500;

struct Setup {
    kind: Kind,
    mode: Mode,
    listen: SocketAddr,
    memory_bytes: usize,
    rounds: usize,
    pullers: usize,
    only: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    let kind = match value("--fabric").map_or("shm", String::as_str) {
        "shm" => Kind::Shm,
        "tcp" => Kind::Tcp,
        "verbs" => Kind::Verbs,
        other => bail!("--fabric {other}: there are shm, tcp and verbs"),
    };
    let mode = match value("--mode").map_or("pull", String::as_str) {
        "pull" => Mode::Pull,
        "push" => Mode::Push,
        other => bail!("--mode {other}: there are pull and push"),
    };
    let number =
        |name: &str, default: usize| value(name).map_or(Ok(default), |text| text.parse().context(name.to_string()));
    let setup = Setup {
        kind,
        mode,
        listen: value("--listen").map_or("127.0.0.1:0", String::as_str).parse().context("--listen")?,
        memory_bytes: number("--memory", 256)? << 20,
        rounds: number("--rounds", 5)?,
        pullers: number("--pullers", 4)?.clamp(1, PULLERS_MAX),
        only: value("--only").cloned(),
    };
    println!(
        "replication over {}, {}, {} MiB, {} rounds; medians",
        kind.name(),
        mode.name(),
        setup.memory_bytes >> 20,
        setup.rounds
    );
    let wanted = |name: &str| setup.only.as_ref().is_none_or(|only| only == name);
    if wanted("copy") {
        copy(&setup)?;
    }
    if wanted("small") {
        small(&setup)?;
    }
    if wanted("pullers") && mode == Mode::Pull {
        pullers(&setup)?;
    }
    if wanted("lag") {
        lag(&setup)?;
    }
    if wanted("sides") {
        sides(&setup)?;
    }
    Ok(())
}

fn median(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    (figures[figures.len() / 2], figures[0], figures[figures.len() - 1])
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What a copy takes: pulled over shared memory all of it is this thread's own work, and its
/// processor time says it on a busy machine, too.
struct Clock(Option<Duration>, Instant);

impl Clock {
    fn start(setup: &Setup) -> Clock {
        let alone = setup.kind == Kind::Shm && setup.mode == Mode::Pull;
        Clock(alone.then(thread_time), Instant::now())
    }

    fn seconds(&self) -> f64 {
        self.0.map_or_else(|| self.1.elapsed(), |begin| thread_time() - begin).as_secs_f64()
    }
}

fn primary(setup: &Setup) -> anyhow::Result<Arc<Store>> {
    primary_of(setup, StoreConfig::default())
}

fn primary_of(setup: &Setup, config: StoreConfig) -> anyhow::Result<Arc<Store>> {
    let memory_bytes = setup.memory_bytes;
    Ok(Arc::new(Store::new(StoreConfig { memory_bytes, hugepages: true, hash_seed: Some((1, 2)), ..config })?))
}

/// A store beside it that can follow, every page of it touched: the first touch is the kernel's
/// work, not replication's.
fn replica(primary: &Store) -> anyhow::Result<Store> {
    let store = Store::with_geometry(primary.geometry(), primary.memory().slabs, 1, true, Some((3, 4)))?;
    store.pool().memory().words().iter().step_by(512).for_each(|word| word.store(0, Relaxed));
    Ok(store)
}

/// Both ends of a fabric, connected; the grant must live as long as the channel is used.
struct Joined {
    channel: Box<dyn Channel>,
    _grant: Box<dyn Grant>,
    _exporter: Box<dyn Exporter>,
}

fn join(setup: &Setup, store: &Arc<Store>) -> anyhow::Result<Joined> {
    let options = ConnectOptions::default();
    let exporter = fabric::listen(setup.kind, setup.listen, &options)?;
    let token = Token([7; 16]);
    if setup.mode == Mode::Push {
        return join_pushed(setup, store, exporter, token);
    }
    let (channel, grant) = connect(&*exporter, store, token)?;
    Ok(Joined { channel, _grant: grant, _exporter: exporter })
}

fn connect(
    exporter: &dyn Exporter,
    store: &Arc<Store>,
    token: Token,
) -> anyhow::Result<(Box<dyn Channel>, Box<dyn Grant>)> {
    let grant = exporter.grant(token, regions::of(store))?;
    let invitation = Invitation::new(exporter, token, &*grant);
    Ok((fabric::connect(exporter.kind(), &invitation, &ConnectOptions::default())?, grant))
}

/// The other way round: a thread writes to the replica's inbox.
fn join_pushed(setup: &Setup, store: &Arc<Store>, exporter: Box<dyn Exporter>, token: Token) -> anyhow::Result<Joined> {
    let (geometry, memory) = (store.geometry(), store.memory());
    let layout = Layout::of(&geometry, &memory);
    let inboxes = fabric::listen(setup.kind, SocketAddr::new(setup.listen.ip(), 0), &ConnectOptions::default())?;
    let (inbox, invite) = Inbox::grant(inboxes, token, geometry, memory, layout)?;
    let writer = exporter.writer().context("this fabric cannot push")?;
    let pusher =
        Pusher::connect(writer, &invite.invitation, regions::of(store), (geometry, memory), layout, SILENCE_MAX)?;
    // As lag is measured, with a replica that spins.
    let grant = Box::new(Pushing::start(setup.kind, pusher, Duration::ZERO)?);
    Ok(Joined { channel: Box::new(inbox), _grant: grant, _exporter: exporter })
}

fn puller<'s>(channel: Box<dyn Channel>, primary: &Store, replica: &'s Store) -> anyhow::Result<Puller<'s>> {
    puller_of(channel, primary, replica, 0..replica.shards().len())
}

fn puller_of<'s>(
    channel: Box<dyn Channel>,
    primary: &Store,
    replica: &'s Store,
    share: Range<usize>,
) -> anyhow::Result<Puller<'s>> {
    let mut puller = Puller::new(channel, replica.geometry(), share.clone(), primary.memory(), SILENCE_MAX);
    for (shard, theirs) in share.clone().zip(primary.histories().drain(share)) {
        let follower = replica.follower(shard).context("the replica follows already")?;
        puller.add(shard, follower, theirs, Tag::FIRST);
    }
    Ok(puller)
}

fn catch_up(puller: &mut Puller<'_>) -> anyhow::Result<()> {
    while !puller.is_caught_up() {
        puller.step(WAIT)?;
    }
    Ok(())
}

/// Processor time of this process, of all its threads.
fn process_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn write(store: &Store, seat: &mut Participant<'_>, key: u64, value: &[u8]) {
    let text = format!("key-{key:016}");
    loop {
        let turn = seat.turn();
        let at = store.locate(text.as_bytes());
        let draft = store.draft(&at, NewItem { value, ..NewItem::default() }, NOW);
        if store.lock(&at).unwrap().entry(&turn, NOW).set(&draft).is_ok() {
            return;
        }
        store.maintain(&turn, 0, NOW);
    }
}

fn committed(store: &Store) -> u64 {
    store.shards().iter().map(|shard| shard.control().committed() - shard.control().tail()).sum()
}

/// One memcpy of all slabs of a store into another one.
fn copy_pool(from: &Store, to: &Store) {
    let (from, to) = (from.pool().memory().words(), to.pool().memory().words());
    assert_eq!(from.len(), to.len());
    // SAFETY: both are whole mappings of the same length, nobody writes to either meanwhile, and
    // words are plain memory.
    unsafe {
        std::ptr::copy_nonoverlapping(from.as_ptr().cast::<u8>(), to.as_ptr().cast::<u8>().cast_mut(), from.len() * 8)
    };
}

/// A full copy of a store of 16 KiB values, beside memcpy from the same memory to the same memory.
fn copy(setup: &Setup) -> anyhow::Result<()> {
    let store = primary(setup)?;
    let value = vec![b'v'; 16 << 10];
    let mut seat = store.join();
    // Nearly full, nothing evicted: what a replica finds when it joins.
    for key in 0..(setup.memory_bytes as u64 * 9 / 10 / (value.len() as u64 + 40)) {
        write(&store, &mut seat, key, &value);
    }
    drop(seat);
    let bytes = committed(&store) as f64;
    let (mut plain, mut pulled, mut ratios, mut idle) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut read_bytes = 0;
    for _ in 0..setup.rounds {
        let copy = replica(&store)?;
        let clock = Clock::start(setup);
        copy_pool(&store, &copy);
        let plain_rate = store.stats().capacity_bytes as f64 / clock.seconds();
        let joined = join(setup, &store)?;
        let (channel, idle_ns) = Watched::new(joined.channel);
        let mut puller = puller(Box::new(channel), &store, &copy)?;
        let (clock, begun, before) = (Clock::start(setup), Instant::now(), idle_ns.load(Relaxed));
        catch_up(&mut puller)?;
        let pulled_rate = bytes / clock.seconds();
        idle.push((idle_ns.load(Relaxed) - before) as f64 / begun.elapsed().as_nanos() as f64);
        let counts = puller.counts();
        read_bytes = (counts.pulled_bytes / counts.pieces.max(1)).next_multiple_of(4096);
        plain.push(plain_rate / 1e6);
        pulled.push(pulled_rate / 1e6);
        ratios.push(pulled_rate / plain_rate);
    }
    let (plain, pulled, (ratio, least, most)) = (median(plain).0, median(pulled).0, median(ratios));
    println!(
        "copy   16 KiB values: {pulled:.0} MB/s pulled and applied, {plain:.0} MB/s copied plainly: ratio {ratio:.2} ({least:.2}..{most:.2}); \
         READs of {read_bytes} bytes; none under way for {:.1}% of the time",
        median(idle).0 * 100.0
    );
    Ok(())
}

/// 100-byte values: processor time to apply one, beside processor time to write one.
fn small(setup: &Setup) -> anyhow::Result<()> {
    let value = [b'v'; 100];
    let count = setup.memory_bytes as u64 * 8 / 10 / 136;
    let (mut writes, mut applies, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setup.rounds {
        let store = primary(setup)?;
        replica(&store)?;
        let mut seat = store.join();
        let begin = thread_time();
        for key in 0..count {
            write(&store, &mut seat, key, &value);
        }
        let write_ns = (thread_time() - begin).as_nanos() as f64 / count as f64;
        drop(seat);
        let copy = replica(&store)?;
        let joined = join(setup, &store)?;
        let mut puller = puller(joined.channel, &store, &copy)?;
        let begin = thread_time();
        catch_up(&mut puller)?;
        let apply_ns = (thread_time() - begin).as_nanos() as f64 / puller.counts().records as f64;
        writes.push(write_ns);
        applies.push(apply_ns);
        ratios.push(apply_ns / write_ns);
    }
    let (write_ns, apply_ns, (ratio, least, most)) = (median(writes).0, median(applies).0, median(ratios));
    println!(
        "small  100-byte values: {apply_ns:.0} ns to pull and apply one, {write_ns:.0} ns to store one (store alone, no network): ratio {ratio:.2} ({least:.2}..{most:.2})"
    );
    Ok(())
}

/// A full copy of 100-byte values by ever more pullers, each with a thread and a channel of its
/// own.
fn pullers(setup: &Setup) -> anyhow::Result<()> {
    // Some for each puller, so that their shares are alike.
    let config = StoreConfig { shards: Some(4 * PULLERS_MAX), item_bytes_max: 16 << 10, ..StoreConfig::default() };
    let (store, value) = (primary_of(setup, config)?, [b'v'; 100]);
    let count = setup.memory_bytes as u64 * 8 / 10 / 136;
    let mut seat = store.join();
    for key in 0..count {
        write(&store, &mut seat, key, &value);
    }
    drop(seat);
    let (bytes, shards) = (committed(&store) as f64, store.shards().len());
    let most = setup.pullers.min(shards);
    for number in (0..).map(|doubled| 1 << doubled).take_while(|number| *number < most).chain([most]) {
        let (shares, mut times, mut costs, mut records) = (Shares::new(shards, number), Vec::new(), Vec::new(), 0);
        for _ in 0..setup.rounds {
            let copy = replica(&store)?;
            let exporter = fabric::listen(setup.kind, setup.listen, &ConnectOptions::default())?;
            let (mut all, mut grants) = (Vec::new(), Vec::new());
            for at in 0..number {
                let (channel, grant) = connect(&*exporter, &store, Token([at as u8; 16]))?;
                all.push(puller_of(channel, &store, &copy, shares.of(at))?);
                grants.push(grant);
            }
            let (begin, processor) = (Instant::now(), process_time());
            std::thread::scope(|scope| {
                let running: Vec<_> = all.iter_mut().map(|puller| scope.spawn(|| catch_up(puller))).collect();
                running.into_iter().try_for_each(|one| one.join().expect("a puller does not panic"))
            })?;
            times.push(begin.elapsed().as_secs_f64());
            records = all.iter().map(|puller| puller.counts().records).sum::<u64>();
            costs.push((process_time() - processor).as_nanos() as f64 / records as f64);
            drop(all);
            drop(grants);
        }
        let (time, least, most) = median(times);
        println!(
            "pullers {number:>2} of {shards} shards, 100-byte values: {:.2} million a second, {:.0} MB/s; {:.0} ms ({:.0}..{:.0}), {:.0} ns of processor time each",
            records as f64 / time / 1e6,
            bytes / time / 1e6,
            time * 1e3,
            least * 1e3,
            most * 1e3,
            median(costs).0
        );
    }
    Ok(())
}

/// From the moment before a stamp is stored at the primary to the moment after the replica has
/// applied it.
fn lag(setup: &Setup) -> anyhow::Result<()> {
    let store = primary(setup)?;
    let copy = replica(&store)?;
    let joined = join(setup, &store)?;
    let mut puller = puller(joined.channel, &store, &copy)?;
    catch_up(&mut puller)?;
    let begin = Instant::now();
    let stop = AtomicBool::new(false);
    let mut lags = Vec::new();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let (store, stop) = (&store, &stop);
        let writer = scope.spawn(move || {
            let mut seat = store.join();
            for _ in 0..STAMPS {
                std::thread::sleep(STAMP_EVERY);
                let stamp = begin.elapsed().as_nanos() as u64;
                write(store, &mut seat, 0, &stamp.to_le_bytes());
            }
            // The last one is to be seen as well.
            std::thread::sleep(STAMP_EVERY * 50);
            stop.store(true, Relaxed);
        });
        let mut seat = copy.join();
        let mut last = 0;
        while !stop.load(Relaxed) {
            puller.step(WAIT)?;
            let turn = seat.turn();
            let Some(item) = copy.get(&turn, &copy.locate(b"key-0000000000000000"), NOW) else { continue };
            let mut bytes = Vec::new();
            item.value().copy_to(&mut bytes);
            let stamp = u64::from_le_bytes(bytes.try_into().expect("a stamp is eight bytes"));
            if stamp != last {
                last = stamp;
                lags.push((begin.elapsed().as_nanos() as u64 - stamp) as f64 / 1e3);
            }
        }
        writer.join().expect("the writer does not panic");
        Ok(())
    })?;
    lags.sort_by(f64::total_cmp);
    let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize];
    println!(
        "lag    {} of {STAMPS} stamps seen: median {:.1} us, p90 {:.1}, p99 {:.1}, most {:.1}",
        lags.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
    Ok(())
}

/// Processor time of each side, for a full copy of 16 KiB values and for a trickle of small writes.
fn sides(setup: &Setup) -> anyhow::Result<()> {
    let store = primary(setup)?;
    let value = vec![b'v'; 16 << 10];
    let mut seat = store.join();
    for key in 0..(setup.memory_bytes as u64 * 9 / 10 / (value.len() as u64 + 40)) {
        write(&store, &mut seat, key, &value);
    }
    let bytes = committed(&store) as f64;
    let (mut rates, mut here, mut there) = (Vec::new(), Vec::new(), Vec::new());
    let (mut idle_here, mut idle_there) = (Vec::new(), Vec::new());
    for _ in 0..setup.rounds {
        let copy = replica(&store)?;
        let joined = join(setup, &store)?;
        let (channel, _held) = (joined.channel, (joined._grant, joined._exporter));
        let mut puller = puller(channel, &store, &copy)?;
        let (begun, all, own) = (Instant::now(), process_time(), thread_time());
        catch_up(&mut puller)?;
        let (elapsed, own) = (begun.elapsed().as_secs_f64(), thread_time() - own);
        let other = (process_time() - all).saturating_sub(own);
        rates.push(bytes / elapsed / 1e6);
        here.push(own.as_secs_f64() * 1e9 / bytes * 1024.0);
        there.push(other.as_secs_f64() * 1e9 / bytes * 1024.0);

        let (all, own, mut writing) = (process_time(), thread_time(), Duration::ZERO);
        for stamp in 0..STAMPS as u64 {
            let begun = thread_time();
            write(&store, &mut seat, 0, &stamp.to_le_bytes());
            writing += thread_time() - begun;
            catch_up_to(&mut puller, &store, &copy)?;
        }
        let own = thread_time() - own - writing;
        let other = (process_time() - all).saturating_sub(own + writing);
        idle_here.push(own.as_secs_f64() * 1e6 / STAMPS as f64);
        idle_there.push(other.as_secs_f64() * 1e6 / STAMPS as f64);
    }
    println!(
        "sides  full copy: {:.0} MB/s elapsed; processor time for 1 KiB: {:.0} ns at the replica, {:.0} ns at the primary; \
         for a write by itself, both spinning: {:.1} us and {:.1} us",
        median(rates).0,
        median(here).0,
        median(there).0,
        median(idle_here).0,
        median(idle_there).0
    );
    Ok(())
}

/// Until the replica has all that the primary has.
fn catch_up_to(puller: &mut Puller<'_>, store: &Store, copy: &Store) -> anyhow::Result<()> {
    let all = |store: &Store| store.shards().iter().map(|shard| shard.control().committed()).sum::<u64>();
    while all(copy) < all(store) {
        puller.step(WAIT)?;
    }
    Ok(())
}
