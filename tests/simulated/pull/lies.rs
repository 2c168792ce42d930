//! Primaries whose memory does not say what a primary's says. Whatever it is, nobody panics,
//! nothing goes on for ever, and no item appears that was never written.

use super::scene::{
    CAPACITY, COMMITTED, Forged, KEYS, OWES, STEPS_MAX, Scene, TAIL, TERM, forget, lie_until_it_ends, pull, pull_honest,
};
use super::writer::Writer;
use super::{SLABS, Setup, seeds};
use crate::clock;
use crate::compare::{assert_same, items};
use crate::pair::NOW;
use crate::pullers::End;
use crate::session::Session;
use fastrand::Rng;
use remora::base::term::Term;
use remora::fabric::sim::Faults;
use remora::replication::pull::LaneEnd;
use remora::store::line::{CONTROL_LINE_BYTES, OWES_NOT_KNOWN, POSITION_MAX};
use remora::store::log::Cell;
use remora::store::shard::Shard;
use remora::store::{History, Store, TermStart};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const ONE: Setup = Setup { shards: 1, ..SLABS };

/// A lie's name, and how it is made.
type Lie = (&'static str, fn(&Forged));
/// The same, with the words in which it is refused in between.
type Senseless = (&'static str, &'static str, fn(&Forged));

fn set(forged: &Forged, word: usize, change: impl Fn(u64) -> u64) {
    let cell = &forged.lines()[word];
    cell.store(change(cell.load(Relaxed)), Relaxed);
}

const LIES: [Senseless; 11] = [
    ("committed before tail", "further apart than its capacity", |forged| {
        set(forged, COMMITTED, |_| forged.lines()[TAIL].load(Relaxed) - 8)
    }),
    ("more than its capacity", "further apart than its capacity", |forged| {
        set(forged, COMMITTED, |_| forged.lines()[TAIL].load(Relaxed) + (32 << 10) + 8)
    }),
    ("committed within a word", "not at a word", |forged| set(forged, COMMITTED, |word| word - 4)),
    ("tail within a word", "not at a word", |forged| set(forged, TAIL, |word| word + 4)),
    ("no capacity", "capacity is one that no shard", |forged| set(forged, CAPACITY, |_| 0)),
    ("before the birth", "no log has", |forged| {
        set(forged, TAIL, |_| 0);
        set(forged, COMMITTED, |_| 512);
    }),
    ("nothing", "no log has", |forged| {
        set(forged, TAIL, |_| 0);
        set(forged, COMMITTED, |_| 0);
    }),
    ("beyond all positions", "no log has", |forged| {
        set(forged, TAIL, |_| u64::MAX - 4095);
        set(forged, COMMITTED, |_| u64::MAX - 7);
    }),
    ("just beyond all positions", "no log has", |forged| {
        set(forged, TAIL, |_| POSITION_MAX);
        set(forged, COMMITTED, |_| POSITION_MAX + 800);
    }),
    ("the end of all positions", "no log has", |forged| {
        set(forged, TAIL, |_| u64::MAX - 7);
        set(forged, COMMITTED, |_| u64::MAX - 7);
    }),
    ("noise", "not at a word", |forged| {
        set(forged, TAIL, |_| 0x9E37_79B9_7F4A_7C15);
        set(forged, COMMITTED, |_| 0x0004_5678_9ABC_DEF1);
    }),
];

#[test]
fn a_line_that_makes_no_sense_ends_it() {
    for (name, words, lie) in LIES {
        for caught_up in [false, true] {
            println!("{name}, {caught_up}");
            let mut scene = Scene::new(1, SLABS);
            let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
            if caught_up {
                pull(&mut session).expect("it is honest so far");
            }
            lie(&scene.forged);
            let ended = lie_until_it_ends(&mut session);
            let is_senseless = matches!(ended, End::Lane(LaneEnd::Senseless { shard: 0, .. }));
            assert!(is_senseless && ended.to_string().contains(words), "{name}: {ended}");
            drop(session);
            pull_honest(&mut scene);
        }
    }
}

/// A primary whose shards say that they have more memory together than this replica has. What does
/// not fit is not applied, nothing that was is given up, and an honest primary is gone on with.
#[test]
fn memory_that_is_not_to_be_had_is_waited_for() {
    let mut scene = Scene::new(1, SLABS);
    let (geometry, slabs) = (scene.store.geometry(), scene.store.memory().slabs);
    // One more than the primary has: the forger's shards want one each.
    scene.replica = Store::with_geometry(geometry, slabs + 1, 4, false, Some((3, 4))).expect("a small store");
    let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
    pull(&mut session).expect("it is honest so far");
    let mut random = Rng::with_seed(2);
    let mut writer = Writer::new(&scene.store, &mut scene.ledger, SLABS, KEYS);
    (0..50).for_each(|_| writer.step(&mut scene.ledger, &mut random));
    drop(writer);
    scene.forged.restore(&scene.store);
    let more = geometry.slab_bytes + SLABS.shard_bytes as u64;
    (0..2).for_each(|shard| set(&scene.forged, shard * CONTROL_LINE_BYTES / 8 + CAPACITY, |_| more));
    let cursors = |store: &Store| store.shards().iter().map(|shard| shard.control().committed()).collect::<Vec<_>>();
    let before = cursors(&scene.replica);
    let ended = lie_until_it_ends(&mut session);
    let End::Lane(LaneEnd::NoMemory { shard, .. }) = ended else { panic!("{ended}") };
    assert_eq!(cursors(&scene.replica)[shard], before[shard]);
    assert!(cursors(&scene.store)[shard] > before[shard], "there was something to apply");
    assert!(scene.replica.shards().iter().all(Shard::is_proven), "all that was applied is sound");
    drop(session);
    pull_honest(&mut scene);
}

#[test]
fn positions_that_go_back_end_it_and_another_term_does_at_once() {
    let goes_back: [Lie; 2] = [
        ("committed", |forged| set(forged, COMMITTED, |word| word - 8)),
        ("tail", |forged| set(forged, TAIL, |word| word - 8)),
    ];
    let mut scene = Scene::new(1, ONE);
    for (name, lie) in goes_back {
        let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
        pull(&mut session).expect("it is honest so far");
        lie(&scene.forged);
        let ended = lie_until_it_ends(&mut session);
        assert!(matches!(ended, End::Lane(LaneEnd::BeganAnew { what: "a position went back", .. })), "{name}: {ended}");
        drop(session);
        pull_honest(&mut scene);
    }
    let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
    pull(&mut session).expect("it is honest so far");
    set(&scene.forged, TERM, |_| Term::of(2, 5).0);
    let ended = (0..10).find_map(|_| session.step().err());
    assert!(matches!(ended, Some(End::Lane(LaneEnd::TermChanged(term))) if term == Term::of(2, 5)), "{ended:?}");
    assert!(scene.replica.shards()[0].is_proven());
    drop(session);
    pull_honest(&mut scene);
}

/// A server that is about to begin anew shows an empty log, and does not know what it misses: who
/// follows it keeps what is here, and so does who comes to follow it. Once it owes something and
/// has not got it, what it lacks is kept as well.
#[test]
fn a_log_that_is_empty_because_it_begins_anew_empties_nobody() {
    let mut scene = Scene::new(1, ONE);
    let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
    pull(&mut session).expect("it is honest so far");
    let look_often = |session: &mut Session<'_>| {
        let looks = session.puller.counts().looks + 10;
        for _ in 0..STEPS_MAX {
            clock::pass(Duration::from_micros(20));
            session.step().expect("it waits");
        }
        assert!(session.puller.counts().looks >= looks, "{STEPS_MAX} steps without ten looks");
    };
    let kept = items(&scene.replica, NOW);
    assert!(!kept.is_empty());
    let committed = scene.forged.lines()[COMMITTED].load(Relaxed);
    for (owes, empty_at) in [(committed + 4096, committed), (OWES_NOT_KNOWN, committed + 4096)] {
        set(&scene.forged, OWES, |_| owes);
        set(&scene.forged, COMMITTED, |_| empty_at);
        set(&scene.forged, TAIL, |_| empty_at);
        look_often(&mut session);
        assert_eq!(items(&scene.replica, NOW), kept, "owes until {owes}");
        drop(session);
        session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
        look_often(&mut session);
        assert_eq!(items(&scene.replica, NOW), kept, "another session, owes until {owes}");
        assert!(scene.replica.shards()[0].is_whole());
    }
    set(&scene.forged, OWES, |_| 0);
    look_often(&mut session);
    assert!(items(&scene.replica, NOW).is_empty(), "a log that is whole and empty is followed");
}

/// A look may be older than the one before it, if both were under way together: the next one tells.
#[test]
fn a_position_that_goes_back_at_one_look_is_not_believed() {
    let mut scene = Scene::new(1, ONE);
    let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
    pull(&mut session).expect("it is honest so far");
    let mut look_once = || {
        let looks = session.puller.counts().looks;
        for _ in 0..STEPS_MAX {
            clock::pass(Duration::from_micros(20));
            session.step().expect("one look proves nothing");
            if session.puller.counts().looks > looks {
                return assert_eq!(session.puller.counts().looks, looks + 1);
            }
        }
        panic!("{STEPS_MAX} steps without a look");
    };
    for word in [COMMITTED, TAIL] {
        for _ in 0..30 {
            set(&scene.forged, word, |word| word - 8);
            look_once();
            scene.forged.restore(&scene.store);
            look_once();
        }
    }
    drop(session);
    assert_same(&scene.store, &scene.replica, NOW);
}

/// A look that makes no sense may be one that was torn: a few of them harm nobody.
#[test]
fn a_transient_lie_is_passed_over() {
    for (name, _, lie) in LIES {
        println!("{name}");
        let scene = Scene::new(1, SLABS);
        let mut network = scene.network;
        let mut session = network.connect(&scene.offered, &scene.replica, &Faults::default());
        for _ in 0..30 {
            lie(&scene.forged);
            (0..20).for_each(|_| assert!(session.step().is_ok(), "it may pass"));
            scene.forged.restore(&scene.store);
            (0..20).for_each(|_| assert!(session.step().is_ok(), "it has passed"));
        }
        assert_same(&scene.store, &scene.replica, NOW);
    }
}

/// Where a primary lets one begin, there is no record; later it tells the truth. A beginning that
/// no record has proved is worth nothing.
#[test]
fn a_beginning_within_a_record_is_not_gone_on_from() {
    let mut scene = Scene::new(1, ONE);
    set(&scene.forged, TAIL, |word| word + 8);
    let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
    let ended = pull(&mut session).expect_err("no record begins there");
    assert!(matches!(ended, End::Lane(LaneEnd::BadRecord { times: 3, .. })), "{ended}");
    drop(session);
    pull_honest(&mut scene);
}

/// A tail that was too high, so that items were left out; it shows when the truth comes back.
#[test]
fn a_tail_that_was_too_high_is_not_gone_on_from() {
    let mut scene = Scene::new(1, ONE);
    let line = scene.store.shards()[0].control();
    let second = scene.store.shards()[0].walk(line.tail()).nth(20).expect("many records").0;
    set(&scene.forged, TAIL, |_| second);
    let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
    pull(&mut session).expect("it looks as if it were true");
    scene.forged.restore(&scene.store);
    let ended = lie_until_it_ends(&mut session);
    assert!(matches!(ended, End::Lane(LaneEnd::BeganAnew { what: "a position went back", .. })), "{ended}");
    drop(session);
    pull_honest(&mut scene);
}

/// Lines that change at random with every step: whatever comes of it, items are ones that were
/// written.
#[test]
fn lines_at_random() {
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let mut scene = Scene::new(seed, ONE);
        let mut random = Rng::with_seed(seed);
        for _ in 0..10 {
            let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
            for _ in 0..200 {
                if random.u8(0..10) == 0 {
                    scene.forged.restore(&scene.store);
                }
                let change = [8, 136, 4096, 1 << random.u32(0..64), random.u64(..)][random.usize(0..5)];
                let word = random.usize(COMMITTED..=TAIL);
                set(
                    &scene.forged,
                    word,
                    |word| if random.clone().bool() { word.wrapping_add(change) } else { word ^ change },
                );
                if session.step().is_err() {
                    break;
                }
            }
            scene.ledger.assert_all_written(&scene.replica, KEYS, NOW);
            drop(session);
        }
        forget(&scene.replica);
        pull_honest(&mut scene);
    }
}

#[test]
fn logs_full_of_noise() {
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let mut scene = Scene::new(seed, ONE);
        let mut random = Rng::with_seed(seed);
        scene.forged.pool().iter().for_each(|word| word.store(random.u64(..), Relaxed));
        let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
        let ended = pull(&mut session).expect_err("noise");
        assert!(matches!(ended, End::Lane(LaneEnd::BadRecord { times: 3, .. })), "{ended}");
        assert_eq!((session.puller.counts().records, scene.replica.stats().items), (0, 0));
        drop(session);
        pull_honest(&mut scene);
    }
}

/// Some words changed: what stands before them is applied, and what was applied is what was
/// written.
#[test]
fn rings_with_changed_words() {
    let (mut found, mut refused) = (0, 0);
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let mut scene = Scene::new(seed, ONE);
        let mut random = Rng::with_seed(seed);
        for _ in 0..random.usize(1..5) {
            let words = [scene.forged.tables(), scene.forged.pool()][random.usize(0..2)];
            words[random.usize(0..words.len())].fetch_xor(1 << random.u32(0..64), Relaxed);
        }
        let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
        match pull(&mut session) {
            Ok(()) => {}
            Err(End::Lane(LaneEnd::BadRecord { .. })) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        found += scene.ledger.assert_all_written(&scene.replica, KEYS, NOW);
        drop(session);
        forget(&scene.replica);
        pull_honest(&mut scene);
    }
    assert!(found > 0 && (refused > 0 || !super::is_whole()));
}

/// Its lines and its history contradict each other. It may be a replica that has been told of a new
/// term, and has not dropped yet what it has beyond the old one's end; or one whose history says
/// nothing yet of a term that its log has come to.
#[test]
fn a_history_that_the_lines_contradict_ends_it_at_once() {
    let mut scene = Scene::new(1, ONE);
    let first = scene.store.shards()[0].history();
    let second = Term::of(2, 5);
    let with_second = |begins| {
        let starts = first.starts().iter().copied().chain([TermStart { term: second, begins }]);
        vec![History::new(first.origin(), starts)]
    };
    let line = scene.store.shards()[0].control();
    let middle = scene.store.shards()[0].walk(line.tail()).nth(20).expect("many records").0;

    scene.offered.histories = with_second(middle);
    let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
    let ended = lie_until_it_ends(&mut session);
    assert!(matches!(ended, End::Lane(LaneEnd::BeganAnew { shard: 0, .. })), "{ended}");
    drop(session);
    let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
    lie_until_it_ends(&mut session);
    assert_eq!(session.puller.counts().diverged, 1, "what was applied is not gone on from");
    drop(session);

    scene.offered.histories = vec![first.clone()];
    let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
    pull(&mut session).expect("it has not come to the second term");
    set(&scene.forged, TERM, |_| second.0);
    let ended = lie_until_it_ends(&mut session);
    assert!(matches!(ended, End::Lane(LaneEnd::TermChanged(changed)) if changed == second), "{ended}");
    drop(session);
    pull_honest(&mut scene);
}

/// A table of noise leads nowhere, and one that leads to other slabs leads to bytes that do not
/// prove themselves.
#[test]
fn tables_that_lie() {
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let mut scene = Scene::new(seed, ONE);
        for (what, noise) in [("noise", true), ("other slabs", false)] {
            let mut random = Rng::with_seed(seed);
            let slabs = scene.store.memory().slabs;
            for word in scene.forged.tables() {
                let cell = Cell::from_bits(word.load(Relaxed));
                let other = Cell { physical: (cell.physical + 1) % slabs, ..cell };
                word.store(if noise { random.u64(..) } else { other.to_bits() }, Relaxed);
            }
            let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
            let ended = pull(&mut session).expect_err(what);
            let expected = match &ended {
                End::Lane(LaneEnd::Senseless { what, .. }) => noise && what.contains("table"),
                End::Lane(LaneEnd::BadRecord { .. }) => !noise,
                _ => false,
            };
            assert!(expected, "{what}: {ended}");
            assert_eq!((session.puller.counts().records, scene.replica.stats().items), (0, 0));
            drop(session);
            forget(&scene.replica);
            pull_honest(&mut scene);
            scene = Scene::new(seed + 1000, ONE);
        }
    }
}
