//! All at once: a primary that is written to, a replica that pulls, overrun now and then, readers on the replica, and a replica of the replica.

use super::{SLABS, Setup};
use crate::author::Author;
use crate::compare::assert_same;
use crate::link::Link;
use crate::pair::{NOW, primary, replica_of};
use fastrand::Rng;
use remora::base::epoch::Epoch;
use remora::store::Store;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const KEYS: usize = 60;
const SETS: u64 = 40_000;

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
    let setup = Setup { ring_bytes: 32 << 10, slab_bytes: 7_000, ..SLABS };
    let store = primary(setup);
    let (replica, second) = (replica_of(&store), replica_of(&store));
    let (written, pulled) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            write(&store);
            written.store(true, Relaxed);
        });
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| read(&replica, &pulled))).collect();
        let chained = scope.spawn(|| follow_the_replica(&replica, &second, &pulled));
        let mut link = Link::new(&store, &replica);
        let mut random = Rng::with_seed(3);
        while !written.load(Relaxed) {
            link.pull(random.usize(0..setup.shards), random.usize(1..1000) * 8);
        }
        link.settle();
        pulled.store(true, Relaxed);
        let hits: u64 = readers.into_iter().map(|reader| reader.join().expect("a reader found nothing wrong")).sum();
        let pulls = chained.join().expect("what a replica has committed is whole");
        println!("{hits} hits, {pulls} pulls of the second, {} jumps", link.jumps);
        assert!(hits > 1000 && pulls > 1000, "{hits} hits, {pulls} pulls");
        assert_same(&store, &replica, NOW);
        assert_same(&store, &second, NOW);
    });
}

/// The same with nothing beside: one thread looks while the other is in the middle of a record.
#[test]
fn what_a_replica_has_committed_is_whole_at_any_moment() {
    const ROUNDS: u64 = 40;
    let setup = Setup { ring_bytes: 256 << 10, slab_bytes: 60_000, ..SLABS };
    let store = primary(setup);
    write(&store);
    for round in 0..ROUNDS {
        let (replica, second) = (replica_of(&store), replica_of(&store));
        let pulled = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let chained = scope.spawn(|| follow_the_replica(&replica, &second, &pulled));
            let mut link = Link::new(&store, &replica);
            let mut random = Rng::with_seed(round);
            for _ in 0..setup.ring_bytes / 600 * setup.shards {
                link.pull(random.usize(0..setup.shards), random.usize(1..300) * 8);
            }
            link.settle();
            pulled.store(true, Relaxed);
            chained.join().expect("what a replica has committed is whole");
        });
        assert_same(&store, &second, NOW);
    }
}

fn write(store: &Store) {
    let (mut author, mut random) = (Author::new(store), Rng::with_seed(4));
    for version in 1..=SETS {
        let key = random.usize(0..KEYS);
        match random.u32(0..400) {
            0 => author.flush(),
            1..20 => author.delete(&name_of(key)),
            20..100 => author.read(&name_of(key)),
            _ => drop(author.set_value(&name_of(key), &value_of(key, version, random.usize(0..1500)))),
        }
    }
}

fn read(replica: &Store, pulled: &AtomicBool) -> u64 {
    let (mut participant, mut random) = (replica.join(), Rng::with_seed(5));
    let (mut hits, mut newest, mut value) = (0, [0; KEYS], Vec::new());
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
            hits += 1;
        }
    }
    hits
}

/// Below a replica's `committed` every record is there, and whole: its own replica panics where one is not. How often it looked.
fn follow_the_replica(replica: &Store, second: &Store, pulled: &AtomicBool) -> u64 {
    let (mut link, mut random) = (Link::new(replica, second), Rng::with_seed(6));
    let mut pulls = 0;
    while !pulled.load(Relaxed) {
        let shard = random.usize(0..replica.shards().len());
        if replica.shards()[shard].control().epoch() != Epoch::NONE.0 {
            link.pull(shard, random.usize(1..1000) * 8);
            pulls += 1;
        }
    }
    link.settle();
    pulls
}
