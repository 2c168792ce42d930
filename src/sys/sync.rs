//! Atomics and locks, loom's under `--cfg loom`: every lock-free protocol of the crate takes them
//! from here, so that the very code that runs is the code that is model-checked.

#[cfg(not(loom))]
pub use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering, fence},
};

#[cfg(loom)]
pub use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering, fence},
};
