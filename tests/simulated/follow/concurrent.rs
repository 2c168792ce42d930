//! All at once: a primary that is written to, a replica that pulls, overrun now and then, readers
//! on the replica, and a replica of the replica.

use super::{SLABS, Setup};
use crate::author::Author;
use crate::compare::assert_same;
use crate::link::Link;
use crate::pair::{NOW, primary, replica_of};
use crate::support::wait::LONG;
use fastrand::Rng;
use remora::base::term::Term;
use remora::store::Store;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

const KEYS: usize = 60;
const SETS: u64 = 40_000;
/// What there must have been beside the writes: it is waited for, however the machine shares its
/// cores.
const SEEN_MIN: u64 = 1000;

/// A value says whose it is, which version, and repeats that to its end: a torn one would show.
fn value_of(key: usize, version: u64, bytes: usize) -> Vec<u8> {
    let word = (key as u64) << 48 | version;
    word.to_le_bytes().into_iter().cycle().take(bytes / 8 * 8 + 8).collect()
}

fn name_of(key: usize) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

#[test]
fn readers_of_a_replica_see_whole_values_and_never_an_older_one() {
    let setup = Setup { shard_bytes: 32 << 10, slab_bytes: 4 << 10, ..SLABS };
    let store = primary(setup);
    let (replica, second) = (replica_of(&store), replica_of(&store));
    let (written, pulled) = (AtomicBool::new(false), AtomicBool::new(false));
    let (hits, pulls) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + LONG;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let seen = || hits.load(Relaxed) > SEEN_MIN && pulls.load(Relaxed) > SEEN_MIN;
            write(&store, || seen() || Instant::now() > end);
            written.store(true, Relaxed);
        });
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| read(&replica, &pulled, &hits))).collect();
        let chained = scope.spawn(|| follow_the_replica(&replica, &second, &pulled, &pulls));
        let mut link = Link::new(&store, &replica);
        let mut random = Rng::with_seed(3);
        while !written.load(Relaxed) {
            link.pull(random.usize(0..setup.shards), random.usize(1..1000) * 8);
        }
        link.settle();
        pulled.store(true, Relaxed);
        readers.into_iter().for_each(|reader| reader.join().expect("a reader found nothing wrong"));
        chained.join().expect("what a replica has committed is whole");
        let (hits, pulls) = (hits.load(Relaxed), pulls.load(Relaxed));
        println!("{hits} hits, {pulls} pulls of the second, {} jumps", link.jumps);
        assert!(hits > SEEN_MIN && pulls > SEEN_MIN, "within {LONG:?}: {hits} hits, {pulls} pulls");
        assert_same(&store, &replica, NOW);
        assert_same(&store, &second, NOW);
    });
}

/// The same with nothing beside: one thread looks while the other is in the middle of a record.
#[test]
fn what_a_replica_has_committed_is_whole_at_any_moment() {
    const ROUNDS: u64 = 40;
    let setup = Setup { shard_bytes: 256 << 10, slab_bytes: 32 << 10, ..SLABS };
    let store = primary(setup);
    write(&store, || true);
    for round in 0..ROUNDS {
        let (replica, second) = (replica_of(&store), replica_of(&store));
        let (pulled, pulls) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let chained = scope.spawn(|| follow_the_replica(&replica, &second, &pulled, &pulls));
            let mut link = Link::new(&store, &replica);
            let mut random = Rng::with_seed(round);
            for _ in 0..setup.shard_bytes / 600 * setup.shards {
                link.pull(random.usize(0..setup.shards), random.usize(1..300) * 8);
            }
            link.settle();
            pulled.store(true, Relaxed);
            chained.join().expect("what a replica has committed is whole");
        });
        assert_same(&store, &second, NOW);
    }
}

/// Write a certain amount, and then more until it is enough.
fn write(store: &Store, is_enough: impl Fn() -> bool) {
    let (mut author, mut random) = (Author::new(store), Rng::with_seed(4));
    for version in (1..).take_while(|version| *version <= SETS || !is_enough()) {
        let key = random.usize(0..KEYS);
        match random.u32(0..400) {
            0 => author.flush(),
            1..20 => author.delete(&name_of(key)),
            20..100 => author.read(&name_of(key)),
            _ => drop(author.set_value(&name_of(key), &value_of(key, version, random.usize(0..1500)))),
        }
    }
}

fn read(replica: &Store, pulled: &AtomicBool, hits: &AtomicU64) {
    let (mut participant, mut random) = (replica.join(), Rng::with_seed(5));
    let (mut newest, mut value) = ([0; KEYS], Vec::new());
    while !pulled.load(Relaxed) {
        let turn = participant.turn();
        for _ in 0..random.usize(1..20) {
            let key = random.usize(0..KEYS);
            let Some(item) = replica.get(&turn, &replica.locate(&name_of(key)), NOW) else { continue };
            item.note_use_in_index();
            value.clear();
            item.value().copy_to(&mut value);
            let word = u64::from_le_bytes(*value.first_chunk().expect("eight bytes at least"));
            let (owner, version) = ((word >> 48) as usize, word & ((1 << 48) - 1));
            assert_eq!(owner, key, "another key's value");
            assert!(value.chunks_exact(8).all(|chunk| chunk == word.to_le_bytes()), "a torn value");
            assert!(version >= newest[key], "version {version} after {}", newest[key]);
            newest[key] = version;
            hits.fetch_add(1, Relaxed);
        }
    }
}

/// Below a replica's `committed` every record is there, and whole: its own replica panics where one
/// is not. `pulls` says how often it has looked.
fn follow_the_replica(replica: &Store, second: &Store, pulled: &AtomicBool, pulls: &AtomicU64) {
    let (mut link, mut random) = (Link::new(replica, second), Rng::with_seed(6));
    while !pulled.load(Relaxed) {
        let shard = random.usize(0..replica.shards().len());
        if replica.shards()[shard].control().term() != Term::NONE.0 {
            link.pull(shard, random.usize(1..1000) * 8);
            pulls.fetch_add(1, Relaxed);
        }
    }
    link.settle();
}
