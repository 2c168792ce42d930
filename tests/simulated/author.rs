//! Who writes to a primary: single writes with patience, and a random history of everything that a
//! log can have.

use crate::pair::NOW;
use fastrand::Rng;
use remora::base::time::{Expiry, UnixSeconds};
use remora::store::{Flushed, MetaChange, NewItem, NoRoom, Participant, Store, Turn, Unwritten};

/// Turns in which a write that found no room is tried again.
const TURNS_MAX: usize = 100_000;

pub struct Author<'s> {
    pub store: &'s Store,
    pub now: UnixSeconds,
    participant: Participant<'s>,
}

impl<'s> Author<'s> {
    pub fn new(store: &'s Store) -> Self {
        store.log_touches();
        Author { store, now: NOW, participant: store.join() }
    }

    /// Turn by turn until there is room; None where live items fill the memory.
    fn insist<T>(&mut self, what: impl Fn(&Turn<'_>) -> Result<T, NoRoom>) -> Option<T> {
        for _ in 0..TURNS_MAX {
            let turn = self.participant.turn();
            match what(&turn) {
                Ok(done) => return Some(done),
                Err(NoRoom::Full | NoRoom::TooLarge) => return None,
                Err(NoRoom::Now) => {
                    for worker in 0..2 {
                        self.store.maintain(&turn, worker, self.now);
                    }
                }
            }
            drop(turn);
            std::thread::yield_now();
        }
        panic!("no room after {TURNS_MAX} turns: {:?}", self.store.stats());
    }

    pub fn set(&mut self, key: &[u8], item: NewItem<'_>) -> Option<u64> {
        let (store, now) = (self.store, self.now);
        self.insist(|turn| {
            let at = store.locate(key);
            let draft = store.draft(&at, item, now);
            store.lock(&at).unwrap().entry(turn, now).set(&draft)
        })
    }

    pub fn set_value(&mut self, key: &[u8], value: &[u8]) -> Option<u64> {
        self.set(key, NewItem { value, ..NewItem::default() })
    }

    pub fn delete(&mut self, key: &[u8]) {
        let (store, now) = (self.store, self.now);
        self.insist(|turn| store.lock(&store.locate(key)).unwrap().entry(turn, now).delete());
    }

    pub fn change(&mut self, key: &[u8], change: MetaChange) {
        let (store, now) = (self.store, self.now);
        self.insist(|turn| store.lock(&store.locate(key)).unwrap().entry(turn, now).change_meta(change));
    }

    pub fn flush(&mut self) {
        let store = self.store;
        self.insist(|turn| flush(store, turn));
    }

    /// Some seconds from now.
    fn flush_later(&mut self, seconds: u32) {
        let (store, due) = (self.store, UnixSeconds(self.now.0 + seconds));
        self.insist(|turn| store.flush_at(turn, due, Flushed::All).map_err(no_room));
    }

    fn flush_if_due(&mut self) {
        let (store, now) = (self.store, self.now);
        if store.is_flush_due(now) {
            self.insist(|turn| store.flush_what_is_due(turn, now));
        }
    }

    pub fn read(&mut self, key: &[u8]) {
        let turn = self.participant.turn();
        if let Some(item) = self.store.get(&turn, &self.store.locate(key), self.now) {
            item.note_use(self.now);
        }
    }

    /// One step of a history over `keys` keys, with values of up to `value_bytes_max` bytes. A few
    /// keys are hot, so that there are second chances.
    pub fn step(&mut self, random: &mut Rng, keys: usize, value_bytes_max: usize) {
        self.flush_if_due();
        let hot = random.u8(0..3) == 0;
        let key = format!("key-{}", random.usize(0..if hot { 5 } else { keys })).into_bytes();
        match random.u32(0..1000) {
            0..450 => self.random_set(random, &key, value_bytes_max),
            450..750 => self.read(&key),
            750..850 => self.delete(&key),
            850..990 => self.change(&key, random_change(random, self.now)),
            990..998 => self.now.0 += 1,
            998 if random.bool() => self.flush_later(random.u32(1..20)),
            998 => self.flush(),
            _ => self.random_set(random, &[b'k'; 250], value_bytes_max),
        }
    }

    fn random_set(&mut self, random: &mut Rng, key: &[u8], value_bytes_max: usize) {
        let most = if random.u8(0..20) == 0 { value_bytes_max } else { value_bytes_max.min(200) };
        let mut value = vec![0; random.usize(0..=most)];
        random.fill(&mut value);
        let item = NewItem {
            value: &value,
            client_flags: if random.bool() { random.u32(..) } else { 0 },
            expiry: if random.u8(0..4) == 0 {
                Expiry::at(UnixSeconds(self.now.0 + random.u32(0..9)))
            } else {
                Expiry::NEVER
            },
            cas: (random.u8(0..8) == 0).then(|| random.u64(..)),
            stale: random.u8(0..9) == 0,
            token_sent: random.u8(0..9) == 0,
        };
        self.set(key, item);
    }
}

/// flush_all in a store that takes writes.
pub fn flush(store: &Store, turn: &Turn<'_>) -> Result<(), NoRoom> {
    store.flush(turn, Flushed::All).map_err(no_room)
}

fn no_room(unwritten: Unwritten) -> NoRoom {
    match unwritten {
        Unwritten::NoRoom(no_room) => no_room,
        Unwritten::Closed(closed) => panic!("{closed}"),
    }
}

fn random_change(random: &mut Rng, now: UnixSeconds) -> MetaChange {
    MetaChange {
        expiry: random.bool().then(|| Expiry::at(UnixSeconds(now.0 + random.u32(0..20)))),
        stale: random.bool().then(|| random.bool()),
        token_sent: random.bool().then(|| random.bool()),
    }
}
