//! Parts of the library by their public faces, each without the others. What needs no other file than its own is tested beside it, in src.

mod protocol;
mod store;
