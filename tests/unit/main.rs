//! Parts of the library by their public faces, each without the others. What needs no other file
//! than its own is tested beside it, in src.

mod golden;
mod lineage;
mod protocol;
mod store;
#[path = "../support/mod.rs"]
mod support;
