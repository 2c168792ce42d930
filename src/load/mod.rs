//! Load: makes traffic, and holds every answer against what was written.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`zipf`] | key numbers, a few of them far more often than the rest: pure |
//! | [`workload`] | which keys, which values, and whether a value is the right one: pure |
//! | [`ledger`] | the version of every key that was issued, and the last that was acknowledged |
//! | [`client`] | one connection, pipelined, every wait bounded |
//! | [`session`] | a connection with its share of the keys: requests out, answers judged |
//! | [`run`] | sessions driven by threads, closed loop |
//! | [`report`] | what was measured |

pub mod client;
pub mod ledger;
pub mod report;
pub mod run;
#[cfg(test)]
mod scripted;
pub mod session;
pub mod workload;
pub mod zipf;
