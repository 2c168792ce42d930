//! The pull loop alone, over TCP, against memory that lies: control lines that no primary has, epochs that are none, records that are torn, forged
//! or random. By seed, many times: it goes on, or it ends and says why; it never panics, and what it has applied can be read.

use super::forged::{EPOCH, Forged, ForgedLine, GEOMETRY, history};
use crate::node::{expect_eq, wait_until};
use fastrand::Rng;
use remora::base::epoch::Epoch;
use remora::base::time::UnixSeconds;
use remora::fabric::{Channel, ConnectOptions, Exporter, Grant, Invitation, Kind, Token, connect, listen};
use remora::replication::ack::{Summary, applied};
use remora::replication::pull::{PullError, Puller};
use remora::replication::wire::{FRAME_BYTES_MAX, Message, Welcome};
use remora::store::ring::{BIRTH, POSITION_MAX};
use remora::store::{EpochStart, Geometry, Store};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const VARIANTS: u64 = 400;
const STEPS: usize = 40;
/// A step waits no longer for READs.
const STEP_WAIT: Duration = Duration::from_millis(2);
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Seeds that were found to break something, and then as many as are asked for.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("REMORA_SEED") {
        Ok(seed) => vec![seed.parse().expect("REMORA_SEED is a number")],
        Err(_) => (1..=count).collect(),
    }
}

fn tcp() -> Box<dyn Exporter> {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    listen(Kind::Tcp, loopback, &ConnectOptions::default()).expect("a port")
}

/// A channel to forged memory. The grant ends it when dropped.
fn channel(exporter: &dyn Exporter, forged: &Arc<Forged>, seed: u64) -> (Box<dyn Grant>, Box<dyn Channel>) {
    let token = Token((u128::from(seed) + 1).to_le_bytes());
    let grant = exporter.grant(token, forged.clone()).expect("a grant");
    let (regions, ack) = (grant.descriptors().to_vec(), grant.ack_descriptor());
    let invitation = Invitation { address: exporter.address(), token, regions, ack };
    (grant, connect(Kind::Tcp, &invitation, &ConnectOptions::default()).expect("a channel"))
}

fn replica() -> Store {
    Store::with_geometry(GEOMETRY, 1, false, Some((1, 2))).expect("a small store")
}

/// Positions of every kind: sound, odd, beyond everything.
fn position(random: &mut Rng) -> u64 {
    let ring = GEOMETRY.ring_bytes;
    let special =
        [0, 8, 56, BIRTH, BIRTH + 8, ring - 8, ring, ring + BIRTH, POSITION_MAX - 8, POSITION_MAX, POSITION_MAX + 8];
    match random.u8(0..8) {
        0 => special[random.usize(0..special.len())],
        1 => u64::MAX - random.u64(0..32),
        2 => random.u64(..) >> random.u32(0..64),
        3 => random.u64(..) / 8 * 8,
        4 => random.u64(0..40) * ring / 7 / 8 * 8,
        _ => BIRTH + random.u64(0..ring / 8) * 8,
    }
}

/// Mostly possible, so that it is believed and something comes of it.
fn line(forged: &Forged, random: &mut Rng) -> ForgedLine {
    let tail = position(random);
    let committed = match random.u8(0..6) {
        0 => position(random),
        1 => tail,
        2 => tail.saturating_add(GEOMETRY.ring_bytes),
        _ => tail.saturating_add(random.u64(0..=GEOMETRY.ring_bytes / 8) * 8),
    };
    let mut line = forged.line(tail, committed);
    match random.u8(0..30) {
        0 => line.epoch = random.u64(..),
        1 => line.epoch = 0,
        2 => line.ring_bytes = random.u64(..),
        _ => {}
    }
    line
}

fn lying_history(random: &mut Rng) -> Vec<EpochStart> {
    let mut begins =
        |_| (0..GEOMETRY.shards).map(|_| position(&mut Rng::with_seed(random.u64(..)))).collect::<Vec<_>>();
    let all: Vec<Vec<u64>> = (0..4).map(&mut begins).collect();
    let epoch = |at: usize, random: &mut Rng| match random.u8(0..4) {
        0 => Epoch(random.u64(..)),
        1 => Epoch::NONE,
        _ => Epoch::of(EPOCH.lineage(), at as u32),
    };
    let mut history: Vec<EpochStart> =
        all.into_iter().enumerate().map(|(at, begins)| EpochStart { epoch: epoch(at, random), begins }).collect();
    history.truncate(random.usize(1..=4));
    let now = if random.u8(0..5) == 0 { Epoch::NONE } else { EPOCH };
    history.last_mut().expect("at least one").epoch = now;
    history
}

/// One lying primary; how it ended.
fn pull_lies(exporter: &dyn Exporter, seed: u64) -> &'static str {
    let mut random = Rng::with_seed(seed);
    let forged = Arc::new(Forged::new(GEOMETRY));
    if random.bool() {
        forged.scribble(&mut random);
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
    let past = if random.bool() { history(GEOMETRY.shards) } else { lying_history(&mut random) };
    let known: Vec<Option<Epoch>> = (0..GEOMETRY.shards)
        .map(|_| (random.u8(0..4) == 0).then(|| if random.bool() { EPOCH } else { past[0].epoch }))
        .collect();
    let (grant, channel) = channel(exporter, &forged, seed);
    let mut puller = Puller::new(channel, &store, &past, &known, SILENCE_MAX).expect("landings");
    let mut end = "goes on";
    for _ in 0..STEPS {
        match puller.step(STEP_WAIT) {
            Ok(_) => {}
            Err(error) => {
                end = kind_of(&error);
                break;
            }
        }
        if random.u8(0..10) == 0 {
            forged.show(random.usize(0..GEOMETRY.shards as usize), line(&forged, &mut random));
        }
        let _ = (puller.lag(), puller.is_caught_up(), puller.acknowledge());
    }
    drop((puller, grant));
    read_everything(&store);
    end
}

fn kind_of(error: &PullError) -> &'static str {
    match error {
        PullError::Fabric(error) => panic!("the channel is sound: {error}"),
        PullError::Stuck(..) => panic!("READs are answered: {error}"),
        PullError::EpochChanged(_) => "epoch",
        PullError::BeganAnew { .. } => "began anew",
        PullError::Senseless { .. } => "senseless",
        PullError::BadRecord { .. } => "bad record",
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
    let exporter = tcp();
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds(VARIANTS) {
        println!("REMORA_SEED={seed}");
        *ends.entry(pull_lies(&*exporter, seed)).or_default() += 1;
    }
    println!("{ends:?}");
    let all = ["goes on", "epoch", "bad record"];
    assert!(std::env::var_os("REMORA_SEED").is_some() || all.iter().all(|end| ends.contains_key(end)), "{ends:?}");
}

/// What makes no sense for long is said, with what it is.
#[test]
fn a_line_that_makes_no_sense_ends_it_in_words() {
    let (exporter, good) = (tcp(), Forged::new(GEOMETRY).line(BIRTH, BIRTH));
    let far = POSITION_MAX + 8;
    let lines = [
        (ForgedLine { tail: BIRTH + 8, ..good }, "not within one ring"),
        (ForgedLine { committed: BIRTH + GEOMETRY.ring_bytes + 8, ..good }, "not within one ring"),
        (ForgedLine { committed: BIRTH + 4, ..good }, "not at a word"),
        (ForgedLine { tail: 0, committed: 0, ..good }, "no ring has"),
        (ForgedLine { tail: 8, ..good }, "no ring has"),
        (ForgedLine { tail: far, committed: far, ..good }, "no ring has"),
        (ForgedLine { ring_bytes: 4096, ..good }, "another length"),
    ];
    for (number, (line, words)) in lines.into_iter().enumerate() {
        let forged = Arc::new(Forged::new(GEOMETRY));
        forged.show(1, line);
        let store = replica();
        let (_grant, channel) = channel(&*exporter, &forged, number as u64);
        let mut puller = Puller::new(channel, &store, &history(2), &[None, None], SILENCE_MAX).expect("landings");
        let error = (0..100_000).find_map(|_| puller.step(STEP_WAIT).err()).expect("an end");
        assert!(error.to_string().contains(words), "{line:?}: {error}");
    }
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
    for seed in seeds(VARIANTS) {
        let mut random = Rng::with_seed(seed);
        let mut any = |good: u64| if random.u8(0..3) > 0 { good } else { values[random.usize(0..values.len())] };
        let geometry = Geometry {
            shards: any(2) as u32,
            ring_bytes: any(GEOMETRY.ring_bytes),
            slab_bytes: any(GEOMETRY.slab_bytes),
            record_bytes_max: any(GEOMETRY.record_bytes_max),
            evict: true,
        };
        let shards = geometry.shards.min(512);
        let welcome =
            Welcome { geometry, epochs: history(shards), host: [0; 16], client_port: 1, fabrics: vec![Kind::Tcp] };
        let mut bytes = Vec::new();
        Message::Welcome(welcome).encode(&mut bytes);
        let Ok(Some((Message::Welcome(welcome), _))) = Message::decode(&bytes, FRAME_BYTES_MAX) else { continue };
        match Store::with_geometry(welcome.geometry, 1, false, None) {
            Ok(store) => assert_eq!(store.geometry(), geometry),
            Err(error) => assert!(error.to_string().contains("primary"), "{error}"),
        }
    }
}

/// A record that came in two pieces and found no room is applied as soon as there is: no further write is needed to remember it.
#[test]
fn a_record_that_waits_for_room_is_not_forgotten() {
    const RECORD_BYTES: u64 = 64;
    let ring_bytes = 64 << 10;
    let geometry = Geometry { shards: 1, ring_bytes, slab_bytes: ring_bytes, ..GEOMETRY };
    let (exporter, forged) = (tcp(), Arc::new(Forged::new(geometry)));
    let store = Store::with_geometry(geometry, 1, false, Some((1, 2))).expect("a small store");
    let (_grant, channel) = channel(&*exporter, &forged, 0);
    let mut puller = Puller::new(channel, &store, &history(1), &[None], SILENCE_MAX).expect("landings");
    let follows = |puller: &mut Puller<'_>, what: &str| {
        let caught_up = (0..10_000).any(|_| {
            puller.step(STEP_WAIT).expect("nothing is wrong");
            puller.is_caught_up() && puller.lag().bytes == 0 && puller.counts().looks > 4
        });
        assert!(caught_up, "{what}: {:?} behind", puller.lag());
    };
    forged.write_equal_records(BIRTH, ring_bytes);
    forged.show(0, forged.line(BIRTH, ring_bytes));
    follows(&mut puller, "a full ring");

    let mut reader = store.join();
    let turn = reader.turn();
    // The second record is cut; then its rest comes, while a reader may look at what it would overwrite.
    let end = ring_bytes + 2 * RECORD_BYTES;
    forged.write_equal_records(ring_bytes, end);
    forged.show(0, forged.line(64 * RECORD_BYTES, end - RECORD_BYTES + 16));
    (0..50).for_each(|_| assert!(puller.step(STEP_WAIT).is_ok()));
    forged.show(0, forged.line(64 * RECORD_BYTES, end));
    (0..50).for_each(|_| assert!(puller.step(STEP_WAIT).is_ok()));
    assert_eq!(puller.lag().bytes, RECORD_BYTES, "a reader's bytes are not overwritten");
    drop(turn);
    follows(&mut puller, "once the reader has left");
}

/// Of a log that it has left behind, or not begun, a replica says nothing: its old positions mean something else to another primary.
#[test]
fn positions_of_another_log_are_not_acknowledged() {
    let exporter = tcp();
    let store = replica();
    let acknowledged = |epoch: Epoch, until: fn(&Puller<'_>) -> bool, seed: u64| {
        let forged = Arc::new(Forged::new(GEOMETRY));
        for shard in 0..GEOMETRY.shards as usize {
            let end = forged.write_records(shard, 20, None);
            forged.show(shard, ForgedLine { epoch: epoch.0, ..forged.line(BIRTH, end) });
        }
        let past = vec![EpochStart { epoch, begins: vec![BIRTH; GEOMETRY.shards as usize] }];
        let (grant, channel) = channel(&*exporter, &forged, seed);
        let known = vec![(seed > 0).then_some(EPOCH); GEOMETRY.shards as usize];
        let mut puller = Puller::new(channel, &store, &past, &known, SILENCE_MAX).expect("landings");
        for _ in 0..1000 {
            if until(&puller) {
                break;
            }
            puller.step(STEP_WAIT).expect("nothing is wrong");
        }
        puller.acknowledge().expect("a channel that stands");
        let slot = grant.ack().words();
        wait_until("an ack", || expect_eq("its epoch", Summary::read(slot).epoch, epoch.0));
        (0..GEOMETRY.shards as usize).map(|shard| applied(slot, shard)).collect::<Vec<_>>()
    };
    let first = acknowledged(EPOCH, |puller| puller.is_caught_up(), 0);
    assert!(first.iter().all(|position| *position > BIRTH), "{first:?}");
    let other = acknowledged(Epoch::of(EPOCH.lineage() + 1, 1), |_| true, 1);
    assert_eq!(other, [0, 0]);
}
