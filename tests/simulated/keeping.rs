//! What reclaim may take. While what is alive fits into three quarters of a shard, nothing that is
//! alive is evicted, whatever is written, counted, touched, deleted or expires meanwhile; with `-M`
//! nothing ever is. A model knows what must be there, to the second.
//!
//! `REMORA_SEED=<seed>` runs one seed, `REMORA_SEEDS=<count>` so many.

use crate::author::flush;
use crate::link::Link;
use remora::base::shards::ShardSet;
use remora::base::time::{Expiry, UnixSeconds};
use remora::store::record::Kind;
use remora::store::{Item, MetaChange, NewItem, NoRoom, Participant, Store, StoreConfig, StoreStats};
use std::collections::HashMap;

const BEGIN: u32 = 1_800_000_000;
const HOUR: u32 = 3600;

fn config(memory_bytes: usize, shards: usize, evict: bool) -> StoreConfig {
    StoreConfig {
        memory_bytes,
        item_bytes_max: 4 << 10,
        evict,
        shards: Some(shards),
        hash_seed: Some((1, 2)),
        ..StoreConfig::default()
    }
}

fn store(memory_bytes: usize, evict: bool) -> Store {
    Store::new(config(memory_bytes, 1, evict)).unwrap()
}

/// A store, a clock, and what must be in it.
struct Cache<'s> {
    store: &'s Store,
    seat: Participant<'s>,
    now: UnixSeconds,
    /// By key: expiry (0: never), bytes of the record once it has moved, and the number in the
    /// value.
    model: HashMap<u32, (u32, u64, u32)>,
    writes: u32,
    /// A replica that follows all the while.
    follower: Option<(Link<'s>, &'s Store)>,
}

impl<'s> Cache<'s> {
    fn new(store: &'s Store) -> Cache<'s> {
        Cache { store, seat: store.join(), now: UnixSeconds(BEGIN), model: HashMap::new(), writes: 0, follower: None }
    }

    /// From now on `replica` follows.
    fn followed_by(mut self, replica: &'s Store) -> Cache<'s> {
        self.follower = Some((Link::new(self.store, replica), replica));
        self
    }

    fn pull(&mut self) {
        if let Some((link, _)) = &mut self.follower {
            link.pull(0, 64 << 10);
        }
    }

    /// Try until it is done, in a new turn each time.
    fn settle<T>(&mut self, mut attempt: impl FnMut(&mut Self) -> Result<T, NoRoom>) -> Result<T, NoRoom> {
        for _ in 0..10_000 {
            self.pull();
            match attempt(self) {
                Err(NoRoom::Now) => {
                    let turn = self.seat.turn();
                    self.store.maintain(&turn, 0, self.now);
                }
                settled => return settled,
            }
        }
        panic!("no room after ten thousand turns");
    }

    fn expiry(&self, ttl: u32) -> Expiry {
        if ttl == 0 { Expiry::NEVER } else { Expiry::at(UnixSeconds(self.now.0 + ttl)) }
    }

    fn set(&mut self, key: u32, value_bytes: usize, ttl: u32) -> Result<(), NoRoom> {
        self.writes += 1;
        let (name, number) = (name(key), self.writes);
        let mut value = vec![b'x'; value_bytes.max(4)];
        value[..4].copy_from_slice(&number.to_le_bytes());
        let expiry = self.expiry(ttl);
        let bytes = self.settle(|cache| {
            let turn = cache.seat.turn();
            let at = cache.store.locate(&name);
            let draft = cache.store.draft(&at, NewItem { value: &value, expiry, ..NewItem::default() }, cache.now);
            cache.store.lock(&at).unwrap().entry(&turn, cache.now).set(&draft).map(|_| draft.record_bytes() as u64 + 8)
        })?;
        self.model.insert(key, (expiry.to_bits(), bytes, number));
        Ok(())
    }

    fn touch(&mut self, key: u32, ttl: u32) -> bool {
        let (name, expiry) = (name(key), self.expiry(ttl));
        let change = MetaChange { expiry: Some(expiry), ..MetaChange::default() };
        let touched = self.settle(|cache| {
            let turn = cache.seat.turn();
            let at = cache.store.locate(&name);
            cache.store.lock(&at).unwrap().entry(&turn, cache.now).change_meta(change)
        });
        let touched = touched.expect("a touch finds room");
        if touched {
            self.model.get_mut(&key).expect("known").0 = expiry.to_bits();
        }
        touched
    }

    fn delete(&mut self, key: u32) {
        let name = name(key);
        let deleted = self.settle(|cache| {
            let turn = cache.seat.turn();
            let at = cache.store.locate(&name);
            cache.store.lock(&at).unwrap().entry(&turn, cache.now).delete()
        });
        deleted.expect("a delete finds room");
        self.model.remove(&key);
    }

    fn flush(&mut self) {
        self.settle(|cache| flush(cache.store, &cache.seat.turn())).expect("a flush finds room");
        self.model.clear();
    }

    fn get(&mut self, key: u32) -> Option<u32> {
        let turn = self.seat.turn();
        let item = self.store.get(&turn, &self.store.locate(&name(key)), self.now)?;
        item.note_use(self.now);
        Some(number_in(&item))
    }

    /// What the model has of a key.
    fn expected(&self, key: u32) -> Option<u32> {
        let (expiry, _, number) = self.model.get(&key)?;
        (*expiry == 0 || *expiry > self.now.0).then_some(*number)
    }

    fn forget_expired(&mut self) {
        let now = self.now.0;
        self.model.retain(|_, (expiry, ..)| *expiry == 0 || *expiry > now);
    }

    fn alive_bytes(&mut self) -> u64 {
        self.forget_expired();
        self.model.values().map(|(_, bytes, _)| bytes).sum()
    }

    /// Everything that must be there is, and nothing else.
    fn check(&mut self) {
        let lost = self.lost();
        assert!(lost.is_empty(), "{} of {} alive items are gone", lost.len(), self.model.len());
        if let Some((link, _)) = &mut self.follower {
            link.settle();
        }
        if let Some((_, replica)) = &self.follower {
            let mut seat = replica.join();
            let turn = seat.turn();
            for key in self.model.keys() {
                let item = replica.get(&turn, &replica.locate(&name(*key)), self.now);
                assert_eq!(item.as_ref().map(number_in), self.expected(*key), "{key} on the replica");
            }
        }
    }

    fn lost(&mut self) -> Vec<u32> {
        self.forget_expired();
        let keys: Vec<u32> = self.model.keys().copied().collect();
        keys.into_iter().filter(|key| self.get(*key) != self.expected(*key)).collect()
    }

    /// How many times what clients wrote went into the log, since `before`.
    fn amplification(&self, before: &StoreStats) -> f64 {
        let counts = self.store.stats().since(before).counts;
        let (all, again) = (counts.appended_bytes, counts.reinserted_bytes);
        all as f64 / (all - again) as f64
    }
}

/// The number that stands at the beginning of a value.
fn number_in(item: &Item<'_>) -> u32 {
    let mut value = Vec::new();
    item.value().copy_to(&mut value);
    u32::from_le_bytes(value[..4].try_into().unwrap())
}

fn replica_of(store: &Store) -> Store {
    Store::with_geometry(store.geometry(), store.memory().slabs, 1, false, Some((5, 6))).unwrap()
}

fn name(key: u32) -> Vec<u8> {
    format!("key-{key:08}").into_bytes()
}

/// So many sessions of an hour are kept alive by touching them, and nothing else is written.
fn touched_sessions(logged: bool) -> (f64, u64) {
    let store = store(1 << 20, true);
    let replica = replica_of(&store);
    let mut cache = Cache::new(&store);
    if logged {
        cache = cache.followed_by(&replica);
    }
    let mut rng = fastrand::Rng::with_seed(1);
    // A fifth of the memory.
    (0..1500).for_each(|key| cache.set(key, 100, HOUR).unwrap());
    let before = store.stats();
    for step in 0..60_000 {
        if step % 50 == 0 {
            cache.now.0 += 1;
        }
        assert!(cache.touch(rng.u32(..1500), HOUR), "step {step}");
    }
    cache.check();
    let after = store.stats();
    assert_eq!(after.counts.evictions, 0);
    (cache.amplification(&before), after.counts.appended_bytes - before.counts.appended_bytes)
}

#[test]
fn sessions_that_are_touched_again_and_again_stay() {
    let (amplification, appended_bytes) = touched_sessions(true);
    assert!(appended_bytes > 1 << 20, "the log went round: {appended_bytes}");
    assert!(amplification < 1.5, "{amplification}");
}

#[test]
fn touches_leave_the_log_alone_where_nobody_reads_it() {
    let (_, appended_bytes) = touched_sessions(false);
    assert_eq!(appended_bytes, 0);
}

/// Idle items fill so much of the log, in quarters, while few of them are written again and again:
/// what is alive stands in one piece, and is passed by in every lap.
fn busy_few(alive_percent: u32, value_bytes: usize) -> f64 {
    let store = store(1 << 20, true);
    let replica = replica_of(&store);
    let mut cache = Cache::new(&store).followed_by(&replica);
    let mut keys = 0;
    let mut alive_bytes = 0;
    while alive_bytes < (1 << 20) / 100 * u64::from(alive_percent) {
        cache.set(keys, value_bytes, 0).unwrap();
        alive_bytes += cache.model[&keys].1;
        keys += 1;
    }
    let mut rng = fastrand::Rng::with_seed(2);
    let before = store.stats();
    for _ in 0..80_000 {
        cache.set(rng.u32(..keys.div_ceil(100)), value_bytes, 0).unwrap();
    }
    cache.check();
    let stats = store.stats();
    assert_eq!(stats.counts.evictions, 0, "{alive_percent} %");
    assert!(stats.counts.appended_bytes > 3 << 20, "the log went round");
    cache.amplification(&before)
}

#[test]
fn counters_and_overwrites_push_nobody_out_and_cost_a_bounded_number_of_writes() {
    for alive_percent in [30, 50, 70] {
        for value_bytes in [10, 100, 700] {
            let amplification = busy_few(alive_percent, value_bytes);
            // C / (C - alive), and an eighth more: so much of what is not alive is kept free. And
            // what pads take.
            let bound = 100.0 / f64::from(100 - alive_percent) * 8.0 / 7.0 * 1.05;
            println!("{alive_percent} % of {value_bytes} bytes: {amplification:.2} of {bound:.2}");
            assert!(amplification < bound, "{alive_percent} % of {value_bytes} bytes: {amplification} > {bound}");
        }
    }
}

#[test]
fn what_expires_makes_room_before_anything_alive_goes() {
    let store = store(1 << 20, true);
    let replica = replica_of(&store);
    let mut cache = Cache::new(&store).followed_by(&replica);
    // Full of items that alternate: half of them stay for ever, half for a minute.
    (0..6000).for_each(|key| cache.set(key, 100, if key % 2 == 0 { 0 } else { 60 }).unwrap());
    let evicted = store.stats().counts.evictions;
    let kept: Vec<u32> = (0..6000).step_by(2).filter(|key| cache.get(*key).is_some()).collect();
    cache.model.retain(|key, _| kept.contains(key));
    cache.now.0 += 60;
    // A lap of new ones, each deleted again: what is alive never exceeds the half.
    for key in 10_000..30_000 {
        cache.set(key, 100, HOUR).unwrap();
        cache.delete(key);
    }
    cache.check();
    assert_eq!(store.stats().counts.evictions, evicted);
}

#[test]
fn above_three_quarters_what_is_used_stays_and_what_is_not_goes() {
    let store = store(1 << 20, true);
    let mut cache = Cache::new(&store);
    for key in 0..30_000 {
        cache.set(key, 100, 0).unwrap();
        // A tenth of the memory is asked for all the time.
        (0..20).for_each(|step| assert!(cache.get((key * 20 + step) % 700) != Some(0)));
    }
    let lost = (0..700).filter(|key| cache.get(*key).is_none()).count();
    assert!(lost < 7, "{lost} of 700 that are in use");
    assert!(store.stats().counts.evictions > 20_000);
}

/// A cache full of items that expire far ahead, at about the same time: shortly before it, none of
/// them is known to be alive. It must still take new items, and at a bounded cost.
#[test]
fn doubt_about_what_has_expired_holds_nobody_up() {
    let store = store(1 << 20, true);
    let replica = replica_of(&store);
    let mut cache = Cache::new(&store).followed_by(&replica);
    (0..8000).for_each(|key| cache.set(key, 100, 30 * 24 * HOUR).unwrap());
    cache.now.0 += 30 * 24 * HOUR - 1000;
    let before = store.stats();
    (10_000..30_000).for_each(|key| cache.set(key, 100, 30 * 24 * HOUR).unwrap());
    let amplification = cache.amplification(&before);
    assert!(amplification < 2.0, "{amplification}");
    assert!((25_000..30_000).all(|key| cache.get(key).is_some()));
}

/// Items as large as an eighth of the shard.
#[test]
fn large_items_are_kept_as_well() {
    let store = Store::new(StoreConfig { item_bytes_max: 128 << 10, ..config(1 << 20, 1, true) }).unwrap();
    let replica = replica_of(&store);
    let mut cache = Cache::new(&store).followed_by(&replica);
    let mut rng = fastrand::Rng::with_seed(4);
    cache.set(0, 125_000, 0).unwrap();
    for _ in 0..100_000 {
        cache.set(1, 20, 0).unwrap();
    }
    cache.check();
    // Two thirds of the memory, of all lengths up to that.
    let mut key = 2;
    while cache.alive_bytes() < (2 << 20) / 3 - 60_000 {
        cache.set(key, rng.usize(..120_000), 0).unwrap();
        key += 1;
    }
    for _ in 0..20_000 {
        cache.set(key, rng.usize(..1000), 0).unwrap();
    }
    cache.check();
    assert_eq!(store.stats().counts.evictions, 0);
}

/// What a lap found alive must not be believed of items that have died since.
#[test]
fn what_was_found_alive_is_forgotten_when_it_has_died() {
    const DAY: u32 = 24 * HOUR;
    let store = store(1 << 20, true);
    let mut cache = Cache::new(&store);
    (0..4000).for_each(|key| cache.set(key, 100, 0).unwrap());
    (4000..5200).for_each(|key| cache.set(key, 100, DAY).unwrap());
    cache.now.0 += DAY - 800;
    // They count as expired from now on, and are deleted. Then laps find what is left.
    cache.set(10_000, 100, 0).unwrap();
    (4000..5200).for_each(|key| cache.delete(key));
    (0..20_000).for_each(|_| cache.set(10_000, 100, 0).unwrap());
    cache.now.0 += 800;
    (4000..5500).for_each(|key| cache.set(key, 100, 10).unwrap());
    cache.now.0 += 10;
    let evicted = store.stats().counts.evictions;
    (0..20_000).for_each(|_| cache.set(10_000, 100, 0).unwrap());
    assert_eq!(store.stats().counts.evictions, evicted);
    cache.model.retain(|key, _| *key < 4000);
    cache.check();
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_eviction() {
    let store = store(1 << 20, true);
    let mut cache = Cache::new(&store);
    (0..8000).for_each(|key| cache.set(key, 100, 60).unwrap());
    cache.now.0 -= HOUR;
    (10_000..20_000).for_each(|key| cache.set(key, 100, 60).unwrap());
    let before = store.stats();
    (20_000..50_000).for_each(|key| cache.set(key, 100, 60).unwrap());
    let amplification = cache.amplification(&before);
    assert!(amplification < 6.0, "{amplification}");
    assert!((45_000..50_000).all(|key| cache.get(key).is_some()));
}

/// A replica counts items that its primary has found expired until the tail passes them.
#[test]
fn without_eviction_a_replica_is_promoted_whatever_it_counts() {
    let primary = store(256 << 10, false);
    let replica = replica_of(&primary);
    let mut cache = Cache::new(&primary).followed_by(&replica);
    let fill = |cache: &mut Cache<'_>, from: u32, ttl: u32| {
        (from..).find(|key| cache.set(*key, 8, ttl).is_err()).unwrap() - from
    };
    assert!(fill(&mut cache, 0, 60) > 1000);
    cache.now.0 += 60;
    assert!(fill(&mut cache, 10_000, 0) > 1000);
    cache.check();
    cache.follower = None;
    cache.store = &replica;
    cache.seat = replica.join();
    cache.check();
    let all = ShardSet::all(replica.shards().len());
    assert!((0..1000).any(|_| replica.make_room_for_term(all, cache.now).is_ok()));
    replica.begin_term(all, replica.newest_term().succeed().unwrap(), &|_| {});
    replica.open_gates(0..replica.shards().len());
    (10_000..11_000).for_each(|key| cache.set(key, 8, 0).unwrap());
    cache.check();
}

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("REMORA_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("REMORA_SEEDS").unwrap_or(6)).collect(),
    }
}

#[test]
fn nothing_alive_is_evicted_while_it_fits_into_three_quarters() {
    const LOG_BYTES: u64 = 256 << 10;
    let mut laps = 0;
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let store = store(LOG_BYTES as usize, true);
        if rng.bool() {
            store.log_touches();
        }
        let mut cache = Cache::new(&store);
        let keys = rng.u32(50..1200);
        let bits = rng.u32(3..11);
        let value_bytes_max = 1 << bits;
        let ttl_max = 1 << rng.u32(2..20);
        let mut evictions = 0;
        for step in 0..20_000 {
            if rng.u8(..40) == 0 {
                cache.now.0 += rng.u32(..3) * rng.u32(..=ttl_max / 8 + 1);
            }
            let alive_before = cache.alive_bytes();
            let key = rng.u32(..keys);
            match rng.u8(..100) {
                0..60 => cache.set(key, rng.usize(..value_bytes_max), rng.u32(..2) * rng.u32(1..=ttl_max)).unwrap(),
                60..75 => drop(cache.touch(key, rng.u32(..2) * rng.u32(1..=ttl_max))),
                75..85 => cache.delete(key),
                85..99 => drop(cache.get(key)),
                _ if rng.u8(..20) == 0 => cache.flush(),
                _ => {}
            }
            let (alive_after, now_evicted) = (cache.alive_bytes(), store.stats().counts.evictions);
            let fits = alive_before.max(alive_after) <= LOG_BYTES / 4 * 3;
            assert!(!fits || now_evicted == evictions, "step {step}: evicted with {alive_before} bytes alive");
            if now_evicted > evictions {
                let lost = cache.lost();
                cache.model.retain(|key, _| !lost.contains(key));
                evictions = now_evicted;
            }
        }
        cache.check();
        laps += store.stats().counts.appended_bytes / LOG_BYTES;
    }
    assert!(laps > 20, "{laps}");
}

#[test]
fn without_eviction_a_flush_or_an_expiry_makes_room_and_refusals_leave_the_log_alone() {
    let store = store(1 << 20, false);
    let replica = replica_of(&store);
    let mut cache = Cache::new(&store).followed_by(&replica);
    let fill = |cache: &mut Cache<'_>, from: u32, ttl: u32| (from..).find(|key| cache.set(*key, 100, ttl).is_err());
    let full = fill(&mut cache, 0, 0).unwrap();
    assert!(full > 5000, "{full}");
    cache.check();

    // Many tries move no records.
    let before = store.stats();
    (0..20_000).for_each(|_| assert_eq!(cache.set(full, 100, 0), Err(NoRoom::Full)));
    let after = store.stats();
    assert_eq!(
        (after.counts.appended_bytes, after.reclaimed_bytes),
        (before.counts.appended_bytes, before.reclaimed_bytes)
    );

    cache.flush();
    // These are counted as expired a second before they are: what lies ahead is counted in blocks
    // of seconds.
    let again = fill(&mut cache, 100_000, 61).unwrap();
    assert!(again - 100_000 > full / 10 * 9, "as much fits as before: {}", again - 100_000);
    cache.check();

    cache.now.0 += 60;
    let before = store.stats();
    (0..20_000).for_each(|_| assert_eq!(cache.set(full, 100, 0), Err(NoRoom::Full)));
    assert_eq!(store.stats().counts.appended_bytes, before.counts.appended_bytes);
    cache.now.0 += 1;
    assert_eq!(cache.set(full, 100, 0), Ok(()));
    let last = fill(&mut cache, 200_000, 0).unwrap();
    assert!(last - 200_000 > full / 10 * 9, "{}", last - 200_000);
    cache.check();
    assert_eq!(store.stats().counts.evictions, 0);
}

#[test]
fn no_two_items_have_the_same_cas() {
    let store = Store::new(config(1 << 20, 8, true)).unwrap();
    let mut seat = store.join();
    let mut seen = HashMap::new();
    for number in 0..4000u32 {
        let (turn, key) = (seat.turn(), name(number));
        let at = store.locate(&key);
        let draft = store.draft(&at, NewItem { value: b"same length", ..NewItem::default() }, UnixSeconds(BEGIN));
        let cas = store.lock(&at).unwrap().entry(&turn, UnixSeconds(BEGIN)).set(&draft).unwrap();
        assert_eq!(seen.insert(cas, number), None, "CAS {cas} of {number}");
    }
}

/// A store that another has followed all the while counts what is alive, and what of it may have
/// expired, as that one does.
#[test]
fn a_promoted_replica_keeps_as_much() {
    let primary = store(256 << 10, true);
    let replica = replica_of(&primary);
    let mut cache = Cache::new(&primary).followed_by(&replica);
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..30_000 {
        let key = rng.u32(..400);
        match rng.u8(..10) {
            0..6 => cache.set(key, 100, rng.u32(..2) * 100).unwrap(),
            6..8 => drop(cache.touch(key, 100)),
            _ => cache.delete(key),
        }
    }
    cache.check();
    let bytes = |store: &Store| (store.stats().item_bytes, store.stats().items);
    assert_eq!(bytes(&primary), bytes(&replica));
    // What is dead is marked in the log, so that reclaim need not look it up.
    let unmarked = |store: &Store| {
        let shard = &store.shards()[0];
        let records = shard.walk(shard.control().tail());
        records.filter(|(_, record)| record.shape.kind() == Kind::Set && !record.meta().dead()).count() as u64
    };
    assert_eq!((unmarked(&primary), unmarked(&replica)), (primary.stats().items, replica.stats().items));
    assert_eq!(primary.stats().counts.evictions, 0);
    cache.follower = None;
    cache.store = &replica;
    cache.seat = replica.join();
    cache.check();
}
