//! The RDMA device of the tests that need one: they are ignored by default, and tools/soft-roce
//! runs them where there is a device.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Its address, as the variable says.
pub fn address() -> IpAddr {
    let text =
        std::env::var("REMORA_TEST_VERBS").expect("REMORA_TEST_VERBS is the address of an RDMA device's interface");
    text.parse().expect("REMORA_TEST_VERBS is an address")
}

/// For a test that counts what is registered: no other is at the device meanwhile.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
