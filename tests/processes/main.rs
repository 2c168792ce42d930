//! The program as a process, with sockets, signals and peers: each test starts what it needs, on
//! ports of the kernel's choice, and ends it. Waits are bounded, generously: nothing here judges
//! how long something took.

mod cluster;
mod crowds;
mod demo;
mod history;
mod hostile;
mod kill;
mod load;
#[path = "../interop/memcached.rs"]
mod memcached;
mod node;
mod process;
mod proxy;
mod replicas;
mod replication;
mod report;
#[path = "../support/rxe.rs"]
mod rxe;
mod server;
#[path = "../support/mod.rs"]
mod support;
