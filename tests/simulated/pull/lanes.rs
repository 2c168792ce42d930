//! Lanes that come and go while the others of their puller go on: at random, under all that may go
//! wrong with a channel; while a look or pieces are under way; and where one has ended.

use super::run::Seen;
use super::scene::{CAPACITY, COMMITTED, Forged, KEYS, STEPS_MAX, Scene, TAIL, TERM, forget, pull, pull_honest};
use super::writer::Writer;
use super::{SHARDS, SLABS, is_whole, runs_of, seeds};
use crate::clock;
use crate::compare::assert_same;
use crate::pair::NOW;
use crate::session::{Network, Session};
use fastrand::Rng;
use remora::fabric::sim::Faults;
use remora::replication::pull::LaneEnd;
use remora::store::Store;
use remora::store::shard::Shard;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const STEPS: usize = 250;

/// The runs of the other tests, with lanes that come and go, for one puller and for several.
fn coming_and_going(push: bool, faults: impl Fn(&mut Rng) -> Faults) -> Vec<Seen> {
    let of = |pullers| {
        let prepare = |network: &mut Network| {
            (network.push, network.pullers, network.lanes_come_and_go) = (push, pullers, true);
        };
        runs_of(prepare, SHARDS, 200, STEPS, &faults)
    };
    if push { vec![of(1)] } else { [1, 3].map(of).into() }
}

/// A lane that comes goes on from where the last one was: no record fails its check, and no session
/// ends.
#[test]
fn nothing_goes_wrong() {
    for push in [false, true] {
        for Seen { counts, closed, broken, stuck, .. } in coming_and_going(push, |_| Faults::default()) {
            assert_eq!((counts.bad_records, counts.diverged, closed, broken, stuck), (0, 0, 0, 0, 0));
            assert!(!is_whole() || counts.continued > 0 && counts.overrun > 0, "{counts:?}");
        }
    }
}

/// READs of a lane that has gone come back late, when its shard has a lane again that waits for
/// some of its own. They are nobody's.
#[test]
fn late_torn_and_out_of_turn() {
    let unkind = |random: &mut Rng| Faults { delay_polls_max: random.u32(0..6), ..Faults::unkind() };
    for Seen { counts, closed, broken, stuck, .. } in coming_and_going(false, unkind) {
        assert_eq!((counts.bad_records, counts.diverged, closed, broken, stuck), (0, 0, 0, 0, 0));
    }
}

/// A READ that is lost is missed though its lane is gone.
#[test]
fn lost_and_cut() {
    for seen in coming_and_going(false, |random| Faults { drop: random.f64() * 0.03, ..Faults::default() }) {
        assert!(!is_whole() || seen.stuck > 0 && seen.remade > 0, "{seen:?}");
        assert_eq!((seen.counts.bad_records, seen.counts.diverged), (0, 0));
    }
    for seen in coming_and_going(false, |random| Faults { cut: random.f64() * 0.1, ..Faults::unkind() }) {
        assert!(!is_whole() || seen.closed > 0 && seen.remade > 0, "{seen:?}");
        assert_eq!((seen.counts.bad_records, seen.counts.diverged), (0, 0));
    }
}

/// A look that was submitted before a lane came is not shown to it, whether it covers its shard or
/// not.
#[test]
fn a_look_of_before_is_not_shown() {
    let late = Faults { delay_polls_max: 20, ..Faults::default() };
    for seed in seeds() {
        for shard in 0..SHARDS.shards {
            println!("REMORA_SEED={seed}, shard {shard}");
            let mut scene = Scene::new(seed, SHARDS);
            let mut session = scene.network.connect(&scene.offered, &scene.replica, &late);
            session.puller.drop_lane(shard);
            session.step().expect("nothing is wrong");
            let was_under_way = session.puller.counts().looks == 0;
            session.add_again(shard);
            while session.puller.counts().looks == 0 {
                session.step().expect("nothing is wrong");
            }
            if was_under_way {
                assert_eq!(session.puller.counts().joined, SHARDS.shards as u64 - 1, "the look is of before");
            }
            pull(&mut session).expect("nothing is wrong");
            assert_eq!(session.puller.counts().joined, SHARDS.shards as u64);
            drop(session);
            forget(&scene.replica);
            pull_honest(&mut scene);
        }
    }
}

/// A puller without lanes does nothing, and follows once it has some.
#[test]
fn a_puller_may_be_without_lanes() {
    let mut scene = Scene::new(1, SLABS);
    let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
    (0..SLABS.shards).for_each(|shard| session.puller.drop_lane(shard));
    (0..20).for_each(|_| assert!(!session.step().expect("nothing is wrong").moved));
    assert_eq!((session.puller.counts().looks, session.acked(0)), (0, 0));
    (0..SLABS.shards).for_each(|shard| session.add_again(shard));
    pull(&mut session).expect("nothing is wrong");
    (0..SLABS.shards).for_each(|shard| session.puller.drop_lane(shard));
    (0..20).for_each(|_| assert!(session.step().is_ok()));
    assert_eq!((0..SLABS.shards).map(|shard| session.acked(shard)).sum::<u64>(), 0, "nobody speaks for them");
    assert!(scene.replica.shards().iter().all(Shard::is_proven), "what was applied can be gone on from");
    drop(session);
    pull_honest(&mut scene);
}

/// A lie about the first shard alone: its name, how it is told, how the lane ends, and whether a
/// later one goes on from where it was.
type Lie = (&'static str, fn(&Forged), fn(&LaneEnd) -> bool, bool);

const LIES: [Lie; 3] = [
    (
        "a capacity that nobody has",
        |forged| forged.lines()[CAPACITY].store(4095, Relaxed),
        |end| matches!(end, LaneEnd::Senseless { shard: 0, .. }),
        false,
    ),
    (
        "a term that is not in the history",
        |forged| forged.lines()[TERM].store(forged.lines()[TERM].load(Relaxed) + 1, Relaxed),
        |end| matches!(end, LaneEnd::TermChanged(_)),
        true,
    ),
    (
        "a position that goes back",
        |forged| forged.lines()[COMMITTED].store(forged.lines()[TAIL].load(Relaxed), Relaxed),
        |end| matches!(end, LaneEnd::BeganAnew { shard: 0, .. }),
        true,
    ),
];

/// Step until that is so; lanes that end end nobody else.
fn step_until(session: &mut Session<'_>, what: &str, is_so: impl Fn(&Session<'_>) -> bool) {
    for _ in 0..STEPS_MAX {
        if is_so(session) {
            return;
        }
        clock::pass(Duration::from_micros(20));
        session.step_on().expect("the channel is sound");
    }
    panic!("{what}: not within {STEPS_MAX} steps");
}

/// One lane ends; the other goes on with what is written meanwhile. Once the primary is honest
/// again, the shard has a lane anew on the same puller.
#[test]
fn a_lane_that_ends_leaves_the_others_going_on() {
    let committed = |store: &Store, shard: usize| store.shards()[shard].control().committed();
    for (what, lie, is_expected, goes_on) in LIES {
        println!("{what}");
        let mut scene = Scene::new(1, SLABS);
        let mut session = scene.network.connect(&scene.offered, &scene.replica, &Faults::default());
        pull(&mut session).expect("it is honest so far");
        lie(&scene.forged);
        step_until(&mut session, "the lane ends", |session| session.puller.ended().next().is_some());
        let ended: Vec<_> = session.puller.ended().cloned().collect();
        let [(0, why)] = &ended[..] else { panic!("{what}: {ended:?}") };
        assert!(is_expected(why), "{what}: {why}");
        let before = committed(&scene.replica, 0);
        let (mut random, looks) = (Rng::with_seed(2), session.puller.counts().looks);
        let mut writer = Writer::new(&scene.store, &mut scene.ledger, SLABS, KEYS);
        (0..20).for_each(|_| writer.step(&mut scene.ledger, &mut random));
        drop(writer);
        scene.forged.restore(&scene.store);
        let is_level = |shard| committed(&scene.replica, shard) == committed(&scene.store, shard);
        step_until(&mut session, "the other goes on", |_| is_level(1));
        assert!(session.puller.counts().looks > looks && committed(&scene.replica, 0) == before && !is_level(0));
        assert_eq!(session.puller.ended().count(), 1, "it stays ended, though the primary is honest");
        assert!(!session.puller.is_caught_up() && scene.replica.follower(0).is_none());
        session.puller.drop_lane(0);
        session.add_again(0);
        pull(&mut session).expect("it is honest");
        assert!(is_level(0) && session.puller.ended().next().is_none());
        let counts = session.puller.counts();
        let (joined, continued) = if goes_on { (2, 1) } else { (3, 0) };
        assert_eq!((counts.joined, counts.continued, counts.diverged), (joined, continued, 0), "{what}");
        drop(session);
        pull_honest(&mut scene);
        assert_same(&scene.store, &scene.replica, NOW);
    }
}
