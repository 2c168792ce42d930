//! What a store offers to a fabric: its memory as numbered regions.

use crate::fabric::Regions;
use crate::store::Store;
use crate::sys::memory::Slab;
use std::sync::Arc;

/// A store's memory as regions: 0 is the control lines, then come the slabs of each ring in order.
pub fn of(store: &Arc<Store>) -> Arc<dyn Regions> {
    Arc::new(StoreRegions(store.clone()))
}

struct StoreRegions(Arc<Store>);

impl Regions for StoreRegions {
    fn count(&self) -> usize {
        1 + self.0.slabs().count()
    }

    fn slab(&self, number: usize) -> &Slab {
        match number.checked_sub(1) {
            None => self.0.control_lines(),
            Some(number) => self.0.slabs().nth(number).expect("a region below the count"),
        }
    }
}
