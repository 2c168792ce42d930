//! What fabrics promise, held to each of them; the verbs fabric's own over a device; and what
//! stores of a cluster's map promise.

mod device;
#[path = "../support/etcd.rs"]
mod etcd;
mod fabric;
#[path = "../support/rxe.rs"]
mod rxe;
mod store;
mod verbs;
#[path = "../support/wait.rs"]
#[allow(dead_code)] // the stores' tests use a part of it
mod wait;
