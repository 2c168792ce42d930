//! What fabrics promise, held to each of them; and the verbs fabric's own over a device.

mod device;
mod fabric;
#[path = "../support/rxe.rs"]
mod rxe;
mod verbs;
