//! Histories: clients of a primary and of its replicas record what they saw, while processes stop, die and are promoted; then it is judged whether
//! one order of writes explains all of it, and whether everything acknowledged outlived its primary.
//!
//! | file | what it has |
//! | --- | --- |
//! | event.rs | what a history is made of |
//! | search.rs, judge.rs | the checker, pure |
//! | notation.rs, accepted.rs, rejected.rs, oracle.rs | histories that it must let pass and must not, and a naive checker beside it |

#[path = "history/accepted.rs"]
mod accepted;
#[path = "history/event.rs"]
mod event;
#[path = "history/judge.rs"]
mod judge;
#[path = "history/notation.rs"]
mod notation;
#[path = "history/oracle.rs"]
mod oracle;
#[path = "history/rejected.rs"]
mod rejected;
#[path = "history/search.rs"]
mod search;
