//! The epochs that a store's log has been through, and where in each log they began. A replica that
//! comes back with a cursor of an older epoch goes on from it only if that epoch had not ended
//! before the cursor.

use super::Store;
use super::line::BIRTH;
use crate::base::epoch::Epoch;
use crate::sys::sync::Mutex;

/// One epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochStart {
    /// Which.
    pub epoch: Epoch,
    /// The position in each shard's log where it begins; [`NOT_BEGUN`] where a replica has not come
    /// by it yet.
    pub begins: Vec<u64>,
}

/// In place of a position: this shard's log has not come to that epoch.
pub const NOT_BEGUN: u64 = u64::MAX;
/// Epochs that are remembered, the latest. Who asks about an older one has been away for so many
/// promotions, and rejoins from the tail.
pub const EPOCHS_MAX: usize = 64;

/// All that is remembered, oldest first.
pub(super) struct History(Mutex<Vec<EpochStart>>);

impl History {
    /// Of a store that is born, or, with [`Epoch::NONE`], of a replica's, which takes over its
    /// primary's.
    pub(super) fn new(epoch: Epoch, shards: usize) -> Self {
        let first = epoch.is_valid().then(|| EpochStart { epoch, begins: vec![BIRTH; shards] });
        History(Mutex::new(first.into_iter().collect()))
    }

    /// The latest; [`Epoch::NONE`] where there is none.
    pub(super) fn newest(&self) -> Epoch {
        self.0.lock().expect("nobody panics while holding the history").last().map_or(Epoch::NONE, |last| last.epoch)
    }

    /// Shard `shard` of `shards` begins `epoch` at `position`. Another lineage's past is nobody's
    /// any more.
    pub(super) fn note(&self, epoch: Epoch, shard: usize, shards: usize, position: u64) {
        let mut starts = self.0.lock().expect("nobody panics while holding the history");
        starts.retain(|start| start.epoch.lineage() == epoch.lineage());
        let at = starts.partition_point(|start| start.epoch < epoch);
        if starts.get(at).is_none_or(|start| start.epoch != epoch) {
            starts.insert(at, EpochStart { epoch, begins: vec![NOT_BEGUN; shards] });
        }
        starts[at].begins[shard] = position;
        forget_oldest(&mut starts);
    }
}

fn forget_oldest(starts: &mut Vec<EpochStart>) {
    starts.drain(..starts.len().saturating_sub(EPOCHS_MAX));
}

impl Store {
    /// The epochs, oldest first; the last is the one that is now. Empty in a replica that has not
    /// begun.
    pub fn epochs(&self) -> Vec<EpochStart> {
        self.history.0.lock().expect("nobody panics while holding the history").clone()
    }

    /// What the primary says of its past, in place of what was known. Of a foreign process's list
    /// only what can be is kept: valid epochs of the last one's lineage, in order, with a position
    /// for each shard. Where an epoch begins is the same for all who have it, so what the other has
    /// not come by, and this store has, is kept.
    pub fn adopt_epochs(&self, mut epochs: Vec<EpochStart>) {
        let now = epochs.last().map_or(Epoch::NONE, |last| last.epoch);
        epochs.retain(|start| {
            start.epoch.is_valid() && start.epoch.lineage() == now.lineage() && start.begins.len() == self.shards.len()
        });
        epochs.sort_by_key(|start| start.epoch);
        epochs.dedup_by_key(|start| start.epoch);
        forget_oldest(&mut epochs);
        let mut known = self.history.0.lock().expect("nobody panics while holding the history");
        for start in &mut epochs {
            let here = known.iter().find(|here| here.epoch == start.epoch);
            let begins = start.begins.iter_mut().zip(here.iter().flat_map(|here| &here.begins));
            begins.filter(|(theirs, _)| **theirs == NOT_BEGUN).for_each(|(theirs, ours)| *theirs = *ours);
        }
        *known = epochs;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_another_has_not_come_by_is_kept() {
        let geometry =
            crate::store::Geometry { shards: 2, slab_bytes: 4 << 10, record_bytes_max: 1 << 10, evict: true };
        let store = Store::with_geometry(geometry, 32, 1, false, None).unwrap();
        let start = |epoch, begins: [u64; 2]| EpochStart { epoch, begins: begins.to_vec() };
        let (first, second) = (Epoch::of(9, 1), Epoch::of(9, 2));
        store.adopt_epochs(vec![start(first, [64, 64]), start(second, [800, NOT_BEGUN])]);
        store.adopt_epochs(vec![start(second, [NOT_BEGUN, 640])]);
        assert_eq!(store.epochs(), [start(second, [800, 640])]);
        store.adopt_epochs(vec![start(Epoch::of(10, 1), [64, 64])]);
        assert_eq!(store.epochs(), [start(Epoch::of(10, 1), [64, 64])]);
    }

    #[test]
    fn each_shard_comes_to_an_epoch_in_its_own_time() {
        let first = Epoch::of(9, 1);
        let history = History::new(first, 2);
        let second = first.next().unwrap();
        history.note(second, 1, 2, 800);
        assert_eq!(history.0.lock().unwrap()[1], EpochStart { epoch: second, begins: vec![NOT_BEGUN, 800] });
        history.note(second, 0, 2, 640);
        assert_eq!(history.0.lock().unwrap()[1].begins, [640, 800]);
        let third = second.next().unwrap();
        (0..EPOCHS_MAX).fold(third, |epoch, _| {
            history.note(epoch, 0, 2, 1000);
            epoch.next().unwrap()
        });
        assert_eq!(history.0.lock().unwrap().len(), EPOCHS_MAX);
        assert_eq!(history.0.lock().unwrap()[0].epoch, third, "the oldest were forgotten");
        history.note(Epoch::of(10, 3), 0, 2, 64);
        assert_eq!(history.0.lock().unwrap().len(), 1, "another lineage begins anew");
    }
}
