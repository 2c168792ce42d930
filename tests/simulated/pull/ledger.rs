//! What was ever written, and what a reader of a replica may see of it: values that say whose they
//! are and which version, and repeat that to their end.

use fastrand::Rng;
use remora::store::{Item, Store, Turn};

/// Everything that the primaries of one run wrote.
#[derive(Default)]
pub struct Ledger {
    /// For each lineage, for each version: the key, and the value's length.
    written: Vec<Vec<(usize, usize)>>,
    /// For each key the newest value that was seen, as lineage and version.
    newest: Vec<(usize, usize)>,
    /// Values that were looked at.
    pub hits: u64,
}

/// An item that a reader holds within its turn, and the bytes that it had.
pub struct Held<'t> {
    pub item: Item<'t>,
    bytes: Vec<u8>,
}

impl Held<'_> {
    pub fn assert_unchanged(&self) {
        assert!(self.item.value().equals(&self.bytes), "a reader's bytes were overwritten within its turn");
    }
}

/// Some keys are as long as keys can be.
pub fn name_of(key: usize) -> Vec<u8> {
    let mut name = format!("key-{key}").into_bytes();
    if key % 16 == 3 {
        name.resize(250, b'k');
    }
    name
}

impl Ledger {
    pub fn begin_lineage(&mut self) {
        self.written.push(Vec::new());
    }

    /// The next value of `key`, of at least eight bytes.
    pub fn value(&mut self, key: usize, bytes: usize) -> Vec<u8> {
        let bytes = bytes.max(8);
        let lineage = self.written.len() - 1;
        let version = self.written[lineage].len();
        self.written[lineage].push((key, bytes));
        let word = (lineage as u64) << 56 | (key as u64) << 40 | version as u64;
        word.to_le_bytes().into_iter().cycle().take(bytes).collect()
    }

    /// A value that was seen under `key`: written for it, as it is, and not older than what was
    /// seen before.
    pub fn check(&mut self, key: usize, value: &[u8]) {
        let seen = self.assert_written(key, value);
        if self.newest.len() <= key {
            self.newest.resize(key + 1, (0, 0));
        }
        assert!(seen >= self.newest[key], "key {key}: {seen:?} after {:?}", self.newest[key]);
        self.newest[key] = seen;
        self.hits += 1;
    }

    fn assert_written(&self, key: usize, value: &[u8]) -> (usize, usize) {
        let word = u64::from_le_bytes(*value.first_chunk().expect("eight bytes at least"));
        let (lineage, version) = ((word >> 56) as usize, (word & 0xFF_FFFF_FFFF) as usize);
        assert_eq!(self.written[lineage][version], (key, value.len()), "a value that was never written");
        let whole = word.to_le_bytes().into_iter().cycle().zip(value).all(|(expected, byte)| expected == *byte);
        assert!(whole, "a torn value");
        (lineage, version)
    }

    /// A replica that was restarted may show older versions again, while it replays.
    pub fn forget_seen(&mut self) {
        self.newest.clear();
    }

    /// Look up a few of `keys` keys; what was found stays as it is as long as the turn lasts.
    pub fn look<'t>(
        &mut self,
        replica: &'t Store,
        turn: &'t Turn<'_>,
        random: &mut Rng,
        keys: usize,
        now: remora::base::time::UnixSeconds,
    ) -> Vec<Held<'t>> {
        let mut held = Vec::new();
        for _ in 0..random.usize(1..12) {
            let key = random.usize(0..keys);
            let name = name_of(key);
            let Some(item) = replica.get(turn, &replica.locate(&name), now) else { continue };
            item.note_use_in_index();
            let mut bytes = Vec::new();
            item.value().copy_to(&mut bytes);
            self.check(key, &bytes);
            held.push(Held { item, bytes });
        }
        held
    }

    /// Every item of a store is one that was written.
    pub fn assert_all_written(&self, store: &Store, keys: usize, now: remora::base::time::UnixSeconds) -> usize {
        let mut participant = store.join();
        let turn = participant.turn();
        let mut found = 0;
        for key in 0..keys {
            let name = name_of(key);
            let Some(item) = store.get(&turn, &store.locate(&name), now) else { continue };
            let mut bytes = Vec::new();
            item.value().copy_to(&mut bytes);
            self.assert_written(key, &bytes);
            found += 1;
        }
        found
    }
}
