//! Load: makes traffic, and holds every answer against what was written.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`zipf`] | key numbers, a few of them far more often than the rest: pure |
//! | [`workload`] | which keys, which values, and whether a value is the right one: pure |
//! | [`lengths`] | how long values are: pure |
//! | [`ledger`] | the version of every key that was issued, and the last that was acknowledged |
//! | [`report`] | what was measured |
//!
//! Of `remora load`, which does not block and takes its answers as they come:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`plan`] | what a connection sends next: pure |
//! | [`question`] | commands as each protocol writes them: pure |
//! | [`schedule`] | when requests are due in an open loop: pure |
//! | [`answers`] | bytes to verdicts, however they are cut: pure |
//! | `meaning` | what a line of an answer means: pure |
//! | [`stream`] | a nonblocking socket |
//! | [`secure`] | TLS over it |
//! | [`caller`] | a connection: plan, socket, answers |
//! | [`hand`] | a thread with its connections |
//! | [`drive`] | a phase: threads, counted once a second |
//! | [`summary`] | what was measured, as table and percentile log: pure |
//! | [`json`] | the same for programs: pure |
//! | [`html`] | the same as a page with charts: pure |
//!
//! Of the demo, which asks more kinds of questions, in batches:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`client`] | one connection, pipelined, every wait bounded |
//! | [`session`] | a connection with its share of the keys: requests out, answers judged |
//! | [`run`] | sessions driven by threads, closed loop |

pub mod answers;
pub mod caller;
pub mod client;
pub mod drive;
pub mod hand;
pub mod html;
pub mod json;
pub mod ledger;
pub mod lengths;
mod meaning;
pub mod plan;
pub mod question;
pub mod report;
pub mod run;
pub mod schedule;
#[cfg(test)]
mod scripted;
pub mod secure;
pub mod session;
pub mod stream;
pub mod summary;
pub mod workload;
pub mod zipf;
