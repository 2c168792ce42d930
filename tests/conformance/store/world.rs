//! The stores under test, and what the demands share.

use crate::etcd;
use remora::cluster::store::{Embedded, Etcd, Lead, MapStore, StoreError, Swapped};

/// A place of a store, which locators open one after the other.
pub trait World {
    fn open(&mut self) -> Box<dyn MapStore>;
}

/// A folder.
pub struct FolderWorld(tempfile::TempDir);

impl World for FolderWorld {
    fn open(&mut self) -> Box<dyn MapStore> {
        Box::new(Embedded::open(self.0.path()).expect("a folder of our own"))
    }
}

pub fn a_folder() -> Option<FolderWorld> {
    Some(FolderWorld(tempfile::tempdir().expect("a folder")))
}

/// An etcd of its own.
pub struct EtcdWorld(pub etcd::Etcd);

/// No test comes to its end, however busy the machine.
pub const LONG_LEASE_SECONDS: u64 = 600;

impl EtcdWorld {
    pub fn locator(&self, lease_seconds: u64) -> Etcd {
        Etcd::new(vec![self.0.address.clone()], "/remora/", lease_seconds)
    }
}

impl World for EtcdWorld {
    fn open(&mut self) -> Box<dyn MapStore> {
        Box::new(self.locator(LONG_LEASE_SECONDS))
    }
}

/// None where there is no etcd.
pub fn an_etcd() -> Option<EtcdWorld> {
    etcd::Etcd::start().map(EtcdWorld)
}

/// The generation of a store that must be in charge.
pub fn in_charge(store: &mut dyn MapStore, me: &str) -> u64 {
    match store.lead(me) {
        Ok(Lead::InCharge { generation }) => generation,
        other => panic!("{me} is not in charge: {other:?}"),
    }
}

/// The revision of a write that must succeed.
pub fn written(store: &mut dyn MapStore, expected: Option<u64>, bytes: &[u8]) -> u64 {
    match store.swap(expected, bytes) {
        Ok(Swapped::Done { revision }) => revision,
        other => panic!("it is not written over {expected:?}: {other:?}"),
    }
}

/// What is kept.
pub fn kept(store: &mut dyn MapStore) -> Option<(u64, Vec<u8>)> {
    store.load().expect("it can be read").map(|stored| (stored.revision, stored.bytes))
}

pub fn is_not_in_charge(swapped: &Result<Swapped, StoreError>) -> bool {
    matches!(swapped, Err(StoreError::NotInCharge { .. }))
}
