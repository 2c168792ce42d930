//! Looks that are older than the pieces that they are to vouch for. What was overwritten in between
//! fails its check: a record's checksum is that of its position. Only a set's word of metadata is
//! outside it, so metadata relies on the rule of which look vouches for which piece.

use super::run::{Run, Seen};
use super::{SLABS, is_whole, seeds};
use crate::pair::{primary, replica_of};
use crate::session::Offered;
use remora::fabric::Regions;
use remora::fabric::sim::Faults;
use remora::store::Store;
use remora::sys::memory::Memfd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A primary whose control lines are seen late, and its logs as they are.
struct Late {
    lines: Memfd,
    store: Arc<Store>,
}

impl Regions for Late {
    fn count(&self) -> usize {
        3
    }
    fn memory(&self, number: usize) -> &Memfd {
        [&self.lines, self.store.tables(), self.store.pool().memory()][number]
    }
}

impl Late {
    fn catch_up(&self) {
        let words = self.store.control_lines().words().iter().zip(self.lines.words());
        words.for_each(|(from, to)| to.store(from.load(Relaxed), Relaxed));
    }
}

#[test]
fn a_look_that_is_too_old_lets_nothing_false_in() {
    let mut seen = Seen::default();
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let store = Arc::new(primary(SLABS));
        let replica = replica_of(&store);
        let lines = Memfd::new("remora-test", store.control_lines().words().len() * 8, false).expect("a small slab");
        let late = Arc::new(Late { lines, store: store.clone() });
        let mut run = Run::new(seed, SLABS, 100, &store, &replica);
        run.offered = Offered {
            regions: late.clone(),
            histories: store.histories(),
            geometry: store.geometry(),
            memory: store.memory(),
        };
        run.faults = Faults { tear: 0.5, delay_polls_max: 1, ..Faults::default() };
        run.metadata_may_differ = true;
        late.catch_up();
        let mut reader = replica.join();
        for _ in 0..400 {
            let writes = run.random.usize(0..60);
            run.write(writes);
            if run.random.u8(0..20) == 0 {
                late.catch_up();
            }
            run.pull();
            run.ledger.look(&replica, &reader.turn(), &mut run.random, 100, run.writer.now());
        }
        late.catch_up();
        run.settle();
        run.end_session();
        run.seen.hits = run.ledger.hits;
        seen.add(&run.seen);
    }
    assert!(!is_whole() || seen.counts.bad_records > 0 && seen.counts.records > 0 && seen.hits > 0, "{seen:?}");
}
