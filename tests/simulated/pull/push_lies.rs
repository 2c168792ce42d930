//! Either side of a push against one that lies: a primary that writes anything to an inbox at any
//! time, and a replica that wants anything.

use super::forgeries::position;
use super::{SHARDS, SLABS, Setup, seeds};
use crate::clock;
use crate::compare::items;
use crate::pair::{NOW, primary, replica_of};
use crate::session::{Offered, SILENCE_MAX};
use fastrand::Rng;
use remora::base::term::Term;
use remora::fabric::sim::{Faults, Sim};
use remora::fabric::{Invitation, Regions, Token, Write, WriteChannel};
use remora::replication::ack::Tag;
use remora::replication::pull::{LaneEnd, Puller};
use remora::replication::push::inbox::Inbox;
use remora::replication::push::layout::{INBOX, InboxMemory, Layout};
use remora::replication::push::notes::{LINE_WORDS, PushedLine, Want};
use remora::replication::push::pusher::Pusher;
use remora::store::line::{BIRTH, CONTROL_LINE_BYTES, ControlLine};
use remora::store::{Geometry, Store};
use remora::sys::memory::Memfd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const STEPS: usize = 400;

/// What a liar writes from.
struct Lies(Memfd);

impl Regions for Lies {
    fn count(&self) -> usize {
        1
    }
    fn memory(&self, _number: usize) -> &Memfd {
        &self.0
    }
}

/// A line with a seal that is right, and mostly with words that could be; those of what is pushed
/// then lead to reading what was never written.
fn line(random: &mut Rng, shard_bytes: u64, term: Term) -> PushedLine {
    let words: Vec<AtomicU64> = (0..LINE_WORDS).map(|_| AtomicU64::new(0)).collect();
    let control = ControlLine::of(&words, 0);
    control.begin(term.0, shard_bytes);
    if random.u8(0..4) == 0 {
        control.advance_tail(position(random, shard_bytes));
        control.commit(position(random, shard_bytes));
    } else {
        control.commit(BIRTH + shard_bytes / 16 * 8);
    }
    control.set_owes_until(if random.bool() { 0 } else { position(random, shard_bytes) });
    PushedLine::of(&control, position(random, shard_bytes), random.u32(1..4))
}

/// Whatever stands in its inbox, a replica neither panics nor shows an item: none of it proves
/// itself.
#[test]
fn an_inbox_that_holds_lies() {
    let mut ended = 0;
    for seed in seeds() {
        let setup = if seed % 2 == 0 { SLABS } else { SHARDS };
        println!("REMORA_SEED={seed}");
        let mut random = Rng::with_seed(seed);
        let store = Arc::new(primary(setup));
        let replica = replica_of(&store);
        let offered = Offered::of(&store);
        for round in 0..10u128 {
            let sim = Sim::new(seed, Faults::default());
            let layout = Layout::of(&offered.geometry, &offered.memory);
            let (inbox, invite) =
                Inbox::grant(sim.exporter(), Token(round.to_le_bytes()), offered.geometry, offered.memory, layout)
                    .expect("it waits");
            let lies = Arc::new(Lies(Memfd::new("lies", layout.region_bytes()[1], false).expect("memory")));
            let exporter = sim.exporter();
            let liar = exporter.writer().expect("the simulation writes").connect(&invite.invitation, lies.clone());
            let mut liar = liar.expect("the token is known");
            let mut puller =
                Puller::new(Box::new(inbox), offered.geometry, 0..setup.shards, offered.memory, SILENCE_MAX);
            for shard in 0..setup.shards {
                puller.add(
                    shard,
                    replica.follower(shard).expect("nobody follows"),
                    offered.histories[shard].clone(),
                    Tag::FIRST,
                );
            }
            puller.set_clock(clock::now);
            for _ in 0..STEPS {
                lie(&mut *liar, &lies, &mut random, &layout, (&offered, setup));
                puller.step(Duration::ZERO).expect("the channel is sound");
                if let [(_, why), ..] = puller.ended() {
                    assert!(!matches!(why, LaneEnd::NoMemory { .. }), "{why}");
                    ended += 1;
                    break;
                }
            }
            assert!(items(&replica, NOW).is_empty(), "an item that nobody wrote");
        }
    }
    assert!(ended > 0, "no lie is ever found out");
}

/// Bytes anywhere in windows, and a line or two.
fn lie(
    liar: &mut dyn WriteChannel,
    lies: &Lies,
    random: &mut Rng,
    layout: &Layout,
    (offered, setup): (&Offered, Setup),
) {
    let Geometry { shards, .. } = offered.geometry;
    let words = lies.0.words();
    let term = offered.histories[0].newest();
    for shard in 0..shards as usize {
        if random.bool() {
            line(random, setup.shard_bytes as u64, term).store(&words[shard * LINE_WORDS..][..LINE_WORDS]);
        }
    }
    let from = random.usize(layout.lines_bytes() / 8..words.len() - 1);
    let count = random.usize(1..=(words.len() - from).min(2000));
    words[from..from + count].iter().for_each(|word| word.store(random.u64(..), Relaxed));
    let lines = Write { source: 0, from: 0, region: INBOX, offset: 0, bytes: shards as usize * CONTROL_LINE_BYTES };
    let bytes = Write { source: 0, from: from * 8, region: INBOX, offset: from as u64 * 8, bytes: count * 8 };
    liar.write(&[bytes, lines]).expect("it is within the inbox");
    let landing = liar.landing(4096).expect("memory");
    let behind = remora::fabric::Read { region: 0, offset: 0, bytes: 64, landing, tag: 0 };
    liar.submit(&mut vec![behind]).expect("the channel stands");
    liar.poll(&mut Vec::new(), Duration::ZERO).expect("the channel stands");
}

/// Whatever is wanted, a primary pushes no more than a window's bytes at a time, of its own log,
/// and goes on doing so.
#[test]
fn wants_that_make_no_sense() {
    for seed in seeds() {
        let setup: Setup = if seed % 2 == 0 { SLABS } else { SHARDS };
        println!("REMORA_SEED={seed}");
        let mut random = Rng::with_seed(seed);
        let store: Arc<Store> = Arc::new(primary(setup));
        let offered = Offered::of(&store);
        let sim = Sim::new(seed, Faults::default());
        let exporter = sim.exporter();
        let layout = Layout::told(&offered.geometry, &offered.memory, 4096).expect("it can be");
        let memory = Arc::new(InboxMemory::new(&layout).expect("memory"));
        let token = Token([1; 16]);
        let grant = exporter.grant(token, memory.clone()).expect("it waits");
        let invitation = Invitation::new(&*exporter, token, &*grant);
        let (writer, store_of) =
            (exporter.writer().expect("the simulation writes"), (offered.geometry, offered.memory));
        let pusher = Pusher::connect(writer, &invitation, offered.regions.clone(), store_of, layout, SILENCE_MAX);
        let mut pusher = pusher.expect("the token is known");
        pusher.set_clock(clock::now);
        let mut ledger = super::ledger::Ledger::default();
        let mut writer = super::writer::Writer::new(&store, &mut ledger, setup, 100);
        for _ in 0..STEPS {
            (0..5).for_each(|_| writer.step(&mut ledger, &mut random));
            for shard in 0..setup.shards {
                let want = Want { position: position(&mut random, setup.shard_bytes as u64), run: random.u32(0..3) };
                want.store(&memory.notes().words()[shard * 2..][..2]);
            }
            let step = pusher.step(Duration::ZERO).expect("it goes on");
            assert!(step.pushed_bytes <= layout.window_bytes() * setup.shards as u64);
        }
        // A want that makes sense is met all the same.
        for (shard, at) in store.shards().iter().enumerate() {
            let want = Want { position: at.control().tail(), run: 77 };
            want.store(&memory.notes().words()[shard * 2..][..2]);
        }
        for _ in 0..4 {
            pusher.step(Duration::ZERO).expect("it goes on");
        }
        for (shard, at) in store.shards().iter().enumerate() {
            let line = PushedLine::load(&memory.inbox().words()[shard * LINE_WORDS..]).expect("a whole line");
            let all = at.control().committed().min(at.control().tail() + layout.window_bytes());
            assert_eq!((line.run(), line.pushed()), (77, all), "shard {shard}");
        }
    }
}
