//! Remora: a memcached-compatible cache whose log is the cache, the replication stream and the
//! restart image.
//!
//! The modules are the layers; each imports only from those above it (tests/tidy.rs checks it):
//!
//! | layer | what it is |
//! | --- | --- |
//! | [`base`] | clock, hash, limits: pure |
//! | [`sys`] | the only unsafe code: slabs of memory, checksum, polling, pinning, quiescence |
//! | [`protocol`] | bytes to requests, replies to bytes: pure |
//! | [`store`] | record, log, index, shard, reclaim: the log-structured cache |
//! | [`fabric`] | reading another process's memory: verbs, shared memory, TCP, simulated |
//! | [`engine`] | what each command means, over the store |
//! | [`replication`] | replicas: admitted, pulling, applying, telling how far they are |
//! | [`cluster`] | who holds which shard, and who decides: map, locator, a server's duties |
//! | [`server`] | listeners, workers, connections |
//! | [`load`] | the load generator: traffic, and answers held against what was written |
//! | [`commands`] | the subcommands of the binary: wiring only |
#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic where nobody takes what is printed

pub mod base;
// Under loom only what is model-checked is built; the rest needs real sockets and clocks.
#[cfg(not(loom))]
pub mod cluster;
#[cfg(not(loom))]
pub mod commands;
#[cfg(not(loom))]
pub mod engine;
#[cfg(not(loom))]
pub mod fabric;
#[cfg(not(loom))]
pub mod load;
#[cfg(not(loom))]
pub mod protocol;
#[cfg(not(loom))]
pub mod replication;
#[cfg(not(loom))]
pub mod server;
pub mod store;
pub mod sys;
