//! What a history is made of (event.rs), and who judges it (judge.rs by search.rs): pure, so that
//! it can be judged itself.

pub mod event;
pub mod judge;
pub mod search;
