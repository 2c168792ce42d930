//! Memory that was never a primary's: control lines that none has, terms that are none, records
//! that are torn, forged or random. By seed, many times: the pull loop goes on, or it ends and says
//! why; it never panics, and what it has applied can be read. (lies.rs begins with a primary's.)

use super::{is_whole, number};
use crate::clock;
use crate::pullers::End;
use crate::session::{Network, Offered, Session};
use crate::support::forged::{Forged, ForgedLine, GEOMETRY, SLABS, TERM, histories, memory};
use crate::support::wait::go_on_until;
use fastrand::Rng;
use remora::base::term::Term;
use remora::base::time::UnixSeconds;
use remora::fabric::Kind;
use remora::fabric::sim::Faults;
use remora::replication::pull::{LaneEnd, PullError};
use remora::replication::wire::{FRAME_BYTES_MAX, Message, Welcome};
use remora::store::line::{BIRTH, POSITION_MAX};
use remora::store::{Geometry, History, Memory, Store, TermStart};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const SHARD_BYTES: u64 = SLABS * GEOMETRY.slab_bytes;
const VARIANTS: u64 = 400;
const STEPS: usize = 40;

/// Far more seeds than the other runs have: each is short.
fn seeds() -> Vec<u64> {
    number("REMORA_SEED").map_or((1..=VARIANTS).collect(), |seed| vec![seed])
}

fn offered(forged: &Arc<Forged>, histories: Vec<History>) -> Offered {
    Offered { regions: forged.clone(), histories, geometry: forged.geometry, memory: memory(&forged.geometry) }
}

fn step(session: &mut Session<'_>) -> Result<(), End> {
    clock::pass(Duration::from_micros(20));
    session.step().map(drop)
}

fn replica() -> Store {
    Store::with_geometry(GEOMETRY, memory(&GEOMETRY).slabs, 1, false, Some((1, 2))).expect("a small store")
}

/// Positions of every kind: sound, odd, beyond everything.
pub fn position(random: &mut Rng, lap: u64) -> u64 {
    let special =
        [0, 8, 56, BIRTH, BIRTH + 8, lap - 8, lap, lap + BIRTH, POSITION_MAX - 8, POSITION_MAX, POSITION_MAX + 8];
    match random.u8(0..8) {
        0 => special[random.usize(0..special.len())],
        1 => u64::MAX - random.u64(0..32),
        2 => random.u64(..) >> random.u32(0..64),
        3 => random.u64(..) / 8 * 8,
        4 => random.u64(0..40) * lap / 7 / 8 * 8,
        _ => BIRTH + random.u64(0..lap / 8) * 8,
    }
}

/// Mostly possible, so that it is believed and something comes of it.
fn line(forged: &Forged, random: &mut Rng) -> ForgedLine {
    let tail = position(random, SHARD_BYTES);
    let committed = match random.u8(0..6) {
        0 => position(random, SHARD_BYTES),
        1 => tail,
        2 => tail.saturating_add(SHARD_BYTES),
        _ => tail.saturating_add(random.u64(0..=SHARD_BYTES / 8) * 8),
    };
    let mut line = forged.line(tail, committed);
    match random.u8(0..30) {
        0 => line.term = random.u64(..),
        1 => line.term = 0,
        2 => line.capacity_bytes = random.u64(..),
        3 => line.owes_until = random.u64(..),
        4 => line.beat = random.u64(..),
        _ => {}
    }
    line
}

fn lying_history(random: &mut Rng) -> History {
    let mut starts: Vec<TermStart> = Vec::new();
    for number in 0..random.u32(0..4) {
        let term = match random.u8(0..4) {
            0 => Term(random.u64(..)),
            1 => TERM,
            _ => Term::of(number, random.u64(..)),
        };
        starts.push(TermStart { term, begins: position(random, SHARD_BYTES) });
    }
    if random.bool() {
        starts.sort_by_key(|start| (start.term, start.begins));
    }
    let origin = if random.bool() { TERM } else { Term(random.u64(..)) };
    History::new(origin, starts)
}

/// One for each shard, or more, or less.
fn lying_histories(random: &mut Rng) -> Vec<History> {
    (0..random.u32(0..=GEOMETRY.shards + 1)).map(|_| lying_history(random)).collect()
}

/// One lying primary; how it ended.
fn pull_lies(seed: u64) -> &'static str {
    let mut random = Rng::with_seed(seed);
    let forged = Arc::new(Forged::new(GEOMETRY));
    if random.bool() {
        forged.scribble(&mut random);
    }
    if random.u8(0..4) == 0 {
        forged.scribble_tables(&mut random);
    }
    let honest = random.u8(0..3) == 0;
    for shard in 0..GEOMETRY.shards as usize {
        let damage = random.bool().then(|| Rng::with_seed(seed));
        let count = random.usize(0..150);
        let end = forged.write_records(shard, count, damage.map(Box::new).as_deref_mut());
        let shown = if honest { forged.line(BIRTH, end) } else { line(&forged, &mut random) };
        forged.show(shard, shown);
    }
    let store = replica();
    let past = if random.bool() { histories(GEOMETRY.shards) } else { lying_histories(&mut random) };
    for shard in (0..GEOMETRY.shards as usize).filter(|_| random.u8(0..4) == 0) {
        store.follower(shard).expect("nobody follows").prove();
    }
    let mut session = Network::new(seed).connect(&offered(&forged, past), &store, &Faults::default());
    let mut end = "goes on";
    for _ in 0..STEPS {
        if let Err(error) = step(&mut session) {
            end = kind_of(&error);
            break;
        }
        if random.u8(0..10) == 0 {
            forged.show(random.usize(0..GEOMETRY.shards as usize), line(&forged, &mut random));
        }
        let _ = (session.puller.lag(), session.puller.is_caught_up(), session.puller.summarize());
    }
    drop(session);
    read_everything(&store);
    end
}

fn kind_of(error: &End) -> &'static str {
    match error {
        End::Puller(PullError::Fabric(error)) => panic!("the channel is sound: {error}"),
        End::Puller(PullError::Stuck(..)) => panic!("READs are answered: {error}"),
        End::Lane(LaneEnd::TermChanged(_)) => "term",
        End::Lane(LaneEnd::BeganAnew { .. }) => "began anew",
        End::Lane(LaneEnd::Senseless { .. }) | End::Lane(LaneEnd::NoMemory { .. }) => "senseless",
        End::Lane(LaneEnd::BadRecord { .. }) => "bad record",
        End::Lane(LaneEnd::Kept { .. } | LaneEnd::Held { .. }) => panic!("this one gives up what it must: {error}"),
    }
}

/// Whatever was taken over is sound.
fn read_everything(store: &Store) {
    let mut reader = store.join();
    let turn = reader.turn();
    for number in 0..150 {
        let key = format!("key-{number}");
        if let Some(item) = store.get(&turn, &store.locate(key.as_bytes()), UnixSeconds(1_800_000_000)) {
            assert!(item.value_bytes() < 200, "{key} has {} bytes", item.value_bytes());
        }
    }
}

#[test]
fn the_pull_loop_survives_every_lie() {
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        *ends.entry(pull_lies(seed)).or_default() += 1;
    }
    println!("{ends:?}");
    let all = ["goes on", "term", "bad record"];
    assert!(!is_whole() || all.iter().all(|end| ends.contains_key(end)), "{ends:?}");
}

/// Any welcome that decodes makes a small store, or is refused in words.
#[test]
fn no_geometry_is_believed() {
    let values = [
        0,
        1,
        7,
        8,
        64,
        272,
        4096,
        24 << 10,
        64 << 10,
        (64 << 10) + 8,
        1 << 20,
        1 << 38,
        1 << 50,
        u64::MAX - 7,
        u64::MAX,
    ];
    for seed in seeds() {
        let mut random = Rng::with_seed(seed);
        let mut any = |good: u64| if random.u8(0..3) > 0 { good } else { values[random.usize(0..values.len())] };
        let geometry = Geometry {
            shards: any(2) as u32,
            slab_bytes: any(GEOMETRY.slab_bytes),
            record_bytes_max: any(GEOMETRY.record_bytes_max),
            evict: true,
        };
        let shards = geometry.shards.min(512);
        let memory = Memory { slabs: any(8) as u32, table_cells: any(8) as u32 };
        let (histories, fabrics) = (histories(shards), vec![Kind::Tcp]);
        let welcome = Welcome {
            geometry,
            memory,
            histories,
            host: [0; 16],
            client_port: 1,
            fabrics,
            program_version: "1.2.3".into(),
        };
        let mut bytes = Vec::new();
        Message::Welcome(welcome).encode(&mut bytes);
        let Ok(Some((Message::Welcome(welcome), _))) = Message::decode(&bytes, FRAME_BYTES_MAX) else { continue };
        match Store::with_geometry(welcome.geometry, welcome.memory.slabs, 1, false, None) {
            Ok(store) => assert_eq!(store.geometry(), geometry),
            Err(error) => assert!(error.to_string().contains("primary"), "{error}"),
        }
    }
}

/// A record that came in two pieces and found no room is applied as soon as there is: no further
/// write is needed to remember it.
#[test]
fn a_record_that_waits_for_room_is_not_forgotten() {
    const RECORD_BYTES: u64 = 64;
    let geometry = Geometry { shards: 1, ..GEOMETRY };
    let forged = Arc::new(Forged::new(geometry));
    let store = Store::with_geometry(geometry, memory(&geometry).slabs, 1, false, Some((1, 2))).expect("a small store");
    let mut network = Network::new(1);
    let mut session = network.connect(&offered(&forged, histories(1)), &store, &Faults::default());
    let follows = |session: &mut Session<'_>, what: &str| {
        go_on_until(what, || {
            step(session).expect("nothing is wrong");
            let puller = &session.puller;
            puller.is_caught_up() && puller.lag().bytes == 0 && puller.counts().looks > 4
        });
    };
    forged.write_equal_records(BIRTH, SHARD_BYTES);
    forged.show(0, forged.line(BIRTH, SHARD_BYTES));
    follows(&mut session, "a full log");

    let mut reader = store.join();
    let turn = reader.turn();
    // The second record is cut; then its rest comes, while a reader may look at what it would
    // overwrite.
    let end = SHARD_BYTES + 2 * RECORD_BYTES;
    forged.write_equal_records(SHARD_BYTES, end);
    forged.show(0, forged.line(64 * RECORD_BYTES, end - RECORD_BYTES + 16));
    (0..50).for_each(|_| assert!(step(&mut session).is_ok()));
    forged.show(0, forged.line(64 * RECORD_BYTES, end));
    (0..50).for_each(|_| assert!(step(&mut session).is_ok()));
    assert_eq!(session.puller.lag().bytes, RECORD_BYTES, "a reader's bytes are not overwritten");
    drop(turn);
    follows(&mut session, "once the reader has left");
}

/// Of a log that it has left behind, or not begun, a replica says nothing: its old positions mean
/// something else to another primary.
#[test]
fn positions_of_another_log_are_not_acknowledged() {
    let (store, mut network) = (replica(), Network::new(1));
    let shards = GEOMETRY.shards as usize;
    let mut acknowledged = |term: Term, comes_up: bool| {
        let forged = Arc::new(Forged::new(GEOMETRY));
        for shard in 0..shards {
            let end = forged.write_records(shard, 20, None);
            forged.show(shard, ForgedLine { term: term.0, ..forged.line(BIRTH, end) });
        }
        let past = vec![History::born(term, BIRTH); shards];
        let mut session = network.connect(&offered(&forged, past), &store, &Faults::default());
        go_on_until("it comes up", || {
            let is_up = !comes_up || session.puller.is_caught_up();
            if !is_up {
                step(&mut session).expect("nothing is wrong");
            }
            is_up
        });
        session.puller.summarize().expect("a channel that stands");
        go_on_until("an ack", || {
            let beats = session.summary().beats;
            // What was written arrives with a look at the channel, of which a step has one.
            beats > 0 || step(&mut session).is_err()
        });
        (0..shards).map(|shard| session.told(shard)).collect::<Vec<_>>()
    };
    let first = acknowledged(TERM, true);
    assert!(first.iter().all(|position| *position > BIRTH), "{first:?}");
    let other = acknowledged(Term::of(1, 0xABD), false);
    assert_eq!(other, [0, 0]);
}
