//! The log at every byte, and the store over a disk that fails.

use super::super::{Lead, MapStore, StoreError, Swapped};
use super::disk::Disk;
use super::log::{self, Found, HEADER_BYTES, State, scan};
use super::{Embedded, LOG_BYTES_MAX};
use fastrand::Rng;
use std::io;
use std::sync::{Arc, Mutex};

/// A log with these states, and where each record ends.
fn file_of(states: &[State]) -> (Vec<u8>, Vec<usize>) {
    let mut file = log::begun_with(&states[0]);
    let mut ends = vec![file.len()];
    for state in &states[1..] {
        let record = state.record(file.len() as u64);
        file.extend_from_slice(&record);
        ends.push(file.len());
    }
    (file, ends)
}

fn states(random: &mut Rng) -> Vec<State> {
    let mut state = State { number: random.u64(1..1 << 40), ..State::default() };
    let count = random.usize(2..6);
    let next = |_| {
        state.number += 1;
        state.generation += u64::from(random.bool());
        if random.bool() {
            state.revision += 1;
            state.bytes = (0..random.usize(0..90)).map(|_| random.u8(..) & random.u8(..) & random.u8(..)).collect();
        }
        state.clone()
    };
    (0..count).map(next).collect()
}

/// The last of `states` whose record ends at or before `at`.
fn known(states: &[State], ends: &[usize], at: usize) -> Option<Found> {
    let last = ends.iter().rposition(|end| *end <= at)?;
    Some(Found { state: states[last].clone(), length: ends[last] as u64 })
}

#[test]
fn a_log_that_ends_anywhere_tells_what_was_whole() {
    for seed in 1..=40 {
        let states = states(&mut Rng::with_seed(seed));
        let (file, ends) = file_of(&states);
        for at in 0..=file.len() {
            let found = scan(&file[..at]);
            // The first record was whole when the file came to be.
            assert_eq!(found.as_ref().ok(), known(&states, &ends, at).as_ref(), "seed {seed}, {at} bytes: {found:?}");
        }
    }
}

#[test]
fn sectors_that_did_not_come_to_the_disk_are_zeros() {
    for seed in 1..=20 {
        let states = states(&mut Rng::with_seed(seed));
        let (file, ends) = file_of(&states);
        for at in (ends[0]..file.len()).step_by(4) {
            let end = *ends.iter().find(|end| **end > at).expect("it is within a record");
            for to in at..=end {
                let mut torn = file[..to].to_vec();
                torn[at..].fill(0);
                if torn != file[..to] {
                    assert_eq!(scan(&torn).ok(), known(&states, &ends, at), "seed {seed}, zeros from {at} to {to}");
                }
            }
        }
    }
}

#[test]
fn a_byte_that_has_changed_never_leads_to_an_older_map() {
    for seed in 1..=20 {
        let (file, ends) = file_of(&states(&mut Rng::with_seed(seed)));
        for at in 0..file.len() {
            for mask in [1, 0x80, 0xFF] {
                let mut damaged = file.clone();
                damaged[at] ^= mask;
                let damage = scan(&damaged).expect_err(&format!("seed {seed}, byte {at} ^ {mask}"));
                let begins = ends.iter().rfind(|end| **end <= at).copied();
                let expected = if at < HEADER_BYTES { 0 } else { begins.unwrap_or(HEADER_BYTES) };
                assert_eq!(damage.at, expected as u64, "seed {seed}, byte {at}");
            }
        }
    }
}

#[test]
fn a_record_at_anothers_place_is_damage() {
    let states: Vec<State> =
        (1..=3).map(|number| State { number, generation: 1, revision: number, bytes: vec![7; 20] }).collect();
    let (file, ends) = file_of(&states);
    let (second, third) = (&file[ends[0]..ends[1]], &file[ends[1]..]);
    for wrong in [[&file[..ends[0]], third].concat(), [&file[..ends[1]], second].concat()] {
        assert!(scan(&wrong).is_err());
    }
    let again = states[1].record(ends[1] as u64);
    let damage = scan(&[&file[..ends[1]], &again].concat()).expect_err("the same number twice");
    assert_eq!((damage.at, damage.why), (ends[1] as u64, "a record is not the one that follows"));
}

/// A disk in memory, which fails by chance: what it was told may be done then, or not, or in part.
#[derive(Clone, Default)]
struct Flaky {
    file: Arc<Mutex<Option<Vec<u8>>>>,
    /// Of 100 calls so many fail; each at a random place of its work.
    failures: Arc<Mutex<(u32, Rng)>>,
    replaced: Arc<Mutex<u32>>,
}

impl Flaky {
    fn with(percent: u32, seed: u64) -> Flaky {
        Flaky { failures: Arc::new(Mutex::new((percent, Rng::with_seed(seed)))), ..Flaky::default() }
    }

    fn fails(&self, percent: u32) {
        self.failures.lock().unwrap().0 = percent;
    }

    /// Where in `steps` steps it fails, if it does.
    fn failure(&self, steps: usize) -> Option<usize> {
        let (percent, random) = &mut *self.failures.lock().unwrap();
        (random.u32(..100) < *percent).then(|| random.usize(..=steps))
    }

    fn open(&self) -> Embedded {
        Embedded::over("memory".into(), Box::new(self.clone())).expect("what failures leave is no damage")
    }
}

fn full() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl Disk for Flaky {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.file.lock().unwrap().clone())
    }

    fn append(&mut self, place: u64, bytes: &[u8]) -> io::Result<()> {
        let failure = self.failure(bytes.len());
        let mut file = self.file.lock().unwrap();
        let file = file.as_mut().expect("there is one");
        assert_eq!(file.len() as u64, place, "what is behind the end is written to");
        file.extend_from_slice(&bytes[..failure.unwrap_or(bytes.len())]);
        failure.map_or(Ok(()), |_| Err(full()))
    }

    fn cut(&mut self, place: u64) -> io::Result<()> {
        let failure = self.failure(1);
        if failure != Some(0) {
            self.file.lock().unwrap().as_mut().expect("there is one").truncate(place as usize);
        }
        failure.map_or(Ok(()), |_| Err(full()))
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let failure = self.failure(1);
        if failure != Some(0) {
            *self.file.lock().unwrap() = Some(bytes.to_vec());
            *self.replaced.lock().unwrap() += 1;
        }
        failure.map_or(Ok(()), |_| Err(full()))
    }
}

/// What was promised, and what a failed write may have made of it.
#[derive(Default)]
struct Promised {
    generation: u64,
    kept: Option<Vec<u8>>,
    perhaps: Vec<Option<Vec<u8>>>,
}

/// One life of a locator over a disk that fails: it takes charge, writes, and is killed.
fn live(store: &mut Embedded, promised: &mut Promised, random: &mut Rng, seed: u64) {
    let loaded = store.load().expect("from memory").map(|stored| stored.bytes);
    let is_allowed = loaded == promised.kept || promised.perhaps.contains(&loaded);
    assert!(is_allowed, "seed {seed}: {loaded:?}, not {:?} or {:?}", promised.kept, promised.perhaps);
    (promised.kept, promised.perhaps) = (loaded, Vec::new());
    let mut own = None;
    for _ in 0..random.usize(1..12) {
        match store.lead("a") {
            Ok(Lead::InCharge { generation }) => {
                assert!(own == Some(generation) || (own.is_none() && generation > promised.generation), "seed {seed}");
                promised.generation = generation;
                own = Some(generation);
            }
            Err(StoreError::Disk { .. }) => continue,
            other => panic!("seed {seed}: {other:?}"),
        }
        let bytes: Vec<u8> = (0..random.usize(0..60)).map(|_| random.u8(..)).collect();
        let expected = store.load().expect("from memory").map(|stored| stored.revision);
        match store.swap(expected, &bytes) {
            Ok(Swapped::Done { .. }) => (promised.kept, promised.perhaps) = (Some(bytes), Vec::new()),
            Err(StoreError::Disk { .. }) => {
                promised.perhaps.push(Some(bytes));
                let now = store.load().expect("from memory").map(|stored| stored.bytes);
                assert_eq!(now, promised.kept, "seed {seed}: what failed is taken for kept");
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
}

#[test]
fn over_a_disk_that_fails_nothing_promised_is_lost() {
    for seed in 1..=400 {
        let mut random = Rng::with_seed(seed);
        let disk = Flaky::with(random.u32(0..60), seed);
        let mut promised = Promised::default();
        for _ in 0..8 {
            live(&mut disk.open(), &mut promised, &mut random, seed);
        }
        // Once there is room, all goes on.
        disk.fails(0);
        let mut store = disk.open();
        let loaded = store.load().expect("from memory");
        assert!(matches!(store.lead("a"), Ok(Lead::InCharge { generation }) if generation > promised.generation));
        let expected = loaded.map(|stored| stored.revision);
        assert!(matches!(store.swap(expected, b"on"), Ok(Swapped::Done { .. })), "seed {seed}");
        assert_eq!(disk.open().load().expect("from memory").expect("kept").bytes, b"on");
    }
}

#[test]
fn the_next_write_after_a_full_disk_succeeds_in_the_same_process() {
    let disk = Flaky::with(0, 1);
    let mut store = disk.open();
    store.lead("a").expect("in charge");
    let Ok(Swapped::Done { revision }) = store.swap(None, b"one") else { panic!("there is room") };
    disk.fails(100);
    for _ in 0..3 {
        let error = store.swap(Some(revision), b"two").expect_err("there is no room");
        assert!(error.to_string().contains("Make room"), "{error}");
    }
    disk.fails(0);
    assert_eq!(store.load().expect("from memory").expect("kept").bytes, b"one");
    assert!(matches!(store.swap(Some(revision), b"three"), Ok(Swapped::Done { .. })));
    assert_eq!(disk.open().load().expect("from memory").expect("kept").bytes, b"three");
}

#[test]
fn a_long_log_is_begun_anew_and_tells_the_same() {
    let disk = Flaky::with(0, 1);
    let mut store = disk.open();
    let Ok(Lead::InCharge { generation }) = store.lead("a") else { panic!("nobody else is there") };
    let bytes = vec![7; 1 << 19];
    let mut expected = None;
    for _ in 0..40 {
        let Ok(Swapped::Done { revision }) = store.swap(expected, &bytes) else { panic!("nobody else writes") };
        expected = Some(revision);
        assert!(disk.file.lock().unwrap().as_ref().expect("a log").len() as u64 <= LOG_BYTES_MAX);
    }
    assert!((2..5).contains(&*disk.replaced.lock().unwrap()), "it is begun anew when it is long, and not before");
    let mut again = disk.open();
    assert_eq!(
        again.load().expect("from memory").map(|stored| (Some(stored.revision), stored.bytes)),
        Some((expected, bytes))
    );
    let Ok(Lead::InCharge { generation: next }) = again.lead("b") else { panic!("nobody else is there") };
    assert_eq!(next, generation + 1);
}
