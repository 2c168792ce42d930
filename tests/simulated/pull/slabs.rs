//! Slabs that hold what does not belong there: what the log had there a lap ago, or what another
//! shard has. Two shards advance alike here, so that at each position of the one's log the other's
//! has a record of the same kind, lengths and term; only shard, key and value differ.

use super::Setup;
use super::ledger::{Ledger, name_of};
use super::scene::{COMMITTED, Scene, pull, pull_honest};
use super::writer::Writer;
use crate::clock;
use crate::compare::{Logs, assert_same};
use crate::pair::{NOW, primary, replica_of};
use crate::pullers::End;
use crate::session::Session;
use crate::support::wait::go_on_until;
use remora::fabric::sim::Faults;
use remora::replication::pull::LaneEnd;
use remora::store::log::Cell;
use remora::store::{BadRecord, Store};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const ALIKE: Setup =
    Setup { shard_bytes: 64 << 10, slab_bytes: 4 << 10, shards: 2, item_bytes_max: 16 << 10, evict: true };
const SLAB_BYTES: u64 = ALIKE.slab_bytes as u64;
/// Of each shard.
const KEYS: usize = 8;
/// All keys have numbers below this one.
const NUMBERS: usize = 1000;
/// Words before and behind an end of something at which bytes are cut.
const AROUND: u64 = 4;

/// Two shards that advanced alike, more than once around, and the last long value of each.
struct Alike {
    scene: Scene,
    /// The pool's words before the long value was written.
    before: Vec<u64>,
    /// Where the record of the long value stands, in both shards.
    long: Range<u64>,
}

impl Alike {
    fn new(value_bytes: usize) -> Alike {
        let store = primary(ALIKE);
        let mut ledger = Ledger::default();
        let mut writer = Writer::new(&store, &mut ledger, ALIKE, NUMBERS);
        let keys = [0, 1].map(|shard| keys_of(&store, shard));
        let mut set = |key: usize, bytes: usize| keys.iter().for_each(|keys| writer.set(&mut ledger, keys[key], bytes));
        for write in 0..120 {
            set(1 + write % (KEYS - 1), [40, 900, 5000, 100][write % 4] + write);
        }
        let committed = || store.shards()[0].control().committed();
        // So that the long value begins in the middle of a slab.
        while !(1200..2800).contains(&(committed() % SLAB_BYTES)) {
            set(1, 100);
        }
        let before = store.pool().memory().words().iter().map(|word| word.load(Relaxed)).collect();
        set(0, value_bytes);
        let name = name_of(keys[0][0]);
        let shard = &store.shards()[0];
        let walked = shard.walk(shard.control().tail()).filter(|(_, record)| record.key().equals(&name)).last();
        let long = walked.map(|(begin, record)| begin..begin + record.shape.record_bytes() as u64);
        set(2, 300);
        let line = |shard: usize| (store.shards()[shard].control().tail(), store.shards()[shard].control().committed());
        assert_eq!(line(0), line(1), "they advance alike");
        assert!(line(0).0 > 2 * ALIKE.shard_bytes as u64);
        drop(writer);
        Alike { scene: Scene::of(1, store, ledger), before, long: long.expect("it was written") }
    }

    /// The slabs that the long value's record stands in.
    fn slabs(&self) -> Range<u64> {
        self.long.start / SLAB_BYTES..(self.long.end - 1) / SLAB_BYTES + 1
    }

    /// Its bytes before and behind each place at which it can be cut, near its ends and the ends of
    /// slabs: each range lies in one slab, and among them are all that it has of each slab.
    fn parts(&self) -> Vec<Range<u64>> {
        let ends = self.slabs().map(|slab| slab * SLAB_BYTES).chain([self.long.start, self.long.end]);
        let around = |end: u64| (end.saturating_sub(8 * AROUND)..=end + 8 * AROUND).step_by(8);
        let cuts = ends.flat_map(around).filter(|cut| self.long.contains(cut) && *cut > self.long.start);
        let of_slab =
            |slab: u64| (slab * SLAB_BYTES).max(self.long.start)..((slab + 1) * SLAB_BYTES).min(self.long.end);
        let parts =
            cuts.flat_map(|cut| [cut..of_slab(cut / SLAB_BYTES).end, of_slab((cut - 8) / SLAB_BYTES).start..cut]);
        // The first word is a set's metadata, which is outside the checksum.
        parts.filter(|part| part.end > self.long.start + 8).collect()
    }

    /// In place of a part of the first shard's log: what stood there before, or what the other
    /// shard has at the same positions.
    fn misplace(&self, part: &Range<u64>, what: Misplaced) {
        let (logs, pool) = (Logs::of(&self.scene.store), self.scene.forged.pool());
        let mut changed = 0;
        for position in part.clone().step_by(8) {
            let place = logs.place(0, position).expect("it is in the log");
            let bytes = match what {
                Misplaced::Stale => self.before[place],
                Misplaced::Foreign => logs.word(1, position).load(Relaxed),
            };
            changed += u32::from(pool[place].swap(bytes, Relaxed) != bytes && position > self.long.start);
        }
        assert!(changed > 0, "{what:?} bytes at {part:?} are the right ones");
    }

    /// Show so much of the first shard's log.
    fn show_until(&self, committed: u64) {
        self.scene.forged.lines()[COMMITTED].store(committed, Relaxed);
    }

    /// Where the replica stands in the first shard.
    fn cursor(&self) -> u64 {
        self.scene.replica.shards()[0].control().committed()
    }
}

/// Keys of a shard whose names have the same length.
fn keys_of(store: &Store, shard: u32) -> Vec<usize> {
    let of_shard = |key: &usize| name_of(*key).len() == 7 && store.locate(&name_of(*key)).place.shard() == shard;
    (100..NUMBERS).filter(of_shard).take(KEYS).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Misplaced {
    Stale,
    Foreign,
}

fn step(session: &mut Session<'_>) -> Result<bool, End> {
    clock::pass(Duration::from_micros(20));
    session.step().map(|step| step.moved)
}

/// How a replica comes by misplaced bytes.
#[derive(Debug, Clone, Copy)]
struct Case {
    what: Misplaced,
    /// It has READ what stands before them when that was right.
    carried: bool,
    /// They stay there, however often they are READ.
    lasts: bool,
}

/// A part of the long value's record is not what was written: nothing of the record is applied,
/// all before it is, and the rest is once the bytes are right.
fn pull_misplaced(alike: &mut Alike, part: &Range<u64>, case: Case) {
    alike.scene.replica = replica_of(&alike.scene.store);
    let (begin, committed) = (alike.long.start, alike.scene.store.shards()[0].control().committed());
    let mut session = alike.scene.network.connect(&alike.scene.offered, &alike.scene.replica, &Faults::default());
    if case.carried {
        alike.show_until(part.start);
        go_on_until("it has read half of the record", || {
            let moved = step(&mut session).expect("nothing is wrong so far");
            !moved && session.puller.lag().bytes == part.start - begin && alike.cursor() == begin
        });
    }
    alike.misplace(part, case.what);
    alike.show_until(committed);
    let bad_records = |session: &Session<'_>| session.puller.counts().bad_records;
    // What is stale may begin like a longer record than there is yet: then more of it is awaited.
    let mut rests = 0;
    while bad_records(&session) == 0 && rests < 20 {
        rests += u32::from(!step(&mut session).expect("it is read again"));
    }
    let is_head = part.start <= begin + 8;
    assert!(bad_records(&session) == 1 || case.what == Misplaced::Stale && is_head);
    assert_eq!(alike.cursor(), begin);
    alike.scene.ledger.assert_all_written(&alike.scene.replica, NUMBERS, NOW);
    if bad_records(&session) == 1 && !case.lasts {
        alike.scene.forged.restore(&alike.scene.store);
        pull(&mut session).expect("it is right now");
        return assert_same(&alike.scene.store, &alike.scene.replica, NOW);
    }
    if bad_records(&session) == 1 {
        let ended = pull(&mut session).expect_err("it is wrong each time");
        let expected =
            matches!(ended, End::Lane(LaneEnd::BadRecord { shard: 0, position, times: 3, .. }) if position == begin);
        assert!(expected && bad_records(&session) == 3 && alike.cursor() == begin, "{ended}");
    }
    drop(session);
    pull_honest(&mut alike.scene);
}

/// In one, two and many slabs, of which one has other bytes: from its beginning, to its end, and
/// from or to each word around the ends of slabs. The record ends with a whole word of its value,
/// so that each word but the first differs.
fn a_value_of_which_one_slab_is_another(value_bytes: usize, slabs: Range<usize>) {
    let mut alike = Alike::new(value_bytes);
    assert!(slabs.contains(&alike.slabs().count()), "{:?} are {:?}", alike.long, alike.slabs());
    for part in alike.parts() {
        for what in [Misplaced::Stale, Misplaced::Foreign] {
            for (carried, lasts) in [(false, true), (true, false), (true, true)] {
                let case = Case { what, carried, lasts };
                println!("{:?}: {part:?} {case:?}", alike.long);
                pull_misplaced(&mut alike, &part, case);
            }
        }
    }
}

#[test]
fn a_value_in_one_slab() {
    a_value_of_which_one_slab_is_another(705, 1..2);
}

#[test]
fn a_value_in_two_slabs() {
    a_value_of_which_one_slab_is_another(4001, 2..3);
}

#[test]
fn a_value_in_many_slabs() {
    a_value_of_which_one_slab_is_another(14_001, 4..6);
}

/// Where the first record of the first shard begins that has bytes in a slab.
fn first_record_in(store: &Store, virtual_slab: u64) -> u64 {
    let shard = &store.shards()[0];
    let reaches = |begin: u64, bytes: usize| begin + bytes as u64 > virtual_slab * SLAB_BYTES;
    let mut walked = shard.walk(shard.control().tail());
    let first = walked.find(|(begin, record)| reaches(*begin, record.shape.record_bytes()));
    first.expect("a record in each slab").0
}

/// A table that leads to the other shard's slabs, to one of them or to all: sound records of these
/// very positions in this very term. Nothing but the shard in their seeds tells that they do not
/// belong here.
#[test]
fn a_table_that_leads_to_another_shards_slabs() {
    let mut alike = Alike::new(700);
    let line = alike.scene.store.shards()[0].control();
    let (tail, committed) = (line.tail(), line.committed());
    let slabs = tail / SLAB_BYTES..committed / SLAB_BYTES + 1;
    let cells = u64::from(alike.scene.store.memory().table_cells);
    for lies in slabs.clone().map(|slab| slab..slab + 1).chain([slabs]) {
        println!("{lies:?}");
        for virtual_slab in lies.clone() {
            let at = (virtual_slab % cells) as usize;
            let other = alike.scene.forged.tables()[cells as usize + at].load(Relaxed);
            assert_eq!(Cell::from_bits(other).virtual_slab, virtual_slab);
            alike.scene.forged.tables()[at].store(other, Relaxed);
        }
        let first = first_record_in(&alike.scene.store, lies.start);

        alike.scene.replica = replica_of(&alike.scene.store);
        let mut session = alike.scene.network.connect(&alike.scene.offered, &alike.scene.replica, &Faults::default());
        let ended = pull(&mut session).expect_err("they are another shard's");
        let End::Lane(LaneEnd::BadRecord { shard: 0, position, times: 3, why: BadRecord::Checksum }) = ended else {
            panic!("{ended}");
        };
        assert_eq!((position, session.puller.counts().bad_records), (first, 3));
        assert_eq!(alike.cursor(), first, "what stands before is applied");
        alike.scene.ledger.assert_all_written(&alike.scene.replica, NUMBERS, NOW);
        drop(session);
        pull_honest(&mut alike.scene);
    }
}
