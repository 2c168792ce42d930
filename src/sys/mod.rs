//! What needs the operating system or `unsafe`: memory, polling, pinning, checksums, quiescence.
//! Besides fabric/verbs and fabric/shm the only place that may say `unsafe`; what it offers upwards
//! is safe.
#![allow(unsafe_code)]

pub mod allowance;
pub mod bulk;
pub mod checksum;
pub mod child;
pub mod daemon;
#[cfg(not(loom))]
pub mod foreign;
#[cfg(not(loom))]
pub mod logging;
pub mod memory;
pub mod numa;
pub mod pinning;
pub mod poll;
pub mod prefetch;
pub mod privilege;
pub mod quiescence;
pub mod random;
#[cfg(not(loom))]
pub mod reach;
pub mod receive;
pub mod send;
#[cfg(not(loom))]
pub mod signals;
pub mod sync;
pub mod words;
