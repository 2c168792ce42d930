//! Whole histories within one process, without sockets, each made from a seed: what is random, late
//! or broken is so by the seed alone.
//!
//! | module | what is run |
//! | --- | --- |
//! | model | random commands through parser and engine, against a naive map; a replica follows |
//! | follow | a replica's store, and what its primary's bytes do to it |
//! | keeping | what reclaim may take, against a model with a clock |
//! | pull | the pull loop over the simulated fabric, and its push counterpart |
//! | history | what clients of several simulated nodes saw, judged; and the judge itself |
//!
//! Failures name their seed; `REMORA_SEED=<seed> cargo test --test simulated model` replays it
//! alone, as it does with the other modules. `REMORA_SEEDS=<count>` runs so many seeds instead of a
//! few.

mod author;
mod binary;
mod clock;
mod compare;
mod follow;
mod history;
mod keeping;
mod link;
mod model;
mod pair;
mod pull;
mod pullers;
mod session;
#[path = "../support/mod.rs"]
mod support;
