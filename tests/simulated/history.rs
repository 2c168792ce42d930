//! Histories that need no processes: those of stores and pull loops over the simulated fabric, and
//! those written by hand to judge the judge.
//!
//! | file | what it has |
//! | --- | --- |
//! | simulated.rs, link.rs | stores and pull loops over the simulated fabric |
//! | notation.rs, accepted.rs, rejected.rs | histories that the judge (tests/support/history) must let pass, and must not |
//! | oracle.rs | a naive checker beside it |

mod accepted;
mod link;
mod notation;
mod oracle;
mod rejected;
mod simulated;
