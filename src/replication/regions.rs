//! A store's memory as regions that a replica READs: three, whatever the store's size.

use crate::fabric::{Descriptor, Regions};
use crate::store::line::CONTROL_LINE_BYTES;
use crate::store::{Geometry, Memory, Store};
use crate::sys::memory::Memfd;
use std::sync::Arc;

/// The control lines of all shards.
pub const LINES: u32 = 0;
/// The tables of all shards: which virtual slab is where in the pool.
pub const TABLES: u32 = 1;
/// The slabs of all logs.
pub const POOL: u32 = 2;

/// The regions of a store.
pub fn of(store: &Arc<Store>) -> Arc<dyn Regions> {
    Arc::new(StoreRegions(store.clone()))
}

struct StoreRegions(Arc<Store>);

impl Regions for StoreRegions {
    fn count(&self) -> usize {
        3
    }

    fn memory(&self, number: usize) -> &Memfd {
        [self.0.control_lines(), self.0.tables(), self.0.pool().memory()][number]
    }
}

/// Check that regions which a peer describes have room for what it says of its store. Later READs
/// rely on that and check nothing more.
pub fn check(regions: &[Descriptor], geometry: &Geometry, memory: &Memory) -> Result<(), &'static str> {
    let [lines, tables, pool] = regions else {
        return Err("a grant of another number of regions than a store has");
    };
    let shards = u64::from(geometry.shards);
    // None of these products overflows: all factors but one have at most 32 bits.
    if lines.bytes < shards * CONTROL_LINE_BYTES as u64 {
        return Err("a grant with fewer control lines than shards");
    }
    if !memory.table_cells.is_power_of_two() || tables.bytes / 8 / shards < memory.table_cells.into() {
        return Err("a grant with shorter tables than it says");
    }
    if pool.bytes / geometry.slab_bytes.max(1) < memory.slabs.into() {
        return Err("a grant with fewer slabs than it says");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_are_too_short_are_refused() {
        let geometry = Geometry { shards: 4, slab_bytes: 4096, record_bytes_max: 1024, evict: true };
        let memory = Memory { slabs: 64, table_cells: 32 };
        let describe = |bytes: &[u64]| -> Vec<Descriptor> {
            bytes.iter().map(|bytes| Descriptor { address: 0, key: 0, bytes: *bytes }).collect()
        };
        let good = [256, 4 * 32 * 8, 64 * 4096];
        assert_eq!(check(&describe(&good), &geometry, &memory), Ok(()));
        for at in 0..3 {
            let mut short = good;
            short[at] -= 8;
            assert!(check(&describe(&short), &geometry, &memory).is_err(), "region {at}");
        }
        assert!(check(&describe(&good[..2]), &geometry, &memory).is_err());
        assert!(check(&describe(&good), &geometry, &Memory { table_cells: 31, ..memory }).is_err());
    }
}
