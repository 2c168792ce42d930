//! Histories: clients of a primary and of its replicas record what they saw, while processes stop,
//! die and are promoted; then it is judged whether one order of writes explains all of it, and
//! whether everything acknowledged outlived its primary.
//!
//! | file | what it has |
//! | --- | --- |
//! | connection.rs, clients.rs, site.rs | recording: clients over sockets, and what they share |
//! | run.rs, faults.rs, promotions.rs | processes: runs with replicas and primaries that stop, die, are cut off, and are succeeded |
//! | chains.rs | chains of kills, one after the other |
//! | kills.rs | one kill after the other, and nothing acknowledged is lost |
//! | by_shard.rs | three servers, each the primary of some shards: hand-overs under load, and kills |
//! | cluster.rs | a locator and servers at hosts of their own: they are killed, stand still and are cut off |
//! | by_shard/led.rs | three and five of them, whose roles a leader decides, with faults at every step |
//!
//! What it is judged by is in tests/support/history; tests/simulated/history has the judge judged,
//! and histories without processes.
//!
//! Failures name their seed; `REMORA_SEED=<seed> cargo test --test processes history::` replays it
//! alone.

mod by_shard;
mod chains;
mod clients;
mod cluster;
mod connection;
mod faults;
mod kills;
mod promotions;
mod run;
mod site;
