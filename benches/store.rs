//! The store's hot paths: lookup (hit, miss), append (new value under an old key, new key), and
//! append with reclaim going on. One thread, 20-byte keys, 100-byte values; the cold sets are
//! larger than the caches. `cargo bench --bench store`.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use remora::base::time::UnixSeconds;
use remora::store::{NewItem, Participant, Store, StoreConfig};
use std::hint::black_box;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const VALUE: [u8; 100] = [b'v'; 100];

fn store(memory_bytes: usize) -> Store {
    Store::new(StoreConfig { memory_bytes, hugepages: true, hash_seed: Some((1, 2)), ..StoreConfig::default() })
        .expect("memory for the benchmark")
}

fn key(number: u64) -> [u8; 20] {
    let mut key = *b"key-................";
    key[4..].copy_from_slice(format!("{number:016}").as_bytes());
    key
}

/// Keys in an order that no prefetcher guesses.
fn scattered(count: u64) -> impl Iterator<Item = [u8; 20]> {
    (0..).map(move |step: u64| key(step.wrapping_mul(0x9E37_79B9_7F4A_7C15) % count))
}

fn set(store: &Store, seat: &mut Participant<'_>, key: &[u8]) {
    let turn = seat.turn();
    let at = store.locate(key);
    let draft = store.draft(&at, NewItem { value: &VALUE, ..NewItem::default() }, NOW);
    if store.lock(&at).unwrap().entry(&turn, NOW).set(&draft).is_err() {
        store.maintain(&turn, 0, NOW);
    }
}

fn get(store: &Store, seat: &mut Participant<'_>, key: &[u8], out: &mut Vec<u8>) -> bool {
    let turn = seat.turn();
    out.clear();
    let found = store.get(&turn, &store.locate(key), NOW);
    if let Some(item) = &found {
        item.note_use(NOW);
        item.value().copy_to(out);
    }
    found.is_some()
}

fn lookups(criterion: &mut Criterion) {
    for (name, count) in [("in cache", 1_000), ("cold", 1_000_000)] {
        let store = store(512 << 20);
        let mut seat = store.join();
        (0..count).for_each(|number| set(&store, &mut seat, &key(number)));
        let mut out = Vec::with_capacity(4096);
        let mut keys = scattered(count);
        criterion.bench_function(&format!("lookup/hit {name}"), |bench| {
            bench.iter_batched(
                || keys.next().expect("no end"),
                |key| assert!(get(&store, &mut seat, black_box(&key), &mut out)),
                BatchSize::SmallInput,
            );
        });
        let mut absent = scattered(count).map(|mut key| {
            key[0] = b'K';
            key
        });
        criterion.bench_function(&format!("lookup/miss {name}"), |bench| {
            bench.iter_batched(
                || absent.next().expect("no end"),
                |key| assert!(!get(&store, &mut seat, black_box(&key), &mut out)),
                BatchSize::SmallInput,
            );
        });
    }
}

fn appends(criterion: &mut Criterion) {
    for (name, count) in [("in cache", 1_000), ("cold", 1_000_000)] {
        let store = store(512 << 20);
        let mut seat = store.join();
        (0..count).for_each(|number| set(&store, &mut seat, &key(number)));
        let mut keys = scattered(count);
        criterion.bench_function(&format!("append/replace {name}"), |bench| {
            bench.iter_batched(
                || keys.next().expect("no end"),
                |key| set(&store, &mut seat, black_box(&key)),
                BatchSize::SmallInput,
            );
        });
    }
}

/// Every append evicts: the log is full of items that nobody used, or of items that were all used.
fn reclaims(criterion: &mut Criterion) {
    for (name, used) in [("evicting", false), ("with second chances", true)] {
        let store = store(64 << 20);
        let mut seat = store.join();
        let mut out = Vec::with_capacity(4096);
        let mut next = 0;
        let mut write = |seat: &mut Participant<'_>, out: &mut Vec<u8>| {
            set(&store, seat, &key(next));
            if used {
                get(&store, seat, &key(next), out);
            }
            next += 1;
        };
        (0..1_000_000).for_each(|_| write(&mut seat, &mut out));
        criterion.bench_function(&format!("reclaim/append {name}"), |bench| {
            bench.iter(|| write(&mut seat, &mut out));
        });
    }
}

criterion_group!(benches, lookups, appends, reclaims);
criterion_main!(benches);
