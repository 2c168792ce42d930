//! Histories: clients of a primary and of its replicas record what they saw, while processes stop, die and are promoted; then it is judged whether
//! one order of writes explains all of it, and whether everything acknowledged outlived its primary.
//!
//! | file | what it has |
//! | --- | --- |
//! | event.rs | what a history is made of |
//! | search.rs, judge.rs | the checker, pure |
//! | notation.rs, accepted.rs, rejected.rs, oracle.rs | histories that it must let pass and must not, and a naive checker beside it |
//! | connection.rs, clients.rs, site.rs | recording: clients over sockets, and what they share |
//! | run.rs, faults.rs | processes: runs with replicas and primaries that stop, die and are cut off |
//!
//! Failures name their seed; `REMORA_SEED=<seed> cargo test --test history` replays it alone.

mod support;

#[path = "history/accepted.rs"]
mod accepted;
#[path = "history/clients.rs"]
mod clients;
#[path = "history/connection.rs"]
mod connection;
#[path = "history/event.rs"]
mod event;
#[path = "history/faults.rs"]
mod faults;
#[path = "history/judge.rs"]
mod judge;
#[path = "replication/node.rs"]
#[allow(dead_code)]
mod node;
#[path = "history/notation.rs"]
mod notation;
#[path = "history/oracle.rs"]
mod oracle;
#[path = "replication/proxy.rs"]
#[allow(dead_code)]
mod proxy;
#[path = "history/rejected.rs"]
mod rejected;
#[path = "history/run.rs"]
mod run;
#[path = "history/search.rs"]
mod search;
#[path = "history/site.rs"]
mod site;

/// `REMORA_SEED`, and the like.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}
