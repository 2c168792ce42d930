//! Histories: clients of a primary and of its replicas record what they saw, while processes stop, die and are promoted; then it is judged whether
//! one order of writes explains all of it, and whether everything acknowledged outlived its primary.
//!
//! | file | what it has |
//! | --- | --- |
//! | event.rs | what a history is made of |
//! | search.rs, judge.rs | the checker, pure |
//! | notation.rs, accepted.rs, rejected.rs, oracle.rs | histories that it must let pass and must not, and a naive checker beside it |
//! | connection.rs, clients.rs, site.rs | recording: clients over sockets, and what they share |
//! | run.rs, faults.rs, promotions.rs | processes: runs with replicas and primaries that stop, die, are cut off, and are succeeded |
//! | kills.rs | one kill after the other, and nothing acknowledged is lost |
//! | simulated.rs, link.rs | stores and pull loops over the simulated fabric |
//!
//! Failures name their seed; `REMORA_SEED=<seed> cargo test --test history` replays it alone.

mod support;

#[path = "history/accepted.rs"]
mod accepted;
#[path = "follow/author.rs"]
#[allow(dead_code)]
mod author;
#[path = "history/clients.rs"]
mod clients;
#[path = "pull/clock.rs"]
mod clock;
#[path = "history/connection.rs"]
mod connection;
#[path = "history/event.rs"]
mod event;
#[path = "history/faults.rs"]
mod faults;
#[path = "history/judge.rs"]
mod judge;
#[path = "history/kills.rs"]
mod kills;
#[path = "history/link.rs"]
mod link;
#[path = "replication/node.rs"]
#[allow(dead_code)]
mod node;
#[path = "history/notation.rs"]
mod notation;
#[path = "history/oracle.rs"]
mod oracle;
#[path = "follow/pair.rs"]
#[allow(dead_code)]
mod pair;
#[path = "history/promotions.rs"]
mod promotions;
#[path = "replication/proxy.rs"]
#[allow(dead_code)]
mod proxy;
#[path = "history/rejected.rs"]
mod rejected;
#[path = "history/run.rs"]
mod run;
#[path = "history/search.rs"]
mod search;
#[path = "pull/session.rs"]
#[allow(dead_code)]
mod session;
#[path = "history/simulated.rs"]
mod simulated;
#[path = "history/site.rs"]
mod site;

/// `REMORA_SEED`, and the like.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}
