//! A random history at a primary, of everything that a log can have, with values that the ledger
//! knows again.

use super::ledger::{Ledger, name_of};
use crate::author::Author;
use crate::pair::Setup;
use fastrand::Rng;
use remora::base::time::{Expiry, UnixSeconds};
use remora::store::{MetaChange, NewItem, Store};

/// What a record can have beside key and value: header and options.
const RECORD_OVERHEAD_BYTES: usize = 32;

pub struct Writer<'s> {
    author: Author<'s>,
    keys: usize,
    item_bytes_max: usize,
    /// One in so many values is about as long as can be.
    large_share: u32,
}

impl<'s> Writer<'s> {
    pub fn new(store: &'s Store, ledger: &mut Ledger, setup: Setup, keys: usize) -> Self {
        ledger.begin_lineage();
        Writer { author: Author::new(store), keys, item_bytes_max: setup.item_bytes_max, large_share: 25 }
    }

    pub fn now(&self) -> UnixSeconds {
        self.author.now
    }

    pub fn set(&mut self, ledger: &mut Ledger, key: usize, bytes: usize) {
        let value = ledger.value(key, bytes);
        self.author.set_value(&name_of(key), &value);
    }

    /// One step; a few keys are hot, so that there are second chances.
    pub fn step(&mut self, ledger: &mut Ledger, random: &mut Rng) {
        let hot = random.u8(0..3) == 0;
        let key = random.usize(0..if hot { self.keys.min(5) } else { self.keys });
        match random.u32(0..1000) {
            0..550 => self.random_set(ledger, random, key),
            550..750 => self.author.read(&name_of(key)),
            750..850 => self.author.delete(&name_of(key)),
            850..990 => self.author.change(&name_of(key), random_change(random, self.author.now)),
            990..999 => self.author.now.0 += 1,
            _ => self.author.flush(),
        }
    }

    fn random_set(&mut self, ledger: &mut Ledger, random: &mut Rng, key: usize) {
        let name = name_of(key);
        let most = self.item_bytes_max - RECORD_OVERHEAD_BYTES - name.len();
        let large = random.u32(0..self.large_share) == 0;
        // Some of the large values are just too long, and are refused.
        let bytes = if large { most + 24 - random.usize(0..64) } else { random.usize(0..200.min(most)) };
        let value = ledger.value(key, bytes);
        let expires = random.u8(0..6) == 0;
        let item = NewItem {
            value: &value,
            client_flags: if random.bool() { random.u32(..) } else { 0 },
            expiry: if expires { Expiry::at(UnixSeconds(self.author.now.0 + random.u32(0..9))) } else { Expiry::NEVER },
            cas: (random.u8(0..8) == 0).then(|| random.u64(..)),
            stale: random.u8(0..9) == 0,
            token_sent: random.u8(0..9) == 0,
        };
        self.author.set(&name, item);
    }
}

fn random_change(random: &mut Rng, now: UnixSeconds) -> MetaChange {
    MetaChange {
        expiry: random.bool().then(|| Expiry::at(UnixSeconds(now.0 + random.u32(0..20)))),
        stale: random.bool().then(|| random.bool()),
        token_sent: random.bool().then(|| random.bool()),
    }
}
