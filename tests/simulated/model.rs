//! The model test: random commands, through the real parser and engine over tiny logs, against a
//! naive map. A replica follows each run and must come to hold the same.
//!
//! Every failure names its seed; `REMORA_SEED=<seed> cargo test --test simulated model::` replays
//! that run alone. `REMORA_SEEDS=<count>` runs so many seeds instead of a few.

mod command;
mod gates;
mod meanings;
mod oracle;
mod parked;
mod replica;
mod run;
mod stress;

use crate::compare::assert_same;
use crate::link::Link;
use crate::support::harness::{self, Client};
use command::Generator;
use remora::base::shards::ShardSet;
use remora::base::time::UnixSeconds;
use remora::engine::Engine;
use remora::store::Store;
use remora::store::sizing::SHARDS_MAX;
use run::{Run, Setup};

const BEGIN: u32 = 1_700_000_000;
const SEEDS: u64 = 5;
/// Primaries of a run, one after the other; the last of them is asked for nothing.
const REIGNS: usize = 4;
/// Commands between two comparisons with the replica.
const COMPARED_EVERY: usize = 200;

fn seeds() -> Vec<u64> {
    crate::support::seeds(SEEDS)
}

fn generator(setup: Setup, seed: u64) -> Generator {
    Generator {
        rng: fastrand::Rng::with_seed(seed),
        keys: setup.keys,
        value_bytes_max: setup.value_bytes_max,
        item_bytes_max: setup.item_bytes_max,
        known_cas: Vec::new(),
    }
}

fn follower_of(store: &Store) -> Store {
    Store::with_geometry(store.geometry(), store.memory().slabs, 1, false, Some((3, 4))).expect("a store like it")
}

/// Run all seeds; each must have wrapped its logs several times, and all together must have come by
/// everything that reclaim does, or they have tested nothing. Now and then the replica takes over,
/// with what is pending.
fn run(setup: Setup) {
    let (mut second_chances, mut evicted, mut hits, mut refused, mut flushes) = (0, 0, 0, 0, 0);
    for seed in seeds() {
        println!("REMORA_SEED={seed} {setup:?}");
        let Setup { shard_bytes, shards, item_bytes_max, evict, .. } = setup;
        let first = harness::engine(shard_bytes, shards, item_bytes_max, evict, 1);
        let follower = || harness::over(follower_of(first.store()), item_bytes_max, 1);
        let others: [Engine; REIGNS] = std::array::from_fn(|_| follower());
        let mut generator = generator(setup, seed);
        let mut run = Run::new(setup, Client::new(&first, 0, BEGIN));
        let per_reign = setup.commands / REIGNS;
        let mut primary = first.store();
        let (mut cuts, mut jumps, mut appended_bytes, mut evictions) = (0, 0, 0, 0);
        for (reign, next) in others.iter().enumerate() {
            let (replica, before) = (next.store(), primary.stats());
            let mut link = Link::new(primary, replica);
            run.some(reign * per_reign + 1..(reign + 1) * per_reign + 1, &mut generator, |number, now| {
                for shard in 0..shards {
                    link.pull(shard, 4096);
                }
                if number % COMPARED_EVERY == 0 {
                    link.settle();
                    assert_same(primary, replica, now);
                }
            });
            if generator.rng.bool() {
                run.flush(generator.rng.i64(1..30));
            }
            link.settle();
            (cuts, jumps) = (cuts + link.cuts, jumps + link.jumps);
            drop(link);
            let stats = primary.stats().since(&before).counts;
            (appended_bytes, evictions) = (appended_bytes + stats.appended_bytes, evictions + stats.evictions);
            second_chances += stats.reinserted_items;
            promote(replica);
            run.go_over_to(Client::new(next, 0, BEGIN));
            primary = replica;
        }
        println!("the replicas: {cuts} cuts, {jumps} jumps");
        evicted += run.evicted;
        hits += run.hits;
        refused += run.refused;
        flushes += run.flushes;
        let laps = appended_bytes / (shard_bytes * shards) as u64;
        assert!(laps >= 3, "seed {seed}: {laps} laps are too few to test anything");
        if !evict {
            assert_eq!((evictions, run.evicted), (0, 0), "seed {seed}: -M evicts nothing");
        }
    }
    println!("{hits} hits, {evicted} keys seen evicted, {refused} refused, {second_chances} second chances");
    println!("{flushes} delayed flushes");
    if seeds().len() == 1 {
        return;
    }
    assert!(second_chances > 0, "nothing was ever given a second chance");
    assert!(hits > 100 * seeds().len() as u64, "only {hits} hits");
    assert!(flushes > seeds().len() as u64, "only {flushes} delayed flushes");
    assert_eq!((evicted > 0, refused > 0), (setup.evict, setup.overfull), "{evicted} evicted, {refused} refused");
}

fn promote(replica: &Store) {
    let now = UnixSeconds(BEGIN);
    let all = ShardSet::all(replica.shards().len());
    assert!((0..1000).any(|_| replica.make_room_for_term(all, now).is_ok()), "nobody looks at what is oldest");
    replica.begin_term(all, replica.newest_term().succeed().expect("few promotions"), &|_| {});
    replica.open_gates(0..replica.shards().len());
}

#[test]
fn evicting_with_small_items() {
    run(Setup {
        shard_bytes: 64 << 10,
        shards: 2,
        item_bytes_max: 8 << 10,
        value_bytes_max: 2000,
        keys: 500,
        evict: true,
        overfull: false,
        commands: 8000,
    });
}

#[test]
fn evicting_with_values_large_enough_to_be_lent() {
    run(Setup {
        shard_bytes: 256 << 10,
        shards: 2,
        item_bytes_max: 64 << 10,
        value_bytes_max: 36 << 10,
        keys: 60,
        evict: true,
        overfull: false,
        commands: 2000,
    });
}

#[test]
fn never_evicting() {
    run(Setup {
        shard_bytes: 24 << 10,
        shards: 2,
        item_bytes_max: 1 << 10,
        value_bytes_max: 250,
        keys: 60,
        evict: false,
        overfull: false,
        commands: 12_000,
    });
}

#[test]
fn never_evicting_and_overfull() {
    run(Setup {
        shard_bytes: 24 << 10,
        shards: 2,
        item_bytes_max: 1 << 10,
        value_bytes_max: 600,
        keys: 300,
        evict: false,
        overfull: true,
        commands: 12_000,
    });
}

/// Two names of the shard in which `key` is.
fn names_beside(store: &Store, key: &str) -> [String; 2] {
    let shard_of = |name: &str| store.locate(name.as_bytes()).place.shard();
    let mut names = (0..).map(|number| format!("beside:{number}")).filter(|name| shard_of(name) == shard_of(key));
    [(); 2].map(|()| names.next().expect("names without end"))
}

/// Write so much under one name that its log goes round; what is under the other name stays.
fn go_round(client: &mut Client<'_>, [kept, written]: &[String; 2], log_bytes: usize) {
    assert_eq!(client.ask(&format!("set {kept} 0 0 4\r\nkept\r\n")), "STORED\r\n");
    let value = "v".repeat(1500);
    for _ in 0..log_bytes / value.len() + 2 {
        assert_eq!(client.ask(&format!("set {written} 0 0 1500\r\n{value}\r\n")), "STORED\r\n");
    }
    assert_eq!(client.ask(&format!("get {kept}\r\n")), format!("VALUE {kept} 0 4\r\nkept\r\nEND\r\n"));
}

/// As many shards as there can be, most of them empty, and memory that is changed at random: what
/// is alive fits whatever there is, so nothing may be missing.
#[test]
fn many_shards_whose_memory_changes() {
    for shards in [512, SHARDS_MAX] {
        let setup = Setup {
            shard_bytes: 32 << 10,
            shards,
            item_bytes_max: 2 << 10,
            value_bytes_max: 1600,
            keys: 20,
            evict: true,
            overfull: false,
            commands: 6000,
        };
        let seed = seeds()[0];
        println!("REMORA_SEED={seed} {setup:?}");
        let engine = harness::engine(setup.shard_bytes, shards, setup.item_bytes_max, true, 1);
        let store = engine.store();
        let mut run = Run::new(setup, Client::new(&engine, 0, BEGIN));
        let mut beside = Client::new(&engine, 0, BEGIN);
        let names = [0, 1, 2].map(|number| names_beside(store, &format!("key:{number}")));
        let follower = follower_of(store);
        let (mut link, mut random) = (Link::new(store, &follower), fastrand::Rng::with_seed(seed));
        let memory_bytes = setup.shard_bytes * shards;
        let mut changed = 0;
        run.some(1..setup.commands + 1, &mut generator(setup, seed), |number, now| {
            if random.u8(0..20) == 0 {
                let wanted_bytes = random.usize(memory_bytes / 2..=memory_bytes) as u64;
                changed += u32::from(store.set_memory(wanted_bytes).is_ok());
            }
            for _ in 0..4 {
                link.pull(random.usize(0..shards), 4096);
            }
            if number % COMPARED_EVERY == 0 {
                beside.now = now;
                go_round(&mut beside, &names[random.usize(0..names.len())], setup.shard_bytes);
                link.settle();
                assert_same(store, &follower, now);
            }
        });
        let stats = store.stats();
        assert_eq!((stats.counts.evictions, run.evicted), (0, 0));
        println!("{changed} changes, {} hits, {stats:?}", run.hits);
        let is_whole = seeds().len() > 1;
        assert!(!is_whole || changed > 50 && run.hits > 500 && stats.counts.reinserted_items > 20, "too little of it");
    }
}
